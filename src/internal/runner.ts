/**
 * Runs statements on the connections of the confirmed writer, and decides whether one that failed may be
 * run again or its caller must be told. The table is in `SqlFailover`.
 *
 * A connection is taken and given back where the fiber cannot be interrupted, and used in between
 * where it can: whatever happens, the pool gets it back or drops it.
 *
 * @internal
 */
import type { SqlConnection, SqlError } from "@effect/sql"
import type { Scope } from "effect"
import { Cause, Effect, Either, Stream } from "effect"
import * as CommitResolution from "../CommitResolution.js"
import type { ListenEvent, Request, Row, Session } from "../Connector.js"
import { SessionError } from "../Connector.js"
import type { Host } from "../Host.js"
import type { HostPool } from "../HostPool.js"
import type { RetryBudget } from "../RetryBudget.js"
import type { Topology } from "../Topology.js"
import type { Target } from "./connection.js"
import * as Connection from "./connection.js"
import type { Leases, Restore, Trouble } from "./leases.js"
import { noTrouble } from "./leases.js"
import type { Router } from "./router.js"
import type { Lease, Tell } from "./tell.js"
import { answered } from "./tell.js"
import { SessionTransaction } from "./sessionTransaction.js"
import type { TransactionConnection } from "./transaction.js"

/** @internal */
export interface Runner extends Target {
  /** `annotate` is told each pool that the statement is sent to. */
  readonly execute: (
    request: Request,
    annotate?: (pool: HostPool) => void
  ) => Effect.Effect<Row, SqlError.SqlError>
  /** The pool that a statement would be sent to now. */
  readonly pool: () => HostPool | undefined
  /** A connection for as long as the scope lives. */
  readonly reserve: Effect.Effect<SqlConnection.Connection, SqlError.SqlError, Scope.Scope>
  /** A connection on which BEGIN has been answered. The caller owes a `release`. */
  readonly begin: (
    owner: symbol,
    sql: string,
    restore: Restore
  ) => Effect.Effect<TransactionConnection, SqlError.SqlError>
  /**
   * On a connection of its own, opened by `open` and given up with the stream. It goes over to the new
   * writer, and says so once it listens there.
   */
  readonly notifications: (
    listen: string,
    open: (host: Host) => Effect.Effect<Session, SessionError>
  ) => Stream.Stream<ListenEvent, SqlError.SqlError>
}

