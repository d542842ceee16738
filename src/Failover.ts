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
import type { Schedule, Scope, Stream } from "effect"
import { Context, Data, Duration, Effect } from "effect"
import { dual } from "effect/Function"
import type { SessionError } from "./Connector.js"
import type {
  ConnectionRejected,
  FailoverFailed,
  FailoverSuccess,
  RequestUnanswered,
  TransactionResolutionUnknown
} from "./Errors.js"
import type { Host } from "./Host.js"
import * as flight from "./internal/flight.js"
import * as internal from "./internal/outcomes.js"
import { aimOf } from "./internal/reading.js"
import { aimed } from "./internal/statements.js"
import * as RetryBudget from "./RetryBudget.js"
import type { Topology } from "./Topology.js"
import type { Rejection, Writer } from "./TopologyState.js"

/**
 * Which hosts statements go to, also after a failover.
 *
 * - `strict-writer`: the writer only.
 * - `reader-or-writer`: any reader; the writer while no reader can be used.
 * - `strict-reader`: readers only. The writer serves where it is the cluster's only host.
 *
 * @since 0.1.0
 * @category models
 */
export type FailoverMode = "strict-writer" | ReadMode

/**
 * The modes that read from readers.
 *
 * @since 0.1.0
 * @category models
 */
export type ReadMode = "reader-or-writer" | "strict-reader"

/**
 * @since 0.1.0
 * @category models
 */
export const modes: ReadonlyArray<FailoverMode> = [
  "strict-writer",
  "reader-or-writer",
  "strict-reader"
]

/**
 * What a read asks of its host. Whatever is left out is as the client's options say.
 *
 * @since 0.1.0
 * @category models
 */
export interface ReadOptions {
  /** Default: the client's `failoverMode`, or `reader-or-writer` if that is `strict-writer`. */
  readonly mode?: ReadMode | undefined
  /**
   * How far behind the writer a reader may be. One of which it is not known is not read from. Default: the
   * client's `maxStaleness`.
   */
  readonly maxStaleness?: Duration.DurationInput | undefined
  /** A position of the writer (`Readers.position`) that the reader must have reached. */
  readonly after?: string | undefined
  /**
   * How long a reader may take to reach it; then the writer is read from, or, in `strict-reader`, another
   * reader. Default 200 milliseconds.
   */
  readonly within?: Duration.DurationInput | undefined
}

/**
 * The AWS wrappers' 5 minutes.
 *
 * @since 0.1.0
 * @category defaults
 */
export const DEFAULT_FAILOVER_TIMEOUT = Duration.minutes(5)

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
  /** What may be run again, shared by all clients of the cluster. */
  readonly budget: RetryBudget.RetryBudget
}

/**
 * @since 0.1.0
 * @category tags
 */
export const Failover = Context.GenericTag<Failover>("effect-failover/Failover")

/**
 * What a failover needs of the client that it moves.
 *
 * @since 0.1.0
 * @category models
 */
export interface Options {
  readonly topology: Topology
  /** Shared by the clients of the cluster. Default: one of its own. */
  readonly budget?: RetryBudget.RetryBudget | undefined
  readonly mode?: FailoverMode | undefined
  readonly timeout?: Duration.Duration | undefined
  /** May open connections to the hosts that may become the writer, for the time of the flight. */
  readonly prepare?:
    ((candidates: ReadonlyArray<Host>) => Effect.Effect<void, never, Scope.Scope>) | undefined
  /** Opens a pooled connection to a confirmed writer, and verifies its role. */
  readonly connect: (writer: Writer) => Effect.Effect<void, SessionError | Rejection>
  /** The epoch that the client is connected in. */
  readonly connectedEpoch: () => number | undefined
  /** Called when a flight ended in vain, to end what still hangs on the lost host. */
  readonly abandon: Effect.Effect<void>
}

/**
 * Connects to nothing by itself. A flight is bounded by `timeout` and ends with the scope.
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = (options: Options): Effect.Effect<Failover, never, Scope.Scope> =>
  Effect.flatMap(RetryBudget.make(), (budget) =>
    flight.make({
      ...options,
      budget: options.budget ?? budget,
      mode: options.mode ?? "strict-writer",
      timeout: options.timeout ?? DEFAULT_FAILOVER_TIMEOUT
    })
  )

/**
 * An error that tells what became of the work.
 *
 * @since 0.1.0
 * @category models
 */
export type OutcomeError = FailoverSuccess | FailoverFailed | TransactionResolutionUnknown

/**
 * What else can be lifted from errors that hold a `RequestError` of an `HttpClient`.
 *
 * @since 0.1.0
 * @category models
 */
export type RequestOutcome<E> = [Extract<E, { readonly _tag: "RequestError" }>] extends [never]
  ? never
  : RequestUnanswered

