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
 * | its server epoch is older than one already seen | refused | refused |
 * | another host than the one lost, and a newer server epoch (or the system has none) | at once | at once if newer, else never |
 * | the lost host again, or the first writer ever | when every other host has answered or failed, or after `reelectionGrace` | it is the writer |
 *
 * The last line is what keeps a resumed old primary out: it says "I am the primary" until somebody
 * stops it, so it is believed only after the hosts that may have replaced it had their say.
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
  /** The address that was asked; differs from `host` when a cluster endpoint led there. */
  readonly probed: Host.Host
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
    /** What each probed address answered last in this search. */
    readonly answers: ReadonlyMap<string, "answered" | "failed" | Rejection>
    readonly claim: Observation | undefined
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
}

const unasked = (host: Host.Host): HostState => ({
  host,
  role: "unknown",
  availability: "unknown",
  lagMillis: undefined,
  failures: 0,
  lastError: undefined
})

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
  hosts: options.seeds.map(unasked),
  writer: undefined,
  epoch: 0,
  serverEpoch: undefined,
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

type Searching = Extract<Phase, { readonly _tag: "Searching" }>

/**
 * Whom to ask in a search: the known members; the seeds as well once every member has failed.
 *
 * @since 0.1.0
 * @category getters
 */
export const targets = (state: TopologyState): ReadonlyArray<Host.Host> => {
  const members = state.hosts.map((_) => _.host)
  const phase = state.phase
  const exhausted =
    phase._tag === "Searching" &&
    members.every((host) => {
      const answer = phase.answers.get(Host.address(host))
      return answer !== undefined && answer !== "answered"
    })
  return exhausted
    ? [...members, ...state.seeds.filter((seed) => !members.some((_) => Host.isSame(_, seed)))]
    : members
}

const search = (state: TopologyState, now: number): TopologyState => ({
  ...state,
  hosts: state.hosts.map((_) => ({ ..._, failures: 0 })),
  phase: Phase.Searching({
    since: now,
    lost: state.writer,
    answers: new Map(),
    claim: undefined
  })
})

const updateHost = (
  state: TopologyState,
  host: Host.Host,
  f: (_: HostState) => HostState
): TopologyState => ({
  ...state,
  hosts: state.hosts.map((_) => (Host.isSame(_.host, host) ? f(_) : _))
})

/** The host that answered, its role, and the members that it lists. This only adds: the list may be old. */
const learn = (state: TopologyState, observation: Observation): TopologyState => {
  const listed = observation.members ?? []
  const known = (host: Host.Host) => state.hosts.find((_) => Host.isSame(_.host, host))
  const fromList = listed.map((member): HostState => ({
    ...(known(member.host) ?? unasked(member.host)),
    role: member.role,
    lagMillis: member.lagMillis
  }))
  // A seed that turned out to be another name of a member is not a member of its own.
  const isAlias = (host: Host.Host) =>
    Host.isSame(host, observation.probed) && !Host.isSame(observation.probed, observation.host)
  const others = state.hosts.filter(
    (_) => !listed.some((member) => Host.isSame(member.host, _.host)) && !isAlias(_.host)
  )
  const hosts = [...others, ...fromList]
  const withSelf = hosts.some((_) => Host.isSame(_.host, observation.host))
    ? hosts
    : [...hosts, known(observation.host) ?? unasked(observation.host)]
  return updateHost({ ...state, hosts: withSelf }, observation.host, (_) => ({
    ..._,
    host: observation.host,
    role: observation.role,
    availability: "available",
    failures: 0,
    lastError: undefined
  }))
}

/** The list of a confirmed writer is the membership: who is not on it has left the cluster. */
const prune = (state: TopologyState, observation: Observation): TopologyState =>
  observation.members === undefined ||
  observation.members.length === 0 ||
  observation.isWhole === false
    ? state
    : {
        ...state,
        hosts: state.hosts.filter(
          (_) =>
            Host.isSame(_.host, observation.host) ||
            observation.members?.some((member) => Host.isSame(member.host, _.host))
        )
      }

