/**
 * How the list of hosts changes with what hosts say. Pure.
 *
 * @internal
 */
import * as Host from "../Host.js"
import type { HostState, Observation, TopologyState } from "../TopologyState.js"

/** @internal */
export const unasked = (host: Host.Host): HostState => ({
  host,
  role: "unknown",
  availability: "unknown",
  lagMillis: undefined,
  failures: 0,
  lastError: undefined
})

/** @internal */
export const updateHost = (
  state: TopologyState,
  host: Host.Host,
  f: (_: HostState) => HostState
): TopologyState => ({
  ...state,
  hosts: state.hosts.map((_) => (Host.isSame(_.host, host) ? f(_) : _))
})

/** The host that answered, its role, and the members that it lists. This only adds: the list may be old. @internal */
export const learn = (state: TopologyState, observation: Observation): TopologyState => {
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

/**
 * The list of a confirmed writer is the membership: who is not on it has left the cluster. A partial list
 * says nothing of the seeds, nor of those who have answered for themselves; but whoever was known from such
 * lists only is forgotten with them, or addresses that change would add up.
 *
 * @internal
 */
export const prune = (state: TopologyState, observation: Observation): TopologyState => {
  const { host, isWhole, members } = observation
  if (members === undefined || members.length === 0) return state
  const isListed = (_: HostState) => members.some((member) => Host.isSame(member.host, _.host))
  const isKnownOtherwise = (_: HostState) =>
    _.availability === "available" || state.seeds.some((seed) => Host.isSame(seed, _.host))
  return {
    ...state,
    hosts: state.hosts.filter(
      (_) => Host.isSame(_.host, host) || isListed(_) || (isWhole === false && isKnownOtherwise(_))
    )
  }
}

/** Nobody but this host is shown as the writer, whoever else says so. @internal */
export const soleWriter = (state: TopologyState, host: Host.Host): TopologyState => ({
  ...state,
  hosts: state.hosts.map((_) =>
    Host.isSame(_.host, host)
      ? { ..._, role: "writer" }
      : _.role === "writer"
        ? { ..._, role: "unknown" }
        : _
  )
})

/** @internal */
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
