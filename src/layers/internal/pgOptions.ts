/**
 * The options of `layers/Pg`, checked. Every check names the option and the remedy.
 *
 * @internal
 */
import type { Redacted } from "effect"
import { Duration, Effect, Either, Option } from "effect"
import type { ConnectionOptions } from "node:tls"
import * as ClusterEndpoint from "../../ClusterEndpoint.js"
import type { CommitResolution } from "../../CommitResolution.js"
import type { Dialect } from "../../Dialect.js"
import * as AuroraGlobalPg from "../../dialects/AuroraGlobalPg.js"
import * as AuroraPg from "../../dialects/AuroraPg.js"
import * as MultiAzPg from "../../dialects/MultiAzPg.js"
import * as PgTransactionStatus from "../../dialects/PgTransactionStatus.js"
import * as PgStreaming from "../../dialects/PgStreaming.js"
import { ConfigurationError } from "../../Errors.js"
import type { FailoverMode } from "../../Failover.js"
import * as Failover from "../../Failover.js"
import * as Host from "../../Host.js"
import * as HostPool from "../../HostPool.js"
import type { PgOptions } from "../Pg.js"
import { durationOf, optionalDuration } from "./durations.js"
import * as Monitoring from "./pgMonitoring.js"
import * as Topology from "../../Topology.js"
import * as Naming from "./pgNaming.js"
import { parseUrl } from "./pgUrl.js"

/** PostgreSQL's registered port. */
const DEFAULT_PORT = 5432

/** The AWS wrappers' monitoring timeout; here for every connection. */
const DEFAULT_CONNECT_TIMEOUT = Duration.seconds(5)

/** @internal */
export interface CheckedOptions {
  readonly seeds: readonly [Host.Host, ...ReadonlyArray<Host.Host>]
  readonly clusterId: string
  readonly hostOf: Naming.CheckedNaming["hostOf"]
  readonly hostAt: Naming.CheckedNaming["hostAt"]
  /** What tells this cluster from another one under the same id. */
  readonly description: string
  readonly dialects: readonly [Dialect, ...ReadonlyArray<Dialect>]
  readonly username: string | undefined
  readonly database: string | undefined
  readonly password: Effect.Effect<Redacted.Redacted | undefined, unknown>
  readonly ssl: boolean | ConnectionOptions
  readonly applicationName: string
  readonly failoverMode: FailoverMode
  readonly failoverTimeout: Duration.Duration
  readonly topologyRefreshRate: Duration.Duration
  readonly topologyHighRefreshRate: Duration.Duration
  readonly connectTimeout: Duration.Duration
  readonly maxStaleness: Duration.Duration | undefined
  readonly readerHeartbeat: Duration.Duration | undefined
  readonly queryTimeout: Duration.Duration | undefined
  readonly monitoring: Monitoring.CheckedMonitoring
  readonly waitForTopology: Duration.Duration | undefined
  readonly pool: HostPool.Settings
  readonly commitResolution: CommitResolution | undefined
}

const invalid = (field: string, value: unknown, problem: string, hint: string) =>
  new ConfigurationError({ field, value, problem, hint })

const count = (field: string, value: number, least: number) =>
  Number.isInteger(value) && value >= least
    ? Either.right(value)
    : Either.left(
        invalid(
          field,
          value,
          "is not a number of connections",
          `write a whole number from ${least} up`
        )
      )

const dialectsByName = {
  "aurora-global-pg": AuroraGlobalPg.dialect,
  "aurora-pg": AuroraPg.dialect,
  "multi-az-pg": MultiAzPg.dialect,
  pg: PgStreaming.dialect
}

/**
 * The special before the general: a global database is an Aurora cluster too, and all of them are
 * PostgreSQL, which is asked host by host.
 */
const detected = (options: PgOptions): CheckedOptions["dialects"] => [
  AuroraGlobalPg.make({ knowsAllRegions: options.globalInstanceHostPatterns !== undefined }),
  AuroraPg.dialect,
  MultiAzPg.dialect,
  PgStreaming.dialect
]

