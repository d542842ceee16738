/** What reads see: `maxStaleness`, `readYourWrites`, and positions that a reader must have reached. */
import { Reactivity } from "@effect/experimental"
import { assert, describe } from "@effect/vitest"
import { Array as Arr, Deferred, Effect, Fiber, Stream } from "effect"
import { Errors, Failover, Readers } from "effect-failover"
import * as Test from "effect-failover/layers/Test"
import {
  causeOf,
  failure,
  hostsOf,
  type Seen,
  soon,
  test,
  timed,
  type World
} from "./readersWorld.js"

const flavors = ["streaming", "aurora"] as const

/** Writes for so long; when each of them was acknowledged. */
const writing = ({ write }: World, millis: number, every = 20) =>
  Effect.gen(function* () {
    const clock = yield* Effect.clock
    const acknowledged: Array<number> = []
    const end = clock.unsafeCurrentTimeMillis() + millis
    const fiber = yield* Effect.fork(
      Effect.iterate(0, {
        while: () => clock.unsafeCurrentTimeMillis() < end,
        body: (n) =>
          write(n).pipe(
            Effect.tap(() => Effect.sync(() => acknowledged.push(clock.unsafeCurrentTimeMillis()))),
            Effect.zipRight(Effect.sleep(every)),
            Effect.as(n + 1)
          )
      })
    )
    return { acknowledged, fiber }
  })

interface Read {
  readonly seen: Seen
  /** How far behind the writer it was, at least, in milliseconds. */
  readonly behind: number
}

/** Fibers that read for so long, and how old what they see is, in the light of what was acknowledged. */
const reading = (
  { read }: World,
  acknowledged: ReadonlyArray<number>,
  options: Failover.ReadOptions,
  millis: number
) =>
  Effect.gen(function* () {
    const clock = yield* Effect.clock
    const reads: Array<Read> = []
    const end = clock.unsafeCurrentTimeMillis() + millis
    const one = Effect.gen(function* () {
      while (clock.unsafeCurrentTimeMillis() < end) {
        const now = clock.unsafeCurrentTimeMillis()
        const seen = yield* read(options)
        reads.push({ seen, behind: now - (acknowledged[seen.count] ?? now) })
        yield* Effect.sleep(7)
      }
    })
    yield* Effect.all(
      Arr.makeBy(4, () => one),
      { concurrency: "unbounded" }
    )
    return reads
  })

const worst = (reads: ReadonlyArray<Read>) => Math.max(...reads.map((_) => _.behind))

const shareOf = (reads: ReadonlyArray<Read>, host: string) =>
  reads.filter((_) => _.seen.host === host).length / reads.length

