/**
 * Where a statement goes: to the writer or to a reader, as its fiber asks for, and as the client's mode says
 * where it does not.
 *
 * Within `Readers.readYourWrites` it is noted that something was run on the writer, and the next read asks for
 * the writer's position before it goes to a reader: one question for all writes in between.
 *
 * @internal
 */
import type { SqlConnection, SqlError } from "@effect/sql"
import type { Fiber, Scope } from "effect"
import { Duration, Effect, Stream } from "effect"
import type { Request, Row } from "../Connector.js"
import type { FailoverFailed } from "../Errors.js"
import type { FailoverMode } from "../Failover.js"
import type { HostPool } from "../HostPool.js"
import type { Rejection } from "../TopologyState.js"
import * as Connection from "./connection.js"
import type { Restore } from "./leases.js"
import type { Reads } from "./readers/reads.js"
import type { Aim, Defaults, Reading, Writes } from "./reading.js"
import { aimOf, complete, currentAim, currentHedging, currentWrites } from "./reading.js"
import type { Runner } from "./runner.js"
import type { TransactionConnection } from "./transaction.js"

type AnyFiber = Fiber.RuntimeFiber<unknown, unknown>

/** @internal */
export interface Routes {
  readonly execute: (
    fiber: AnyFiber,
    request: Request,
    annotate?: (pool: HostPool) => void,
    /** The statement's own. */
    aim?: Aim
  ) => Effect.Effect<Row, SqlError.SqlError>
  /** Not bound to any host: each of its statements is routed by itself. */
  readonly connection: (fiber: AnyFiber) => SqlConnection.Connection
  readonly reserve: Effect.Effect<SqlConnection.Connection, SqlError.SqlError, Scope.Scope>
  readonly begin: (
    fiber: AnyFiber,
    owner: symbol,
    sql: string,
    restore: Restore
  ) => Effect.Effect<TransactionConnection, SqlError.SqlError>
  /** The pool that a statement would be sent to now, as far as that can be told. */
  readonly pool: (fiber: AnyFiber) => HostPool | undefined
  /** Has a host that statements may go to by default. */
  readonly ready: Effect.Effect<void, FailoverFailed | Rejection>
  /** A transaction that notes when it has ended. */
  readonly noting: (transaction: WithTransaction) => WithTransaction
}

/** @internal */
export type WithTransaction = <R, E, A>(
  self: Effect.Effect<A, E, R>
) => Effect.Effect<A, E | SqlError.SqlError, R>

/** @internal */
export const make = (options: {
  readonly runner: Runner
  readonly reads: Reads
  readonly mode: FailoverMode
  readonly maxStaleness: Duration.Duration | undefined
  /** Connects to the writer. */
  readonly recover: Effect.Effect<unknown, FailoverFailed | Rejection>
  /** The writer's position; none if positions cannot be told. */
  readonly position: Effect.Effect<string | undefined, SqlError.SqlError>
}): Routes => {
  const { maxStaleness, mode, reads, runner } = options
  const defaults: Defaults = {
    mode: mode === "strict-writer" ? "reader-or-writer" : mode,
    maxStaleness: maxStaleness === undefined ? undefined : Duration.toMillis(maxStaleness)
  }
  const byDefault = mode === "strict-writer" ? undefined : complete(aimOf({}), defaults)
  /** Undefined: the writer. */
  const readingOf = (
    fiber: AnyFiber,
    aim: Aim = fiber.getFiberRef(currentAim)
  ): Reading | undefined => {
    return aim === undefined ? byDefault : aim === "writer" ? undefined : complete(aim, defaults)
  }

  const note =
    (writes: Writes | undefined) =>
    <A, E, R>(self: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
      writes === undefined
        ? self
        : Effect.ensuring(
            self,
            Effect.sync(() => writes.version++)
          )

  /** The reading that sees the writes. */
  const after = (reading: Reading, writes: Writes): Effect.Effect<Reading, SqlError.SqlError> => {
    const seeing = (at: string): Reading => ({ ...reading, after: [...reading.after, at] })
    const { position, version } = writes
    if (version === 0) return Effect.succeed(reading)
    if (position?.of === version) return Effect.succeed(seeing(position.at))
    return Effect.map(options.position, (at) => {
      if (at === undefined) return { ...reading, onWriter: true }
      if (version > (writes.position?.of ?? 0)) writes.position = { of: version, at }
      return seeing(at)
    })
  }

  const withReading = <A, R>(
    fiber: AnyFiber,
    reading: Reading,
    read: (reading: Reading) => Effect.Effect<A, SqlError.SqlError, R>
  ): Effect.Effect<A, SqlError.SqlError, R> => {
    const writes = fiber.getFiberRef(currentWrites)
    return writes === undefined ? read(reading) : Effect.flatMap(after(reading, writes), read)
  }

  const execute: Routes["execute"] = (fiber, request, annotate, aim) => {
    const reading = readingOf(fiber, aim)
    if (reading === undefined) {
      return note(fiber.getFiberRef(currentWrites))(runner.execute(request, annotate))
    }
    const isHedged = fiber.getFiberRef(currentHedging)
    return withReading(fiber, reading, (reading) =>
      isHedged
        ? reads.hedged(reading, request, annotate)
        : reads.execute(reading, request, annotate)
    )
  }

  const streamOn = (fiber: AnyFiber, request: Request): Stream.Stream<Row, SqlError.SqlError> => {
    const reading = readingOf(fiber)
    if (reading === undefined) {
      return Stream.ensuring(
        runner.stream(request),
        note(fiber.getFiberRef(currentWrites))(Effect.void)
      )
    }
    return Stream.unwrap(
      withReading(fiber, reading, (reading) => Effect.succeed(reads.stream(reading, request)))
    )
  }

  const onWriter = Connection.make(runner)

  return {
    execute,
    connection: (fiber) =>
      readingOf(fiber) === undefined && fiber.getFiberRef(currentWrites) === undefined
        ? onWriter
        : Connection.make({
            execute: (request) => execute(fiber, request),
            stream: (request) => streamOn(fiber, request)
          }),
    reserve: Effect.withFiberRuntime((fiber) => {
      const reading = readingOf(fiber)
      if (reading !== undefined) return withReading(fiber, reading, reads.reserve)
      const writes = fiber.getFiberRef(currentWrites)
      return writes === undefined
        ? runner.reserve
        : Effect.zipRight(
            Effect.addFinalizer(() => note(writes)(Effect.void)),
            runner.reserve
          )
    }),
    begin: (fiber, owner, sql, restore) => {
      const reading = readingOf(fiber)
      return reading === undefined
        ? runner.begin(owner, sql, restore)
        : withReading(fiber, reading, (reading) => reads.begin(reading, owner, sql, restore))
    },
    ready: byDefault === undefined ? Effect.asVoid(options.recover) : reads.ready(byDefault),
    pool: (fiber) => (readingOf(fiber) === undefined ? runner.pool() : undefined),
    noting: (transaction) => (self) =>
      Effect.withFiberRuntime((fiber) =>
        note(readingOf(fiber) === undefined ? fiber.getFiberRef(currentWrites) : undefined)(
          transaction(self)
        )
      )
  }
}
