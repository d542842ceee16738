/** Who is read from: the modes, and what hosts say of themselves. */
import { assert, describe } from "@effect/vitest"
import { Effect, Exit, Fiber } from "effect"
import { Errors, Failover } from "effect-failover"
import { causeOf, failure, hostsOf, settle, soon, test, timed, type World } from "./readersWorld.js"

const readersOf = ({ readers }: World) =>
  Effect.map(readers.hosts, (hosts) =>
    Object.fromEntries(hosts.map((_) => [_.host.id, `${_.availability} ${_.role}`]))
  )

describe("reader-or-writer", () => {
  test("reads from every reader, and not from the writer", {}, ({ ran, read }) =>
    Effect.gen(function* () {
      assert.deepStrictEqual(yield* hostsOf(read()), ["db-2", "db-3"])
      assert.deepStrictEqual(ran("db-1"), [])
    })
  )

  test("waits for a reader that was not asked yet rather than take the writer", {}, (world) =>
    Effect.gen(function* () {
      const { cluster, read } = world
      yield* cluster.kill("db-3")
      yield* cluster.slow("db-2", "1 second")
      const { host } = yield* soon(read())
      assert.strictEqual(host, "db-2")
    })
  )

  test("takes the writer while there is no reader, and goes back when one returns", {}, (world) =>
    Effect.gen(function* () {
      const { cluster, read } = world
      yield* read()
      yield* cluster.kill("db-2")
      yield* cluster.kill("db-3")
      yield* settle
      assert.deepStrictEqual(yield* soon(hostsOf(read())), ["db-1"])
      yield* cluster.start("db-2")
      yield* Effect.sleep("2 seconds")
      assert.deepStrictEqual(yield* hostsOf(read()), ["db-2"])
      yield* cluster.start("db-3")
      yield* Effect.sleep("2 seconds")
      assert.deepStrictEqual(yield* hostsOf(read()), ["db-2", "db-3"])
    })
  )

  test("reads from the only host", { hosts: ["db-1"] }, ({ read }) =>
    Effect.gen(function* () {
      assert.deepStrictEqual(yield* hostsOf(read()), ["db-1"])
    })
  )

  test(
    "fails at failoverTimeout when no host can be reached",
    { client: { failoverTimeout: "7 seconds" } },
    ({ cluster, read }) =>
      Effect.gen(function* () {
        yield* read()
        for (const { id } of cluster.hosts) yield* cluster.kill(id)
        const { exit, millis } = yield* soon(timed(read()))
        const error = causeOf(exit)
        assert.instanceOf(error, Errors.FailoverFailed)
        assert.deepStrictEqual([error.reason, error.outcome], ["Timeout", "NotExecuted"])
        assert.deepStrictEqual(error.tried.map((_) => _.host.id).sort(), ["db-1", "db-2", "db-3"])
        assert.isAtLeast(millis, 7000)
        assert.isAtMost(millis, 7600)
      })
  )
})

const strict = { mode: "strict-reader" } as const

