/**
 * The `Connection` of `@effect/sql` on one session.
 *
 * @internal
 */
import type { SqlConnection, SqlError } from "@effect/sql"
import { Chunk, Effect, Stream } from "effect"
import type { Request, Row, Session, SessionError } from "../Connector.js"

/** @internal */
export type TransformRows =
  (<A extends object>(rows: ReadonlyArray<A>) => ReadonlyArray<A>) | undefined

/** Where statements are run: on one session, or wherever they are routed to. @internal */
export interface Target {
  readonly execute: (request: Request) => Effect.Effect<Row, SqlError.SqlError>
  readonly stream: (request: Request) => Stream.Stream<Row, SqlError.SqlError>
}

/** @internal */
export const make = (target: Target): SqlConnection.Connection => {
  const rows = (request: Request, transform: TransformRows) => {
    const result = target.execute(request)
    return transform === undefined ? result : Effect.map(result, transform)
  }
  return {
    execute: (sql, params, transform) => rows({ sql, params, shape: "objects" }, transform),
    executeUnprepared: (sql, params, transform) =>
      rows({ sql, params, shape: "objects", unprepared: true }, transform),
    executeRaw: (sql, params) => target.execute({ sql, params, shape: "raw" }),
    executeValues: (sql, params) => target.execute({ sql, params, shape: "values" }),
    executeStream: (sql, params, transform) => {
      const result = target.stream({ sql, params, shape: "objects" })
      return transform === undefined
        ? result
        : Stream.mapChunks(result, (chunk) =>
            Chunk.unsafeFromArray(transform(Chunk.toReadonlyArray(chunk)))
          )
    }
  }
}

/**
 * One session, one statement at a time. It costs next to nothing while nobody waits, which is nearly
 * always: two fibers in one transaction are rare.
 */
class Turn {
  private busy = false
  private readonly waiting = new Set<() => void>()

  enter(start: () => void): void {
    if (this.busy) {
      this.waiting.add(start)
    } else {
      this.busy = true
      start()
    }
  }

  giveUp(start: () => void): void {
    this.waiting.delete(start)
  }

  leave(): void {
    for (const next of this.waiting) {
      this.waiting.delete(next)
      return next()
    }
    this.busy = false
  }
}

/** @internal */
export interface SessionTarget extends Target {
  /** Whatever else is to run on the session takes its turn, too. */
  readonly inTurn: <A, E>(effect: Effect.Effect<A, E>) => Effect.Effect<A, E>
}

/**
 * Fibers that share the session take turns: one that is interrupted while it waits costs nothing, since
 * its statement was not sent.
 *
 * @internal
 */
export const onSession = (
  session: Session,
  fail: (error: SessionError) => Effect.Effect<never, SqlError.SqlError>
): SessionTarget => {
  const turn = new Turn()
  const { submit } = session

  const inTurn: SessionTarget["inTurn"] = (effect) =>
    Effect.uninterruptibleMask((restore) =>
      Effect.zipRight(
        restore(
          Effect.async<void>((resume) => {
            let entered = false
            const start = () => {
              entered = true
              resume(Effect.void)
            }
            turn.enter(start)
            return Effect.sync(() => {
              // Interrupted after its turn had come, but before the fiber took note of it.
              if (entered) turn.leave()
              else turn.giveUp(start)
            })
          })
        ),
        Effect.ensuring(
          restore(effect),
          Effect.sync(() => turn.leave())
        )
      )
    )

  const execute = (request: Request): Effect.Effect<Row, SessionError> =>
    submit === undefined
      ? inTurn(session.execute(request))
      : Effect.async((resume) => {
          let state: "waiting" | "running" | "done" = "waiting"
          let cancel: (() => void) | undefined
          const start = () => {
            state = "running"
            cancel = submit(request, (error, result) => {
              state = "done"
              turn.leave()
              resume(error === undefined ? Effect.succeed(result) : Effect.fail(error))
            })
          }
          turn.enter(start)
          return Effect.sync(() => {
            if (state === "waiting") return turn.giveUp(start)
            if (state === "done") return
            state = "done"
            cancel?.()
            turn.leave()
          })
        })

  return {
    inTurn,
    execute: (request) => Effect.catchAll(execute(request), fail),
    stream: (request) =>
      Stream.catchAll(session.stream(request), (error) => Stream.fromEffect(fail(error)))
  }
}
