/**
 * The steps of the topology's state machine; its picture and its tables are in `TopologyState`. Pure.
 *
 * @internal
 */
import { Duration } from "effect"
import * as Host from "../Host.js"
import type { Event, Observation, Settings, TopologyState, Writer } from "../TopologyState.js"
import * as claims from "./claims.js"
import type { Searching } from "./claims.js"
import { learn, prune, soleWriter, targets, updateHost } from "./membership.js"

const search = (state: TopologyState, now: number): TopologyState => ({
  ...state,
  hosts: state.hosts.map((_) => ({ ..._, failures: 0 })),
  phase: {
    _tag: "Searching",
    since: now,
    lost: state.writer,
    serverEpoch: state.serverEpoch,
    answers: new Map(),
    claim: undefined,
    testimonies: new Map(),
    agreement: undefined
  }
})

const calm = (
  state: TopologyState,
  writer: Omit<Writer, "epoch">,
  epoch: number,
  now: number,
  settings: Settings
): TopologyState => ({
  ...soleWriter(state, writer.host),
  writer: { ...writer, epoch },
  epoch,
  serverEpoch: claims.newest(state.serverEpoch, writer.serverEpoch),
  phase: {
    _tag: "Calm",
    // The first writer ever was not failed over to: no reason to watch it closely.
    highRateUntil:
      state.writer === undefined ? now : now + Duration.toMillis(settings.highRatePeriod)
  }
})

const confirm = (
  state: TopologyState,
  claim: Observation,
  now: number,
  settings: Settings
): TopologyState => {
  const { host, incarnation, probed, serverEpoch } = claim
  // A writer that was lost and cannot tell a restart may have restarted.
  const isKnown = incarnation !== undefined && claims.isSameReign(state.writer, claim)
  const epoch = isKnown ? state.epoch : state.epoch + 1
  const writer = { host, serverEpoch, incarnation, probed, isVerified: true }
  return calm(prune(state, claim), writer, epoch, now, settings)
}

/** Ends the search if the standing claim may be believed by now, if readers agree, or if nobody lets us in. */
const settle = (state: TopologyState, now: number, settings: Settings): TopologyState => {
  if (state.phase._tag !== "Searching") return state
  const agreement = claims.agreement(state, state.phase, now)
  const phase: Searching = { ...state.phase, agreement }
  const asked = targets(state).map((_) => phase.answers.get(Host.address(_)))
  const isComplete = asked.every((_) => _ !== undefined)
  const { claim } = phase
  if (claim !== undefined) {
    return claims.isBelieved(phase, claim, isComplete, now, settings)
      ? confirm(state, claim, now, settings)
      : { ...state, phase }
  }
  if (
    agreement !== undefined &&
    now - agreement.since >= Duration.toMillis(settings.stableAgreement)
  ) {
    const writer = {
      host: agreement.writer,
      serverEpoch: undefined,
      incarnation: undefined,
      probed: agreement.witness,
      isVerified: false
    }
    return calm(state, writer, state.epoch + 1, now, settings)
  }
  const rejection = asked.find((_) => typeof _ === "object")
  return isComplete && rejection !== undefined && !asked.includes("answered")
    ? { ...state, phase: { _tag: "Idle", rejection } }
    : { ...state, phase }
}

/** Whether it was the writer's address that answered. */
const isWatched = (writer: Writer, { probed }: Observation): boolean =>
  Host.isSame(probed, writer.probed) || Host.isSame(probed, writer.host)

/** A reader that stands by its word: what it says of the writer has not changed. */
const isStillNamed = (writer: Writer, observation: Observation): boolean => {
  const isWitness = !writer.isVerified && !Host.isSame(writer.host, observation.host)
  const named = isWitness ? claims.namedWriter(observation) : undefined
  return named !== undefined && Host.isSame(named, writer.host)
}

const observedInSearch = (
  state: TopologyState,
  phase: Searching,
  observation: Observation,
  now: number,
  settings: Settings
): TopologyState => {
  const answers = new Map(phase.answers)
  answers.set(Host.address(observation.probed), "answered")
  answers.set(Host.address(observation.host), "answered")
  return settle(
    {
      ...state,
      phase: {
        ...phase,
        answers,
        claim: claims.bestClaim(state, phase, observation),
        testimonies: claims.testify(phase.testimonies, observation)
      }
    },
    now,
    settings
  )
}

/** The writer on the readers' word speaks for itself now. */
const verified = (
  state: TopologyState,
  writer: Writer,
  { incarnation, probed, serverEpoch, ...observation }: Observation
): TopologyState => ({
  ...soleWriter(prune(state, { ...observation, probed }), writer.host),
  writer: { ...writer, serverEpoch, incarnation, probed, isVerified: true },
  serverEpoch: claims.newest(state.serverEpoch, serverEpoch)
})

const observedInCalm = (
  state: TopologyState,
  before: TopologyState,
  observation: Observation,
  now: number,
  settings: Settings
): TopologyState => {
  const writer = state.writer
  if (writer === undefined) return state
  const isWriter = Host.isSame(writer.host, observation.host)
  if (observation.role === "writer" && !claims.isOutdated(before, observation)) {
    if (isWriter && !writer.isVerified) return verified(state, writer, observation)
    if (claims.isSameReign(writer, observation)) {
      return soleWriter(prune(state, observation), writer.host)
    }
    if (isWriter || claims.isNewer(observation.serverEpoch, before.serverEpoch)) {
      return confirm(state, observation, now, settings)
    }
  }
  // The writer itself takes it back, or another host answers where the writer did.
  return (isWriter || isWatched(writer, observation)) && !isStillNamed(writer, observation)
    ? search(state, now)
    : soleWriter(state, writer.host)
}

const observed = (
  before: TopologyState,
  observation: Observation,
  now: number,
  settings: Settings
): TopologyState => {
  const state = claims.isOutdated(before, observation)
    ? updateHost(before, observation.host, (_) => ({
        ..._,
        role: "unknown",
        availability: "available",
        lastError: "says that it is the writer, of an epoch that has ended"
      }))
    : claims.claimed(learn(before, observation), observation)
  switch (state.phase._tag) {
    case "Idle":
      return state
    case "Searching":
      return observedInSearch(state, state.phase, observation, now, settings)
    case "Calm":
      return observedInCalm(state, before, observation, now, settings)
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
  const testimonies = new Map(state.phase.testimonies)
  testimonies.delete(Host.address(event.probed))
  const { claim } = state.phase
  const isClaimants =
    claim !== undefined &&
    (Host.isSame(claim.probed, event.probed) || Host.isSame(claim.host, event.probed))
  return settle(
    {
      ...state,
      phase: { ...state.phase, answers, testimonies, claim: isClaimants ? undefined : claim }
    },
    now,
    settings
  )
}

/** @internal */
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
