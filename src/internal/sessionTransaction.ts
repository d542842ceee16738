/**
 * A transaction on the session that it runs on: what its statements and its COMMIT mean when they fail.
 * The table is in `transaction.ts`.
 *
 * @internal
 */
import type { SqlError } from "@effect/sql"
import { Duration, Effect, Random, Stream } from "effect"
import type { CommitResolution, Resolution, Resolve } from "../CommitResolution.js"
import type { Request, Row } from "../Connector.js"
import { SessionError } from "../Connector.js"
import * as Classifier from "../ErrorClassifier.js"
import type { HostPool } from "../HostPool.js"
import { query } from "../SqlTopologySource.js"
import * as Connection from "./connection.js"
import type { Leases } from "./leases.js"
import type { Lease, Tell } from "./tell.js"
import type { TransactionConnection } from "./transaction.js"

/** A COMMIT that is still under way when this is over stays unknown. */
const RESOLVE_TIMEOUT = Duration.seconds(10)

const RESOLVE_PAUSE_MILLIS = 20

/** A statement has failed in it, so the server answers its COMMIT with ROLLBACK. */
const IN_FAILED_TRANSACTION = "25P02"

/** What all transactions of a client share. @internal */
export interface Services {
  readonly leases: Pick<Leases, "scoped">
  readonly tell: Tell
}

/** @internal */
export class SessionTransaction
  extends Connection.TargetConnection
  implements TransactionConnection
{
  private readonly shared: Connection.SharedSession
  private error: SqlError.SqlError | undefined

  constructor(
    private readonly lease: Lease,
    readonly owner: symbol,
    private readonly services: Services,
    private readonly resolution: CommitResolution | undefined
  ) {
    super()
    this.shared = new Connection.SharedSession(lease.session)
  }

  get pool(): HostPool {
    return this.lease.pool
  }

  lost(): SqlError.SqlError | undefined {
    return this.error
  }

  isAlive(): boolean {
    return this.error === undefined && this.lease.session.isOpen()
  }

  protected run(request: Request): Effect.Effect<Row, SqlError.SqlError> {
    return this.whenNotLost(() => this.shared.run(request, (error) => this.failed(error)))
  }

  protected runStream(request: Request): Stream.Stream<Row, SqlError.SqlError> {
    return Stream.unwrap(
      this.whenNotLost(() =>
        Effect.succeed(
          Stream.catchAll(this.lease.session.stream(request), (error) =>
            Stream.fromEffect(this.failed(error))
          )
        )
      )
    )
  }

  savepoint(sql: string): Effect.Effect<unknown, SqlError.SqlError> {
    return this.whenNotLost(() => this.shared.command(sql, (error) => this.failed(error)))
  }

  rollback(sql: string): Effect.Effect<unknown, unknown> {
    return this.shared.command(sql, Effect.fail)
  }

  get commit(): Effect.Effect<string, SqlError.SqlError> {
    const { resolution } = this
    return this.whenNotLost(() =>
      resolution === undefined
        ? this.commitWith(undefined)
        : Effect.flatMap(this.mark(resolution), (resolve) => this.commitWith(resolve))
    )
  }

  get ended(): Effect.Effect<never, SqlError.SqlError> {
    return Effect.suspend(() => {
      const cause = new Error("the connection ended before ROLLBACK was answered")
      return this.failed(new SessionError({ cause, fate: "Unanswered" }))
    })
  }

  abort(): void {
    this.lease.session.destroy()
  }

  release(): void {
    this.lease.pool.give(this.lease.session)
  }

  private whenNotLost<A>(
    effect: () => Effect.Effect<A, SqlError.SqlError>
  ): Effect.Effect<A, SqlError.SqlError> {
    return Effect.suspend(() => (this.error === undefined ? effect() : Effect.fail(this.error)))
  }

  private losing<A>(effect: Effect.Effect<A, SqlError.SqlError>) {
    return Effect.tapError(effect, (error) => Effect.sync(() => (this.error ??= error)))
  }

  private isAnswer(error: SessionError): boolean {
    return error.fate === "Answered" && this.services.tell.verdict(error) !== "ConnectionLost"
  }

  /** COMMIT was not sent: whatever failed, the transaction is rolled back with its connection. */
  private failed(error: SessionError): Effect.Effect<never, SqlError.SqlError> {
    const { lease } = this
    const { tell } = this.services
    if (this.error !== undefined) return Effect.fail(this.error)
    if (this.isAnswer(error)) return tell.refused(lease, error)
    const sent = error.fate !== "NotSent"
    return this.losing(
      sent && tell.verdict(error) === "Timeout"
        ? tell.timedOut(lease, error.cause, "RolledBack")
        : Effect.flatMap(tell.move(lease, error.cause, "RolledBack"), (moved) =>
            Effect.fail(tell.transactionLost(lease, moved, "RolledBack", sent, error.cause))
          )
    )
  }

  private commitWith(resolve: Resolve | undefined): Effect.Effect<string, SqlError.SqlError> {
    return this.shared.command("COMMIT", (error) => this.commitFailed(error, resolve))
  }

  /** COMMIT may have been sent: its outcome is unknown, unless it can be found out. */
  private commitFailed(
    error: SessionError,
    resolve: Resolve | undefined
  ): Effect.Effect<string, SqlError.SqlError> {
    const { lease } = this
    const { tell } = this.services
    if (error.fate === "NotSent") return this.failed(error)
    if (this.isAnswer(error)) return tell.refused(lease, error)
    if (resolve === undefined && tell.verdict(error) === "Timeout") {
      return this.losing(tell.timedOut(lease, error.cause, "Unknown"))
    }
    return this.losing(
      Effect.flatMap(tell.move(lease, error.cause, "Unknown"), (moved) =>
        Effect.flatMap(
          resolve === undefined ? Effect.succeed("Unknown" as const) : this.resolved(resolve),
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
      )
    )
  }

  private mark(
    resolution: CommitResolution
  ): Effect.Effect<Resolve | undefined, SqlError.SqlError> {
    return Effect.catchAll(resolution.mark(this.shared.query), (error) =>
      this.isAnswer(error) && Classifier.sqlState(error.cause) === IN_FAILED_TRANSACTION
        ? Effect.succeed(undefined)
        : // COMMIT will not be sent: the transaction ends with its connection.
          Effect.suspend(() => {
            this.abort()
            return this.failed(error)
          })
    )
  }

  /** Asks the new writer for as long as its answer is that the server is still at it. */
  private resolved(resolve: Resolve): Effect.Effect<Resolution> {
    const ask = Effect.scoped(
      Effect.flatMap(this.services.leases.scoped, (lease) =>
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
}
