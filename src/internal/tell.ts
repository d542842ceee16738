/**
 * What a caller is told of work that was cut off: first the client is moved, then the caller hears where
 * to, and what became of the work.
 *
 * @internal
 */
import { SqlError } from "@effect/sql"
import { Clock, Duration, Effect } from "effect"
import type { Session } from "../Connector.js"
import { NoAnswer, SessionError } from "../Connector.js"
import type { ErrorClassifier, Verdict } from "../ErrorClassifier.js"
import * as Classifier from "../ErrorClassifier.js"
import type { Outcome } from "../Errors.js"
import {
  FailoverFailed,
  FailoverSuccess,
  StatementTimeout,
  TransactionResolutionUnknown
} from "../Errors.js"
import type { Failover, Recovered } from "../Failover.js"
import type { Host } from "../Host.js"
import type { HostPool } from "../HostPool.js"
import type { Topology } from "../Topology.js"
import { tried } from "../Topology.js"
import type { Rejection } from "../TopologyState.js"

/** A connection out of the pool. @internal */
export interface Lease {
  readonly pool: HostPool
  readonly session: Session
}

/** @internal */
export interface Moved {
  readonly recovered: Recovered
  /** Since the work was cut off. */
  readonly elapsed: Duration.Duration
}

/** @internal */
export interface Tell {
  readonly verdict: (error: SessionError) => Verdict["_tag"]
  /** The client moves; the statement may have been executed if it was sent. */
  readonly failoverSuccess: (
    lease: Lease,
    sent: boolean,
    cause: unknown
  ) => Effect.Effect<never, SqlError.SqlError>
  /** The client moves, or the caller hears that it could not, and what became of its work. */
  readonly move: (
    lease: Lease,
    cause: unknown,
    outcome: Outcome
  ) => Effect.Effect<Moved, SqlError.SqlError>
  /** The transaction is gone, or its COMMIT is unknown. */
  readonly transactionLost: (
    lease: Lease,
    moved: Moved,
    outcome: "RolledBack" | "Unknown",
    sent: boolean,
    cause: unknown
  ) => SqlError.SqlError
  /** The client stays, and its writer is looked at. */
  readonly timedOut: (
    lease: Lease,
    cause: unknown,
    outcome: Outcome
  ) => Effect.Effect<never, SqlError.SqlError>
  /** What a caller is told who holds on to one connection: nothing can be moved quietly any more. */
  readonly held: (lease: Lease, error: SessionError) => Effect.Effect<never, SqlError.SqlError>
}

/** An error of ours as the cause of a `SqlError`. @internal */
export const sqlError = (cause: Error): SqlError.SqlError =>
  new SqlError.SqlError({ cause, message: cause.message })

/** The server's own answer, as raw as the adapters pass it on. @internal */
export const answered = (cause: unknown): SqlError.SqlError =>
  new SqlError.SqlError({ cause, message: "Failed to execute statement" })

/** @internal */
export const silentSetUp = (host: Host, timeout: Duration.Duration): SessionError =>
  new SessionError({
    cause: new Error(
      `${host.id} did not finish the session set-up within ${Duration.toMillis(timeout)} ms`
    ),
    fate: "NotSent"
  })

/** @internal */
export const make = (options: {
  readonly topology: Topology
  readonly failover: Failover
  readonly classifier: ErrorClassifier
}): Tell => {
  const { classifier, failover, topology } = options

  /** The failover's own end, told for this piece of work: a rejection alone would say that nothing was executed. */
  const inVain = (
    error: FailoverFailed | Rejection,
    outcome: Outcome,
    from: Host,
    elapsed: Duration.Duration
  ): FailoverFailed =>
    error._tag === "FailoverFailed"
      ? new FailoverFailed({
          reason: error.reason,
          outcome,
          from,
          tried: error.tried,
          elapsed: error.elapsed,
          attempts: error.attempts,
          cause: error.cause
        })
      : new FailoverFailed({
          reason: "Rejected",
          outcome,
          from,
          tried: tried(topology.unsafeCurrent()),
          elapsed,
          attempts: 0,
          cause: error
        })

  const move: Tell["move"] = (lease, cause, outcome) =>
    Effect.gen(function* () {
      lease.session.destroy()
      const { epoch, host } = lease.pool
      const since = yield* Clock.currentTimeMillis
      const elapsed = Effect.map(Clock.currentTimeMillis, (now) => Duration.millis(now - since))
      // Cut because a failover ended in vain: that was this outage's failover.
      const failure = lease.pool.isCut() ? failover.failureOf(epoch) : undefined
      const recovered = yield* Effect.catchAll(
        failure === undefined ? failover.recover({ epoch, cause }) : Effect.fail(failure),
        (error) =>
          Effect.flatMap(elapsed, (elapsed) =>
            Effect.fail(sqlError(inVain(error, outcome, host, elapsed)))
          )
      )
      return { recovered, elapsed: yield* elapsed }
    })

  /** What all outcomes say of the move. */
  const told = ({ pool }: Lease, { elapsed, recovered }: Moved) => ({
    from: pool.host,
    to: recovered.writer.host,
    role: "writer" as const,
    epoch: recovered.writer.epoch,
    elapsed,
    attempts: recovered.attempts
  })

  const failoverSuccess: Tell["failoverSuccess"] = (lease, sent, cause) =>
    Effect.flatMap(move(lease, cause, sent ? "Unknown" : "NotExecuted"), (moved) =>
      Effect.fail(sqlError(new FailoverSuccess({ ...told(lease, moved), sent, cause })))
    )

  const transactionLost: Tell["transactionLost"] = (lease, moved, outcome, sent, cause) =>
    sqlError(new TransactionResolutionUnknown({ ...told(lease, moved), outcome, sent, cause }))

  const timedOut: Tell["timedOut"] = ({ pool }, cause, outcome) =>
    Effect.zipRight(
      topology.refresh,
      Effect.fail(
        sqlError(
          new StatementTimeout({
            host: pool.host,
            timeout: cause instanceof NoAnswer ? cause.timeout : Duration.zero,
            outcome
          })
        )
      )
    )

  const verdict: Tell["verdict"] = (error) => Classifier.classify(classifier, error.cause)._tag

  return {
    verdict,
    move,
    failoverSuccess,
    transactionLost,
    timedOut,
    held: (lease, error) =>
      error.fate === "Answered"
        ? Effect.fail(answered(error.cause))
        : error.fate === "Unanswered" && verdict(error) === "Timeout"
          ? timedOut(lease, error.cause, "Unknown")
          : failoverSuccess(lease, error.fate === "Unanswered", error.cause)
  }
}
