/** What becomes of reads whose reader fails: the tables of `internal/readers/reads` and `internal/readers/member`. */
import { assert, describe } from "@effect/vitest"
import { Array as Arr, Chunk, Effect, Exit, Fiber, Stream } from "effect"
import { Errors, Failover } from "effect-failover"
import { refuse } from "effect-failover/testing/SimulatedCluster"
import { causeOf, failure, hostsOf, settle, soon, test, timed, type World } from "./readersWorld.js"

/** So many fibers read for so long, one statement after the other; the number of reads of each. */
const reading = ({ read }: World, fibers: number, millis: number) =>
  Effect.flatMap(Effect.clock, (clock) => {
    const end = clock.unsafeCurrentTimeMillis() + millis
    const one = Effect.iterate(0, {
      while: () => clock.unsafeCurrentTimeMillis() < end,
      body: (n) => Effect.as(read(), n + 1)
    })
    return Effect.all(
      Arr.makeBy(fibers, () => one),
      { concurrency: "unbounded" }
    )
  })

const stateOf = ({ readers }: World, name: string) =>
  Effect.map(readers.hosts, (hosts) => hosts.find((_) => _.host.id === name))

const faults: ReadonlyArray<{
  readonly what: string
  readonly strike: (world: World) => Effect.Effect<void>
  readonly undo: (world: World) => Effect.Effect<void>
  /** Milliseconds after which nobody is on it any more. */
  readonly within: number
}> = [
  {
    what: "killed",
    strike: ({ cluster }) => cluster.kill("db-2"),
    undo: ({ cluster }) => cluster.start("db-2"),
    within: 100
  },
  {
    what: "frozen",
    strike: ({ cluster }) => cluster.freeze("db-2"),
    undo: ({ cluster }) => cluster.resume("db-2"),
    within: 6500
  },
  {
    what: "cut off from its clients",
    strike: ({ cluster }) => cluster.partition("db-2"),
    undo: ({ cluster }) => cluster.heal("db-2"),
    within: 6500
  },
  {
    what: "restarted",
    strike: ({ cluster }) => cluster.restart("db-2", { downFor: "3 seconds" }),
    undo: () => Effect.void,
    within: 100
  },
  {
    what: "full, and its sessions are ended",
    strike: ({ cluster }) =>
      Effect.zipRight(cluster.refuse("db-2", "53300"), cluster.terminate("db-2")),
    undo: ({ cluster }) => cluster.accept("db-2"),
    within: 100
  }
]

describe("a reader fails while reads are on it", () => {
  for (const { strike, undo, what, within } of faults) {
    test(`${what}: no read fails, and it gets its share again`, { latency: "4 millis" }, (world) =>
      Effect.gen(function* () {
        const { read, ran } = world
        yield* soon(read())
        const fiber = yield* Effect.fork(reading(world, 8, 20_000))
        yield* Effect.sleep("1 second")
        yield* strike(world)
        yield* Effect.sleep(within)
        const before = ran("db-2").length
        yield* Effect.sleep("500 millis")
        assert.strictEqual(ran("db-2").length, before)
        yield* undo(world)
        yield* Effect.sleep("5 seconds")
        assert.deepStrictEqual(yield* soon(hostsOf(read())), ["db-2", "db-3"])
        const seen = yield* soon(Fiber.join(fiber))
        assert.isTrue(seen.every((_) => _ > 500))
      })
    )
  }

  test("slow: reads take the other one, and none fails", { latency: "4 millis" }, (world) =>
    Effect.gen(function* () {
      const { cluster, ran, read } = world
      yield* soon(read())
      yield* cluster.slow("db-2", "500 millis")
      const fiber = yield* Effect.fork(reading(world, 8, 10_000))
      yield* soon(Fiber.join(fiber))
      assert.isBelow(ran("db-2").length, ran("db-3").length / 10)
    })
  )

  test("each of all readers in turn: no read fails", { latency: "4 millis" }, (world) =>
    Effect.gen(function* () {
      const { cluster, read } = world
      yield* soon(read())
      const fiber = yield* Effect.fork(reading(world, 8, 12_000))
      for (const name of ["db-2", "db-3", "db-2", "db-3"]) {
        yield* Effect.sleep("1 second")
        yield* cluster.kill(name)
        yield* Effect.sleep("500 millis")
        yield* cluster.start(name)
        yield* Effect.sleep("1 second")
      }
      yield* soon(Fiber.join(fiber))
    })
  )
})