describe("strict-reader", () => {
  test("reads from every reader, and not from the writer", {}, ({ ran, read }) =>
    Effect.gen(function* () {
      assert.deepStrictEqual(yield* hostsOf(read(strict)), ["db-2", "db-3"])
      assert.deepStrictEqual(ran("db-1"), [])
    })
  )

  test("reads from the cluster's only host, which is the writer", { hosts: ["db-1"] }, (world) =>
    Effect.gen(function* () {
      const seen = yield* world.read(strict)
      assert.deepStrictEqual([seen.host, seen.role], ["db-1", "writer"])
    })
  )

  test(
    "fails at failoverTimeout without readers, and the writer is not asked",
    { client: { failoverTimeout: "10 seconds" } },
    ({ cluster, ran, read }) =>
      Effect.gen(function* () {
        yield* cluster.kill("db-2")
        yield* cluster.kill("db-3")
        const { exit, millis } = yield* soon(timed(read(strict)))
        const error = causeOf(exit)
        assert.instanceOf(error, Errors.FailoverFailed)
        assert.deepStrictEqual(
          [error.reason, error.outcome, error.role],
          ["Timeout", "NotExecuted", "reader"]
        )
        assert.isAtLeast(millis, 10_000)
        assert.isAtMost(millis, 10_600)
        assert.deepStrictEqual(ran("db-1"), [])
      })
  )

  test("is served by a reader that comes in time", {}, ({ cluster, read }) =>
    Effect.gen(function* () {
      yield* cluster.kill("db-2")
      yield* cluster.kill("db-3")
      const fiber = yield* Effect.fork(read(strict))
      yield* Effect.sleep("20 seconds")
      assert.isNull(fiber.unsafePoll())
      yield* cluster.start("db-3")
      assert.strictEqual((yield* soon(Fiber.join(fiber))).host, "db-3")
    })
  )

  test("a wait for a reader is interrupted at once", {}, ({ cluster, read }) =>
    Effect.gen(function* () {
      yield* cluster.kill("db-2")
      yield* cluster.kill("db-3")
      const fiber = yield* Effect.fork(read(strict))
      yield* Effect.sleep("5 seconds")
      assert.isTrue(Exit.isInterrupted(yield* Fiber.interrupt(fiber)))
    })
  )

  test("a wait for a reader looks again and again, but not in circles", {}, (world) =>
    Effect.gen(function* () {
      const { cluster, read } = world
      yield* read(strict)
      yield* cluster.kill("db-2")
      yield* cluster.kill("db-3")
      yield* Effect.sleep("10 seconds")
      let looks = 0
      const clock = yield* Effect.clock
      const counting = new Proxy(clock, {
        get: (target, key, receiver) => {
          if (key === "sleep") looks++
          const value: unknown = Reflect.get(target, key, receiver)
          return typeof value === "function" ? value.bind(target) : value
        }
      })
      const fiber = yield* Effect.fork(Effect.withClock(read(strict), counting))
      for (let i = 0; i < 100; i++) yield* Effect.sleep("100 millis")
      assert.isNull(fiber.unsafePoll())
      // In 10 s: every 250 ms, and with each change of a host, that is asked once a second.
      assert.isAtLeast(looks, 40)
      assert.isAtMost(looks, 120)
      yield* Fiber.interrupt(fiber)
    })
  )
})

describe("a client's own mode", () => {
  test("strict-writer: reads from the writer", {}, ({ look }) =>
    Effect.gen(function* () {
      assert.deepStrictEqual(yield* hostsOf(look), ["db-1"])
    })
  )

  for (const failoverMode of ["reader-or-writer", "strict-reader"] as const) {
    test(
      `${failoverMode}: reads from readers, and onWriter from the writer`,
      { client: { failoverMode } },
      (world) =>
        Effect.gen(function* () {
          const { cluster, look, write } = world
          assert.deepStrictEqual(yield* hostsOf(look), ["db-2", "db-3"])
          assert.deepStrictEqual(yield* hostsOf(Failover.onWriter(look)), ["db-1"])
          yield* Failover.onWriter(write(1))
          assert.lengthOf(cluster.committed(), 1)
          assert.deepStrictEqual(yield* hostsOf(Failover.onReader(Failover.onWriter(look))), [
            "db-1"
          ])
          assert.deepStrictEqual(yield* hostsOf(Failover.onWriter(Failover.onReader(look))), [
            "db-2",
            "db-3"
          ])
        })
    )
  }

  test(
    "strict-reader is what onReader asks for, unless it says otherwise",
    { client: { failoverMode: "strict-reader", failoverTimeout: "2 seconds" } },
    ({ cluster, read }) =>
      Effect.gen(function* () {
        yield* cluster.kill("db-2")
        yield* cluster.kill("db-3")
        assert.instanceOf(yield* soon(failure(read())), Errors.FailoverFailed)
        assert.strictEqual((yield* soon(read({ mode: "reader-or-writer" }))).host, "db-1")
      })
  )

  test(
    "connectFailover waits for a host of the mode",
    { client: { failoverMode: "strict-reader", connectFailover: true } },
    (world) =>
      Effect.gen(function* () {
        assert.deepStrictEqual(yield* readersOf(world), {
          "db-1": "available writer",
          "db-2": "available reader",
          "db-3": "available reader"
        })
      })
  )
})

