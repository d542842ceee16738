/**
 * The client on a simulated cluster: what a service's own retry policy does in a failover, tested in
 * virtual time, without a server and without waiting.
 *
 * @example
 * ```ts
 * import { it } from "@effect/vitest"
 * import { SqlClient } from "@effect/sql"
 * import { Effect, Fiber, Schedule, TestClock } from "effect"
 * import { Failover } from "effect-failover"
 * import * as Test from "effect-failover/layers/Test"
 *
 * it.effect("a transfer survives the loss of the writer", () =>
 *   Effect.gen(function* () {
 *     const sql = yield* SqlClient.SqlClient
 *     const cluster = yield* Test.Cluster
 *     const transfer = sql
 *       .withTransaction(Effect.delay(sql`INSERT INTO transfer (id) VALUES (${1})`, "1 second"))
 *       .pipe(Effect.retry({ while: Failover.isSafeToRetry, schedule: Schedule.recurs(3) }))
 *     const fiber = yield* Effect.fork(transfer)
 *     yield* TestClock.adjust("500 millis")
 *     yield* cluster.failover({ promoteAfter: "2 seconds" })
 *     yield* TestClock.adjust("5 seconds")
 *     yield* Fiber.join(fiber)
 *     if (cluster.committed().length !== 1) throw new Error("not exactly once")
 *   }).pipe(Effect.provide(Test.layer()))
 * )
 * ```
 *
 * How to drive it: with no latency (the default), a statement is answered without the clock being moved. A
 * recovery takes its time, as `topologyHighRefreshRate`, `failoverTimeout` and the other options say, so it
 * needs the clock: fork the work, do the fault, `TestClock.adjust`, join the fiber. A new writer is found the
 * moment it is promoted, and a frozen one is noticed after `queryTimeout`, or when the topology asks it next;
 * `FailoverFailed` comes after `failoverTimeout`, which is 5 minutes unless the options say less.
 *
 * @since 0.1.0
 */
import { Reactivity } from "@effect/experimental"
import type { Scope } from "effect"
import { Context, Effect, Layer } from "effect"
// eslint-disable-next-line @typescript-eslint/no-restricted-imports -- the one layer that is for tests
import * as SimulatedCluster from "../testing/SimulatedCluster.js"
import * as PgClientInternal from "./internal/pgClient.js"
import { check } from "./internal/pgOptions.js"
import type { PgFailover, PgLayerError, PgOptions, Provided } from "./Pg.js"

/**
 * The cluster's options, and those of `layers/Pg` for the client. Credentials, TLS and prepared statements
 * mean nothing to simulated servers.
 *
 * @since 0.1.0
 * @category models
 */
export interface Options extends SimulatedCluster.Options {
  readonly client?: PgOptions | undefined
}

/**
 * @since 0.1.0
 * @category models
 */
export type Cluster = SimulatedCluster.SimulatedCluster

/**
 * The cluster that the layer's client runs on.
 *
 * @since 0.1.0
 * @category tags
 */
export const Cluster = Context.GenericTag<Cluster>("effect-failover/layers/Test/Cluster")

/**
 * @since 0.1.0
 * @category models
 */
export interface TestFailover extends PgFailover {
  readonly cluster: Cluster
}

/**
 * Another client of the same cluster. Clients of one cluster share its topology, as in one process; give
 * them a `clusterId` each, and they are in processes of their own.
 *
 * @since 0.1.0
 * @category constructors
 */
export const client = (
  cluster: Cluster,
  options: PgOptions = {}
): Effect.Effect<PgFailover, PgLayerError, Scope.Scope | Reactivity.Reactivity> =>
  Effect.gen(function* () {
    const all: PgOptions = {
      hosts: cluster.hosts,
      clusterId: cluster.id,
      // Where members are listed by name, their names are their addresses.
      ...(cluster.flavor === "aurora" ? { instanceHostPattern: "?" } : {}),
      ...options
    }
    const checked = yield* check(all)
    return yield* PgClientInternal.make({
      options: all,
      checked,
      connector: cluster.connectorWith({ queryTimeout: checked.queryTimeout }),
      monitor: checked.monitoring.credentials === undefined ? undefined : cluster.connector
    })
  })

/**
 * A cluster and a client. Connects to nothing yet.
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = (
  options: Options = {}
): Effect.Effect<TestFailover, PgLayerError, Scope.Scope | Reactivity.Reactivity> =>
  Effect.gen(function* () {
    const cluster = yield* SimulatedCluster.make(options)
    return { ...(yield* client(cluster, options.client)), cluster }
  })

/**
 * What `layers/Pg` provides, over a simulated cluster, and that cluster. No two layers share one.
 *
 * @since 0.1.0
 * @category layers
 */
export const layer = (options: Options = {}): Layer.Layer<Provided | Cluster, PgLayerError> =>
  Layer.scopedContext(
    Effect.map(make(options), (made) =>
      Context.add(PgClientInternal.contextOf(made), Cluster, made.cluster)
    )
  ).pipe(Layer.provide(Reactivity.layer))
