import { assert, describe, it } from "@effect/vitest"
import { Reactivity } from "@effect/experimental"
import { SqlClient } from "@effect/sql"
import { PgClient } from "@effect/sql-pg"
import { Chunk, Duration, Effect, Fiber, Layer, Schedule, Stream, TestClock } from "effect"
import { CommitResolution, Errors, Failover, Topology } from "effect-failover"
import * as Test from "effect-failover/layers/Test"
import * as SimulatedCluster from "effect-failover/testing/SimulatedCluster"

/** A user's service: it transfers money, and has a policy of its own for what goes wrong. */
class Bank extends Effect.Service<Bank>()("Bank", {
  effect: Effect.map(SqlClient.SqlClient, (sql) => {
    const entry = (account: string, cents: number) =>
      sql`INSERT INTO entry (account, cents) VALUES (${account}, ${cents})`
    return {
      /** Thinks between its two statements, so that a test can do something then. */
      transfer: (from: string, to: string, cents: number) =>
        entry(from, -cents).pipe(
          Effect.delay("1 second"),
          Effect.zipRight(Effect.delay(entry(to, cents), "1 second")),
          sql.withTransaction,
          Effect.retry({ while: Failover.isSafeToRetry, schedule: Schedule.recurs(3) }),
          Failover.outcomes
        ),
      deposit: (account: string, cents: number) => Failover.outcomes(entry(account, cents))
    }
  })
}) {}

const bank = (options?: Test.Options) => Layer.provideMerge(Bank.Default, Test.layer(options))

const accounts = (cluster: Test.Cluster) => cluster.committed().map((_) => _.params[0])

const statements = (cluster: Test.Cluster) =>
  cluster.log.filter((_) => !_.isInternal).map((_) => `${_.host} ${_.sql.split(" ")[0]}`)

/** Runs until it ends, however long that takes. */
const eventually = <A, E>(fiber: Fiber.RuntimeFiber<A, E>) =>
  Effect.gen(function* () {
    for (let i = 0; i < 60 && fiber.unsafePoll() === null; i++) {
      yield* TestClock.adjust("500 millis")
    }
    return yield* Fiber.join(fiber)
  })

const settle = Effect.yieldNow().pipe(Effect.repeatN(100))

