/**
 * How fresh a reader is, by the servers' own word. All is asked by a user whose search_path shadows pg_catalog:
 * no question may meet it.
 */
import { NodeHttpClient } from "@effect/platform-node"
import { assert, layer } from "@effect/vitest"
import { Duration, Effect } from "effect"
import type { Dialect, Errors } from "effect-failover"
import { Host, SqlTopologySource } from "effect-failover"
import * as AuroraGlobalPg from "effect-failover/dialects/AuroraGlobalPg"
import * as AuroraPg from "effect-failover/dialects/AuroraPg"
import * as MultiAzPg from "effect-failover/dialects/MultiAzPg"
import * as Patroni from "effect-failover/dialects/Patroni"
import * as PgStreaming from "effect-failover/dialects/PgStreaming"
import type * as PostgresCluster from "effect-failover/testing/PostgresCluster"
import type { Cluster, Node } from "../support/database.js"
import { heal, TestCluster, unique } from "../support/database.js"
import { connectorFor } from "../support/dialects.js"
import * as Hostile from "../support/hostile.js"
import { expectNothingUnhandled } from "../support/unhandled.js"
import { eventually } from "../support/waiting.js"

expectNothingUnhandled()

const healthy = Effect.tap(TestCluster, heal)

const queries = (cluster: Cluster, node: Node, user?: typeof Hostile.victim) =>
  Effect.acquireRelease(
    connectorFor(cluster, user).connect(Host.make({ host: node.host, port: node.port }), {
      timeout: Duration.seconds(5)
    }),
    (session) => Effect.sync(() => session.destroy())
  ).pipe(Effect.map(SqlTopologySource.query))

/** The writer and one of the readers, and a line of the victim to each. */
const pair = Effect.gen(function* () {
  const cluster = yield* healthy
  const writer = yield* cluster.primary
  const [reader] = yield* cluster.standbys
  assert.isDefined(reader)
  const table = unique("fresh")
  yield* cluster.query(writer, `create table public.${table} (id integer)`)
  return {
    cluster,
    writer,
    reader,
    table,
    onWriter: yield* queries(cluster, writer, Hostile.victim),
    onReader: yield* queries(cluster, reader, Hostile.victim),
    write: cluster.query(writer, `insert into public.${table} values (1)`),
    count: Effect.map(
      cluster.query(reader, `select count(*)::int as n from public.${table}`),
      ([row]) => row?.["n"]
    )
  }
})

const pause = (cluster: Cluster, reader: Node) =>
  Effect.acquireRelease(cluster.query(reader, "select pg_wal_replay_pause()"), () =>
    Effect.ignore(cluster.query(reader, "select pg_wal_replay_resume()"))
  ).pipe(
    Effect.zipRight(
      eventually(
        "replay to be paused",
        Effect.map(
          cluster.query(reader, "select pg_get_wal_replay_pause_state() as state"),
          ([row]) => row?.["state"] === "paused"
        )
      )
    )
  )

const resume = (cluster: Cluster, reader: Node) =>
  cluster.query(reader, "select pg_wal_replay_resume()")

const defined = <A>(what: A | undefined): A => {
  assert.isDefined(what)
  return what
}

/** In the emulation of Aurora: a catalog function answers with these rows, until the scope closes. */
const answering = (
  cluster: Cluster,
  writer: Node,
  name: string,
  rows: ReadonlyArray<Readonly<Record<string, string>>>
) =>
  Effect.gen(function* () {
    const replace = (definition: string) =>
      cluster.query(writer, `set allow_system_table_mods = on; ${definition}`)
    const [found] = yield* cluster.query(
      writer,
      `select pg_get_functiondef('pg_catalog.${name}()'::regprocedure) as it`
    )
    const original = String(found?.["it"])
    const columns = /\(([^)]*)\)/.exec(original)?.[1]?.split(", ") ?? []
    const selects = rows.map((row) => {
      const values = columns.map((column) => {
        const [, name, type] = /^OUT (\w+) (.*)$/.exec(column) ?? []
        return `(${row[String(name)] ?? "null"})::${type}`
      })
      return `select ${values.join()}`
    })
    yield* Effect.acquireRelease(
      replace(
        original.replace(/\$function\$[^]*\$function\$/, () =>
          ["$function$", selects.join(" union all "), "$function$"].join(" ")
        )
      ),
      () => Effect.ignore(replace(original))
    )
  })

