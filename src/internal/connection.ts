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
 * Fibers that share the session take turns: one that is interrupted while it waits costs nothing, since
 * its statement was not sent.
 *
 * @internal
 */
export const onSession = (
  session: Session,
  fail: (error: SessionError) => Effect.Effect<never, SqlError.SqlError>
): Target & { readonly turn: Effect.Semaphore } => {
  const turn = Effect.unsafeMakeSemaphore(1)
  return {
    turn,
    execute: (request) => Effect.catchAll(turn.withPermits(1)(session.execute(request)), fail),
    stream: (request) =>
      Stream.catchAll(session.stream(request), (error) => Stream.fromEffect(fail(error)))
  }
}
