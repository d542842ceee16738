/** Hedged reads: a second reader is asked after the 95th percentile, within a budget. */
import { assert, describe } from "@effect/vitest"
import { Array as Arr, Effect, Exit, Fiber } from "effect"
import { Errors, Readers } from "effect-failover"
import { refuse } from "effect-failover/testing/SimulatedCluster"
import { failure, type Seen, settle, soon, test, timed, type World } from "./readersWorld.js"

const LATENCY = { latency: "4 millis" } as const

/** Reads until the percentile is known. */
const warmUp = ({ read }: World) =>
  Effect.forEach(Arr.range(1, 60), () => Readers.hedged(read()), { discard: true })

const selects = ({ cluster }: World) =>
  cluster.log.filter((_) => !_.isInternal && _.sql.startsWith("SELECT"))

/** So many hedged reads while one reader is slow; how long each took. */
const times = (world: World, n: number) =>
  Effect.forEach(Arr.range(1, n), () =>
    Effect.map(timed(Readers.hedged(world.read())), (_) => _.millis)
  )

describe("a hedged read", () => {
  test("is asked once while reads are as quick as ever", LATENCY, (world) =>
    Effect.gen(function* () {
      yield* warmUp(world)
      const before = selects(world).length
      yield* times(world, 50)
      assert.isAtMost(selects(world).length - before, 55)
    })
  )

  test(
    "that takes long is asked of a second reader, and the first answer counts",
    LATENCY,
    (world) =>
      Effect.gen(function* () {
        const { cluster, read } = world
        yield* warmUp(world)
        yield* cluster.next(/^SELECT count/, "hang")
        const { exit, millis } = yield* soon(timed(Readers.hedged(read())))
        assert.isTrue(Exit.isSuccess(exit))
        assert.isAtMost(millis, 30)
      })
  )

  test("ends the session of the one that lost", LATENCY, (world) =>
    Effect.gen(function* () {
      const { cluster, read, readers } = world
      yield* warmUp(world)
      yield* cluster.next(/^SELECT count/, "hang")
      const hung = yield* Effect.fork(Readers.hedged(read()))
      yield* Effect.sleep(3)
      const pending = cluster.log.findLast((_) => _.sql.startsWith("SELECT count"))
      const before = cluster.sessions(pending?.host)
      const seen = yield* soon(Fiber.join(hung))
      yield* settle
      assert.notStrictEqual(seen.host, pending?.host)
      assert.strictEqual(cluster.sessions(pending?.host), before - 1)
      assert.isTrue((yield* readers.hosts).every((_) => _.outstanding === 0))
    })
  )

  test("is never asked of the writer", { ...LATENCY, hosts: ["db-1", "db-2"] }, (world) =>
    Effect.gen(function* () {
      const { cluster, ran } = world
      yield* warmUp(world)
      yield* cluster.slow("db-2", "200 millis")
      yield* times(world, 20)
      assert.deepStrictEqual(ran("db-1"), [])
    })
  )

  test("is not asked of the writer when the second reader is lost, too", LATENCY, (world) =>
    Effect.gen(function* () {
      const { cluster, ran, read } = world
      yield* warmUp(world)
      yield* cluster.next(/^SELECT count/, "hang")
      yield* cluster.next(/^SELECT count/, "hang")
      const fiber = yield* Effect.fork(Readers.hedged(read()))
      yield* Effect.sleep(20)
      const hosts = selects(world)
        .slice(-2)
        .map((_) => _.host)
      assert.deepStrictEqual([...hosts].sort(), ["db-2", "db-3"])
      const [, second = ""] = hosts
      yield* cluster.kill(second)
      yield* Effect.sleep(2000)
      assert.deepStrictEqual(ran("db-1"), [])
      yield* Fiber.interrupt(fiber)
    })
  )

  test("whose second reader fails is answered by the first", LATENCY, (world) =>
    Effect.gen(function* () {
      const { cluster, read } = world
      yield* warmUp(world)
      for (const name of ["db-2", "db-3"]) yield* cluster.slow(name, "50 millis")
      const fiber = yield* Effect.fork(Readers.hedged(read()))
      yield* Effect.sleep(3)
      const asked = selects(world).at(-1)?.host
      yield* cluster.slow(asked === "db-2" ? "db-3" : "db-2", 0)
      yield* cluster.next(/^SELECT count/, refuse("40001"))
      const { host } = yield* soon(Fiber.join(fiber))
      const [first, second] = selects(world).slice(-2)
      assert.strictEqual(host, first?.host)
      assert.strictEqual(second?.outcome, "Refused")
    })
  )

  test("whose first reader refuses it is refused at once, and asked once", LATENCY, (world) =>
    Effect.gen(function* () {
      const { cluster, read } = world
      yield* warmUp(world)
      const before = selects(world).length
      yield* cluster.next(/^SELECT count/, refuse("42P01"))
      assert.propertyVal(yield* failure(Readers.hedged(read())), "code", "42P01")
      assert.strictEqual(selects(world).length - before, 1)
    })
  )

  test(
    "that waits for a connection to a silent reader is asked of another one, too",
    { ...LATENCY, client: { connectTimeout: "1 minute" } },
    (world) =>
      Effect.gen(function* () {
        const { cluster } = world
        yield* warmUp(world)
        yield* cluster.freeze("db-2")
        const took = yield* soon(times(world, 8))
        assert.isBelow(Math.max(...took), 100)
      })
  )

  test("is one of a tenth at most: slow readers do not get twice the work", LATENCY, (world) =>
    Effect.gen(function* () {
      const { cluster } = world
      yield* warmUp(world)
      // All at once, so that no percentile of theirs catches up.
      for (const name of ["db-2", "db-3"]) yield* cluster.slow(name, "100 millis")
      const before = selects(world).length
      yield* Effect.all(
        Arr.makeBy(1000, () => Readers.hedged(world.read())),
        { concurrency: 20 }
      )
      // What was saved up before, and a tenth.
      assert.isAtMost(selects(world).length - before - 1000, 10 + 100)
    })
  )

  test("is interrupted with both of its questions", LATENCY, (world) =>
    Effect.gen(function* () {
      const { cluster, read, readers } = world
      yield* warmUp(world)
      for (let i = 0; i < 2; i++) yield* cluster.next(/^SELECT count/, "hang")
      const fiber = yield* Effect.fork(Readers.hedged(read()))
      yield* Effect.sleep(50)
      assert.isTrue(Exit.isInterrupted(yield* Fiber.interrupt(fiber)))
      assert.isTrue((yield* readers.hosts).every((_) => _.outstanding === 0))
    })
  )

  test("may be a write: told as such, as ever", LATENCY, (world) =>
    Effect.gen(function* () {
      yield* warmUp(world)
      const write = Readers.hedged(world.sql<Seen>`INSERT INTO item (id) VALUES (1)`)
      assert.isEmpty(yield* write)
      assert.lengthOf(world.cluster.committed(), 1)
    })
  )
})

describe("with one slow reader", () => {
  test(
    "hedging cuts the longest times",
    { latency: { least: "2 millis", most: "6 millis" } },
    (world) =>
      Effect.gen(function* () {
        const { cluster, read } = world
        yield* warmUp(world)
        // One statement in forty hangs for a while, whichever reader has it.
        const slow = (reads: Effect.Effect<unknown, unknown>) =>
          Effect.forEach(Arr.range(1, 10), () =>
            Effect.gen(function* () {
              yield* Effect.replicateEffect(reads, 39)
              yield* cluster.next(/^SELECT count/, "hang")
              return yield* Effect.map(timed(soon(reads)), (_) => _.millis)
            })
          )
        const hedged = yield* slow(Readers.hedged(read()))
        assert.isBelow(Math.max(...hedged), 50)
        yield* cluster.next(/^SELECT count/, "hang")
        const { exit } = yield* timed(
          Effect.timeoutFail(read(), {
            duration: "10 seconds",
            onTimeout: () => new Errors.TopologyClosed()
          })
        )
        assert.isTrue(Exit.isFailure(exit))
      })
  )
})