describe("maxStaleness", () => {
  for (const flavor of flavors) {
    test(
      `${flavor}: a reader that lags more is not read from, and one that has caught up is`,
      { flavor, latency: "2 millis" },
      (world) =>
        Effect.gen(function* () {
          const { cluster } = world
          const bound = { maxStaleness: "400 millis" } as const
          const { acknowledged, fiber } = yield* writing(world, 12_000)
          const fresh = yield* reading(world, acknowledged, bound, 3000)
          assert.isAtMost(worst(fresh), 400)
          yield* cluster.lag("db-2", "2 seconds")
          yield* reading(world, acknowledged, bound, 1000).pipe(
            Effect.tap((reads) => assert.isAtMost(worst(reads), 400))
          )
          const lagging = yield* reading(world, acknowledged, bound, 3000)
          assert.isAtMost(worst(lagging), 400)
          assert.strictEqual(shareOf(lagging, "db-2"), 0)
          assert.strictEqual(shareOf(lagging, "db-3"), 1)
          yield* cluster.lag("db-2", 0)
          yield* Effect.sleep("2500 millis")
          const again = yield* reading(world, acknowledged, bound, 2000)
          assert.isAbove(shareOf(again, "db-2"), 0.3)
          assert.isAtMost(worst(again), 400)
          yield* Fiber.join(fiber)
        })
    )

    test(
      `${flavor}: without it, a reader is read from however far behind it is`,
      { flavor, latency: "2 millis" },
      (world) =>
        Effect.gen(function* () {
          const { cluster } = world
          yield* cluster.lag("db-2", "2 seconds")
          const { acknowledged, fiber } = yield* writing(world, 5000)
          yield* Effect.sleep("3 seconds")
          const reads = yield* reading(world, acknowledged, {}, 1000)
          assert.isAbove(worst(reads), 1500)
          yield* Fiber.join(fiber)
        })
    )

    test(
      `${flavor}: all readers lag: the writer is read from`,
      { flavor, latency: "2 millis" },
      (world) =>
        Effect.gen(function* () {
          const { cluster } = world
          for (const name of ["db-2", "db-3"]) yield* cluster.lag(name, "3 seconds")
          const { acknowledged, fiber } = yield* writing(world, 5000)
          yield* Effect.sleep("1 second")
          const reads = yield* reading(world, acknowledged, { maxStaleness: "300 millis" }, 3000)
          assert.isAtMost(worst(reads), 300)
          assert.strictEqual(shareOf(reads, "db-1"), 1)
          yield* Fiber.join(fiber)
        })
    )

    test(
      `${flavor}: strict-reader, and all readers lag: FailoverFailed`,
      { flavor, latency: "2 millis", client: { failoverTimeout: "4 seconds" } },
      (world) =>
        Effect.gen(function* () {
          const { cluster, ran, read } = world
          for (const name of ["db-2", "db-3"]) yield* cluster.lag(name, "1 minute")
          const { fiber } = yield* writing(world, 8000)
          yield* Effect.sleep("1 second")
          const { exit, millis } = yield* soon(
            timed(read({ mode: "strict-reader", maxStaleness: "300 millis" }))
          )
          assert.instanceOf(causeOf(exit), Errors.FailoverFailed)
          assert.isAtMost(millis, 4600)
          assert.deepStrictEqual(
            ran("db-1").filter((_) => _.startsWith("SELECT")),
            []
          )
          yield* Fiber.join(fiber)
        })
    )

    test(
      `${flavor}: is kept by each statement of a client that asks for it as a whole`,
      {
        flavor,
        latency: "2 millis",
        client: { failoverMode: "reader-or-writer", maxStaleness: "400 millis" }
      },
      (world) =>
        Effect.gen(function* () {
          const { cluster, look } = world
          yield* look
          yield* cluster.lag("db-2", "1 minute")
          const fiber = yield* Effect.fork(
            Failover.onWriter(
              Effect.forEach(Arr.range(1, 200), (id) =>
                Effect.zipRight(world.write(id), Effect.sleep(20))
              )
            )
          )
          yield* Effect.sleep("2 seconds")
          assert.notInclude(yield* hostsOf(look), "db-2")
          yield* Fiber.join(fiber)
        })
    )
  }

  test(
    "a reader cut off from its writer is not read from once it is too old",
    { latency: "2 millis" },
    (world) =>
      Effect.gen(function* () {
        const { cluster } = world
        const { acknowledged, fiber } = yield* writing(world, 8000)
        yield* reading(world, acknowledged, { maxStaleness: "500 millis" }, 1000)
        yield* cluster.partition("db-2", "peers")
        const reads = yield* reading(world, acknowledged, { maxStaleness: "500 millis" }, 4000)
        assert.isAtMost(worst(reads), 500)
        assert.isBelow(shareOf(reads, "db-2"), 0.1)
        yield* Fiber.join(fiber)
      })
  )

  test(
    "who waits for a connection is told by what is so then: the reader may have fallen behind",
    { latency: "2 millis", client: { maxConnections: 1 } },
    (world) =>
      Effect.gen(function* () {
        const { cluster, look, sql } = world
        const bound = { maxStaleness: "500 millis" } as const
        const { acknowledged, fiber } = yield* writing(world, 9000)
        yield* reading(world, acknowledged, bound, 1000)
        // Both readers are busy, and whoever reads waits for one of them.
        const busy = yield* Effect.forEach(["db-2", "db-3"], () =>
          Effect.fork(
            Failover.onReader(sql.withTransaction(Effect.zipLeft(look, Effect.sleep("3 seconds"))))
          )
        )
        yield* Effect.sleep("100 millis")
        const clock = yield* Effect.clock
        const waiting = yield* Effect.forEach(Arr.range(1, 6), () =>
          Effect.fork(
            Effect.map(world.read(bound), (seen) => ({ seen, at: clock.unsafeCurrentTimeMillis() }))
          )
        )
        yield* Effect.sleep("100 millis")
        for (const name of ["db-2", "db-3"]) yield* cluster.lag(name, "1 minute")
        const seen = yield* soon(Fiber.joinAll(waiting))
        for (const {
          at,
          seen: { count }
        } of seen) {
          // Ten milliseconds for the way.
          assert.isAtMost(at - (acknowledged[count] ?? at), 510)
        }
        yield* Fiber.joinAll(busy)
        yield* Fiber.join(fiber)
      })
  )

  test("a bound that nobody asks for any more is not looked after any more", {}, (world) =>
    Effect.gen(function* () {
      const { cluster, read } = world
      const questions = Effect.sync(
        () => cluster.log.filter((_) => _.isInternal && _.host === "db-2").length
      )
      yield* read({ maxStaleness: "100 millis" })
      const before = yield* questions
      yield* Effect.sleep("1 second")
      assert.isAbove((yield* questions) - before, 20)
      for (let i = 0; i < 90; i++) yield* Effect.zipRight(read(), Effect.sleep("1 second"))
      const later = yield* questions
      yield* Effect.sleep("1 second")
      assert.isBelow((yield* questions) - later, 5)
    })
  )
})

