/**
 * The monitor of `Topology`: it owns the state, feeds it, and wakes whoever waits for it. Its failure table
 * is there.
 *
 * @internal
 */
import type { Scope } from "effect"
import {
  Cause,
  Clock,
  Deferred,
  Duration,
  Effect,
  Exit,
  FiberId,
  MutableRef,
  Queue,
  Random,
  SubscriptionRef
} from "effect"
import { FailoverFailed, TopologyClosed } from "../Errors.js"
import * as Host from "../Host.js"
import type { Push, Topology } from "../Topology.js"
import type { TopologySource } from "../TopologySource.js"
import type { Event, Observation, Phase, Rejection, Settings, Writer } from "../TopologyState.js"
import * as TopologyState from "../TopologyState.js"
import * as Calm from "./calm.js"
import * as Lines from "./lines.js"
import type { Monitored } from "./search.js"
import * as Search from "./search.js"
import { tried } from "./tried.js"

/** Delays vary by a tenth, so that many clients do not ask in step. */
const JITTER = 0.1

/** What has killed a monitor may do so again at once. */
const RESTART_PAUSE = Duration.millis(100)

const jittered = (duration: Duration.Duration): Effect.Effect<Duration.Duration> =>
  Effect.map(Random.nextRange(1 - JITTER, 1 + JITTER), (factor) => Duration.times(duration, factor))

/** @internal */
export interface MonitorOptions {
  readonly clusterId: string
  readonly seeds: TopologyState.TopologyState["seeds"]
  readonly source: TopologySource
  readonly settings: Settings
  readonly refreshRate: Duration.Duration
  readonly highRefreshRate: Duration.Duration
  readonly connectTimeout: Duration.Duration
  readonly probeTimeout: Duration.Duration
  readonly ignoreRefresh: Duration.Duration
  readonly push: Push
}