describe("the endpoint's mode", () => {
  // What a reader endpoint leads to is asked for its role like any other host.
  const hosts = ["shop.cluster-ro-xyz.us-east-2.rds.amazonaws.com", "db-2", "db-3"]
  test(
    "a reader endpoint: readers, by default",
    { hosts, flavor: "aurora", client: { hosts: hosts.slice(0, 1) } },
    ({ look, cluster, failover }) =>
      Effect.gen(function* () {
        assert.strictEqual(failover.mode, "reader-or-writer")
        assert.deepStrictEqual(yield* hostsOf(look), ["db-2", "db-3"])
        yield* cluster.kill("db-2")
        yield* cluster.kill("db-3")
        assert.deepStrictEqual(yield* soon(hostsOf(look)), [hosts[0]])
      })
  )

  test("any other endpoint: the writer", {}, ({ failover }) =>
    Effect.sync(() => assert.strictEqual(failover.mode, "strict-writer"))
  )
})

describe("roles", () => {
  test(
    "are asked for: a host that is listed as a reader and says it is the writer is none",
    { flavor: "aurora", staleLists: "1 minute" },
    (world) =>
      Effect.gen(function* () {
        const { cluster, read } = world
        yield* read()
        yield* cluster.promote("db-2")
        yield* Effect.sleep("2 seconds")
        // The lists still show it as a reader.
        assert.strictEqual((yield* readersOf(world))["db-2"], "available writer")
        assert.notInclude(yield* hostsOf(read()), "db-2")
      })
  )

  test(
    "a reader that is promoted while reads are on it stops being one, and none of them fails",
    { latency: "10 millis" },
    (world) =>
      Effect.gen(function* () {
        const { cluster, read } = world
        yield* soon(read())
        const fibers = yield* Effect.forEach(Array.from({ length: 20 }), () =>
          Effect.fork(Effect.replicateEffect(read(), 40))
        )
        yield* Effect.sleep("102 millis")
        yield* cluster.failover()
        const seen = yield* soon(Fiber.joinAll(fibers))
        assert.lengthOf(seen.flat(), 800)
        assert.strictEqual(yield* cluster.writer, "db-2")
        yield* Effect.sleep("3 seconds")
        assert.deepStrictEqual(yield* soon(hostsOf(read())), ["db-3"])
        assert.strictEqual((yield* readersOf(world))["db-2"], "available writer")
      })
  )

  test("a writer that is demoted becomes a reader", {}, (world) =>
    Effect.gen(function* () {
      const { cluster, read } = world
      yield* read()
      yield* cluster.demote("db-1")
      yield* cluster.promote("db-2")
      yield* Effect.sleep("3 seconds")
      assert.deepStrictEqual(yield* hostsOf(read()), ["db-1", "db-3"])
    })
  )

  test("an old writer that takes itself for one is neither", {}, (world) =>
    Effect.gen(function* () {
      const { cluster, read } = world
      yield* read()
      yield* cluster.failover()
      yield* Effect.sleep("3 seconds")
      yield* cluster.start("db-1", { as: "itself" })
      yield* Effect.sleep("3 seconds")
      assert.strictEqual((yield* readersOf(world))["db-1"], "available writer")
      assert.deepStrictEqual(yield* hostsOf(read()), ["db-3"])
      yield* cluster.kill("db-3")
      assert.deepStrictEqual(yield* soon(hostsOf(read())), ["db-2"])
    })
  )
})