const pairs = ({ read, write }: World, n: number, options: Failover.ReadOptions = {}) =>
  Effect.gen(function* () {
    const hosts = new Map<string, number>()
    let stale = 0
    for (let i = 1; i <= n; i++) {
      const { count, host } = yield* Readers.readYourWrites(
        Effect.zipRight(write(i), read(options))
      )
      if (count < i) stale++
      hosts.set(host, (hosts.get(host) ?? 0) + 1)
    }
    return { stale, hosts }
  })

describe("readYourWrites", () => {
  for (const [lag, where] of [
    [0, "readers"],
    [3, "readers"],
    [40, "readers"],
    [150, "readers"],
    [1000, "the writer"]
  ] as const) {
    test(
      `2,000 pairs on readers that lag by ${lag} ms: none is stale, and ${where} are read from`,
      { latency: "1 millis" },
      (world) =>
        Effect.gen(function* () {
          const { cluster } = world
          yield* world.read()
          for (const name of ["db-2", "db-3"]) yield* cluster.lag(name, lag)
          const { hosts, stale } = yield* pairs(world, 2000)
          assert.strictEqual(stale, 0)
          assert.strictEqual(hosts.get("db-1") ?? 0, where === "readers" ? 0 : 2000)
        })
    )
  }

  test(
    "without it, reads after writes are stale on such readers",
    { latency: "1 millis" },
    (world) =>
      Effect.gen(function* () {
        const { cluster, read, write } = world
        yield* read()
        for (const name of ["db-2", "db-3"]) yield* cluster.lag(name, 40)
        yield* write(1)
        assert.strictEqual((yield* read()).count, 0)
      })
  )

  test("a slow reader and a quick one: none is stale", { latency: "1 millis" }, (world) =>
    Effect.gen(function* () {
      yield* world.read()
      yield* world.cluster.lag("db-2", "1 minute")
      const { hosts, stale } = yield* pairs(world, 200)
      assert.strictEqual(stale, 0)
      assert.isAbove(hosts.get("db-3") ?? 0, 50)
      assert.strictEqual(hosts.get("db-2"), undefined)
    })
  )

  test(
    "strict-reader: waits for the readers, and never asks the writer",
    { latency: "1 millis" },
    (world) =>
      Effect.gen(function* () {
        yield* world.read()
        for (const name of ["db-2", "db-3"]) yield* world.cluster.lag(name, 700)
        const { hosts, stale } = yield* pairs(world, 30, { mode: "strict-reader" })
        assert.strictEqual(stale, 0)
        assert.strictEqual(hosts.get("db-1"), undefined)
      })
  )

  test(
    "strict-reader: no reader gets there: FailoverFailed",
    { client: { failoverTimeout: "3 seconds" } },
    ({ cluster, read, write }) =>
      Effect.gen(function* () {
        yield* read()
        for (const name of ["db-2", "db-3"]) yield* cluster.lag(name, "1 minute")
        const error = yield* soon(
          failure(
            Readers.readYourWrites(Effect.zipRight(write(1), read({ mode: "strict-reader" })))
          )
        )
        assert.instanceOf(error, Errors.FailoverFailed)
      })
  )

  test("fibers of one scope see each other's writes", { latency: "1 millis" }, (world) =>
    Effect.gen(function* () {
      const { cluster, find, write } = world
      yield* world.read()
      for (const name of ["db-2", "db-3"]) yield* cluster.lag(name, 60)
      const one = (i: number) =>
        Effect.gen(function* () {
          const written = yield* Deferred.make<void>()
          const reader = yield* Effect.fork(
            Effect.zipRight(Deferred.await(written), Failover.onReader(find(i)))
          )
          yield* Effect.zipRight(write(i), Deferred.succeed(written, undefined))
          return yield* Fiber.join(reader)
        })
      const seen = yield* Readers.readYourWrites(
        Effect.forEach(Arr.range(1, 200), one, { concurrency: 20 })
      )
      assert.isTrue(seen.every((_) => _.isThere))
      assert.isTrue(seen.some((_) => _.role === "reader"))
    })
  )

  const ways: ReadonlyArray<readonly [string, (world: World) => Effect.Effect<unknown, unknown>]> =
    [
      [
        "a transaction",
        ({ sql, write }) => sql.withTransaction(Effect.zipRight(write(1), write(2)))
      ],
      ["a stream", ({ write }) => Stream.runDrain(write(1).stream)],
      ["raw", ({ write }) => write(1).raw],
      ["values", ({ write }) => write(1).values],
      [
        "a reserved connection",
        ({ sql }) =>
          Effect.scoped(
            Effect.flatMap(sql.reserve, (_) =>
              _.execute("INSERT INTO item (id) VALUES ($1)", [1], undefined)
            )
          )
      ],
      ["onWriter", ({ write }) => Failover.onReader(Failover.onWriter(write(1)))]
    ]
  for (const [way, work] of ways) {
    test(`sees what ${way} has written`, { latency: "1 millis" }, (world) =>
      Effect.gen(function* () {
        yield* world.read()
        for (const name of ["db-2", "db-3"]) yield* world.cluster.lag(name, 50)
        const seen = yield* Readers.readYourWrites(
          Effect.zipRight(work(world), Failover.onReader(world.find(1)))
        )
        assert.isTrue(seen.isThere)
        assert.strictEqual(seen.role, "reader")
      })
    )
  }

  const reads: ReadonlyArray<readonly [string, (world: World) => Effect.Effect<unknown, unknown>]> =
    [
      [
        "a transaction",
        ({ find, sql }) => sql.withTransaction(Effect.map(find(1), (_) => _.isThere))
      ],
      [
        "a stream",
        ({ sql }) =>
          Effect.map(
            Stream.runHead(sql<Seen>`SELECT count(*) FROM item WHERE id = ${1}`.stream),
            (_) => _._tag === "Some" && _.value.isThere
          )
      ],
      [
        "a reserved connection",
        ({ sql }) =>
          Effect.scoped(
            Effect.flatMap(sql.reserve, (_) =>
              Effect.map(
                _.execute("SELECT 1 WHERE id = $1", [1], undefined),
                ([row]) => row.isThere as unknown
              )
            )
          )
      ]
    ]
  for (const [way, work] of reads) {
    test(`${way} on a reader sees what was written before`, { latency: "1 millis" }, (world) =>
      Effect.gen(function* () {
        yield* world.read()
        for (const name of ["db-2", "db-3"]) yield* world.cluster.lag(name, 50)
        const seen = yield* Readers.readYourWrites(
          Effect.zipRight(world.write(1), Failover.onReader(work(world)))
        )
        assert.strictEqual(seen, true)
      })
    )
  }

  test(
    "readers that cannot tell what they have: reads after writes go to the writer, others do not",
    { flavor: "aurora" },
    (world) =>
      Effect.gen(function* () {
        const { cluster, read, write } = world
        for (const name of ["db-2", "db-3"]) yield* cluster.lag(name, 50)
        const [before, after] = yield* Readers.readYourWrites(
          Effect.all([read(), Effect.zipRight(write(1), read())])
        )
        assert.strictEqual(before.role, "reader")
        assert.deepInclude(after, { role: "writer", count: 1 })
      })
  )

  test("asks for the writer's position once for all writes in between", {}, (world) =>
    Effect.gen(function* () {
      const { cluster, read, write } = world
      yield* read()
      const asked = () =>
        cluster.log.filter((_) => _.sql.startsWith("SELECT pg_catalog.pg_current_wal_insert_lsn"))
          .length
      const before = asked()
      yield* Readers.readYourWrites(
        Effect.all([write(1), write(2), write(3), read(), read(), read(), write(4), read()])
      )
      assert.strictEqual(asked() - before, 2)
    })
  )

  test(
    "no reader gets there, and the writer is lost: a reader that gets there later is read from",
    { latency: "1 millis", replication: "synchronous" },
    (world) =>
      Effect.gen(function* () {
        const { cluster, read, write } = world
        yield* read()
        yield* cluster.lag("db-2", "2 seconds")
        const fiber = yield* Effect.fork(
          Readers.readYourWrites(
            Effect.gen(function* () {
              yield* write(1)
              yield* Failover.onWriter(world.look)
              const reading = yield* Effect.fork(read())
              yield* Effect.sleep(20)
              yield* cluster.kill("db-1")
              yield* cluster.kill("db-3")
              return yield* Fiber.join(reading)
            })
          )
        )
        const seen = yield* soon(Fiber.join(fiber), "10 seconds")
        assert.deepInclude(seen, { count: 1 })
      })
  )
})

