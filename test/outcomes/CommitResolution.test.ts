/** Both ways to find out about an unanswered COMMIT, on real servers, where each can be right or wrong. */
import { SqlError } from "@effect/sql"
import { assert, layer } from "@effect/vitest"
import { Effect, Exit, Fiber, Schedule } from "effect"
import { CommitResolution, Failover, SqlFailover } from "effect-failover"
import * as PgTransactionStatus from "effect-failover/dialects/PgTransactionStatus"
import type { FaultProxyError } from "effect-failover/testing/FaultProxy"
import type { PgOptions } from "effect-failover/layers/Pg"
import type { Cluster, Database, Node } from "../support/database.js"
import {
  assertOutcome,
  causeOf,
  clusterLayer,
  countOf,
  Fault,
  openWarm,
  running,
  unique
} from "../support/database.js"
import { expectNothingUnhandled } from "../support/unhandled.js"
import { eventually, within } from "../support/waiting.js"

expectNothingUnhandled()

const rolledBack = { _tag: "TransactionResolutionUnknown", outcome: "RolledBack" }
const unknown = { _tag: "TransactionResolutionUnknown", outcome: "Unknown" }

const insert = ({ client: sql, table }: Database, id: number) =>
  sql`INSERT INTO ${sql(table)} ${sql.insert({ id })}`

const is = (cluster: Cluster, node: Node, condition: string) =>
  Effect.map(cluster.query(node, `select (${condition}) as is`), ([row]) => row?.["is"] === true)

/** Every standby has been up for longer than the clocks of two servers may differ. */
const seasoned = (cluster: Cluster) =>
  Effect.flatMap(cluster.standbys, (standbys) =>
    Effect.forEach(standbys, (standby) =>
      eventually(
        `${standby.id} to have been up for more than a second`,
        is(
          cluster,
          standby,
          "clock_timestamp() - pg_postmaster_start_time() > interval '1.1 seconds'"
        )
      )
    )
  )

/** So many standbys follow the primary, and have all that it has. */
const replicated = (cluster: Cluster, standbys = 2) =>
  Effect.gen(function* () {
    const [row] = yield* cluster.query(
      yield* cluster.primary,
      "select pg_switch_wal(), pg_current_wal_flush_lsn()::text as lsn"
    )
    const condition = `pg_last_wal_replay_lsn() >= '${String(row?.["lsn"])}'
      and exists (select from pg_stat_wal_receiver where status = 'streaming')`
    yield* eventually(
      `${standbys} standbys to have everything`,
      Effect.flatMap(cluster.standbys, (all) =>
        Effect.map(
          Effect.forEach(all, (standby) => is(cluster, standby, condition)),
          (there) => there.length === standbys && there.every((_) => _)
        )
      )
    )
  })

const onStandbys = (cluster: Cluster, sql: string) =>
  Effect.flatMap(cluster.standbys, (standbys) =>
    Effect.forEach(standbys, (standby) => cluster.query(standby, sql), { discard: true })
  )

/** The standbys run on, and receive nothing any more. */
const detach = (cluster: Cluster) =>
  Effect.gen(function* () {
    yield* replicated(cluster, cluster.nodes.length - 1)
    yield* onStandbys(cluster, "alter system set primary_conninfo = ''")
    yield* onStandbys(cluster, "select pg_reload_conf()")
    for (const standby of yield* cluster.standbys) {
      yield* eventually(
        `${standby.id} to receive nothing`,
        is(
          cluster,
          standby,
          "current_setting('primary_conninfo') = '' and not exists (select from pg_stat_wal_receiver)"
        )
      )
    }
  })

/** To be called when the primary is dead: nothing is received any more, but from the next one. */
const attach = (cluster: Cluster) =>
  Effect.zipRight(
    onStandbys(cluster, "alter system reset primary_conninfo"),
    onStandbys(cluster, "select pg_reload_conf()")
  )

/** The client can reach no server until `opened`. */
const closed = ({ cluster }: Database) =>
  Effect.forEach(cluster.nodes, ({ proxy }) => proxy.set(Fault.Refuse()), { discard: true })
