/**
 * The single flight of `Failover`. Its state machine and failure table are there.
 *
 * @internal
 */
import type { Scope } from "effect"
import {
  Clock,
  Deferred,
  Duration,
  Effect,
  Exit,
  FiberId,
  FiberSet,
  Metric,
  PubSub,
  Schedule,
  Stream
} from "effect"
import { FailoverFailed } from "../Errors.js"
import type { Failover, FailoverEvent, FailoverMode, Options, Recovered } from "../Failover.js"
import type { Host } from "../Host.js"
import { isSame } from "../Host.js"
import type { RetryBudget } from "../RetryBudget.js"
import { tried } from "../Topology.js"
import type { Rejection } from "../TopologyState.js"
import { INITIAL_EPOCH } from "../TopologyState.js"

/**
 * Pauses between connection attempts to a writer that was confirmed and does not take us: from 10 ms,
 * about the time a promotion takes, doubling to 1 s.
 */
const backoff = Schedule.exponential("10 millis").pipe(
  Schedule.union(Schedule.spaced("1 second")),
  Schedule.jittered
)

const started = Metric.counter("db.failover.started", { incremental: true })
const completed = Metric.counter("db.failover.completed", { incremental: true })
const gaveUp = Metric.counter("db.failover.failed", { incremental: true })

interface Flight {
  readonly done: Deferred.Deferred<Recovered, FailoverFailed | Rejection>
}

/** Late subscribers see how the last failovers went. */
const EVENTS_REPLAYED = 16

