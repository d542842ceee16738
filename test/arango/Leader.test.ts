/** Points 21 to 31 of the conformance list: followers, elections, and whom a header may name. */
import { HttpBody } from "@effect/platform"
import { assert, describe, it } from "@effect/vitest"
import { Duration, Effect, Fiber, Redacted } from "effect"
import * as ArangoDouble from "effect-failover/testing/ArangoDouble"
import { Failover } from "effect-failover"
import { eventually } from "../support/waiting.js"
import { asked, collection, connect, create, failure, transports } from "./support.js"

const { Fault } = ArangoDouble

const activeFailover = (options: ArangoDouble.Options = {}) =>
  Effect.tap(ArangoDouble.make(options), (double) => collection(double))

/** The nodes of a deployment of three. */
const three = (double: ArangoDouble.ArangoDouble) => {
  const [a, b, c] = double.nodes
  if (b === undefined || c === undefined) throw new Error("three nodes were asked for")
  return [a, b, c] as const
}

const two = (double: ArangoDouble.ArangoDouble) => {
  const [a, b] = double.nodes
  if (b === undefined) throw new Error("two nodes were asked for")
  return [a, b] as const
}

const backwards = (double: ArangoDouble.ArangoDouble) => [...double.endpoints].reverse()

describe("a follower refuses", () => {
  for (const [name, transport] of Object.entries(transports)) {
    it.scopedLive(
      `points 21, 22 and 30: a POST goes on to the leader with its body, over ${name}`,
      () =>
        Effect.gen(function* () {
          const double = yield* activeFailover()
          const [leader] = two(double)
          const { client } = yield* connect(backwards(double), {}, transport)
          assert.strictEqual((yield* create(client, "a")).status, 202)
          assert.deepStrictEqual(
            (yield* double.documents(leader, "items")).map((_) => _._key),
            ["a"]
          )
          assert.deepStrictEqual(yield* asked(double), ["SNGL-2", "SNGL-1"])
        })
    )
  }

  it.scopedLive("point 21: without a header, the next endpoint is asked", () =>
    Effect.gen(function* () {
      const double = yield* activeFailover({ nodes: 3 })
      const [, b, c] = three(double)
      yield* double.setLeaderHeader(b, "")
      yield* double.setLeaderHeader(c, "")
      const { client } = yield* connect(backwards(double))
      assert.strictEqual((yield* create(client, "a")).status, 202)
      assert.deepStrictEqual(yield* asked(double), ["SNGL-3", "SNGL-2", "SNGL-1"])
    })
  )

  it.scopedLive("point 22: the header's forms are understood, on IPv6 too", () =>
    Effect.gen(function* () {
      const double = yield* activeFailover({ nodes: 3, hosts: ["::1", "127.0.0.1"] })
      const [leader, , third] = three(double)
      for (const header of [
        leader.url,
        `tcp://[::1]:${leader.port}`,
        `HTTP://[0:0:0:0:0:0:0:1]:${leader.port}/`,
        `[::1]:${leader.port}`
      ]) {
        yield* double.clearLog
        yield* double.setLeaderHeader(third, header)
        const { client } = yield* connect(backwards(double))
        yield* create(client, `under ${header.length}`)
        assert.deepStrictEqual(yield* asked(double), ["SNGL-3", "SNGL-1"])
      }
    })
  )

  it.scopedLive("point 29: the next request goes to the leader at once", () =>
    Effect.gen(function* () {
      const double = yield* activeFailover({ nodes: 3 })
      const { client } = yield* connect(backwards(double))
      yield* create(client, "a")
      yield* create(client, "b")
      assert.deepStrictEqual(yield* asked(double), ["SNGL-3", "SNGL-1", "SNGL-1"])
    })
  )

  it.scopedLive("point 27: a dead leader that it names is passed over for the others", () =>
    Effect.gen(function* () {
      const double = yield* activeFailover({ nodes: 3 })
      const [a, b, c] = three(double)
      yield* double.kill(a)
      yield* double.promote(b)
      yield* double.setLeaderHeader(c, a.url)
      const { client } = yield* connect([c.url, a.url, b.url])
      assert.strictEqual((yield* create(client, "x")).status, 202)
      assert.deepStrictEqual(yield* asked(double), ["SNGL-3", "SNGL-2"])
    })
  )

  it.scopedLive("point 25: a server that nobody but the header names gets nothing", () =>
    Effect.gen(function* () {
      const double = yield* activeFailover({ nodes: 3 })
      const stranger = yield* ArangoDouble.make({ deployment: "single" })
      const [a, , c] = three(double)
      yield* double.setLeaderHeader(c, stranger.endpoints[0])
      const { client } = yield* connect([c.url, a.url], { auth: { method: "basic" } })
      assert.strictEqual((yield* create(client, "x")).status, 202)
      assert.lengthOf(yield* stranger.log, 0)
    })
  )

  it.scopedLive("point 25: unless the client may trust it", () =>
    Effect.gen(function* () {
      const double = yield* activeFailover()
      const [a, b] = two(double)
      const { client, endpoints } = yield* connect([b.url], { trustLeaderHeader: true })
      assert.strictEqual((yield* create(client, "x")).status, 202)
      yield* create(client, "y")
      assert.deepStrictEqual(yield* asked(double), ["SNGL-2", "SNGL-1", "SNGL-1"])
      assert.deepStrictEqual(
        (yield* endpoints).map((_) => _.port),
        [b.port, a.port]
      )
    })
  )

  it.scopedLive("a leader's internal name is translated", () =>
    Effect.gen(function* () {
      const double = yield* activeFailover({ nodes: 3 })
      const [a, b, c] = three(double)
      yield* double.setLeaderHeader(c, "tcp://arango-1.internal:8529")
      const { client } = yield* connect([c.url, b.url, a.url], {
        translateEndpoint: (_) => (_.includes("arango-1") ? a.url : _)
      })
      yield* create(client, "x")
      assert.deepStrictEqual(yield* asked(double), ["SNGL-3", "SNGL-1"])
    })
  )

  it.scopedLive("point 28: 401 and 404 of a follower are not the leader's", () =>
    Effect.gen(function* () {
      const auth = { username: "root", password: "secret" }
      const double = yield* ArangoDouble.make({ nodes: 2, auth })
      const [, follower] = two(double)
      yield* double.setUserKnown(follower, false)
      const { client } = yield* connect(backwards(double), {
        auth: { method: "basic", password: Redacted.make("secret") }
      })
      const response = yield* client.get("/_api/collection")
      assert.strictEqual(response.status, 200)
      assert.deepStrictEqual(yield* asked(double), ["SNGL-2", "SNGL-1"])
      const open = yield* activeFailover()
      yield* open.setReplicating(false)
      const again = yield* connect(backwards(open))
      yield* again.client.post("/_api/collection", {
        body: HttpBody.unsafeJson({ name: "fresh" })
      })
      const other = yield* connect(backwards(open))
      assert.strictEqual((yield* other.client.get("/_api/collection/fresh")).status, 200)
    })
  )

  it.scopedLive("point 24: told not to follow, its refusal is an answer like others", () =>
    Effect.gen(function* () {
      const double = yield* activeFailover()
      const { client } = yield* connect(backwards(double), { followLeader: false })
      const response = yield* create(client, "a")
      assert.strictEqual(response.status, 503)
      assert.strictEqual(((yield* response.json) as any).errorNum, 1496)
      assert.deepStrictEqual(yield* asked(double), ["SNGL-2"])
    })
  )

  it.scopedLive("whether a server is available is asked of that server", () =>
    Effect.gen(function* () {
      const double = yield* activeFailover()
      const { client } = yield* connect(backwards(double))
      const response = yield* client.get("/_db/_system/_admin/server/availability")
      assert.strictEqual(response.status, 503)
      assert.deepStrictEqual(yield* asked(double), ["SNGL-2"])
    })
  )
})

