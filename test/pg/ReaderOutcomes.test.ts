/** What becomes of work on a reader: of writes, and of what runs there when the reader goes. */
import { assert, describe, layer } from "@effect/vitest"
import { Effect, Fiber, Schedule, Stream } from "effect"
import { Failover, Readers } from "effect-failover"
import type { Database, Node } from "../support/database.js"
import {
  assertOutcome,
  causeOf,
  clusterLayer,
  countOf,
  flavors,
  noSessionLeft,
  sessions
} from "../support/database.js"
import { insert } from "../support/pairs.js"
import * as Reading from "../support/readers.js"
import { expectNothingUnhandled } from "../support/unhandled.js"
import { AT_ONCE, eventually, within } from "../support/waiting.js"

expectNothingUnhandled()

/** The reader on which a statement like this runs. */
const nodeRunning = (db: Database, like: string) =>
  Effect.gen(function* () {
    let found: Node | undefined
    yield* eventually(
      `${like} to run on a reader`,
      Effect.gen(function* () {
        for (const node of yield* db.cluster.standbys) {
          const all = yield* sessions(db, node)
          if (all.some((_) => _.state === "active" && _.query.includes(like))) found = node
        }
        return found !== undefined
      })
    )
    assert.isDefined(found)
    return found
  })

for (const flavor of flavors) {
  layer(clusterLayer({ flavor }), { excludeTestServices: true })(`Reads, ${flavor}`, (it) => {
    describe("a write on a reader", () => {
      it.scoped("is refused, and named: statement, transaction, stream, reserved connection", () =>
        Effect.gen(function* () {
          const db = yield* Reading.openReading()
          const { client: sql, table } = db
          const writes: Record<string, Effect.Effect<unknown, unknown>> = {
            statement: insert(db, 1),
            values: insert(db, 1).values,
            raw: insert(db, 1).raw,
            transaction: sql.withTransaction(insert(db, 1)),
            nested: sql.withTransaction(sql.withTransaction(insert(db, 1))),
            stream: Stream.runDrain(insert(db, 1).stream),
            reserved: Effect.scoped(
              Effect.flatMap(sql.reserve, (_) =>
                _.execute(`INSERT INTO ${table} VALUES (1)`, [], undefined)
              )
            )
          }
          for (const [how, write] of Object.entries(writes)) {
            const error = causeOf(yield* Effect.exit(Failover.onReader(write)))
            assert.strictEqual(error._tag, "WriteOnReader", how)
            assert.strictEqual(error.outcome, "NotExecuted", how)
            assert.include(error.hint, "onWriter")
          }
          assert.strictEqual(yield* countOf(db, 1), 0)
          yield* insert(db, 1)
          assert.strictEqual(yield* countOf(db, 1), 1)
        })
      )

      it.scoped("is refused by the session after the reader became the writer", () =>
        Effect.gen(function* () {
          const db = yield* Reading.openReading()
          const { cluster, table } = db
          const connection = yield* Failover.onReader(db.client.reserve)
          const run = (sql: string) => connection.execute(sql, [], undefined)
          const [row] = yield* run(Reading.whoSql)
          const reader = cluster.nodes.find((_) => _.serverPort === row?.["port"])
          assert.isDefined(reader)
          assert.strictEqual(row?.["is_standby"], true)
          yield* cluster.kill(yield* cluster.primary)
          yield* cluster.promote(reader)
          const [now] = yield* run(Reading.whoSql)
          assert.deepStrictEqual(now, { port: reader.serverPort, is_standby: false })
          const exit = yield* Effect.exit(run(`INSERT INTO ${table} VALUES (1)`))
          assert.strictEqual(causeOf(exit)._tag, "WriteOnReader")
          assert.strictEqual(yield* countOf(db, 1), 0)
          // The writer's connections to the same server write.
          yield* insert(db, 1)
          assert.strictEqual(yield* countOf(db, 1), 1)
        })
      )
    })

    describe("a reader is killed", () => {
      it.scoped("under a statement: it is run on another one", () =>
        Effect.gen(function* () {
          const db = yield* Reading.openReading()
          const fiber = yield* Effect.fork(
            Failover.onReader(db.client`SELECT pg_sleep(1), inet_server_port() AS port`)
          )
          const node = yield* nodeRunning(db, "pg_sleep(1)")
          yield* db.cluster.kill(node)
          const [row] = yield* Fiber.join(fiber).pipe(within("the statement"))
          assert.notStrictEqual(row?.["port"], node.serverPort)
        })
      )

      it.scoped("in the middle of a transaction: rolled back, and safe to run again", () =>
        Effect.gen(function* () {
          const db = yield* Reading.openReading()
          const { client: sql } = db
          let runs = 0
          const transaction = sql.withTransaction(
            Effect.gen(function* () {
              const before = yield* Reading.who(sql)
              if (runs++ === 0) {
                yield* db.cluster.kill(Reading.serverAt(db.cluster, before.port))
              }
              const after = yield* Reading.who(sql)
              assert.deepStrictEqual(after, before)
              return after
            })
          )
          const exit = yield* Effect.exit(Failover.onReader(transaction))
          const error = assertOutcome(exit, {
            _tag: "TransactionResolutionUnknown",
            outcome: "RolledBack"
          })
          assert.strictEqual(error.role, "reader")
          assert.notStrictEqual(error.to.port, error.from.port)
          assert.isTrue(Failover.isSafeToRetry(error))
          const again = yield* Failover.onReader(transaction).pipe(within("the second run"))
          assert.isTrue(again.is_standby)
        })
      )

      it.scoped("in the middle of a transaction that may be run again: it is", () =>
        Effect.gen(function* () {
          const db = yield* Reading.openReading()
          const { client: sql } = db
          let runs = 0
          const { is_standby } = yield* sql
            .withTransaction(
              Effect.gen(function* () {
                const { port } = yield* Reading.who(sql)
                if (runs++ === 0) yield* db.cluster.kill(Reading.serverAt(db.cluster, port))
                return yield* Reading.who(sql)
              })
            )
            .pipe(
              Failover.onReader(),
              Failover.retryTransaction(Schedule.recurs(3)),
              Effect.provideService(Failover.Failover, db.failover),
              within("the transaction")
            )
          assert.deepStrictEqual([is_standby, runs], [true, 2])
        })
      )

      it.scoped("in the middle of a stream: it fails, and never ends as if it were whole", () =>
        Effect.gen(function* () {
          const db = yield* Reading.openReading()
          let rows = 0
          const exit = yield* db.client`SELECT i, inet_server_port()::int AS port,
            repeat('x', 1000) FROM generate_series(1, 1000000) i`.stream.pipe(
            Stream.tap((row) =>
              rows++ === 0
                ? db.cluster.kill(Reading.serverAt(db.cluster, Number(row["port"])))
                : Effect.void
            ),
            Stream.runDrain,
            Failover.onReader(),
            Effect.exit,
            within("the stream")
          )
          assertOutcome(exit, { _tag: "FailoverSuccess", outcome: "Unknown" })
          assert.isBelow(rows, 1_000_000)
        })
      )

      it.scoped("before the first row of a stream: it begins on another one", () =>
        Effect.gen(function* () {
          const db = yield* Reading.openReading()
          const fiber = yield* Effect.fork(
            Reading.collect(
              db.client`SELECT i, pg_sleep(1), inet_server_port() AS port
                FROM generate_series(1, 2) i`.stream
            ).pipe(Failover.onReader())
          )
          const node = yield* nodeRunning(db, "pg_sleep(1)")
          yield* db.cluster.kill(node)
          const rows = yield* Fiber.join(fiber).pipe(within("the stream"))
          assert.lengthOf(rows, 2)
          for (const row of rows) assert.notStrictEqual(row["port"], node.serverPort)
        })
      )
    })

    it.scoped("a frozen reader: what hangs on it is run on another one", () =>
      Effect.gen(function* () {
        const db = yield* Reading.openReading({ connectTimeout: "1 second" })
        const fiber = yield* Effect.fork(
          Failover.onReader(db.client`SELECT pg_sleep(1), inet_server_port() AS port`)
        )
        const node = yield* nodeRunning(db, "pg_sleep(1)")
        yield* db.cluster.freeze(node)
        const [row] = yield* Fiber.join(fiber).pipe(within("the statement"))
        assert.notStrictEqual(row?.["port"], node.serverPort)
        yield* db.cluster.resume(node)
      })
    )

    it.scoped(
      "a frozen reader: hedged reads are answered by another one, long before it is noticed",
      () =>
        Effect.gen(function* () {
          const db = yield* Reading.openReading({
            connectTimeout: "1 minute",
            // The first read that is given up ends it; the next ones wait for another one in vain.
            maxConnections: 1,
            readerHostSelector: "roundRobin"
          })
          const read = Reading.who(db.client).pipe(Failover.onReader(), Readers.hedged)
          // One read in five takes 50 ms, so that is what is waited for; the others save up hedges.
          const slow = db.client`SELECT pg_sleep(0.05)`.pipe(Failover.onReader(), Readers.hedged)
          yield* Effect.forEach(Array.from({ length: 40 }), () => slow, { concurrency: 2 })
          for (let i = 0; i < 160; i++) yield* read
          const { port } = yield* read
          const node = Reading.serverAt(db.cluster, port)
          yield* db.cluster.freeze(node)
          const reads = yield* Effect.forEach([1, 2, 3, 4, 5, 6], () => read).pipe(
            within("6 reads", AT_ONCE)
          )
          for (const each of reads) assert.notStrictEqual(each.port, node.serverPort)
          yield* db.cluster.resume(node)
        })
    )

    it.scoped("sessionSetup is run on every connection to a reader, also after it was lost", () =>
      Effect.gen(function* () {
        const db = yield* Reading.openReading({
          sessionSetup: (sql) => sql`SELECT set_config('app.tenant', 'acme', false)`,
          topologyRefreshRate: "500 millis"
        })
        const tenant = Effect.map(
          db.client`SELECT current_setting('app.tenant', true) AS tenant, pg_is_in_recovery() AS r`,
          ([row]) => [row?.["tenant"], row?.["r"]]
        )
        const all = Effect.all(
          Array.from({ length: 20 }, () => tenant),
          { concurrency: "unbounded" }
        ).pipe(Failover.onReader())
        for (const each of yield* all) assert.deepStrictEqual(each, ["acme", true])
        const [reader] = yield* db.cluster.standbys
        assert.isDefined(reader)
        yield* db.cluster.kill(reader)
        yield* db.cluster.start(reader)
        yield* Reading.knows(db.readers, 2)
        for (const each of yield* all) assert.deepStrictEqual(each, ["acme", true])
      })
    )

    it.scoped("a statement on a reader that is interrupted ends on the server, too", () =>
      Effect.gen(function* () {
        const db = yield* Reading.openReading()
        const fiber = yield* Effect.fork(Failover.onReader(db.client`SELECT pg_sleep(600)`))
        const node = yield* nodeRunning(db, "pg_sleep(600)")
        yield* Fiber.interrupt(fiber).pipe(within("the interruption", AT_ONCE))
        yield* eventually(
          "the statement to end on the server",
          Effect.map(sessions(db, node), (all) =>
            all.every((_) => _.state !== "active" || !_.query.includes("pg_sleep"))
          )
        )
        yield* eventually(
          "nothing to be under way",
          Effect.map(db.readers.hosts, (hosts) => hosts.every((_) => _.outstanding === 0))
        )
      })
    )

    it.scoped("with the scope, every session on every reader is gone", () =>
      Effect.gen(function* () {
        const db = yield* Effect.scoped(
          Effect.gen(function* () {
            const db = yield* Reading.openReading()
            yield* Effect.all(
              Array.from({ length: 20 }, () => Failover.onReader(db.client`SELECT pg_sleep(0.01)`)),
              { concurrency: "unbounded" }
            )
            yield* Effect.forkScoped(Failover.onReader(db.client`SELECT pg_sleep(600)`))
            yield* nodeRunning(db, "pg_sleep(600)")
            return db
          })
        ).pipe(within("the scope to close"))
        yield* noSessionLeft(db)
      })
    )
  })
}
