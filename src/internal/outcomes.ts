/**
 * The combinators of `Failover` that read what an error tells of the work.
 *
 * @internal
 */
import type { Schedule } from "effect"
import { Effect } from "effect"
import { dual } from "effect/Function"
import * as Classifier from "../ErrorClassifier.js"
import type {
  FailoverSuccess,
  Outcome,
  RequestUnanswered,
  TransactionResolutionUnknown,
  FailoverFailed
} from "../Errors.js"
import {
  ConfigurationError,
  ConnectionRejected,
  PoolTimeout,
  StatementTimeout,
  WriteOnReader
} from "../Errors.js"
import type { RetryBudget } from "../RetryBudget.js"

type OutcomeError = FailoverSuccess | FailoverFailed | TransactionResolutionUnknown

/** Only what fails with an HTTP client's error can carry it: users of SQL need not think of it. */
type RequestOutcome<E> = [Extract<E, { readonly _tag: "RequestError" }>] extends [never]
  ? never
  : RequestUnanswered

const outcomeTags: ReadonlySet<string> = new Set([
  "FailoverSuccess",
  "FailoverFailed",
  "RequestUnanswered",
  "TransactionResolutionUnknown"
])

/** The errors of `SqlClient` and of `HttpClient`. */
const carriers: ReadonlySet<unknown> = new Set(["SqlError", "RequestError"])

const known: ReadonlyArray<Outcome> = ["NotExecuted", "RolledBack", "Unknown"]

const isTagged = (u: unknown): u is { readonly _tag: unknown } =>
  typeof u === "object" && u !== null && "_tag" in u

/** Query builders put errors of their own in between; the bound is for cycles. */
const MAX_CAUSES = 16

/** Our error that a client's error carries, else what it carries, or the error itself. */
const unwrap = (error: unknown): unknown => {
  if (!isTagged(error) || !carriers.has(error._tag) || !("cause" in error)) return error
  let cause: unknown = error.cause
  for (let i = 0; i < MAX_CAUSES && cause instanceof Error; i++) {
    if (isOurs(cause)) return cause
    cause = cause.cause
  }
  return error.cause
}

const isOurs = (error: unknown): boolean =>
  isOutcome(error) ||
  error instanceof ConfigurationError ||
  error instanceof PoolTimeout ||
  error instanceof StatementTimeout ||
  error instanceof WriteOnReader

const isOutcome = (u: unknown): u is OutcomeError | ConnectionRejected | RequestUnanswered =>
  u instanceof ConnectionRejected ||
  (isTagged(u) && typeof u._tag === "string" && outcomeTags.has(u._tag))

/** Nothing was executed, and nothing will be. */
const isInVain = (u: unknown): boolean =>
  u instanceof ConnectionRejected || u instanceof ConfigurationError || u instanceof WriteOnReader

/** @internal */
export const outcomeOf = (error: unknown): Outcome | undefined => {
  const cause = unwrap(error)
  return typeof cause === "object" && cause !== null && "outcome" in cause
    ? known.find((_) => _ === cause.outcome)
    : undefined
}

/** @internal */
export const outcomes = <A, E, R>(
  self: Effect.Effect<A, E, R>
): Effect.Effect<A, E | OutcomeError | ConnectionRejected | RequestOutcome<E>, R> =>
  Effect.mapError(self, (error) => {
    const cause = unwrap(error)
    // A cause is untyped: that only a `RequestError` carries a `RequestUnanswered`, no type can say.
    return isOutcome(cause)
      ? (cause as OutcomeError | ConnectionRejected | RequestOutcome<E>)
      : error
  })

/** @internal */
export const isSafeToRetry = (error: unknown): boolean => {
  if (isInVain(unwrap(error))) return false
  const outcome = outcomeOf(error)
  return outcome === "NotExecuted" || outcome === "RolledBack"
}

/** The server rolled the transaction back to resolve a conflict, and says that it may be run again. */
const isConflict = (error: unknown): boolean => {
  const sqlState = Classifier.sqlState(unwrap(error))
  return sqlState === "40001" || sqlState === "40P01"
}

/** @internal */
export const isTransactionRetryable = (error: unknown): boolean =>
  isSafeToRetry(error) || (outcomeOf(error) === undefined && isConflict(error))

/** The client was moved, and works again. */
const isMoved = (error: unknown): boolean => {
  const cause = unwrap(error)
  return (
    isTagged(cause) &&
    (cause._tag === "FailoverSuccess" || cause._tag === "TransactionResolutionUnknown")
  )
}

/** Looks at the error first, so that only a retry that would be made is paid for. */
const within =
  (budget: RetryBudget, isRetryable: (error: unknown) => boolean) =>
  (error: unknown): Effect.Effect<boolean> =>
    isRetryable(error) ? budget.withdraw : Effect.succeed(false)

/** @internal */
export const make = <Id>(budget: Effect.Effect<RetryBudget, never, Id>) => {
  const retryTransaction: {
    <Out, E, R1>(
      schedule: Schedule.Schedule<Out, NoInfer<E>, R1>
    ): <A, R>(self: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R | R1 | Id>
    <A, E, R, Out, R1>(
      self: Effect.Effect<A, E, R>,
      schedule: Schedule.Schedule<Out, NoInfer<E>, R1>
    ): Effect.Effect<A, E, R | R1 | Id>
  } = dual(
    2,
    <A, E, R, Out, R1>(
      self: Effect.Effect<A, E, R>,
      schedule: Schedule.Schedule<Out, NoInfer<E>, R1>
    ): Effect.Effect<A, E, R | R1 | Id> =>
      Effect.flatMap(budget, (budget) =>
        Effect.retry(self, { schedule, while: within(budget, isTransactionRetryable) })
      )
  )

  const idempotent = <A, E, R>(self: Effect.Effect<A, E, R>): Effect.Effect<A, E, R | Id> =>
    Effect.flatMap(budget, (budget) => Effect.retry(self, { while: within(budget, isMoved) }))

  return { retryTransaction, idempotent }
}
