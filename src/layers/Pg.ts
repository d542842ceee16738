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
import type { SqlClient, SqlError, Statement } from "@effect/sql"
import type { PgClient } from "@effect/sql-pg"
import type { ConfigError, Scope, Duration, Redacted, Stream } from "effect"
import { Config, Effect, Layer, Option } from "effect"
import type { ConnectionOptions } from "node:tls"
import type * as Pg from "pg"
import type { CommitResolution } from "../CommitResolution.js"
import type { ListenEvent } from "../Connector.js"
import type { Dialect } from "../Dialect.js"
import type { ClusterIdConflict, ConfigurationError, FailoverFailed } from "../Errors.js"
import type { Rule } from "../ErrorClassifier.js"
import type { Failover, FailoverMode } from "../Failover.js"
import type { Host } from "../Host.js"
import type { HostSelector } from "../HostSelector.js"
import * as PgConnector from "../internal/pg/connector.js"
import * as PgClientInternal from "./internal/pgClient.js"
import { check } from "./internal/pgOptions.js"
import type { Readers } from "../Readers.js"
import type * as SqlFailover from "../SqlFailover.js"
import type * as Topology from "../Topology.js"
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
  /**
   * The same for each region of an Aurora Global Database: `{ "us-east-1": "?.us.db.internal", ... }`.
   * Known for the regions of RDS host names.
   */
  readonly globalInstanceHostPatterns?: Readonly<Record<string, string>> | undefined
  /** Where an instance is really reached: for tunnels and mapped ports. */
  readonly translateAddress?:
    ((host: Host) => { readonly host: string; readonly port: number }) | undefined
  /** Layers with one cluster id share one topology. Default: derived from the hosts. */
  readonly clusterId?: string | undefined
  /** How the cluster tells its topology. Default `"auto"`: the server is asked. */
  readonly dialect?:
    "auto" | "pg" | "aurora-pg" | "aurora-global-pg" | "multi-az-pg" | Dialect | undefined

  /**
   * Where statements go, also after a failover: `"strict-writer"`, `"reader-or-writer"` or `"strict-reader"`.
   * Default `"strict-writer"`; for the reader endpoint of an Aurora or RDS cluster `"reader-or-writer"`.
   */
  readonly failoverMode?: FailoverMode | undefined
  /** Which reader gets the next statement: a strategy's name, or one of your own. Default `"twoChoices"`. */
  readonly readerHostSelector?: string | HostSelector | undefined
  /** How far behind the writer a reader may be. Default: as far as it is. */
  readonly maxStaleness?: Duration.DurationInput | undefined
  /** How often a host that is read from is asked how it is. Default 1 second. */
  readonly readerHeartbeat?: Duration.DurationInput | undefined
  /** How long work waits for a writer before it fails with `FailoverFailed`. Default 5 minutes. */
  readonly failoverTimeout?: Duration.DurationInput | undefined
  /** Pause between two topology queries in calm. Default 30 seconds. */
  readonly topologyRefreshRate?: Duration.DurationInput | undefined
  /** Pause between two topology queries in a search, and for 30 s after it. Default 100 ms. */
  readonly topologyHighRefreshRate?: Duration.DurationInput | undefined
  /**
   * When a wait is parked on hosts, so that a promotion is heard within milliseconds: `"search"`, `"always"`
   * (one connection to each host, also in calm) or `"never"`. Default `"search"`.
   */
  readonly topologyPush?: Topology.Push | undefined
  /** No extra topology query for this long after a writer was confirmed. Default: none is left out. */
  readonly ignoreTopologyRefresh?: Duration.DurationInput | undefined
  /**
   * How the monitor connects, where that is not as the clients do. Layers that share a topology may each say
   * it; a host that rejects the one is asked with the next.
   */
  readonly monitoring?: MonitoringOptions | undefined
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
   * `true`. Set it to `false` behind a pooler that hands a connection to others between two statements;
   * connections to readers are not set to read only then, and a read that is cut off is not run again. Inside
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
 * Whatever is left out is as for the clients.
 *
 * @since 0.1.0
 * @category models
 */
export interface MonitoringOptions {
  readonly username?: string | undefined
  readonly password?: PgOptions["password"]
  readonly database?: string | undefined
  /** Default `"effect-failover"`, or `applicationName`, and `monitor`. */
  readonly applicationName?: string | undefined
  /** For one connection, log-in included. Default `connectTimeout`. */
  readonly connectTimeout?: Duration.DurationInput | undefined
  /** For one topology query; a host that takes longer counts as lost. Default `connectTimeout`. */
  readonly queryTimeout?: Duration.DurationInput | undefined
}

/**
 * @since 0.1.0
 * @category models
 */
export interface PgFailover {
  readonly client: PgClient.PgClient
  readonly topology: Topology.Topology
  readonly failover: Failover
  readonly readers: Readers
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
    const connection = {
      username: checked.username,
      database: checked.database,
      password: checked.password,
      ssl: checked.ssl,
      applicationName: checked.applicationName,
      queryTimeout: checked.queryTimeout,
      prepareStatements: options.prepareStatements ?? true,
      types: options.types
    }
    const { credentials } = checked.monitoring
    return yield* PgClientInternal.make({
      options,
      checked,
      connector: PgConnector.make(connection),
      monitor:
        credentials === undefined
          ? undefined
          : PgConnector.make({ ...connection, ...credentials, queryTimeout: undefined })
    })
  })

/**
 * Everything that the layer provides.
 *
 * @since 0.1.0
 * @category models
 */
