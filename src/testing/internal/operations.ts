/**
 * What the manager does to the cluster: operations on one member each, of which the caller runs one at a time. `kill`
 * and `freeze` are not here: they are the server's own, for faults do not queue.
 */
import { Duration, Effect, FiberMap, Option } from "effect"
import type { Node, Promotion } from "../PostgresCluster.js"
import * as Clone from "./clone.js"
import { PostgresClusterError } from "./clusterError.js"
import * as Members from "./members.js"
import type { Member } from "./members.js"
import * as Replication from "./replication.js"
import type { Roster } from "./roster.js"

/** Promotion takes some 10 ms at the median; a busy machine with much to replay may take seconds. */
const promotionBound = Duration.seconds(30)
/** A sibling reconnects after 20 ms (`wal_retrieve_retry_interval`): one that has not done so in 5 s cannot follow. */
const followBound = Duration.seconds(5)

type Operation<A = void> = Effect.Effect<A, PostgresClusterError>

export interface Operations {
  readonly start: (member: Member) => Operation
  readonly stop: (member: Member, mode: "fast" | "immediate") => Operation
  /** Has a standby that runs again follow the primary; has the standbys follow a primary that runs again. */
  readonly catchUp: (member: Member) => Operation
  readonly rejoin: (member: Member) => Operation
  readonly promote: (to?: Member, options?: { readonly alone?: boolean }) => Operation<Promotion>
  readonly switchover: (to?: Member) => Operation<Node>
}

