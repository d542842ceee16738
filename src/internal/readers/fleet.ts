/**
 * The hosts that may be read from: as many members as the topology has hosts, each with a fiber that keeps a
 * line to it. Begins with the first read; a client that never reads from readers has none of it.
 *
 * Who may be chosen:
 *
 * | | readers | the confirmed writer |
 * |---|---|---|
 * | `reader-or-writer` | those that are available and fresh enough | while there is no such reader, and none that has not been asked yet |
 * | `strict-reader` | those that are available and fresh enough | if it is the cluster's only host |
 *
 * Who takes itself for the writer and is not confirmed is neither.
 *
 * @internal
 */
import type { Scope } from "effect"
import { Array, Deferred, Duration, Effect, FiberId, FiberMap, FiberSet, Stream } from "effect"
import type { Session } from "../../Connector.js"
import { SessionError } from "../../Connector.js"
import type { Dialect } from "../../Dialect.js"
import type { ErrorClassifier } from "../../ErrorClassifier.js"
import * as Classifier from "../../ErrorClassifier.js"
import type { Tried } from "../../Errors.js"
import * as Host from "../../Host.js"
import * as HostPool from "../../HostPool.js"
import type { HostSelector } from "../../HostSelector.js"
import { makeChance } from "../../HostSelector.js"
import { query } from "../../SqlTopologySource.js"
import type { Topology } from "../../Topology.js"
import type { Rejection } from "../../TopologyState.js"
import { confirmedWriter } from "../../TopologyState.js"
import type { Reading } from "../reading.js"
import { Member } from "./member.js"
import { Samples } from "./samples.js"

/** @internal */
export interface Settings {
  readonly selector: HostSelector
  /** How often a host that is read from is asked how it is. */
  readonly heartbeat: Duration.Duration
  /** A host that takes longer to say so is unavailable. */
  readonly heartbeatTimeout: Duration.Duration
}

/** @internal */
export interface Fleet {
  /** Begins, if it has not. */
  readonly start: () => void
  readonly members: () => ReadonlyArray<Member>
  /** The member to read from now. */
  readonly choose: (reading: Reading, except?: Member) => Member | undefined
  /** Whether the member may still be read from, after a connection to it was waited for. */
  readonly isFit: (member: Member, reading: Reading) => boolean
  /** The client is closed: nothing will change any more. */
  readonly isClosed: () => boolean
  /** Until something has changed, but no longer than this. */
  readonly change: (atMost: Duration.Duration) => Effect.Effect<void>
  /** Why nobody lets us in, if that has been so since then. Whoever rejected us longer ago is asked again. */
  readonly rejection: (since: number) => Rejection | undefined
  readonly tried: () => ReadonlyArray<Tried>
}

/** After a failure a host is asked again after this long, and then ever more seldom. */
const PAUSE_MILLIS = 50
const LONGEST_PAUSE_MILLIS = 1000

/** A rejection is believed for so long; then whoever reads lets it be tried again. */
const REJECTED_MILLIS = 250

/** A staleness that must be kept is looked at this often within its time. */
const LOOKS = 4
const SHORTEST_HEARTBEAT_MILLIS = 10

/** ... for so long after it was asked for. Who asks for it more seldom is served by the writer at first. */
const TIGHT_MILLIS = 10_000

/** Nobody has read for so long: hosts are asked more seldom. */
const IDLE_MILLIS = 60_000
const IDLE_HEARTBEAT_MILLIS = 10_000

/** A host that has left the cluster may finish its work in this time. */
const DRAIN_MILLIS = 5000
const DRAIN_LOOK_MILLIS = 50

class Silence extends Error {
  constructor(host: Host.Host, timeout: Duration.Duration) {
    super(`${host.id} gave no sign of life within ${Duration.toMillis(timeout)} ms`)
  }
}

