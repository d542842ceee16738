/**
 * How the monitor of `layers/Pg` connects and asks, checked.
 *
 * @internal
 */
import type { Redacted } from "effect"
import { Duration, Effect, Either } from "effect"
import { ConfigurationError } from "../../Errors.js"
import type { MonitoringOptions, PgOptions } from "../Pg.js"
import type { Push } from "../../Topology.js"
import { optionalDuration } from "./durations.js"

/** @internal */
export interface CheckedMonitoring {
  /** Of its own; without them it connects as the clients do. */
  readonly credentials:
    | {
        readonly username: string | undefined
        readonly database: string | undefined
        readonly password: Effect.Effect<Redacted.Redacted | undefined, unknown>
        readonly applicationName: string
      }
    | undefined
  readonly connectTimeout: Duration.Duration
  readonly queryTimeout: Duration.Duration
  readonly push: Push
  readonly ignoreRefresh: Duration.Duration
}

/** What the clients connect with. */
interface Client {
  readonly username: string | undefined
  readonly database: string | undefined
  readonly password: Effect.Effect<Redacted.Redacted | undefined, unknown>
  readonly applicationName: string
  readonly connectTimeout: Duration.Duration
}

const pushes: ReadonlyArray<Push> = ["search", "always", "never"]

const credentialsOf = (
  { applicationName, database, password, username }: MonitoringOptions,
  client: Client
): CheckedMonitoring["credentials"] =>
  [applicationName, database, password, username].every((_) => _ === undefined)
    ? undefined
    : {
        username: username ?? client.username,
        database: database ?? client.database,
        password:
          password === undefined
            ? client.password
            : Effect.isEffect(password)
              ? password
              : Effect.succeed(password),
        applicationName: applicationName ?? `${client.applicationName} monitor`
      }

/** @internal */
export const check = (
  { ignoreTopologyRefresh, monitoring = {}, topologyPush = "search" }: PgOptions,
  client: Client
): Either.Either<CheckedMonitoring, ConfigurationError> =>
  Either.gen(function* () {
    if (!pushes.includes(topologyPush)) {
      return yield* Either.left(
        new ConfigurationError({
          field: "topologyPush",
          value: topologyPush,
          problem: "is not known",
          hint: `use ${pushes.map((_) => `"${_}"`).join(", ")}`
        })
      )
    }
    return {
      credentials: credentialsOf(monitoring, client),
      connectTimeout:
        (yield* optionalDuration("monitoring.connectTimeout", monitoring.connectTimeout)) ??
        client.connectTimeout,
      queryTimeout:
        (yield* optionalDuration("monitoring.queryTimeout", monitoring.queryTimeout)) ??
        client.connectTimeout,
      push: topologyPush,
      ignoreRefresh:
        (yield* optionalDuration("ignoreTopologyRefresh", ignoreTopologyRefresh)) ?? Duration.zero
    }
  })
