/** Which standbys a primary names, to whom, and what becomes of them. */
import { assert, layer } from "@effect/vitest"
import { Effect, Redacted } from "effect"
import * as Pg from "effect-failover/layers/Pg"
import type { Cluster } from "../support/database.js"
import { addressOf, clusterLayer, heal, nodeAt, TestCluster } from "../support/database.js"
import { ask, configured, membersOf, translateTo } from "../support/dialects.js"
import { expectNothingUnhandled } from "../support/unhandled.js"
import { eventually, within } from "../support/waiting.js"
import * as WalSender from "../support/walSender.js"

expectNothingUnhandled()

const healthy = Effect.tap(TestCluster, heal)

/** Standbys are found by name: here, an address tells nothing (all of them are 127.0.0.1). */
const named = (cluster: Cluster): Pg.PgOptions => ({
  instanceHostPattern: "?.cluster.test:5432",
  translateAddress: translateTo(cluster)
})

layer(clusterLayer({ settings: { wal_level: "logical" } }), { excludeTestServices: true })(
  "Standbys",
  (it) => {
    it.scoped("are found by the primary, by their names and the pattern", () =>
      Effect.gen(function* () {
        const cluster = yield* healthy
        const primary = yield* cluster.primary
        const standbys = (yield* cluster.standbys).map(({ id }) => `${id} reader`).sort()
        for (const node of cluster.nodes) {
          const asked = ask(cluster, { options: named(cluster) })
          const seen = yield* asked.observe(node)
          assert.deepStrictEqual(membersOf(cluster, seen), node === primary ? standbys : [])
          assert.isFalse(seen.isWhole, "nobody is removed because of it")
          assert.strictEqual(asked.sent.filter((_) => _.includes("pg_walfile_name")).length, 1)
        }
      })
    )

    it.scoped("with their lag: none when all is replayed, and what they had last else", () =>
      Effect.gen(function* () {
        const cluster = yield* healthy
        const primary = yield* cluster.primary
        const lags = Effect.map(
          ask(cluster, { options: named(cluster) }).observe(primary),
          ({ members = [] }) => members.map((_) => _.lagMillis)
        )
        yield* eventually(
          "all to have replayed everything",
          Effect.map(lags, (all) => all.join() === "0,0")
        )
        const [standby] = yield* cluster.standbys
        assert.isDefined(standby)
        yield* Effect.acquireRelease(cluster.query(standby, "select pg_wal_replay_pause()"), () =>
          Effect.ignore(cluster.query(standby, "select pg_wal_replay_resume()"))
        )
        yield* cluster.query(primary, "create table lagging as select 1")
        yield* eventually(
          "one to lag",
          Effect.map(lags, (all) => all.some((lag) => lag !== undefined && lag > 0))
        )
      })
    )

    it.scoped("one that is not in the configuration takes over: the client goes there", () =>
      Effect.gen(function* () {
        const cluster = yield* healthy
        const old = yield* cluster.primary
        const db = yield* Pg.make(configured(cluster, { ...named(cluster), hosts: addressOf(old) }))
        yield* db.client`SELECT 1`
        yield* cluster.kill(old)
        const { node } = yield* cluster.promote()
        yield* eventually("an answer", Effect.as(db.client`SELECT 1`, true))
        assert.strictEqual(nodeAt(cluster, db.stats().host), node)
        // The seed has not left the cluster.
        assert.include(
          db.topology.unsafeCurrent().hosts.map((_) => _.host.port),
          old.port
        )
      })
    )

    it.scoped("a user who may not see them is told of none, and works", () =>
      Effect.gen(function* () {
        const cluster = yield* healthy
        const old = yield* cluster.primary
        yield* cluster.query(old, "create role blind login password 'blind'")
        const user = { username: "blind", password: "blind" }
        const seen = yield* ask(cluster, { options: named(cluster), user }).observe(old)
        assert.deepStrictEqual([seen.role, seen.members], ["writer", undefined])
        const db = yield* Pg.make({
          ...configured(cluster, named(cluster)),
          username: user.username,
          password: Redacted.make(user.password)
        })
        yield* db.client`SELECT 1`
        yield* cluster.kill(old)
        const { node } = yield* cluster.promote()
        yield* eventually("an answer", Effect.as(db.client`SELECT 1`, true))
        assert.strictEqual(nodeAt(cluster, db.stats().host), node)
      })
    )

    it.scoped("at a loopback address they are nobody: not another host, and not the primary", () =>
      Effect.gen(function* () {
        const cluster = yield* healthy
        const primary = yield* cluster.primary
        for (const hosts of [addressOf(primary), cluster.nodes.map(addressOf)]) {
          const seen = yield* ask(cluster, { options: { hosts } }).observe(primary)
          assert.isUndefined(seen.members)
        }
      })
    )

    const strangers = [
      { name: "pg-receivewal", kind: "physical", applies: false },
      { name: "subscription", kind: "logical", applies: true }
    ] as const
    for (const stranger of strangers) {
      it.scoped(`whoever streams and is no standby is not one: ${stranger.name}`, () =>
        Effect.gen(function* () {
          const cluster = yield* healthy
          const primary = yield* cluster.primary
          // One that the pattern would make a host of.
          const translateAddress: Pg.PgOptions["translateAddress"] = (host) =>
            host.id === stranger.name ? host : translateTo(cluster)(host)
          yield* WalSender.stream(cluster, primary, stranger)
          const { observe } = ask(cluster, { options: { ...named(cluster), translateAddress } })
          const { members = [] } = yield* observe(primary).pipe(within("an observation"))
          assert.deepStrictEqual(
            members.map((_) => _.host.id).sort(),
            (yield* cluster.standbys).map((_) => _.id).sort()
          )
        })
      )
    }
  }
)
