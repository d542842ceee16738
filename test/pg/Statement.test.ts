/** Single statements: what is moved silently, what is reported, and what stops at once when nobody wants it any more. */
import { assert, describe, layer } from "@effect/vitest"
import { Effect, Exit, Fiber, Scope } from "effect"
import { Failover } from "effect-failover"
import type { Database } from "../support/database.js"
import {
  assertOutcome,
  causeOf,
  clusterLayer,
  countOf,
  Fault,
  flavors,
  idleIsGone,
  noSessionLeft,
  openWarm,
  running,
  sessions,
  terminateSessions
} from "../support/database.js"
import { expectNothingUnhandled } from "../support/unhandled.js"
import { AT_ONCE, eventually, within } from "../support/waiting.js"
import { fateOf, History } from "../support/workload.js"

expectNothingUnhandled()

const insert = ({ client: sql, table }: Database, id: number) =>
  sql`INSERT INTO ${sql(table)} ${sql.insert({ id })}`

const pid = ({ client: sql }: Database) =>
  Effect.map(sql<{ pid: number }>`SELECT pg_backend_pid() AS pid`, ([row]) => Number(row?.pid))

/** Opens this many pooled connections, and leaves them idle. */
const fill = (db: Database, connections: number) =>
  Effect.all(
    Array.from({ length: connections }, () => db.client`SELECT pg_sleep(0.05)`),
    { concurrency: "unbounded", discard: true }
  )

const noticed = (db: Database) =>
  eventually(
    "the failover to be noticed",
    Effect.map(db.failovers, (_) => _.noticed > 0)
  )

const untouched = (db: Database, epoch: number) =>
  Effect.map(db.failovers, (failovers) => {
    assert.deepStrictEqual(failovers, { noticed: 0, connected: 0 })
    assert.strictEqual(db.topology.unsafeCurrent().epoch, epoch)
  })

const many = <A, E>(n: number, effect: (id: number) => Effect.Effect<A, E>) =>
  Effect.all(
    Array.from({ length: n }, (_, id) => effect(id)),
    { concurrency: "unbounded" }
  )