/**
 * Lifts the outcomes from the cause of a `SqlError`, or of an HTTP client's `RequestError`, into the
 * typed error channel, so that
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
export const outcomes: <A, E, R>(
  self: Effect.Effect<A, E, R>
) => Effect.Effect<A, E | OutcomeError | ConnectionRejected | RequestOutcome<E>, R> =
  internal.outcomes

/**
 * Whether the work that failed with this error is known not to have happened, so that running it again
 * cannot do it twice. For `Effect.retry({ while: Failover.isSafeToRetry, schedule })`.
 *
 * `false` for a rejected connection or a configuration error too: that would be safe, and in vain.
 *
 * @since 0.1.0
 * @category combinators
 */
export const isSafeToRetry: (error: unknown) => boolean = internal.isSafeToRetry

const budgeted: ReturnType<typeof internal.make<Failover>> = internal.make(
  Effect.map(Failover, (_) => _.budget)
)

/**
 * Runs a whole transaction again, on the schedule, when it is known to be rolled back: cut off before
 * COMMIT, never begun, or ended by the server over a conflict (40001 serialization failure, 40P01 deadlock).
 * **Never** when its COMMIT is unknown. Each retry is paid from the cluster's budget.
 *
 * @example
 * ```ts
 * import { SqlClient } from "@effect/sql"
 * import { Effect, Schedule } from "effect"
 * import { Failover } from "effect-failover"
 *
 * const book = (amount: number) =>
 *   Effect.gen(function* () {
 *     const sql = yield* SqlClient.SqlClient
 *     yield* sql.withTransaction(sql`UPDATE account SET balance = balance - ${amount} WHERE id = 1`)
 *   }).pipe(
 *     Failover.retryTransaction(Schedule.exponential("20 millis").pipe(Schedule.jittered, Schedule.upTo("30 seconds")))
 *   )
 * ```
 *
 * @since 0.1.0
 * @category combinators
 */
export const retryTransaction: {
  <Out, E, R1>(
    schedule: Schedule.Schedule<Out, NoInfer<E>, R1>
  ): <A, R>(self: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R | R1 | Failover>
  <A, E, R, Out, R1>(
    self: Effect.Effect<A, E, R>,
    schedule: Schedule.Schedule<Out, NoInfer<E>, R1>
  ): Effect.Effect<A, E, R | R1 | Failover>
} = budgeted.retryTransaction

/**
 * Says that this effect, or this one statement, may be run twice: it is run again whenever the client was
 * moved under it, whatever became of it before. Each time is paid from the cluster's budget.
 *
 * @example
 * ```ts
 * import { SqlClient } from "@effect/sql"
 * import { Effect } from "effect"
 * import { Failover } from "effect-failover"
 *
 * const touch = Effect.flatMap(SqlClient.SqlClient, (sql) =>
 *   Failover.idempotent(sql`UPDATE session SET seen_at = now() WHERE id = 1`)
 * )
 * ```
 *
 * @since 0.1.0
 * @category combinators
 */
export const idempotent: <A, E, R>(
  self: Effect.Effect<A, E, R>
) => Effect.Effect<A, E, R | Failover> = budgeted.idempotent

const ANY_READER = aimOf({})

/**
 * Runs the statements of this effect on readers: each one, or a whole transaction, on the one that the
 * client's `readerHostSelector` takes. They run where nothing can be written, also if the host becomes the
 * writer meanwhile, so one that was cut off is simply run on another host. A statement that writes fails
 * with `WriteOnReader`.
 *
 * Inside of a transaction it changes nothing: a transaction stays on its host.
 *
 * @example
 * ```ts
 * import { SqlClient } from "@effect/sql"
 * import { Effect } from "effect"
 * import { Failover } from "effect-failover"
 *
 * const report = Effect.flatMap(SqlClient.SqlClient, (sql) =>
 *   sql`SELECT day, sum(amount) FROM payment GROUP BY day`
 * ).pipe(Failover.onReader({ maxStaleness: "5 seconds" }))
 * ```
 *
 * @since 0.1.0
 * @category combinators
 */
export const onReader: {
  (options?: ReadOptions): <A, E, R>(self: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R>
  <A, E, R>(self: Effect.Effect<A, E, R>, options?: ReadOptions): Effect.Effect<A, E, R>
} = dual(
  (args) => Effect.isEffect(args[0]),
  <A, E, R>(self: Effect.Effect<A, E, R>, options?: ReadOptions): Effect.Effect<A, E, R> =>
    aimed(self, options === undefined ? ANY_READER : aimOf(options))
)

/**
 * Runs the statements of this effect on the writer: within `onReader`, or with a client whose
 * `failoverMode` reads from readers.
 *
 * @since 0.1.0
 * @category combinators
 */
export const onWriter = <A, E, R>(self: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
  aimed(self, "writer")
