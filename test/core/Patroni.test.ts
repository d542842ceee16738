/** Patroni's REST API as it may answer, on a real HTTP server; what the SQL server says is given. */
import { createServer, type Server, type ServerResponse } from "node:http"
import { NodeHttpClient } from "@effect/platform-node"
import { assert, describe, it } from "@effect/vitest"
import { Deferred, Effect, Either, Fiber, Logger, Option, TestClock } from "effect"
import type { Dialect } from "effect-failover"
import { Host } from "effect-failover"
import { SessionError } from "effect-failover/Connector"
import * as Patroni from "effect-failover/dialects/Patroni"
import { expectNothingUnhandled } from "../support/unhandled.js"

expectNothingUnhandled()

interface Reply {
  readonly status?: number
  /** Text as it is, anything else as JSON. */
  readonly body?: unknown
}

/** `silence` never answers, `reset` hangs up. */
type Route = Reply | "silence" | "reset"

/** May be changed while it serves. */
interface Routes {
  cluster: Route
  patroni?: Route
}

interface Api {
  readonly url: string
  readonly port: number
  readonly requests: Array<string>
  /** Ends with the first request. */
  readonly asked: Deferred.Deferred<void>
}

const answer = (response: ServerResponse, route: Route): void => {
  if (route === "silence") return
  if (route === "reset") return void response.destroy()
  const { body = "", status = 200 } = route
  response.writeHead(status, { "content-type": "application/json" })
  response.end(typeof body === "string" ? body : JSON.stringify(body))
}

const serve = (routes: Routes) =>
  Effect.gen(function* () {
    const asked = yield* Deferred.make<void>()
    const requests: Array<string> = []
    const server = yield* Effect.acquireRelease(
      Effect.async<Server>((resume) => {
        const server = createServer((request, response) => {
          requests.push(request.url ?? "")
          Deferred.unsafeDone(asked, Effect.void)
          const routeOf = request.url === "/cluster" ? routes.cluster : routes.patroni
          answer(response, routeOf ?? { status: 404 })
        })
        server.listen(0, "127.0.0.1", () => resume(Effect.succeed(server)))
      }),
      (server) =>
        Effect.async<void>((resume) => {
          server.close(() => resume(Effect.void))
          server.closeAllConnections()
        })
    )
    const address = server.address()
    const port = typeof address === "object" ? (address?.port ?? 0) : 0
    return { url: `http://127.0.0.1:${port}`, port, requests, asked } satisfies Api
  })

/** What a server says by SQL. */
interface Told {
  readonly isInRecovery?: boolean
  readonly timeline?: number
  readonly ownHost?: string
  readonly cluster?: string
  readonly startedAt?: string
}

const STARTED = "2024-05-01 12:00:00.123456+00:00"

const query =
  ({
    cluster = "batman",
    isInRecovery = false,
    ownHost,
    startedAt = "2024-05-01T12:00:00.123Z",
    timeline = 3
  }: Told): Dialect.Query =>
  () =>
    Effect.succeed([
      [
        isInRecovery,
        isInRecovery ? null : `${timeline.toString(16).padStart(8, "0")}0000000000000004`,
        "started once",
        ownHost ?? null,
        ownHost === undefined ? null : "5432",
        cluster,
        String(Date.parse(startedAt))
      ]
    ])

const probedHost = Host.make({ host: "127.0.0.1", port: 5432 })

const observe = (
  dialect: Dialect.Dialect,
  told: Told | Dialect.Query = {},
  context: Partial<Dialect.Context> = {}
) =>
  dialect.observe(typeof told === "function" ? told : query(told), {
    probed: probedHost,
    hostOf: () => Either.right(probedHost),
    hostAt: Option.some,
    seeds: [probedHost],
    ...context
  })

const make = (options: Patroni.Options) =>
  Effect.provide(Patroni.make(options), NodeHttpClient.layer)

/** This server under its own address, and a replica. */
const leader = { name: "pg-1", role: "leader", host: "127.0.0.1", port: 5432, timeline: 3 }
const replica = { name: "pg-2", role: "replica", host: "10.0.0.2", port: 5433, timeline: 3 }
const listOf = (...members: ReadonlyArray<object>) => ({
  body: { scope: "batman", members }
})
const healthy = listOf(leader, replica)