/** @internal */
export const make = (options: {
  readonly topology: Topology
  readonly settings: Settings
  readonly pool: HostPool.Settings
  readonly dialect: () => Dialect
  readonly classifier: ErrorClassifier
  /** For the lines. */
  readonly connect: (host: Host.Host) => Effect.Effect<Session, SessionError>
  /** For the pools: a connection that can only read, to a member that may be read from. */
  readonly open: (member: Member) => Effect.Effect<Session, SessionError>
}): Effect.Effect<Fleet, never, Scope.Scope> =>
  Effect.gen(function* () {
    const { classifier, dialect, settings, topology } = options
    const { heartbeatTimeout, selector } = settings
    const clock = yield* Effect.clock
    const chance = yield* makeChance
    const scope = yield* Effect.scope
    const fork = yield* FiberSet.makeRuntime<never>()
    const attendants = yield* FiberMap.make<string, never, never>()
    const members = new Map<string, Member>()
    /** They have left the cluster, and may finish their work. */
    const leaving = new Map<string, Member>()
    const samples = new Samples()
    let all: ReadonlyArray<Member> = []
    let isStarted = false
    let isClosed = false
    let lastRead = clock.unsafeCurrentTimeMillis()
    /** The tightest bound of late, and when it was asked for last. */
    let tightest = Infinity
    let tightestAt = -Infinity
    let next = Deferred.unsafeMake<void>(FiberId.none)

    const changed = (): void => {
      const before = next
      next = Deferred.unsafeMake<void>(FiberId.none)
      Deferred.unsafeDone(before, Effect.void)
    }

    yield* Effect.addFinalizer(() =>
      Effect.sync(() => {
        isClosed = true
        changed()
      })
    )

    const heartbeat = (): Duration.Duration => {
      const now = clock.unsafeCurrentTimeMillis()
      if (now - tightestAt > TIGHT_MILLIS) tightest = Infinity
      const wanted = Math.max(
        SHORTEST_HEARTBEAT_MILLIS,
        Math.min(Duration.toMillis(settings.heartbeat), tightest / LOOKS)
      )
      const isIdle = now - lastRead > IDLE_MILLIS
      return Duration.millis(isIdle ? Math.max(wanted, IDLE_HEARTBEAT_MILLIS) : wanted)
    }

    const isWriter = (member: Member): boolean => {
      const writer = confirmedWriter(topology.unsafeCurrent())
      return (
        member.role === "writer" && writer !== undefined && Host.isSame(writer.host, member.host)
      )
    }

    const freshness = (member: Member, line: Session, at: number) => {
      const { freshness, load } = dialect()
      const ask = query(line)
      if (freshness === undefined) {
        if (load === undefined || member.role !== "reader") return Effect.void
        return Effect.map(load(ask), ({ cpuPercent, lagMillis }) => {
          member.cpuPercent = cpuPercent
          member.lagMillis = lagMillis
          if (lagMillis !== undefined) member.freshAsOf = at - lagMillis
        })
      }
      if (member.role === "writer") {
        if (!isWriter(member)) return Effect.void
        const { epoch } = topology.unsafeCurrent()
        return Effect.map(freshness.position(ask), (position) =>
          samples.add({ at, position }, epoch)
        )
      }
      const pending = samples.since(member.freshAsOf)
      if (!Array.isNonEmptyReadonlyArray(pending)) return Effect.void
      return Effect.map(
        freshness.reached(
          ask,
          pending.map((_) => _.position)
        ),
        (reached) => {
          member.freshAsOf = pending[reached - 1]?.at ?? member.freshAsOf
          member.lagMillis =
            reached === pending.length
              ? 0
              : member.freshAsOf === -Infinity
                ? undefined
                : at - member.freshAsOf
        }
      )
    }

    /** One question, or two. */
    const ask = (member: Member, line: Session): Effect.Effect<void, SessionError> =>
      Effect.gen(function* () {
        const at = clock.unsafeCurrentTimeMillis()
        const began = clock.unsafeCurrentTimeNanos()
        const takesWrites = yield* dialect().isWriter(query(line))
        const before = member.role
        const roundTrip = Number(clock.unsafeCurrentTimeNanos() - began) / 1e6
        member.answered(takesWrites ? "writer" : "reader", roundTrip)
        // Refused: it cannot tell, and is as good as it was.
        yield* Effect.catchIf(
          freshness(member, line, at),
          (error) => error.fate === "Answered" && line.isOpen(),
          () => Effect.void
        )
        // A promotion or a demotion, heard here first.
        if (before !== "unknown" && before !== member.role) yield* topology.refresh
        changed()
      }).pipe(
        Effect.timeoutFail({
          duration: heartbeatTimeout,
          onTimeout: () =>
            new SessionError({
              cause: new Silence(member.host, heartbeatTimeout),
              fate: "Unanswered"
            })
        })
      )

    const untilWoken = (member: Member, atMost: Duration.Duration): Effect.Effect<void> =>
      Effect.async<void>((resume) => Effect.sync(member.onWake(() => resume(Effect.void)))).pipe(
        Effect.timeoutOption(atMost),
        Effect.asVoid
      )

    /** Keeps a line to the host, and its pool, until the host cannot be reached. */
    const attendWhileUp = (member: Member): Effect.Effect<never, SessionError, Scope.Scope> =>
      Effect.gen(function* () {
        let line: Session | undefined
        yield* Effect.addFinalizer(() => Effect.sync(() => line?.destroy()))
        const connected = Effect.uninterruptibleMask((restore) =>
          Effect.map(restore(options.connect(member.host)), (session) => {
            line = session
            session.onClose(() => {
              // What was started anew may show less than before.
              member.freshAsOf = -Infinity
              member.wake()
            })
            return session
          })
        )
        const askOn = (session: Session) => Effect.as(ask(member, session), session)
        let held = yield* Effect.flatMap(connected, askOn)
        const { epoch } = topology.unsafeCurrent()
        const { host, role } = member
        member.pool = yield* HostPool.make({
          host,
          epoch,
          role: role === "writer" ? "writer" : "reader",
          settings: options.pool,
          open: options.open(member)
        })
        changed()
        for (;;) {
          if (held.isOpen()) yield* untilWoken(member, heartbeat())
          held = yield* Effect.catchIf(
            askOn(held),
            // A question that was given up has closed its line, too: that host need not be tried again.
            ({ cause }) => !held.isOpen() && !(cause instanceof Silence),
            () => Effect.flatMap(connected, askOn)
          )
        }
      })

    const isReadLately = (): boolean =>
      clock.unsafeCurrentTimeMillis() - lastRead <= LONGEST_PAUSE_MILLIS

    const attend = (member: Member): Effect.Effect<never> => {
      let failures = 0
      return Effect.suspend(() => attendWhileUp(member)).pipe(
        // Nobody is sent there before what hangs on it is cut off.
        Effect.tapError((error) =>
          Effect.sync(() => {
            const wasUp = member.pool !== undefined
            failures = wasUp ? 0 : failures + 1
            member.pool = undefined
            member.failed(
              Classifier.describe(error.cause),
              Classifier.rejection(classifier, member.host, error.cause),
              clock.unsafeCurrentTimeMillis()
            )
            changed()
          })
        ),
        // Reads that only the writer can serve wait for the next one.
        Effect.tapError(() => (isWriter(member) ? topology.refresh : Effect.void)),
        Effect.scoped,
        Effect.catchAll(() =>
          Effect.suspend(() => {
            const pause = Math.min(PAUSE_MILLIS * 2 ** failures, LONGEST_PAUSE_MILLIS)
            // An interruption that arrives while a finalizer runs may be lost with its end (Effect 3.22).
            if (isClosed || member.isGone) return Effect.interrupt
            // An account that is wrong may be locked for trying: nobody logs in for nobody.
            const isFutile = member.rejection !== undefined && !isReadLately()
            return untilWoken(member, isFutile ? Duration.infinity : Duration.millis(pause))
          })
        ),
        Effect.forever,
        Effect.interruptible
      )
    }

    const drained = (member: Member): Effect.Effect<void> => {
      const until = clock.unsafeCurrentTimeMillis() + DRAIN_MILLIS
      return Effect.repeat(Effect.sleep(DRAIN_LOOK_MILLIS), {
        while: () => member.outstanding > 0 && clock.unsafeCurrentTimeMillis() < until
      })
    }

    const dismiss = (member: Member, address: string): Effect.Effect<void> => {
      member.isGone = true
      return FiberMap.remove(attendants, address)
    }

    const follow = (hosts: ReadonlyArray<Host.Host>): Effect.Effect<void> =>
      Effect.gen(function* () {
        const addresses = new Set(hosts.map(Host.address))
        for (const [address, member] of members) {
          if (addresses.has(address)) continue
          members.delete(address)
          leaving.set(address, member)
          yield* Effect.forkIn(
            Effect.zipRight(
              drained(member),
              Effect.suspend(() =>
                leaving.get(address) === member && leaving.delete(address)
                  ? dismiss(member, address)
                  : Effect.void
              )
            ),
            scope
          )
        }
        for (const host of hosts) {
          const address = Host.address(host)
          if (members.has(address)) continue
          const back = leaving.get(address)
          leaving.delete(address)
          const member = back ?? new Member(host)
          members.set(address, member)
          if (back === undefined) yield* FiberMap.run(attendants, address, attend(member))
        }
        all = [...members.values()]
        changed()
      })

    const begin = Effect.gen(function* () {
      yield* Effect.forkIn(Effect.ignore(topology.settled), scope)
      yield* topology.changes.pipe(
        Stream.map((state) => state.hosts.map((_) => _.host)),
        Stream.runForEach(follow),
        Effect.interruptible,
        Effect.forkIn(scope)
      )
    })

    const start = (): void => {
      if (isStarted || isClosed) return
      isStarted = true
      fork(begin)
    }

    /** The bound that is kept; a tighter one than all before must be looked at more often at once. */
    const oldestOf = ({ maxStaleness }: Reading, now: number): number => {
      if (maxStaleness === undefined) return -Infinity
      if (maxStaleness <= tightest) {
        tightestAt = now
        if (maxStaleness < tightest) {
          tightest = maxStaleness
          for (const member of all) member.wake()
        }
      }
      return now - maxStaleness
    }

    /** The first read after a while. */
    const afterPause = (now: number): void => {
      const isIdle = now - lastRead > IDLE_MILLIS
      for (const member of all) if (isIdle || member.rejection !== undefined) member.wake()
    }

    /** It may turn out to be a reader that can be read from. */
    const isUnderway = (member: Member): boolean =>
      member.pool === undefined && member.availability !== "unavailable" && member.role !== "writer"

    const choose: Fleet["choose"] = (reading, except) => {
      if (isClosed) return undefined
      const now = clock.unsafeCurrentTimeMillis()
      if (now - lastRead > LONGEST_PAUSE_MILLIS) afterPause(now)
      lastRead = now
      const oldest = oldestOf(reading, now)
      const readers: Array<Member> = []
      let isUndecided = false
      let writer: Member | undefined
      for (const member of all) {
        if (isUnderway(member)) isUndecided = true
        if (member === except || member.availability !== "available") continue
        if (member.pool === undefined || member.pool === reading.except) continue
        if (member.role === "writer") {
          if (isWriter(member)) writer = member
        } else if (member.freshAsOf >= oldest) {
          readers.push(member)
        }
      }
      if (reading.onWriter === true) return writer
      if (Array.isNonEmptyArray(readers)) {
        const chosen = selector(readers, chance)
        if (chosen !== undefined) return chosen
      }
      return reading.mode === "reader-or-writer"
        ? isUndecided
          ? undefined
          : writer
        : all.length === 1
          ? writer
          : undefined
    }

    return {
      start,
      members: () => all,
      isClosed: () => isClosed,
      choose,
      change: (atMost) =>
        Effect.suspend(() => Effect.asVoid(Effect.timeoutOption(Deferred.await(next), atMost))),
      isFit: (member, reading) => {
        if (member.role === "writer") {
          const mayBe = reading.onWriter === true || reading.mode === "reader-or-writer"
          return (mayBe || all.length === 1) && isWriter(member)
        }
        const oldest = oldestOf(reading, clock.unsafeCurrentTimeMillis())
        return reading.onWriter !== true && member.freshAsOf >= oldest
      },
      rejection: (since) => {
        const now = clock.unsafeCurrentTimeMillis()
        let found: Rejection | undefined
        let isNobodyLeft = true
        for (const member of all) {
          const { availability, failedAt, rejection } = member
          if (availability !== "unavailable" || failedAt < since - REJECTED_MILLIS) {
            isNobodyLeft = false
          }
          if (rejection === undefined) continue
          found ??= rejection
          if (now - failedAt >= REJECTED_MILLIS) member.wake()
        }
        return isNobodyLeft ? found : undefined
      },
      tried: () =>
        all.flatMap(({ host, lastError }) =>
          lastError === undefined ? [] : [{ host, attempts: 1, lastError }]
        )
    } satisfies Fleet
  })
