/**
 * The topology of a cluster as a value, and the pure function that moves it. No time, no chance and
 * no network in here: the service in `Topology` feeds it with what hosts answered.
 *
 * ```text
 *            Needed                      a claim is accepted
 *   Idle ──────────────▶ Searching ───────────────────────────▶ Calm
 *    ▲                    │     ▲                                │
 *    └────────────────────┘     └────────────────────────────────┘
 *    every host answered,        WriterLost of this epoch, or the
 *    none let us in              writer says that it is a reader
 * ```
 *
 * When is a host that says "I am the writer" believed?
 *
 * | the claim | in a search | in calm |
 * |---|---|---|
 * | its server epoch is older than one already seen, or its list of members is | refused | refused |
 * | another host than the one lost, and a newer server epoch (or the system has none) | at once | at once if newer, else never |
 * | the lost host again, or the first writer ever | when every other host has answered or failed, or after `reelectionGrace` | it is the writer |
 *
 * | nobody claims it, every reader names the same host, for `stableAgreement` | it is the writer, on the readers' word | - |
 *
 * The last line but one is what keeps a resumed old primary out: it says "I am the primary" until somebody
 * stops it, so it is believed only after the hosts that may have replaced it had their say. The last one
 * ends a search whose writer cannot be reached from here; its clients verify it when they connect.
 *
 * The epoch grows when the writer is another host, or the same host after a restart. A connection
 * carries the epoch that it was opened in: what it reports later changes nothing in a newer epoch.
 *
 * @since 0.1.0
 */
import { Data, Duration } from "effect"
import type { ConfigurationError, ConnectionRejected } from "./Errors.js"
import type { Availability, Role } from "./Host.js"
import * as Host from "./Host.js"
import * as membership from "./internal/membership.js"
import * as reducer from "./internal/topologyReducer.js"

/**
 * How long the lost writer, when it says that it is the writer again, is doubted while other hosts have
 * not answered. Ten rounds of the default high refresh rate: a host that is slower than that is hung.
 *
 * @since 0.1.0
 * @category defaults
 */
export const DEFAULT_REELECTION_GRACE = Duration.seconds(1)

/**
 * The rate stays high for this long after a failover: the AWS wrappers' 30 s.
 *
 * @since 0.1.0
 * @category defaults
 */
export const DEFAULT_HIGH_RATE_PERIOD = Duration.seconds(30)

/**
 * A writer that cannot be reached is taken on the readers' word after they have agreed for this long: the
 * AWS wrappers' 15 s.
 *
 * @since 0.1.0
 * @category defaults
 */
export const DEFAULT_STABLE_AGREEMENT = Duration.seconds(15)

/**
 * What is known of one host.
 *
 * @since 0.1.0
 * @category models
 */
export interface HostState {
  readonly host: Host.Host
  readonly role: Role
  readonly availability: Availability
  /** Replication lag in milliseconds, where the cluster tells it. */
  readonly lagMillis: number | undefined
  /** Failed probes since the search began. */
  readonly failures: number
  readonly lastError: string | undefined
}

/**
 * A confirmed writer.
 *
 * @since 0.1.0
 * @category models
 */
export interface Writer {
  readonly host: Host.Host
  readonly epoch: number
  /** The server's own epoch: PostgreSQL's timeline. */
  readonly serverEpoch: bigint | undefined
  /** Changes when the server restarts. */
  readonly incarnation: string | undefined
  /** The address that was asked; differs from `host` when a cluster endpoint led there, or a reader named it. */
  readonly probed: Host.Host
  /** Whether it said so itself, or is the writer on the readers' word. */
  readonly isVerified: boolean
}

/**
 * A host as another host lists it.
 *
 * @since 0.1.0
 * @category models
 */
export interface Member {
  readonly host: Host.Host
  readonly role: Role
  readonly lagMillis?: number | undefined
}

/**
 * What one host said when it was asked.
 *
 * @since 0.1.0
 * @category models
 */
export interface Observation {
  /** The address that was asked. */
  readonly probed: Host.Host
  /** The host that answered, as the cluster names it. */
  readonly host: Host.Host
  /** `writer` only if both questions on the same connection say so. */
  readonly role: "writer" | "reader"
  readonly serverEpoch?: bigint | undefined
  readonly incarnation?: string | undefined
  /** The cluster's members as this host sees them, where it can tell. */
  readonly members?: ReadonlyArray<Member> | undefined
  /** Whether `members` is the whole list, so that who is not on it has left. Default: it is. */
  readonly isWhole?: boolean | undefined
  /** Milliseconds of the cluster's own clock at which the list was last brought up to date. */
  readonly asOf?: number | undefined
}

/**
 * An error that ends a search at once.
 *
 * @since 0.1.0
 * @category models
 */
export type Rejection = ConnectionRejected | ConfigurationError

/**
 * A reader's word on who the writer is.
 *
 * @since 0.1.0
 * @category models
 */
