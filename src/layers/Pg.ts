/**
 * PostgreSQL: `SqlClient` and `PgClient` over a cluster. Take the layer of `@effect/sql-pg` out, put this
 * one in, and list the cluster's hosts.
 *
 * @example
 * ```ts
 * import { SqlClient } from "@effect/sql"
 * import { Effect, Redacted } from "effect"
 * import * as Pg from "effect-failover/layers/Pg"
 *
 * const Database = Pg.layer({
 *   hosts: ["db-1.internal", "db-2.internal", "db-3.internal"],
 *   database: "shop",
 *   username: "app",
 *   password: Redacted.make("secret")
 * })
 *
 * const program = Effect.gen(function* () {
 *   const sql = yield* SqlClient.SqlClient
 *   return yield* sql`SELECT now()`
 * }).pipe(Effect.provide(Database))
 * ```
 *
 * @since 0.1.0
 */
import { Reactivity } from "@effect/experimental"
import type { SqlError } from "@effect/sql"
import { SqlClient, Statement } from "@effect/sql"
import { PgClient } from "@effect/sql-pg"
import type { ConfigError, Scope, Duration, Redacted } from "effect"
import { Config, Context, Effect, Layer, Option, Stream } from "effect"
import type { ConnectionOptions } from "node:tls"
import * as Pg from "pg"
import type { CommitResolution } from "../CommitResolution.js"
import type { ListenEvent } from "../Connector.js"
import type { Dialect } from "../Dialect.js"
import type { ClusterIdConflict, ConfigurationError } from "../Errors.js"
import { FailoverFailed } from "../Errors.js"
import type { Rule } from "../ErrorClassifier.js"
import * as ErrorClassifier from "../ErrorClassifier.js"
import type { FailoverMode } from "../Failover.js"
import { Failover } from "../Failover.js"
import type { Host } from "../Host.js"
import { share } from "../internal/clusters.js"
import * as PgConnector from "../internal/pg/connector.js"
import { check } from "./internal/pgOptions.js"
import * as SqlFailover from "../SqlFailover.js"
import * as SqlTopologySource from "../SqlTopologySource.js"
import * as Topology from "../Topology.js"
import type { Rejection } from "../TopologyState.js"

/**
 * Durations are `Duration.DurationInput`: `"30 seconds"`, or milliseconds as a number.
 *
 * @since 0.1.0
 * @category models
 */
export interface PgOptions {
  /** The cluster's hosts, or its endpoint: `"name"`, `"name:port"`, `"[ipv6]:port"`. This or `url`. */
  readonly hosts?: string | ReadonlyArray<string | Host> | undefined
  /** `postgres://user:password@host-1:5432,host-2:5432/database?sslmode=require`. */
  readonly url?: Redacted.Redacted | undefined
  /** The port of hosts that name none. Default 5432. */
  readonly port?: number | undefined
  readonly database?: string | undefined
  readonly username?: string | undefined
  /** A secret, or an effect that is evaluated for every physical connection (IAM tokens, rotation). */
  readonly password?:
    Redacted.Redacted | Effect.Effect<Redacted.Redacted | undefined, unknown> | undefined
  /** `true` verifies the server's certificate; Node's TLS options for anything else. Default `false`. */
  readonly ssl?: boolean | ConnectionOptions | undefined

  /**
   * How instances are addressed where the cluster lists identifiers (Aurora): `"?.db.internal"`.
   * Known for RDS host names, required for IP addresses and names of one's own.
   */
  readonly instanceHostPattern?: string | undefined
  /** Where an instance is really reached: for tunnels and mapped ports. */
  readonly translateAddress?:
    ((host: Host) => { readonly host: string; readonly port: number }) | undefined
  /** Layers with one cluster id share one topology. Default: derived from the hosts. */
  readonly clusterId?: string | undefined
  /** How the cluster tells its topology. Default `"auto"`: the server is asked. */
  readonly dialect?: "auto" | "pg" | "aurora-pg" | Dialect | undefined

