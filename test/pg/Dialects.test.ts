/** Every kind of cluster, as its servers tell of themselves: recognised, observed, failed over. */
import type { Reactivity } from "@effect/experimental"
import { assert, describe, layer } from "@effect/vitest"
import type { Scope } from "effect"
import { Effect } from "effect"
import * as Pg from "effect-failover/layers/Pg"
import * as Fs from "node:fs"
import type { Cluster, Node } from "../support/database.js"
import { addressOf, clusterLayer, heal, nodeAt, TestCluster } from "../support/database.js"
import { ask, configured, dialectOf, flavors, membersOf } from "../support/dialects.js"
import { registry } from "../support/registry.js"
import { expectNothingUnhandled } from "../support/unhandled.js"
import { eventually, within } from "../support/waiting.js"

expectNothingUnhandled()

const healthy = Effect.tap(TestCluster, heal)

const client = (
  cluster: Cluster,
  overrides?: Pg.PgOptions
): Effect.Effect<Pg.PgFailover, unknown, Scope.Scope | Reactivity.Reactivity> =>
  Pg.make(configured(cluster, overrides))

/** The members that every node lists in the end: knowledge travels by replication. */
const allList = (cluster: Cluster, expected: ReadonlyArray<string>, overrides?: Pg.PgOptions) =>
  Effect.forEach(
    cluster.nodes,
    (node) =>
      eventually(
        `${node.id} lists ${expected.join(", ")}`,
        Effect.map(
          ask(cluster, overrides === undefined ? {} : { options: overrides }).observe(node),
          (seen) => membersOf(cluster, seen).join() === expected.join()
        )
      ),
    { discard: true }
  )

const rolesWith = (cluster: Cluster, writer: Node) =>
  cluster.nodes.map(({ id }) => `${id} ${id === writer.id ? "writer" : "reader"}`)

const writes = ({ client }: Pg.PgFailover) => client`CREATE TEMPORARY TABLE IF NOT EXISTS proof ()`

for (const flavor of flavors) {
  layer(clusterLayer({ flavor }), { excludeTestServices: true })(`Dialects, ${flavor}`, (it) => {
    it.scoped("is recognised on every node", () =>
      Effect.gen(function* () {
        const cluster = yield* healthy
        for (const node of cluster.nodes) {
          const { observe, source } = ask(cluster)
          yield* observe(node)
          assert.strictEqual(source.dialect().name, dialectOf[flavor], node.id)
        }
      })
    )

    it.scoped("the writer and the readers say what they are", () =>
      Effect.gen(function* () {
        const cluster = yield* healthy
        const primary = yield* cluster.primary
        for (const node of cluster.nodes) {
          const seen = yield* ask(cluster).observe(node)
          assert.strictEqual(seen.role, node.id === primary.id ? "writer" : "reader", node.id)
          assert.strictEqual(seen.host.port, node.port)
          assert.match(String(seen.incarnation), /^\d{4}-/)
          const hasTimeline = flavor === "streaming" || flavor === "multi-az"
          assert.strictEqual(
            typeof seen.serverEpoch,
            hasTimeline && node.id === primary.id ? "bigint" : "undefined"
          )
        }
        if (flavor !== "streaming") yield* allList(cluster, rolesWith(cluster, primary))
      })
    )

    it.scoped("SIGKILL of the writer: the client goes to the new one, from one host alone", () =>
      Effect.gen(function* () {
        const cluster = yield* healthy
        const [standby] = yield* cluster.standbys
        assert.isDefined(standby)
        // Streaming needs all its hosts, unless it may see the standbys; the others know their members.
        const db = yield* client(
          cluster,
          flavor === "streaming" ? {} : { hosts: addressOf(standby) }
        )
        const old = yield* cluster.primary
        yield* writes(db)
        assert.strictEqual(nodeAt(cluster, db.stats().host), old)
        yield* cluster.kill(old)
        const { node } = yield* cluster.promote()
        yield* Effect.retry(writes(db), { times: 1 }).pipe(within("a write after the failover"))
        assert.strictEqual(nodeAt(cluster, db.stats().host), node)
        const { hosts, writer } = db.topology.unsafeCurrent()
        assert.strictEqual(writer?.host.port, node.port)
        assert.deepStrictEqual(
          hosts.filter((_) => _.role === "writer").map((_) => _.host.port),
          [node.port]
        )
      })
    )

    it.scoped("any of them is PostgreSQL too, if the user says so", () =>
      Effect.gen(function* () {
        const cluster = yield* healthy
        const asked = ask(cluster, { options: { dialect: "pg" } })
        const seen = yield* asked.observe(yield* cluster.primary)
        assert.deepStrictEqual([asked.source.dialect().name, seen.role], ["pg", "writer"])
        assert.strictEqual(asked.sent.length, 1)
      })
    )
  })
}