export interface Testimony {
  readonly witness: Host.Host
  /** `undefined`: it names none, or several. */
  readonly writer: Host.Host | undefined
}

/**
 * What all readers that answer agree on, and the clock's milliseconds since which they do.
 *
 * @since 0.1.0
 * @category models
 */
export interface Agreement {
  readonly writer: Host.Host
  readonly witness: Host.Host
  readonly since: number
}

/**
 * @since 0.1.0
 * @category models
 */
export type Phase = Data.TaggedEnum<{
  /** Nobody has needed the cluster yet, or no host let us in. */
  Idle: { readonly rejection: Rejection | undefined }
  Searching: {
    /** Clock milliseconds. */
    readonly since: number
    readonly lost: Writer | undefined
    /** The newest server epoch that was known when the search began. */
    readonly serverEpoch: bigint | undefined
    /** What each probed address answered last in this search. */
    readonly answers: ReadonlyMap<string, "answered" | "failed" | Rejection>
    readonly claim: Observation | undefined
    /** The writer that each reader named last, by the address that was asked. */
    readonly testimonies: ReadonlyMap<string, Testimony>
    readonly agreement: Agreement | undefined
  }
  Calm: {
    /** Clock milliseconds until which the writer is asked at the high rate. */
    readonly highRateUntil: number
  }
}>

/**
 * @since 0.1.0
 * @category constructors
 */
export const Phase = Data.taggedEnum<Phase>()

/**
 * @since 0.1.0
 * @category models
 */
export interface TopologyState {
  readonly clusterId: string
  /** Where to ask when no member is known or none answers. */
  readonly seeds: ReadonlyArray<Host.Host>
  readonly hosts: ReadonlyArray<HostState>
  /** The last confirmed writer. While `phase` is not `Calm`, it is the one in doubt. */
  readonly writer: Writer | undefined
  readonly epoch: number
  /** The newest server epoch that a writer was confirmed with, or claimed. */
  readonly serverEpoch: bigint | undefined
  /** The age of the newest list of members that a writer claimed with, where servers tell it. */
  readonly asOf: number | undefined
  readonly phase: Phase
}

/**
 * @since 0.1.0
 * @category models
 */
export type Event = Data.TaggedEnum<{
  /** Somebody needs a writer. */
  Needed: {}
  /** A connection of this epoch failed. */
  WriterLost: { readonly epoch: number }
  Observed: { readonly observation: Observation }
  ProbeFailed: {
    readonly probed: Host.Host
    readonly error: string
    readonly rejection: Rejection | undefined
  }
}>

/**
 * @since 0.1.0
 * @category constructors
 */
export const Event = Data.taggedEnum<Event>()

/**
 * @since 0.1.0
 * @category models
 */
export interface Settings {
  readonly reelectionGrace: Duration.Duration
  readonly highRatePeriod: Duration.Duration
  readonly stableAgreement: Duration.Duration
}

/**
 * The epoch before the first writer. No connection is ever of it: to recover from its loss is to connect,
 * and disturbs nobody who is connected already.
 *
 * @since 0.1.0
 * @category defaults
 */
export const INITIAL_EPOCH = 0

/**
 * Nothing is known yet.
 *
 * @since 0.1.0
 * @category constructors
 */
export const initial = (options: {
  readonly clusterId: string
  readonly seeds: ReadonlyArray<Host.Host>
}): TopologyState => ({
  clusterId: options.clusterId,
  seeds: options.seeds,
  hosts: options.seeds.map(membership.unasked),
  writer: undefined,
  epoch: INITIAL_EPOCH,
  serverEpoch: undefined,
  asOf: undefined,
  phase: Phase.Idle({ rejection: undefined })
})

/**
 * The writer, unless it is in doubt.
 *
 * @since 0.1.0
 * @category getters
 */
export const confirmedWriter = (state: TopologyState): Writer | undefined =>
  state.phase._tag === "Calm" ? state.writer : undefined

/**
 * Whether two states look the same from outside: phase, epoch, and every host's role and availability.
 *
 * @since 0.1.0
 * @category guards
 */
export const isSameView = (a: TopologyState, b: TopologyState): boolean =>
  a.phase._tag === b.phase._tag &&
  a.epoch === b.epoch &&
  a.hosts.length === b.hosts.length &&
  a.hosts.every((host, i) => {
    const other = b.hosts[i]
    return (
      other !== undefined &&
      Host.isSame(host.host, other.host) &&
      host.role === other.role &&
      host.availability === other.availability
    )
  })

/**
 * Whom to ask in a search: the known members; the seeds as well once every member has failed.
 *
 * @since 0.1.0
 * @category getters
 */
export const targets: (state: TopologyState) => ReadonlyArray<Host.Host> = membership.targets

/**
 * The next state. Pure; `now` is the Clock's milliseconds.
 *
 * @since 0.1.0
 * @category reducer
 */
export const reduce: (
  state: TopologyState,
  event: Event,
  now: number,
  settings: Settings
) => TopologyState = reducer.reduce
