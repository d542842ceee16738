/**
 * Runs statements, and decides what a caller is told when one fails. The table is in `SqlFailover`.
 *
 * A connection is taken and given back in regions that cannot be interrupted, and used in between in
 * one that can: whatever happens in between, the pool gets it back or drops it.
 *
 * @internal
 */
import { SqlError } from "@effect/sql"
import type { SqlConnection } from "@effect/sql"
import { Cause, Chunk, Clock, Duration, Effect, Exit, Random, Scope, Stream } from "effect"
import type { Notification, Request, Row, Session } from "../Connector.js"
import { NoAnswer, SessionError } from "../Connector.js"
import type { ErrorClassifier } from "../ErrorClassifier.js"
import * as Classifier from "../ErrorClassifier.js"
import type { ConnectionRejected, Outcome } from "../Errors.js"
import {
  FailoverFailed,
  FailoverSuccess,
  StatementTimeout,
  TransactionResolutionUnknown
} from "../Errors.js"
import type { Failover, Recovered } from "../Failover.js"
import type { Host } from "../Host.js"
import type { HostPool } from "../HostPool.js"
import { PoolCut } from "../HostPool.js"
import type { Topology } from "../Topology.js"
import { tried } from "../Topology.js"
import type { Rejection } from "../TopologyState.js"
import type { Router } from "./router.js"
import type { TransactionConnection } from "./transaction.js"

/** @internal */
export type TransformRows =
  (<A extends object>(rows: ReadonlyArray<A>) => ReadonlyArray<A>) | undefined

/** A connection out of the pool. @internal */
export interface Lease {
  readonly pool: HostPool
  readonly session: Session
}

/** @internal */
export interface Runner {
  /** Runs one request outside a transaction. */
  readonly execute: (request: Request) => Effect.Effect<Row, SqlError.SqlError>
  readonly stream: (request: Request) => Stream.Stream<Row, SqlError.SqlError>
  /** A connection for as long as the scope lives. */
  readonly reserve: Effect.Effect<SqlConnection.Connection, SqlError.SqlError, Scope.Scope>
  /** A connection on which BEGIN has been answered; it is given back with the scope. */
  readonly begin: (
    owner: symbol
  ) => Effect.Effect<TransactionConnection, SqlError.SqlError, Scope.Scope>
  readonly notifications: (
    listen: string,
    open: (host: Host) => Effect.Effect<Session, SessionError>
  ) => Stream.Stream<Notification, SqlError.SqlError>
}

type Restore = <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R>

/** What one piece of work has been through before it was sent. */
interface Trouble {
  since: number | undefined
  rounds: number
}

const noTrouble = (): Trouble => ({ since: undefined, rounds: 0 })

/** A saturated server is asked again after about this long: a connection slot lives as long as a session. */
const SATURATED_PAUSE = Duration.millis(50)

/** The first repetition is at once, later ones back off from 10 ms to a second. */
const pauseAfter = (rounds: number): Effect.Effect<void> =>
  rounds <= 1
    ? Effect.void
    : Effect.flatMap(Random.nextRange(0.5, 1), (factor) =>
        Effect.sleep(Duration.millis(Math.min(10 * 2 ** (rounds - 2), 1000) * factor))
      )

const sqlError = (cause: Error): SqlError.SqlError =>
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
export const transformChunk =
  (transform: NonNullable<TransformRows>) =>
  (chunk: Chunk.Chunk<Row>): Chunk.Chunk<Row> =>
    Chunk.unsafeFromArray(transform(Chunk.toReadonlyArray(chunk)))

/** The statements of `@effect/sql` on one session. @internal */
export const connectionOn = (
  session: Session,
  fail: (error: SessionError) => Effect.Effect<never, SqlError.SqlError>,
  annotate: <A, E>(effect: Effect.Effect<A, E>) => Effect.Effect<A, E>
): SqlConnection.Connection => {
  const execute = (request: Request): Effect.Effect<Row, SqlError.SqlError> =>
    annotate(Effect.catchAll(session.execute(request), fail))
  const rows = (sql: string, params: ReadonlyArray<unknown>, transform: TransformRows) => {
    const result = execute({ sql, params, shape: "objects" })
    return transform === undefined ? result : Effect.map(result, transform)
  }
  return {
    execute: rows,
    executeUnprepared: rows,
    executeRaw: (sql, params) => execute({ sql, params, shape: "raw" }),
    executeValues: (sql, params) => execute({ sql, params, shape: "values" }),
    executeStream: (sql, params, transform) => {
      const result = Stream.catchAll(session.stream({ sql, params, shape: "objects" }), (error) =>
        Stream.fromEffect(fail(error))
      )
      return transform === undefined ? result : Stream.mapChunks(result, transformChunk(transform))
    }
  }
}