const opened = ({ cluster }: Database) =>
  Effect.forEach(cluster.nodes, ({ proxy }) => proxy.set(Fault.Pass()), { discard: true })

/** The server dies, and the client hears of it. */
const kill = ({ cluster }: Database, node: Node) =>
  Effect.zipRight(cluster.kill(node), node.proxy.reset)

/** A transaction whose COMMIT has begun at the server, and waits there for `finish`. */
const committing = (db: Database, standbys: "attached" | "detached" = "attached") =>
  Effect.gen(function* () {
    const { cluster, table } = db
    const primary = yield* cluster.primary
    yield* cluster.query(
      primary,
      `create table ${table}_gate ();
       create table ${table}_other ();
       create function ${table}_wait() returns trigger language plpgsql as $$ begin
         while not exists (select from ${table}_gate) loop perform pg_sleep(0.005); end loop;
         return null;
       end $$;
       create constraint trigger wait after insert on ${table}
         deferrable initially deferred for each row execute function ${table}_wait()`
    )
    yield* standbys === "attached" ? replicated(cluster) : detach(cluster)
    const fiber = yield* Effect.fork(
      db.client.withTransaction(Effect.as(insert(db, 1), "the transaction's own value"))
    )
    yield* running(db, primary, "COMMIT")
    return {
      primary,
      exit: Fiber.await(fiber).pipe(within("the transaction to end")),
      /** The server goes on, and is done with it. */
      finish: Effect.zipRight(
        cluster.query(primary, `insert into ${table}_gate default values`),
        eventually(
          "the commit at the server",
          Effect.map(countOf(db, 1), (n) => n === 1)
        )
      ),
      /** ... and the client does not hear of it. */
      finishUnheard: Effect.zipRight(
        primary.proxy.set(Fault.DropReplies()),
        Effect.zipRight(
          cluster.query(primary, `insert into ${table}_gate default values`),
          eventually(
            "the commit at the server",
            Effect.map(countOf(db, 1), (n) => n === 1)
          )
        )
      )
    }
  })

/** The last thing that the server was told, and is done with, is COMMIT. */
const ended = ({ app, cluster }: Database, node: Node) =>
  Effect.map(
    cluster.query(
      node,
      `select bool_or(query = 'COMMIT' and state = 'idle') as is
       from pg_stat_activity where application_name = $1`,
      [app]
    ),
    ([row]) => row?.["is"] === true
  )

const success = Exit.succeed("the transaction's own value")

const ledgerOf = (cluster: Cluster) =>
  Effect.gen(function* () {
    const name = unique("ledger")
    yield* cluster.query(yield* cluster.primary, CommitResolution.ledgerTable(name))
    return name
  })

const ways = {
  "transaction-status": () => Effect.succeed<PgOptions>({ commitResolution: "transaction-status" }),
  ledger: (cluster: Cluster) =>
    Effect.map(ledgerOf(cluster), (name): PgOptions => ({
      commitResolution: CommitResolution.ledger(name)
    }))
}

/** A client that finds out this way. */
const openWith = (way: keyof typeof ways) =>
  Effect.gen(function* () {
    // Heals the cluster first: the ledger's table is made on a primary that stays.
    const { cluster } = yield* openWarm()
    // What the test before did to the standbys may still be being mended.
    yield* replicated(cluster)
    return yield* openWarm(yield* ways[way](cluster))
  })