describe("a service with a retry policy", () => {
  it.effect("in a failover in the middle of its transaction: done once, on the new writer", () =>
    Effect.gen(function* () {
      const cluster = yield* Test.Cluster
      const fiber = yield* Effect.fork(Bank.use((_) => _.transfer("ann", "bob", 100)))
      yield* TestClock.adjust("1500 millis")
      yield* cluster.failover({ promoteAfter: "2 seconds" })
      yield* eventually(fiber)
      assert.deepStrictEqual(accounts(cluster), ["ann", "bob"])
      assert.deepStrictEqual(statements(cluster), [
        "db-1 BEGIN",
        "db-1 INSERT",
        "db-2 BEGIN",
        "db-2 INSERT",
        "db-2 INSERT",
        "db-2 COMMIT"
      ])
    }).pipe(Effect.provide(bank()))
  )

  it.effect("in an orderly switchover: likewise", () =>
    Effect.gen(function* () {
      const cluster = yield* Test.Cluster
      const fiber = yield* Effect.fork(Bank.use((_) => _.transfer("ann", "bob", 100)))
      yield* TestClock.adjust("1500 millis")
      yield* cluster.switchover("db-3")
      yield* eventually(fiber)
      assert.deepStrictEqual(accounts(cluster), ["ann", "bob"])
      assert.strictEqual(yield* cluster.writer, "db-3")
    }).pipe(Effect.provide(bank({ replication: "synchronous" })))
  )

  for (const [fault, there] of [
    ["beforeExecute", []],
    ["beforeReply", ["ann", "bob"]]
  ] as const) {
    it.effect(`when its COMMIT is not answered (${fault}): told so, and not run again`, () =>
      Effect.gen(function* () {
        const cluster = yield* Test.Cluster
        yield* cluster.next(/^COMMIT/, fault)
        const fiber = yield* Effect.fork(
          Effect.flip(Bank.use((_) => _.transfer("ann", "bob", 100)))
        )
        const error = yield* eventually(fiber)
        assert.instanceOf(error, Errors.TransactionResolutionUnknown)
        assert.strictEqual(error.outcome, "Unknown")
        assert.deepStrictEqual(accounts(cluster), [...there])
      }).pipe(Effect.provide(bank()))
    )

    for (const [name, commitResolution] of [
      ["transaction-status", "transaction-status"],
      ["a ledger", CommitResolution.ledger()]
    ] as const) {
      it.effect(`when its COMMIT is not answered (${fault}), with ${name}: done once`, () =>
        Effect.gen(function* () {
          const cluster = yield* Test.Cluster
          yield* cluster.next(/^COMMIT/, fault)
          const fiber = yield* Effect.fork(Bank.use((_) => _.transfer("ann", "bob", 100)))
          yield* eventually(fiber)
          const written = cluster.committed().filter((_) => _.sql.includes("INTO entry"))
          assert.deepStrictEqual(
            written.map((_) => _.params[0]),
            ["ann", "bob"]
          )
        }).pipe(Effect.provide(bank({ client: { commitResolution } })))
      )

      it.effect(`... and the writer dies with it (${fault}, ${name}): done once, too`, () =>
        Effect.gen(function* () {
          const cluster = yield* Test.Cluster
          yield* cluster.next(/^COMMIT/, fault === "beforeReply" ? "hangAfter" : "hang")
          const fiber = yield* Effect.fork(Bank.use((_) => _.transfer("ann", "bob", 100)))
          yield* TestClock.adjust("2 seconds")
          assert.deepStrictEqual(statements(cluster).at(-1), "db-1 COMMIT")
          yield* cluster.failover({ promoteAfter: "1 second" })
          yield* eventually(fiber)
          const written = cluster.committed().filter((_) => _.sql.includes("INTO entry"))
          assert.deepStrictEqual(
            written.map((_) => _.params[0]),
            ["ann", "bob"]
          )
        }).pipe(Effect.provide(bank({ client: { commitResolution } })))
      )
    }
  }

  it.effect("when the old writer comes back and takes itself for one: not sent there", () =>
    Effect.gen(function* () {
      const cluster = yield* Test.Cluster
      yield* Bank.use((_) => _.deposit("ann", 1))
      yield* cluster.freeze("db-1")
      const fiber = yield* Effect.fork(Effect.flip(Bank.use((_) => _.deposit("bob", 2))))
      yield* cluster.promote("db-2")
      const error = yield* eventually(fiber)
      assert.instanceOf(error.cause, Errors.StatementTimeout)
      // Two probes of 5 s each are not answered, and the search finds the new writer.
      yield* TestClock.adjust("15 seconds")
      yield* cluster.resume("db-1")
      yield* eventually(yield* Effect.fork(Bank.use((_) => _.deposit("cid", 3))))
      // What had arrived at the frozen writer was executed there, in vain: its outcome was told as unknown.
      assert.deepStrictEqual(
        cluster.committed("db-1").map((_) => _.params[0]),
        ["ann", "bob"]
      )
      assert.deepStrictEqual(accounts(cluster), ["ann", "cid"])
    }).pipe(Effect.provide(bank({ client: { queryTimeout: "3 seconds" } })))
  )

  it.effect("when no connection is let in: told at once, with the reason", () =>
    Effect.gen(function* () {
      const cluster = yield* Test.Cluster
      for (const { id } of cluster.hosts) yield* cluster.refuse(id, "28P01")
      const error = yield* Effect.flip(Bank.use((_) => _.deposit("ann", 1)))
      assert.instanceOf(error, Errors.ConnectionRejected)
      assert.deepStrictEqual([error.reason, error.sqlState], ["Credentials", "28P01"])
      for (const { id } of cluster.hosts) yield* cluster.accept(id)
      yield* Bank.use((_) => _.deposit("ann", 1))
    }).pipe(Effect.provide(bank()))
  )

  it.effect("when there is no writer before failoverTimeout: FailoverFailed", () =>
    Effect.gen(function* () {
      const cluster = yield* Test.Cluster
      yield* Bank.use((_) => _.deposit("ann", 1))
      yield* cluster.kill("db-1")
      const fiber = yield* Effect.fork(Effect.flip(Bank.use((_) => _.deposit("ann", 2))))
      const error = yield* eventually(fiber)
      assert.instanceOf(error, Errors.FailoverFailed)
      assert.deepStrictEqual([error.reason, error.outcome], ["Timeout", "NotExecuted"])
    }).pipe(Effect.provide(bank({ client: { failoverTimeout: "3 seconds" } })))
  )
})

