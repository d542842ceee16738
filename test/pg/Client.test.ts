/** What users of `@effect/sql` and `@effect/sql-pg` know, through the layer. */
import { Reactivity } from "@effect/experimental"
import { NodeContext } from "@effect/platform-node"
import { Model, SqlClient, SqlSchema } from "@effect/sql"
import { PgClient, PgMigrator } from "@effect/sql-pg"
import { assert, describe, layer } from "@effect/vitest"
import {
  Chunk,
  Context,
  Effect,
  Exit,
  Fiber,
  Layer,
  Option,
  Ref,
  Schema,
  Stream,
  String as Str,
  Tracer
} from "effect"
import * as Pg from "effect-failover/layers/Pg"
import type { Database } from "../support/database.js"
import {
  allGivenBack,
  assertOutcome,
  causeOf,
  clusterLayer,
  countOf,
  flavors,
  noSessionLeft,
  openWarm,
  optionsFor,
  running,
  sessions,
  terminateSessions
} from "../support/database.js"
import { expectNothingUnhandled } from "../support/unhandled.js"
import { eventually, within } from "../support/waiting.js"

expectNothingUnhandled()

const camel = { transformQueryNames: Str.camelToSnake, transformResultNames: Str.snakeToCamel }

const killAndPromote = ({ cluster }: Database) =>
  Effect.flatMap(cluster.primary, (primary) =>
    Effect.zipRight(cluster.kill(primary), cluster.promote())
  )

const pid = (db: Database) =>
  Effect.map(db.client<{ pid: number }>`SELECT pg_backend_pid() AS pid`, ([row]) =>
    Number(row?.pid)
  )

interface Recorded {
  readonly name: string
  readonly attributes: Map<string, unknown>
}

const recorder = () => {
  const spans: Array<Recorded> = []
  const tracer = Tracer.make({
    context: (f) => f(),
    span: (name, parent, context, links, startTime, kind) => {
      const attributes = new Map<string, unknown>()
      spans.push({ name, attributes })
      return {
        _tag: "Span",
        name,
        spanId: String(spans.length),
        traceId: "trace",
        parent,
        context,
        status: { _tag: "Started", startTime },
        attributes,
        links,
        sampled: true,
        kind,
        end: () => {},
        attribute: (key, value) => void attributes.set(key, value),
        event: () => {},
        addLinks: () => {}
      }
    }
  })
  return { spans, tracer }
}