layer(clusterLayer({ flavor: "aurora-global" }), { excludeTestServices: true })(
  "Aurora Global Database",
  (it) => {
    const inRegion = (cluster: Cluster, region: string) =>
      cluster.nodes.filter((_) => _.region === region)

    const one = (cluster: Cluster, region: string): Node => {
      const [node] = inRegion(cluster, region)
      assert.isDefined(node)
      return node
    }

    const moveTo = (cluster: Cluster, node: Node) =>
      Effect.flatMap(cluster.primary, (primary) =>
        Effect.zipRight(
          primary.id === node.id ? Effect.void : cluster.switchover(node),
          allList(cluster, rolesWith(cluster, node))
        )
      )

    it.scoped("the writer is followed to another region and back", () =>
      Effect.gen(function* () {
        const cluster = yield* healthy
        const home = one(cluster, "eu-west-1")
        const away = one(cluster, "us-east-1")
        yield* moveTo(cluster, home)
        const db = yield* client(cluster, { hosts: addressOf(home) })
        yield* writes(db)
        for (const next of [away, home]) {
          yield* moveTo(cluster, next)
          yield* Effect.retry(writes(db), { times: 1 }).pipe(within(`a write on ${next.id}`))
          assert.strictEqual(nodeAt(cluster, db.stats().host), next)
          assert.strictEqual(db.topology.unsafeCurrent().writer?.host.id, next.id)
        }
      })
    )

    it.scoped("a region without a pattern is named in the error", () =>
      Effect.gen(function* () {
        const cluster = yield* healthy
        const globalInstanceHostPatterns = { "eu-west-1": "?.eu.cluster.test:5432" }
        const db = yield* client(cluster, { globalInstanceHostPatterns })
        const error: any = yield* Effect.flip(writes(db))
        assert.deepStrictEqual(
          [error.cause._tag, error.cause.field],
          ["ConfigurationError", "globalInstanceHostPatterns"]
        )
        assert.include(error.cause.message, '"us-east-1"')
      })
    )

    describe("for a client that knows its own region only", () => {
      const ofOneRegion = {
        globalInstanceHostPatterns: undefined,
        instanceHostPattern: "?.eu.cluster.test:5432"
      }

      it.scoped("instances of other regions are left out", () =>
        Effect.gen(function* () {
          const cluster = yield* healthy
          const home = one(cluster, "eu-west-1")
          yield* moveTo(cluster, home)
          const nodes = inRegion(cluster, "eu-west-1")
          const expected = rolesWith({ ...cluster, nodes }, home)
          for (const node of nodes) {
            yield* eventually(
              `${node.id} lists ${expected.join()}`,
              Effect.gen(function* () {
                const { observe, source } = ask(cluster, { options: ofOneRegion })
                const seen = yield* observe(node)
                assert.strictEqual(source.dialect().name, "aurora-global-pg")
                return membersOf(cluster, seen).join() === expected.join()
              })
            )
          }
        })
      )

      it.scoped("a writer in another region is an error that names the region", () =>
        Effect.gen(function* () {
          const cluster = yield* healthy
          const home = one(cluster, "eu-west-1")
          yield* moveTo(cluster, one(cluster, "us-east-1"))
          const error = yield* Effect.flip(ask(cluster, { options: ofOneRegion }).observe(home))
          assert.strictEqual(error.rejection?._tag, "ConfigurationError")
          assert.include(error.description, '"us-east-1"')
        })
      )
    })
  }
)

layer(clusterLayer({ flavor: "aurora" }), { excludeTestServices: true })("Aurora", (it) => {
  it.scoped("a reader's list is as old as what the writer told it last", () =>
    Effect.gen(function* () {
      const cluster = yield* healthy
      const [reader] = yield* cluster.standbys
      assert.isDefined(reader)
      const asOf = Effect.map(ask(cluster).observe(reader), (seen) => seen.asOf ?? Number.NaN)
      const clock = Effect.map(
        cluster.query(reader, "select extract(epoch from now())::float8 * 1000 as now"),
        ([row]) => Number(row?.["now"])
      )
      const before = yield* clock
      const first = yield* asOf
      assert.isAtLeast(first, Math.floor(before))
      assert.isAtMost(first, Math.ceil(yield* clock))
      const primary = yield* cluster.primary
      assert.isUndefined((yield* ask(cluster).observe(primary)).asOf)
      yield* cluster.kill(primary)
      yield* eventually(
        "the list to age",
        Effect.map(asOf, (second) => second < first)
      )
    })
  )
})

