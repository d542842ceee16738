/**
 * How one kind of cluster tells its topology, its roles and its epoch. A dialect is three small effects
 * over "run this query"; everything else is shared.
 *
 * @example
 * ```ts
 * import { Dialect } from "effect-failover"
 * import { Effect } from "effect"
 *
 * // A cluster whose members keep a table of themselves.
 * const registry: Dialect.Dialect = {
 *   name: "registry",
 *   detect: (query) =>
 *     Effect.map(query("SELECT to_regclass('ops.members') IS NOT NULL"), (rows) => rows[0]?.[0] === true),
 *   isWriter: (query) =>
 *     Effect.map(query("SELECT NOT pg_catalog.pg_is_in_recovery()"), (rows) => rows[0]?.[0] === true),
 *   observe: (query, { probed }) =>
 *     Effect.map(query("SELECT NOT pg_catalog.pg_is_in_recovery()"), (rows) => ({
 *       probed,
 *       host: probed,
 *       role: rows[0]?.[0] === true ? "writer" : "reader"
 *     }))
 * }
 * ```
 *
 * @since 0.1.0
 */
import type { Duration, Effect, Either } from "effect"
import type { SessionError } from "./Connector.js"
import type { ConfigurationError } from "./Errors.js"
import type { Host } from "./Host.js"
import type { Observation } from "./TopologyState.js"

/**
 * Runs one query and answers with its rows as arrays.
 *
 * @since 0.1.0
 * @category models
 */
export type Query = (
  sql: string
) => Effect.Effect<ReadonlyArray<ReadonlyArray<unknown>>, SessionError>

/**
 * What a dialect may use to name hosts.
 *
 * @since 0.1.0
 * @category models
 */
export interface Naming {
  /** The host of an instance identifier, by the instance host pattern. */
  readonly hostOf: (instanceId: string) => Either.Either<Host, ConfigurationError>
}

/**
 * @since 0.1.0
 * @category models
 */
export interface Dialect {
  readonly name: string
  /** Whether the server that answers speaks this dialect. A refused query counts as no. */
  readonly detect: (query: Query) => Effect.Effect<boolean, SessionError>
  /** Whether the server that answers takes writes. Asked on each new pooled connection. */
  readonly isWriter: (query: Query) => Effect.Effect<boolean, SessionError>
  /**
   * Role, epoch and members as this host sees them. `role` may be `writer` only if two independent
   * questions on this connection say so. Should be one round trip.
   */
  readonly observe: (
    query: Query,
    context: Naming & { readonly probed: Host }
  ) => Effect.Effect<Observation, SessionError | ConfigurationError>
  /**
   * Waits **on the server** for at most this long, and less if this reader has become the writer. It
   * stands in for the pause between two questions, so it is bounded like one.
   */
  readonly awaitPromotion?:
    ((query: Query, atMost: Duration.Duration) => Effect.Effect<void, SessionError>) | undefined
}
