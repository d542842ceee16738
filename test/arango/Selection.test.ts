/** Points 1 to 9 of the conformance list: which endpoint, and for how long. */
import { HttpClient } from "@effect/platform"
import { assert, describe, it } from "@effect/vitest"
import { Clock, Duration, Effect, Either, Fiber, Random, TestClock } from "effect"
import * as ArangoDouble from "effect-failover/testing/ArangoDouble"
import * as Arango from "effect-failover/layers/Arango"
import * as Host from "effect-failover/Host"
import { asked, collection, connect, create, failure } from "./support.js"

const cluster = (nodes: number) =>
  Effect.tap(ArangoDouble.make({ deployment: "cluster", nodes }), (double) => collection(double))

/** Answers nothing, and notes when it was asked what. */
const silent = (n: number, options: Partial<Arango.ArangoOptions> = {}) =>
  Effect.gen(function* () {
    const attempts: Array<number> = []
    const bare = HttpClient.make(() =>
      Effect.flatMap(Clock.currentTimeMillis, (now) => {
        attempts.push(now)
        return Effect.never
      })
    )
    const endpoints = Array.from({ length: n }, (_, i) => `http://arango-${i + 1}:8529`)
    const client = yield* Arango.transform(bare, { endpoints, synchronize: false, ...options })
    return { client, attempts }
  })

/** The world outside of the virtual clock goes round once. */
const turn = Effect.async<void>((resume) => {
  setImmediate(() => resume(Effect.void))
})

const until = (ready: () => boolean) => Effect.repeat(turn, { until: ready })

describe("which endpoint", () => {
  it.scoped("point 1: no endpoint is an error when the client is made", () =>
    Effect.gen(function* () {
      for (const endpoints of [[], ["ftp://arango:1"], ["http://a:1/path"], ["http://u:p@a:1"]]) {
        const error = yield* failure(connect(endpoints))
        assert.strictEqual(error._tag, "ConfigurationError")
        assert.strictEqual(error.field, "endpoints")
        assert.notInclude(error.message, "u:p")
      }
    })
  )

  it.scopedLive(
    "point 2: the first endpoint is the first one given, and a list is left as it is",
    () =>
      Effect.gen(function* () {
        const double = yield* cluster(3)
        const endpoints = [...double.endpoints].sort().reverse()
        const given = [...endpoints]
        const { client } = yield* connect(endpoints)
        yield* client.get("/_api/version")
        const first = double.nodes.find((_) => _.url === given[0])
        assert.deepStrictEqual(yield* asked(double), [first?.id ?? ""])
        assert.deepStrictEqual(endpoints, given)
      })
  )

  it.scopedLive("one endpoint that is given twice, in two ways, is one", () =>
    Effect.gen(function* () {
      const double = yield* cluster(1)
      const [node] = double.nodes
      const { endpoints } = yield* connect([
        node.url,
        `tcp://127.0.0.1:${node.port}/`,
        `127.0.0.1:${node.port}`
      ])
      assert.lengthOf(yield* endpoints, 1)
    })
  )

  it.scopedLive("point 3: requests stick to one endpoint until it fails", () =>
    Effect.gen(function* () {
      const double = yield* cluster(3)
      const { client } = yield* connect(double.endpoints)
      yield* Effect.repeatN(client.get("/_api/version"), 3)
      assert.deepStrictEqual([...new Set(yield* asked(double))], ["CRDN-1"])
      yield* double.kill(double.nodes[0])
      yield* double.clearLog
      yield* Effect.repeatN(client.get("/_api/version"), 3)
      yield* double.restart(double.nodes[0])
      yield* client.get("/_api/version")
      assert.deepStrictEqual([...new Set(yield* asked(double))], ["CRDN-2"])
    })
  )

  it.scopedLive("point 4: round robin asks each in turn, and leaves out one that failed", () =>
    Effect.gen(function* () {
      const double = yield* cluster(3)
      const { client } = yield* connect(double.endpoints, { loadBalancing: "round-robin" })
      yield* Effect.repeatN(client.get("/_api/version"), 5)
      const turns = yield* asked(double)
      assert.deepStrictEqual(turns.slice(0, 3).sort(), ["CRDN-1", "CRDN-2", "CRDN-3"])
      assert.deepStrictEqual(turns.slice(0, 3), turns.slice(3))
      yield* Effect.forEach(double.nodes.slice(1, 2), double.kill)
      yield* double.clearLog
      yield* Effect.repeatN(client.get("/_api/version"), 5)
      assert.deepStrictEqual([...new Set(yield* asked(double))].sort(), ["CRDN-1", "CRDN-3"])
    })
  )

  it.scopedLive("point 4: one random begins anywhere, and sticks to it", () =>
    Effect.gen(function* () {
      const double = yield* cluster(3)
      const firsts = yield* Effect.forEach(Array.from({ length: 20 }), (_, seed) =>
        Effect.gen(function* () {
          yield* double.clearLog
          const { client } = yield* connect(double.endpoints, { loadBalancing: "one-random" })
          yield* Effect.repeatN(client.get("/_api/version"), 2)
          const nodes = new Set(yield* asked(double))
          assert.strictEqual(nodes.size, 1)
          return [...nodes][0]
        }).pipe(Effect.withRandom(Random.make(`seed ${seed}`)))
      )
      assert.strictEqual(new Set(firsts).size, 3)
    })
  )

  it.scoped("an unknown mode is refused", () =>
    Effect.gen(function* () {
      const loadBalancing: any = "best"
      const error = yield* failure(connect(["http://a:1"], { loadBalancing }))
      assert.strictEqual(error.field, "loadBalancing")
    })
  )

  it.scopedLive("point 8: each endpoint is asked once at most when nobody answers", () =>
    Effect.gen(function* () {
      const double = yield* cluster(4)
      yield* Effect.forEach(double.nodes, double.kill)
      const { client } = yield* connect(double.endpoints)
      const error = yield* failure(create(client, "a"))
      assert.deepStrictEqual(
        error.tried.map((_: any) => _.attempts),
        [1, 1, 1, 1]
      )
    })
  )

  it.scopedLive("point 9: a pinned request goes to its server and to no other", () =>
    Effect.gen(function* () {
      const double = yield* cluster(3)
      const [, second] = double.nodes
      assert.isDefined(second)
      if (second === undefined) return
      const { client } = yield* connect(double.endpoints)
      yield* client.get("/_api/version").pipe(Arango.withHost(Host.make(second)))
      assert.deepStrictEqual(yield* asked(double), ["CRDN-2"])
      yield* double.kill(second)
      const error = yield* failure(
        client.get("/_api/version").pipe(Arango.withHost(Host.make(second)))
      )
      assert.strictEqual(error._tag, "RequestUnanswered")
      assert.strictEqual(error.outcome, "NotExecuted")
      assert.deepStrictEqual(yield* asked(double), ["CRDN-2"])
      const stranger = Host.make({ host: "elsewhere", port: 1 })
      const unknown = yield* failure(client.get("/").pipe(Arango.withHost(stranger)))
      assert.strictEqual(unknown._tag, "ConfigurationError")
    })
  )

  it.scopedLive("URLs of known endpoints are routed, those of others go there", () =>
    Effect.gen(function* () {
      const double = yield* cluster(2)
      const other = yield* ArangoDouble.make({ deployment: "single" })
      const { client } = yield* connect(double.endpoints, {
        auth: { method: "basic" }
      })
      yield* double.kill(double.nodes[0])
      yield* client.get(`${double.nodes[0].url}/_api/version?details=true`)
      yield* client.get(`${other.endpoints[0]}/_api/version`)
      assert.deepStrictEqual(yield* asked(double), ["CRDN-2"])
      const [foreign] = yield* other.log
      assert.isUndefined(foreign?.headers.authorization)
      assert.isUndefined(foreign?.headers["x-effect-failover-attempt"])
    })
  )
})