const dialectsOf = (
  options: PgOptions
): Either.Either<CheckedOptions["dialects"], ConfigurationError> => {
  const dialect = options.dialect
  if (dialect === undefined || dialect === "auto") return Either.right(detected(options))
  if (typeof dialect === "object") return Either.right([dialect])
  return Object.hasOwn(dialectsByName, dialect)
    ? Either.right([dialectsByName[dialect]])
    : Either.left(
        invalid(
          "dialect",
          dialect,
          "is not known",
          `use "auto", ${Object.keys(dialectsByName)
            .map((name) => `"${name}"`)
            .join(", ")}, or a Dialect of your own`
        )
      )
}

const resolutionOf = (
  resolution: PgOptions["commitResolution"]
): Either.Either<CommitResolution | undefined, ConfigurationError> => {
  if (resolution === undefined || resolution === "none") return Either.right(undefined)
  if (typeof resolution === "object") return Either.right(resolution)
  return resolution === "transaction-status"
    ? Either.right(PgTransactionStatus.resolution)
    : Either.left(
        invalid(
          "commitResolution",
          resolution,
          "is not known",
          'use "none", "transaction-status", or CommitResolution.ledger()'
        )
      )
}

const seedsOf = (
  options: PgOptions,
  fromUrl: ReadonlyArray<string> | undefined,
  defaultPort: number
): Either.Either<CheckedOptions["seeds"], ConfigurationError> =>
  Either.gen(function* () {
    if (options.hosts !== undefined && fromUrl !== undefined) {
      return yield* Either.left(
        invalid(
          "hosts",
          options.hosts,
          "is given beside `url`",
          "give the hosts once: in `hosts` or in `url`"
        )
      )
    }
    const field = fromUrl === undefined ? "hosts" : "url"
    const given = fromUrl ?? options.hosts ?? []
    const seeds = yield* Either.all(
      (typeof given === "string" ? [given] : given).map((host) =>
        typeof host === "string"
          ? Host.parse(host, { defaultPort, field })
          : Either.map(Host.parsePort(host.port, field), () => Host.make(host))
      )
    )
    const unique = seeds.filter((host, i) => seeds.findIndex((_) => Host.isSame(_, host)) === i)
    const [first, ...others] = unique
    return first === undefined
      ? yield* Either.left(
          invalid(
            field,
            undefined,
            "names no host",
            `name one host of the cluster at least, for example ["db-1.internal:${DEFAULT_PORT}"]`
          )
        )
      : ([first, ...others] as const)
  })

/** What the endpoint asks for, where the failover can do it. */
const defaultModeOf = (seeds: CheckedOptions["seeds"]): FailoverMode => {
  const asked = ClusterEndpoint.defaultFailoverMode(seeds)
  return Failover.modes.find((_) => _ === asked) ?? "strict-writer"
}

