/** From a layer that is built while everything is down to a process that nothing keeps alive. */
import { SqlClient } from "@effect/sql"
import { assert, describe, layer } from "@effect/vitest"
import { Context, Effect, Exit, Fiber, Layer, Scope } from "effect"
import { Topology } from "effect-failover"
import * as Pg from "effect-failover/layers/Pg"
import {
  addressOf,
  clusterLayer,
  flavors,
  heal,
  noSessionLeft,
  open,
  openWarm,
  optionsFor,
  sessions,
  TestCluster,
  unique
} from "../support/database.js"
import type { Cluster } from "../support/database.js"
import { expectNothingUnhandled } from "../support/unhandled.js"
import { AT_ONCE, eventually, within } from "../support/waiting.js"

expectNothingUnhandled()

const allDown = (cluster: Cluster) =>
  Effect.zipRight(heal(cluster), Effect.forEach(cluster.nodes, cluster.kill, { discard: true }))

const allUp = (cluster: Cluster) =>
  Effect.forEach(cluster.nodes, cluster.start, { discard: true, concurrency: "unbounded" })

/** The monitor is the one that asks for topology. */
const isMonitor = ({ query }: { readonly query: string }) =>
  /aurora_replica_status|pg_walfile_name/.test(query)

for (const flavor of flavors) {
  layer(clusterLayer({ flavor }), { excludeTestServices: true })(`Lifecycle, ${flavor}`, (it) => {
    describe("the layer while every host is down", () => {
      it.scoped("is built, and connects on first use once they are up", () =>
        Effect.gen(function* () {
          const cluster = yield* TestCluster
          yield* allDown(cluster)
          const context = yield* Layer.build(Pg.layer(optionsFor(cluster))).pipe(
            within("the layer to be built", AT_ONCE)
          )
          const sql = Context.get(context, SqlClient.SqlClient)
          assert.strictEqual(
            Context.get(context, Topology.Topology).unsafeCurrent().phase._tag,
            "Idle"
          )
          const fiber = yield* Effect.fork(sql`SELECT 1`)
          yield* allUp(cluster)
          const rows = yield* Fiber.join(fiber).pipe(within("the first statement"))
          assert.strictEqual(rows.length, 1)
        })
      )

      it.scoped("with connectFailover fails after failoverTimeout, and says what was tried", () =>
        Effect.gen(function* () {
          const cluster = yield* TestCluster
          yield* allDown(cluster)
          const options = { connectFailover: true, failoverTimeout: "300 millis" } as const
          const error = yield* Layer.build(Pg.layer(optionsFor(cluster, options))).pipe(
            Effect.scoped,
            Effect.flip,
            within("the layer to fail")
          )
          assert.strictEqual(error._tag, "FailoverFailed")
          if (error._tag === "FailoverFailed") {
            assert.strictEqual(error.tried.length, cluster.nodes.length)
          }
        })
      )

      it.scoped("with connectFailover waits for a writer, and is connected then", () =>
        Effect.gen(function* () {
          const cluster = yield* TestCluster
          yield* allDown(cluster)
          const fiber = yield* Effect.fork(Pg.make(optionsFor(cluster, { connectFailover: true })))
          yield* allUp(cluster)
          const db = yield* Fiber.join(fiber).pipe(within("the layer to be built"))
          assert.strictEqual(db.stats().host?.port, (yield* cluster.primary).port)
          assert.isAtLeast(db.stats().open, 1)
        })
      )

      it.scoped("with waitForTopology waits that long, and goes on without", () =>
        Effect.gen(function* () {
          const cluster = yield* TestCluster
          yield* allDown(cluster)
          const db = yield* Pg.make(optionsFor(cluster, { waitForTopology: "300 millis" })).pipe(
            within("the layer to be built")
          )
          assert.strictEqual(db.topology.unsafeCurrent().phase._tag, "Searching")
          yield* allUp(cluster)
          assert.strictEqual((yield* db.client`SELECT 1`.pipe(within("the answer"))).length, 1)
        })
      )
    })

    it.scoped(
      "with waitForTopology the writer is known when the layer is built, no pool is opened",
      () =>
        Effect.gen(function* () {
          const db = yield* open({ waitForTopology: "20 seconds" })
          assert.strictEqual(db.topology.unsafeCurrent().phase._tag, "Calm")
          assert.strictEqual(
            db.topology.unsafeCurrent().writer?.host.port,
            (yield* db.cluster.primary).port
          )
        })
    )

    it.scoped("nothing is connected before the first use", () =>
      Effect.gen(function* () {
        const db = yield* open()
        yield* noSessionLeft(db)
        yield* eventually(
          "no connection at any proxy, those of the clients before it included",
          Effect.map(
            Effect.forEach(db.cluster.nodes, (_) => _.proxy.connections),
            (all) => all.every((n) => n === 0)
          )
        )
        assert.deepStrictEqual(db.stats(), { host: undefined, open: 0, idle: 0, waiting: 0 })
      })
    )

    it.scoped(
      "in calm there is one monitoring connection, to the writer, and it asks nothing",
      () =>
        Effect.gen(function* () {
          const db = yield* openWarm({ topologyRefreshRate: "1 minute" })
          const primary = yield* db.cluster.primary
          const all = Effect.forEach(db.cluster.nodes, (node) => sessions(db, node))
          yield* eventually(
            "the search to be over",
            Effect.map(all, (each) => each.flat().length === 2)
          )
          const asked = Effect.map(
            db.cluster.query(
              primary,
              "select pid, query, query_start::text as at from pg_stat_activity where application_name = $1",
              [db.app]
            ),
            (rows) =>
              rows
                .map(({ at, pid, query }) => ({
                  at: String(at),
                  pid: Number(pid),
                  query: String(query)
                }))
                .filter(isMonitor)
          )
          const before = yield* asked
          assert.strictEqual(before.length, 1)
          // A hundred times the high refresh rate of a search would have shown by the end of these.
          yield* Effect.replicateEffect(db.client`SELECT pg_sleep(0.01)`, 50)
          assert.deepStrictEqual(yield* asked, before)
          const standbys = yield* Effect.forEach(yield* db.cluster.standbys, (_) => sessions(db, _))
          assert.deepStrictEqual(standbys.flat(), [])
        })
    )

    it.scoped(
      "two layers of one cluster share a monitor, and its end is the second one's end",
      () =>
        Effect.gen(function* () {
          const first = yield* Scope.make()
          const db = yield* openWarm()
          const primary = yield* db.cluster.primary
          const other = yield* Scope.extend(
            Pg.make(optionsFor(db.cluster, { applicationName: db.app })),
            first
          )
          yield* other.client`SELECT 1`
          const monitors = Effect.map(
            Effect.forEach(db.cluster.nodes, (node) => sessions(db, node)),
            (all) => all.flat().filter(isMonitor).length
          )
          yield* eventually(
            "one monitoring connection",
            Effect.map(monitors, (n) => n === 1)
          )
          assert.strictEqual(other.topology, db.topology)
          yield* Scope.close(first, Exit.void)
          yield* eventually(
            "the first client's two connections only",
            Effect.map(sessions(db, primary), (all) => all.length === 2)
          )
          assert.strictEqual(yield* monitors, 1)
          assert.strictEqual((yield* db.client`SELECT 1`).length, 1)
        })
    )

    it.scoped("another cluster under the same cluster id is a ClusterIdConflict", () =>
      Effect.gen(function* () {
        const cluster = yield* TestCluster
        const clusterId = unique("cluster")
        yield* Pg.make(optionsFor(cluster, { clusterId }))
        const hosts = ["db-1.elsewhere:5432"]
        const error = yield* Effect.flip(Pg.make(optionsFor(cluster, { clusterId, hosts })))
        assert.strictEqual(error._tag, "ClusterIdConflict")
        assert.include(error.message, clusterId)
        assert.include(error.message, "db-1.elsewhere:5432")
        for (const node of cluster.nodes) assert.include(error.message, addressOf(node))
      })
    )

    it.scoped("a cluster id is free again when its last layer is closed", () =>
      Effect.gen(function* () {
        const cluster = yield* TestCluster
        const clusterId = unique("cluster")
        const make = (hosts?: ReadonlyArray<string>) =>
          Effect.scoped(
            Effect.asVoid(
              Pg.make(
                optionsFor(cluster, hosts === undefined ? { clusterId } : { clusterId, hosts })
              )
            )
          )
        yield* make()
        yield* make(["db-1.elsewhere:5432"])
      })
    )

    it.scoped("100 layers opened and closed leave no connection, no timer and no handle", () =>
      Effect.gen(function* () {
        const cluster = yield* TestCluster
        yield* heal(cluster)
        const app = unique("app")
        const db = { app, cluster }
        const resources = Effect.sync(() => {
          const counts: Record<string, number> = {}
          for (const name of process.getActiveResourcesInfo())
            counts[name] = (counts[name] ?? 0) + 1
          return counts
        })
        const use = (i: number) =>
          Effect.gen(function* () {
            const options = { applicationName: app, minConnections: i % 3 }
            const sql = Context.get(
              yield* Layer.build(Pg.layer(optionsFor(cluster, options))),
              SqlClient.SqlClient
            )
            if (i % 2 === 0) yield* sql`SELECT 1`
            if (i % 4 === 0) yield* Effect.forkScoped(Effect.ignore(sql`SELECT pg_sleep(0.05)`))
          }).pipe(Effect.scoped)
        yield* use(0)
        yield* noSessionLeft(db)
        const before = yield* resources
        yield* Effect.forEach(
          Array.from({ length: 100 }, (_, i) => i),
          use,
          { concurrency: 5 }
        )
        yield* noSessionLeft(db)
        yield* eventually(
          `the resources of before: ${JSON.stringify(before)}`,
          Effect.map(resources, (now) =>
            ["Timeout", "TCPSocketWrap", "TCPWRAP", "TCPSocket"].every(
              (name) => (now[name] ?? 0) <= (before[name] ?? 0) + 1
            )
          )
        )
      })
    )
  })
}
