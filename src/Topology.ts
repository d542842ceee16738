/**
 * Watches a cluster: one scoped fiber, a cache that everybody reads, and two rates.
 *
 * In calm, one connection to the writer and one question per `refreshRate`. In a search, one fiber
 * and one connection per host, each asking at `highRefreshRate`; where the source can park a
 * question on the server (`Watch.pause`), a promotion is heard within milliseconds.
 *
 * | what fails | what happens |
 * |---|---|
 * | nothing was asked yet, every host is down | nothing: the first `settled` starts the search |
 * | the watched writer's connection ends | it is asked again at once on a new connection; if that fails too, a search starts |
 * | the writer does not answer within `probeTimeout` | likewise |
 * | a client reports a lost connection of the present epoch | a search starts |
 * | ... of an older epoch, or during a search | nothing: one outage is one search |
 * | no host lets us in, at least one rejects us for good | whoever waits gets the rejection; the next one to ask searches again |
 * | the scope closes | whoever waits gets `TopologyClosed` |
 *
 * @since 0.1.0
 */
import type { Stream } from "effect"
import {
  Clock,
  Context,
  Data,
  Deferred,
  Duration,
  Effect,
  Exit,
  FiberId,
  FiberMap,
  MutableRef,
  Queue,
  Random,
  Scope,
  SubscriptionRef
} from "effect"
import { FailoverFailed } from "./Errors.js"
import * as Host from "./Host.js"
import * as TopologyState from "./TopologyState.js"
import type { Observation, Phase, Rejection, Writer } from "./TopologyState.js"

/**
 * How often the writer is asked when all is well: the AWS wrappers' 30 s.
 *
 * @since 0.1.0
 * @category defaults
 */
export const DEFAULT_REFRESH_RATE = Duration.seconds(30)

/**
 * How often each host is asked in a search, and the writer after a failover: the AWS wrappers' 100 ms.
 *
 * @since 0.1.0
 * @category defaults
 */
export const DEFAULT_HIGH_REFRESH_RATE = Duration.millis(100)

/**
 * How long opening a monitoring connection, and one question on it, may take: the AWS wrappers' 5 s.
 *
 * @since 0.1.0
 * @category defaults
 */
export const DEFAULT_PROBE_TIMEOUT = Duration.seconds(5)

/** Delays vary by a tenth, so that many clients do not ask in step. */
const JITTER = 0.1

/**
 * A host could not be asked. With `rejection`, asking it again will not help.
 *
 * @since 0.1.0
 * @category errors
 */
export class SourceError extends Data.TaggedError("SourceError")<{
  readonly description: string
  readonly rejection: Rejection | undefined
  readonly cause: unknown
}> {}

/**
 * The topology's scope was closed while somebody waited for a writer.
 *
 * @since 0.1.0
 * @category errors
 */
export class TopologyClosed extends Data.TaggedError("TopologyClosed")<{}> {}

/**
 * An open line to one host.
 *
 * @since 0.1.0
 * @category models
 */
export interface Watch {
  /** Asks for role, epoch and members. */
  readonly ask: Effect.Effect<Observation, SourceError>
  /**
   * Waits for at most this long, less if the host's answer may have changed. A source that cannot tell
   * simply sleeps.
   */
  readonly pause: (atMost: Duration.Duration) => Effect.Effect<void>
  /** Ends when the line breaks by itself. */
  readonly closed: Effect.Effect<void>
}

/**
 * How hosts are asked: everything that the topology needs to know of a database.
 *
 * @since 0.1.0
 * @category models
 */
export interface TopologySource {
  readonly watch: (host: Host.Host) => Effect.Effect<Watch, SourceError, Scope.Scope>
}

/**
 * @since 0.1.0
 * @category models
 */
export interface Options extends Partial<TopologyState.Settings> {
  readonly clusterId: string
  readonly seeds: ReadonlyArray<Host.Host>
  readonly source: TopologySource
  readonly refreshRate?: Duration.Duration | undefined
  readonly highRefreshRate?: Duration.Duration | undefined
  readonly probeTimeout?: Duration.Duration | undefined
}

/**
 * @since 0.1.0
 * @category models
 */
