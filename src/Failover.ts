/**
 * The failover: from a lost connection to a usable one on the confirmed writer. One flight at a time,
 * whoever fails during it joins it.
 *
 * ```text
 *   recover(epoch lost) ──▶ report to the topology ──▶ writer confirmed ──▶ connect to it ──▶ Recovered
 *                              ▲                                              │ refused, or a reader after all
 *                              └──────────────────────────────────────────────┘
 * ```
 *
 * | when | what a caller gets |
 * |---|---|
 * | a flight for this epoch (or a newer one) is under way | the same flight's end |
 * | the epoch that was lost is over, the client is connected to the newer one | `Recovered`, at once |
 * | no writer, or none that takes us, before the deadline | `FailoverFailed`, reason `Timeout` |
 * | a host rejects us for good | the rejection, at once |
 * | the scope closes | `FailoverFailed`, reason `Closed` |
 *
 * @since 0.1.0
 */
import type { Scope } from "effect"
import {
  Clock,
  Context,
  Data,
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
import type { SessionError } from "./Connector.js"
import { ConfigurationError, ConnectionRejected, FailoverFailed } from "./Errors.js"
import type { FailoverSuccess, Outcome, TransactionResolutionUnknown } from "./Errors.js"
import type { Host } from "./Host.js"
import { isSame } from "./Host.js"
import { tried } from "./Topology.js"
import type { Topology } from "./Topology.js"
import type { Rejection, Writer } from "./TopologyState.js"

/**
 * Which hosts a failover may end on. `strict-writer`: the writer only.
 *
 * @since 0.1.0
 * @category models
 */
export type FailoverMode = "strict-writer"

/**
 * @since 0.1.0
 * @category models
 */
export const modes: ReadonlyArray<FailoverMode> = ["strict-writer"]

/**
 * The AWS wrappers' 5 minutes.
 *
 * @since 0.1.0
 * @category defaults
 */
export const DEFAULT_FAILOVER_TIMEOUT = Duration.minutes(5)

/**
 * Pauses between connection attempts to a writer that was confirmed and does not take us: from 10 ms,
 * about the time a promotion takes, doubling to 1 s.
 */
const backoff = Schedule.exponential("10 millis").pipe(
  Schedule.union(Schedule.spaced("1 second")),
  Schedule.jittered
)

/**
 * A connection to the confirmed writer is restored.
 *
 * @since 0.1.0
 * @category models
 */
export interface Recovered {
  readonly from: Host | undefined
  readonly writer: Writer
  readonly elapsed: Duration.Duration
  readonly attempts: number
}

/**
 * The stages of a failover, as they happen. `at` is the Clock's milliseconds.
 *
 * @since 0.1.0
 * @category models
 */
export type FailoverEvent = Data.TaggedEnum<{
  /** A connection to the writer failed; the search begins. `from` is undefined on the first connect. */
  Noticed: { readonly at: number; readonly from: Host | undefined; readonly cause: unknown }
  /** A host was confirmed as the writer. */
  WriterConfirmed: { readonly at: number; readonly writer: Writer }
  /** A connection to it is in the pool. */
  Connected: { readonly at: number; readonly recovered: Recovered }
  /** The deadline passed, a host rejected us, or the client was closed. */
  GaveUp: { readonly at: number; readonly error: FailoverFailed | Rejection }
}>

/**
 * @since 0.1.0
 * @category constructors
 */
export const FailoverEvent = Data.taggedEnum<FailoverEvent>()

/**
 * @since 0.1.0
 * @category models
 */
export interface Failover {
  readonly mode: FailoverMode
  readonly timeout: Duration.Duration
  /** Restores the connection that was lost in this epoch. */
  readonly recover: (loss: {
    readonly epoch: number
    readonly cause: unknown
  }) => Effect.Effect<Recovered, FailoverFailed | Rejection>
  /** How a failover of this epoch ended, if it ended in vain. */
  readonly failureOf: (epoch: number) => FailoverFailed | Rejection | undefined
  readonly events: Stream.Stream<FailoverEvent>
}

/**
 * @since 0.1.0
 * @category tags
 */
export const Failover = Context.GenericTag<Failover>("effect-failover/Failover")

const started = Metric.counter("db.failover.started", { incremental: true })
const completed = Metric.counter("db.failover.completed", { incremental: true })
const gaveUp = Metric.counter("db.failover.failed", { incremental: true })

interface Flight {
  readonly done: Deferred.Deferred<Recovered, FailoverFailed | Rejection>
}

/** Late subscribers see how the last failovers went. */
const EVENTS_REPLAYED = 16

/**
 * `prepare` may open connections to the hosts that may become the writer, for the time of the flight;
 * `connect` opens a pooled connection to a confirmed writer and verifies its role; `connectedEpoch` is
 * the epoch that the client's pool is of; `abandon` is called when a flight ended in vain, to end what
 * still hangs on the lost host.
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = (options: {
  readonly topology: Topology
  readonly mode?: FailoverMode | undefined
  readonly timeout?: Duration.Duration | undefined
  readonly prepare?:
    ((candidates: ReadonlyArray<Host>) => Effect.Effect<void, never, Scope.Scope>) | undefined
  readonly connect: (writer: Writer) => Effect.Effect<void, SessionError | Rejection>
  readonly connectedEpoch: () => number | undefined
  readonly abandon: Effect.Effect<void>
}): Effect.Effect<Failover, never, Scope.Scope> =>
  Effect.gen(function* () {
    const { topology } = options
    const timeout = options.timeout ?? DEFAULT_FAILOVER_TIMEOUT
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
        const from = lostWriter?.host
        const candidates = hosts
          .map((_) => _.host)
          .filter((_) => from !== undefined && !isSame(_, from))
        let lost = epoch
        let attempts = 0
        const attempt = Effect.gen(function* () {
          yield* topology.reportLost(lost)
          const writer = yield* topology.settled
          yield* publish((at) => FailoverEvent.WriterConfirmed({ at, writer }))
          attempts++
          lost = writer.epoch
          yield* options.connect(writer)
          const elapsed = Duration.millis((yield* Clock.currentTimeMillis) - since)
          const recovered: Recovered = { from, writer, elapsed, attempts }
          yield* publish((at) => FailoverEvent.Connected({ at, recovered }))
          return recovered
        })
        const notice = publish((at) => FailoverEvent.Noticed({ at, from, cause }))
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
          return Metric.increment(completed)
        }
        const error = exit.cause._tag === "Fail" ? exit.cause.error : undefined
        if (error === undefined) return Effect.void
        lastFailure = { epoch, error }
        return Effect.zipRight(
          Metric.increment(gaveUp),
          publish((at) => FailoverEvent.GaveUp({ at, error }))
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

    return Failover.of({
      mode: options.mode ?? "strict-writer",
      timeout,
      recover,
      failureOf: (epoch) => (lastFailure?.epoch === epoch ? lastFailure.error : undefined),
      events: Stream.fromPubSub(events)
    })
  })

/**
 * An error that tells what became of the work.
 *
 * @since 0.1.0
 * @category models
 */
export type OutcomeError = FailoverSuccess | FailoverFailed | TransactionResolutionUnknown

const outcomeTags: ReadonlySet<string> = new Set([
  "FailoverSuccess",
  "FailoverFailed",
  "TransactionResolutionUnknown"
])

const outcomeOf = (error: unknown): Outcome | undefined =>
  typeof error === "object" && error !== null && "outcome" in error
    ? (["NotExecuted", "RolledBack", "Unknown"] as const).find((_) => _ === error.outcome)
    : undefined

const causeOf = (error: unknown): unknown =>
  typeof error === "object" &&
  error !== null &&
  "_tag" in error &&
  error._tag === "SqlError" &&
  "cause" in error
    ? error.cause
    : error

const isOutcome = (u: unknown): u is OutcomeError | ConnectionRejected =>
  u instanceof ConnectionRejected ||
  (typeof u === "object" &&
    u !== null &&
    "_tag" in u &&
    typeof u._tag === "string" &&
    outcomeTags.has(u._tag))

/**
 * Lifts the outcomes from the cause of a `SqlError` into the typed error channel, so that
 * `Effect.catchTag("TransactionResolutionUnknown", ...)` works. Other errors pass untouched.
 *
 * @example
 * ```ts
 * import { SqlClient } from "@effect/sql"
 * import { Effect } from "effect"
 * import { Failover } from "effect-failover"
 *
 * const program = Effect.gen(function* () {
 *   const sql = yield* SqlClient.SqlClient
 *   return yield* sql`INSERT INTO payments ${sql.insert({ id: 1, amount: 10 })}`
 * }).pipe(
 *   Failover.outcomes,
 *   Effect.catchTag("FailoverSuccess", (error) =>
 *     Effect.logWarning(`payment 1 may or may not be stored: ${error.message}`)
 *   )
 * )
 * ```
 *
 * @since 0.1.0
 * @category combinators
 */
export const outcomes = <A, E, R>(
  self: Effect.Effect<A, E, R>
): Effect.Effect<A, E | OutcomeError | ConnectionRejected, R> =>
  Effect.mapError(self, (error): E | OutcomeError | ConnectionRejected => {
    const cause = causeOf(error)
    return isOutcome(cause) ? cause : error
  })

/**
 * Whether the work that failed with this error is known not to have happened, so that running it again
 * cannot do it twice. For `Effect.retry({ while: Failover.isSafeToRetry, schedule })`.
 *
 * `false` for a rejected connection or a configuration error too: that would be safe, and in vain.
 *
 * @since 0.1.0
 * @category combinators
 */
export const isSafeToRetry = (error: unknown): boolean => {
  const cause = causeOf(error)
  if (cause instanceof ConnectionRejected || cause instanceof ConfigurationError) return false
  const outcome = outcomeOf(cause)
  return outcome === "NotExecuted" || outcome === "RolledBack"
}