export const make = (
  roster: Roster,
  /** What runs in the background under a key replaces what ran under it before. */
  background: FiberMap.FiberMap<string>,
  oneAtATime: Effect.Semaphore
): Operations => {
  const { configure, follows, isUp, lost, reconcile, standbysUp, thePrimary } = roster

  const rejoin = (member: Member): Operation =>
    Effect.gen(function* () {
      const primary = yield* thePrimary()
      if (member === primary) {
        return yield* member.server.failure(
          "is the primary",
          "promote another node first, or use `restart`"
        )
      }
      if (!isUp(primary)) {
        return yield* primary.server.failure(
          `is ${primary.server.process()}, and a clone needs a running primary`,
          "start or resume it, or promote another node"
        )
      }
      // A primary that is dying at this moment must not cost the standby that could replace it.
      yield* primary.sessions.query("select 1")
      yield* member.server.kill
      yield* member.sessions.close
      yield* lost(member)
      yield* primary.sessions.use((session) =>
        Clone.fromPrimary(primary.server.directory, session, member.place)
      )
      member.kind = "standby"
      yield* configure(member)
      yield* Members.start(member)
      yield* Replication.caughtUp(member, primary, Members.catchUpBound)
      yield* follows(member)
    })

  /** A standby that is up follows the primary, by its own WAL or, where that has diverged, by a new clone. */
  const follow = (member: Member): Operation =>
    Effect.gen(function* () {
      const primary = yield* thePrimary()
      if (member.kind !== "standby" || !isUp(member) || !isUp(primary)) return
      yield* Replication.caughtUp(member, primary, followBound).pipe(
        Effect.zipRight(follows(member)),
        Effect.catchAll(() =>
          Effect.suspend(() =>
            member.kind === "standby" && isUp(member) && isUp(primary)
              ? rejoin(member)
              : Effect.void
          )
        )
      )
    })

  const inBackground = (member: Member, effect: Operation) =>
    FiberMap.run(background, member.node.id, oneAtATime.withPermits(1)(Effect.ignore(effect)))

  /** Standbys that could not be verified while their primary was away are verified when it is back. */
  const primaryIsBack = Effect.gen(function* () {
    for (const each of standbysUp()) yield* inBackground(each, follow(each))
    yield* roster.changed
  })

  const awaitWritable = (member: Member): Operation<bigint> =>
    member.sessions
      .use((session) =>
        Effect.gen(function* () {
          yield* session.query("select pg_promote(wait => false)")
          for (;;) {
            const [row] = yield* session.query("select pg_is_in_recovery() as standby")
            if (row?.["standby"] === false) return process.hrtime.bigint()
            yield* Effect.sleep("2 millis")
          }
        })
      )
      .pipe(
        Effect.timeoutFail({
          duration: promotionBound,
          onTimeout: () =>
            member.server.failure(
              `is not promoted after ${Duration.format(promotionBound)}`,
              "the log says what it waits for"
            )
        })
      )

  const promote: Operations["promote"] = (to, options) =>
    Effect.gen(function* () {
      const old = yield* thePrimary()
      const standbys = standbysUp()
      const positions = new Map(
        yield* Effect.forEach(
          standbys,
          (standby) =>
            Effect.map(
              Replication.position(standby),
              (lsn) => [standby, Option.getOrElse(lsn, () => -1n)] as const
            ),
          { concurrency: "unbounded" }
        )
      )
      const reached = (member: Member): bigint => positions.get(member) ?? -1n
      const best = standbys.reduce<Member | undefined>(
        (most, each) => (most === undefined || reached(each) > reached(most) ? each : most),
        undefined
      )
      const chosen = to ?? best
      if (chosen === undefined || reached(chosen) < 0n) {
        return yield* new PostgresClusterError({
          message:
            to === undefined
              ? "no standby that could be promoted is running"
              : `${to.node.id} is not a running standby`,
          hint: "start, resume or rejoin it first; `status` tells what runs"
        })
      }
      // A sibling that has more than the new primary cannot follow it: it has to be cloned.
      const siblings = standbys.filter((each) => each !== chosen)
      const before = roster.members().map(({ follows, kind }) => ({ follows, kind }))
      old.kind = "former"
      chosen.kind = "primary"
      chosen.follows = false
      for (const each of siblings) {
        each.follows = options?.alone !== true && each.follows && reached(each) <= reached(chosen)
      }
      yield* configure(chosen)
      // Both at once: the sibling is there when the first commit waits for it, and nobody waits for the sibling.
      const [acceptsWritesAt] = yield* Effect.all([awaitWritable(chosen), reconcile], {
        concurrency: 2
      }).pipe(
        Effect.tapError(() => {
          roster.members().forEach((member, index) => Object.assign(member, before[index]))
          return Effect.ignore(reconcile)
        })
      )
      yield* roster.changed
      for (const each of siblings) {
        yield* inBackground(each, reached(each) <= reached(chosen) ? follow(each) : rejoin(each))
      }
      return { node: chosen.node, acceptsWritesAt }
    }).pipe(Effect.uninterruptible)

  const catchUp = (member: Member): Operation => {
    switch (member.kind) {
      case "standby":
        return Effect.zipRight(configure(member), follow(member))
      case "primary":
        return primaryIsBack
      case "former":
        return Effect.void
    }
  }

  const start = (member: Member): Operation =>
    Effect.gen(function* () {
      const process = member.server.process()
      if (process === "running") return
      if (process === "frozen") {
        return yield* member.server.failure("is frozen", "resume or kill it first")
      }
      yield* configure(member)
      yield* Members.start(member)
      yield* catchUp(member)
    })

  const stop = (member: Member, mode: "fast" | "immediate") =>
    Effect.zipRight(member.server.stop(mode), member.sessions.close)

  const switchover = (to?: Member): Operation<Node> =>
    Effect.gen(function* () {
      const old = yield* thePrimary()
      const ready = to === undefined ? standbysUp() : [to]
      if (ready.length === 0 || ready.some((each) => each.kind !== "standby" || !isUp(each))) {
        return yield* new PostgresClusterError({
          message: `${to?.node.id ?? "no node"} is a running standby`,
          hint: "start, resume or rejoin it first; `status` tells what runs"
        })
      }
      yield* Effect.forEach(ready, (each) => Replication.caughtUp(each, old, followBound), {
        concurrency: "unbounded",
        discard: true
      })
      yield* stop(old, "fast")
      const { node } = yield* promote(to).pipe(Effect.tapError(() => Effect.ignore(start(old))))
      yield* rejoin(old)
      return node
    })

  return { start, stop, catchUp, rejoin, promote, switchover }
}