export interface Topology {
  readonly clusterId: string
  /** What is known now. Never waits. */
  readonly current: Effect.Effect<TopologyState.TopologyState>
  /** What is known now and every change of phase, epoch, and of a host's role or availability. */
  readonly changes: Stream.Stream<TopologyState.TopologyState>
  /**
   * The confirmed writer; searches for it where there is none.
   *
   * Fails with `FailoverFailed` after `timeout`, or with the rejection if no host lets us in.
   */
  readonly awaitWriter: (options: {
    readonly timeout: Duration.DurationInput
  }) => Effect.Effect<Writer, FailoverFailed | Rejection>
  /** Asks the writer now instead of at the next turn. */
  readonly refresh: Effect.Effect<void>
  /** The confirmed writer, however long it takes. For those who keep their own deadline. */
  readonly settled: Effect.Effect<Writer, Rejection | TopologyClosed>
  /** A connection of this epoch failed. Starts a search, unless the epoch is over or one is under way. */
  readonly reportLost: (epoch: number) => Effect.Effect<void>
  /** `current`, without an Effect: for the path that every statement takes. */
  readonly unsafeCurrent: () => TopologyState.TopologyState
}

/**
 * @since 0.1.0
 * @category tags
 */
export const Topology = Context.GenericTag<Topology>("effect-failover/Topology")

/**
 * What was tried in the present search, for an error.
 *
 * @since 0.1.0
 * @category getters
 */
export const tried = (state: TopologyState.TopologyState): FailoverFailed["tried"] =>
  state.hosts
    .filter((_) => _.failures > 0 || _.availability !== "unknown")
    .map((_) => ({
      host: _.host,
      attempts: Math.max(_.failures, 1),
      lastError: _.lastError ?? `answers as ${_.role}`
    }))

/** An open line and the scope that it lives in. */
interface Line {
  readonly watch: Watch
  readonly scope: Scope.CloseableScope
}

const closeLine = (line: Line): Effect.Effect<void> => Scope.close(line.scope, Exit.void)