export type Provided =
  PgClient.PgClient | SqlClient.SqlClient | Topology.Topology | Failover | Readers

/**
 * `SqlClient` and `PgClient` over a cluster, and the `Topology`, `Failover` and `Readers` behind them. It is
 * built without connecting, also while every host is down.
 *
 * With `failoverMode: "reader-or-writer"` or `"strict-reader"` it is a client that reads from readers. It
 * shares the topology with the one that writes, and nothing else:
 *
 * @example
 * ```ts
 * import { Effect, Layer } from "effect"
 * import { SqlClient } from "@effect/sql"
 * import * as Pg from "effect-failover/layers/Pg"
 *
 * const options: Pg.PgOptions = { hosts: ["db-1.internal", "db-2.internal"], database: "shop" }
 *
 * class Reports extends Effect.Service<Reports>()("Reports", {
 *   effect: Effect.map(SqlClient.SqlClient, (sql) => ({ total: sql`SELECT sum(amount) FROM payment` })),
 *   dependencies: [Pg.layer({ ...options, failoverMode: "reader-or-writer" })]
 * }) {}
 *
 * const Live = Layer.merge(Pg.layer(options), Reports.Default)
 * ```
 *
 * @since 0.1.0
 * @category layers
 */
export const layer = (options: PgOptions): Layer.Layer<Provided, PgLayerError> =>
  Layer.scopedContext(Effect.map(make(options), PgClientInternal.contextOf)).pipe(
    Layer.provide(Reactivity.layer)
  )

/**
 * `layer` with options from `Config`: `Pg.layerConfig(Pg.config)` reads all of them.
 *
 * @since 0.1.0
 * @category layers
 */
export const layerConfig = (
  config: Config.Config.Wrap<PgOptions>
): Layer.Layer<Provided, PgLayerError | ConfigError.ConfigError> =>
  Layer.scopedContext(
    Effect.map(Effect.flatMap(Config.unwrap(config), make), PgClientInternal.contextOf)
  ).pipe(Layer.provide(Reactivity.layer))

const optional = <A>(config: Config.Config<A>): Config.Config<A | undefined> =>
  Config.map(Config.option(config), Option.getOrUndefined)

const list = (name: string): Config.Config<ReadonlyArray<string>> =>
  Config.map(Config.string(name), (text) => text.split(",").map((_) => _.trim()))

/** `key=value, key=value`; without `=`, the value is empty, and refused with the option's own words. */
const record = (name: string): Config.Config<Readonly<Record<string, string>>> =>
  Config.map(list(name), (entries) =>
    Object.fromEntries(
      entries.map((entry) => {
        const [key = "", ...value] = entry.split("=")
        return [key.trim(), value.join("=").trim()]
      })
    )
  )

/**
 * Every option that can be written as text, by its name in capitals: `HOSTS` (comma-separated), `URL`,
 * `PORT`, `DATABASE`, `USERNAME`, `PASSWORD`, `SSL`, `INSTANCE_HOST_PATTERN`,
 * `GLOBAL_INSTANCE_HOST_PATTERNS` (`us-east-1=?.us.db.internal, ...`), `CLUSTER_ID`, `DIALECT`,
 * `FAILOVER_MODE`, `READER_HOST_SELECTOR`, `MAX_STALENESS`, `READER_HEARTBEAT`, `FAILOVER_TIMEOUT`, `TOPOLOGY_REFRESH_RATE`, `TOPOLOGY_HIGH_REFRESH_RATE`,
 * `TOPOLOGY_PUSH`, `IGNORE_TOPOLOGY_REFRESH`, `MONITORING_USERNAME`, `MONITORING_PASSWORD`,
 * `MONITORING_DATABASE`, `MONITORING_CONNECT_TIMEOUT`, `MONITORING_QUERY_TIMEOUT`,
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
  globalInstanceHostPatterns: optional(record("GLOBAL_INSTANCE_HOST_PATTERNS")),
  clusterId: optional(Config.string("CLUSTER_ID")),
  dialect: optional(
    Config.literal("auto", "pg", "aurora-pg", "aurora-global-pg", "multi-az-pg")("DIALECT")
  ),
  failoverMode: optional(
    Config.literal("strict-writer", "reader-or-writer", "strict-reader")("FAILOVER_MODE")
  ),
  readerHostSelector: optional(Config.string("READER_HOST_SELECTOR")),
  maxStaleness: optional(Config.duration("MAX_STALENESS")),
  readerHeartbeat: optional(Config.duration("READER_HEARTBEAT")),
  failoverTimeout: optional(Config.duration("FAILOVER_TIMEOUT")),
  topologyRefreshRate: optional(Config.duration("TOPOLOGY_REFRESH_RATE")),
  topologyHighRefreshRate: optional(Config.duration("TOPOLOGY_HIGH_REFRESH_RATE")),
  topologyPush: optional(Config.literal("search", "always", "never")("TOPOLOGY_PUSH")),
  ignoreTopologyRefresh: optional(Config.duration("IGNORE_TOPOLOGY_REFRESH")),
  monitoring: Config.nested(
    Config.all({
      username: optional(Config.string("USERNAME")),
      password: optional(Config.redacted("PASSWORD")),
      database: optional(Config.string("DATABASE")),
      applicationName: optional(Config.string("APPLICATION_NAME")),
      connectTimeout: optional(Config.duration("CONNECT_TIMEOUT")),
      queryTimeout: optional(Config.duration("QUERY_TIMEOUT"))
    }),
    "MONITORING"
  ),
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