describe("for how long", () => {
  for (const [n, seconds] of [
    [1, 60],
    [2, 30],
    [3, 20],
    [8, 20]
  ] as const) {
    it.scoped(`point 5: of 60 s with ${n} endpoints, one attempt gets ${seconds} s`, () =>
      Effect.gen(function* () {
        const { attempts, client } = yield* silent(n, { timeout: "60 seconds" })
        const fiber = yield* Effect.fork(failure(create(client, "a")))
        yield* until(() => attempts.length === 1)
        yield* TestClock.adjust(Duration.seconds(seconds))
        const error = yield* Fiber.join(fiber)
        assert.strictEqual(Duration.toSeconds(error.elapsed), seconds)
        assert.isTrue(error.timedOut)
        assert.lengthOf(attempts, 1)
      })
    )
  }

  it.scoped("the time of one request goes before the client's", () =>
    Effect.gen(function* () {
      const { attempts, client } = yield* silent(2)
      const fiber = yield* create(client, "a").pipe(
        Arango.withTimeout("4 seconds"),
        failure,
        Effect.fork
      )
      yield* until(() => attempts.length === 1)
      yield* TestClock.adjust("2 seconds")
      assert.strictEqual(Duration.toSeconds((yield* Fiber.join(fiber)).elapsed), 2)
    })
  )

  it.scoped("point 6: without a time, a request has 9 minutes", () =>
    Effect.gen(function* () {
      const { attempts, client } = yield* silent(3)
      const fiber = yield* Effect.fork(failure(create(client, "a")))
      yield* until(() => attempts.length === 1)
      yield* TestClock.adjust("3 minutes")
      assert.strictEqual(Duration.toMinutes((yield* Fiber.join(fiber)).elapsed), 3)
    })
  )

  it.scoped("point 7: with four endpoints that are slow to fail, three are tried", () =>
    Effect.gen(function* () {
      const { attempts, client } = yield* silent(4, { timeout: "60 seconds" })
      const fiber = yield* Effect.fork(Effect.either(client.get("/_api/version")))
      for (let i = 1; i <= 3; i++) {
        yield* until(() => attempts.length === i)
        yield* TestClock.adjust("20 seconds")
      }
      const result = yield* Fiber.join(fiber)
      assert.isTrue(Either.isLeft(result))
      assert.deepStrictEqual(attempts, [0, 20_000, 40_000])
    })
  )

  it.scopedLive("point 7: with four endpoints that fail at once, all are tried", () =>
    Effect.gen(function* () {
      const double = yield* cluster(4)
      yield* Effect.forEach(double.nodes.slice(0, 3), double.kill)
      const { client } = yield* connect(double.endpoints)
      assert.strictEqual((yield* create(client, "a")).status, 202)
      assert.deepStrictEqual(yield* asked(double), ["CRDN-4"])
    })
  )
})