for (const flavor of flavors) {
  layer(clusterLayer({ flavor }), { excludeTestServices: true })(`Statement, ${flavor}`, (it) => {
    describe("that never left is moved silently", () => {
      it.scoped("idle connections ended by the server: the next statements all succeed", () =>
        Effect.gen(function* () {
          const db = yield* openWarm()
          yield* fill(db, 10)
          yield* terminateSessions(db, yield* db.cluster.primary)
          yield* idleIsGone(db, 1)
          const history = new History(db)
          yield* many(50, () => history.statement).pipe(within("50 statements"))
          yield* history.verify
          assert.strictEqual(history.count("acknowledged"), 50)
        })
      )

      it.scoped("idle connections cut by the network: the next statements all succeed", () =>
        Effect.gen(function* () {
          const db = yield* openWarm()
          yield* fill(db, 10)
          yield* (yield* db.cluster.primary).proxy.reset
          yield* idleIsGone(db, 1)
          const history = new History(db)
          yield* many(50, () => history.statement).pipe(within("50 statements"))
          yield* history.verify
          assert.strictEqual(history.count("acknowledged"), 50)
        })
      )

      it.scoped("connections refused for a while: the statements wait, and succeed", () =>
        Effect.gen(function* () {
          const db = yield* openWarm()
          const { proxy } = yield* db.cluster.primary
          yield* proxy.set(Fault.Refuse())
          yield* proxy.reset
          yield* idleIsGone(db)
          const history = new History(db)
          const fiber = yield* Effect.fork(many(20, () => history.statement))
          yield* noticed(db)
          yield* proxy.set(Fault.Pass())
          yield* Fiber.join(fiber).pipe(within("20 statements"))
          yield* history.verify
          assert.strictEqual(history.count("acknowledged"), 20)
        })
      )

      it.scoped("idle connections to a killed writer: the next statements find the new one", () =>
        Effect.gen(function* () {
          const db = yield* openWarm()
          yield* fill(db, 10)
          yield* db.cluster.kill(yield* db.cluster.primary)
          yield* db.cluster.promote()
          const history = new History(db)
          yield* many(50, () => history.statement).pipe(within("50 statements"))
          yield* history.verify
          assert.isTrue(history.entries.every(({ exit }) => fateOf(exit) !== "untyped"))
        })
      )
    })

    describe("that left and was not answered is reported", () => {
      it.scoped("executed: FailoverSuccess, Unknown, and the row is there exactly once", () =>
        Effect.gen(function* () {
          const db = yield* openWarm()
          const primary = yield* db.cluster.primary
          yield* primary.proxy.set(Fault.DropReplies())
          const fiber = yield* Effect.fork(insert(db, 1))
          yield* eventually(
            "the row at the server",
            Effect.map(countOf(db, 1), (n) => n === 1)
          )
          yield* primary.proxy.reset
          yield* primary.proxy.set(Fault.Pass())
          const exit = yield* Fiber.await(fiber).pipe(within("the statement to end"))
          const error = assertOutcome(exit, { _tag: "FailoverSuccess", outcome: "Unknown" })
          assert.deepStrictEqual([error.from.port, error.to.port], [primary.port, primary.port])
          assert.isFalse(Failover.isSafeToRetry(error))
          assert.strictEqual(yield* countOf(db, 1), 1)
        })
      )

      it.scoped("its session terminated by an administrator: FailoverSuccess, Unknown", () =>
        Effect.gen(function* () {
          const db = yield* openWarm()
          const primary = yield* db.cluster.primary
          const fiber = yield* Effect.fork(db.client`SELECT pg_sleep(600)`)
          yield* running(db, primary, "pg_sleep")
          yield* terminateSessions(db, primary)
          const exit = yield* Fiber.await(fiber).pipe(within("the statement to end"))
          const error = assertOutcome(exit, { _tag: "FailoverSuccess", outcome: "Unknown" })
          assert.strictEqual(error.cause.code, "57P01")
        })
      )

      it.scoped("outcomes lifts it into the typed channel", () =>
        Effect.gen(function* () {
          const db = yield* openWarm()
          const primary = yield* db.cluster.primary
          const fiber = yield* db.client`SELECT pg_sleep(600)`.pipe(
            Failover.outcomes,
            Effect.as("done"),
            Effect.catchTag("FailoverSuccess", (error) => Effect.succeed(error.sqlState)),
            Effect.fork
          )
          yield* running(db, primary, "pg_sleep")
          yield* terminateSessions(db, primary)
          const answer = yield* Fiber.join(fiber).pipe(within("the statement to end"))
          assert.strictEqual(answer, "08S02")
        })
      )
    })

    describe("a server's ordinary error is passed on untouched, and starts no failover", () => {
      const errors = {
        "unique violation": [
          "23505",
          (db: Database) => Effect.zipRight(insert(db, 1), insert(db, 1))
        ],
        "syntax error": ["42601", (db: Database) => db.client`SELEC 1`],
        "unknown table": ["42P01", (db: Database) => db.client`SELECT * FROM no_such_table`],
        "division by zero": ["22012", (db: Database) => db.client`SELECT 1 / 0`],
        cancelled: [
          "57014",
          (db: Database) =>
            db.client.withTransaction(
              Effect.zipRight(
                db.client`SET LOCAL statement_timeout = 10`,
                db.client`SELECT pg_sleep(600)`
              )
            )
        ],
        "read-only transaction": [
          "25006",
          (db: Database) =>
            db.client.withTransaction(
              Effect.zipRight(db.client`SET TRANSACTION READ ONLY`, insert(db, 1))
            )
        ],
        "read-only session": [
          "25006",
          (db: Database) =>
            Effect.scoped(
              Effect.flatMap(db.client.reserve, (connection) =>
                Effect.zipRight(
                  connection.executeUnprepared(
                    "SET default_transaction_read_only = on",
                    [],
                    undefined
                  ),
                  connection.executeUnprepared(`INSERT INTO ${db.table} VALUES (1)`, [], undefined)
                ).pipe(
                  Effect.ensuring(
                    Effect.ignore(
                      connection.executeUnprepared(
                        "RESET default_transaction_read_only",
                        [],
                        undefined
                      )
                    )
                  )
                )
              )
            )
        ]
      } as const

      for (const [name, [code, run]] of Object.entries(errors)) {
        it.scoped(`${name} (${code})`, () =>
          Effect.gen(function* () {
            const db = yield* openWarm()
            yield* db.client`CREATE UNIQUE INDEX ON ${db.client(db.table)} (id)`
            const { epoch } = db.topology.unsafeCurrent()
            const cause = causeOf(yield* Effect.exit<unknown, unknown, never>(run(db)))
            assert.deepStrictEqual([cause.code, cause.severity], [code, "ERROR"])
            assert.strictEqual(cause.constructor.name, "DatabaseError")
            yield* db.client`SELECT 1`
            yield* untouched(db, epoch)
          })
        )
      }
    })

    describe("interrupted", () => {
      it.scoped("returns at once, and only its own statement is cancelled", () =>
        Effect.gen(function* () {
          const db = yield* openWarm()
          const primary = yield* db.cluster.primary
          const other = yield* Effect.fork(db.client`SELECT pg_sleep(601)`)
          const fiber = yield* Effect.fork(db.client`SELECT pg_sleep(600)`)
          yield* running(db, primary, "pg_sleep(600)")
          yield* running(db, primary, "pg_sleep(601)")
          const mine = (yield* sessions(db, primary)).find((_) => _.query.includes("600"))?.pid
          yield* Fiber.interrupt(fiber).pipe(within("the interruption", AT_ONCE))
          yield* eventually(
            "the statement to be cancelled, and its connection to be gone",
            Effect.map(sessions(db, primary), (all) => all.every((_) => _.pid !== mine))
          )
          yield* running(db, primary, "pg_sleep(601)")
          const pids = yield* Effect.replicateEffect(pid(db), 20)
          assert.notInclude(pids, mine)
          yield* Fiber.interrupt(other).pipe(within("the interruption", AT_ONCE))
          assert.deepStrictEqual(yield* db.failovers, { noticed: 0, connected: 0 })
        })
      )

      it.scoped("on a frozen host returns at once, and its connection is not used again", () =>
        Effect.gen(function* () {
          const db = yield* openWarm()
          const primary = yield* db.cluster.primary
          const before = yield* pid(db)
          yield* db.cluster.freeze(primary)
          const fiber = yield* Effect.fork(db.client`SELECT 1`)
          yield* eventually(
            "the statement to be sent",
            Effect.sync(() => db.stats().idle === 0)
          )
          yield* Fiber.interrupt(fiber).pipe(within("the interruption", AT_ONCE))
          yield* db.cluster.resume(primary)
          const pids = yield* Effect.replicateEffect(pid(db), 20).pipe(within("20 statements"))
          assert.notInclude(pids, before)
        })
      )

      it.scoped("a transaction on a frozen host returns at once", () =>
        Effect.gen(function* () {
          const db = yield* openWarm()
          const primary = yield* db.cluster.primary
          const fiber = yield* Effect.fork(
            db.client.withTransaction(
              Effect.all([insert(db, 1), db.cluster.freeze(primary), db.client`SELECT 1`])
            )
          )
          yield* eventually(
            "the host to be frozen",
            Effect.map(db.cluster.status, (all) => all.some((_) => _.process === "frozen"))
          )
          yield* Fiber.interrupt(fiber).pipe(within("the interruption", AT_ONCE))
          yield* db.cluster.resume(primary)
          assert.strictEqual(yield* countOf(db, 1), 0)
        })
      )

      it.scoped("during a failover returns at once", () =>
        Effect.gen(function* () {
          const db = yield* openWarm()
          const primary = yield* db.cluster.primary
          const sent = yield* Effect.fork(db.client`SELECT pg_sleep(600)`)
          yield* running(db, primary, "pg_sleep")
          yield* Effect.forEach(db.cluster.nodes, db.cluster.kill)
          yield* noticed(db)
          const work = [
            insert(db, 1),
            db.client.withTransaction(insert(db, 2)),
            Effect.scoped(db.client.reserve)
          ]
          const waiting = yield* Effect.forEach(work, (_) =>
            Effect.fork<unknown, unknown, never>(_)
          )
          yield* Effect.yieldNow()
          const exits = yield* Effect.forEach([sent, ...waiting], (_) =>
            Fiber.interrupt<unknown, unknown>(_).pipe(within("the interruption", AT_ONCE))
          )
          assert.isTrue(exits.every(Exit.isInterrupted))
        })
      )
    })

    describe("when the client is closed", () => {
      const ends = (exit: Exit.Exit<unknown, unknown>) => {
        if (Exit.isInterrupted(exit)) return
        const cause = causeOf(exit)
        assert.deepStrictEqual([cause._tag, cause.reason], ["FailoverFailed", "Closed"])
      }

      it.scoped("during a failover: every waiting call ends at once, no connection is left", () =>
        Effect.gen(function* () {
          const scope = yield* Scope.make()
          const db = yield* Scope.extend(openWarm(), scope)
          const primary = yield* db.cluster.primary
          const sent = yield* Effect.fork(db.client`SELECT pg_sleep(600)`)
          yield* running(db, primary, "pg_sleep")
          yield* db.cluster.kill(primary)
          const calls = [
            ...Array.from({ length: 100 }, (_, id) => insert(db, id)),
            db.client.withTransaction(insert(db, 100)),
            Effect.scoped(db.client.reserve),
            db.topology.awaitWriter({ timeout: "5 minutes" })
          ]
          const fibers = yield* Effect.forEach(calls, (_) =>
            Effect.fork<unknown, unknown, never>(_)
          )
          yield* noticed(db)
          yield* Scope.close(scope, Exit.void).pipe(within("the client to close", AT_ONCE))
          const all = yield* Effect.forEach([sent, ...fibers], (_) =>
            Fiber.await<unknown, unknown>(_)
          ).pipe(within("all calls to end", AT_ONCE))
          all.slice(0, -1).forEach(ends)
          assert.strictEqual(causeOf(all[0] ?? Exit.void).outcome, "Unknown")
          yield* db.cluster.promote()
          yield* noSessionLeft({ ...db, cluster: { ...db.cluster, nodes: yield* up(db) } })
        })
      )

      it.scoped("with statements in hand: they end at once, no connection is left", () =>
        Effect.gen(function* () {
          const scope = yield* Scope.make()
          const db = yield* Scope.extend(openWarm(), scope)
          const primary = yield* db.cluster.primary
          const fibers = yield* Effect.forEach(
            [
              db.client`SELECT pg_sleep(600)`,
              db.client.withTransaction(
                Effect.zipRight(insert(db, 1), db.client`SELECT pg_sleep(601)`)
              )
            ],
            (_) => Effect.fork<unknown, unknown, never>(_)
          )
          yield* running(db, primary, "pg_sleep(600)")
          yield* running(db, primary, "pg_sleep(601)")
          yield* Scope.close(scope, Exit.void).pipe(within("the client to close", AT_ONCE))
          const all = yield* Effect.forEach(fibers, (_) => Fiber.await(_)).pipe(
            within("all calls to end", AT_ONCE)
          )
          all.forEach(ends)
          yield* noSessionLeft(db)
          assert.strictEqual(yield* countOf(db, 1), 0)
        })
      )

      it.scoped("afterwards, work fails at once and says that nothing was executed", () =>
        Effect.gen(function* () {
          const scope = yield* Scope.make()
          const db = yield* Scope.extend(openWarm(), scope)
          yield* Scope.close(scope, Exit.void)
          const exits = yield* Effect.forEach(
            [
              insert(db, 1),
              db.client.withTransaction(insert(db, 2)),
              Effect.scoped(db.client.reserve)
            ],
            (_) => Effect.exit<unknown, unknown, never>(_)
          ).pipe(within("the calls to fail", AT_ONCE))
          for (const exit of exits) {
            assertOutcome(exit, { _tag: "FailoverFailed", outcome: "NotExecuted" })
          }
          yield* noSessionLeft(db)
        })
      )
    })
  })
}

const up = ({ cluster }: Database) =>
  Effect.map(cluster.status, (all) =>
    all.filter(({ process }) => process === "running").map(({ node }) => node)
  )