describe("a statement on a reader", () => {
  for (const fault of ["beforeSend", "beforeExecute", "beforeReply"] as const) {
    test(`its connection breaks (${fault}): run again, the caller notices nothing`, {}, (world) =>
      Effect.gen(function* () {
        const { cluster, read } = world
        yield* read()
        yield* cluster.next(/^SELECT count/, fault)
        const { role } = yield* soon(read())
        assert.strictEqual(role, "reader")
      })
    )
  }

  test("that kills its server each time is sent to three of them at most", {}, (world) =>
    Effect.gen(function* () {
      const { cluster, ran, read } = world
      yield* read()
      for (let i = 0; i < 10; i++) yield* cluster.next(/^SELECT count/, "beforeReply")
      const error = yield* soon(failure(read()))
      assert.instanceOf(error, Errors.FailoverSuccess)
      assert.lengthOf([...ran("db-1"), ...ran("db-2"), ...ran("db-3")], 4)
    })
  )

  test(
    "every host of which is full: PoolTimeout after acquireTimeout",
    { client: { maxConnections: 1, acquireTimeout: "2 seconds" } },
    (world) =>
      Effect.gen(function* () {
        const { look, read, sql } = world
        const busy = yield* Effect.forEach(Arr.range(1, 2), () =>
          Effect.fork(
            Failover.onReader(sql.withTransaction(Effect.zipLeft(look, Effect.sleep("10 seconds"))))
          )
        )
        yield* Effect.sleep("1 second")
        const { exit, millis } = yield* timed(read())
        assert.instanceOf(causeOf(exit), Errors.PoolTimeout)
        assert.strictEqual(millis, 2000)
        yield* Fiber.joinAll(busy)
      })
  )

  for (const fault of ["hang", "hangAfter"] as const) {
    test(
      `no answer within queryTimeout (${fault}): StatementTimeout, and nothing of it remains`,
      { client: { queryTimeout: "3 seconds" } },
      ({ cluster, read }) =>
        Effect.gen(function* () {
          yield* read()
          yield* cluster.next(/^SELECT count/, fault)
          const error = yield* soon(failure(read()))
          assert.instanceOf(error, Errors.StatementTimeout)
          assert.strictEqual(error.outcome, "RolledBack")
        })
    )
  }

  test("the server answers with an error: that error, once", {}, ({ cluster, ran, read }) =>
    Effect.gen(function* () {
      yield* read()
      yield* cluster.next(/^SELECT count/, refuse("40001"))
      assert.propertyVal(yield* failure(read()), "code", "40001")
      assert.lengthOf([...ran("db-2"), ...ran("db-3")], 2)
    })
  )

  test(
    "behind a pooler, cut off after it was sent: FailoverSuccess, with where to go on",
    { client: { prepareStatements: false } },
    ({ cluster, read }) =>
      Effect.gen(function* () {
        yield* read()
        yield* cluster.next(/^SELECT count/, "beforeReply")
        const error = yield* soon(failure(read()))
        assert.instanceOf(error, Errors.FailoverSuccess)
        assert.deepStrictEqual([error.sent, error.role], [true, "reader"])
      })
  )

  test("... before it was sent: run again", { client: { prepareStatements: false } }, (world) =>
    Effect.gen(function* () {
      const { cluster, read } = world
      yield* read()
      yield* cluster.next(/^SELECT count/, "beforeSend")
      yield* soon(read())
    })
  )

  test("is interrupted at once, and its session ends", {}, ({ cluster, read }) =>
    Effect.gen(function* () {
      yield* read()
      yield* Effect.sleep("1 second")
      const before = cluster.sessions()
      yield* cluster.next(/^SELECT count/, "hang")
      const fiber = yield* Effect.fork(read())
      yield* settle
      assert.isTrue(Exit.isInterrupted(yield* Fiber.interrupt(fiber)))
      assert.isAtMost(cluster.sessions(), before)
    })
  )

  test("nobody lets us in: told at once; and let in as soon as somebody does", {}, (world) =>
    Effect.gen(function* () {
      const { cluster, read } = world
      for (const { id } of cluster.hosts) yield* cluster.refuse(id, "28P01")
      const error = yield* failure(read())
      assert.instanceOf(error, Errors.ConnectionRejected)
      assert.strictEqual(error.sqlState, "28P01")
      yield* Effect.sleep("3 seconds")
      for (const { id } of cluster.hosts) yield* cluster.accept(id)
      yield* soon(read(), 50)
    })
  )

  test("nobody lets us in: nobody logs in again until somebody asks", {}, (world) =>
    Effect.gen(function* () {
      const { cluster, read } = world
      for (const { id } of cluster.hosts) yield* cluster.refuse(id, "28P01")
      yield* failure(read())
      yield* Effect.sleep("5 seconds")
      for (const { id } of cluster.hosts) yield* cluster.accept(id)
      yield* Effect.sleep("20 seconds")
      assert.strictEqual(cluster.sessions(), 0)
      assert.strictEqual((yield* soon(read())).role, "reader")
    })
  )

  test("one reader does not let us in: the other one is read from", {}, ({ cluster, read }) =>
    Effect.gen(function* () {
      yield* cluster.refuse("db-2", "28P01")
      assert.deepStrictEqual(yield* hostsOf(read()), ["db-3"])
      yield* cluster.accept("db-2")
      yield* Effect.sleep("3 seconds")
      assert.deepStrictEqual(yield* hostsOf(read()), ["db-2", "db-3"])
    })
  )
})