for (const flavor of flavors) {
  layer(clusterLayer({ flavor }), { excludeTestServices: true })(`Client, ${flavor}`, (it) => {
    describe("statements", () => {
      it.scoped("insert and update helpers, with names transformed both ways", () =>
        Effect.gen(function* () {
          const { client: sql, table } = yield* openWarm(camel)
          const name = sql(table)
          yield* sql`ALTER TABLE ${name} ADD first_name text, ADD born date`
          const inserted = yield* sql`INSERT INTO ${name} ${sql
            .insert([
              { id: 1, firstName: "Ada" },
              { id: 2, firstName: "Alan" }
            ])
            .returning("*")}`
          assert.deepStrictEqual(
            inserted.map((_) => _["firstName"]),
            ["Ada", "Alan"]
          )
          yield* sql`UPDATE ${name} SET ${sql.update({ id: 2, firstName: "Alan T" }, ["id"])} WHERE id = 2`
          yield* sql`UPDATE ${name} SET born = data.born::date
            FROM ${sql.updateValues([{ id: "1", born: "1815-12-10" }], "data")} WHERE ${name}.id = data.id::bigint`
          const rows = yield* sql`SELECT first_name FROM ${name}
            WHERE ${sql.in("id", [1, 2])} AND (id <> 1 OR born = '1815-12-10') ORDER BY id`
          assert.deepStrictEqual(
            rows.map((_) => _["firstName"]),
            ["Ada", "Alan T"]
          )
        })
      )

      it.scoped("values, raw, unprepared, withoutTransform", () =>
        Effect.gen(function* () {
          const { client: sql } = yield* openWarm(camel)
          const one = sql<{ oneAndOnly: number }>`SELECT ${1}::int AS one_and_only`
          assert.deepStrictEqual({ ...(yield* one)[0] }, { oneAndOnly: 1 })
          assert.deepStrictEqual(yield* one.values, [[1]])
          const raw: any = yield* one.raw
          assert.deepStrictEqual(
            [raw.command, raw.rowCount, raw.rows[0].one_and_only],
            ["SELECT", 1, 1]
          )
          assert.deepStrictEqual({ ...(yield* one.withoutTransform)[0] }, { one_and_only: 1 })
          const plain = yield* sql.withoutTransforms()`SELECT 1 AS one_and_only`
          assert.deepStrictEqual({ ...plain[0] }, { one_and_only: 1 })
          const unprepared = yield* sql.unsafe("SELECT 1 AS a_b; SELECT 2 AS a_b").unprepared
          assert.strictEqual(unprepared.length, 2)
        })
      )

      it.scoped("values of every kind come back as they went", () =>
        Effect.gen(function* () {
          const { client: sql } = yield* openWarm()
          const at = new Date("2024-02-29T12:00:00.123Z")
          const bytes = Buffer.from([0, 1, 255])
          const [row] =
            yield* sql`SELECT ${null}::text AS n, ${true}::bool AS b, ${1.5}::float8 AS f,
            ${"ü \u0001 '"}::text AS t, ${at}::timestamptz AS d, ${bytes}::bytea AS y, ${[1, 2]}::int[] AS a`
          assert.deepStrictEqual(
            { ...row },
            { n: null, b: true, f: 1.5, t: "ü \u0001 '", d: at, y: bytes, a: [1, 2] }
          )
        })
      )

      it.scoped("json", () =>
        Effect.gen(function* () {
          const db = yield* openWarm(camel)
          const { client: sql, table } = db
          yield* sql`ALTER TABLE ${sql(table)} ADD doc jsonb`
          const doc = { aB: [1, { c: "d" }] }
          yield* sql`INSERT INTO ${sql(table)} ${sql.insert({ id: 1, doc: sql.json(doc) })}`
          const [row] =
            yield* sql`SELECT doc FROM ${sql(table)} WHERE doc @> ${sql.json({ aB: [1] })}`
          assert.deepStrictEqual(row?.["doc"], doc)
        })
      )

      it.scoped("what the driver cannot encode is an error, and the connection goes on", () =>
        Effect.gen(function* () {
          const db = yield* openWarm({ maxConnections: 1 })
          const circular: any = {}
          circular.self = circular
          const exit = yield* Effect.exit(db.client`SELECT ${circular}::jsonb`).pipe(
            within("the error")
          )
          assert.include(String(causeOf(exit)), "circular")
          assert.strictEqual((yield* db.client`SELECT 1`).length, 1)
          assert.deepStrictEqual(yield* db.failovers, { noticed: 0, connected: 0 })
        })
      )

      it.scoped("tags: the same client as SqlClient and as PgClient", () =>
        Effect.gen(function* () {
          const { cluster } = yield* openWarm()
          const context = yield* Layer.build(Pg.layer(optionsFor(cluster)))
          const client = Context.get(context, PgClient.PgClient)
          assert.strictEqual<unknown>(Context.get(context, SqlClient.SqlClient), client)
          assert.strictEqual(client.config.database, cluster.database)
        })
      )
    })

    describe("prepared statements", () => {
      const prepared = (db: Database) =>
        Effect.map(
          db.client<{ statement: string }>`SELECT statement FROM pg_prepared_statements`,
          (rows) => rows.map((_) => _.statement)
        )
      const table = (db: Database, name: string) =>
        Effect.zipRight(
          db.client.unsafe(
            `DROP TABLE IF EXISTS ${name}; CREATE TABLE ${name} (id int); INSERT INTO ${name} VALUES (1)`
          ),
          Effect.succeed(
            Effect.suspend(() => db.client.unsafe(`SELECT * FROM ${name} WHERE id = $1`, [1]))
          )
        )

      it.scoped("a statement with parameters is prepared from its fifth use on", () =>
        Effect.gen(function* () {
          const db = yield* openWarm({ maxConnections: 1 })
          const use = yield* table(db, "prepared_fifth")
          yield* Effect.repeatN(use, 3)
          assert.deepStrictEqual(yield* prepared(db), [])
          yield* use
          assert.deepStrictEqual(yield* prepared(db), [
            "SELECT * FROM prepared_fifth WHERE id = $1"
          ])
        })
      )

      it.scoped("nothing is prepared by `unprepared`, or with `prepareStatements: false`", () =>
        Effect.gen(function* () {
          const db = yield* openWarm({ maxConnections: 1 })
          yield* Effect.repeatN(
            Effect.suspend(() => db.client`SELECT ${1}::int`.unprepared),
            8
          )
          assert.deepStrictEqual(yield* prepared(db), [])
          const off = yield* openWarm({ maxConnections: 1, prepareStatements: false })
          yield* Effect.repeatN(
            Effect.suspend(() => off.client`SELECT ${1}::int`),
            8
          )
          assert.deepStrictEqual(yield* prepared(off), [])
        })
      )

      for (const [what, change] of [
        ["its table has changed", "ALTER TABLE prepared_stale ADD COLUMN b int DEFAULT 2"],
        ["somebody deallocated it", "DEALLOCATE ALL"]
      ] as const) {
        it.scoped(`the caller does not notice that ${what}`, () =>
          Effect.gen(function* () {
            const db = yield* openWarm({ maxConnections: 1 })
            const use = yield* table(db, "prepared_stale")
            yield* Effect.repeatN(use, 8)
            yield* db.client.unsafe(change)
            const [row] = yield* use
            assert.deepInclude(row as object, { id: 1 })
            yield* Effect.repeatN(use, 8)
            assert.include(yield* prepared(db), "SELECT * FROM prepared_stale WHERE id = $1")
          })
        )
      }

      it.scoped("in a transaction a changed table fails once, and the next one works", () =>
        Effect.gen(function* () {
          const db = yield* openWarm({ maxConnections: 1 })
          const use = yield* table(db, "prepared_transaction")
          yield* Effect.repeatN(use, 8)
          yield* db.client.unsafe("ALTER TABLE prepared_transaction ADD COLUMN b int DEFAULT 2")
          const exit = yield* Effect.exit(db.client.withTransaction(use))
          assert.deepInclude(causeOf(exit) as object, { code: "0A000" })
          assert.lengthOf(yield* db.client.withTransaction(use), 1)
        })
      )
    })

    describe("reserve", () => {
      it.scoped("holds one connection, and gives it back", () =>
        Effect.gen(function* () {
          const db = yield* openWarm()
          const own = (connection: any): Effect.Effect<any, any> =>
            connection.executeValues("SELECT pg_backend_pid()", [])
          yield* Effect.scoped(
            Effect.gen(function* () {
              const connection = yield* db.client.reserve
              const first = yield* own(connection)
              assert.notStrictEqual(yield* pid(db), first[0][0])
              assert.deepStrictEqual(yield* own(connection), first)
            })
          )
          yield* allGivenBack(db)
        })
      )

      it.scoped("a lost reserved connection says so, also where nothing was sent", () =>
        Effect.gen(function* () {
          const db = yield* openWarm()
          const primary = yield* db.cluster.primary
          const exit = yield* Effect.scoped(
            Effect.gen(function* () {
              const connection = yield* db.client.reserve
              yield* terminateSessions(db, primary)
              yield* eventually(
                "the end of the session to arrive",
                Effect.sync(() => db.stats().open === 0)
              )
              return yield* Effect.exit(connection.execute("SELECT 1", [], undefined))
            })
          )
          const error = assertOutcome(exit, { _tag: "FailoverSuccess", outcome: "NotExecuted" })
          assert.isFalse(error.sent)
          assert.strictEqual((yield* db.client`SELECT 1`).length, 1)
        })
      )
    })

    describe("stream", () => {
      it.scoped("brings every row of a large result, in order", () =>
        Effect.gen(function* () {
          const db = yield* openWarm(camel)
          const sum = yield* db.client<{
            nTh: number
          }>`SELECT i AS n_th FROM generate_series(1, 50000) i`.stream.pipe(
            Stream.runFold({ last: 0, ordered: true }, (seen, { nTh }) => ({
              last: nTh,
              ordered: seen.ordered && nTh === seen.last + 1
            }))
          )
          assert.deepStrictEqual(sum, { last: 50_000, ordered: true })
          yield* allGivenBack(db)
        })
      )

      it.scoped("stopped early gives its connection back, still usable", () =>
        Effect.gen(function* () {
          const db = yield* openWarm({ maxConnections: 1 })
          const before = yield* pid(db)
          const some = yield* db.client`SELECT i FROM generate_series(1, 1000000) i`.stream.pipe(
            Stream.take(10),
            Stream.runCount
          )
          assert.strictEqual(some, 10)
          assert.strictEqual(yield* pid(db), before)
          yield* allGivenBack(db)
        })
      )

      it.scoped("inside a transaction sees its rows", () =>
        Effect.gen(function* () {
          const db = yield* openWarm()
          const { client: sql, table } = db
          const seen = yield* sql.withTransaction(
            Effect.zipRight(
              sql`INSERT INTO ${sql(table)} SELECT generate_series(1, 1000)`,
              Stream.runCount(sql`SELECT id FROM ${sql(table)}`.stream)
            )
          )
          assert.strictEqual(seen, 1000)
        })
      )

      it.scoped("with a statement that the server refuses fails with its error", () =>
        Effect.gen(function* () {
          const db = yield* openWarm()
          const exit = yield* Effect.exit(
            Stream.runDrain(db.client`SELECT 1 / (5 - i) FROM generate_series(1, 10) i`.stream)
          )
          assert.strictEqual(causeOf(exit).code, "22012")
          yield* db.client`SELECT 1`
          assert.deepStrictEqual(yield* db.failovers, { noticed: 0, connected: 0 })
        })
      )

      it.scoped("killed midway fails with the outcome, and never ends as if it were complete", () =>
        Effect.gen(function* () {
          const db = yield* openWarm()
          const rows = yield* Ref.make(0)
          const exit =
            yield* db.client`SELECT i, repeat('x', 1000) FROM generate_series(1, 100000) i`.stream.pipe(
              Stream.runForEach(() =>
                Effect.flatMap(
                  Ref.updateAndGet(rows, (n) => n + 1),
                  (n) => (n === 200 ? Effect.asVoid(killAndPromote(db)) : Effect.void)
                )
              ),
              Effect.exit,
              within("the stream to end")
            )
          assertOutcome(exit, { _tag: "FailoverSuccess", outcome: "Unknown" })
          assert.isBelow(yield* Ref.get(rows), 100_000)
          assert.strictEqual((yield* db.client`SELECT 1`).length, 1)
        })
      )

      it.scoped("killed before it is read is moved silently", () =>
        Effect.gen(function* () {
          const db = yield* openWarm()
          yield* killAndPromote(db)
          yield* eventually(
            "the end of the idle connection to arrive",
            Effect.sync(() => db.stats().open === 0 || db.stats().idle > 0)
          )
          const count = yield* Stream.runCount(
            db.client`SELECT i FROM generate_series(1, 1000) i`.stream
          ).pipe(within("the stream to end"))
          assert.strictEqual(count, 1000)
        })
      )
    })

    describe("listen and notify", () => {
      const listening = (db: Database) =>
        eventually(
          "a session that listens",
          Effect.flatMap(db.cluster.primary, (primary) =>
            Effect.map(sessions(db, primary), (all) =>
              all.some(({ query, state }) => state === "idle" && query.startsWith("LISTEN"))
            )
          )
        )

      it.scoped("brings what was notified, of its channel only", () =>
        Effect.gen(function* () {
          const db = yield* openWarm()
          const fiber = yield* db.client
            .listen('ch"1')
            .pipe(Stream.take(2), Stream.runCollect, Effect.fork)
          yield* listening(db)
          yield* db.client.notify("other", "no")
          yield* db.client.notify('ch"1', "one")
          yield* db.client.withTransaction(db.client.notify('ch"1', "two"))
          const heard = yield* Fiber.join(fiber).pipe(within("two notifications"))
          assert.deepStrictEqual(Chunk.toReadonlyArray(heard), ["one", "two"])
          yield* eventually(
            "the listening session to be gone",
            Effect.map(sessions(db, yield* db.cluster.primary), (all) =>
              all.every(({ query }) => !query.startsWith("LISTEN"))
            )
          )
        })
      )

      it.scoped("moves to the new writer", () =>
        Effect.gen(function* () {
          const db = yield* openWarm()
          const fiber = yield* db.client
            .listen("channel")
            .pipe(Stream.take(1), Stream.runCollect, Effect.fork)
          yield* listening(db)
          yield* killAndPromote(db)
          yield* db.client`SELECT 1`
          yield* Effect.raceFirst(
            listening(db),
            Effect.flatMap(Fiber.await(fiber), (exit) =>
              Effect.sync(() =>
                assert.isTrue(Exit.isSuccess(exit), `the stream ended: ${String(exit)}`)
              )
            )
          )
          yield* db.client.notify("channel", "after")
          const heard = yield* Fiber.join(fiber).pipe(within("the notification"))
          assert.deepStrictEqual(Chunk.toReadonlyArray(heard), ["after"])
        })
      )
    })

    describe("connections", () => {
      it.scoped("sessionSetup runs on every new one, also after a failover", () =>
        Effect.gen(function* () {
          const db = yield* openWarm({
            sessionSetup: "SET search_path = pg_temp; SET work_mem = '7MB'"
          })
          const settings = Effect.all(
            Array.from(
              { length: 5 },
              () =>
                db.client<{ m: string }>`SELECT current_setting('work_mem') AS m, pg_sleep(0.02)`
            ),
            { concurrency: "unbounded" }
          ).pipe(Effect.map((all) => all.map(([row]) => row?.m)))
          const five = Array.from({ length: 5 }, () => "7MB")
          assert.deepStrictEqual(yield* settings, five)
          yield* killAndPromote(db)
          assert.deepStrictEqual(yield* settings, five)
        })
      )

      it.scoped("sessionSetup may be an effect", () =>
        Effect.gen(function* () {
          const db = yield* openWarm({
            sessionSetup: (sql) => sql`SELECT set_config('app.user', ${"ada"}, false)`
          })
          const [row] = yield* db.client`SELECT current_setting('app.user') AS u`
          assert.strictEqual(row?.["u"], "ada")
        })
      )

      it.scoped("a password effect is evaluated for every physical connection", () =>
        Effect.gen(function* () {
          let evaluated = 0
          const db = yield* Effect.flatMap(openWarm(), ({ cluster }) =>
            openWarm({
              clusterId: "password effect",
              password: Effect.sync(() => {
                evaluated++
                return cluster.password
              })
            })
          )
          const before = evaluated
          assert.isAtLeast(before, 2)
          yield* Effect.replicateEffect(db.client`SELECT 1`, 20)
          assert.strictEqual(evaluated, before)
          yield* Effect.all([db.client`SELECT pg_sleep(0.1)`, db.client`SELECT pg_sleep(0.1)`], {
            concurrency: 2
          })
          assert.strictEqual(evaluated, before + 1)
        })
      )

      it.scoped(
        "queryTimeout: StatementTimeout, the statement is cancelled, its connection replaced",
        () =>
          Effect.gen(function* () {
            const db = yield* openWarm({ queryTimeout: "200 millis", maxConnections: 1 })
            const primary = yield* db.cluster.primary
            const before = yield* pid(db)
            const exit = yield* Effect.exit(db.client`SELECT pg_sleep(600)`).pipe(
              within("the timeout")
            )
            const error = assertOutcome(exit, { _tag: "StatementTimeout", outcome: "Unknown" })
            assert.include(error.message, "queryTimeout")
            yield* eventually(
              "the statement to be cancelled",
              Effect.map(sessions(db, primary), (all) =>
                all.every((_) => !_.query.includes("pg_sleep"))
              )
            )
            assert.notStrictEqual(yield* pid(db), before)
            assert.deepStrictEqual(yield* db.failovers, { noticed: 0, connected: 0 })
          })
      )

      it.scoped("queryTimeout in a transaction: rolled back", () =>
        Effect.gen(function* () {
          const db = yield* openWarm({ queryTimeout: "200 millis" })
          const { client: sql, table } = db
          const exit = yield* Effect.exit(
            sql.withTransaction(
              Effect.zipRight(
                sql`INSERT INTO ${sql(table)} ${sql.insert({ id: 1 })}`,
                sql`SELECT pg_sleep(600)`
              )
            )
          ).pipe(within("the timeout"))
          assertOutcome(exit, { _tag: "StatementTimeout", outcome: "RolledBack" })
          assert.strictEqual(yield* countOf(db, 1), 0)
        })
      )

      it.scoped("acquireTimeout: PoolTimeout, nothing was executed", () =>
        Effect.gen(function* () {
          const db = yield* openWarm({ acquireTimeout: "200 millis", maxConnections: 2 })
          const primary = yield* db.cluster.primary
          yield* Effect.forkScoped(Effect.ignore(db.client`SELECT pg_sleep(600)`))
          yield* Effect.forkScoped(Effect.ignore(db.client`SELECT pg_sleep(601)`))
          yield* running(db, primary, "pg_sleep(600)")
          yield* running(db, primary, "pg_sleep(601)")
          const exit = yield* Effect.exit(db.client`SELECT 1`).pipe(within("the timeout"))
          const error = assertOutcome(exit, { _tag: "PoolTimeout", outcome: "NotExecuted" })
          assert.deepStrictEqual([error.maxConnections, error.host.port], [2, primary.port])
          assert.include(error.message, "maxConnections")
        })
      )

      it.scoped("no more are opened than maxConnections, whatever the demand", () =>
        Effect.gen(function* () {
          const db = yield* openWarm({ maxConnections: 3 })
          const primary = yield* db.cluster.primary
          const fiber = yield* Effect.fork(
            Effect.all(
              Array.from({ length: 100 }, () => pid(db)),
              { concurrency: "unbounded" }
            )
          )
          const pids = yield* Fiber.join(fiber)
          assert.isAtMost(new Set(pids).size, 3)
          assert.isAtMost((yield* sessions(db, primary)).length, 4)
        })
      )
    })

    it.scoped("spans say which host served the statement, before and after a failover", () =>
      Effect.gen(function* () {
        const db = yield* openWarm({ spanAttributes: { "app.name": "shop" } })
        const served = (sql: Effect.Effect<unknown, unknown>) =>
          Effect.gen(function* () {
            const { spans, tracer } = recorder()
            yield* Effect.withTracer(sql, tracer)
            const span = spans.find(({ name }) => name === "sql.execute")
            return (name: string) => span?.attributes.get(name)
          })
        const old = yield* db.cluster.primary
        const before = yield* served(db.client`SELECT 1`)
        assert.deepStrictEqual(
          ["server.address", "server.port", "db.system.name", "db.namespace", "app.name"].map(
            before
          ),
          [old.host, old.port, "postgresql", db.cluster.database, "shop"]
        )
        const { node } = yield* killAndPromote(db)
        // The one that is moved: the span of the failover tells of that.
        yield* db.client`SELECT 1`
        const after = yield* served(db.client`SELECT 1`)
        assert.strictEqual(after("server.port"), node.port)
        assert.isAbove(Number(after("db.failover.epoch")), Number(before("db.failover.epoch")))
        const inside = yield* served(db.client.withTransaction(db.client`SELECT 1`))
        assert.strictEqual(inside("server.port"), node.port)
      })
    )

    describe("what is built on SqlClient", () => {
      it.scoped("migrations run, once", () =>
        Effect.gen(function* () {
          const db = yield* openWarm()
          const table = `${db.table}_migrations`
          const run = PgMigrator.run({
            table,
            loader: PgMigrator.fromRecord({
              "0001_first": Effect.flatMap(
                SqlClient.SqlClient,
                (sql) => sql`CREATE TABLE ${sql(`${db.table}_m`)} (id int PRIMARY KEY)`
              ),
              "0002_second": Effect.flatMap(
                SqlClient.SqlClient,
                (sql) => sql`ALTER TABLE ${sql(`${db.table}_m`)} ADD name text`
              )
            })
          }).pipe(
            Effect.provide(
              Layer.mergeAll(
                NodeContext.layer,
                Layer.succeed(PgClient.PgClient, db.client),
                Layer.succeed(SqlClient.SqlClient, db.client)
              )
            )
          )
          assert.deepStrictEqual(
            (yield* run).map(([id]) => id),
            [1, 2]
          )
          assert.deepStrictEqual(yield* run, [])
          yield* db.client`INSERT INTO ${db.client(`${db.table}_m`)} (id, name) VALUES (1, 'a')`
        })
      )

      it.scoped("Model.makeRepository and SqlSchema", () =>
        Effect.gen(function* () {
          const db = yield* openWarm(camel)
          const name = `${db.table}_people`
          yield* db.client`CREATE TABLE ${db.client(name)}
            (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, full_name text NOT NULL)`
          class Person extends Model.Class<Person>("Person")({
            id: Model.Generated(Schema.Number),
            fullName: Schema.String
          }) {}
          yield* Effect.gen(function* () {
            const people = yield* Model.makeRepository(Person, {
              tableName: name,
              spanPrefix: "People",
              idColumn: "id"
            })
            const ada = yield* people.insert({ fullName: "Ada" })
            yield* people.update({ ...ada, fullName: "Ada L" })
            assert.strictEqual(Option.getOrThrow(yield* people.findById(ada.id)).fullName, "Ada L")
            yield* killAndPromote(db)
            const found = SqlSchema.findAll({
              Request: Schema.String,
              Result: Person,
              execute: (fullName) =>
                db.client`SELECT * FROM ${db.client(name)} WHERE full_name = ${fullName}`
            })
            assert.strictEqual((yield* found("Ada L")).length, 1)
            yield* people.delete(ada.id)
            assert.isTrue(Option.isNone(yield* people.findById(ada.id)))
          }).pipe(Effect.provideService(SqlClient.SqlClient, db.client))
        })
      )

      it.scoped("a reactive query runs again when its key is invalidated", () =>
        Effect.gen(function* () {
          const db = yield* openWarm()
          const { client: sql, table } = db
          const seen = yield* Ref.make<ReadonlyArray<number>>([])
          const count = Effect.map(
            sql<{ n: number }>`SELECT count(*)::int AS n FROM ${sql(table)}`,
            ([row]) => Number(row?.n)
          )
          yield* sql.reactive([table], count).pipe(
            Stream.runForEach((n) => Ref.update(seen, (all) => [...all, n])),
            Effect.forkScoped
          )
          const saw = (n: number) =>
            eventually(
              `the query to see ${n} rows`,
              Effect.map(Ref.get(seen), (all) => all.includes(n))
            )
          yield* saw(0)
          yield* Reactivity.mutation(sql`INSERT INTO ${sql(table)} ${sql.insert({ id: 1 })}`, [
            table
          ])
          yield* saw(1)
        })
      )
    })

    it.scoped("everything is gone with the scope, streams and listeners too", () =>
      Effect.gen(function* () {
        const db = yield* Effect.scoped(
          Effect.gen(function* () {
            const db = yield* openWarm()
            yield* Effect.forkScoped(Effect.ignore(Stream.runDrain(db.client.listen("channel"))))
            yield* Effect.forkScoped(
              Effect.ignore(
                Stream.runForEach(
                  db.client`SELECT i FROM generate_series(1, 1000000) i`.stream,
                  () => Effect.never
                )
              )
            )
            yield* eventually(
              "the stream's and the listener's sessions",
              Effect.flatMap(db.cluster.primary, (primary) =>
                Effect.map(
                  sessions(db, primary),
                  (all) =>
                    all.some(({ query }) => query.startsWith("LISTEN")) &&
                    all.some(({ query }) => query.includes("generate_series"))
                )
              )
            )
            return db
          })
        )
        yield* noSessionLeft(db)
      })
    )
  })
}
