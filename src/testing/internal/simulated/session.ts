/**
 * The client's end of a session: what `internal/pg/session` is for a real server, with the same rules for
 * what became of a statement.
 *
 * @internal
 */
import { Chunk, Duration, Effect, Option, Stream } from "effect"
import type { Notification, Request, ResultShape, Row } from "../../../Connector.js"
import type { Fate, Session as Port } from "../../../Connector.js"
import { NoAnswer, SessionError } from "../../../Connector.js"
import type { Host } from "../../../Host.js"
import type { Backend, Client } from "./backend.js"
import type { Answer } from "./engine.js"
import type { ServerError } from "./serverError.js"
import * as Errors from "./serverError.js"
import type { World } from "./world.js"

type Done = (error: SessionError | undefined, result: Row) => void

interface Query {
  readonly request: Request
  readonly done: Done
  sent: boolean
  settled: boolean
  /** Calls off its time limit. */
  stopClock: () => void
}

const nothing = (): void => undefined

/** Rows that a stream fetches at a time, as in `internal/pg/session`. */
const FETCH_SIZE = 128

const resultOf = (shape: ResultShape, { rowCount, rows, tag }: Answer): Row => {
  switch (shape) {
    case "objects":
      return rows
    case "values":
      return rows.map((row) => Object.values(row))
    case "raw":
      return { command: tag, rowCount, rows }
    case "command":
      return tag
  }
}

/** Several commands in one text have several results. */
const resultsOf = (shape: ResultShape, answers: ReadonlyArray<Answer>): Row => {
  const [only] = answers
  if (only !== undefined && answers.length === 1) return resultOf(shape, only)
  return shape === "command" ? "" : answers.map((_) => resultOf(shape, _))
}

/** @internal */
export class Session implements Port, Client {
  private over: { readonly cause: unknown } | undefined
  /** In the order of their submission; the first one is on its way. */
  private readonly queries: Array<Query> = []
  private readonly closeListeners: Array<(cause: unknown) => void> = []
  private readonly ears = new Set<(notification: Notification) => void>()

  constructor(
    private readonly world: World,
    readonly host: Host,
    readonly openedAt: number,
    private readonly backend: Backend,
    private readonly queryTimeout: Duration.Duration | undefined
  ) {
    world.sessions.add(this)
    backend.client = this
  }

  readonly isOpen = (): boolean => this.over === undefined

  readonly onClose = (listener: (cause: unknown) => void): void => {
    if (this.over !== undefined) listener(this.over.cause)
    else this.closeListeners.push(listener)
  }

  readonly destroy = (): void => this.leave(new Error("Connection terminated by this client"))

  readonly submit = (request: Request, done: Done): (() => void) => {
    if (this.over !== undefined) {
      done(new SessionError({ cause: this.over.cause, fate: "NotSent" }), undefined)
      return nothing
    }
    const query: Query = { request, done, sent: false, settled: false, stopClock: nothing }
    this.queries.push(query)
    this.sendNext()
    this.limit(query)
    return () => {
      if (this.settle(query)) {
        this.leave(new Error("The statement on this connection was interrupted"))
      }
    }
  }

  readonly execute = (request: Request): Effect.Effect<Row, SessionError> =>
    Effect.async((resume) =>
      Effect.sync(
        this.submit(request, (error, result) =>
          resume(error === undefined ? Effect.succeed(result) : Effect.fail(error))
        )
      )
    )

  readonly stream = (request: Request): Stream.Stream<Row, SessionError> =>
    Stream.unwrap(
      Effect.map(this.execute({ ...request, shape: "objects" }), (rows: ReadonlyArray<Row>) =>
        Stream.unfoldChunkEffect(0, (from) =>
          Effect.suspend(() => {
            if (from >= rows.length) return Effect.succeed(Option.none())
            // What was not fetched is lost with the session.
            if (this.over !== undefined && from > 0) {
              const { cause } = this.over
              return Effect.fail(new SessionError({ cause, fate: "Unanswered" }))
            }
            const chunk = Chunk.unsafeFromArray(rows.slice(from, from + FETCH_SIZE))
            return Effect.succeed(Option.some([chunk, from + FETCH_SIZE] as const))
          })
        )
      )
    )

  get notifications(): Stream.Stream<Notification, SessionError> {
    return Stream.asyncPush<Notification, SessionError>((emit) =>
      Effect.acquireRelease(
        Effect.sync(() => {
          const ear = (notification: Notification) => void emit.single(notification)
          this.ears.add(ear)
          this.onClose((cause) => emit.fail(new SessionError({ cause, fate: "Unanswered" })))
          return ear
        }),
        (ear) => Effect.sync(() => this.ears.delete(ear))
      )
    )
  }

  readonly answered = (answers: ReadonlyArray<Answer>): void => {
    const query = this.queries[0]
    if (query === undefined || !this.settle(query)) return
    query.done(undefined, resultsOf(query.request.shape, answers))
    this.sendNext()
  }

  readonly refused = (cause: ServerError): void => {
    const query = this.queries[0]
    if (query === undefined || !this.settle(query)) return
    query.done(new SessionError({ cause, fate: "Answered" }), undefined)
    this.sendNext()
  }

  readonly ended = (cause: ServerError): void => this.end(cause)

  readonly reset = (): void => this.end(Errors.reset())

  readonly notified = (notification: Notification): void => {
    for (const ear of [...this.ears]) ear(notification)
  }

  private sendNext(): void {
    const query = this.queries[0]
    if (query === undefined || query.sent || this.over !== undefined) return
    const { params, sql } = query.request
    const statement = { sql, params }
    const fault = this.world.faultOf(statement)
    if (fault === "beforeSend") {
      this.farewell()
      return this.end(Errors.reset())
    }
    query.sent = true
    this.backend.line.toServer(() => this.backend.receive(statement, fault))
  }

  /** Whoever comes first, the answer, the timeout or the interruption, has the say. */
  private settle(query: Query): boolean {
    if (query.settled) return false
    query.settled = true
    query.stopClock()
    const at = this.queries.indexOf(query)
    if (at >= 0) this.queries.splice(at, 1)
    return true
  }

  private limit(query: Query): void {
    const timeout = this.queryTimeout
    if (timeout === undefined || query.settled) return
    query.stopClock = this.world.timers.later(Duration.toMillis(timeout), () => {
      if (!this.settle(query)) return
      const cause = new NoAnswer({ timeout })
      this.leave(cause)
      query.done(failure(query, cause), undefined)
    })
  }

  /** The client closes its end. */
  private leave(cause: unknown): void {
    if (this.over !== undefined) return
    this.farewell()
    this.end(cause)
  }

  private farewell(): void {
    this.backend.line.close(() => this.backend.leave())
  }

  /** From here on the session is used for nothing. */
  private end(cause: unknown): void {
    if (this.over !== undefined) return
    this.over = { cause }
    this.world.sessions.delete(this)
    for (const listener of this.closeListeners.splice(0)) listener(cause)
    for (const query of [...this.queries]) {
      if (this.settle(query)) query.done(failure(query, cause), undefined)
    }
  }
}

const failure = ({ sent }: Query, cause: unknown): SessionError => {
  const fate: Fate = sent ? "Unanswered" : "NotSent"
  return new SessionError({ cause, fate })
}
