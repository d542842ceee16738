/** What a session has that a failover takes away, and what a transaction is asked to be; real servers. */
import { assert, layer } from "@effect/vitest"
import { Deferred, Effect, Exit, Fiber, Schedule } from "effect"
import { Failover, SqlFailover } from "effect-failover"
import type { Database } from "../support/database.js"
import {
  assertOutcome,
  causeOf,
  clusterLayer,
  countOf,
  idleIsGone,
  openWarm,
  running
} from "../support/database.js"
import { expectNothingUnhandled } from "../support/unhandled.js"
import { within } from "../support/waiting.js"

expectNothingUnhandled()

const killAndPromote = ({ cluster }: Database) =>
  Effect.flatMap(cluster.primary, (primary) =>
    Effect.zipRight(cluster.kill(primary), cluster.promote())
  )

const insert = ({ client: sql, table }: Database, id: number) =>
  sql`INSERT INTO ${sql(table)} ${sql.insert({ id })}`

const show = ({ client: sql }: Database, name: string) =>
  Effect.map(sql.unsafe<Record<string, string>>(`SHOW ${name}`), ([row]) => row?.[name])

/** On a reserved connection. */
const run = (connection: Effect.Effect.Success<Database["client"]["reserve"]>, statement: string) =>
  connection.executeUnprepared(statement, [], undefined)

const retried = <A, E>({ failover }: Database, self: Effect.Effect<A, E>) =>
  Failover.retryTransaction(self, Schedule.recurs(5)).pipe(
    Effect.provideService(Failover.Failover, failover)
  )

layer(clusterLayer(), { excludeTestServices: true })("a session", (it) => {
  it.scoped("what was SET on a reserved connection is reported as lost, and stays lost", () =>
    Effect.gen(function* () {
      const db = yield* openWarm()
      const connection = yield* db.client.reserve
      yield* run(connection, "SET statement_timeout = '1234s'")
      yield* killAndPromote(db)
      yield* idleIsGone(db)
      for (const _ of [1, 2]) {
        const exit = yield* Effect.exit(run(connection, "SHOW statement_timeout"))
        const error = causeOf(exit)
        assert.strictEqual(error._tag, "FailoverSuccess")
        if (!error.sent) assert.match(error.hint, /reserve a connection anew, set up its session/)
      }
    })
  )

  it.scoped(
    "a connection reserved anew works, and has nothing of what was SET on the old one",
    () =>
      Effect.gen(function* () {
        const db = yield* openWarm()
        yield* Effect.scoped(
          Effect.gen(function* () {
            const connection = yield* db.client.reserve
            yield* run(connection, "SET statement_timeout = '1234s'")
            yield* killAndPromote(db)
            assert.isTrue(Exit.isFailure(yield* Effect.exit(run(connection, "SELECT 1"))))
          })
        )
        const again = yield* db.client.reserve
        assert.deepStrictEqual(yield* run(again, "SHOW statement_timeout"), [
          { statement_timeout: "0" }
        ])
      })
  )

  it.scoped("a statement cut off on a reserved connection: FailoverSuccess, unknown", () =>
    Effect.gen(function* () {
      const db = yield* openWarm()
      const primary = yield* db.cluster.primary
      const connection = yield* db.client.reserve
      const fiber = yield* Effect.fork(run(connection, "SELECT pg_sleep(600)"))
      yield* running(db, primary, "pg_sleep")
      yield* killAndPromote(db)
      const exit = yield* Fiber.await(fiber).pipe(within("the statement to end"))
      assertOutcome(exit, { _tag: "FailoverSuccess", outcome: "Unknown" })
    })
  )

  it.scoped("sessionSetup is there after a failover: pooled, reserved, in a transaction", () =>
    Effect.gen(function* () {
      const db = yield* openWarm({ sessionSetup: "SET statement_timeout = '1234s'" })
      yield* killAndPromote(db)
      const inTransaction = yield* db.client.withTransaction(show(db, "statement_timeout"))
      const connection = yield* db.client.reserve
      assert.deepStrictEqual(
        [
          inTransaction,
          yield* show(db, "statement_timeout"),
          yield* run(connection, "SHOW statement_timeout")
        ],
        ["1234s", "1234s", [{ statement_timeout: "1234s" }]]
      )
    })
  )

  it.scoped(
    "sessionSetup as an effect runs once for each connection, before its first statement",
    () =>
      Effect.gen(function* () {
        const runs: Array<string> = []
        const db = yield* openWarm({
          sessionSetup: (sql) =>
            Effect.tap(sql`SET statement_timeout = '77s'`, () =>
              Effect.sync(() => runs.push("run"))
            )
        })
        for (const _ of [1, 2, 3]) yield* show(db, "statement_timeout")
        assert.lengthOf(runs, 1)
        yield* killAndPromote(db)
        assert.strictEqual(yield* show(db, "statement_timeout"), "77s")
      })
  )
})

