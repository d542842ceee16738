/**
 * Transactions on one session, with typed failures at every step.
 *
 * | what is cut off | the transaction | signal |
 * |---|---|---|
 * | the connection before BEGIN is answered | never began | none: begun again on the new writer |
 * | a statement, a SAVEPOINT, or the connection between statements | rolled back by the server | `TransactionResolutionUnknown`, `RolledBack` |
 * | ROLLBACK | rolled back by the server | `TransactionResolutionUnknown`, `RolledBack`, and then the caller's own failure, in one `Cause` |
 * | ... of an interrupted or defective fiber | rolled back by the server | the interruption or defect alone, at once |
 * | COMMIT sent and not answered | unknown | `TransactionResolutionUnknown`, `Unknown`; with a `CommitResolution`, what it finds out |
 * | COMMIT refused, or answered with ROLLBACK because a statement had failed | rolled back | the server's error |
 *
 * A lost transaction stays lost: its statements fail with the same error, and it is never committed.
 *
 * @internal
 */
import { SqlClient, SqlError } from "@effect/sql"
import type { SqlConnection } from "@effect/sql"
import type { Fiber } from "effect"
import type { HostPool } from "../HostPool.js"
import type { Restore } from "./leases.js"
import {
  Cause,
  Clock,
  Context,
  Duration,
  Effect,
  Exit,
  FiberRef,
  GlobalValue,
  Stream,
  Tracer
} from "effect"

/** What a transaction needs of the connection that it runs on. @internal */
export interface TransactionConnection extends SqlConnection.Connection {
  readonly savepoint: (sql: string) => Effect.Effect<unknown, SqlError.SqlError>
  /** Answers with the server's command tag. */
  readonly commit: Effect.Effect<string, SqlError.SqlError>
  /** The error that ended the transaction, if one did. */
  readonly lost: () => SqlError.SqlError | undefined
  /** Whether there is still something to roll back. */
  readonly isAlive: () => boolean
  /** Without a failover: if the connection is lost, the transaction is rolled back all the same. */
  readonly rollback: (sql: string) => Effect.Effect<unknown, unknown>
  /** The connection ended before ROLLBACK was answered: moves the client and says so. */
  readonly ended: Effect.Effect<never, SqlError.SqlError>
  /** Ends the connection, and with it the transaction. */
  readonly abort: () => void
  /** Gives the connection back. */
  readonly release: () => void
  readonly owner: symbol
  /** Where it runs. */
  readonly pool: HostPool
}

/** @internal */
export interface Frame {
  readonly connection: TransactionConnection
  readonly depth: number
}

/** One tag per client: another client's statement inside this transaction does not run on it. @internal */
export type FrameTag = Context.Tag<Frame, Frame>

// Made only when somebody is refused: an error and its stack trace would cost every transaction.
const refuse = Effect.suspend(() =>
  Effect.fail(
    new SqlError.SqlError({
      message: "a statement of another SqlClient inside a transaction of effect-failover",
      cause: new Error(
        "this transaction belongs to another client: run the statement outside of it"
      )
    })
  )
)

/**
 * What `SqlResolver` carries over to the fiber that it runs in: nothing but the tag of `@effect/sql`,
 * which every client made by `SqlClient.make` takes for its own. Such a client is refused here, or its
 * statements would silently go to our database, and be rolled back with our transaction.
 */
class Carrier implements SqlConnection.Connection {
  constructor(readonly carried: TransactionConnection) {}
  execute() {
    return refuse
  }
  executeRaw() {
    return refuse
  }
  executeValues() {
    return refuse
  }
  executeUnprepared() {
    return refuse
  }
  executeStream() {
    return Stream.fromEffect(refuse)
  }
}

/** The transaction of this client that the fiber is in. @internal */
export const currentFrame = (
  context: Context.Context<never>,
  tag: FrameTag,
  owner: symbol
): Frame | undefined => {
  const frame: Frame | undefined = context.unsafeMap.get(tag.key)
  if (frame !== undefined) return frame
  const shared: readonly [SqlConnection.Connection, number] | undefined = context.unsafeMap.get(
    SqlClient.TransactionConnection.key
  )
  if (!(shared?.[0] instanceof Carrier) || shared[0].carried.owner !== owner) return undefined
  return { connection: shared[0].carried, depth: shared[1] }
}

/** The command that begins the transactions of a fiber. @internal */
export const currentBegin: FiberRef.FiberRef<string> = GlobalValue.globalValue(
  "effect-failover/currentBegin",
  () => FiberRef.unsafeMake("BEGIN")
)

const rolledBack = () =>
  new SqlError.SqlError({
    message:
      "the transaction was rolled back: a statement in it had failed, so the server did not commit",
    cause: new Error("COMMIT was answered with ROLLBACK")
  })

/** On a host that does not answer, the end of the connection does the same. */
const ROLLBACK_TIMEOUT = Duration.seconds(1)