  /** Which hosts a failover may end on. Default `"strict-writer"`. */
  readonly failoverMode?: FailoverMode | undefined
  /** How long work waits for a writer before it fails with `FailoverFailed`. Default 5 minutes. */
  readonly failoverTimeout?: Duration.DurationInput | undefined
  /** Pause between two topology queries in calm. Default 30 seconds. */
  readonly topologyRefreshRate?: Duration.DurationInput | undefined
  /** Pause between two topology queries in a search, and for 30 s after it. Default 100 ms. */
  readonly topologyHighRefreshRate?: Duration.DurationInput | undefined
  /** Connect while the layer is built, failing over if need be; it fails if there is no writer. Default `false`. */
  readonly connectFailover?: boolean | undefined
  /** Wait this long for the first topology while the layer is built; then go on without. Default: not at all. */
  readonly waitForTopology?: Duration.DurationInput | undefined

  /** For one physical connection, log-in and session set-up each. Default 5 seconds. */
  readonly connectTimeout?: Duration.DurationInput | undefined
  /** For one statement; its connection is given up then. Default: none. */
  readonly queryTimeout?: Duration.DurationInput | undefined
  /**
   * Prepare statements with parameters by name from their fifth use on a connection, 256 at most. Default
   * `true`. Set it to `false` behind a pooler that hands a connection to others between two statements. Inside
   * a transaction, the first use after a change of the table behind it fails once (0A000).
   */
  readonly prepareStatements?: boolean | undefined
  /** For a free connection of the pool. Default 30 seconds. */
  readonly acquireTimeout?: Duration.DurationInput | undefined
  /** Default 10. */
  readonly maxConnections?: number | undefined
  /** Idle connections beyond these are closed after `idleTimeout`. Default 0. */
  readonly minConnections?: number | undefined
  /** Default 10 minutes. */
  readonly idleTimeout?: Duration.DurationInput | undefined
  /** A connection is replaced after this long. Default 30 minutes. */
  readonly connectionTTL?: Duration.DurationInput | undefined

  /**
   * How to find out about a COMMIT that was sent and not answered: `"transaction-status"`, or
   * `CommitResolution.ledger()`, or one of your own. Default `"none"`: its outcome stays `Unknown`.
   */
  readonly commitResolution?: "none" | "transaction-status" | CommitResolution | undefined
  /** SQL, or an effect, that is run on every new physical connection: it restores what a failover loses. */
  readonly sessionSetup?:
    string | ((sql: Statement.Constructor) => Effect.Effect<unknown, SqlError.SqlError>) | undefined
  /** What errors mean, tried before the library's own rules. */
  readonly errorRules?: ReadonlyArray<Rule> | undefined

  /** Default `"effect-failover"`. */
  readonly applicationName?: string | undefined
  readonly spanAttributes?: Record<string, unknown> | undefined
  readonly transformResultNames?: ((name: string) => string) | undefined
  readonly transformQueryNames?: ((name: string) => string) | undefined
  readonly transformJson?: boolean | undefined
  readonly types?: Pg.CustomTypesConfig | undefined
}

/**
 * @since 0.1.0
 * @category models
 */
export interface PgFailover {
  readonly client: PgClient.PgClient
  readonly topology: Topology.Topology
  readonly failover: Failover
  /**
   * `PgClient.listen` with all that there is to hear: it goes over to the new writer, and says so, since
   * notifications may have been missed.
   */
  readonly listen: (channel: string) => Stream.Stream<ListenEvent, SqlError.SqlError>
  /** The pool of the present writer. */
  readonly stats: SqlFailover.SqlFailover["stats"]
}

/**
 * What building the layer can fail with: a bad option always; `FailoverFailed` and the rejections of a
 * server only with `connectFailover` or `waitForTopology`.
 *
 * @since 0.1.0
 * @category models
 */
