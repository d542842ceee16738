/**
 * What Patroni's list of members means for the server that was asked by SQL. Pure.
 *
 * @internal
 */
import { Option } from "effect"
import type { Role } from "../../Host.js"
import * as Host from "../../Host.js"
import type { Member } from "../../TopologyState.js"
import type { ListedMember, MemberList } from "./patroniApi.js"

/** PostgreSQL's registered port: Patroni leaves it out where `connect_address` does. */
const DEFAULT_PORT = 5432

/** Versions differ in what they call the leader; `standby_leader` takes no writes. */
const roles: Readonly<Record<string, Role>> = {
  leader: "writer",
  primary: "writer",
  master: "writer",
  standby_leader: "reader",
  sync_standby: "reader",
  quorum_standby: "reader",
  replica: "reader"
}

const roleOf = ({ role }: ListedMember): Role =>
  Object.hasOwn(roles, role) ? (roles[role] ?? "unknown") : "unknown"

/** As `Host.parse` writes names, so that one host has one identity. */
const normalised = (host: string): string =>
  host
    .toLowerCase()
    .replace(/^\[(.*)\]$/, "$1")
    .replace(/\.$/, "")

/**
 * A member, where it listens by its own word, and where it is reached.
 *
 * @internal
 */
export interface Located {
  readonly member: ListedMember
  readonly listed: Host.Host | undefined
  readonly host: Host.Host | undefined
}

/**
 * A member's id is Patroni's name for it.
 *
 * @internal
 */
export const locate = (
  list: MemberList,
  hostAt: (listed: Host.Host) => Option.Option<Host.Host>
): ReadonlyArray<Located> =>
  list.members.map((member) => {
    if (member.host === undefined) return { member, listed: undefined, host: undefined }
    const listed = Host.make({
      id: member.name,
      host: normalised(member.host),
      port: member.port ?? DEFAULT_PORT
    })
    return { member, listed, host: Option.getOrUndefined(hostAt(listed)) }
  })

/**
 * The member that has one of these addresses.
 *
 * @internal
 */
export const at = (
  members: ReadonlyArray<Located>,
  addresses: ReadonlyArray<string>
): Located | undefined =>
  members.find(({ host, listed }) =>
    [host, listed].some((_) => _ !== undefined && addresses.includes(Host.address(_)))
  )

/** Patroni's lag is in bytes, so it says nothing about `lagMillis`. @internal */
export const membersOf = (members: ReadonlyArray<Located>): ReadonlyArray<Member> =>
  members.flatMap(({ host, member }) =>
    host === undefined ? [] : [{ host, role: roleOf(member) }]
  )

/**
 * Which member of the list the server is: this one, one that is not on it (any more), or nobody can tell.
 *
 * @internal
 */
export type Self = ListedMember | "unlisted" | "unidentified"

/**
 * Whether a server that takes writes by its own word (it is not in recovery) is believed to be the writer.
 * `unlocked`: the list names no leader, so it has to be known why.
 *
 * | the list's leader | this server | verdict |
 * |---|---|---|
 * | is on a newer timeline | | no: this server was replaced |
 * | is this server | | yes |
 * | is another one | is known | no |
 * | is another one | cannot be found on the list | yes: two servers of one timeline are not both writable |
 * | nobody | the cluster is paused | yes: Patroni takes its hands off, and elects nobody |
 * | nobody | cannot be found on the list | yes |
 * | nobody | is known | unlocked |
 *
 * @internal
 */
export const verdict = (
  { members, pause }: MemberList,
  self: Self,
  timeline: bigint | undefined
): "yes" | "no" | "unlocked" => {
  const leader = members.find((member) => roleOf(member) === "writer")
  if (leader === undefined) {
    return pause === true || self === "unidentified" ? "yes" : "unlocked"
  }
  const isReplaced =
    leader.timeline !== undefined && timeline !== undefined && BigInt(leader.timeline) > timeline
  if (isReplaced) return "no"
  return leader === self || self === "unidentified" ? "yes" : "no"
}