/**
 * Whether the server answered. It never waits for a failover: what cannot be rolled back by a command is
 * by the end of the connection.
 */
const rollback = (connection: TransactionConnection, sql: string): Effect.Effect<boolean> =>
  connection.isAlive()
    ? Effect.interruptible(connection.rollback(sql)).pipe(
        Effect.timeoutFail({ duration: ROLLBACK_TIMEOUT, onTimeout: () => "no answer" as const }),
        Effect.as(true),
        Effect.catchAll(() =>
          Effect.sync(() => {
            connection.abort()
            return false
          })
        )
      )
    : Effect.succeed(false)

/** @internal */
export const make =
  (options: {
    readonly tag: FrameTag
    readonly owner: symbol
    /** Those of every span of this client, and those of the host where there is one. */
    readonly spanAttributes: (pool: HostPool | undefined) => Iterable<readonly [string, unknown]>
    /** A connection on which BEGIN has been answered. Interruptible inside, where it waits. */
    readonly begin: (
      fiber: Fiber.RuntimeFiber<unknown, unknown>,
      sql: string,
      restore: Restore
    ) => Effect.Effect<TransactionConnection, SqlError.SqlError>
  }) =>
  <R, E, A>(self: Effect.Effect<A, E, R>): Effect.Effect<A, E | SqlError.SqlError, R> =>
    Effect.uninterruptibleMask((restore) =>
      Effect.useSpan("sql.transaction", { kind: "client", captureStackTrace: false }, (span) =>
        Effect.withFiberRuntime<A, E | SqlError.SqlError, R>((fiber) => {
          const annotate = (pool: HostPool | undefined) => {
            for (const [key, value] of options.spanAttributes(pool)) span.attribute(key, value)
          }
          const context = fiber.currentContext
          const clock = Context.get(fiber.currentDefaultServices, Clock.Clock)
          const event = (name: string) =>
            span.event(`db.transaction.${name}`, clock.unsafeCurrentTimeNanos())

          // One copy of the context instead of one for each service.
          const contextOf = (frame: Frame): Context.Context<never> =>
            Context.unsafeMake(
              new Map(context.unsafeMap)
                .set(options.tag.key, frame)
                .set(SqlClient.TransactionConnection.key, [
                  new Carrier(frame.connection),
                  frame.depth
                ])
                .set(Tracer.ParentSpan.key, span)
            )
          const run = (frame: Frame) =>
            Effect.locally(restore(self), FiberRef.currentContext, contextOf(frame))

          const outer = currentFrame(context, options.tag, options.owner)
          if (outer !== undefined) {
            const { connection } = outer
            annotate(connection.pool)
            const depth = outer.depth + 1
            const name = `effect_sql_${depth}`
            return Effect.zipRight(
              restore(connection.savepoint(`SAVEPOINT ${name}`)),
              Effect.flatMap(Effect.exit(run({ connection, depth })), (exit) => {
                event(Exit.isSuccess(exit) ? "savepoint" : "rollback")
                return Exit.isSuccess(exit)
                  ? exit
                  : Effect.zipRight(rollback(connection, `ROLLBACK TO SAVEPOINT ${name}`), exit)
              })
            )
          }

          const end = (
            connection: TransactionConnection,
            exit: Exit.Exit<A, E>
          ): Effect.Effect<A, E | SqlError.SqlError> => {
            if (Exit.isFailure(exit)) {
              event("rollback")
              return Effect.flatMap(rollback(connection, "ROLLBACK"), (isAnswered) =>
                isAnswered ||
                connection.lost() !== undefined ||
                !Cause.isFailure(exit.cause) ||
                Cause.isInterrupted(exit.cause)
                  ? exit
                  : Effect.catchAll(restore(connection.ended), (error) =>
                      Effect.failCause(Cause.sequential(Cause.fail(error), exit.cause))
                    )
              )
            }
            // Also when the caller caught the error: what was lost is not committed.
            const lost = connection.lost()
            if (lost !== undefined) return Effect.fail(lost)
            event("commit")
            return Effect.flatMap(
              restore(connection.commit),
              (answer): Effect.Effect<A, E | SqlError.SqlError> =>
                answer === "ROLLBACK" ? Effect.fail(rolledBack()) : exit
            )
          }

          return options.begin(fiber, fiber.getFiberRef(currentBegin), restore).pipe(
            Effect.tapError(() => Effect.sync(() => annotate(undefined))),
            Effect.flatMap((connection) => {
              annotate(connection.pool)
              return Effect.matchCauseEffect(
                Effect.flatMap(Effect.exit(run({ connection, depth: 0 })), (exit) =>
                  end(connection, exit)
                ),
                {
                  onSuccess: (value) => {
                    connection.release()
                    return Effect.succeed(value)
                  },
                  onFailure: (cause) => {
                    connection.release()
                    return Effect.failCause(cause)
                  }
                }
              )
            })
          )
        })
      )
    )