/** A dialect whose only API answers like this. */
const answering = (routes: Routes, options: Patroni.Options = {}) =>
  Effect.gen(function* () {
    const api = yield* serve(routes)
    return { api, dialect: yield* make({ port: api.port, ...options }) }
  })

const observing = (routes: Routes, told: Told = {}, context: Partial<Dialect.Context> = {}) =>
  Effect.flatMap(answering(routes), ({ dialect }) => observe(dialect, told, context))

const idsOf = (members: ReadonlyArray<{ readonly host: Host.Host }> | undefined) =>
  members?.map(({ host }) => `${host.id} ${Host.address(host)}`)

describe("Patroni", () => {
  describe("two witnesses", () => {
    it.scoped(
      "the leader on the list that takes writes is the writer, and its timeline the epoch",
      () =>
        Effect.gen(function* () {
          const seen = yield* observing({ cluster: healthy })
          assert.deepStrictEqual(
            { role: seen.role, epoch: seen.serverEpoch, host: seen.host.id, isWhole: seen.isWhole },
            { role: "writer", epoch: 3n, host: "pg-1", isWhole: true }
          )
          assert.deepStrictEqual(
            seen.members?.map(({ host, lagMillis, role }) => [host.id, role, lagMillis]),
            [
              ["pg-1", "writer", undefined],
              ["pg-2", "reader", undefined]
            ]
          )
        })
    )

    it.scoped("a leader that is not promoted yet is a reader", () =>
      Effect.gen(function* () {
        const seen = yield* observing({ cluster: healthy }, { isInRecovery: true })
        assert.strictEqual(seen.role, "reader")
        assert.strictEqual(seen.host.id, "pg-1")
      })
    )

    it.scoped("a server that takes writes while another one is the leader is a reader", () =>
      Effect.gen(function* () {
        const cluster = listOf({ ...leader, role: "replica" }, { ...replica, role: "leader" })
        assert.strictEqual((yield* observing({ cluster })).role, "reader")
      })
    )

    it.scoped("a server that has left the list while another one is the leader is a reader", () =>
      Effect.gen(function* () {
        const routes = { cluster: healthy }
        const { dialect } = yield* answering(routes)
        assert.strictEqual((yield* observe(dialect)).role, "writer")
        routes.cluster = listOf({ ...replica, role: "leader" })
        const seen = yield* observe(dialect)
        assert.deepStrictEqual([seen.role, seen.host.id], ["reader", "pg-1"])
      })
    )

    it.scoped("a leader of a newer timeline rules a server out, whichever it is", () =>
      Effect.gen(function* () {
        const cluster = listOf({ ...replica, role: "leader", timeline: 4 })
        assert.strictEqual((yield* observing({ cluster }, { timeline: 3 })).role, "reader")
        const itself = listOf({ ...leader, timeline: 4 })
        assert.strictEqual((yield* observing({ cluster: itself }, { timeline: 3 })).role, "reader")
      })
    )

    it.scoped(
      "the list may lag behind a promotion: an older timeline of the leader rules nobody out",
      () =>
        Effect.gen(function* () {
          assert.strictEqual(
            (yield* observing({ cluster: healthy }, { timeline: 4 })).role,
            "writer"
          )
        })
    )
  })

  describe("nobody is the leader", () => {
    const unlocked = listOf({ ...leader, role: "replica" }, replica)
    const status = { patroni: { scope: "batman" }, postmaster_start_time: STARTED }

    it.scoped("there is no writer", () =>
      Effect.gen(function* () {
        const seen = yield* observing({ cluster: unlocked, patroni: { body: status } })
        assert.strictEqual(seen.role, "reader")
      })
    )

    it.scoped("of a paused cluster: the server's word decides", () =>
      Effect.gen(function* () {
        const cluster = { body: { ...unlocked.body, pause: true } }
        assert.strictEqual((yield* observing({ cluster })).role, "writer")
      })
    )

    it.scoped("while failsafe mode is active on this server: its word decides", () =>
      Effect.gen(function* () {
        const patroni = { body: { ...status, failsafe_mode_is_active: true } }
        assert.strictEqual((yield* observing({ cluster: unlocked, patroni })).role, "writer")
        const another = {
          body: { ...patroni.body, postmaster_start_time: "2024-05-01 11:00:00.000001+00:00" }
        }
        const seen = yield* observing({ cluster: unlocked, patroni: another })
        assert.strictEqual(seen.role, "reader")
      })
    )
  })

  describe("versions and forms", () => {
    for (const [role, expected] of [
      ["leader", "writer"],
      ["master", "writer"],
      ["primary", "writer"],
      ["standby_leader", "reader"],
      ["sync_standby", "reader"],
      ["quorum_standby", "reader"],
      ["replica", "reader"],
      ["toString", "unknown"]
    ] as const) {
      it.scoped(`the role ${role} is a ${expected}`, () =>
        Effect.gen(function* () {
          const cluster = listOf({ ...leader, role })
          const seen = yield* observing({ cluster })
          assert.strictEqual(seen.members?.[0]?.role, expected)
          assert.strictEqual(seen.role, expected === "writer" ? "writer" : "reader")
        })
      )
    }

    it.scoped("before 3.2, the cluster's name is that of the node's status", () =>
      Effect.gen(function* () {
        const cluster = { body: { members: [leader, replica] } }
        const patroni = { body: { patroni: { scope: "batman" } } }
        assert.strictEqual((yield* observing({ cluster, patroni })).role, "writer")
      })
    )

    it.scoped("members have IPv6 addresses, with brackets or without, and names in any case", () =>
      Effect.gen(function* () {
        const seen = yield* observing({
          cluster: listOf(
            leader,
            { ...replica, host: "fd00::2" },
            { ...replica, name: "pg-3", host: "[FD00::3]", port: 5434 },
            { ...replica, name: "pg-4", host: "DB-4.Internal." }
          )
        })
        assert.deepStrictEqual(idsOf(seen.members), [
          "pg-1 127.0.0.1:5432",
          "pg-2 [fd00::2]:5433",
          "pg-3 [fd00::3]:5434",
          "pg-4 db-4.internal:5433"
        ])
      })
    )

    it.scoped("a server on IPv6 is asked at its address in brackets", () =>
      Effect.gen(function* () {
        const probed = Host.make({ host: "::1", port: 5432 })
        const { api, dialect } = yield* answering({ cluster: healthy })
        const seen = yield* observe(dialect, {}, { probed })
        // Nothing listens there; it is no URL that cannot be asked.
        assert.strictEqual(seen.members, undefined)
        assert.deepStrictEqual(api.requests, [])
      })
    )

    it.scoped(
      "a member without a host is none, and the list not the whole; one without a port has 5432",
      () =>
        Effect.gen(function* () {
          const seen = yield* observing({
            cluster: listOf(
              leader,
              {
                name: "pg-2",
                role: "replica",
                state: "creating replica",
                lag: "unknown",
                host: null
              },
              { name: "pg-3", role: "replica", host: "10.0.0.3", timeline: null, tags: {} }
            )
          })
          assert.deepStrictEqual(idsOf(seen.members), ["pg-1 127.0.0.1:5432", "pg-3 10.0.0.3:5432"])
          assert.isFalse(seen.isWhole)
        })
    )
  })

  describe("which member a server is", () => {
    const byAddress = { ...leader, host: "10.0.0.1" }
    const cluster = listOf(byAddress, replica)
    const statusAt = (started: string) => ({
      body: { patroni: { scope: "batman", name: "pg-1" }, postmaster_start_time: started }
    })

    it.scoped("the one that the server itself is at", () =>
      Effect.gen(function* () {
        const seen = yield* observing({ cluster }, { ownHost: "10.0.0.1" })
        assert.deepStrictEqual([seen.role, Host.address(seen.host)], ["writer", "10.0.0.1:5432"])
        assert.deepStrictEqual(seen.probed, probedHost)
      })
    )

    it.scoped("the one that the API of this server names", () =>
      Effect.gen(function* () {
        const seen = yield* observing({ cluster, patroni: statusAt(STARTED) })
        assert.deepStrictEqual([seen.role, Host.address(seen.host)], ["writer", "10.0.0.1:5432"])
      })
    )

    it.scoped("none, if that API belongs to a server that was started at another time", () =>
      Effect.gen(function* () {
        const patroni = statusAt("2024-05-01 12:00:00.125456+00:00")
        const seen = yield* observing({ cluster, patroni })
        // Nothing says that it is not the leader; the members may be other names of the seeds.
        assert.deepStrictEqual([seen.role, seen.host], ["writer", probedHost])
        assert.strictEqual(seen.members, undefined)
      })
    )

    it.scoped("a server that is none and not the writer still leads to the members", () =>
      Effect.gen(function* () {
        const members = listOf(
          { ...byAddress, role: "replica" },
          { ...replica, role: "leader", timeline: 4 }
        )
        for (const told of [{ isInRecovery: true }, { timeline: 3 }]) {
          const seen = yield* observing({ cluster: members }, told)
          assert.deepStrictEqual(
            [seen.role, seen.host, seen.isWhole],
            ["reader", probedHost, false]
          )
          assert.deepStrictEqual(idsOf(seen.members), ["pg-1 10.0.0.1:5432", "pg-2 10.0.0.2:5433"])
        }
      })
    )

    it.scoped("the one that it was before, while Patroni is silent", () =>
      Effect.gen(function* () {
        const routes: Routes = { cluster, patroni: statusAt(STARTED) }
        const { dialect } = yield* answering(routes)
        yield* observe(dialect)
        routes.cluster = { status: 503 }
        const seen = yield* observe(dialect)
        assert.deepStrictEqual([seen.role, Host.address(seen.host)], ["writer", "10.0.0.1:5432"])
      })
    )

    it.scoped("not the one that it was before, if its address leads to another server now", () =>
      Effect.gen(function* () {
        const routes: Routes = { cluster, patroni: statusAt(STARTED) }
        const { dialect } = yield* answering(routes)
        yield* observe(dialect)
        routes.cluster = listOf({ ...byAddress, role: "replica" }, { ...replica, role: "leader" })
        routes.patroni = {
          body: {
            patroni: { scope: "batman", name: "pg-2" },
            postmaster_start_time: "2024-05-02 00:00:00+00:00"
          }
        }
        const seen = yield* observe(dialect, { startedAt: "2024-05-02T00:00:00Z" })
        assert.deepStrictEqual([seen.role, Host.address(seen.host)], ["writer", "10.0.0.2:5433"])
      })
    )

    it.scoped("members are reached where the configuration says", () =>
      Effect.gen(function* () {
        const seen = yield* observing(
          { cluster },
          {},
          {
            hostAt: ({ host, id, port }) =>
              host === "10.0.0.1"
                ? Option.some(Host.make({ id, host: "127.0.0.1", port }))
                : Option.none()
          }
        )
        assert.deepStrictEqual([seen.role, seen.host.id], ["writer", "pg-1"])
        assert.deepStrictEqual(idsOf(seen.members), ["pg-1 127.0.0.1:5432"])
        assert.isFalse(seen.isWhole)
      })
    )
  })

  describe("an API that cannot be believed: the server's word decides, and nobody else is a member", () => {
    const nonsense: Readonly<Record<string, Routes>> = {
      "no JSON": { cluster: { body: "leader: pg-1" } },
      "an empty body": { cluster: { body: "" } },
      HTML: { cluster: { body: "<!doctype html><title>Sign in</title>" } },
      "JSON of another kind": { cluster: { body: ["pg-1"] } },
      "no members": { cluster: { body: {} } },
      "a port out of range": { cluster: listOf({ ...leader, port: 70_000 }) },
      "a timeline that is no number": { cluster: listOf({ ...leader, timeline: "three" }) },
      "a member without a name": { cluster: listOf({ ...leader, name: undefined }) },
      "503": { cluster: { ...healthy, status: 503 } },
      "401": { cluster: { status: 401, body: "no auth header received" } },
      "a redirect": { cluster: { status: 302, body: "" } },
      "a connection that is hung up on": { cluster: "reset" },
      "the list of another cluster": { cluster: { body: { scope: "robin", members: [replica] } } },
      "the list of another cluster, before 3.2": {
        cluster: { body: { members: [{ ...replica, role: "leader", timeline: 9 }] } },
        patroni: { body: { patroni: { scope: "robin" } } }
      },
      "a list of nobody knows which cluster": {
        cluster: { body: { members: [{ ...replica, role: "leader", timeline: 9 }] } }
      }
    }
    for (const [name, routes] of Object.entries(nonsense)) {
      it.scoped(name, () =>
        Effect.gen(function* () {
          const seen = yield* observing(routes)
          assert.deepStrictEqual(
            [seen.role, seen.serverEpoch, seen.host, seen.members],
            ["writer", 3n, probedHost, undefined]
          )
          const standby = yield* observing(routes, { isInRecovery: true })
          assert.deepStrictEqual([standby.role, standby.members], ["reader", undefined])
        })
      )
    }

    it.scoped("one that never answers is given up after the timeout", () =>
      Effect.gen(function* () {
        const { api, dialect } = yield* answering({ cluster: "silence" }, { timeout: "2 seconds" })
        const fiber = yield* Effect.fork(observe(dialect))
        yield* Deferred.await(api.asked)
        yield* TestClock.adjust("1999 millis")
        assert.isNull(fiber.unsafePoll())
        yield* TestClock.adjust("1 millis")
        assert.strictEqual((yield* Fiber.join(fiber)).role, "writer")
      })
    )

    it.scoped("a probe that is given up gives the request up as well", () =>
      Effect.gen(function* () {
        const { api, dialect } = yield* answering({ cluster: "silence" })
        const fiber = yield* Effect.fork(observe(dialect))
        yield* Deferred.await(api.asked)
        yield* Fiber.interrupt(fiber)
      })
    )
  })

  describe("several APIs", () => {
    it.scoped("the next ones are asked at once when the first one fails", () =>
      Effect.gen(function* () {
        const broken = yield* serve({ cluster: { status: 500 } })
        const whole = yield* serve({ cluster: healthy })
        const dialect = yield* make({ urls: [broken.url, `${whole.url}/`] })
        assert.strictEqual((yield* observe(dialect)).host.id, "pg-1")
      })
    )

    it.scoped("... after half of the time when it is silent", () =>
      Effect.gen(function* () {
        const mute = yield* serve({ cluster: "silence" })
        const whole = yield* serve({ cluster: healthy })
        const dialect = yield* make({ urls: [mute.url, whole.url], timeout: "2 seconds" })
        const fiber = yield* Effect.fork(observe(dialect))
        yield* Deferred.await(mute.asked)
        yield* TestClock.adjust("999 millis")
        assert.deepStrictEqual(whole.requests, [])
        yield* TestClock.adjust("1 millis")
        assert.strictEqual((yield* Fiber.join(fiber)).host.id, "pg-1")
      })
    )

    it.scoped("... and not at all while the first one answers", () =>
      Effect.gen(function* () {
        const first = yield* serve({ cluster: healthy })
        const second = yield* serve({ cluster: healthy })
        yield* observe(yield* make({ urls: [first.url, second.url] }))
        assert.deepStrictEqual([first.requests, second.requests], [["/cluster"], []])
      })
    )

    it.scoped("the other members' APIs are known from the list", () =>
      Effect.gen(function* () {
        const other = yield* serve({ cluster: healthy })
        const routes: Routes = {
          cluster: listOf(leader, { ...replica, api_url: `${other.url}/patroni` })
        }
        const { dialect } = yield* answering(routes)
        yield* observe(dialect)
        assert.deepStrictEqual(other.requests, [])
        routes.cluster = "reset"
        assert.isDefined((yield* observe(dialect)).members)
        assert.deepStrictEqual(other.requests, ["/cluster"])
      })
    )
  })

  describe("how often Patroni is asked", () => {
    it.scoped("a yes holds for a second on one connection", () =>
      Effect.gen(function* () {
        const { api, dialect } = yield* answering({ cluster: healthy })
        const line = query({})
        for (let i = 0; i < 3; i++) {
          const seen = yield* observe(dialect, line)
          assert.deepStrictEqual([seen.role, seen.members?.length], ["writer", 2])
        }
        assert.strictEqual(api.requests.length, 1)
        yield* TestClock.adjust("1 second")
        yield* observe(dialect, line)
        assert.strictEqual(api.requests.length, 2)
        yield* observe(dialect, query({}))
        assert.strictEqual(api.requests.length, 3)
      })
    )

    it.scoped("a no is asked about every time", () =>
      Effect.gen(function* () {
        const routes: Routes = { cluster: listOf(leader, replica) }
        const { api, dialect } = yield* answering(routes)
        routes.cluster = listOf({ ...leader, role: "replica" }, { ...replica, role: "leader" })
        const line = query({})
        assert.strictEqual((yield* observe(dialect, line)).role, "reader")
        routes.cluster = healthy
        assert.strictEqual((yield* observe(dialect, line)).role, "writer")
        assert.strictEqual(api.requests.length, 2)
      })
    )

    it.scoped("a server whose role has changed is asked about at once", () =>
      Effect.gen(function* () {
        const { api, dialect } = yield* answering({ cluster: healthy })
        let told: Told = { isInRecovery: true }
        const line: Dialect.Query = (sql) => query(told)(sql)
        assert.strictEqual((yield* observe(dialect, line)).role, "reader")
        told = { timeline: 4 }
        assert.strictEqual((yield* observe(dialect, line)).role, "writer")
        assert.strictEqual(api.requests.length, 2)
      })
    )
  })

  it.scoped("one warning when Patroni falls silent, one line when it answers again", () =>
    Effect.gen(function* () {
      const lines: Array<string> = []
      const logger = Logger.make(({ logLevel, message }) => {
        lines.push(`${logLevel.label} ${String(message)}`)
      })
      const routes: Routes = { cluster: { status: 503 } }
      yield* Effect.gen(function* () {
        const { api, dialect } = yield* answering(routes)
        yield* observe(dialect)
        yield* observe(dialect)
        routes.cluster = healthy
        yield* observe(dialect)
        yield* observe(dialect)
        assert.deepStrictEqual(lines, [
          `WARN Patroni of batman does not tell its members, so each server's own word decides: ${api.url}/cluster answers with the status 503`,
          "INFO Patroni of batman answers again"
        ])
      }).pipe(Effect.provide(Logger.replace(Logger.defaultLogger, logger)))
    })
  )

  it.scoped("a connection that fails is a failure, whatever Patroni says", () =>
    Effect.gen(function* () {
      const { api, dialect } = yield* answering({ cluster: healthy })
      const error = new SessionError({ cause: new Error("reset"), fate: "Unanswered" })
      const failed = yield* Effect.flip(observe(dialect, () => Effect.fail(error)))
      assert.strictEqual(failed, error)
      const empty = yield* Effect.flip(observe(dialect, () => Effect.succeed([])))
      assert.strictEqual(empty._tag, "SessionError")
      assert.deepStrictEqual(api.requests, [])
    })
  )

  describe("options that cannot be used", () => {
    const invalid: ReadonlyArray<readonly [field: string, options: Patroni.Options]> = [
      ["port", { port: 0 }],
      ["port", { port: 8008.5 }],
      ["urls", { urls: [] }],
      ["urls", { urls: ["db-1.internal:8008"] }],
      ["urls", { urls: ["db-1.internal"] }],
      ["urls", { urls: ["http://db-1.internal:8008/?a=b"] }],
      ["urls", { urls: ["http://admin:secret@db-1.internal:8008"] }],
      ["timeout", { timeout: 0 }],
      ["timeout", { timeout: "Infinity" as "1 second" }],
      ["scheme", { scheme: "ftp" as "http" }]
    ]
    for (const [field, options] of invalid) {
      it.effect(`${JSON.stringify(options)}`, () =>
        Effect.gen(function* () {
          const error = yield* Effect.flip(make(options))
          assert.strictEqual(error.field, field)
          assert.notInclude(error.message, "secret")
        })
      )
    }
  })
})