/** @internal */
export const make = (
  options: Options & {
    readonly budget: RetryBudget
    readonly mode: FailoverMode
    readonly timeout: Duration.Duration
  }
): Effect.Effect<Failover, never, Scope.Scope> =>
  Effect.gen(function* () {
    const { topology } = options
    const { timeout } = options
    const events = yield* PubSub.unbounded<FailoverEvent>({ replay: EVENTS_REPLAYED })
    const fork = yield* FiberSet.makeRuntime<never>()
    let flight: Flight | undefined
    let lastFailure:
      { readonly epoch: number; readonly error: FailoverFailed | Rejection } | undefined
    let closed = false

    const publish = (make: (at: number) => FailoverEvent): Effect.Effect<void> =>
      Effect.flatMap(Clock.currentTimeMillis, (at) =>
        Effect.asVoid(PubSub.publish(events, make(at)))
      )

    const failed = (
      reason: FailoverFailed["reason"],
      from: Host | undefined,
      since: number,
      attempts: number,
      cause: unknown
    ): Effect.Effect<FailoverFailed> =>
      Effect.map(
        Clock.currentTimeMillis,
        (now) =>
          new FailoverFailed({
            reason,
            outcome: "NotExecuted",
            from,
            tried: tried(topology.unsafeCurrent()),
            elapsed: Duration.millis(now - since),
            attempts,
            cause
          })
      )

    const fly = (
      epoch: number,
      cause: unknown
    ): Effect.Effect<Recovered, FailoverFailed | Rejection> =>
      Effect.flatMap(Clock.currentTimeMillis, (since) => {
        const { hosts, writer: lostWriter } = topology.unsafeCurrent()
        const from = epoch === INITIAL_EPOCH ? undefined : lostWriter?.host
        const candidates = hosts
          .map((_) => _.host)
          .filter((_) => from !== undefined && !isSame(_, from))
        let lost = epoch
        let attempts = 0
        const attempt = Effect.gen(function* () {
          yield* topology.reportLost(lost)
          const writer = yield* topology.settled
          yield* publish((at) => ({ _tag: "WriterConfirmed", at, writer }))
          attempts++
          lost = writer.epoch
          yield* options.connect(writer)
          const elapsed = Duration.millis((yield* Clock.currentTimeMillis) - since)
          return { from, writer, elapsed, attempts } satisfies Recovered
        })
        const notice = publish((at) => ({ _tag: "Noticed", at, from, cause }))
        // On the first connect nobody waits for the last millisecond.
        const prepare =
          from === undefined || options.prepare === undefined
            ? Effect.void
            : options.prepare(candidates)
        const untilItHolds = Effect.retry(attempt, {
          schedule: backoff,
          while: (error) => error._tag === "SessionError"
        })
        return Effect.all([notice, prepare]).pipe(
          Effect.zipRight(untilItHolds),
          Effect.timeoutTo({
            duration: timeout,
            onSuccess: Effect.succeed<Recovered>,
            onTimeout: () =>
              Effect.flatMap(failed("Timeout", from, since, attempts, cause), Effect.fail)
          }),
          Effect.flatten,
          Effect.scoped,
          Effect.catchTags({
            TopologyClosed: () =>
              Effect.flatMap(failed("Closed", from, since, attempts, cause), Effect.fail),
            SessionError: (error) =>
              Effect.flatMap(failed("Timeout", from, since, attempts, error.cause), Effect.fail)
          })
        )
      })

    /** What is recorded before anybody who waits is told. */
    const conclude = (epoch: number, exit: Exit.Exit<Recovered, FailoverFailed | Rejection>) =>
      Effect.suspend(() => {
        flight = undefined
        if (Exit.isSuccess(exit)) {
          lastFailure = undefined
          const recovered = exit.value
          return Effect.zipRight(
            Metric.increment(completed),
            publish((at) => ({ _tag: "Connected", at, recovered }))
          )
        }
        const error = exit.cause._tag === "Fail" ? exit.cause.error : undefined
        if (error === undefined) return Effect.void
        lastFailure = { epoch, error }
        return Effect.zipRight(
          Metric.increment(gaveUp),
          publish((at) => ({ _tag: "GaveUp", at, error }))
        ).pipe(Effect.zipRight(options.abandon))
      })

    const start = (epoch: number, cause: unknown): Flight => {
      const done = Deferred.unsafeMake<Recovered, FailoverFailed | Rejection>(FiberId.none)
      const current: Flight = { done }
      flight = current
      fork(
        Effect.zipRight(Metric.increment(started), fly(epoch, cause)).pipe(
          Effect.interruptible,
          Effect.exit,
          Effect.tap((exit) => conclude(epoch, exit)),
          Effect.flatMap((exit) => Deferred.done(done, exit)),
          Effect.uninterruptible
        )
      )
      return current
    }

    const recover: Failover["recover"] = ({ cause, epoch }) =>
      Effect.flatMap(Clock.currentTimeMillis, (now) => {
        const { phase, writer } = topology.unsafeCurrent()
        if (closed)
          return Effect.flatMap(failed("Closed", writer?.host, now, 0, cause), Effect.fail)
        const isOver = phase._tag === "Calm" && writer !== undefined && writer.epoch > epoch
        if (flight === undefined && isOver && options.connectedEpoch() === writer.epoch) {
          return Effect.succeed({ from: undefined, writer, elapsed: Duration.zero, attempts: 0 })
        }
        const { done } = flight ?? start(epoch, cause)
        return Effect.useSpan(
          "db.failover",
          { kind: "client", captureStackTrace: false },
          (span) => {
            if (writer !== undefined) span.attribute("db.failover.from", writer.host.id)
            return Effect.tap(Deferred.await(done), (recovered) =>
              Effect.sync(() => {
                span.attribute("db.failover.to", recovered.writer.host.id)
                span.attribute("db.failover.epoch", recovered.writer.epoch)
                span.attribute("server.address", recovered.writer.host.host)
                span.attribute("server.port", recovered.writer.host.port)
              })
            )
          }
        )
      })

    yield* Effect.addFinalizer(() =>
      Effect.flatMap(Clock.currentTimeMillis, (now) => {
        closed = true
        const waiting = flight?.done
        if (waiting === undefined) return Effect.void
        return Effect.flatMap(
          failed("Closed", topology.unsafeCurrent().writer?.host, now, 0, undefined),
          (error) => Deferred.fail(waiting, error)
        )
      })
    )

    return {
      mode: options.mode,
      timeout,
      recover,
      failureOf: (epoch) => (lastFailure?.epoch === epoch ? lastFailure.error : undefined),
      events: Stream.fromPubSub(events),
      budget: options.budget
    }
  })