/** Nobody but this host is shown as the writer, whoever else says so. */
const soleWriter = (state: TopologyState, host: Host.Host): TopologyState => ({
  ...state,
  hosts: state.hosts.map((_) =>
    Host.isSame(_.host, host)
      ? { ..._, role: "writer" }
      : _.role === "writer"
        ? { ..._, role: "unknown" }
        : _
  )
})

const newest = (a: bigint | undefined, b: bigint | undefined): bigint | undefined =>
  a === undefined ? b : b === undefined ? a : a > b ? a : b

const isOlder = (a: bigint | undefined, b: bigint | undefined): boolean =>
  a !== undefined && b !== undefined && a < b

const isNewer = (a: bigint | undefined, b: bigint | undefined): boolean => isOlder(b, a)

/** Whether nothing tells the claimant from the writer that we know. */
const isSameReign = (writer: Writer | undefined, claim: Observation): boolean =>
  writer !== undefined &&
  Host.isSame(writer.host, claim.host) &&
  writer.serverEpoch === claim.serverEpoch &&
  writer.incarnation === claim.incarnation

const confirm = (
  state: TopologyState,
  claim: Observation,
  now: number,
  settings: Settings
): TopologyState => {
  // A writer that was lost and cannot tell a restart may have restarted.
  const isKnown = claim.incarnation !== undefined && isSameReign(state.writer, claim)
  const epoch = isKnown ? state.epoch : state.epoch + 1
  return {
    ...soleWriter(prune(state, claim), claim.host),
    writer: {
      host: claim.host,
      epoch,
      serverEpoch: claim.serverEpoch,
      incarnation: claim.incarnation,
      probed: claim.probed
    },
    epoch,
    serverEpoch: newest(state.serverEpoch, claim.serverEpoch),
    phase: Phase.Calm({
      // The first writer ever was not failed over to: no reason to watch it closely.
      highRateUntil:
        state.writer === undefined ? now : now + Duration.toMillis(settings.highRatePeriod)
    })
  }
}

/** Accepts the standing claim, if it may be believed by now; ends the search if nobody lets us in. */
const settle = (state: TopologyState, now: number, settings: Settings): TopologyState => {
  if (state.phase._tag !== "Searching") return state
  const { answers, claim, lost, since } = state.phase
  const asked = targets(state).map((_) => answers.get(Host.address(_)))
  const complete = asked.every((_) => _ !== undefined)
  if (claim !== undefined) {
    const succeeds =
      lost !== undefined &&
      !Host.isSame(claim.host, lost.host) &&
      (claim.serverEpoch === undefined ||
        lost.serverEpoch === undefined ||
        isNewer(claim.serverEpoch, lost.serverEpoch))
    const graceIsOver = now - since >= Duration.toMillis(settings.reelectionGrace)
    return succeeds || complete || graceIsOver ? confirm(state, claim, now, settings) : state
  }
  const rejection = asked.find((_) => typeof _ === "object")
  return complete && rejection !== undefined && !asked.includes("answered")
    ? { ...state, phase: Phase.Idle({ rejection }) }
    : state
}

/**
 * A claim that is older than what we know is refused; of two, the newer server epoch stands, and where
 * epochs tell nothing, anybody's but that of the writer that was lost.
 */
const bestClaim = (state: TopologyState, phase: Searching, observation: Observation) => {
  const standing =
    phase.claim !== undefined && isAnsweredBy(phase.claim, observation) ? undefined : phase.claim
  if (observation.role === "reader" || isOlder(observation.serverEpoch, state.serverEpoch)) {
    return standing
  }
  if (standing === undefined || isNewer(observation.serverEpoch, standing.serverEpoch)) {
    return observation
  }
  const incomparable = observation.serverEpoch === undefined || standing.serverEpoch === undefined
  const isOfLost = phase.lost !== undefined && Host.isSame(standing.host, phase.lost.host)
  return incomparable && isOfLost ? observation : standing
}