layer(clusterLayer({ flavor: "multi-az" }), { excludeTestServices: true })("Multi-AZ", (it) => {
  const PORTLESS = `
    drop function rds_tools.show_topology;
    create function rds_tools.show_topology(client text default null, out id text, out endpoint text)
      returns setof record language sql security definer set search_path = pg_catalog
      as $$ select 'db-' || upper(substr(md5(m.server_id), 1, 26)), m.server_id || '.cluster.test'
        from cluster_emulation.member m $$`

  it.scoped("a version that lists no ports, and sets where others have scalars", () =>
    Effect.gen(function* () {
      const cluster = yield* healthy
      const primary = yield* cluster.primary
      const seen: Array<number> = []
      const translateAddress: Pg.PgOptions["translateAddress"] = (host) => {
        seen.push(host.port)
        return configured(cluster).translateAddress?.(host) ?? host
      }
      yield* cluster.query(
        primary,
        `begin; ${PORTLESS};
        drop function rds_tools.dbi_resource_id;
        create function rds_tools.dbi_resource_id(out dbi_resource_id text) returns setof text
          language sql security definer set search_path = pg_catalog
          as $$ select 'db-' || upper(substr(md5(current_setting('cluster_name')), 1, 26)) $$;
        commit`
      )
      const observation = yield* ask(cluster, { options: { translateAddress } }).observe(primary)
      assert.strictEqual(observation.role, "writer")
      assert.deepStrictEqual(membersOf(cluster, observation), rolesWith(cluster, primary))
      assert.deepStrictEqual([...new Set(seen)], [primary.port])
    })
  )

  it.scoped("a single instance has the functions, and no source: it is plain PostgreSQL", () =>
    Effect.gen(function* () {
      const cluster = yield* healthy
      const primary = yield* cluster.primary
      yield* cluster.query(
        primary,
        `create or replace function rds_tools.multi_az_db_cluster_source_dbi_resource_id(
          out multi_az_db_cluster_source_dbi_resource_id text) language sql as $$ select null::text $$`
      )
      const { observe, source } = ask(cluster)
      const seen = yield* observe(primary)
      assert.deepStrictEqual([source.dialect().name, seen.role], ["pg", "writer"])
      // For a user who says that it is one: nobody is the writer for want of a source.
      const other = yield* ask(cluster, { options: { dialect: "multi-az-pg" } }).observe(primary)
      assert.strictEqual(other.role, "reader")
    })
  )
})

layer(clusterLayer(), { excludeTestServices: true })("A dialect of one's own", (it) => {
  it.scoped("the one of the documentation, on a real cluster", () =>
    Effect.gen(function* () {
      const cluster = yield* healthy
      const old = yield* cluster.primary
      yield* cluster.query(
        old,
        `create schema ops;
        create table ops.member (id text, host text, port integer);
        insert into ops.member values ${cluster.nodes
          .map(({ host, id, port }) => `('${id}', '${host}', ${port})`)
          .join(", ")}`
      )
      const db = yield* client(cluster, { hosts: addressOf(old), dialect: registry })
      yield* writes(db)
      assert.deepStrictEqual(
        db.topology
          .unsafeCurrent()
          .hosts.map((_) => _.host.port)
          .sort(),
        cluster.nodes.map((_) => _.port).sort()
      )
      yield* cluster.kill(old)
      const { node } = yield* cluster.promote()
      yield* Effect.retry(writes(db), { times: 1 }).pipe(within("a write after the failover"))
      assert.strictEqual(nodeAt(cluster, db.stats().host), node)
    })
  )

  it.effect("is recognised where its table is, and in no other database", () =>
    Effect.gen(function* () {
      const cluster = yield* healthy
      const primary = yield* cluster.primary
      const plain = ask(cluster).source.dialect()
      for (const exists of [true, false]) {
        if (!exists) yield* cluster.query(primary, "drop schema ops cascade")
        const { observe, source } = ask(cluster, { dialects: [registry, plain] })
        yield* observe(primary)
        assert.strictEqual(source.dialect().name, exists ? "registry" : "pg")
      }
    })
  )

  it.effect("is the same on the page, in the module and here", () =>
    Effect.sync(() => {
      const read = (file: string) => Fs.readFileSync(file, "utf8")
      const block = (text: string) =>
        [...text.matchAll(/```ts\n([\s\S]*?)```/g)]
          .map(([, code]) => code)
          .find((code) => code?.includes("const registry: Dialect.Dialect = {"))
      const here = read("test/support/registry.ts").replace("export const", "const")
      const module = read("src/Dialect.ts").replace(/^ \* ?/gm, "")
      assert.strictEqual(block(module), here)
      assert.strictEqual(block(read("docs/dialects.md")), here)
      // Twenty lines of code, without imports and comments.
      const lines = here.split("\n").filter((line) => !/^(import|\/\/|$)/.test(line))
      assert.isAtMost(lines.length, 20)
    })
  )
})