export type PgLayerError = ConfigurationError | ClusterIdConflict | FailoverFailed | Rejection

const sessionSetupOf = (setup: PgOptions["sessionSetup"]): SqlFailover.Options["sessionSetup"] =>
  typeof setup === "string" ? (sql) => sql.unsafe(setup).unprepared : setup

const connectEagerly = (
  options: PgOptions,
  waitForTopology: Duration.Duration | undefined,
  { failover, topology }: PgFailover
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
    if (options.connectFailover === true) {
      yield* failover.recover({ epoch: topology.unsafeCurrent().epoch, cause: undefined })
    }
  })

/**
 * The client and what moves it. Connects to nothing unless told to.
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = (
  options: PgOptions
): Effect.Effect<PgFailover, PgLayerError, Scope.Scope | Reactivity.Reactivity> =>
  Effect.gen(function* () {
    const checked = yield* check(options)
    const classifier = ErrorClassifier.make([
      ...(options.errorRules ?? []),
      ...ErrorClassifier.postgres,
      ...ErrorClassifier.transport
    ])
    const connector = PgConnector.make({
      username: checked.username,
      database: checked.database,
      password: checked.password,
      ssl: checked.ssl,
      applicationName: checked.applicationName,
      queryTimeout: checked.queryTimeout,
      prepareStatements: options.prepareStatements ?? true,
      types: options.types
    })
    const source = SqlTopologySource.make({
      connector,
      dialects: checked.dialects,
      classifier,
      connectTimeout: checked.connectTimeout,
      hostOf: checked.hostOf
    })
    const { budget, topology } = yield* share({
      clusterId: checked.clusterId,
      description: checked.description,
      make: Topology.make({
        clusterId: checked.clusterId,
        seeds: checked.seeds,
        source,
        refreshRate: checked.topologyRefreshRate,
        highRefreshRate: checked.topologyHighRefreshRate,
        probeTimeout: checked.connectTimeout
      })
    })
    const { client, failover, notifications, stats } = yield* SqlFailover.make({
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
    const made: PgFailover = { client: pgClient, topology, failover, listen, stats }
    yield* connectEagerly(options, checked.waitForTopology, made)
    return made
  })

/** The custom segment that `PgClient.makeCompiler` compiles. */
const json = Statement.custom<PgClient.PgCustom>("PgJson")

const contextOf = ({ client, failover, topology }: PgFailover) =>
  Context.make(PgClient.PgClient, client).pipe(
    Context.add(SqlClient.SqlClient, client),
    Context.add(Topology.Topology, topology),
    Context.add(Failover, failover)
  )

/**
 * Everything that the layer provides.
 *
 * @since 0.1.0
 * @category models
 */
export type Provided = PgClient.PgClient | SqlClient.SqlClient | Topology.Topology | Failover

/**
 * `SqlClient` and `PgClient` over a cluster, and the `Topology` and `Failover` behind them. It is built
 * without connecting, also while every host is down.
 *
 * @since 0.1.0
 * @category layers
 */
export const layer = (options: PgOptions): Layer.Layer<Provided, PgLayerError> =>
  Layer.scopedContext(Effect.map(make(options), contextOf)).pipe(Layer.provide(Reactivity.layer))

/**
 * `layer` with options from `Config`: `Pg.layerConfig(Pg.config)` reads all of them.
 *
 * @since 0.1.0
 * @category layers
 */
export const layerConfig = (
  config: Config.Config.Wrap<PgOptions>
): Layer.Layer<Provided, PgLayerError | ConfigError.ConfigError> =>
  Layer.scopedContext(Effect.map(Effect.flatMap(Config.unwrap(config), make), contextOf)).pipe(
    Layer.provide(Reactivity.layer)
  )

const optional = <A>(config: Config.Config<A>): Config.Config<A | undefined> =>
  Config.map(Config.option(config), Option.getOrUndefined)

const list = (name: string): Config.Config<ReadonlyArray<string>> =>
  Config.map(Config.string(name), (text) => text.split(",").map((_) => _.trim()))

