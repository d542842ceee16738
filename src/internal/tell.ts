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
import type { Failover } from "../Failover.js"
import type { Host, Role } from "../Host.js"
import type { HostPool } from "../HostPool.js"
import type { Topology } from "../Topology.js"
import { tried } from "../Topology.js"
import type { Rejection } from "../TopologyState.js"

/** A connection out of the pool. @internal */
export interface Lease {
  readonly pool: HostPool
  readonly session: Session
}

/** Where the client is now. @internal */
export interface Moved {
  readonly to: Host
  readonly role: Role
  readonly epoch: number
  readonly attempts: number
  /** Since the work was cut off. */
  readonly elapsed: Duration.Duration
}

/** What becomes of a client whose connection was lost. @internal */
export interface Mover {
  readonly recover: (
    lease: Lease,
    cause: unknown
  ) => Effect.Effect<Omit<Moved, "elapsed">, FailoverFailed | Rejection>
  /** Has a look at a host that did not answer. */
  readonly look: (lease: Lease) => Effect.Effect<void>
  /** What a caller is told whose write was refused. */
  readonly readOnly: (lease: Lease, cause: unknown) => Effect.Effect<never, SqlError.SqlError>
}

/** @internal */
export interface Tell {
  readonly verdict: (error: SessionError) => Verdict["_tag"]
  /** The server's own answer. */
  readonly refused: (lease: Lease, error: SessionError) => Effect.Effect<never, SqlError.SqlError>
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
  /** The client stays, and its host is looked at. */
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

/**
 * The client's failover, for statements of the writer.
 *
 * @internal
 */
export const toWriter = (options: {
  readonly topology: Topology
  readonly failover: Failover
}): Mover => {
  const { failover, topology } = options
  return {
    recover: ({ pool }, cause) => {
      // Cut because a failover ended in vain: that was this outage's failover.
      const failure = pool.isCut() ? failover.failureOf(pool.epoch) : undefined
      return failure === undefined
        ? Effect.map(failover.recover({ epoch: pool.epoch, cause }), ({ attempts, writer }) => ({
            to: writer.host,
            role: "writer" as const,
            epoch: writer.epoch,
            attempts
          }))
        : Effect.fail(failure)
    },
    look: () => topology.refresh,
    readOnly: (_lease, cause) => Effect.zipRight(topology.refresh, Effect.fail(answered(cause)))
  }
}

/** @internal */
export const make = (options: {
  readonly topology: Topology
  readonly mover: Mover
  readonly classifier: ErrorClassifier
}): Tell => {
  const { classifier, mover, topology } = options

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
          role: error.role,
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
      const since = yield* Clock.currentTimeMillis
      const elapsed = Effect.map(Clock.currentTimeMillis, (now) => Duration.millis(now - since))
      const recovered = yield* Effect.catchAll(mover.recover(lease, cause), (error) =>
        Effect.flatMap(elapsed, (elapsed) =>
          Effect.fail(sqlError(inVain(error, outcome, lease.pool.host, elapsed)))
        )
      )
      return { ...recovered, elapsed: yield* elapsed }
    })

  const failoverSuccess: Tell["failoverSuccess"] = (lease, sent, cause) =>
    Effect.flatMap(move(lease, cause, sent ? "Unknown" : "NotExecuted"), (moved) =>
      Effect.fail(sqlError(new FailoverSuccess({ from: lease.pool.host, ...moved, sent, cause })))
    )

  const transactionLost: Tell["transactionLost"] = (lease, moved, outcome, sent, cause) =>
    sqlError(
      new TransactionResolutionUnknown({ from: lease.pool.host, ...moved, outcome, sent, cause })
    )

  const timedOut: Tell["timedOut"] = (lease, cause, outcome) =>
    Effect.zipRight(
      mover.look(lease),
      Effect.fail(
        sqlError(
          new StatementTimeout({
            host: lease.pool.host,
            timeout: cause instanceof NoAnswer ? cause.timeout : Duration.zero,
            outcome
          })
        )
      )
    )

  const verdict: Tell["verdict"] = (error) => Classifier.classify(classifier, error.cause)._tag

  const refused: Tell["refused"] = (lease, error) =>
    verdict(error) === "ReadOnly"
      ? mover.readOnly(lease, error.cause)
      : Effect.fail(answered(error.cause))

  return {
    verdict,
    refused,
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
