/**
 * When a host that says "I am the writer" is believed, and when readers are that speak for a silent one.
 * The table is in `TopologyState`. Pure.
 *
 * @internal
 */
import { Duration } from "effect"
import * as Host from "../Host.js"
import type {
  Agreement,
  Observation,
  Phase,
  Settings,
  Testimony,
  TopologyState,
  Writer
} from "../TopologyState.js"
import { targets } from "./membership.js"

/** @internal */
export type Searching = Extract<Phase, { readonly _tag: "Searching" }>

/** Two servers' clocks may differ by this much: a list that is older by less proves nothing. */
const CLOCK_MARGIN_MILLIS = 1_000

const isOlder = (a: bigint | undefined, b: bigint | undefined): boolean =>
  a !== undefined && b !== undefined && a < b

/** @internal */
export const isNewer = (a: bigint | undefined, b: bigint | undefined): boolean => isOlder(b, a)

/** @internal */
export const newest = (a: bigint | undefined, b: bigint | undefined): bigint | undefined =>
  a === undefined ? b : b === undefined ? a : a > b ? a : b

const isConfirmed = ({ phase, writer }: TopologyState, host: Host.Host): boolean =>
  phase._tag === "Calm" && writer?.isVerified === true && Host.isSame(writer.host, host)

const latest = (a: number | undefined, b: number | undefined): number | undefined =>
  a === undefined ? b : b === undefined ? a : Math.max(a, b)

/**
 * A claim of an epoch that has ended; where servers tell no epoch, one with a list of members that was
 * overtaken, unless it is the confirmed writer's own: its clock may have been set.
 *
 * @internal
 */
export const isOutdated = (state: TopologyState, observation: Observation): boolean =>
  observation.role === "writer" &&
  (isOlder(observation.serverEpoch, state.serverEpoch) ||
    (observation.serverEpoch === undefined &&
      !isConfirmed(state, observation.host) &&
      observation.asOf !== undefined &&
      state.asOf !== undefined &&
      observation.asOf < state.asOf - CLOCK_MARGIN_MILLIS))

/** Also if the claimant falls silent: whoever is older is not the writer any more. @internal */
export const claimed = (state: TopologyState, observation: Observation): TopologyState =>
  observation.role === "writer"
    ? {
        ...state,
        serverEpoch: newest(state.serverEpoch, observation.serverEpoch),
        asOf: latest(state.asOf, observation.asOf)
      }
    : state

/** Whether nothing tells the claimant from the writer that we know. @internal */
export const isSameReign = (writer: Writer | undefined, claim: Observation): boolean =>
  writer !== undefined &&
  Host.isSame(writer.host, claim.host) &&
  writer.serverEpoch === claim.serverEpoch &&
  writer.incarnation === claim.incarnation

/** Whether the same host, or one of its addresses, has now given another answer. */
const isAnsweredBy = (claim: Observation, { host, probed }: Observation): boolean =>
  Host.isSame(claim.host, host) ||
  Host.isSame(claim.probed, probed) ||
  Host.isSame(claim.host, probed)

/**
 * Of two claims, the newer server epoch stands; where there is none, the newer list of members; and where
 * nothing tells, anybody's but that of the writer that was lost.
 *
 * @internal
 */
export const bestClaim = (
  state: TopologyState,
  phase: Searching,
  observation: Observation
): Observation | undefined => {
  const standing =
    phase.claim !== undefined && isAnsweredBy(phase.claim, observation) ? undefined : phase.claim
  if (observation.role === "reader" || isOutdated(state, observation)) return standing
  if (standing === undefined || isNewer(observation.serverEpoch, standing.serverEpoch)) {
    return observation
  }
  if (observation.serverEpoch !== undefined && standing.serverEpoch !== undefined) return standing
  if (isOverdue(standing, observation)) return observation
  const isOfLost = phase.lost !== undefined && Host.isSame(standing.host, phase.lost.host)
  return isOfLost ? observation : standing
}

/** Whether the list behind one claim is older than that behind the other, whatever the clocks. */
const isOverdue = (a: Observation, b: Observation): boolean =>
  a.asOf !== undefined && b.asOf !== undefined && a.asOf < b.asOf - CLOCK_MARGIN_MILLIS

/** Whether the standing claim may be believed by now. @internal */
export const isBelieved = (
  phase: Searching,
  claim: Observation,
  isComplete: boolean,
  now: number,
  settings: Settings
): boolean => {
  const { lost, serverEpoch, since } = phase
  const succeeds =
    lost !== undefined &&
    !Host.isSame(claim.host, lost.host) &&
    (claim.serverEpoch === undefined ||
      serverEpoch === undefined ||
      isNewer(claim.serverEpoch, serverEpoch))
  return succeeds || isComplete || now - since >= Duration.toMillis(settings.reelectionGrace)
}

/** The one writer that this host's list of members names. @internal */
export const namedWriter = ({ members }: Observation): Host.Host | undefined => {
  const writers = (members ?? []).filter((_) => _.role === "writer")
  return writers.length === 1 ? writers[0]?.host : undefined
}

/** @internal */
export const testify = (
  testimonies: Searching["testimonies"],
  observation: Observation
): Searching["testimonies"] => {
  const next = new Map(testimonies)
  const at = Host.address(observation.probed)
  if (observation.role === "reader") {
    next.set(at, { witness: observation.probed, writer: namedWriter(observation) })
  } else {
    next.delete(at)
  }
  return next
}

/** What every reader that answers says, unless the named one answers for itself. */
const commonWord = (state: TopologyState, phase: Searching): Testimony | undefined => {
  const [first, ...others] = phase.testimonies.values()
  const writer = first?.writer
  if (writer === undefined || phase.claim !== undefined) return undefined
  const isUnanimous = others.every((_) => _.writer !== undefined && Host.isSame(_.writer, writer))
  // Not an address that has turned out to be another name of a member.
  const isMember = state.hosts.some((_) => Host.isSame(_.host, writer))
  const isSilent = phase.answers.get(Host.address(writer)) !== "answered"
  const isComplete = targets(state).every((_) => phase.answers.has(Host.address(_)))
  return isMember && isUnanimous && isSilent && isComplete ? first : undefined
}

/** An agreement counts from the moment at which it was reached, and anew when it is broken. @internal */
export const agreement = (
  state: TopologyState,
  phase: Searching,
  now: number
): Agreement | undefined => {
  const word = commonWord(state, phase)
  if (word?.writer === undefined) return undefined
  const before = phase.agreement
  return before !== undefined && Host.isSame(before.writer, word.writer)
    ? { ...before, witness: word.witness }
    : { writer: word.writer, witness: word.witness, since: now }
}