/** @internal */
export const make = (options: {
  readonly topology: Topology
  readonly router: Router
  readonly leases: Leases
  readonly tell: Tell
  readonly budget: RetryBudget
  readonly resolution: CommitResolution.CommitResolution | undefined
  readonly isWriter: (session: Session) => Effect.Effect<boolean, SessionError>
}): Runner => {
  const { budget, leases, resolution, router, tell, topology } = options
  const services = { leases, tell }

  /** A server that refused to write: is it the writer? One that cannot say is treated as if it were not. */
  const isStillWriter = (pool: HostPool): Effect.Effect<boolean> =>
    Effect.uninterruptibleMask((restore) =>
      // The caller may leave while a connection is waited for, too.
      Effect.flatMap(restore(pool.take), (session) =>
        Effect.ensuring(
          restore(options.isWriter(session)),
          Effect.sync(() => pool.give(session))
        )
      )
    ).pipe(Effect.orElseSucceed(() => false))

  /** Outside a transaction: returns if the statement may simply be run again. */
  const afterFailure = (
    lease: Lease,
    error: SessionError,
    trouble: Trouble
  ): Effect.Effect<void, SqlError.SqlError> => {
    const { pool } = lease
    const { cause } = error
    switch (error.fate) {
      case "NotSent":
        return leases.again(trouble, pool.host, cause)
      case "Unanswered":
        return tell.verdict(error) === "Timeout"
          ? tell.timedOut(lease, cause, "Unknown")
          : tell.failoverSuccess(lease, true, cause)
      case "Answered":
        switch (tell.verdict(error)) {
          case "ConnectionLost":
            return tell.failoverSuccess(lease, true, cause)
          case "ReadOnly":
            return Effect.flatMap(isStillWriter(pool), (isWriter) =>
              isWriter
                ? Effect.fail(answered(cause))
                : Effect.zipRight(
                    leases.again(trouble, pool.host, cause),
                    leases.move(pool.epoch, cause)
                  )
            )
          default:
            return Effect.fail(answered(cause))
        }
    }
  }

  /** Uses a connection and gives it back. */
  const use = <A>(
    lease: Lease,
    restore: Restore,
    work: (lease: Lease) => Effect.Effect<A, SessionError>
  ): Effect.Effect<Either.Either<A, SessionError>> =>
    Effect.ensuring(
      Effect.either(restore(work(lease))),
      Effect.sync(() => lease.pool.give(lease.session))
    )

  /** Runs the request, and runs it again for as long as it is known not to have been executed. */
  const persist = (
    request: Request,
    annotate: ((pool: HostPool) => void) | undefined,
    trouble: Trouble,
    failed: { readonly lease: Lease; readonly error: SessionError } | undefined
  ): Effect.Effect<Row, SqlError.SqlError> =>
    Effect.uninterruptibleMask((restore) => {
      const ready =
        failed === undefined
          ? Effect.void
          : restore(afterFailure(failed.lease, failed.error, trouble))
      return Effect.flatMap(Effect.zipRight(ready, leases.acquire(restore, trouble)), (lease) =>
        Effect.flatMap(
          use(lease, restore, ({ pool, session }) => {
            annotate?.(pool)
            return session.execute(request)
          }),
          (result) =>
            Either.isRight(result)
              ? Effect.succeed(result.right)
              : restore(persist(request, annotate, trouble, { lease, error: result.left }))
        )
      )
    })

  /**
   * The path that every statement takes while all is well: one asynchronous step, in which the connection
   * is taken, used and given back.
   */
  const execute: Runner["execute"] = (request, annotate) =>
    Effect.async((resume) => {
      budget.unsafeDeposit()
      const pool = router.ready()
      const session = pool?.unsafeTake()
      if (pool === undefined || session === undefined) {
        return resume(persist(request, annotate, noTrouble(), undefined))
      }
      if (session.submit === undefined) {
        pool.give(session)
        return resume(persist(request, annotate, noTrouble(), undefined))
      }
      annotate?.(pool)
      let done = false
      const cancel = session.submit(request, (error, result) => {
        done = true
        pool.give(session)
        resume(
          error === undefined
            ? Effect.succeed(result)
            : persist(request, annotate, noTrouble(), { lease: { pool, session }, error })
        )
      })
      return Effect.sync(() => {
        if (done) return
        cancel()
        pool.give(session)
      })
    })

  const stream: Runner["stream"] = (request) =>
    Stream.unwrapScoped(
      Effect.map(leases.scoped, (lease) =>
        Stream.catchAll(lease.session.stream(request), (error) =>
          error.fate === "NotSent" ? stream(request) : Stream.fromEffect(tell.held(lease, error))
        )
      )
    )

  /** A transaction of which only BEGIN may have run has done nothing: it begins again elsewhere. */
  const beginFailed = (
    lease: Lease,
    error: SessionError,
    trouble: Trouble
  ): Effect.Effect<void, SqlError.SqlError> => {
    const { pool, session } = lease
    if (error.fate === "Answered") return Effect.fail(answered(error.cause))
    session.destroy()
    if (tell.verdict(error) === "Timeout") return tell.timedOut(lease, error.cause, "RolledBack")
    return Effect.zipRight(
      leases.again(trouble, pool.host, error.cause),
      error.fate === "NotSent" ? Effect.void : leases.move(pool.epoch, error.cause)
    )
  }

  /** To be called where it cannot be interrupted. */
  const beginOn = (
    sql: string,
    restore: Restore,
    lease: Lease,
    trouble: Trouble
  ): Effect.Effect<Lease, SqlError.SqlError> =>
    Effect.matchCauseEffect(restore(lease.session.execute({ sql, params: [], shape: "command" })), {
      onSuccess: () => Effect.succeed(lease),
      onFailure: (cause) => {
        // BEGIN may have been answered in the very moment of the interruption: nobody would end it.
        if (Cause.isInterrupted(cause)) lease.session.destroy()
        lease.pool.give(lease.session)
        return Either.match(Cause.failureOrCause(cause), {
          onRight: Effect.failCause,
          onLeft: (error) =>
            Effect.zipRight(
              restore(beginFailed(lease, error, trouble)),
              Effect.flatMap(leases.acquire(restore, trouble), (next) =>
                beginOn(sql, restore, next, trouble)
              )
            )
        })
      }
    })

  const begin: Runner["begin"] = (owner, sql, restore) =>
    Effect.suspend(() => {
      const pool = router.ready()
      const session = pool?.unsafeTake()
      const trouble = noTrouble()
      budget.unsafeDeposit()
      const begun =
        pool !== undefined && session !== undefined
          ? beginOn(sql, restore, { pool, session }, trouble)
          : Effect.flatMap(leases.acquire(restore, trouble), (lease) =>
              beginOn(sql, restore, lease, trouble)
            )
      const found =
        resolution !== undefined && sql.includes(" READ ONLY")
          ? CommitResolution.readOnly
          : resolution
      return Effect.map(begun, (lease) => new SessionTransaction(lease, owner, services, found))
    })

  /** A connection of its own to the writer, outside the pool. */
  const openOutside = (
    open: (host: Host) => Effect.Effect<Session, SessionError>,
    trouble: Trouble
  ): Effect.Effect<Lease, SqlError.SqlError, Scope.Scope> =>
    Effect.flatMap(leases.writer, (pool) =>
      Effect.uninterruptibleMask((restore) =>
        Effect.tap(restore(open(pool.host)), (session) =>
          Effect.addFinalizer(() => Effect.sync(() => session.destroy()))
        )
      ).pipe(
        Effect.map((session) => ({ pool, session })),
        Effect.catchAll((error) =>
          Effect.zipRight(leases.refused(pool, error, trouble), openOutside(open, trouble))
        )
      )
    )

  return {
    execute,
    stream,
    pool: router.ready,
    reserve: Effect.map(leases.scoped, (lease) =>
      Connection.onSession(lease.session, (error) => tell.held(lease, error))
    ),
    begin,
    notifications: (listen, open) => listening(listen, open, false)
  }

  function listening(
    listen: string,
    open: (host: Host) => Effect.Effect<Session, SessionError>,
    moved: boolean
  ): Stream.Stream<ListenEvent, SqlError.SqlError> {
    const movedFrom = (lease: Lease, error: SessionError) =>
      error.fate === "Answered"
        ? Stream.fail(answered(error.cause))
        : Stream.unwrap(
            Effect.as(leases.move(lease.pool.epoch, error.cause), listening(listen, open, true))
          )
    return Stream.unwrapScoped(
      Effect.map(openOutside(open, noTrouble()), (lease) => {
        const heard = Stream.map(lease.session.notifications, (_): ListenEvent => ({
          _tag: "Notification",
          ..._
        }))
        // It listens only once LISTEN is answered, but hears from before that: nothing slips through.
        const listens = Effect.as(
          lease.session.execute({ sql: listen, params: [], shape: "command" }),
          moved ? Stream.succeed<ListenEvent>({ _tag: "Moved", to: lease.pool.host }) : Stream.empty
        )
        // Outside the pool, nobody cuts this connection when the writer moves: a silent host would keep it.
        const replaced = topology.changes.pipe(
          Stream.filter((state) => state.phase._tag === "Calm" && state.epoch > lease.pool.epoch),
          Stream.take(1),
          Stream.flatMap(() => {
            const cause = new Error(`${lease.pool.host.id} is not the writer any more`)
            return Stream.fail(new SessionError({ cause, fate: "Unanswered" }))
          })
        )
        return Stream.mergeAll([heard, Stream.unwrap(listens), replaced], {
          concurrency: "unbounded"
        }).pipe(Stream.catchAll((error) => movedFrom(lease, error)))
      })
    )
  }
}
