/** What becomes of a transaction, and of nothing else, when its connection is lost. */
import type { SqlClient } from "@effect/sql"
import { SqlResolver } from "@effect/sql"
import { PgClient } from "@effect/sql-pg"
import { assert, layer } from "@effect/vitest"
import { Cause, Context, Deferred, Effect, Exit, Fiber, Layer, Schema } from "effect"
import { Failover } from "effect-failover"
import * as Pg from "effect-failover/layers/Pg"
import type { Database } from "../support/database.js"
import {
  assertOutcome,
  causeOf,
  clusterLayer,
  countOf,
  Fault,
  flavors,
  nodeAt,
  openWarm,
  optionsFor,
  running,
  sessions,
  terminateSessions
} from "../support/database.js"
import { expectNothingUnhandled } from "../support/unhandled.js"
import { eventually, within } from "../support/waiting.js"
import { History } from "../support/workload.js"

expectNothingUnhandled()

const insert = ({ client: sql, table }: Database, id: number) =>
  sql`INSERT INTO ${sql(table)} ${sql.insert({ id })}`

const pid = (sql: SqlClient.SqlClient) =>
  Effect.map(sql<{ pid: number }>`SELECT pg_backend_pid() AS pid`, ([row]) => row?.pid)

const rolledBack = { _tag: "TransactionResolutionUnknown", outcome: "RolledBack" }

/** Also when the proxy drops what the server says: its end is part of that. */
const killAndPromote = ({ cluster }: Database) =>
  Effect.flatMap(cluster.primary, (primary) =>
    Effect.all([cluster.kill(primary), primary.proxy.reset]).pipe(
      Effect.zipRight(cluster.promote())
    )
  )

const count = (db: Database) =>
  Effect.flatMap(db.cluster.primary, (primary) =>
    Effect.map(db.cluster.query(primary, `select count(*)::int as n from ${db.table}`), ([row]) =>
      Number(row?.["n"])
    )
  )

