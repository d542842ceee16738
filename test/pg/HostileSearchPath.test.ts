/** Users whose search_path begins with a schema that shadows pg_catalog: no query of the library may meet it. */
import { assert, layer } from "@effect/vitest"
import { Duration, Effect, Redacted } from "effect"
import { Host, SqlTopologySource } from "effect-failover"
import * as AuroraGlobalPg from "effect-failover/dialects/AuroraGlobalPg"
import * as PgTransactionStatus from "effect-failover/dialects/PgTransactionStatus"
import * as Pg from "effect-failover/layers/Pg"
import type { Cluster, Node } from "../support/database.js"
import { nodeAt, TestCluster } from "../support/database.js"
import {
  ask,
  configured,
  connectorFor,
  dialectOf,
  flavors,
  membersOf
} from "../support/dialects.js"
import * as Hostile from "../support/hostile.js"
import { expectNothingUnhandled } from "../support/unhandled.js"
import { eventually, within } from "../support/waiting.js"

expectNothingUnhandled()

/** Streaming standbys are named by the pattern: then they are asked for with all columns. */
const optionsOf = (cluster: Cluster): Pg.PgOptions =>
  cluster.flavor === "streaming"
    ? {
        instanceHostPattern: "?.cluster.test",
        translateAddress: ({ id }) => {
          const node = cluster.nodes.find((_) => _.id === id)
          return node === undefined ? { host: id, port: 1 } : { host: node.host, port: node.port }
        }
      }
    : {}

const session = (cluster: Cluster, node: Node) =>
  Effect.acquireRelease(
    connectorFor(cluster, Hostile.victim).connect(Host.make({ host: node.host, port: node.port }), {
      timeout: Duration.seconds(5)
    }),
    (session) => Effect.sync(() => session.destroy())
  )

const queries = (cluster: Cluster, node: Node) =>
  Effect.map(session(cluster, node), SqlTopologySource.query)

/** `hijacked`, a view that divides by zero, or a domain that accepts nothing. */
const trap = /hijacked|division by zero|does not exist/

for (const flavor of flavors) {
  layer(Hostile.hostileLayer(flavor), { excludeTestServices: true })(
    `A hostile search_path, ${flavor}`,
    (it) => {
      it.scoped("recognition, observation and the wait for promotion", () =>
        Effect.gen(function* () {
          const cluster = yield* TestCluster
          const primary = yield* cluster.primary
          const query = yield* queries(cluster, primary)
          for (const control of Hostile.controls) {
            const error = yield* Effect.flip(query(control))
            assert.match(String(error.cause), trap, control)
          }

          for (const node of cluster.nodes) {
            const options = optionsOf(cluster)
            const plain = ask(cluster, { options })
            const hostile = ask(cluster, { options, user: Hostile.victim })
            const expected = yield* plain.observe(node)
            const seen = yield* hostile.observe(node)
            assert.strictEqual(hostile.source.dialect().name, dialectOf[flavor])
            assert.deepStrictEqual(
              [seen.role, seen.host, seen.serverEpoch, membersOf(cluster, seen)],
              [expected.role, expected.host, expected.serverEpoch, membersOf(cluster, expected)]
            )
            assert.isAtLeast(seen.members?.length ?? 0, node === primary ? 2 : 0)

            const query = yield* queries(cluster, node)
            const { awaitPromotion, isWriter } = hostile.source.dialect()
            assert.strictEqual(yield* isWriter(query), node === primary)
            yield* awaitPromotion?.(query, Duration.millis(5)) ?? Effect.void
          }
        })
      )

      if (flavor === "aurora-global") {
        it.scoped("the count of regions", () =>
          Effect.gen(function* () {
            const cluster = yield* TestCluster
            const query = yield* queries(cluster, yield* cluster.primary)
            const { detect } = AuroraGlobalPg.make({ knowsAllRegions: false })
            assert.isTrue(yield* detect(query))
          })
        )
      }

      if (flavor === "streaming") {
        it.scoped("the resolution of a COMMIT by the transaction's status", () =>
          Effect.gen(function* () {
            const cluster = yield* TestCluster
            const primary = yield* cluster.primary
            const query = yield* queries(cluster, primary)
            yield* query("BEGIN")
            yield* query("SELECT pg_catalog.pg_current_xact_id()")
            const resolve = yield* PgTransactionStatus.resolution.mark(query)
            const other = yield* queries(cluster, primary)
            assert.strictEqual(yield* resolve(other), "InProgress")
            yield* query("COMMIT")
            assert.strictEqual(yield* resolve(other), "Committed")
          })
        )
      }

      it.scoped("a client of such a user fails over", () =>
        Effect.gen(function* () {
          const cluster = yield* TestCluster
          const old = yield* cluster.primary
          const db = yield* Pg.make({
            ...configured(cluster, optionsOf(cluster)),
            username: Hostile.victim.username,
            password: Redacted.make(Hostile.victim.password)
          })
          yield* db.client`SELECT 1`
          yield* cluster.kill(old)
          const { node } = yield* cluster.promote()
          yield* eventually(
            "the client to be on the new writer",
            Effect.as(db.client`SELECT 1`, true)
          ).pipe(within("a failover"))
          assert.strictEqual(nodeAt(cluster, db.stats().host), node)
        })
      )
    }
  )
}