/** @internal */
export const check = (options: PgOptions): Either.Either<CheckedOptions, ConfigurationError> =>
  Either.gen(function* () {
    const url = options.url === undefined ? undefined : yield* parseUrl(options.url)
    const defaultPort = yield* Host.parsePort(options.port ?? DEFAULT_PORT, "port")
    const seeds = yield* seedsOf(options, url?.hosts, defaultPort)
    const clusterId = options.clusterId ?? ClusterEndpoint.clusterIdOf(seeds)
    if (clusterId.trim() === "") {
      return yield* Either.left(
        invalid("clusterId", clusterId, "is empty", "name the cluster, or leave the option out")
      )
    }
    const ssl = options.ssl ?? url?.ssl ?? false
    const naming = yield* Naming.check(options, seeds, ssl)
    const dialects = yield* dialectsOf(options)
    if (Option.isNone(naming.pattern) && dialects.every((_) => _ === AuroraPg.dialect)) {
      return yield* Either.left(ClusterEndpoint.patternRequired(seeds[0]))
    }
    if (naming.patternByRegion.size === 0 && options.dialect === "aurora-global-pg") {
      return yield* Either.left(Naming.regionsRequired())
    }
    const failoverMode = options.failoverMode ?? defaultModeOf(seeds)
    if (!Failover.modes.includes(failoverMode)) {
      return yield* Either.left(
        invalid(
          "failoverMode",
          failoverMode,
          "is not known",
          `use ${Failover.modes.map((_) => `"${_}"`).join(" or ")}`
        )
      )
    }
    const refreshRate = yield* durationOf(
      "topologyRefreshRate",
      options.topologyRefreshRate ?? Topology.DEFAULT_REFRESH_RATE
    )
    const highRefreshRate = yield* durationOf(
      "topologyHighRefreshRate",
      options.topologyHighRefreshRate ?? Topology.DEFAULT_HIGH_REFRESH_RATE
    )
    if (Duration.greaterThan(highRefreshRate, refreshRate)) {
      return yield* Either.left(
        invalid(
          "topologyHighRefreshRate",
          options.topologyHighRefreshRate,
          "is longer than `topologyRefreshRate`",
          "it is the pause between two questions while a writer is searched: make it the shorter one"
        )
      )
    }
    const maxConnections = yield* count(
      "maxConnections",
      options.maxConnections ?? HostPool.DEFAULT_MAX_CONNECTIONS,
      1
    )
    const minConnections = yield* count("minConnections", options.minConnections ?? 0, 0)
    if (minConnections > maxConnections) {
      return yield* Either.left(
        invalid(
          "minConnections",
          minConnections,
          "is more than `maxConnections`",
          `make it ${maxConnections} at most`
        )
      )
    }
    const given = options.password ?? url?.password
    const client = {
      username: options.username ?? url?.username,
      database: options.database ?? url?.database,
      password: Effect.isEffect(given) ? given : Effect.succeed(given),
      applicationName: options.applicationName ?? url?.applicationName ?? "effect-failover",
      connectTimeout: yield* durationOf(
        "connectTimeout",
        options.connectTimeout ?? DEFAULT_CONNECT_TIMEOUT
      )
    }
    return {
      ...client,
      seeds,
      clusterId,
      hostOf: naming.hostOf,
      hostAt: naming.hostAt,
      description: `${ClusterEndpoint.clusterIdOf(seeds)} (${dialects.map((_) => _.name).join(" or ")}${naming.description})`,
      dialects,
      ssl,
      monitoring: yield* Monitoring.check(options, client),
      failoverMode,
      failoverTimeout: yield* durationOf(
        "failoverTimeout",
        options.failoverTimeout ?? Failover.DEFAULT_FAILOVER_TIMEOUT
      ),
      topologyRefreshRate: refreshRate,
      topologyHighRefreshRate: highRefreshRate,
      maxStaleness: yield* optionalDuration("maxStaleness", options.maxStaleness),
      readerHeartbeat: yield* optionalDuration("readerHeartbeat", options.readerHeartbeat),
      queryTimeout: yield* optionalDuration("queryTimeout", options.queryTimeout),
      waitForTopology: yield* optionalDuration("waitForTopology", options.waitForTopology),
      commitResolution: yield* resolutionOf(options.commitResolution),
      pool: {
        maxConnections,
        minConnections,
        acquireTimeout: yield* durationOf(
          "acquireTimeout",
          options.acquireTimeout ?? HostPool.DEFAULT_ACQUIRE_TIMEOUT
        ),
        idleTimeout: yield* durationOf(
          "idleTimeout",
          options.idleTimeout ?? HostPool.DEFAULT_IDLE_TIMEOUT
        ),
        connectionTTL: yield* durationOf(
          "connectionTTL",
          options.connectionTTL ?? HostPool.DEFAULT_CONNECTION_TTL
        )
      }
    } satisfies CheckedOptions
  })
