/**
 * What a layer provides over a connector: the topology, the client, and what moves it.
 *
 * @internal
 */
import type { Reactivity } from "@effect/experimental"
import { SqlClient, Statement } from "@effect/sql"
import { PgClient } from "@effect/sql-pg"
import type { Duration, Scope } from "effect"
import { Context, Effect, Option, Stream } from "effect"
import * as Pg from "pg"
import type { Connector } from "../../Connector.js"
import * as ErrorClassifier from "../../ErrorClassifier.js"
import type { ConfigurationError } from "../../Errors.js"
import { FailoverFailed } from "../../Errors.js"
import { Failover } from "../../Failover.js"
import * as HostSelector from "../../HostSelector.js"
import { share } from "../../internal/clusters.js"
import { Readers } from "../../Readers.js"
import * as SqlFailover from "../../SqlFailover.js"
import * as SqlTopologySource from "../../SqlTopologySource.js"
import * as Topology from "../../Topology.js"
import type { Rejection } from "../../TopologyState.js"
import type { PgFailover, PgLayerError, PgOptions } from "../Pg.js"
import type { CheckedOptions } from "./pgOptions.js"

const sessionSetupOf = (setup: PgOptions["sessionSetup"]): SqlFailover.Options["sessionSetup"] =>
  typeof setup === "string" ? (sql) => sql.unsafe(setup).unprepared : setup

const selectorOf = (
  selector: PgOptions["readerHostSelector"]
): Effect.Effect<HostSelector.HostSelector | undefined, ConfigurationError> =>
  typeof selector === "string"
    ? HostSelector.parse(selector, { field: "readerHostSelector" })
    : Effect.succeed(selector)

const connectEagerly = (
  options: PgOptions,
  waitForTopology: Duration.Duration | undefined,
  topology: Topology.Topology,
  ready: SqlFailover.SqlFailover["ready"]
): Effect.Effect<void, FailoverFailed | Rejection> =>
  Effect.gen(function* () {
    if (waitForTopology !== undefined) {
      yield* topology.awaitWriter({ timeout: waitForTopology }).pipe(
        Effect.catchIf(
          (error) => error instanceof FailoverFailed,
          () => Effect.void
        )
      )
    }
    if (options.connectFailover === true) yield* ready
  })

/** The custom segment that `PgClient.makeCompiler` compiles. */
const json = Statement.custom<PgClient.PgCustom>("PgJson")

/** Connects to nothing unless the options say so. @internal */
export const make = (given: {
  readonly options: PgOptions
  readonly checked: CheckedOptions
  readonly connector: Connector
  /** Made for monitoring, if the options ask for it. */
  readonly monitor?: Connector | undefined
}): Effect.Effect<PgFailover, PgLayerError, Scope.Scope | Reactivity.Reactivity> =>
  Effect.gen(function* () {
    const { checked, connector, options } = given
    const classifier = ErrorClassifier.make([
      ...(options.errorRules ?? []),
      ...ErrorClassifier.postgres,
      ...ErrorClassifier.transport
    ])
    const sourceOf = (connector: Connector, connectTimeout: Duration.Duration) =>
      SqlTopologySource.make({
        connector,
        dialects: checked.dialects,
        classifier,
        connectTimeout,
        hostOf: checked.hostOf,
        hostAt: checked.hostAt,
        seeds: checked.seeds
      })
    const { monitoring } = checked
    const source = sourceOf(connector, monitoring.connectTimeout)
    const { budget, topology } = yield* share({
      clusterId: checked.clusterId,
      description: checked.description,
      contributions: [
        ...(given.monitor === undefined
          ? []
          : [
              {
                source: sourceOf(given.monitor, monitoring.connectTimeout),
                isForMonitoring: true
              }
            ]),
        { source, isForMonitoring: false }
      ],
      make: (source) =>
        Topology.make({
          clusterId: checked.clusterId,
          seeds: checked.seeds,
          source,
          refreshRate: checked.topologyRefreshRate,
          highRefreshRate: checked.topologyHighRefreshRate,
          connectTimeout: monitoring.connectTimeout,
          probeTimeout: monitoring.queryTimeout,
          push: monitoring.push,
          ignoreRefresh: monitoring.ignoreRefresh
        })
    })
    const { client, failover, notifications, readers, ready, stats } = yield* SqlFailover.make({
      topology,
      budget,
      connector,
      classifier,
      dialect: source.dialect,
      compiler: PgClient.makeCompiler(options.transformQueryNames, options.transformJson),
      transformRows:
        options.transformResultNames === undefined
          ? undefined
          : Statement.defaultTransforms(options.transformResultNames, options.transformJson).array,
      spanAttributes: [
        ...Object.entries(options.spanAttributes ?? {}),
        ["db.system.name", connector.system],
        ["db.namespace", checked.database ?? checked.username ?? "postgres"]
      ],
      pool: checked.pool,
      connectTimeout: checked.connectTimeout,
      failoverMode: checked.failoverMode,
      readers: {
        selector: yield* selectorOf(options.readerHostSelector),
        maxStaleness: checked.maxStaleness,
        heartbeat: checked.readerHeartbeat,
        keepSessionsReadOnly: options.prepareStatements
      },
      failoverTimeout: checked.failoverTimeout,
      commitResolution: checked.commitResolution,
      sessionSetup: sessionSetupOf(options.sessionSetup)
    })
    const listen: PgFailover["listen"] = (channel) =>
      Stream.filter(
        notifications(`LISTEN ${Pg.escapeIdentifier(channel)}`),
        (event) => event._tag === "Moved" || event.channel === channel
      )
    const pgClient: PgClient.PgClient = Object.assign(client, {
      [PgClient.TypeId]: PgClient.TypeId,
      config: {
        host: checked.seeds[0].host,
        port: checked.seeds[0].port,
        database: checked.database,
        username: checked.username,
        ssl: checked.ssl,
        applicationName: checked.applicationName,
        maxConnections: checked.pool.maxConnections,
        minConnections: checked.pool.minConnections
      },
      json,
      listen: (channel: string) =>
        listen(channel).pipe(
          Stream.tap((event) =>
            event._tag === "Moved"
              ? Effect.logWarning(
                  `listening to ${channel} on ${event.to.id} now; notifications may have been missed`
                )
              : Effect.void
          ),
          Stream.filterMap((event) =>
            event._tag === "Notification" && event.payload !== ""
              ? Option.some(event.payload)
              : Option.none()
          )
        ),
      notify: (channel: string, payload: string) =>
        Effect.asVoid(client.unsafe("SELECT pg_catalog.pg_notify($1, $2)", [channel, payload]))
    })
    yield* connectEagerly(options, checked.waitForTopology, topology, ready)
    return { client: pgClient, topology, failover, readers, listen, stats } satisfies PgFailover
  })

/** @internal */
export const contextOf = ({ client, failover, readers, topology }: PgFailover) =>
  Context.make(PgClient.PgClient, client).pipe(
    Context.add(SqlClient.SqlClient, client),
    Context.add(Topology.Topology, topology),
    Context.add(Failover, failover),
    Context.add(Readers, readers)
  )