describe("the layer", () => {
  it.effect("connects to nothing before it is needed, and leaves nothing behind", () =>
    Effect.gen(function* () {
      const cluster = yield* SimulatedCluster.make()
      yield* Effect.scoped(
        Effect.gen(function* () {
          const { client } = yield* Test.client(cluster)
          yield* TestClock.adjust("1 minute")
          assert.strictEqual(cluster.sessions(), 0)
          yield* client`SELECT 1`
          assert.isAbove(cluster.sessions(), 0)
        })
      )
      assert.strictEqual(cluster.sessions(), 0)
    }).pipe(Effect.scoped, Effect.provide(Reactivity.layer))
  )

  for (const times of [
    { promotionTime: "2 seconds", staleLists: "500 millis" },
    { promotionTime: "500 millis", staleLists: "2 seconds" }
  ] as const) {
    it.effect(
      `follows the writer of an aurora cluster past old lists: ${JSON.stringify(times)}`,
      () =>
        Effect.gen(function* () {
          const cluster = yield* Test.Cluster
          const topology = yield* Topology.Topology
          yield* Bank.use((_) => _.deposit("ann", 1))
          yield* cluster.failover({ promoteAfter: "1 second" })
          const fiber = yield* Effect.fork(Bank.use((_) => _.deposit("bob", 2)))
          yield* TestClock.adjust("2900 millis")
          assert.strictEqual(topology.unsafeCurrent().phase._tag, "Searching")
          yield* eventually(fiber)
          assert.deepStrictEqual(accounts(cluster), ["ann", "bob"])
          assert.strictEqual(topology.unsafeCurrent().writer?.host.id, "db-2")
        }).pipe(Effect.provide(bank({ flavor: "aurora", ...times })))
    )
  }

  it.effect("finds the other hosts when it is given one", () =>
    Effect.gen(function* () {
      const cluster = yield* Test.Cluster
      yield* Bank.use((_) => _.deposit("ann", 1))
      yield* cluster.failover()
      yield* eventually(yield* Effect.fork(Bank.use((_) => _.deposit("bob", 2))))
      assert.deepStrictEqual(accounts(cluster), ["ann", "bob"])
    }).pipe(Effect.provide(bank({ client: { hosts: ["db-1"] } })))
  )

  it.effect("listens on the new writer after a failover", () =>
    Effect.gen(function* () {
      const cluster = yield* Test.Cluster
      const sql = yield* PgClient.PgClient
      const heard = yield* Effect.fork(Stream.runCollect(Stream.take(sql.listen("jobs"), 2)))
      yield* settle
      yield* sql.notify("jobs", "1")
      yield* cluster.failover()
      yield* TestClock.adjust("2 seconds")
      yield* sql.notify("jobs", "2")
      assert.deepStrictEqual(Chunk.toReadonlyArray(yield* eventually(heard)), ["1", "2"])
    }).pipe(Effect.provide(Test.layer()))
  )

  it.effect("answers what the test says, from what has been written", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient.SqlClient
      yield* sql`INSERT INTO entry ${sql.insert({ account: "ann", cents: 3 })}`
      assert.deepStrictEqual(yield* sql`SELECT count(*) FROM entry`, [{ count: 1, host: "db-1" }])
      const inserted = sql`INSERT INTO entry ${sql.insert({ account: "bob" }).returning("*")}`
      assert.deepStrictEqual(yield* inserted, [{ id: 2 }])
    }).pipe(
      Effect.provide(
        Test.layer({
          answer: ({ sql }, { host, writes }) =>
            sql.startsWith("INSERT")
              ? [{ id: writes().length + 1 }]
              : [{ count: writes().length, host }]
        })
      )
    )
  )

  it.effect("two clients of one cluster share its topology, unless they are told not to", () =>
    Effect.gen(function* () {
      const cluster = yield* SimulatedCluster.make()
      const one = yield* Test.client(cluster)
      const two = yield* Test.client(cluster)
      const apart = yield* Test.client(cluster, { clusterId: "another process" })
      assert.strictEqual(one.topology, two.topology)
      assert.notStrictEqual(one.topology, apart.topology)
      const other = yield* Test.make()
      assert.notStrictEqual(one.topology, other.topology)
      assert.strictEqual(Duration.toMillis(one.failover.timeout), 300_000)
    }).pipe(Effect.scoped, Effect.provide(Reactivity.layer))
  )
})

// The example of the module's own page.
it.effect("a transfer survives the loss of the writer", () =>
  Effect.gen(function* () {
    const sql = yield* SqlClient.SqlClient
    const cluster = yield* Test.Cluster
    const transfer = sql
      .withTransaction(Effect.delay(sql`INSERT INTO transfer (id) VALUES (${1})`, "1 second"))
      .pipe(Effect.retry({ while: Failover.isSafeToRetry, schedule: Schedule.recurs(3) }))
    const fiber = yield* Effect.fork(transfer)
    yield* TestClock.adjust("500 millis")
    yield* cluster.failover({ promoteAfter: "2 seconds" })
    yield* TestClock.adjust("5 seconds")
    yield* Fiber.join(fiber)
    if (cluster.committed().length !== 1) throw new Error("not exactly once")
  }).pipe(Effect.provide(Test.layer()))
)