describe("positions", () => {
  test(
    "another client sees what was written before, by the position that it is given",
    { latency: "1 millis" },
    (world) =>
      Effect.gen(function* () {
        const { cluster, readers, write } = world
        for (const name of ["db-2", "db-3"]) yield* cluster.lag(name, 80)
        const other = yield* Test.client(cluster, { clusterId: "another process" }).pipe(
          Effect.provide(Reactivity.layer)
        )
        const count = other.client<Seen>`SELECT count(*) FROM item`
        yield* write(1)
        const position = yield* readers.position
        const [stale] = yield* Failover.onReader(count)
        assert.strictEqual(stale?.count, 0)
        const [fresh] = yield* Failover.onReader(count, { after: position })
        assert.deepInclude(fresh, { count: 1, role: "reader" })
      })
  )

  test(
    "a reader is given `within`, and then the writer is read from",
    { latency: "1 millis" },
    (world) =>
      Effect.gen(function* () {
        const { cluster, read, readers, write } = world
        yield* read()
        for (const name of ["db-2", "db-3"]) yield* cluster.lag(name, 80)
        yield* write(1)
        const after = yield* readers.position
        const { exit, millis } = yield* timed(read({ after, within: "30 millis" }))
        assert.strictEqual(exit._tag === "Success" ? exit.value.role : "none", "writer")
        assert.isAtLeast(millis, 15)
        assert.isAtMost(millis, 60)
      })
  )

  test("one that is none is refused at once, and not sent", {}, (world) =>
    Effect.gen(function* () {
      const { cluster, read } = world
      yield* read()
      for (const mode of ["reader-or-writer", "strict-reader"] as const) {
        const { exit, millis } = yield* timed(read({ mode, after: "1/0'; DROP TABLE item" }))
        assert.include(String(causeOf(exit)), "Not a position")
        assert.strictEqual(millis, 0)
      }
      assert.isFalse(cluster.log.some((_) => _.sql.includes("DROP")))
    })
  )

  test("are refused where readers cannot tell what they have", { flavor: "aurora" }, (world) =>
    Effect.gen(function* () {
      const error = yield* failure(world.readers.position)
      assert.instanceOf(error, Errors.ConfigurationError)
      assert.include(error.hint, "readYourWrites")
    })
  )

  test("asking for one survives the loss of the writer", {}, (world) =>
    Effect.gen(function* () {
      const { cluster, readers, write } = world
      yield* write(1)
      const before = yield* readers.position
      yield* cluster.failover()
      assert.isString(yield* soon(readers.position))
      yield* soon(write(2))
      assert.notStrictEqual(yield* soon(readers.position), before)
    })
  )
})