for (const flavor of flavors) {
  layer(clusterLayer({ flavor }), { excludeTestServices: true })(`Transaction, ${flavor}`, (it) => {
    it.scoped("BEGIN that cannot be sent is moved silently", () =>
      Effect.gen(function* () {
        const db = yield* openWarm()
        yield* killAndPromote(db)
        yield* db.client.withTransaction(insert(db, 1))
        assert.strictEqual(yield* countOf(db, 1), 1)
      })
    )

    it.scoped("BEGIN that was not answered is moved silently", () =>
      Effect.gen(function* () {
        const db = yield* openWarm()
        const primary = yield* db.cluster.primary
        yield* primary.proxy.set(Fault.DropReplies())
        const fiber = yield* Effect.fork(db.client.withTransaction(insert(db, 1)))
        yield* eventually(
          "the server to have begun",
          Effect.map(sessions(db, primary), (all) =>
            all.some(({ state }) => state === "idle in transaction")
          )
        )
        yield* killAndPromote(db)
        yield* Fiber.join(fiber).pipe(within("the transaction to end"))
        assert.strictEqual(yield* countOf(db, 1), 1)
      })
    )

    it.scoped("a lost statement: RolledBack, and nothing of the transaction exists", () =>
      Effect.gen(function* () {
        const db = yield* openWarm()
        const primary = yield* db.cluster.primary
        const fiber = yield* Effect.fork(
          db.client.withTransaction(Effect.zipRight(insert(db, 1), db.client`SELECT pg_sleep(600)`))
        )
        yield* running(db, primary, "pg_sleep")
        const { node } = yield* killAndPromote(db)
        const exit = yield* Fiber.await(fiber).pipe(within("the transaction to end"))
        const error = assertOutcome(exit, rolledBack)
        assert.deepStrictEqual([error.from.port, error.to.port], [primary.port, node.port])
        assert.deepStrictEqual([error.sqlState, error.sent], ["08007", true])
        assert.isTrue(Failover.isSafeToRetry(error))
        assert.strictEqual(yield* count(db), 0)
      })
    )

    it.scoped("a connection lost between two statements: RolledBack, not sent", () =>
      Effect.gen(function* () {
        const db = yield* openWarm()
        const exit = yield* Effect.exit(
          db.client.withTransaction(
            Effect.all([insert(db, 1), killAndPromote(db), insert(db, 2)], { discard: true })
          )
        )
        const error = assertOutcome(exit, rolledBack)
        assert.isTrue(Failover.isSafeToRetry(error))
        assert.strictEqual(yield* count(db), 0)
      })
    )

    it.scoped("a COMMIT that was not answered: Unknown, and the work is there", () =>
      Effect.gen(function* () {
        const db = yield* openWarm()
        const primary = yield* db.cluster.primary
        const fiber = yield* Effect.fork(
          db.client.withTransaction(
            Effect.zipRight(insert(db, 1), primary.proxy.set(Fault.DropReplies()))
          )
        )
        yield* eventually(
          "the commit at the server",
          Effect.map(countOf(db, 1), (n) => n === 1)
        )
        yield* killAndPromote(db)
        const exit = yield* Fiber.await(fiber).pipe(within("the transaction to end"))
        const error = assertOutcome(exit, {
          _tag: "TransactionResolutionUnknown",
          outcome: "Unknown"
        })
        assert.isFalse(Failover.isSafeToRetry(error))
        assert.strictEqual(yield* countOf(db, 1), 1)
      })
    )

    it.scoped("Effect.retry of what is safe to retry runs the transaction to its end, once", () =>
      Effect.gen(function* () {
        const db = yield* openWarm()
        const primary = yield* db.cluster.primary
        let runs = 0
        const fiber = yield* Effect.suspend(() =>
          db.client.withTransaction(
            Effect.zipRight(
              insert(db, 1),
              ++runs === 1 ? db.client`SELECT pg_sleep(600)` : Effect.void
            )
          )
        ).pipe(Effect.retry({ while: Failover.isSafeToRetry, times: 3 }), Effect.fork)
        yield* running(db, primary, "pg_sleep")
        yield* killAndPromote(db)
        yield* Fiber.join(fiber).pipe(within("the transaction to end"))
        assert.deepStrictEqual([runs, yield* countOf(db, 1)], [2, 1])
      })
    )

    it.scoped("many transactions in one outage: one failover, and each is told the truth", () =>
      Effect.gen(function* () {
        const db = yield* openWarm()
        const history = new History(db)
        const fiber = yield* Effect.fork(
          Effect.all(
            Array.from({ length: 300 }, () => history.transaction),
            { concurrency: "unbounded", discard: true }
          )
        )
        yield* eventually(
          "20 commits",
          Effect.sync(() => history.count("acknowledged") >= 20)
        )
        yield* killAndPromote(db)
        yield* Fiber.join(fiber).pipe(within("300 transactions to end"))
        yield* history.verify
        assert.deepStrictEqual(yield* db.failovers, { noticed: 1, connected: 1 })
      })
    )

    it.scoped("savepoints: an inner failure undoes the inner part only", () =>
      Effect.gen(function* () {
        const db = yield* openWarm()
        const sql = db.client
        yield* sql.withTransaction(
          Effect.gen(function* () {
            yield* insert(db, 1)
            yield* Effect.ignore(
              sql.withTransaction(Effect.zipRight(insert(db, 2), Effect.fail("no")))
            )
            yield* Effect.ignore(
              sql.withTransaction(Effect.zipRight(insert(db, 3), sql`SELECT 1 / 0`))
            )
            yield* sql.withTransaction(insert(db, 4))
          })
        )
        const found = yield* Effect.forEach([1, 2, 3, 4], (id) => countOf(db, id))
        assert.deepStrictEqual(found, [1, 0, 0, 1])
      })
    )

    it.scoped("savepoints: an inner one that was lost takes the whole transaction with it", () =>
      Effect.gen(function* () {
        const db = yield* openWarm()
        const inner = yield* Deferred.make<Exit.Exit<unknown, unknown>>()
        const exit = yield* Effect.exit(
          db.client.withTransaction(
            Effect.gen(function* () {
              yield* insert(db, 1)
              const lost = yield* Effect.exit(
                db.client.withTransaction(
                  Effect.all([insert(db, 2), killAndPromote(db), insert(db, 3)])
                )
              )
              yield* Deferred.succeed(inner, lost)
              yield* Effect.ignore(insert(db, 4))
            })
          )
        )
        assertOutcome(yield* Deferred.await(inner), rolledBack)
        assertOutcome(exit, rolledBack)
        assert.strictEqual(yield* count(db), 0)
      })
    )

    it.scoped("a caught error of a lost connection does not make a transaction commit", () =>
      Effect.gen(function* () {
        const db = yield* openWarm()
        const primary = yield* db.cluster.primary
        const exit = yield* Effect.exit(
          db.client.withTransaction(
            Effect.gen(function* () {
              yield* insert(db, 1)
              yield* terminateSessions(db, primary)
              yield* Effect.ignore(insert(db, 2))
              yield* Effect.ignore(insert(db, 3))
            })
          )
        )
        assertOutcome(exit, rolledBack)
        assert.strictEqual(yield* count(db), 0)
      })
    )

    it.scoped("a connection that died unnoticed does not make a transaction commit", () =>
      Effect.gen(function* () {
        const db = yield* openWarm()
        const primary = yield* db.cluster.primary
        const exit = yield* Effect.exit(
          db.client.withTransaction(Effect.zipRight(insert(db, 1), terminateSessions(db, primary)))
        )
        // COMMIT may have left before the end of the connection arrived: then the truth is Unknown.
        const error = causeOf(exit)
        assert.strictEqual(error._tag, "TransactionResolutionUnknown")
        assert.strictEqual(yield* count(db), 0)
      })
    )

    it.scoped("a COMMIT answered with ROLLBACK is an error", () =>
      Effect.gen(function* () {
        const db = yield* openWarm()
        const exit = yield* Effect.exit(
          db.client.withTransaction(
            Effect.zipRight(insert(db, 1), Effect.ignore(db.client`SELECT 1 / 0`))
          )
        )
        assert.include(String(causeOf(exit)), "ROLLBACK")
        assert.strictEqual(yield* count(db), 0)
        assert.deepStrictEqual(yield* db.failovers, { noticed: 0, connected: 0 })
      })
    )

    it.scoped("a refused COMMIT is the server's error", () =>
      Effect.gen(function* () {
        const db = yield* openWarm()
        const sql = db.client
        yield* sql`ALTER TABLE ${sql(db.table)} ADD UNIQUE (id) DEFERRABLE INITIALLY DEFERRED`
        const exit = yield* Effect.exit(
          sql.withTransaction(Effect.zipRight(insert(db, 1), insert(db, 1)))
        )
        assert.strictEqual(causeOf(exit).code, "23505")
        assert.strictEqual(yield* count(db), 0)
      })
    )

    it.scoped("the caller's failure, defect or interruption rolls back", () =>
      Effect.gen(function* () {
        const db = yield* openWarm()
        const run = (end: Effect.Effect<never, string>) =>
          Effect.exit(db.client.withTransaction(Effect.zipRight(insert(db, 1), end)))
        assert.deepStrictEqual(yield* run(Effect.fail("mine")), Exit.fail("mine"))
        const died = yield* run(Effect.die("mine"))
        assert.isTrue(Exit.isFailure(died) && Cause.isDie(died.cause))
        const interrupted = yield* run(Effect.interrupt)
        assert.isTrue(Exit.isInterrupted(interrupted))
        assert.strictEqual(yield* count(db), 0)
        assert.strictEqual(yield* pid(db.client), yield* pid(db.client))
      })
    )

    it.scoped("a statement of another client does not run in the transaction", () =>
      Effect.gen(function* () {
        const a = yield* openWarm()
        const options = optionsFor(a.cluster, { clusterId: `other than ${a.app}` })
        const { client: b } = yield* Pg.make(options)
        const exit = yield* Effect.exit(
          a.client.withTransaction(
            Effect.gen(function* () {
              yield* insert(a, 1)
              assert.notStrictEqual(yield* pid(b), yield* pid(a.client))
              yield* insert({ ...a, client: b }, 2)
              const [own, others] = yield* b.withTransaction(
                Effect.all([pid(a.client), Effect.zip(pid(b), pid(b))])
              )
              assert.strictEqual(own, yield* pid(a.client))
              assert.strictEqual(others[0], others[1])
              assert.notStrictEqual(own, others[0])
              yield* Effect.fail("rolled back")
            })
          )
        )
        assert.deepStrictEqual(exit, Exit.fail("rolled back"))
        assert.deepStrictEqual([yield* countOf(a, 1), yield* countOf(a, 2)], [0, 1])
      })
    )

    const rawClient = (db: Database) =>
      Effect.flatMap(db.cluster.primary, (primary) =>
        Effect.map(
          Layer.build(
            PgClient.layer({
              host: primary.host,
              port: primary.port,
              database: db.cluster.database,
              username: db.cluster.username,
              password: db.cluster.password
            })
          ),
          (context) => Context.get(context, PgClient.PgClient)
        )
      )

    it.scoped("our statements do not run in a transaction of @effect/sql-pg", () =>
      Effect.gen(function* () {
        const db = yield* openWarm()
        const raw = yield* rawClient(db)
        yield* Effect.ignore(
          raw.withTransaction(
            Effect.gen(function* () {
              assert.notStrictEqual(yield* pid(db.client), yield* pid(raw))
              yield* insert(db, 1)
              yield* db.client.withTransaction(insert(db, 2))
              yield* Effect.fail("rolled back")
            })
          )
        )
        assert.deepStrictEqual([yield* countOf(db, 1), yield* countOf(db, 2)], [1, 1])
      })
    )

    it.scoped("a statement of @effect/sql-pg never runs on our transaction's connection", () =>
      Effect.gen(function* () {
        const db = yield* openWarm()
        const raw = yield* rawClient(db)
        const rawInsert = yield* db.client
          .withTransaction(
            Effect.gen(function* () {
              const own = yield* pid(db.client)
              const others = yield* Effect.exit(pid(raw))
              if (Exit.isSuccess(others)) assert.notStrictEqual(others.value, own)
              else assert.include(String(causeOf(others)), "transaction")
              return yield* Effect.fail(yield* Effect.exit(insert({ ...db, client: raw }, 1)))
            })
          )
          .pipe(Effect.flip)
        // On its own connection or refused, but not rolled back with ours.
        assert.isTrue(Exit.isExit(rawInsert))
        assert.strictEqual(
          yield* countOf(db, 1),
          Exit.isExit(rawInsert) && Exit.isSuccess(rawInsert) ? 1 : 0
        )
      })
    )

    it.scoped("a SqlResolver inside a transaction runs in it, and outside it does not", () =>
      Effect.gen(function* () {
        const db = yield* openWarm()
        const sql = db.client
        const resolver = yield* SqlResolver.grouped("ById", {
          Request: Schema.Number,
          RequestGroupKey: (id) => id,
          Result: Schema.Struct({ id: Schema.NumberFromString, pid: Schema.Number }),
          ResultGroupKey: ({ id }) => id,
          execute: (ids) =>
            sql`SELECT id, pg_backend_pid() AS pid FROM ${sql(db.table)} WHERE ${sql.in("id", ids)}`
        })
        const found = (ids: ReadonlyArray<number>) =>
          Effect.map(
            Effect.forEach(ids, (id) => resolver.execute(id), { batching: true }),
            (groups) => groups.flat()
          )
        yield* sql
          .withTransaction(
            Effect.gen(function* () {
              yield* insert(db, 1)
              yield* insert(db, 2)
              const own = yield* pid(sql)
              assert.deepStrictEqual(yield* found([1, 2]), [
                { id: 1, pid: own ?? 0 },
                { id: 2, pid: own ?? 0 }
              ])
              assert.strictEqual(
                (yield* Effect.fork(found([2])).pipe(Effect.flatMap(Fiber.join))).length,
                1
              )
              yield* Effect.fail("rolled back")
            })
          )
          .pipe(Effect.ignore)
        assert.deepStrictEqual(yield* found([3]), [])
        assert.strictEqual(yield* count(db), 0)
      })
    )

    it.scoped("fibers forked in a transaction run in it, one statement after the other", () =>
      Effect.gen(function* () {
        const db = yield* openWarm()
        const pids = yield* db.client.withTransaction(
          Effect.all(
            Array.from({ length: 20 }, (_, id) => Effect.zipRight(insert(db, id), pid(db.client))),
            { concurrency: "unbounded" }
          )
        )
        assert.strictEqual(new Set(pids).size, 1)
        assert.strictEqual(yield* count(db), 20)
      })
    )

    it.scoped("after a lost transaction, a failure outside one is a plain FailoverSuccess", () =>
      Effect.gen(function* () {
        const db = yield* openWarm()
        const lost = yield* Effect.exit(
          db.client.withTransaction(Effect.all([insert(db, 1), killAndPromote(db), insert(db, 2)]))
        )
        assertOutcome(lost, rolledBack)
        const node = nodeAt(db.cluster, db.stats().host)
        const fiber = yield* Effect.fork(db.client`SELECT pg_sleep(600)`)
        yield* running(db, node, "pg_sleep")
        yield* killAndPromote(db)
        const exit = yield* Fiber.await(fiber).pipe(within("the statement to end"))
        assertOutcome(exit, { _tag: "FailoverSuccess", outcome: "Unknown" })
        yield* insert(db, 3)
        assert.strictEqual(yield* count(db), 1)
      })
    )

    it.scoped(
      "no writer after a lost transaction: FailoverFailed says that it was rolled back",
      () =>
        Effect.gen(function* () {
          const db = yield* openWarm({ failoverTimeout: "500 millis" })
          const exit = yield* Effect.exit(
            db.client.withTransaction(
              Effect.all([
                insert(db, 1),
                Effect.forEach(db.cluster.nodes, db.cluster.kill),
                insert(db, 2)
              ])
            )
          )
          assertOutcome(exit, { _tag: "FailoverFailed", outcome: "RolledBack" })
          assert.isTrue(Failover.isSafeToRetry(causeOf(exit)))
        })
    )

    it.scoped("no writer after a COMMIT: FailoverFailed says that it is unknown", () =>
      Effect.gen(function* () {
        const db = yield* openWarm({ failoverTimeout: "500 millis" })
        const primary = yield* db.cluster.primary
        const fiber = yield* Effect.fork(
          db.client.withTransaction(
            Effect.zipRight(insert(db, 1), primary.proxy.set(Fault.DropReplies()))
          )
        )
        yield* eventually(
          "the commit at the server",
          Effect.map(countOf(db, 1), (n) => n === 1)
        )
        yield* Effect.forEach(db.cluster.nodes, db.cluster.kill)
        yield* primary.proxy.reset
        const exit = yield* Fiber.await(fiber).pipe(within("the transaction to end"))
        assertOutcome(exit, { _tag: "FailoverFailed", outcome: "Unknown" })
      })
    )
  })
}
