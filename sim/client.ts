/** The clients of a scenario, put together as `layers/Pg` does, on connectors that are watched. */
import { Reactivity } from "@effect/experimental"
import { PgClient } from "@effect/sql-pg"
import type { Scope } from "effect"
import { Duration, Effect, Either, Stream } from "effect"
import {
  CommitResolution,
  ErrorClassifier,
  Errors,
  SqlFailover,
  SqlTopologySource,
  Topology
} from "effect-failover"
import * as AuroraPg from "effect-failover/dialects/AuroraPg"
import * as PgStreaming from "effect-failover/dialects/PgStreaming"
import * as PgTransactionStatus from "effect-failover/dialects/PgTransactionStatus"
import { share } from "effect-failover/internal/clusters"
import type { SimulatedCluster } from "effect-failover/testing/SimulatedCluster"
import type { Watch } from "./invariants.js"
import { observe } from "./observe.js"
import type { SqlClientOf } from "./workload.js"

const classifier = ErrorClassifier.make([...ErrorClassifier.postgres, ...ErrorClassifier.transport])

const compiler = PgClient.makeCompiler()

const resolutions = {
  none: undefined,
  ledger: CommitResolution.ledger(),
  "transaction-status": PgTransactionStatus.resolution
}

export interface SimulatedClient extends SqlClientOf {
  readonly stats: SqlFailover.SqlFailover["stats"]
  readonly readers: SqlFailover.SqlFailover["readers"]
}

export const make = (
  cluster: SimulatedCluster,
  watch: Watch,
  index: number
): Effect.Effect<SimulatedClient, Errors.ClusterIdConflict, Scope.Scope> =>
  Effect.gen(function* () {
    const { flavor, options } = watch.scenario
    const connectTimeout = Duration.millis(options.connectTimeout)
    const driver = cluster.connectorWith({ queryTimeout: Duration.millis(options.queryTimeout) })
    const source = SqlTopologySource.make({
      connector: observe(driver, watch.monitorObserver),
      dialects: [flavor === "aurora" ? AuroraPg.dialect : PgStreaming.dialect],
      classifier,
      connectTimeout,
      seeds: cluster.hosts,
      hostOf: (id) =>
        Either.fromNullable(
          cluster.hosts.find((_) => _.id === id),
          () => new Errors.ConfigurationError({ field: "hosts", problem: `no ${id}`, hint: "" })
        )
    })
    const { budget, topology } = yield* share({
      clusterId: cluster.id,
      description: cluster.id,
      contributions: [{ source, isForMonitoring: false }],
      make: (source) =>
        Topology.make({
          clusterId: cluster.id,
          seeds: cluster.hosts,
          source,
          refreshRate: Duration.millis(options.refreshRate),
          highRefreshRate: Duration.millis(options.highRefreshRate),
          highRatePeriod: Duration.millis(options.highRatePeriod),
          probeTimeout: connectTimeout,
          push: options.push
        })
    })
    const { client, failover, readers, stats } = yield* SqlFailover.make({
      topology,
      budget,
      connector: observe(driver, watch.poolObserver(index)),
      classifier,
      dialect: source.dialect,
      compiler,
      spanAttributes: [],
      pool: {
        maxConnections: options.maxConnections,
        minConnections: options.minConnections,
        acquireTimeout: Duration.millis(options.acquireTimeout),
        idleTimeout: Duration.millis(options.idleTimeout),
        connectionTTL: Duration.millis(options.connectionTTL)
      },
      connectTimeout,
      failoverTimeout: Duration.millis(options.failoverTimeout),
      commitResolution: resolutions[options.resolution],
      readers: { heartbeat: Duration.millis(options.heartbeat) }
    })
    const made = { index, topology, failover, sql: client, stats, readers }
    watch.add(made)
    yield* failover.events.pipe(
      Stream.runForEach((event) => Effect.sync(() => watch.onEvent(index, event))),
      Effect.interruptible,
      Effect.forkScoped
    )
    return made
  }).pipe(Effect.provide(Reactivity.layer))