/** @internal */
export const make = (options: {
  readonly topology: Topology
  readonly router: Router
  readonly failover: Failover
  readonly classifier: ErrorClassifier
  readonly isWriter: (session: Session) => Effect.Effect<boolean, SessionError>
  readonly acquireTimeout: Duration.Duration
}): Runner => {
  const { classifier, failover, router, topology } = options

  /** A rejection says that nothing was executed. For work that was cut off before, that is not so. */
  const withOutcome = (
    error: FailoverFailed | Rejection,
    outcome: Outcome,
    from: Host,
    since: number
  ): Effect.Effect<FailoverFailed> =>
    Effect.map(Clock.currentTimeMillis, (now) =>
      error._tag === "FailoverFailed"
        ? new FailoverFailed({ ...fieldsOf(error), outcome, from })
        : new FailoverFailed({
            reason: "Rejected",
            outcome,
            from,
            tried: tried(topology.unsafeCurrent()),
            elapsed: Duration.millis(now - since),
            attempts: 0,
            cause: error
          })
    )

  const fieldsOf = (error: FailoverFailed) => ({
    reason: error.reason,
    tried: error.tried,
    elapsed: error.elapsed,
    attempts: error.attempts,
    cause: error.cause
  })

  /** Moves the client; then tells the caller what became of the work that was cut off. */
  const recoverAndTell = (
    lease: Lease,
    cause: unknown,
    outcome: Outcome,
    tell: (recovered: Recovered, elapsed: Duration.Duration) => Error
  ): Effect.Effect<never, SqlError.SqlError> =>
    Effect.gen(function* () {
      lease.session.destroy()
      const { epoch, host } = lease.pool
      const since = yield* Clock.currentTimeMillis
      // Cut because a failover ended in vain: that was this outage's failover.
      const failure = lease.pool.isCut() ? failover.failureOf(epoch) : undefined
      const recovered = yield* (
        failure === undefined ? failover.recover({ epoch, cause }) : Effect.fail(failure)
      ).pipe(
        Effect.catchAll((error) =>
          Effect.flatMap(withOutcome(error, outcome, host, since), (_) => Effect.fail(sqlError(_)))
        )
      )
      const elapsed = Duration.millis((yield* Clock.currentTimeMillis) - since)
      return yield* Effect.fail(sqlError(tell(recovered, elapsed)))
    })

  const failoverSuccess = (lease: Lease, sent: boolean, cause: unknown) =>
    recoverAndTell(
      lease,
      cause,
      sent ? "Unknown" : "NotExecuted",
      ({ attempts, writer }, elapsed) =>
        new FailoverSuccess({
          from: lease.pool.host,
          to: writer.host,
          role: "writer",
          epoch: writer.epoch,
          elapsed,
          attempts,
          sent,
          cause
        })
    )

  const timedOut = (lease: Lease, cause: unknown, outcome: Outcome) =>
    Effect.zipRight(
      topology.refresh,
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

  const isTimeout = (error: SessionError) =>
    Classifier.classify(classifier, error.cause)._tag === "Timeout"

  /** Ends the wait for a connection when the deadline of the failover has passed since the first trouble. */
  const checkDeadline = (trouble: Trouble, from: Host | undefined, cause: unknown) =>
    Effect.flatMap(Clock.currentTimeMillis, (now) => {
      const since = (trouble.since ??= now)
      trouble.rounds++
      return now - since <= Duration.toMillis(failover.timeout)
        ? pauseAfter(trouble.rounds)
        : Effect.fail(
            sqlError(
              new FailoverFailed({
                reason: "Timeout",
                outcome: "NotExecuted",
                from,
                tried: tried(topology.unsafeCurrent()),
                elapsed: Duration.millis(now - since),
                attempts: trouble.rounds,
                cause
              })
            )
          )
    })

  const recoverQuietly = (
    epoch: number,
    cause: unknown
  ): Effect.Effect<Recovered, SqlError.SqlError> =>
    Effect.mapError(failover.recover({ epoch, cause }), sqlError)

  /** No connection was to be had: what now? Nothing was sent, so the answer is never a lost outcome. */
  const afterRefusal = (pool: HostPool, error: SessionError, trouble: Trouble) =>
    Effect.gen(function* () {
      const rejection: ConnectionRejected | Error | undefined = Classifier.rejection(
        classifier,
        pool.host,
        error.cause
      )
      if (rejection !== undefined) return yield* Effect.fail(sqlError(rejection))
      yield* checkDeadline(trouble, pool.host, error.cause)
      if (error.cause instanceof PoolCut) return
      if (Classifier.classify(classifier, error.cause)._tag === "Saturated") {
        const now = yield* Clock.currentTimeMillis
        if (now - (trouble.since ?? now) > Duration.toMillis(options.acquireTimeout)) {
          return yield* Effect.fail(
            new SqlError.SqlError({ cause: error.cause, message: Classifier.describe(error.cause) })
          )
        }
        return yield* Effect.sleep(SATURATED_PAUSE)
      }
      yield* recoverQuietly(pool.epoch, error.cause)
    })

  /** A connection to the confirmed writer, however often the client must move for it. */
  const acquire = (restore: Restore, trouble: Trouble): Effect.Effect<Lease, SqlError.SqlError> =>
    Effect.suspend(() => {
      const pool = router.ready()
      if (pool === undefined) {
        const epoch = router.current()?.epoch ?? topology.unsafeCurrent().epoch
        return restore(
          trouble.since === undefined
            ? recoverQuietly(epoch, undefined)
            : Effect.zipRight(
                checkDeadline(trouble, router.current()?.host, undefined),
                recoverQuietly(epoch, undefined)
              )
        ).pipe(
          Effect.tap(() => Effect.map(Clock.currentTimeMillis, (now) => (trouble.since ??= now))),
          Effect.zipRight(acquire(restore, trouble))
        )
      }
      return Effect.matchEffect(restore(pool.take), {
        onSuccess: (session) => Effect.succeed({ pool, session }),
        onFailure: (error) =>
          error._tag === "PoolTimeout"
            ? Effect.fail(sqlError(error))
            : Effect.zipRight(
                restore(afterRefusal(pool, error, trouble)),
                acquire(restore, trouble)
              )
      })
    })

  const annotated = <A, E>(
    effect: (lease: Lease) => Effect.Effect<A, E>
  ): ((lease: Lease) => Effect.Effect<A, E>) => {
    return (lease) =>
      Effect.withFiberRuntime<A, E>((fiber) => {
        const span = fiber.currentSpan
        if (span !== undefined && span._tag === "Span") {
          span.attribute("server.address", lease.pool.host.host)
          span.attribute("server.port", lease.pool.host.port)
          span.attribute("db.failover.role", "writer")
          span.attribute("db.failover.epoch", lease.pool.epoch)
        }
        return effect(lease)
      })
  }

  /** Outside a transaction: returns if the statement may simply be run again. */
  const afterFailure = (
    lease: Lease,
    error: SessionError,
    trouble: Trouble
  ): Effect.Effect<void, SqlError.SqlError> => {
    const verdict = Classifier.classify(classifier, error.cause)._tag
    switch (error.fate) {
      case "NotSent":
        return checkDeadline(trouble, lease.pool.host, error.cause)
      case "Unanswered":
        return verdict === "Timeout"
          ? timedOut(lease, error.cause, "Unknown")
          : failoverSuccess(lease, true, error.cause)
      case "Answered":
        if (verdict === "ConnectionLost") return failoverSuccess(lease, true, error.cause)
        return verdict === "ReadOnly"
          ? Effect.flatMap(
              Effect.orElseSucceed(options.isWriter(lease.session), () => false),
              (isWriter) =>
                isWriter
                  ? Effect.fail(answered(error.cause))
                  : Effect.zipRight(
                      checkDeadline(trouble, lease.pool.host, error.cause),
                      Effect.asVoid(recoverQuietly(lease.pool.epoch, error.cause))
                    )
            )
          : Effect.fail(answered(error.cause))
    }
  }

  /** Uses a connection and gives it back; the work is run again if it is known not to have happened. */
  const use = <A>(
    lease: Lease,
    restore: Restore,
    work: (lease: Lease) => Effect.Effect<A, SessionError>,
    trouble: Trouble | undefined
  ): Effect.Effect<A, SqlError.SqlError> =>
    Effect.matchCauseEffect(restore(work(lease)), {
      onSuccess: (result) => {
        lease.pool.give(lease.session)
        return Effect.succeed(result)
      },
      onFailure: (cause) => {
        const failure = Cause.failureOption(cause)
        if (failure._tag === "None") {
          lease.pool.give(lease.session)
          return Effect.failCause(cause as Cause.Cause<never>)
        }
        const known = trouble ?? noTrouble()
        return Effect.ensuring(
          restore(afterFailure(lease, failure.value, known)),
          Effect.sync(() => lease.pool.give(lease.session))
        ).pipe(
          Effect.zipRight(acquire(restore, known)),
          Effect.flatMap((next) => use(next, restore, work, known))
        )
      }
    })

  const run = <A>(
    work: (lease: Lease) => Effect.Effect<A, SessionError>
  ): Effect.Effect<A, SqlError.SqlError> =>
    Effect.uninterruptibleMask((restore) => {
      const pool = router.ready()
      const session = pool?.unsafeTake()
      return pool !== undefined && session !== undefined
        ? use({ pool, session }, restore, work, undefined)
        : Effect.flatMap(acquire(restore, noTrouble()), (lease) =>
            use(lease, restore, work, undefined)
          )
    })

  const scopedLease: Effect.Effect<Lease, SqlError.SqlError, Scope.Scope> =
    Effect.uninterruptibleMask((restore) =>
      Effect.tap(acquire(restore, noTrouble()), (lease) =>
        Effect.addFinalizer(() => Effect.sync(() => lease.pool.give(lease.session)))
      )
    )

  /** What a caller is told who holds on to one connection: nothing can be moved quietly any more. */
  const heldError = (lease: Lease, error: SessionError): Effect.Effect<never, SqlError.SqlError> =>
    error.fate === "Answered"
      ? Effect.fail(answered(error.cause))
      : error.fate === "Unanswered" && isTimeout(error)
        ? timedOut(lease, error.cause, "Unknown")
        : failoverSuccess(lease, error.fate === "Unanswered", error.cause)

  const stream: Runner["stream"] = (request) =>
    Stream.unwrapScoped(
      Effect.map(scopedLease, (lease) =>
        Stream.catchAll(lease.session.stream(request), (error) =>
          error.fate === "NotSent" ? stream(request) : Stream.fromEffect(heldError(lease, error))
        )
      )
    )

  const begin: Runner["begin"] = (owner) =>
    Effect.uninterruptibleMask((restore) => {
      const start = (
        trouble: Trouble
      ): Effect.Effect<TransactionConnection, SqlError.SqlError, Scope.Scope> =>
        Effect.flatMap(Scope.make(), (scope) =>
          Effect.flatMap(acquire(restore, trouble), (lease) =>
            restore(lease.session.command("BEGIN")).pipe(
              Effect.matchCauseEffect({
                onSuccess: () =>
                  Effect.as(
                    Effect.addFinalizer(() => Effect.sync(() => lease.pool.give(lease.session))),
                    transactionOn(lease, owner)
                  ),
                onFailure: (cause) => {
                  const failure = Cause.failureOption(cause)
                  const give = Effect.sync(() => lease.pool.give(lease.session))
                  if (failure._tag === "None") {
                    return Effect.zipRight(give, Effect.failCause(cause as Cause.Cause<never>))
                  }
                  return Effect.ensuring(
                    restore(beginFailed(lease, failure.value, trouble)),
                    give
                  ).pipe(Effect.zipRight(start(trouble)))
                }
              })
            )
          ).pipe(Effect.onError((cause) => Scope.close(scope, Exit.failCause(cause))))
        )
      return start(noTrouble())
    })

  /** A transaction of which only BEGIN may have run has done nothing: it begins again elsewhere. */
  const beginFailed = (lease: Lease, error: SessionError, trouble: Trouble) => {
    if (error.fate === "Answered") return Effect.fail(answered(error.cause))
    if (error.fate === "Unanswered" && isTimeout(error))
      return timedOut(lease, error.cause, "RolledBack")
    lease.session.destroy()
    return Effect.zipRight(
      checkDeadline(trouble, lease.pool.host, error.cause),
      error.fate === "NotSent"
        ? Effect.void
        : Effect.asVoid(recoverQuietly(lease.pool.epoch, error.cause))
    )
  }

  const transactionOn = (lease: Lease, owner: symbol): TransactionConnection => {
    const { pool, session } = lease
    let lost: SqlError.SqlError | undefined
    const fail =
      (isCommit: boolean) =>
      (error: SessionError): Effect.Effect<never, SqlError.SqlError> =>
        Effect.suspend(() => {
          if (lost !== undefined) return Effect.fail(lost)
          if (error.fate === "Answered") {
            const isReadOnly = Classifier.classify(classifier, error.cause)._tag === "ReadOnly"
            return Effect.zipRight(
              isReadOnly ? topology.refresh : Effect.void,
              Effect.fail(answered(error.cause))
            )
          }
          const sent = error.fate === "Unanswered"
          const outcome = isCommit && sent ? "Unknown" : "RolledBack"
          const end =
            sent && isTimeout(error)
              ? timedOut(lease, error.cause, outcome)
              : recoverAndTell(
                  lease,
                  error.cause,
                  outcome,
                  ({ attempts, writer }, elapsed) =>
                    new TransactionResolutionUnknown({
                      outcome,
                      from: pool.host,
                      to: writer.host,
                      role: "writer",
                      epoch: writer.epoch,
                      elapsed,
                      attempts,
                      sent,
                      cause: error.cause
                    })
                )
          return Effect.tapError(end, (_) => Effect.sync(() => (lost ??= _)))
        })
    const whenAlive = <A>(
      effect: Effect.Effect<A, SqlError.SqlError>
    ): Effect.Effect<A, SqlError.SqlError> =>
      Effect.suspend(() => (lost === undefined ? effect : Effect.fail(lost)))
    const connection = connectionOn(session, fail(false), (effect) =>
      annotated(() => effect)(lease)
    )
    return {
      owner,
      lost: () => lost,
      isAlive: () => lost === undefined && session.isOpen(),
      rollback: session.command("ROLLBACK"),
      abort: Effect.sync(() => session.destroy()),
      command: (sql, phase) =>
        whenAlive(Effect.catchAll(session.command(sql), fail(phase === "commit"))),
      execute: (sql, params, transform) => whenAlive(connection.execute(sql, params, transform)),
      executeUnprepared: (sql, params, transform) =>
        whenAlive(connection.executeUnprepared(sql, params, transform)),
      executeRaw: (sql, params) => whenAlive(connection.executeRaw(sql, params)),
      executeValues: (sql, params) => whenAlive(connection.executeValues(sql, params)),
      executeStream: (sql, params, transform) =>
        Stream.suspend(() =>
          lost === undefined ? connection.executeStream(sql, params, transform) : Stream.fail(lost)
        )
    }
  }

  return {
    execute: (request) => run(annotated((lease) => lease.session.execute(request))),
    stream,
    reserve: Effect.map(scopedLease, (lease) =>
      connectionOn(
        lease.session,
        (error) => heldError(lease, error),
        (effect) => annotated(() => effect)(lease)
      )
    ),
    begin,
    notifications: (listen, open) =>
      Stream.unwrapScoped(
        Effect.gen(function* () {
          const lease = yield* listening(open, noTrouble())
          yield* Effect.catchAll(lease.session.command(listen), (error) => heldError(lease, error))
          return Stream.catchAll(lease.session.notifications, (error) =>
            Stream.fromEffect(heldError(lease, error))
          )
        })
      )
  }

  /** A connection of its own to the writer, outside the pool. */
  function listening(
    open: (host: Host) => Effect.Effect<Session, SessionError>,
    trouble: Trouble
  ): Effect.Effect<Lease, SqlError.SqlError, Scope.Scope> {
    return Effect.gen(function* () {
      let pool = router.ready()
      while (pool === undefined) {
        yield* recoverQuietly(router.current()?.epoch ?? topology.unsafeCurrent().epoch, undefined)
        pool = router.ready()
      }
      const current = pool
      return yield* Effect.uninterruptibleMask((restore) =>
        Effect.tap(restore(open(current.host)), (session) =>
          Effect.addFinalizer(() => Effect.sync(() => session.destroy()))
        )
      ).pipe(
        Effect.map((session) => ({ pool: current, session })),
        Effect.catchAll((error) =>
          Effect.zipRight(afterRefusal(current, error, trouble), listening(open, trouble))
        )
      )
    })
  }
}