describe("a transaction on a reader", () => {
  const twoReads = ({ look, sql }: World) =>
    Failover.onReader(
      sql.withTransaction(Effect.zip(look, Effect.delay(Effect.zip(look, look), "1 second")))
    )

  test("stays on one host", {}, (world) =>
    Effect.gen(function* () {
      for (let i = 0; i < 10; i++) {
        const [first, [second, third]] = yield* soon(twoReads(world))
        assert.strictEqual(first.role, "reader")
        assert.deepStrictEqual([second.host, third.host], [first.host, first.host])
      }
      assert.deepStrictEqual(yield* hostsOf(world.read()), ["db-2", "db-3"])
    })
  )

  test("shares a host with nested ones, and a statement that says onReader", {}, (world) =>
    Effect.gen(function* () {
      const { look, read, sql } = world
      const seen = yield* Failover.onReader(
        sql.withTransaction(Effect.all([look, sql.withTransaction(look), read(), look]))
      )
      assert.lengthOf([...new Set(seen.map((_) => _.host))], 1)
    })
  )

  for (const fault of ["kill", "freeze", "partition"] as const) {
    test(`its host is lost (${fault}): rolled back, and safe to run again`, {}, (world) =>
      Effect.gen(function* () {
        const { cluster, look, sql } = world
        const transaction = Failover.onReader(
          sql.withTransaction(
            Effect.flatMap(look, ({ host }) => Effect.zipRight(cluster[fault](host), look))
          )
        )
        const exit = yield* soon(Effect.exit(transaction))
        const error = causeOf(exit)
        assert.instanceOf(error, Errors.TransactionResolutionUnknown)
        assert.deepStrictEqual([error.outcome, error.role], ["RolledBack", "reader"])
        assert.notStrictEqual(error.to.id, error.from.id)
        assert.isTrue(Failover.isSafeToRetry(error))
        const seen = yield* soon(twoReads(world))
        assert.strictEqual(seen[0].host, error.to.id)
      })
    )
  }

  for (const fault of ["beforeSend", "beforeExecute", "beforeReply"] as const) {
    test(`BEGIN is cut off (${fault}): begun again`, {}, (world) =>
      Effect.gen(function* () {
        yield* world.read()
        yield* world.cluster.next(/^BEGIN/, fault)
        const [first] = yield* soon(twoReads(world))
        assert.strictEqual(first.role, "reader")
      })
    )
  }

  test(
    "BEGIN is cut off behind a pooler: begun again, for it had done nothing",
    { client: { prepareStatements: false } },
    (world) =>
      Effect.gen(function* () {
        yield* world.read()
        yield* world.cluster.next(/^BEGIN/, "beforeReply")
        yield* soon(twoReads(world))
      })
  )

  for (const fault of ["beforeExecute", "beforeReply"] as const) {
    test(`COMMIT is not answered (${fault}): success, there was nothing to commit`, {}, (world) =>
      Effect.gen(function* () {
        yield* world.read()
        yield* world.cluster.next(/^COMMIT/, fault)
        const [first] = yield* soon(twoReads(world))
        assert.strictEqual(first.role, "reader")
      })
    )
  }

  test(
    "COMMIT on a promoted host behind a pooler is not answered: nothing could be written",
    { client: { prepareStatements: false } },
    ({ cluster, look, sql, write }) =>
      Effect.gen(function* () {
        yield* cluster.next(/^COMMIT/, "beforeReply")
        const work = Failover.onReader(
          sql.withTransaction(
            Effect.gen(function* () {
              const { host } = yield* look
              yield* Effect.sleep("100 millis")
              return yield* Effect.as(write(1), host)
            })
          )
        )
        const connected = yield* Effect.forEach(
          ["db-2", "db-3"],
          () =>
            Effect.fork(Failover.onReader(sql.withTransaction(Effect.delay(look, "20 millis")))),
          { concurrency: "unbounded" }
        )
        yield* soon(Fiber.joinAll(connected))
        // Connections were opened to readers; now one of them leads to the writer, and the member is not asked yet.
        yield* cluster.kill("db-1")
        yield* cluster.promote("db-2")
        const exits = yield* soon(Effect.replicateEffect(Effect.exit(work), 6))
        assert.deepStrictEqual(cluster.committed(), [])
        for (const exit of exits) assert.instanceOf(causeOf(exit), Errors.WriteOnReader)
      })
  )
})

