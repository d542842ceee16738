/** How the monitor connects: with what, and what it does when it is turned away. */
import { assert, describe, layer } from "@effect/vitest"
import { Effect, Exit, Redacted, Ref, Scope } from "effect"
import * as Pg from "effect-failover/layers/Pg"
import {
  clusterLayer,
  heal,
  openWarm,
  optionsFor,
  sessions,
  TestCluster,
  unique
} from "../support/database.js"
import type { Cluster } from "../support/database.js"
import { expectNothingUnhandled } from "../support/unhandled.js"
import { eventually, within } from "../support/waiting.js"

expectNothingUnhandled()

const WATCHER = "watcher"
const SECRET = "only the monitor knows"

const monitoring: Pg.MonitoringOptions = {
  username: WATCHER,
  password: Redacted.make(SECRET),
  database: "postgres"
}

const createWatcher = (cluster: Cluster) =>
  Effect.gen(function* () {
    yield* heal(cluster)
    yield* cluster.query(
      yield* cluster.primary,
      `do $$ begin create role ${WATCHER} login password '${SECRET}';
       exception when duplicate_object then null; end $$`
    )
  })

/** User and database of every session that calls itself the monitor, on all hosts. */
const monitors = (cluster: Cluster, app: string) =>
  Effect.map(
    Effect.forEach(cluster.nodes, (node) =>
      cluster.query(
        node,
        "select usename as user, datname as database from pg_stat_activity where application_name = $1",
        [`${app} monitor`]
      )
    ),
    (all) => all.flat().map(({ database, user }) => ({ user, database }))
  )

/** Another node takes over, and the client is there. */
const failOver = (db: Effect.Effect.Success<ReturnType<typeof openWarm>>) =>
  Effect.gen(function* () {
    yield* db.cluster.kill(yield* db.cluster.primary)
    const promoted = yield* db.cluster.promote()
    yield* db.client`SELECT 1`.pipe(within("the new writer"))
    assert.strictEqual(db.stats().host?.port, promoted.node.port)
  })

layer(clusterLayer(), { timeout: "60 seconds", excludeTestServices: true })("the monitor", (it) => {
  describe("with credentials of its own", () => {
    it.scoped("connects with them and to its database, the clients with theirs", () =>
      Effect.gen(function* () {
        const cluster = yield* TestCluster
        yield* createWatcher(cluster)
        const db = yield* openWarm({ monitoring })
        yield* eventually(
          "one monitor, by its own name",
          Effect.map(monitors(cluster, db.app), (all) => all.length === 1)
        )
        assert.deepStrictEqual(yield* monitors(cluster, db.app), [
          { user: WATCHER, database: "postgres" }
        ])
        const [row] = yield* db.client`SELECT current_user::text AS name`
        assert.strictEqual(row?.["name"], cluster.username)
      })
    )

    it.scoped("finds the new writer with them", () =>
      Effect.gen(function* () {
        yield* createWatcher(yield* TestCluster)
        yield* failOver(yield* openWarm({ monitoring }))
      })
    )

    it.scoped("connects as a client where they are rejected: better watched than blind", () =>
      Effect.gen(function* () {
        const cluster = yield* TestCluster
        yield* createWatcher(cluster)
        const db = yield* openWarm({
          monitoring: { ...monitoring, password: Redacted.make("forgotten") }
        })
        assert.deepStrictEqual(yield* monitors(cluster, db.app), [])
        yield* failOver(db)
      })
    )
  })

  describe("of two layers", () => {
    it.scoped("goes on when the first is closed, and its vault with it", () =>
      Effect.gen(function* () {
        const cluster = yield* TestCluster
        yield* heal(cluster)
        const vault = yield* Ref.make<"open" | "closed">("open")
        const password = Effect.flatMap(Ref.get(vault), (state) =>
          state === "open" ? Effect.succeed(cluster.password) : Effect.fail("the vault is closed")
        )
        const first = yield* Scope.make()
        const applicationName = unique("app")
        const one = yield* Scope.extend(
          Pg.make(optionsFor(cluster, { applicationName, password })),
          first
        )
        yield* one.client`SELECT 1`
        const db = yield* openWarm()
        assert.strictEqual(one.topology, db.topology)
        yield* Ref.set(vault, "closed")
        yield* Scope.close(first, Exit.void)
        yield* failOver(db)
      })
    )
  })

  describe("that listens in calm", () => {
    it.scoped("hears of a new writer, though nobody asks and no connection ended", () =>
      Effect.gen(function* () {
        const cluster = yield* TestCluster
        yield* heal(cluster)
        const db = yield* openWarm({ topologyPush: "always", topologyRefreshRate: "1 hour" })
        const before = yield* db.topology.current
        yield* eventually(
          "a wait parked on each standby",
          Effect.map(
            Effect.flatMap(cluster.standbys, (standbys) =>
              Effect.forEach(standbys, (node) => sessions(db, node))
            ),
            (all) => all.every((_) => _.some(({ query }) => query.startsWith("DO")))
          )
        )
        yield* cluster.freeze(yield* cluster.primary)
        yield* cluster.promote()
        yield* eventually(
          "the new writer",
          Effect.map(
            db.topology.current,
            ({ epoch, phase }) => phase._tag === "Calm" && epoch > before.epoch
          )
        )
        assert.strictEqual((yield* db.client`SELECT 1`.pipe(within("the new writer"))).length, 1)
      })
    )
  })
})