/**
 * Starts nothing but one waiting fiber: the first connection is made when somebody first needs a
 * writer. Everything ends with the scope.
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = (options: Options): Effect.Effect<Topology, never, Scope.Scope> =>
  Effect.gen(function* () {
    const refreshRate = options.refreshRate ?? DEFAULT_REFRESH_RATE
    const highRefreshRate = options.highRefreshRate ?? DEFAULT_HIGH_REFRESH_RATE
    const probeTimeout = options.probeTimeout ?? DEFAULT_PROBE_TIMEOUT
    const settings: TopologyState.Settings = {
      reelectionGrace: options.reelectionGrace ?? TopologyState.DEFAULT_REELECTION_GRACE,
      highRatePeriod: options.highRatePeriod ?? TopologyState.DEFAULT_HIGH_RATE_PERIOD
    }

    const state = MutableRef.make(TopologyState.initial(options))
    const published = yield* SubscriptionRef.make(MutableRef.get(state))
    /** Ends with the present search. */
    let search = yield* Deferred.make<Writer, Rejection | TopologyClosed>()
    /** Ends with the present phase. */
    let phaseEnd = yield* Deferred.make<void>()
    const wake = yield* Queue.sliding<void>(1)
    let closed = false

    /** The state changes and everybody who waits for the change is woken in one step. */
    const dispatch = (event: TopologyState.Event): Effect.Effect<void> =>
      Effect.uninterruptible(
        Effect.flatMap(Clock.currentTimeMillis, (now) => {
          const before = MutableRef.get(state)
          const after = TopologyState.reduce(before, event, now, settings)
          if (after === before) return Effect.void
          MutableRef.set(state, after)
          const publish = TopologyState.isSameView(before, after)
            ? Effect.void
            : SubscriptionRef.set(published, after)
          return before.phase._tag === after.phase._tag
            ? publish
            : Effect.zipRight(endPhase(after), publish)
        })
      )

    const endPhase = (after: TopologyState.TopologyState): Effect.Effect<void> =>
      Effect.suspend(() => {
        const ended = phaseEnd
        const finished = search
        phaseEnd = Deferred.unsafeMake(FiberId.none)
        const phase = after.phase
        switch (phase._tag) {
          case "Searching":
            search = Deferred.unsafeMake(FiberId.none)
            break
          case "Calm":
            if (after.writer !== undefined)
              Deferred.unsafeDone(finished, Exit.succeed(after.writer))
            break
          case "Idle":
            if (phase.rejection !== undefined) {
              Deferred.unsafeDone(finished, Exit.fail(phase.rejection))
            }
            break
        }
        return Deferred.succeed(ended, void 0)
      })

    const openLine = (host: Host.Host): Effect.Effect<Line, SourceError> =>
      Effect.uninterruptibleMask((restore) =>
        Effect.flatMap(Scope.make(), (scope) =>
          restore(
            options.source
              .watch(host)
              .pipe(
                Scope.extend(scope),
                Effect.timeoutFail({ duration: probeTimeout, onTimeout: () => silent("connect") })
              )
          ).pipe(
            Effect.map((watch) => ({ watch, scope })),
            Effect.onError((cause) => Scope.close(scope, Exit.failCause(cause)))
          )
        )
      )

    const silent = (what: string) =>
      new SourceError({
        description: `no answer to ${what} within ${Duration.toMillis(probeTimeout)} ms`,
        rejection: undefined,
        cause: undefined
      })

    const ask = (line: Line): Effect.Effect<Observation, SourceError> =>
      Effect.timeoutFail(line.watch.ask, {
        duration: probeTimeout,
        onTimeout: () => silent("the topology query")
      })

    const failed = (host: Host.Host, error: SourceError): Effect.Effect<void> =>
      dispatch(
        TopologyState.Event.ProbeFailed({
          probed: host,
          error: error.description,
          rejection: error.rejection
        })
      )

    const isSearching = () => MutableRef.get(state).phase._tag === "Searching"

    const jittered = (duration: Duration.Duration): Effect.Effect<Duration.Duration> =>
      Effect.map(Random.nextRange(1 - JITTER, 1 + JITTER), (factor) =>
        Duration.times(duration, factor)
      )

    /** Asks one host again and again, until it is interrupted with the search. */
    const probe = (
      host: Host.Host,
      lines: Map<string, Line>,
      onAnswer: Effect.Effect<void>
    ): Effect.Effect<never> => {
      const pause = (watch?: Watch) =>
        Effect.flatMap(jittered(highRefreshRate), (delay) =>
          watch === undefined ? Effect.sleep(delay) : watch.pause(delay)
        )
      const askAgainAndAgain = (line: Line) =>
        ask(line).pipe(
          Effect.flatMap((observation) => dispatch(TopologyState.Event.Observed({ observation }))),
          Effect.zipRight(onAnswer),
          // The line to a confirmed writer is handed over: no question may be under way on it.
          Effect.zipRight(Effect.suspend(() => (isSearching() ? pause(line.watch) : Effect.never))),
          Effect.forever
        )
      return Effect.uninterruptibleMask((restore) =>
        restore(openLine(host)).pipe(
          Effect.tap((line) => Effect.sync(() => lines.set(Host.address(host), line))),
          Effect.flatMap((line) =>
            restore(askAgainAndAgain(line)).pipe(
              Effect.tapError(() => {
                lines.delete(Host.address(host))
                return closeLine(line)
              })
            )
          )
        )
      ).pipe(
        Effect.catchTag("SourceError", (error) => failed(host, error)),
        Effect.zipRight(onAnswer),
        Effect.zipRight(Effect.suspend(() => pause())),
        Effect.forever
      )
    }

    /** One fiber per host until the phase ends; the line to the new writer is kept. */
    const searching = (ended: Deferred.Deferred<void>): Effect.Effect<Line | undefined> => {
      const lines = new Map<string, Line>()
      return Effect.gen(function* () {
        const probes = yield* FiberMap.make<string>()
        const probeTargets: Effect.Effect<void> = Effect.suspend(() =>
          Effect.forEach(
            TopologyState.targets(MutableRef.get(state)),
            (host) =>
              FiberMap.run(probes, Host.address(host), probe(host, lines, probeTargets), {
                onlyIfMissing: true
              }),
            { discard: true }
          )
        )
        yield* probeTargets
        yield* Deferred.await(ended)
      }).pipe(
        Effect.scoped,
        Effect.onInterrupt(() => Effect.forEach(lines.values(), closeLine, { discard: true })),
        Effect.zipRight(
          Effect.suspend(() => {
            const writer = TopologyState.confirmedWriter(MutableRef.get(state))
            const kept = writer === undefined ? undefined : lines.get(Host.address(writer.probed))
            const others = [...lines.values()].filter((_) => _ !== kept)
            return Effect.as(Effect.forEach(others, closeLine, { discard: true }), kept)
          })
        )
      )
    }

    /** Asks the writer, on a new line if the present one fails. Fails when the new one does. */
    const check = (writer: Writer, lines: { current: Line | undefined }) => {
      const reopen = openLine(writer.probed).pipe(
        Effect.tap((line) => Effect.sync(() => (lines.current = line))),
        Effect.flatMap(ask)
      )
      const again = Effect.suspend(() => {
        const broken = lines.current
        lines.current = undefined
        return Effect.zipRight(broken === undefined ? Effect.void : closeLine(broken), reopen)
      })
      return lines.current === undefined
        ? reopen
        : Effect.catchTag(ask(lines.current), "SourceError", () => again)
    }

    const calm = (held: Line | undefined, ended: Deferred.Deferred<void>): Effect.Effect<void> => {
      const lines = { current: held }
      const turn = Effect.gen(function* () {
        const before = MutableRef.get(state)
        const now = yield* Clock.currentTimeMillis
        const isHigh = before.phase._tag === "Calm" && now < before.phase.highRateUntil
        const delay = yield* jittered(isHigh ? highRefreshRate : refreshRate)
        const waits = [Effect.sleep(delay), Queue.take(wake)]
        yield* Effect.raceAll(
          lines.current === undefined ? waits : [...waits, lines.current.watch.closed]
        )
        const writer = MutableRef.get(state).writer
        if (writer === undefined) return
        yield* check(writer, lines).pipe(
          Effect.flatMap((observation) => dispatch(TopologyState.Event.Observed({ observation }))),
          Effect.catchTag("SourceError", (error) =>
            Effect.zipRight(
              failed(writer.probed, error),
              dispatch(TopologyState.Event.WriterLost({ epoch: writer.epoch }))
            )
          )
        )
      })
      return Effect.raceFirst(Effect.forever(turn), Deferred.await(ended)).pipe(
        Effect.ensuring(
          Effect.suspend(() =>
            lines.current === undefined ? Effect.void : closeLine(lines.current)
          )
        )
      )
    }

    // The phase and the end of that very phase are read in one go. In between a fiber may be put aside;
    // then it would wait for the end of a phase that it never served.
    const inPhase = <A>(
      f: (tag: Phase["_tag"], ended: Deferred.Deferred<void>) => Effect.Effect<A>
    ) => Effect.suspend(() => f(MutableRef.get(state).phase._tag, phaseEnd))

    const monitor = inPhase((phase, ended) => {
      switch (phase) {
        case "Idle":
          return Deferred.await(ended)
        case "Calm":
          return calm(undefined, ended)
        case "Searching":
          return Effect.flatMap(searching(ended), (line) =>
            inPhase((phase, ended) =>
              phase === "Calm"
                ? calm(line, ended)
                : line === undefined
                  ? Effect.void
                  : closeLine(line)
            )
          )
      }
    }).pipe(Effect.forever)

    yield* Effect.addFinalizer(() =>
      Effect.suspend(() => {
        closed = true
        return Deferred.fail(search, new TopologyClosed())
      })
    )
    yield* Effect.forkScoped(Effect.interruptible(monitor))

    const settled: Topology["settled"] = Effect.suspend(() => {
      if (closed) return Effect.fail(new TopologyClosed())
      const current = MutableRef.get(state)
      const writer = TopologyState.confirmedWriter(current)
      if (writer !== undefined) return Effect.succeed(writer)
      return Effect.zipRight(
        dispatch(TopologyState.Event.Needed()),
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
                from: MutableRef.get(state).writer?.host,
                tried: tried(MutableRef.get(state)),
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

    return Topology.of({
      clusterId: options.clusterId,
      current: Effect.sync(() => MutableRef.get(state)),
      changes: published.changes,
      awaitWriter,
      refresh: Effect.asVoid(Queue.offer(wake, void 0)),
      settled,
      reportLost: (epoch) => dispatch(TopologyState.Event.WriterLost({ epoch })),
      unsafeCurrent: () => MutableRef.get(state)
    })
  })
