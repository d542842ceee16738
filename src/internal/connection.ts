/**
 * The `Connection` of `@effect/sql`, on one session or on whatever runs statements.
 *
 * @internal
 */
import type { SqlConnection, SqlError } from "@effect/sql"
import { Chunk, Effect, Stream } from "effect"
import type { Request, Row, Session, SessionError } from "../Connector.js"
import type { Query } from "../Dialect.js"

/** @internal */
export type TransformRows =
  (<A extends object>(rows: ReadonlyArray<A>) => ReadonlyArray<A>) | undefined

/** Where statements are run: on one session, or wherever they are routed to. @internal */
export interface Target {
  readonly execute: (request: Request) => Effect.Effect<Row, SqlError.SqlError>
  readonly stream: (request: Request) => Stream.Stream<Row, SqlError.SqlError>
}

/**
 * A class, for each transaction makes one: methods on a prototype cost it nothing.
 *
 * @internal
 */
export abstract class TargetConnection implements SqlConnection.Connection {
  protected abstract run(request: Request): Effect.Effect<Row, SqlError.SqlError>
  protected abstract runStream(request: Request): Stream.Stream<Row, SqlError.SqlError>

  execute(sql: string, params: ReadonlyArray<unknown>, transform: TransformRows) {
    return this.rows({ sql, params, shape: "objects" }, transform)
  }
  executeUnprepared(sql: string, params: ReadonlyArray<unknown>, transform: TransformRows) {
    return this.rows({ sql, params, shape: "objects", unprepared: true }, transform)
  }
  executeRaw(sql: string, params: ReadonlyArray<unknown>) {
    return this.run({ sql, params, shape: "raw" })
  }
  executeValues(sql: string, params: ReadonlyArray<unknown>) {
    return this.run({ sql, params, shape: "values" })
  }
  executeStream(sql: string, params: ReadonlyArray<unknown>, transform: TransformRows) {
    const result = this.runStream({ sql, params, shape: "objects" })
    return transform === undefined
      ? result
      : Stream.mapChunks(result, (chunk) =>
          Chunk.unsafeFromArray(transform(Chunk.toReadonlyArray(chunk)))
        )
  }

  private rows(request: Request, transform: TransformRows) {
    const result = this.run(request)
    return transform === undefined ? result : Effect.map(result, transform)
  }
}

class OnTarget extends TargetConnection {
  constructor(private readonly target: Target) {
    super()
  }
  protected run(request: Request) {
    return this.target.execute(request)
  }
  protected runStream(request: Request) {
    return this.target.stream(request)
  }
}

/** @internal */
export const make = (target: Target): SqlConnection.Connection => new OnTarget(target)

/**
 * A session that fibers share: they take turns, one statement at a time, and one that is interrupted while
 * it waits costs nothing, since its statement was not sent. It costs next to nothing while nobody waits,
 * which is nearly always: two fibers in one transaction are rare.
 *
 * @internal
 */
export class SharedSession {
  private busy = false
  private waiting: Set<() => void> | undefined

  constructor(private readonly session: Session) {}

  /** Runs the request in its turn. What its failure means is the caller's to say. */
  run<E>(
    request: Request,
    onFailure: (error: SessionError) => Effect.Effect<Row, E>
  ): Effect.Effect<Row, E> {
    const { submit } = this.session
    if (submit === undefined) {
      return Effect.catchAll(this.inTurn(this.session.execute(request)), onFailure)
    }
    return Effect.async((resume) => {
      let state: "waiting" | "running" | "done" = "waiting"
      let cancel: (() => void) | undefined
      const start = () => {
        state = "running"
        cancel = submit(request, (error, result) => {
          state = "done"
          this.leave()
          resume(error === undefined ? Effect.succeed(result) : onFailure(error))
        })
      }
      this.enter(start)
      return Effect.sync(() => {
        if (state === "waiting") return this.giveUp(start)
        if (state === "done") return
        state = "done"
        cancel?.()
        this.leave()
      })
    })
  }

  /** Answers with the server's command tag. */
  command<E>(
    sql: string,
    onFailure: (error: SessionError) => Effect.Effect<string, E>
  ): Effect.Effect<string, E> {
    return this.run({ sql, params: [], shape: "command" }, onFailure)
  }

  get query(): Query {
    return (sql) => this.run({ sql, params: [], shape: "values" }, Effect.fail)
  }

  private enter(start: () => void): void {
    if (this.busy) {
      this.waiting ??= new Set()
      this.waiting.add(start)
    } else {
      this.busy = true
      start()
    }
  }

  private giveUp(start: () => void): void {
    this.waiting?.delete(start)
  }

  private leave(): void {
    for (const next of this.waiting ?? []) {
      this.waiting?.delete(next)
      return next()
    }
    this.busy = false
  }

  private inTurn<A, E>(effect: Effect.Effect<A, E>): Effect.Effect<A, E> {
    return Effect.uninterruptibleMask((restore) =>
      Effect.zipRight(
        restore(
          Effect.async<void>((resume) => {
            let entered = false
            const start = () => {
              entered = true
              resume(Effect.void)
            }
            this.enter(start)
            return Effect.sync(() => {
              // Interrupted after its turn had come, but before the fiber took note of it.
              if (entered) this.leave()
              else this.giveUp(start)
            })
          })
        ),
        Effect.ensuring(
          restore(effect),
          Effect.sync(() => this.leave())
        )
      )
    )
  }
}

/** @internal */
export const onSession = (
  session: Session,
  fail: (error: SessionError) => Effect.Effect<never, SqlError.SqlError>
): SqlConnection.Connection => {
  const shared = new SharedSession(session)
  return make({
    execute: (request) => shared.run(request, fail),
    stream: (request) =>
      Stream.catchAll(session.stream(request), (error) => Stream.fromEffect(fail(error)))
  })
}
