/**
 * The port to a database driver: open ONE physical connection to ONE host, run, destroy. Everything
 * else (pooling, generations, monitoring, failover, transactions) is written once on top of it.
 *
 * What a connector owes:
 *
 * - `connect` and `execute` fail with `SessionError` and never with a defect, and are interruptible at once.
 * - `SessionError.fate` says `NotSent` only if nothing of the statement has left this process, and
 *   `Answered` only if the server itself refused it and the session goes on. In doubt: `Unanswered`.
 * - A session that broke, by itself or by an interrupted statement, says so through `isOpen` and calls
 *   its `onClose` listener once. It is never used again.
 * - `destroy` takes effect at once, even on a hung host; a statement in flight then fails.
 *
 * @since 0.1.0
 */
import type { Effect, Stream } from "effect"
import { Data, Duration } from "effect"
import type { Host } from "./Host.js"

/**
 * What became of a statement that failed.
 *
 * - `NotSent`: nothing of it has left this process.
 * - `Unanswered`: it was sent, and the connection ended or was given up before its answer.
 * - `Answered`: the server (or the driver, before running it) refused it. The session is fine.
 *
 * @since 0.1.0
 * @category models
 */
export type Fate = "NotSent" | "Unanswered" | "Answered"

/**
 * A driver's error, and what became of the work.
 *
 * @since 0.1.0
 * @category errors
 */
export class SessionError extends Data.TaggedError("SessionError")<{
  readonly cause: unknown
  readonly fate: Fate
}> {}

/**
 * The cause of a `SessionError` whose statement was not answered within the time given for it.
 *
 * @since 0.1.0
 * @category errors
 */
export class NoAnswer extends Data.TaggedError("NoAnswer")<{
  readonly timeout: Duration.Duration
}> {
  override get message(): string {
    return `No answer within ${Duration.toMillis(this.timeout)} ms`
  }
}

/**
 * What a statement is answered with: rows as objects, rows as arrays, the driver's own result, or the
 * server's command tag (`"COMMIT"`).
 *
 * @since 0.1.0
 * @category models
 */
export type ResultShape = "objects" | "values" | "raw" | "command"

/**
 * One statement, compiled.
 *
 * @since 0.1.0
 * @category models
 */
export interface Request {
  readonly sql: string
  readonly params: ReadonlyArray<unknown>
  readonly shape: ResultShape
  /** Not to be prepared, however often it is used. */
  readonly unprepared?: boolean | undefined
}

/**
 * A row whose type the caller knows and the driver does not.
 *
 * @since 0.1.0
 * @category models
 */
// eslint-disable-next-line @typescript-eslint/no-explicit-any -- the row type of @effect/sql's Connection
export type Row = any

/**
 * A notification that the server pushed.
 *
 * @since 0.1.0
 * @category models
 */
export interface Notification {
  readonly channel: string
  readonly payload: string
}

/**
 * What a listener hears: a notification, or that the client has moved and listens to another host now.
 * Notifications that were sent in between are lost, so whoever keeps state by them reads it anew.
 *
 * @since 0.1.0
 * @category models
 */
export type ListenEvent =
  ({ readonly _tag: "Notification" } & Notification) | { readonly _tag: "Moved"; readonly to: Host }

/**
 * One physical connection. At most one statement runs on it at a time.
 *
 * @since 0.1.0
 * @category models
 */
export interface Session {
  readonly host: Host
  /** Milliseconds of the `Clock` at which it was opened. */
  readonly openedAt: number
  /** Whether it can still be used. Free of charge: asked before each statement. */
  readonly isOpen: () => boolean
  /** Calls the listener once when the session breaks; at once if it is broken already. */
  readonly onClose: (listener: (cause: unknown) => void) => void
  readonly execute: (request: Request) => Effect.Effect<Row, SessionError>
  /**
   * `execute` without an Effect around it, for drivers that have callbacks anyway: it is what a
   * statement costs while all is well. Calls `done` once. What it returns gives the statement up:
   * after that, `done` is not called any more, and the session is broken.
   */
  readonly submit?:
    | ((
        request: Request,
        done: (error: SessionError | undefined, result: Row) => void
      ) => () => void)
    | undefined
  readonly stream: (request: Request) => Stream.Stream<Row, SessionError>
  /** Notifications that the server pushes to this session, and its end as a failure. */
  readonly notifications: Stream.Stream<Notification, SessionError>
  /** Cuts the connection off at once; says goodbye to the server if that takes no waiting. */
  readonly destroy: () => void
}

/**
 * @since 0.1.0
 * @category models
 */
export interface Connector {
  /** OpenTelemetry's `db.system.name`. */
  readonly system: string
  /** Opens one connection. An interrupted attempt leaves nothing behind. */
  readonly connect: (
    host: Host,
    options: { readonly timeout: Duration.Duration }
  ) => Effect.Effect<Session, SessionError>
}