layer(clusterLayer(), { excludeTestServices: true })("an isolated transaction", (it) => {
  for (const level of ["read committed", "repeatable read", "serializable"] as const) {
    it.scoped(`is ${level} at the server, and the next one is not`, () =>
      Effect.gen(function* () {
        const db = yield* openWarm({ maxConnections: 1 })
        const isolation = db.client.withTransaction(show(db, "transaction_isolation"))
        assert.strictEqual(yield* SqlFailover.withIsolation(isolation, { level }), level)
        assert.strictEqual(yield* isolation, "read committed")
      })
    )
  }

  it.scoped("is what the outermost says, also for a nested one that says otherwise", () =>
    Effect.gen(function* () {
      const db = yield* openWarm()
      const inner = db.client
        .withTransaction(show(db, "transaction_isolation"))
        .pipe(SqlFailover.withIsolation({ level: "read committed" }))
      const outer = SqlFailover.withIsolation(db.client.withTransaction(inner), {
        level: "serializable"
      })
      assert.strictEqual(yield* outer, "serializable")
    })
  )

  it.scoped("keeps its isolation where BEGIN was moved to the new writer", () =>
    Effect.gen(function* () {
      const db = yield* openWarm()
      yield* killAndPromote(db)
      const isolation = yield* db.client
        .withTransaction(show(db, "transaction_isolation"))
        .pipe(SqlFailover.withIsolation({ level: "repeatable read" }))
      assert.strictEqual(isolation, "repeatable read")
    })
  )

  it.scoped("read-only and deferrable are told to the server", () =>
    Effect.gen(function* () {
      const db = yield* openWarm()
      const flags = db.client.withTransaction(
        Effect.all([show(db, "transaction_read_only"), show(db, "transaction_deferrable")])
      )
      const isolation = { level: "serializable", readOnly: true, deferrable: true } as const
      assert.deepStrictEqual(yield* SqlFailover.withIsolation(flags, isolation), ["on", "on"])
      assert.deepStrictEqual(yield* flags, ["off", "off"])
    })
  )

  it.scoped("read-only refuses to write: the server's error, and the client stays", () =>
    Effect.gen(function* () {
      const db = yield* openWarm()
      const exit = yield* db.client
        .withTransaction(insert(db, 1))
        .pipe(SqlFailover.withIsolation({ readOnly: true }), Effect.exit)
      assert.strictEqual(causeOf(exit).code, "25006")
      yield* insert(db, 2)
      assert.deepStrictEqual([yield* countOf(db, 1), yield* countOf(db, 2)], [0, 1])
      assert.deepStrictEqual(yield* db.failovers, { noticed: 0, connected: 0 })
    })
  )

  it.scoped("two that skew each other's view: one is refused by 40001, and run again", () =>
    Effect.gen(function* () {
      const db = yield* openWarm()
      const { client: sql, table } = db
      let runs = 0
      const bothRead = yield* Deferred.make<void>()
      /** Stores how many rows it sees; serial transactions see different numbers. */
      const count = Effect.suspend(() => {
        const run = ++runs
        return sql.withTransaction(
          Effect.gen(function* () {
            const [row] = yield* sql<{ n: number }>`SELECT count(*)::int AS n FROM ${sql(table)}`
            if (run === 2) yield* Deferred.succeed(bothRead, void 0)
            yield* Deferred.await(bothRead)
            yield* insert(db, Number(row?.n))
          })
        )
      }).pipe(SqlFailover.withIsolation({ level: "serializable" }))
      yield* Effect.all([retried(db, count), retried(db, count)], { concurrency: 2 }).pipe(
        within("both transactions")
      )
      const found = yield* Effect.forEach([0, 1], (n) => countOf(db, n))
      assert.deepStrictEqual([runs >= 3, found], [true, [1, 1]])
    })
  )

  it.scoped("two that lock each other out: one is refused by 40P01, and run again", () =>
    Effect.gen(function* () {
      const db = yield* openWarm({ sessionSetup: "SET deadlock_timeout = '10ms'" })
      const { client: sql, table } = db
      for (const id of [1, 2]) yield* insert(db, id)
      let runs = 0
      const bothLocked = yield* Deferred.make<void>()
      const touch = (id: number) => sql`UPDATE ${sql(table)} SET id = id WHERE id = ${id}`
      const swap = (first: number, second: number) =>
        Effect.suspend(() => {
          const run = ++runs
          return sql.withTransaction(
            Effect.gen(function* () {
              yield* touch(first)
              if (run === 2) yield* Deferred.succeed(bothLocked, void 0)
              yield* Deferred.await(bothLocked)
              yield* touch(second)
            })
          )
        })
      yield* Effect.all([retried(db, swap(1, 2)), retried(db, swap(2, 1))], {
        concurrency: 2
      }).pipe(within("both transactions"))
      assert.isAtLeast(runs, 3)
    })
  )
})
