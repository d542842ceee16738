/**
 * Watches a cluster: one scoped fiber, a cache that everybody reads, and two rates.
 *
 * In calm, one connection to the writer and one question per `refreshRate`. In a search, one fiber
 * and one connection per host, each asking at `highRefreshRate`; where the source can park a
 * question on the server (`Watch.pause`), a promotion is heard within milliseconds.
 *
 * | what fails | what happens |
 * |---|---|
 * | nothing was asked yet, every host is down | nothing: the first `settled` starts the search |
 * | the watched writer's connection ends | it is asked again at once on a new connection; if that fails too, a search starts |
 * | the writer does not answer within `probeTimeout` | likewise |
 * | a client reports a lost connection of the present epoch | a search starts |
 * | ... of an older epoch, or during a search | nothing: one outage is one search |
 * | no host lets us in, at least one rejects us for good | whoever waits gets the rejection; the next one to ask searches again |
 * | no host claims to be the writer, and all readers name one that is silent | after `stableAgreement` it is the writer, on their word; it is asked at each turn until it speaks for itself |
 * | a host falls silent while a wait is parked on it | the wait is given up `probeTimeout` after its end, and the host asked on a new connection |
 * | a source or dialect dies (a defect) | logged, and taken as a host that could not be asked |
 * | the monitor itself dies | logged, and started again in the phase that it died in |
 * | the scope closes | whoever waits gets `TopologyClosed` |
 *
 * @since 0.1.0
 */
import type { Effect, Scope, Stream } from "effect"
import { Context, Duration } from "effect"
import type { FailoverFailed, TopologyClosed } from "./Errors.js"
import type { Host } from "./Host.js"
import * as monitor from "./internal/monitor.js"
import * as internal from "./internal/tried.js"
import type { TopologySource } from "./TopologySource.js"
import * as TopologyState from "./TopologyState.js"
import type { Rejection, Writer } from "./TopologyState.js"

/**
 * How often the writer is asked when all is well: the AWS wrappers' 30 s.
 *
 * @since 0.1.0
 * @category defaults
 */
export const DEFAULT_REFRESH_RATE = Duration.seconds(30)

/**
 * How often each host is asked in a search, and the writer after a failover: the AWS wrappers' 100 ms.
 *
 * @since 0.1.0
 * @category defaults
 */
export const DEFAULT_HIGH_REFRESH_RATE = Duration.millis(100)

/**
 * How long opening a monitoring connection, and one question on it, may take: the AWS wrappers' 5 s.
 *
 * @since 0.1.0
 * @category defaults
 */
export const DEFAULT_PROBE_TIMEOUT = Duration.seconds(5)

/**
 * When waits are parked on hosts, so that they report a promotion at once instead of at the next question.
 *
 * - `"search"`: while the writer is being searched.
 * - `"always"`: in calm too, with one connection to each host: a switchover is heard before the old
 *   writer's connections end.
 * - `"never"`: hosts are polled at the refresh rates.
 *
 * @since 0.1.0
 * @category models
 */
export type Push = "search" | "always" | "never"

/**
 * @since 0.1.0
 * @category models
 */
export interface Options extends Partial<TopologyState.Settings> {
  readonly clusterId: string
  readonly seeds: ReadonlyArray<Host>
  readonly source: TopologySource
  readonly refreshRate?: Duration.Duration | undefined
  readonly highRefreshRate?: Duration.Duration | undefined
  /** For opening one line. Default: `probeTimeout`. */
  readonly connectTimeout?: Duration.Duration | undefined
  /** For one question on it. Default 5 seconds. */
  readonly probeTimeout?: Duration.Duration | undefined
  /** For this long after a writer was confirmed, `refresh` does nothing. Default: zero. */
  readonly ignoreRefresh?: Duration.Duration | undefined
  /** Default `"search"`. */
  readonly push?: Push | undefined
}

/**
 * @since 0.1.0
 * @category models
 */
export interface Topology {
  readonly clusterId: string
  /** What is known now. Never waits. */
  readonly current: Effect.Effect<TopologyState.TopologyState>
  /** What is known now and every change of phase, epoch, and of a host's role or availability. */
  readonly changes: Stream.Stream<TopologyState.TopologyState>
  /**
   * The confirmed writer; searches for it where there is none.
   *
   * Fails with `FailoverFailed` after `timeout`, or with the rejection if no host lets us in.
   */
  readonly awaitWriter: (options: {
    readonly timeout: Duration.DurationInput
  }) => Effect.Effect<Writer, FailoverFailed | Rejection>
  /** Asks the writer now instead of at the next turn, unless a writer was confirmed just now (`ignoreRefresh`). */
  readonly refresh: Effect.Effect<void>
  /** The confirmed writer, however long it takes. For those who keep their own deadline. */
  readonly settled: Effect.Effect<Writer, Rejection | TopologyClosed>
  /** A connection of this epoch failed. Starts a search, unless the epoch is over or one is under way. */
  readonly reportLost: (epoch: number) => Effect.Effect<void>
  /** `current`, without an Effect: for the path that every statement takes. */
  readonly unsafeCurrent: () => TopologyState.TopologyState
  /**
   * Calls the listener in the very step in which the phase or the epoch changes, before anybody can act on
   * it. It must not throw. Returns the way to end it.
   */
  readonly unsafeOnChange: (listener: (state: TopologyState.TopologyState) => void) => () => void
}

/**
 * @since 0.1.0
 * @category tags
 */
export const Topology = Context.GenericTag<Topology>("effect-failover/Topology")

/**
 * What was tried in the present search, for an error.
 *
 * @since 0.1.0
 * @category getters
 */
export const tried: (state: TopologyState.TopologyState) => FailoverFailed["tried"] = internal.tried

/**
 * Starts nothing but one waiting fiber: the first connection is made when somebody first needs a
 * writer. Everything ends with the scope.
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = (options: Options): Effect.Effect<Topology, never, Scope.Scope> =>
  monitor.make({
    clusterId: options.clusterId,
    seeds: options.seeds,
    source: options.source,
    settings: {
      reelectionGrace: options.reelectionGrace ?? TopologyState.DEFAULT_REELECTION_GRACE,
      highRatePeriod: options.highRatePeriod ?? TopologyState.DEFAULT_HIGH_RATE_PERIOD,
      stableAgreement: options.stableAgreement ?? TopologyState.DEFAULT_STABLE_AGREEMENT
    },
    refreshRate: options.refreshRate ?? DEFAULT_REFRESH_RATE,
    highRefreshRate: options.highRefreshRate ?? DEFAULT_HIGH_REFRESH_RATE,
    connectTimeout: options.connectTimeout ?? options.probeTimeout ?? DEFAULT_PROBE_TIMEOUT,
    probeTimeout: options.probeTimeout ?? DEFAULT_PROBE_TIMEOUT,
    ignoreRefresh: options.ignoreRefresh ?? Duration.zero,
    push: options.push ?? "search"
  })
