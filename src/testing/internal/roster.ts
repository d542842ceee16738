/**
 * Who is who in the cluster, and what follows from it: every server's configuration, and what the instances of an
 * emulated cluster know of each other.
 */
import { Duration, Effect, FiberMap, Schedule } from "effect"
import type { PostgresClusterError } from "./clusterError.js"
import * as Config from "./config.js"
import * as Emulation from "./emulation.js"
import type { Member } from "./members.js"

const announceBound = Duration.seconds(5)
const reloadBound = Duration.seconds(5)

export interface Roster {
  readonly members: () => ReadonlyArray<Member>
  readonly isUp: (member: Member) => boolean
  readonly standbysUp: () => ReadonlyArray<Member>
  readonly thePrimary: (all?: ReadonlyArray<Member>) => Effect.Effect<Member>
  /** Gives a member's server the configuration that follows from what the members are. */
  readonly configure: (
    member: Member,
    all?: ReadonlyArray<Member>
  ) => Effect.Effect<void, PostgresClusterError>
  readonly reconcile: Effect.Effect<void, PostgresClusterError>
  /** To be run when a member came or went. */
  readonly changed: Effect.Effect<void>
  /** The member is known to follow the primary: commits wait for it (or another one) when this returns. */
  readonly follows: (member: Member) => Effect.Effect<void, PostgresClusterError>
  /** The member does not follow the primary any more: commits must not wait for it. */
  readonly lost: (member: Member) => Effect.Effect<void>
}

export const make = (options: {
  readonly isEmulated: boolean
  readonly synchronous: boolean
  readonly username: string
  readonly password: string
  readonly settings: Readonly<Record<string, string>>
  /** Empty until all are up. */
  readonly members: () => ReadonlyArray<Member>
  readonly background: FiberMap.FiberMap<string>
}): Roster => {
  const { background, members, settings } = options

  const isUp = (member: Member): boolean => member.server.process() === "running"
  const standbysUp = (): ReadonlyArray<Member> =>
    members().filter((member) => member.kind === "standby" && isUp(member))
  const thePrimary = (all: ReadonlyArray<Member> = members()): Effect.Effect<Member> =>
    Effect.suspend(() =>
      Effect.orDieWith(
        Effect.fromNullable(all.find((member) => member.kind === "primary")),
        () => new Error("one member is always the primary")
      )
    )

  /** A former primary keeps what it had: it comes back as it went, and hangs its commits as a real one would. */
  const configure = (member: Member, all: ReadonlyArray<Member> = members()) =>
    Effect.gen(function* () {
      if (member.kind === "former") return
      const primary = yield* thePrimary(all)
      const followers = all.some((other) => other !== member && other.follows)
      yield* member.server.configure(
        Config.render({
          id: member.node.id,
          port: member.node.serverPort,
          username: options.username,
          password: options.password,
          follows: member === primary ? undefined : primary.node.serverPort,
          synchronous: options.synchronous && followers,
          settings
        })
      )
    })

  const reconcile = Effect.suspend(() =>
    Effect.forEach(members(), (member) => configure(member), { discard: true })
  )

  const announce = Effect.gen(function* () {
    const primary = yield* thePrimary()
    if (!isUp(primary)) return
    const up = [primary, ...standbysUp()].map(({ node }) => node.id)
    yield* primary.sessions.query(Emulation.announce(primary.node.id, up), [], announceBound)
  }).pipe(Effect.ignore)

  /** The latest word wins; nobody waits for it. */
  const changed = options.isEmulated
    ? Effect.asVoid(FiberMap.run(background, "announce", announce))
    : Effect.void

  const lost = (member: Member) =>
    Effect.suspend(() => {
      member.follows = false
      return Effect.zipRight(Effect.ignore(reconcile), changed)
    })

  /** A configuration is read a moment after it is written; who relies on commits that wait must not write before. */
  const waits = Effect.gen(function* () {
    const primary = yield* thePrimary()
    if (!options.synchronous || !isUp(primary)) return
    yield* primary.sessions
      .query("select current_setting('synchronous_standby_names') as names")
      .pipe(
        Effect.repeat({
          schedule: Schedule.spaced("2 millis"),
          until: ([row]) => row?.["names"] !== ""
        })
      )
  }).pipe(Effect.timeout(reloadBound), Effect.ignore)

  const follows = (member: Member) =>
    Effect.suspend(() => {
      member.follows = true
      return Effect.zipRight(reconcile, Effect.zipRight(waits, changed))
    })

  return { members, isUp, standbysUp, thePrimary, configure, reconcile, changed, follows, lost }
}