describe("nobody leads", () => {
  it.scopedLive(
    "point 23: during an election a request waits, and is served by the new leader",
    () =>
      Effect.gen(function* () {
        const double = yield* activeFailover()
        const [leader, follower] = two(double)
        yield* double.kill(leader)
        yield* double.setMode(follower, "election")
        const { client } = yield* connect(double.endpoints)
        const fiber = yield* Effect.fork(create(client, "a"))
        yield* eventually(
          "three refusals",
          Effect.map(double.log, (_) => _.length >= 3)
        )
        yield* double.promote(follower)
        assert.strictEqual((yield* Fiber.join(fiber)).status, 202)
        assert.lengthOf(yield* double.documents(follower, "items"), 1)
      })
  )

  it.scopedLive("point 26: two followers that name each other: a clear error, in time", () =>
    Effect.gen(function* () {
      const double = yield* activeFailover()
      const [a, b] = two(double)
      yield* double.setMode(a, "follower")
      yield* double.setLeaderHeader(a, b.url)
      yield* double.setLeaderHeader(b, a.url)
      const { client } = yield* connect(double.endpoints, { failoverTimeout: "500 millis" })
      const error = yield* create(client, "x").pipe(Failover.outcomes, Effect.flip)
      assert.strictEqual(error._tag, "FailoverFailed")
      if (error._tag !== "FailoverFailed") return
      assert.strictEqual(error.reason, "Timeout")
      assert.strictEqual(error.outcome, "NotExecuted")
      assert.isBelow(Duration.toMillis(error.elapsed), 5_000)
      assert.include(error.message, `127.0.0.1:${a.port}: not a leader, names ${b.url}`)
      // A pause lies between two passes: 10 ms at first, some 190 ms later.
      assert.isBelow((yield* double.log).length, 40)
    })
  )

  it.scopedLive("point 31: maintenance, shutdown and a full queue send a request elsewhere", () =>
    Effect.gen(function* () {
      const double = yield* ArangoDouble.make({ deployment: "cluster", nodes: 2 })
      yield* collection(double)
      const [a] = two(double)
      const refusals = [
        double.setMode(a, "maintenance"),
        double.setMode(a, "stopping"),
        Effect.zipRight(
          double.setMode(a, "default"),
          double.setFault(a, Fault.Answer({ status: 503, errorNum: 21003 }))
        )
      ]
      for (const [i, refuse] of refusals.entries()) {
        yield* refuse
        yield* double.clearLog
        const { client } = yield* connect(double.endpoints)
        assert.strictEqual((yield* create(client, `${i}`)).status, 202)
        assert.deepStrictEqual(yield* asked(double), ["CRDN-1", "CRDN-2"])
      }
    })
  )

  it.scopedLive("a server alone in maintenance is waited for", () =>
    Effect.gen(function* () {
      const double = yield* ArangoDouble.make({ deployment: "single" })
      yield* collection(double)
      const [node] = double.nodes
      yield* double.setMode(node, "maintenance")
      const { client } = yield* connect(double.endpoints)
      const fiber = yield* Effect.fork(create(client, "a"))
      yield* eventually(
        "two refusals",
        Effect.map(double.log, (_) => _.length >= 2)
      )
      yield* double.setMode(node, "default")
      assert.strictEqual((yield* Fiber.join(fiber)).status, 202)
    })
  )

  it.scopedLive("a stale leader that hangs costs one request its time, not all of them", () =>
    Effect.gen(function* () {
      const double = yield* activeFailover()
      const [leader, follower] = two(double)
      const { client } = yield* connect(double.endpoints, {
        timeout: "2 seconds",
        failoverTimeout: "2 seconds"
      })
      yield* double.setFault(leader, Fault.HangBeforeExecution())
      const told = yield* failure(create(client, "a"))
      assert.isTrue(told.timedOut)
      const fiber = yield* Effect.fork(create(client, "b"))
      yield* eventually(
        "the follower to name the hung leader",
        Effect.map(asked(double), (_) => _.includes(follower.id))
      )
      yield* double.promote(follower)
      assert.strictEqual((yield* Fiber.join(fiber)).status, 202)
      const sent = (yield* double.log).filter((_) => _.node === leader.id)
      assert.lengthOf(sent, 1)
    })
  )
})