/**
 * Every option that can be written as text, by its name in capitals: `HOSTS` (comma-separated), `URL`,
 * `PORT`, `DATABASE`, `USERNAME`, `PASSWORD`, `SSL`, `INSTANCE_HOST_PATTERN`, `CLUSTER_ID`, `DIALECT`,
 * `FAILOVER_MODE`, `FAILOVER_TIMEOUT`, `TOPOLOGY_REFRESH_RATE`, `TOPOLOGY_HIGH_REFRESH_RATE`,
 * `CONNECT_FAILOVER`, `WAIT_FOR_TOPOLOGY`, `CONNECT_TIMEOUT`, `QUERY_TIMEOUT`, `PREPARE_STATEMENTS`,
 * `ACQUIRE_TIMEOUT`,
 * `MAX_CONNECTIONS`, `MIN_CONNECTIONS`, `IDLE_TIMEOUT`, `CONNECTION_TTL`, `COMMIT_RESOLUTION`,
 * `SESSION_SETUP`,
 * `APPLICATION_NAME`.
 *
 * @example
 * ```ts
 * import { Config } from "effect"
 * import * as Pg from "effect-failover/layers/Pg"
 *
 * // DB_HOSTS, DB_DATABASE, DB_PASSWORD, ...
 * const Database = Pg.layerConfig(Config.nested(Pg.config, "DB"))
 *
 * // The same, with an option that no environment can hold.
 * const Custom = Pg.layerConfig(
 *   Config.map(Config.nested(Pg.config, "DB"), (options) => ({
 *     ...options,
 *     transformResultNames: (name: string) => name.toLowerCase()
 *   }))
 * )
 * ```
 *
 * @since 0.1.0
 * @category config
 */
export const config: Config.Config<PgOptions> = Config.all({
  hosts: optional(list("HOSTS")),
  url: optional(Config.redacted("URL")),
  port: optional(Config.integer("PORT")),
  database: optional(Config.string("DATABASE")),
  username: optional(Config.string("USERNAME")),
  password: optional(Config.redacted("PASSWORD")),
  ssl: optional(Config.boolean("SSL")),
  instanceHostPattern: optional(Config.string("INSTANCE_HOST_PATTERN")),
  clusterId: optional(Config.string("CLUSTER_ID")),
  dialect: optional(Config.literal("auto", "pg", "aurora-pg")("DIALECT")),
  failoverMode: optional(Config.literal("strict-writer")("FAILOVER_MODE")),
  failoverTimeout: optional(Config.duration("FAILOVER_TIMEOUT")),
  topologyRefreshRate: optional(Config.duration("TOPOLOGY_REFRESH_RATE")),
  topologyHighRefreshRate: optional(Config.duration("TOPOLOGY_HIGH_REFRESH_RATE")),
  connectFailover: optional(Config.boolean("CONNECT_FAILOVER")),
  waitForTopology: optional(Config.duration("WAIT_FOR_TOPOLOGY")),
  connectTimeout: optional(Config.duration("CONNECT_TIMEOUT")),
  queryTimeout: optional(Config.duration("QUERY_TIMEOUT")),
  prepareStatements: optional(Config.boolean("PREPARE_STATEMENTS")),
  acquireTimeout: optional(Config.duration("ACQUIRE_TIMEOUT")),
  maxConnections: optional(Config.integer("MAX_CONNECTIONS")),
  minConnections: optional(Config.integer("MIN_CONNECTIONS")),
  idleTimeout: optional(Config.duration("IDLE_TIMEOUT")),
  connectionTTL: optional(Config.duration("CONNECTION_TTL")),
  commitResolution: optional(Config.literal("none", "transaction-status")("COMMIT_RESOLUTION")),
  sessionSetup: optional(Config.string("SESSION_SETUP")),
  applicationName: optional(Config.string("APPLICATION_NAME"))
})