describe("a reserved connection to a reader", () => {
  test("stays on one host, and is told of its loss", {}, ({ cluster, read, sql }) =>
    Effect.gen(function* () {
      const exit = yield* soon(
        Effect.exit(
          Effect.scoped(
            Effect.gen(function* () {
              const connection = yield* Failover.onReader(sql.reserve)
              const look = connection.execute("SELECT 1 AS one", [], undefined)
              const [row] = yield* look
              const host: unknown = row.host
              assert.include(["db-2", "db-3"], host)
              yield* cluster.kill(String(host))
              yield* look
            })
          )
        )
      )
      const error = causeOf(exit)
      assert.instanceOf(error, Errors.FailoverSuccess)
      assert.strictEqual(error.role, "reader")
      assert.notStrictEqual(error.to.id, error.from.id)
      assert.strictEqual((yield* soon(read())).host, error.to.id)
    })
  )
})

describe("a stream from a reader", () => {
  const rows = (world: World) =>
    Failover.onReader(
      Stream.runCollect(world.sql`SELECT many`.stream).pipe(Effect.map(Chunk.toReadonlyArray))
    )

  for (const fault of ["beforeSend", "beforeExecute", "beforeReply"] as const) {
    test(`cut off before its first row (${fault}): begun again`, {}, (world) =>
      Effect.gen(function* () {
        yield* world.read()
        yield* world.cluster.next(/^SELECT many/, fault)
        assert.lengthOf(yield* soon(rows(world)), 1)
      })
    )
  }

  test(
    "cut off again and again before it was sent: given up at failoverTimeout",
    { client: { failoverTimeout: "5 seconds" } },
    (world) =>
      Effect.gen(function* () {
        yield* world.read()
        for (let i = 0; i < 100; i++) yield* world.cluster.next(/^SELECT many/, "beforeSend")
        const error = yield* soon(failure(rows(world)), "6 seconds")
        assert.instanceOf(error, Errors.FailoverFailed)
        assert.deepStrictEqual([error.reason, error.outcome], ["Timeout", "NotExecuted"])
      })
  )

  test("that kills its server each time is sent to three of them at most", {}, (world) =>
    Effect.gen(function* () {
      const { cluster, ran } = world
      yield* world.read()
      for (let i = 0; i < 10; i++) yield* cluster.next(/^SELECT many/, "beforeReply")
      assert.instanceOf(yield* soon(failure(rows(world))), Errors.FailoverSuccess)
      assert.lengthOf(
        [...ran("db-1"), ...ran("db-2"), ...ran("db-3")].filter((_) => _ === "SELECT many"),
        3
      )
    })
  )

  test(
    "cut off after its first rows: FailoverSuccess, and no row comes twice",
    { rows: 300 },
    (world) =>
      Effect.gen(function* () {
        const { cluster } = world
        yield* world.read()
        let seen = 0
        const error = yield* soon(
          failure(
            Failover.onReader(
              Stream.runForEach(
                world.sql<{ readonly host: string }>`SELECT many`.stream,
                ({ host }) =>
                  Effect.zipRight(
                    Effect.sync(() => seen++),
                    seen === 0 ? cluster.kill(host) : Effect.void
                  )
              )
            )
          )
        )
        assert.instanceOf(error, Errors.FailoverSuccess)
        assert.strictEqual(error.role, "reader")
        assert.isAbove(seen, 0)
        assert.isBelow(seen, 300)
      })
  )

  test("its connections are given back, also those that broke", {}, (world) =>
    Effect.gen(function* () {
      const { cluster, readers } = world
      yield* world.read()
      const outstanding = Effect.map(readers.hosts, (hosts) =>
        hosts.reduce((sum, _) => sum + _.outstanding, 0)
      )
      yield* cluster.next(/^SELECT many/, "beforeReply")
      yield* soon(
        Failover.onReader(
          Stream.runForEach(world.sql`SELECT many`.stream, () =>
            Effect.map(outstanding, (n) => assert.strictEqual(n, 1))
          )
        )
      )
      assert.strictEqual(yield* outstanding, 0)
    })
  )
})