layer(clusterLayer({ replication: "asynchronous" }), { excludeTestServices: true })(
  "a COMMIT that was not answered",
  (it) => {
    for (const way of ["transaction-status", "ledger"] as const) {
      it.scoped(`${way}: its backend is terminated: rolled back`, () =>
        Effect.gen(function* () {
          const db = yield* openWith(way)
          const { exit, primary } = yield* committing(db)
          yield* db.cluster.query(
            primary,
            `select pg_terminate_backend(pid, 5000) from pg_stat_activity
             where application_name = $1 and query = 'COMMIT' and state = 'active'`,
            [db.app]
          )
          assertOutcome(yield* exit, rolledBack)
          assert.strictEqual(yield* countOf(db, 1), 0)
        })
      )

      it.scoped(`${way}: the server is still at it: waits for its end, a success`, () =>
        Effect.gen(function* () {
          const db = yield* openWith(way)
          const { exit, finish, primary } = yield* committing(db)
          yield* primary.proxy.reset
          yield* eventually(
            "the client to be connected again",
            Effect.map(db.failovers, ({ connected }) => connected === 1)
          )
          yield* finish
          assert.deepStrictEqual(yield* exit, success)
          assert.strictEqual(yield* countOf(db, 1), 1)
        })
      )

      it.scoped(`${way}: the server had committed: a success, and stored once`, () =>
        Effect.gen(function* () {
          const db = yield* openWith(way)
          const { exit, finishUnheard, primary } = yield* committing(db)
          yield* finishUnheard
          yield* primary.proxy.set(Fault.Pass())
          yield* primary.proxy.reset
          assert.deepStrictEqual(yield* exit, success)
          assert.strictEqual(yield* countOf(db, 1), 1)
        })
      )

      it.scoped(`${way}: the server had committed, and crashed: a success`, () =>
        Effect.gen(function* () {
          const db = yield* openWith(way)
          const { exit, finishUnheard, primary } = yield* committing(db)
          yield* finishUnheard
          yield* closed(db)
          yield* kill(db, primary)
          yield* db.cluster.start(primary)
          yield* opened(db)
          assert.deepStrictEqual(yield* exit, success)
        })
      )

      it.scoped(`${way}: the server had committed, and was stopped cleanly: a success`, () =>
        Effect.gen(function* () {
          const db = yield* openWith(way)
          const { exit, finishUnheard, primary } = yield* committing(db)
          yield* finishUnheard
          yield* closed(db)
          yield* primary.proxy.reset
          yield* db.cluster.restart(primary)
          yield* opened(db)
          assert.deepStrictEqual(yield* exit, success)
        })
      )

      it.scoped(`${way}: the server crashed before it was done: rolled back`, () =>
        Effect.gen(function* () {
          const db = yield* openWith(way)
          const { exit, primary } = yield* committing(db)
          yield* kill(db, primary)
          yield* db.cluster.start(primary)
          assertOutcome(yield* exit, rolledBack)
          assert.strictEqual(yield* countOf(db, 1), 0)
        })
      )

      it.scoped(`${way}: the new writer has received it: a success, and stored once`, () =>
        Effect.gen(function* () {
          const db = yield* openWith(way)
          if (way === "transaction-status") yield* seasoned(db.cluster)
          const { exit, finishUnheard, primary } = yield* committing(db)
          yield* finishUnheard
          yield* replicated(db.cluster)
          yield* kill(db, primary)
          yield* db.cluster.promote()
          assert.deepStrictEqual(yield* exit, success)
          assert.strictEqual(yield* countOf(db, 1), 1)
        })
      )

      it.scoped(`${way}: the new writer has all but the COMMIT: rolled back`, () =>
        Effect.gen(function* () {
          const db = yield* openWith(way)
          if (way === "transaction-status") yield* seasoned(db.cluster)
          const { exit, primary } = yield* committing(db)
          yield* replicated(db.cluster)
          yield* kill(db, primary)
          yield* db.cluster.promote()
          assertOutcome(yield* exit, rolledBack)
          assert.strictEqual(yield* countOf(db, 1), 0)
        })
      )

      it.scoped(
        `${way}: the new writer has never received it: rolled back, also if its id is out again`,
        () =>
          Effect.gen(function* () {
            const db = yield* openWith(way)
            const { cluster } = db
            const { exit, finishUnheard, primary } = yield* committing(db, "detached")
            yield* finishUnheard
            yield* closed(db)
            yield* kill(db, primary)
            yield* attach(cluster)
            const { node } = yield* cluster.promote()
            yield* Effect.replicateEffect(
              cluster.query(node, `insert into ${db.table}_other default values`),
              20
            )
            yield* opened(db)
            assertOutcome(yield* exit, rolledBack)
            assert.strictEqual(yield* countOf(db, 1), 0)
          })
      )
    }

    it.scoped(
      "transaction-status: the new writer has lost it, and crashed: unknown, never a success",
      () =>
        Effect.gen(function* () {
          const db = yield* openWith("transaction-status")
          const { cluster, table } = db
          const { exit, finishUnheard, primary } = yield* committing(db, "detached")
          yield* finishUnheard
          const [row] = yield* cluster.query(primary, "select pg_current_wal_lsn()::text as lsn")
          yield* closed(db)
          yield* kill(db, primary)
          yield* attach(cluster)
          const { node } = yield* cluster.promote()
          // Its log grows past the mark, and the transaction's id belongs to another one.
          yield* Effect.replicateEffect(
            cluster.query(node, `insert into ${table}_other default values`),
            20
          )
          yield* cluster.query(
            node,
            `select pg_logical_emit_message(true, '', repeat('x', 1000000))`
          )
          yield* cluster.kill(node)
          yield* cluster.start(node)
          assert.isTrue(
            yield* is(cluster, node, `pg_last_wal_replay_lsn() >= '${String(row?.["lsn"])}'`)
          )
          yield* opened(db)
          assertOutcome(yield* exit, unknown)
          assert.strictEqual(yield* countOf(db, 1), 0)
        })
    )

    for (const [way, expected] of [
      ["transaction-status", "unknown"],
      ["ledger", "a success"]
    ] as const) {
      it.scoped(`${way}: two promotions further: ${expected}`, () =>
        Effect.gen(function* () {
          const db = yield* openWith(way)
          const { cluster } = db
          const { exit, finishUnheard, primary } = yield* committing(db)
          yield* finishUnheard
          yield* replicated(cluster)
          yield* closed(db)
          yield* kill(db, primary)
          const second = yield* cluster.promote()
          yield* replicated(cluster, 1)
          // Waits until the cluster itself is done with them too.
          yield* Effect.flatMap(cluster.standbys, (all) => Effect.forEach(all, cluster.start))
          yield* cluster.kill(second.node)
          yield* cluster.promote()
          yield* opened(db)
          if (expected === "unknown") assertOutcome(yield* exit, unknown)
          else assert.deepStrictEqual(yield* exit, success)
          assert.strictEqual(yield* countOf(db, 1), 1)
        })
      )
    }

    it.scoped("of a transaction that only read: a success, for nothing can be lost", () =>
      Effect.gen(function* () {
        const { cluster } = yield* openWarm()
        const primary = yield* cluster.primary
        const { resolution } = PgTransactionStatus
        const db = yield* openWarm({
          commitResolution: {
            name: "unheard",
            mark: (query) =>
              Effect.tap(resolution.mark(query), () =>
                Effect.orDie(primary.proxy.set(Fault.DropReplies()))
              )
          }
        })
        const fiber = yield* Effect.fork(db.client.withTransaction(db.client`SELECT 1 AS one`))
        yield* eventually("COMMIT", ended(db, primary))
        yield* kill(db, primary)
        yield* cluster.promote()
        assert.deepStrictEqual(yield* Fiber.join(fiber).pipe(within("the transaction to end")), [
          { one: 1 }
        ])
      })
    )

    for (const way of ["transaction-status", "ledger"] as const) {
      it.scoped(`${way}: a read-only transaction commits, and an unanswered one is a success`, () =>
        Effect.gen(function* () {
          const db = yield* openWith(way)
          const { client: sql, cluster } = db
          const primary = yield* cluster.primary
          const reading = (also: Effect.Effect<void, FaultProxyError>) =>
            sql
              .withTransaction(Effect.zipLeft(sql`SELECT 1 AS one`, also))
              .pipe(SqlFailover.withIsolation({ readOnly: true }))
          const fiber = yield* Effect.fork(reading(primary.proxy.set(Fault.DropReplies())))
          yield* eventually("COMMIT", ended(db, primary))
          yield* kill(db, primary)
          yield* cluster.promote()
          const rows = yield* Fiber.join(fiber).pipe(within("the transaction to end"))
          assert.deepStrictEqual(rows, [{ one: 1 }])
          assert.deepStrictEqual(yield* reading(Effect.void), rows)
        })
      )

      it.scoped(`${way}: a transaction in which a statement failed still ends as an error`, () =>
        Effect.gen(function* () {
          const db = yield* openWith(way)
          const failed = Effect.ignore(db.client`SELECT 1 / 0`)
          const exit = yield* Effect.exit(
            db.client.withTransaction(Effect.zipRight(insert(db, 1), failed))
          )
          assert.include(String(causeOf(exit)), "ROLLBACK")
          yield* insert(db, 2)
          assert.deepStrictEqual([yield* countOf(db, 1), yield* countOf(db, 2)], [0, 1])
        })
      )
    }

    it.scoped("the ledger has one row for each transaction that committed, and none besides", () =>
      Effect.gen(function* () {
        const db = yield* openWarm()
        const name = yield* ledgerOf(db.cluster)
        const { client } = yield* openWarm({ commitResolution: CommitResolution.ledger(name) })
        yield* Effect.forEach(
          [1, 2, 3],
          (id) => client.withTransaction(insert({ ...db, client }, id)),
          {
            concurrency: 3
          }
        )
        yield* Effect.exit(client.withTransaction(Effect.fail("mine")))
        yield* client.withTransaction(client.withTransaction(insert({ ...db, client }, 4)))
        const rows = yield* db.cluster.query(
          yield* db.cluster.primary,
          `select count(*)::int as n, count(distinct token)::int as tokens from "${name}"`
        )
        assert.deepStrictEqual(rows, [{ n: 4, tokens: 4 }])
      })
    )

    it.scoped("a missing ledger table is named by the error, and breaks no other statement", () =>
      Effect.gen(function* () {
        const db = yield* openWarm({
          commitResolution: CommitResolution.ledger("not_there"),
          maxConnections: 1
        })
        const error = yield* Effect.flip(db.client.withTransaction(insert(db, 1)))
        assert.instanceOf(error, SqlError.SqlError)
        assert.propertyVal(error.cause, "code", "42P01")
        assert.include(String(error.cause), "not_there")
        yield* insert(db, 2)
        assert.deepStrictEqual([yield* countOf(db, 1), yield* countOf(db, 2)], [0, 1])
        assert.deepStrictEqual(yield* db.failovers, { noticed: 0, connected: 0 })
      })
    )

    it.scoped("resolved as rolled back, it is run again by retryTransaction, and stored once", () =>
      Effect.gen(function* () {
        const db = yield* openWith("ledger")
        const { cluster } = db
        const primary = yield* cluster.primary
        yield* replicated(cluster)
        let runs = 0
        const fiber = yield* Effect.suspend(() => {
          runs++
          return db.client.withTransaction(
            runs === 1 ? Effect.zipLeft(insert(db, 1), kill(db, primary)) : insert(db, 1)
          )
        }).pipe(
          Failover.retryTransaction(Schedule.recurs(3)),
          Effect.provideService(Failover.Failover, db.failover),
          Effect.fork
        )
        yield* eventually(
          "the primary's end",
          Effect.map(cluster.status, (all) =>
            all.some(({ node, process }) => node.id === primary.id && process === "stopped")
          )
        )
        yield* cluster.promote()
        yield* Fiber.join(fiber).pipe(within("the transaction to end"))
        assert.deepStrictEqual([runs, yield* countOf(db, 1)], [2, 1])
      })
    )
  }
)

layer(clusterLayer({ nodes: 2 }), { excludeTestServices: true })(
  "a COMMIT that waits for a standby in vain",
  (it) => {
    for (const way of ["transaction-status", "ledger"] as const) {
      it.scoped(`${way}: unknown, though the primary by itself calls it committed`, () =>
        Effect.gen(function* () {
          const { cluster } = yield* openWarm()
          yield* replicated(cluster, 1)
          const options = yield* ways[way](cluster)
          const db = yield* openWarm({ ...options, queryTimeout: "300 millis" })
          yield* detach(cluster)
          const exit = yield* Effect.exit(db.client.withTransaction(insert(db, 1)))
          yield* attach(cluster)
          assertOutcome(exit, unknown)
          assert.strictEqual(yield* countOf(db, 1), 1)
        })
      )
    }
  }
)