/** Whether the same host, or one of its addresses, has now given another answer. */
const isAnsweredBy = (claim: Observation, { host, probed }: Observation): boolean =>
  Host.isSame(claim.host, host) ||
  Host.isSame(claim.probed, probed) ||
  Host.isSame(claim.host, probed)

/** Also if the claimant falls silent: whoever is older is not the writer any more. */
const claimed = (state: TopologyState, { role, serverEpoch }: Observation): TopologyState =>
  role === "writer" ? { ...state, serverEpoch: newest(state.serverEpoch, serverEpoch) } : state

/** Whether it was the writer's address that answered. */
const isWatched = (writer: Writer, { probed }: Observation): boolean =>
  Host.isSame(probed, writer.probed) || Host.isSame(probed, writer.host)

const observed = (
  before: TopologyState,
  observation: Observation,
  now: number,
  settings: Settings
): TopologyState => {
  const refused =
    observation.role === "writer" && isOlder(observation.serverEpoch, before.serverEpoch)
  const state = refused
    ? updateHost(before, observation.host, (_) => ({
        ..._,
        role: "unknown",
        availability: "available",
        lastError: "says that it is the writer, of an epoch that has ended"
      }))
    : claimed(learn(before, observation), observation)
  switch (state.phase._tag) {
    case "Idle":
      return state
    case "Searching": {
      const answers = new Map(state.phase.answers)
      answers.set(Host.address(observation.probed), "answered")
      answers.set(Host.address(observation.host), "answered")
      return settle(
        {
          ...state,
          phase: Phase.Searching({
            ...state.phase,
            answers,
            claim: bestClaim(state, state.phase, observation)
          })
        },
        now,
        settings
      )
    }
    case "Calm": {
      const writer = state.writer
      if (writer === undefined) return state
      const isWriter = Host.isSame(writer.host, observation.host)
      const claims = observation.role === "writer" && !refused
      if (claims && isSameReign(writer, observation))
        return soleWriter(prune(state, observation), writer.host)
      if (claims && (isWriter || isNewer(observation.serverEpoch, before.serverEpoch)))
        return confirm(state, observation, now, settings)
      // The writer itself takes it back, or another host answers where the writer did.
      return isWriter || isWatched(writer, observation)
        ? search(state, now)
        : soleWriter(state, writer.host)
    }
  }
}

const probeFailed = (
  before: TopologyState,
  event: Extract<Event, { readonly _tag: "ProbeFailed" }>,
  now: number,
  settings: Settings
): TopologyState => {
  const state = updateHost(before, event.probed, (_) => ({
    ..._,
    availability: "unavailable",
    failures: _.failures + 1,
    lastError: event.error
  }))
  if (state.phase._tag !== "Searching") return state
  const answers = new Map(state.phase.answers)
  answers.set(Host.address(event.probed), event.rejection ?? "failed")
  const claim = state.phase.claim
  return settle(
    {
      ...state,
      phase: Phase.Searching({
        ...state.phase,
        answers,
        claim:
          claim !== undefined &&
          (Host.isSame(claim.probed, event.probed) || Host.isSame(claim.host, event.probed))
            ? undefined
            : claim
      })
    },
    now,
    settings
  )
}

/**
 * The next state. Pure; `now` is the Clock's milliseconds.
 *
 * @since 0.1.0
 * @category reducer
 */
export const reduce = (
  state: TopologyState,
  event: Event,
  now: number,
  settings: Settings
): TopologyState => {
  switch (event._tag) {
    case "Needed":
      return state.phase._tag === "Idle" ? search(state, now) : state
    case "WriterLost":
      return state.phase._tag === "Calm" && state.epoch === event.epoch ? search(state, now) : state
    case "Observed":
      return observed(state, event.observation, now, settings)
    case "ProbeFailed":
      return probeFailed(state, event, now, settings)
  }
}
