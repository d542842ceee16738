/**
 * One `pg` client as a `Session`. This is the adapter to callbacks and timers, and the only place that
 * knows node-postgres.
 *
 * The truth about "sent" is kept per query: node-postgres calls `submit` when it writes a query to the
 * socket, and queues it before that.
 *
 * @internal
 */
import { Chunk, Duration, Effect, Option, Stream } from "effect"
import * as Net from "node:net"
import * as Pg from "pg"
import Cursor from "pg-cursor"
import type { Fate, Notification, Request, ResultShape, Row, Session } from "../../Connector.js"
import { NoAnswer, SessionError } from "../../Connector.js"
import type { Host } from "../../Host.js"
import type { PreparedStatements } from "./preparedStatements.js"

/** What node-postgres does not declare, and has had since its version 8. */
interface Internals {
  readonly connection: { readonly stream: Net.Socket; _ending: boolean }
  readonly processID: number | null
  readonly secretKey: number | null
  /** Since 8.17. */
  readonly getTransactionStatus?: () => string | null
}

/** @internal */
export const internals = (client: Pg.Client): Internals => client as unknown as Internals

/** The frontend message Terminate. */
const TERMINATE = Buffer.from([0x58, 0, 0, 0, 4])

/** Rows that a stream fetches at a time, as in `@effect/sql-pg`. */
const FETCH_SIZE = 128

/** A CancelRequest is a courtesy: the server has this long to take it. */
const CANCEL_TIMEOUT_MILLIS = 5_000

/** A stream that is left early says so to the server, and does not wait longer than this for its answer. */
const CLOSE_CURSOR_TIMEOUT_MILLIS = 1_000

type Done = (error: SessionError | undefined, result: Row) => void

/** A query that knows whether it has been written to the socket, and whether its caller was told. */
class TrackedQuery extends Pg.Query {
  sent = false
  settled = false
  timer: NodeJS.Timeout | undefined
}

// On the prototype, since a method per statement would cost more than the statement's bookkeeping.
Object.assign(TrackedQuery.prototype, {
  submit(this: TrackedQuery, connection: Pg.Connection & { readonly stream: Net.Socket }): unknown {
    this.sent = connection.stream.writable
    return Pg.Query.prototype.submit.call(this, connection)
  }
})

type Result = Pg.QueryArrayResult & Pg.QueryResult

/** Several statements in one text have several results. */
const rowsOf = (result: Result | ReadonlyArray<Result>): Row =>
  Array.isArray(result) ? result.map((_) => _.rows ?? []) : ((result as Result).rows ?? [])

const answerOf = (shape: ResultShape, result: Result): Row => {
  switch (shape) {
    case "raw":
      return result
    case "command":
      return result.command ?? ""
    default:
      return rowsOf(result)
  }
}

const isFatal = (cause: unknown): boolean =>
  typeof cause === "object" &&
  cause !== null &&
  (("severity" in cause && (cause.severity === "FATAL" || cause.severity === "PANIC")) ||
    // The severity is in the server's language; these codes end a session in every language.
    ("code" in cause && typeof cause.code === "string" && /^57P0[1235]$/.test(cause.code)))

const isServerError = (cause: unknown): boolean => cause instanceof Pg.DatabaseError

const closedByUs = () => new Error("Connection terminated by this client")

/** @internal */
export class PgSession implements Session {
  private ended: { readonly cause: unknown } | undefined
  private inFlight = 0
  private readonly listeners: Array<(cause: unknown) => void> = []

  constructor(
    readonly host: Host,
    readonly openedAt: number,
    private readonly client: Pg.Client,
    private readonly queryTimeout: Duration.Duration | undefined,
    private readonly statements: PreparedStatements | undefined
  ) {
    // These listeners stay for good: an `error` event without one would end the process.
    client.on("error", (cause) => this.end(cause))
    client.on("end", () => this.end(new Error("Connection terminated unexpectedly")))
  }

  readonly isOpen = (): boolean => this.ended === undefined

  readonly onClose = (listener: (cause: unknown) => void): void => {
    if (this.ended !== undefined) listener(this.ended.cause)
    else this.listeners.push(listener)
  }

  readonly destroy = (): void => {
    if (this.ended !== undefined) return
    const { connection } = internals(this.client)
    const isIdle = this.inFlight === 0
    // The server would go on with the statement, and hold its locks, until it wants to answer.
    if (!isIdle) this.cancel()
    this.end(closedByUs())
    connection._ending = true
    if (isIdle && connection.stream.writable) {
      connection.stream.write(TERMINATE)
      connection.stream.destroySoon()
    } else {
      connection.stream.destroy()
    }
  }

  readonly submit = (request: Request, done: Done): (() => void) => {
    if (this.ended !== undefined) {
      done(new SessionError({ cause: this.ended.cause, fate: "NotSent" }), undefined)
      return () => undefined
    }
    let query = this.send(request, done, this.statements?.nameOf(request), (unnamed) => {
      query = unnamed
    })
    return () => {
      if (this.settle(query)) {
        this.retire(query.sent, new Error("The statement on this connection was interrupted"))
      }
    }
  }