describe("a write on a reader", () => {
  const insert = "INSERT INTO item (id) VALUES (1)"
  const ways: ReadonlyArray<readonly [string, (world: World) => Effect.Effect<unknown, unknown>]> =
    [
      ["a statement", ({ write }) => write(1)],
      ["values", ({ write }) => write(1).values],
      ["raw", ({ write }) => write(1).raw],
      ["unprepared", ({ write }) => write(1).unprepared],
      ["withoutTransforms", ({ sql }) => sql.withoutTransforms()`INSERT INTO item (id) VALUES (1)`],
      ["a stream", ({ write }) => Stream.runDrain(write(1).stream)],
      ["a transaction", ({ sql, write }) => sql.withTransaction(write(1))],
      [
        "a stream in a transaction",
        ({ sql, write }) => sql.withTransaction(Stream.runDrain(write(1).stream))
      ],
      [
        "a reserved connection",
        ({ sql }) =>
          Effect.scoped(Effect.flatMap(sql.reserve, (_) => _.execute(insert, [], undefined)))
      ]
    ]
  for (const [way, run] of ways) {
    test(`${way}: WriteOnReader, and nothing is written`, {}, (world) =>
      Effect.gen(function* () {
        const error = yield* failure(Failover.onReader(run(world)))
        assert.instanceOf(error, Errors.WriteOnReader)
        assert.strictEqual(error.outcome, "NotExecuted")
        assert.include(["db-2", "db-3"], error.host.id)
        assert.include(error.hint, "onWriter")
        assert.deepStrictEqual(world.cluster.committed(), [])
      })
    )
  }

  test("also when the reader has become the writer", {}, (world) =>
    Effect.gen(function* () {
      const { cluster, read, write } = world
      yield* Effect.all(
        Array.from({ length: 12 }, () => read()),
        { concurrency: "unbounded" }
      )
      yield* cluster.kill("db-1")
      yield* cluster.promote("db-2")
      yield* cluster.kill("db-3")
      yield* Effect.sleep("5 seconds")
      assert.strictEqual((yield* soon(read())).role, "writer")
      assert.instanceOf(yield* failure(Failover.onReader(write(1))), Errors.WriteOnReader)
      assert.deepStrictEqual(cluster.committed(), [])
    })
  )
})