/** @internal */
export const make = (options: MonitorOptions): Effect.Effect<Topology, never, Scope.Scope> =>
  Effect.gen(function* () {
    const { settings } = options
    const state = MutableRef.make(TopologyState.initial(options))
    const current = () => MutableRef.get(state)
    const published = yield* SubscriptionRef.make(current())
    /** Ends with the present search. */
    let search = yield* Deferred.make<Writer, Rejection | TopologyClosed>()
    /** Ends with the present phase. */
    let phaseEnd = yield* Deferred.make<void>()
    const wake = yield* Queue.sliding<void>(1)
    const claimants = new Set<string>()
    const listeners = new Set<(state: TopologyState.TopologyState) => void>()
    let confirmedAt = -Infinity
    let closed = false

    const endPhase = (after: TopologyState.TopologyState): Effect.Effect<void> =>
      Effect.suspend(() => {
        const ended = phaseEnd
        const finished = search
        phaseEnd = Deferred.unsafeMake(FiberId.none)
        const { phase, writer } = after
        switch (phase._tag) {
          case "Searching":
            search = Deferred.unsafeMake(FiberId.none)
            break
          case "Calm":
            if (writer !== undefined) Deferred.unsafeDone(finished, Exit.succeed(writer))
            break
          case "Idle":
            if (phase.rejection !== undefined) {
              Deferred.unsafeDone(finished, Exit.fail(phase.rejection))
            }
            break
        }
        // Who wanted the writer to be asked in this phase has their answer by now.
        return Effect.zipRight(Queue.takeAll(wake), Deferred.succeed(ended, void 0))
      })

    const remember = ({ host, role }: Observation) =>
      role === "writer" ? claimants.add(Host.address(host)) : claimants.delete(Host.address(host))

    /** The state changes and everybody who waits for the change is woken in one step. */
    const dispatch = (event: Event): Effect.Effect<void> =>
      Effect.uninterruptible(
        Effect.flatMap(Clock.currentTimeMillis, (now) => {
          const before = current()
          const after = TopologyState.reduce(before, event, now, settings)
          if (after === before) return Effect.void
          MutableRef.set(state, after)
          if (event._tag === "Observed") remember(event.observation)
          const isSamePhase = before.phase._tag === after.phase._tag && before.epoch === after.epoch
          if (!isSamePhase) {
            if (after.phase._tag === "Calm") confirmedAt = now
            for (const listener of listeners) listener(after)
          }
          const publish = TopologyState.isSameView(before, after)
            ? Effect.void
            : SubscriptionRef.set(published, after)
          // Also from one writer to the next without a search: the line to the old one is of no use.
          return isSamePhase ? publish : Effect.zipRight(endPhase(after), publish)
        })
      )

    const monitored: Monitored = {
      lines: Lines.make({
        source: options.source,
        connectTimeout: options.connectTimeout,
        probeTimeout: options.probeTimeout,
        parks: options.push !== "never"
      }),
      current,
      dispatch,
      observed: (observation) => Lines.defective(dispatch({ _tag: "Observed", observation })),
      claimants,
      probeFailed: (probed, { description, rejection }) =>
        dispatch({ _tag: "ProbeFailed", probed, error: description, rejection }),
      refreshRate: jittered(options.refreshRate),
      highRefreshRate: jittered(options.highRefreshRate)
    }

    const calm = (line: Lines.Line | undefined, ended: Deferred.Deferred<void>) =>
      Calm.run(monitored, {
        line,
        ended,
        wake,
        changes: published.changes,
        listens: options.push === "always"
      })

    // The phase and the end of that very phase are read in one go. In between a fiber may be put aside;
    // then it would wait for the end of a phase that it never served.
    const inPhase = <A>(
      f: (tag: Phase["_tag"], ended: Deferred.Deferred<void>) => Effect.Effect<A>
    ) => Effect.suspend(() => f(current().phase._tag, phaseEnd))

    const phases = inPhase((phase, ended) => {
      switch (phase) {
        case "Idle":
          return Deferred.await(ended)
        case "Calm":
          return calm(undefined, ended)
        case "Searching":
          return Effect.flatMap(Search.run(monitored, ended), (line) =>
            inPhase((phase, ended) => {
              if (phase === "Calm") return calm(line, ended)
              return line === undefined ? Effect.void : Lines.close(line)
            })
          )
      }
    })

    /** A monitor that dies begins again with the phase that it died in: those who wait would wait for ever. */
    const supervised = Effect.catchAllCause(phases, (cause) =>
      Cause.isInterruptedOnly(cause)
        ? Effect.interrupt
        : Effect.zipRight(
            Effect.logError(
              `the monitor of ${options.clusterId} died, and is started again`,
              cause
            ),
            Effect.sleep(RESTART_PAUSE)
          )
    )

    yield* Effect.addFinalizer(() =>
      Effect.suspend(() => {
        closed = true
        return Deferred.fail(search, new TopologyClosed())
      })
    )
    yield* Effect.forkScoped(Effect.interruptible(Effect.forever(supervised)))

    const settled: Topology["settled"] = Effect.suspend(() => {
      if (closed) return Effect.fail(new TopologyClosed())
      const writer = TopologyState.confirmedWriter(current())
      if (writer !== undefined) return Effect.succeed(writer)
      return Effect.zipRight(
        dispatch({ _tag: "Needed" }),
        Effect.suspend(() => Deferred.await(search))
      )
    })

    const awaitWriter: Topology["awaitWriter"] = ({ timeout }) =>
      Effect.flatMap(Clock.currentTimeMillis, (start) => {
        const fail = (reason: FailoverFailed["reason"]) =>
          Effect.flatMap(Clock.currentTimeMillis, (now) =>
            Effect.fail(
              new FailoverFailed({
                reason,
                outcome: "NotExecuted",
                from: current().writer?.host,
                tried: tried(current()),
                elapsed: Duration.millis(now - start),
                attempts: 0,
                cause: undefined
              })
            )
          )
        return settled.pipe(
          Effect.timeoutTo({
            duration: timeout,
            onSuccess: (writer) => Effect.succeed(writer),
            onTimeout: () => fail("Timeout")
          }),
          Effect.flatten,
          Effect.catchTag("TopologyClosed", () => fail("Closed"))
        )
      })

    const refresh = Effect.flatMap(Clock.currentTimeMillis, (now) =>
      now < confirmedAt + Duration.toMillis(options.ignoreRefresh)
        ? Effect.void
        : Effect.asVoid(Queue.offer(wake, void 0))
    )

    return {
      clusterId: options.clusterId,
      current: Effect.sync(current),
      changes: published.changes,
      awaitWriter,
      refresh,
      settled,
      reportLost: (epoch) => dispatch({ _tag: "WriterLost", epoch }),
      unsafeCurrent: current,
      unsafeOnChange: (listener) => {
        listeners.add(listener)
        return () => listeners.delete(listener)
      }
    }
  })