  /** `resent` is told if a prepared statement turned out to be stale, and was sent again as it is. */
  private send(
    request: Request,
    done: Done,
    name: string | undefined,
    resent: (query: TrackedQuery) => void
  ): TrackedQuery {
    const { params, shape, sql } = request
    const query: TrackedQuery = new TrackedQuery(
      shape === "values"
        ? ({ text: sql, name, rowMode: "array" } as Pg.QueryConfig)
        : name === undefined
          ? sql
          : { text: sql, name },
      params,
      (cause: Error | undefined, result: Result) => {
        if (!this.settle(query)) return
        if (!cause) {
          done(undefined, answerOf(shape, result))
        } else if (
          name !== undefined &&
          this.statements?.isStale(cause, sql) === true &&
          this.isIdle()
        ) {
          resent(this.send(request, done, undefined, resent))
        } else {
          done(this.failure(cause, query.sent), undefined)
        }
      }
    )
    this.inFlight++
    this.client.query(query)
    if (this.queryTimeout !== undefined) this.limit(query, this.queryTimeout, done)
    return query
  }

  /** Not in a transaction, by what the server said last. */
  private isIdle(): boolean {
    return internals(this.client).getTransactionStatus?.() === "I"
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
    Stream.unwrapScoped(
      Effect.gen(this, function* () {
        if (this.ended !== undefined) {
          return yield* new SessionError({ cause: this.ended.cause, fate: "NotSent" })
        }
        const cursor = this.client.query(new Cursor<Row>(request.sql, [...request.params]))
        this.inFlight++
        let exhausted = false
        yield* Effect.addFinalizer(() =>
          Effect.zipRight(
            exhausted || this.ended !== undefined ? Effect.void : this.closeCursor(cursor),
            Effect.sync(() => this.inFlight--)
          )
        )
        return Stream.repeatEffectChunkOption(
          Effect.async<Chunk.Chunk<Row>, Option.Option<SessionError>>((resume) => {
            cursor.read(FETCH_SIZE, (cause, rows) => {
              if (cause instanceof Error) {
                exhausted = true
                resume(Effect.fail(Option.some(this.failure(cause, true))))
              } else if (rows.length > 0) {
                resume(Effect.succeed(Chunk.unsafeFromArray(rows)))
              } else {
                exhausted = true
                resume(Effect.fail(Option.none()))
              }
            })
          })
        )
      })
    )

  get notifications(): Stream.Stream<Notification, SessionError> {
    return Stream.asyncPush<Notification, SessionError>((emit) =>
      Effect.acquireRelease(
        Effect.sync(() => {
          const listener = (message: Pg.Notification) =>
            emit.single({ channel: message.channel, payload: message.payload ?? "" })
          this.client.on("notification", listener)
          this.onClose((cause) => emit.fail(new SessionError({ cause, fate: "Unanswered" })))
          return listener
        }),
        (listener) => Effect.sync(() => this.client.off("notification", listener))
      )
    )
  }

  /** The session is over: from here on it is used for nothing. */
  private end(cause: unknown): void {
    if (this.ended !== undefined) return
    this.ended = { cause }
    for (const listener of this.listeners.splice(0)) listener(cause)
  }

  /** Whoever comes first, the answer, the timeout or the interruption, has the say. */
  private settle(query: TrackedQuery): boolean {
    if (query.settled) return false
    query.settled = true
    this.inFlight--
    if (query.timer !== undefined) clearTimeout(query.timer)
    return true
  }

  private limit(query: TrackedQuery, timeout: Duration.Duration, done: Done): void {
    query.timer = setTimeout(() => {
      if (!this.settle(query)) return
      const cause = new NoAnswer({ timeout })
      this.retire(query.sent, cause)
      done(new SessionError({ cause, fate: query.sent ? "Unanswered" : "NotSent" }), undefined)
    }, Duration.toMillis(timeout))
  }

  private failure(cause: unknown, sent: boolean): SessionError {
    if (isFatal(cause)) this.end(cause)
    // A server's ERROR is its answer; so is what the driver refuses to encode while the session lives.
    const isAnswer = !isFatal(cause) && (isServerError(cause) || this.ended === undefined)
    const fate: Fate = isAnswer ? "Answered" : sent ? "Unanswered" : "NotSent"
    return new SessionError({ cause, fate })
  }

  /** Gives up a connection with a statement in flight, and asks the server to cancel exactly that one. */
  private retire(sent: boolean, cause: Error): void {
    if (this.ended !== undefined) return
    if (sent) this.cancel()
    this.end(cause)
    const { connection } = internals(this.client)
    connection._ending = true
    connection.stream.destroy()
  }

  private cancel(): void {
    const { processID, secretKey } = internals(this.client)
    if (processID === null || secretKey === null) return
    const message = Buffer.alloc(16)
    message.writeInt32BE(16, 0)
    message.writeInt32BE(80_877_102, 4)
    message.writeInt32BE(processID, 8)
    message.writeInt32BE(secretKey, 12)
    const socket = Net.connect(this.host.port, this.host.host)
    socket.unref()
    socket.setTimeout(CANCEL_TIMEOUT_MILLIS, () => socket.destroy())
    socket.on("error", () => socket.destroy())
    // The server answers by closing: then the request has been seen.
    socket.on("end", () => socket.destroy())
    socket.write(message)
  }

  private closeCursor(cursor: Cursor<Row>): Effect.Effect<void> {
    return Effect.async<void>((resume) => {
      const timer = setTimeout(() => {
        this.retire(true, new Error("The stream on this connection was interrupted"))
        resume(Effect.void)
      }, CLOSE_CURSOR_TIMEOUT_MILLIS)
      cursor.close(() => {
        clearTimeout(timer)
        resume(Effect.void)
      })
    })
  }
}