describe("a member", () => {
  test("whose line breaks is asked on a new one at once", {}, (world) =>
    Effect.gen(function* () {
      yield* world.read()
      yield* world.cluster.terminate("db-2")
      yield* settle
      assert.strictEqual((yield* stateOf(world, "db-2"))?.availability, "available")
    })
  )

  test("whose line breaks and cannot be opened is unavailable, with the reason", {}, (world) =>
    Effect.gen(function* () {
      yield* world.read()
      yield* world.cluster.kill("db-2")
      yield* settle
      const state = yield* stateOf(world, "db-2")
      assert.strictEqual(state?.availability, "unavailable")
      assert.include(state?.lastError ?? "", "ECONNREFUSED")
      assert.strictEqual(state?.connections, 0)
    })
  )

  test(
    "that does not answer in time is unavailable, and what hangs on it is run elsewhere",
    {},
    (world) =>
      Effect.gen(function* () {
        const { cluster, read } = world
        yield* read()
        yield* cluster.freeze("db-2")
        const fibers = yield* Effect.forEach(Array.from({ length: 10 }), () => Effect.fork(read()))
        const seen = yield* soon(Fiber.joinAll(fibers), 7000)
        assert.deepStrictEqual([...new Set(seen.map((_) => _.host))], ["db-3"])
        assert.include((yield* stateOf(world, "db-2"))?.lastError ?? "", "no sign of life")
      })
  )

  test("that a connection failed on gets nobody else until it has answered", {}, (world) =>
    Effect.gen(function* () {
      const { cluster, ran, read, readers } = world
      yield* Effect.all(
        Arr.makeBy(40, () => read()),
        { concurrency: "unbounded" }
      )
      for (const name of ["db-2", "db-3"]) yield* cluster.slow(name, "300 millis")
      yield* cluster.next(/^SELECT count/, "beforeExecute")
      const fiber = yield* Effect.fork(read())
      yield* Effect.sleep(100)
      const suspects = (yield* readers.hosts).filter((_) => _.availability === "unknown")
      assert.lengthOf(suspects, 1)
      const [suspect = ""] = suspects.map((_) => _.host.id)
      const before = ran(suspect).length
      const others = yield* Effect.forEach(Arr.range(1, 10), () => Effect.fork(read()))
      yield* Effect.sleep(100)
      assert.strictEqual(ran(suspect).length, before)
      const seen = yield* soon(Fiber.joinAll([fiber, ...others]))
      assert.notInclude(
        seen.map((_) => _.host),
        suspect
      )
      assert.deepStrictEqual(yield* hostsOf(read()), ["db-2", "db-3"])
    })
  )

  test("that freezes and goes on is read from again", {}, (world) =>
    Effect.gen(function* () {
      const { cluster, read } = world
      yield* read()
      yield* cluster.freeze("db-2")
      yield* Effect.sleep("10 seconds")
      assert.deepStrictEqual(yield* hostsOf(read()), ["db-3"])
      yield* cluster.resume("db-2")
      yield* Effect.sleep("2 seconds")
      assert.deepStrictEqual(yield* hostsOf(read()), ["db-2", "db-3"])
    })
  )
})
