/**
 * How one kind of cluster tells its topology, its roles and its epoch. A dialect is three small effects
 * over "run this query"; everything else is shared.
 *
 * @example
 * ```ts
 * import type { Dialect } from "effect-failover"
 * import { Host } from "effect-failover"
 * import * as PgStreaming from "effect-failover/dialects/PgStreaming"
 * import { Effect } from "effect"
 *
 * // PostgreSQL whose members are listed in a table: role, epoch and promotion as in any other.
 * const registry: Dialect.Dialect = {
 *   name: "registry",
 *   detect: (query) =>
 *     Effect.map(
 *       query("SELECT pg_catalog.to_regclass('ops.member') IS NOT NULL"),
 *       ([row]) => row?.[0] === true
 *     ),
 *   isWriter: PgStreaming.isWriter,
 *   observe: (query, context) =>
 *     Effect.gen(function* () {
 *       const seen = yield* PgStreaming.dialect.observe(query, context)
 *       const rows = yield* query("SELECT id, host, port FROM ops.member")
 *       const hosts = rows.map(([id, host, port]) =>
 *         Host.make({ id: String(id), host: String(host), port: Number(port) })
 *       )
 *       return { ...seen, isWhole: true, members: hosts.map((host) => ({ host, role: "unknown" })) }
 *     }),
 *   awaitPromotion: PgStreaming.awaitPromotion
 * }
 * ```
 *
 * @since 0.1.0
 */
import type { Duration, Effect, Either, Option } from "effect"
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
 * What names hosts: the configuration's knowledge of addresses.
 *
 * @since 0.1.0
 * @category models
 */
export interface Naming {
  /**
   * The host of an instance identifier, by the instance host pattern: by that of its region where one is
   * given.
   */
  readonly hostOf: (instanceId: string, region?: string) => Either.Either<Host, ConfigurationError>
  /**
   * Where a host that the cluster gives an address of is really reached (`translateAddress`). None if it
   * cannot be reached by that address, as by an IP address where certificates are verified by name.
   * Default: there.
   */
  readonly hostAt?: ((listed: Host) => Option.Option<Host>) | undefined
  /** The hosts of the configuration. Default: none. */
  readonly seeds?: ReadonlyArray<Host> | undefined
}

/**
 * What an observation may use: `Naming` with its defaults, and the host that was asked.
 *
 * @since 0.1.0
 * @category models
 */
export interface Context {
  readonly hostOf: Naming["hostOf"]
  readonly hostAt: NonNullable<Naming["hostAt"]>
  readonly seeds: NonNullable<Naming["seeds"]>
  readonly probed: Host
  /**
   * The host was a reader when it was asked last. If it is the writer now, somebody waits for just this:
   * what takes longer than role and epoch may be left for the next question.
   */
  readonly wasReader?: boolean
}

/**
 * How it is known what a reader has replayed: by positions in what the writer has written.
 *
 * @since 0.1.0
 * @category models
 */
export interface Freshness {
  /**
   * What the writer has written by now, committed or not: a text that only `reached` of this dialect can
   * read. Asked of the writer; refused by a reader.
   */
  readonly position: (query: Query) => Effect.Effect<string, SessionError>
  /**
   * How many of these positions, oldest first, the host that answers has: has replayed, or has written. One
   * round trip.
   *
   * A position may come from anywhere (a cookie, a header): what is none is refused and not asked. An old
   * writer that does not know that it was replaced has only what it has written.
   */
  readonly reached: (
    query: Query,
    positions: ReadonlyArray<string>
  ) => Effect.Effect<number, SessionError>
}

/**
 * @since 0.1.0
 * @category models
 */
export interface Load {
  /** Behind the writer. */
  readonly lagMillis: number | undefined
  /** In use, 0 to 100. */
  readonly cpuPercent?: number | undefined
}

/**
 * @since 0.1.0
 * @category models
 */
export interface Dialect {
  readonly name: string
  /**
   * Whether the server that answers speaks this dialect. Asked once, and remembered: ask for what the
   * server is made of, and not for what a server that is starting or failing may not have at the moment.
   *
   * A question that the server refuses for what it is (SQLSTATE class 42, 3F or 0A: no such function, ...)
   * counts as no; any other failure decides nothing, and the host is asked again.
   */
  readonly detect: (query: Query) => Effect.Effect<boolean, SessionError>
  /** Whether the server that answers takes writes. Asked on each new pooled connection. */
  readonly isWriter: (query: Query) => Effect.Effect<boolean, SessionError>
  /**
   * Role, epoch and members as this host sees them. `role` may be `writer` only if two independent
   * questions on this connection say so. Should be one round trip.
   */
  readonly observe: (
    query: Query,
    context: Context
  ) => Effect.Effect<Observation, SessionError | ConfigurationError>
  /**
   * What the server that answers calls its present life, in the words of `Observation.incarnation`: a
   * connection that was opened before a promotion is known by it to lead to the server that was promoted,
   * and need not ask again.
   */
  readonly incarnation?: ((query: Query) => Effect.Effect<unknown, SessionError>) | undefined
  /**
   * Waits **on the server** for at most this long, and less if this reader has become the writer. It
   * stands in for the pause between two questions, so it is bounded like one.
   */
  readonly awaitPromotion?:
    ((query: Query, atMost: Duration.Duration) => Effect.Effect<void, SessionError>) | undefined
  /** Where the writer can name a position, and readers can tell whether they have replayed it. */
  readonly freshness?: Freshness | undefined
  /**
   * How a reader is by its own word. Its lag is for clusters whose readers tell one and no position, such as
   * Aurora.
   */
  readonly load?: ((query: Query) => Effect.Effect<Load, SessionError>) | undefined
  /** Makes the session refuse to write from now on, whatever the server becomes. */
  readonly readOnly?: ((query: Query) => Effect.Effect<void, SessionError>) | undefined
}
