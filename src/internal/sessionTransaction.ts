/**
 * A transaction on the session that it runs on: what its statements and its COMMIT mean when they fail.
 * The table is in `transaction.ts`.
 *
 * @internal
 */
import type { SqlError } from "@effect/sql"
import { Duration, Effect, Random, Stream } from "effect"
import type { CommitResolution, Resolution, Resolve } from "../CommitResolution.js"
import { SessionError } from "../Connector.js"
import * as Classifier from "../ErrorClassifier.js"
import { query } from "../SqlTopologySource.js"
import type { Topology } from "../Topology.js"
import * as Connection from "./connection.js"
import type { Leases } from "./leases.js"
import type { Lease, Tell } from "./tell.js"
import { answered } from "./tell.js"
import type { TransactionConnection } from "./transaction.js"

/** A COMMIT that is still under way when this is over stays unknown. */
const RESOLVE_TIMEOUT = Duration.seconds(10)

const RESOLVE_PAUSE_MILLIS = 20

/** A statement has failed in it, so the server answers its COMMIT with ROLLBACK. */
const IN_FAILED_TRANSACTION = "25P02"

/** @internal */
export const make = (options: {
  readonly lease: Lease
  readonly owner: symbol
  readonly topology: Topology
  readonly leases: Leases
  readonly tell: Tell
  readonly resolution: CommitResolution | undefined
}): TransactionConnection => {
  const { lease, leases, resolution, tell, topology } = options
  const { session } = lease
  let lost: SqlError.SqlError | undefined

  const lose = (error: SqlError.SqlError) => Effect.sync(() => (lost ??= error))

  const whenNotLost = <A>(effect: Effect.Effect<A, SqlError.SqlError>) =>
    Effect.suspend(() => (lost === undefined ? effect : Effect.fail(lost)))

  const isAnswer = (error: SessionError) =>
    error.fate === "Answered" && tell.verdict(error) !== "ConnectionLost"

  const refused = (error: SessionError): Effect.Effect<never, SqlError.SqlError> =>
    Effect.zipRight(
      tell.verdict(error) === "ReadOnly" ? topology.refresh : Effect.void,
      Effect.fail(answered(error.cause))
    )

  /** COMMIT was not sent: whatever failed, the transaction is rolled back with its connection. */
  const failed = (error: SessionError): Effect.Effect<never, SqlError.SqlError> => {
    if (lost !== undefined) return Effect.fail(lost)
    if (isAnswer(error)) return refused(error)
    const sent = error.fate !== "NotSent"
    return Effect.tapError(
      sent && tell.verdict(error) === "Timeout"
        ? tell.timedOut(lease, error.cause, "RolledBack")
        : Effect.flatMap(tell.move(lease, error.cause, "RolledBack"), (moved) =>
            Effect.fail(tell.transactionLost(lease, moved, "RolledBack", sent, error.cause))
          ),
      lose
    )
  }

  const target = Connection.onSession(session, failed)
  const { inTurn } = target

  /** Asks the new writer for as long as its answer is that the server is still at it. */
  const resolved = (resolve: Resolve): Effect.Effect<Resolution> => {
    const ask = Effect.scoped(
      Effect.flatMap(leases.scoped, (lease) =>
        Effect.catchAll(resolve(query(lease.session)), (error) =>
          // Refused: this server cannot tell. Lost: another one may.
          Effect.succeed<Resolution>(error.fate === "Answered" ? "Unknown" : "InProgress")
        )
      )
    )
    const pause = Effect.flatMap(Random.nextRange(0.5, 1.5), (factor) =>
      Effect.sleep(RESOLVE_PAUSE_MILLIS * factor)
    )
    return ask.pipe(
      Effect.flatMap((answer) =>
        answer === "InProgress"
          ? Effect.zipRight(pause, Effect.fail(answer))
          : Effect.succeed(answer)
      ),
      Effect.retry({ while: (error) => error === "InProgress" }),
      Effect.timeoutTo({
        duration: RESOLVE_TIMEOUT,
        onSuccess: (answer): Resolution => answer,
        onTimeout: (): Resolution => "Unknown"
      }),
      Effect.orElseSucceed((): Resolution => "Unknown")
    )
  }

  /** COMMIT may have been sent: its outcome is unknown, unless it can be found out. */
  const commitFailed =
    (resolve: Resolve | undefined) =>
    (error: SessionError): Effect.Effect<string, SqlError.SqlError> => {
      if (error.fate === "NotSent") return failed(error)
      if (isAnswer(error)) return refused(error)
      const isTimeout = tell.verdict(error) === "Timeout"
      if (resolve === undefined && isTimeout) {
        return Effect.tapError(tell.timedOut(lease, error.cause, "Unknown"), lose)
      }
      return Effect.flatMap(tell.move(lease, error.cause, "Unknown"), (moved) =>
        Effect.flatMap(
          resolve === undefined ? Effect.succeed("Unknown" as const) : resolved(resolve),
          (resolution) =>
            resolution === "Committed"
              ? Effect.succeed("COMMIT")
              : Effect.fail(
                  tell.transactionLost(
                    lease,
                    moved,
                    resolution === "RolledBack" ? "RolledBack" : "Unknown",
                    true,
                    error.cause
                  )
                )
        )
      ).pipe(Effect.tapError(lose))
    }

  const commitWith = (resolve: Resolve | undefined) =>
    Effect.catchAll(inTurn(session.command("COMMIT")), commitFailed(resolve))

  const mark = (
    resolution: CommitResolution
  ): Effect.Effect<Resolve | undefined, SqlError.SqlError> =>
    Effect.catchAll(inTurn(resolution.mark(query(session))), (error) =>
      isAnswer(error) && Classifier.sqlState(error.cause) === IN_FAILED_TRANSACTION
        ? Effect.succeed(undefined)
        : // COMMIT will not be sent: the transaction ends with its connection.
          Effect.zipRight(
            Effect.sync(() => session.destroy()),
            failed(error)
          )
    )

  return {
    ...Connection.make({
      execute: (request) => whenNotLost(target.execute(request)),
      stream: (request) => Stream.unwrap(whenNotLost(Effect.succeed(target.stream(request))))
    }),
    owner: options.owner,
    pool: lease.pool,
    lost: () => lost,
    isAlive: () => lost === undefined && session.isOpen(),
    rollback: (sql) => inTurn(session.command(sql)),
    ended: Effect.suspend(() => {
      const cause = new Error("the connection ended before ROLLBACK was answered")
      return failed(new SessionError({ cause, fate: "Unanswered" }))
    }),
    abort: Effect.sync(() => session.destroy()),
    release: Effect.sync(() => lease.pool.give(session)),
    savepoint: (sql) => whenNotLost(Effect.catchAll(inTurn(session.command(sql)), failed)),
    commit: whenNotLost(
      resolution === undefined
        ? commitWith(undefined)
        : Effect.flatMap(mark(resolution), commitWith)
    )
  }
}