/** Ahead of whatever is ever written here. */
const FAR = "FFFFFFFF/FFFFFFFF"

const bigintOf = (lsn: string): bigint => {
  const [high = "", low = ""] = lsn.split("/")
  return (BigInt(`0x${high}`) << 32n) | BigInt(`0x${low}`)
}

const patroni = Effect.provide(Patroni.make(), NodeHttpClient.layer)

const flavors: ReadonlyArray<{
  readonly flavor: PostgresCluster.Flavor
  readonly dialects: Effect.Effect<
    readonly [Dialect.Dialect, ...ReadonlyArray<Dialect.Dialect>],
    Errors.ConfigurationError
  >
}> = [
  { flavor: "streaming", dialects: Effect.all([Effect.succeed(PgStreaming.dialect), patroni]) },
  { flavor: "multi-az", dialects: Effect.succeed([MultiAzPg.dialect]) },
  { flavor: "aurora", dialects: Effect.succeed([AuroraPg.dialect]) },
  { flavor: "aurora-global", dialects: Effect.succeed([AuroraGlobalPg.dialect]) }
]

for (const { dialects, flavor } of flavors) {
  const isAurora = flavor === "aurora" || flavor === "aurora-global"
  layer(Hostile.hostileLayer(flavor), { excludeTestServices: true })(
    `Freshness, ${flavor}`,
    (it) => {
      it.scoped("is told by positions or by a lag", () =>
        Effect.gen(function* () {
          for (const { freshness, load, name } of yield* dialects) {
            assert.strictEqual(freshness === undefined, isAurora, name)
            assert.strictEqual(load !== undefined, isAurora, name)
          }
        })
      )

      it.scoped("a read-only session refuses to write, on a writer and after a promotion", () =>
        Effect.gen(function* () {
          const { cluster, reader, table, writer } = yield* pair
          const insert = `INSERT INTO public.${table} VALUES (1)`
          const refused = (query: Dialect.Query) =>
            Effect.map(Effect.flip(query(insert)), ({ cause, fate }) => {
              assert.include(cause, { code: "25006" })
              assert.strictEqual(fate, "Answered")
            })
          for (const { readOnly } of yield* dialects) {
            const query = yield* queries(cluster, writer)
            yield* query(insert)
            yield* defined(readOnly)(query)
            yield* refused(query)
            yield* query("BEGIN")
            yield* refused(query)
            yield* query("ROLLBACK")
          }
          const [dialect] = yield* dialects
          const onReader = yield* queries(cluster, reader)
          const other = yield* queries(cluster, reader)
          yield* defined(dialect.readOnly)(onReader)
          yield* refused(onReader)
          yield* cluster.kill(writer)
          yield* cluster.promote(reader)
          yield* refused(onReader)
          yield* other(insert)
        })
      )

      if (isAurora) {
        const lag = (query: Dialect.Query) =>
          Effect.flatMap(dialects, ([{ load }]) =>
            Effect.map(defined(load)(query), (_) => _.lagMillis)
          )

        it.scoped("a reader that does not replay lags more and more, and not any more then", () =>
          Effect.gen(function* () {
            const { cluster, onReader, onWriter, reader, write } = yield* pair
            const none = Effect.map(lag(onReader), (millis) => millis === 0)
            yield* eventually("no lag", none)
            yield* pause(cluster, reader)
            yield* write
            yield* eventually(
              "a lag",
              Effect.map(lag(onReader), (millis) => defined(millis) > 0)
            )
            const before = defined(yield* lag(onReader))
            yield* eventually(
              "more of it",
              Effect.map(lag(onReader), (millis) => defined(millis) > before + 50)
            )
            assert.strictEqual(yield* lag(onWriter), 0)
            yield* resume(cluster, reader)
            yield* eventually("no lag any more", none)
          })
        )

        it.scoped("a reader without a writer lags, and one that takes over does not", () =>
          Effect.gen(function* () {
            const { cluster, onReader, reader, write, writer } = yield* pair
            yield* write
            yield* eventually(
              "no lag",
              Effect.map(lag(onReader), (millis) => millis === 0)
            )
            yield* cluster.kill(writer)
            yield* eventually(
              "a lag",
              Effect.map(lag(onReader), (millis) => defined(millis) > 0)
            )
            yield* cluster.promote(reader)
            assert.strictEqual(yield* lag(onReader), 0)
          })
        )

        const global = flavor === "aurora-global"
        const source = global ? "aurora_global_db_instance_status" : "aurora_replica_status"
        const column = global ? "visibility_lag_in_msec" : "replica_lag_in_msec"
        const self = { server_id: "current_setting('cluster_name')", session_id: "'some-reader'" }
        const others = { ...self, server_id: "'another'", [column]: "900" }
        const early = { last_update_timestamp: "'2026-01-01 00:00:00+00'" }
        const late = { last_update_timestamp: "'2026-01-01 00:00:01+00'" }
        const row = (lag: string) => ({ ...self, [column]: lag })
        const common = [
          { name: "its own row counts", rows: [row("5"), others], expected: 5 },
          { name: "it may not know", rows: [row("null"), others], expected: undefined },
          { name: "a negative one is none", rows: [row("-1"), others], expected: undefined },
          { name: "it may not be listed", rows: [others], expected: undefined }
        ]
        const cases = global
          ? [
              ...common,
              { name: "of two, the larger one", rows: [row("7"), row("6")], expected: 7 },
              {
                name: "none if one of two does not know",
                rows: [row("8"), row("null")],
                expected: undefined
              },
              {
                name: "a writer of that name is another one",
                rows: [row("9"), { ...row("null"), session_id: "'MASTER_SESSION_ID'" }],
                expected: 9
              }
            ]
          : [
              ...common,
              {
                name: "of two, the latest one",
                rows: [
                  { ...row("900"), ...early },
                  { ...row("7"), ...late },
                  { ...row("901"), ...early }
                ],
                expected: 7
              },
              {
                name: "one that never reported is the oldest",
                rows: [row("900"), { ...row("8"), ...early }],
                expected: 8
              }
            ]
        it.scoped("what a reader says of its lag: the column of its own row", () =>
          Effect.gen(function* () {
            const { cluster, onReader, writer } = yield* pair
            for (const { expected, name, rows } of cases) {
              // Replication takes a moment: an answer from before proves nothing.
              yield* eventually(
                "the emulation's own answer",
                Effect.map(lag(onReader), (millis) => millis === 0)
              )
              yield* Effect.scoped(
                Effect.zipRight(
                  answering(cluster, writer, source, rows),
                  eventually(
                    name,
                    Effect.map(lag(onReader), (millis) => millis === expected)
                  )
                )
              )
            }
          })
        )
        return
      }

      it.scoped("positions grow with what is written, and the writer has reached its own", () =>
        Effect.gen(function* () {
          const { onReader, onWriter, write } = yield* pair
          for (const { freshness } of yield* dialects) {
            const { position, reached } = defined(freshness)
            const first = yield* position(onWriter)
            yield* write
            const second = yield* position(onWriter)
            assert.isTrue(bigintOf(first) < bigintOf(second), `${first} < ${second}`)
            assert.strictEqual(yield* reached(onWriter, [first, second, FAR]), 2)
            const refused = yield* Effect.flip(position(onReader))
            assert.include(refused.cause, { code: "55000" })
          }
        })
      )

      it.scoped("a standby has reached what it has replayed, and nothing behind a gap", () =>
        Effect.gen(function* () {
          const { cluster, count, onReader, onWriter, reader, write } = yield* pair
          for (const { freshness } of yield* dialects) {
            const { position, reached } = defined(freshness)
            const before = Number(yield* count)
            const first = yield* position(onWriter)
            yield* eventually(
              "the first position",
              Effect.map(reached(onReader, [first]), (n) => n === 1)
            )
            yield* pause(cluster, reader)
            yield* write
            const second = yield* position(onWriter)
            assert.strictEqual(yield* reached(onReader, [first, second, FAR]), 1)
            assert.strictEqual(yield* count, before)
            yield* resume(cluster, reader)
            yield* eventually(
              "the second position",
              Effect.map(reached(onReader, [first, second, FAR]), (n) => n === 2)
            )
            assert.strictEqual(yield* count, before + 1)
            assert.strictEqual(yield* reached(onReader, [FAR, first, second]), 0)
          }
        })
      )

      it.scoped("a standby that was promoted has reached its own, in the session from before", () =>
        Effect.gen(function* () {
          const { cluster, onReader, onWriter, reader, writer } = yield* pair
          const [{ freshness }] = yield* dialects
          const { position, reached } = defined(freshness)
          const before = yield* position(onWriter)
          assert.strictEqual(yield* reached(onReader, ["0/0", FAR]), 1)
          yield* cluster.kill(writer)
          yield* cluster.promote(reader)
          assert.strictEqual(yield* reached(onReader, [before, FAR]), 1)
          const own = yield* position(onReader)
          assert.strictEqual(yield* reached(onReader, [before, own]), 2)
          assert.isTrue(bigintOf(before) <= bigintOf(yield* position(onReader)))
        })
      )

      if (flavor !== "streaming") return

      it.scoped("a position covers commits that are acknowledged before they are flushed", () =>
        Effect.gen(function* () {
          const { cluster, count, onReader, onWriter, table, writer } = yield* pair
          const { position, reached } = PgStreaming.freshness
          const hasty = yield* queries(cluster, writer)
          yield* hasty("SET synchronous_commit = off")
          for (let i = 1; i <= 5; i++) {
            yield* hasty(`INSERT INTO public.${table} VALUES (${i})`)
            const written = yield* position(onWriter)
            yield* eventually(
              "the position",
              Effect.map(reached(onReader, [written]), (n) => n === 1)
            )
            assert.strictEqual(yield* count, i)
          }
        })
      )

      it.scoped(
        "after a change of segment, a standby at rest has reached the writer's position",
        () =>
          Effect.gen(function* () {
            const { cluster, onReader, onWriter, reader, write, writer } = yield* pair
            const { position, reached } = PgStreaming.freshness
            const ask = (node: Node, expression: string) =>
              Effect.map(cluster.query(node, `select ${expression}::text as it`), ([row]) =>
                String(row?.["it"])
              )
            // Something else may be written in between: then it is not at rest.
            const attempt = Effect.gen(function* () {
              yield* write
              yield* ask(writer, "pg_switch_wal()")
              const next = yield* ask(writer, "pg_current_wal_insert_lsn()")
              const end = yield* ask(writer, "pg_current_wal_flush_lsn()")
              const told = yield* position(onWriter)
              yield* eventually(
                "all to be replayed",
                Effect.map(
                  ask(reader, "pg_last_wal_replay_lsn()"),
                  (replayed) => bigintOf(replayed) >= bigintOf(end)
                )
              )
              const n = yield* reached(onReader, [told])
              const isAtRest = (yield* ask(writer, "pg_current_wal_insert_lsn()")) === next
              if (!isAtRest || !next.endsWith("00028")) return false
              assert.deepStrictEqual([told, n], [end, 1])
              return true
            })
            yield* eventually("a moment of rest", attempt)
          })
      )

      it.scoped("what is no position is refused, and not asked", () =>
        Effect.gen(function* () {
          const { onReader } = yield* pair
          const sent: Array<string> = []
          const query: Dialect.Query = (sql) => {
            sent.push(sql)
            return onReader(sql)
          }
          const { reached } = PgStreaming.freshness
          for (const token of [
            "",
            "0",
            "0/",
            "/0",
            "0/G",
            "0/123456789",
            " 0/1",
            "0/1\n",
            "0/1,0/2",
            "0/1}'; DROP TABLE t; --"
          ]) {
            const error = yield* Effect.flip(reached(query, ["0/1", token]))
            assert.strictEqual(error.fate, "Answered", token)
            assert.match(String(error.cause), /Not a position in PostgreSQL's WAL/, token)
          }
          assert.strictEqual(yield* reached(query, []), 0)
          assert.deepStrictEqual(sent, [])
          assert.strictEqual(yield* reached(query, ["0/1", "0/a", "00000000/0000000B"]), 3)
          assert.lengthOf(sent, 1)
        })
      )
    }
  )
}
