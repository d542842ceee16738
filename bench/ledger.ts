/**
 * Writers that put down what they were told of each of their writes, and the comparison with what the database has.
 * The table has no key: a write that was run twice shows.
 */
import type { SqlClient, SqlError } from "@effect/sql"
import type { Scope } from "effect"
import { Cause, Deferred, Effect, Exit, Fiber, FiberId, Option } from "effect"
import * as Failover from "../src/Failover.js"
import type { PostgresCluster, PostgresClusterError } from "../src/testing/PostgresCluster.js"

export interface Ledger {
  /** The first write that is acknowledged from now on, in nanoseconds of `process.hrtime`. */
  readonly nextAck: Effect.Effect<Effect.Effect<bigint>>
  readonly acked: () => number
  /** Lets the writes under way end, and starts no more. */
  readonly stop: Effect.Effect<void>
  readonly told: Told
}

/** Ids by what their writers were told. */
export interface Told {
  readonly acknowledged: Array<number>
  readonly unknown: Array<number>
  readonly notExecuted: Array<number>
  readonly defects: Array<unknown>
  /** Anything else, and how often. */
  readonly others: Map<string, number>
}

export interface Verdict {
  readonly lost: number
  readonly duplicated: number
  /** Said not to have been executed, and is there. */
  readonly ghosts: number
}

export const createTable = "create table ledger (id bigint not null)"

/** One in four writers uses a transaction. */
const TRANSACTIONS = 4

/** A service does something else now and then: some connections are idle when the primary dies. */
const PAUSE = "1 millis"

const outcomeOf = (error: Failover.OutcomeError | SqlError.SqlError | Error) =>
  "outcome" in error ? error.outcome : undefined

/** The writers end with the scope, which has to close before the client's: without it they would only spin. */
export const start = (
  sql: SqlClient.SqlClient,
  writers: number
): Effect.Effect<Ledger, never, Scope.Scope> =>
  Effect.gen(function* () {
    const told: Told = {
      acknowledged: [],
      unknown: [],
      notExecuted: [],
      defects: [],
      others: new Map()
    }
    let lastId = 0
    let stopped = false
    let waiting: Deferred.Deferred<bigint> | undefined

    const note = (id: number, exit: Exit.Exit<unknown, Error>): void => {
      if (Exit.isSuccess(exit)) {
        const at = process.hrtime.bigint()
        told.acknowledged.push(id)
        if (waiting !== undefined) Deferred.unsafeDone(waiting, Exit.succeed(at))
        waiting = undefined
        return
      }
      const error = Option.getOrUndefined(Cause.failureOption(exit.cause))
      if (error === undefined) {
        told.defects.push(Cause.squash(exit.cause))
        return
      }
      const outcome = outcomeOf(error)
      if (outcome === "Unknown") told.unknown.push(id)
      else if (outcome !== undefined) told.notExecuted.push(id)
      if (outcome === "Unknown" || outcome === "RolledBack") return
      const text = `${error.name}: ${error.message}`
      told.others.set(text, (told.others.get(text) ?? 0) + 1)
    }

    const writer = (index: number) => {
      const write = (id: number) => sql`INSERT INTO ledger (id) VALUES (${id})`
      const isTransaction = index % TRANSACTIONS === TRANSACTIONS - 1
      return Effect.whileLoop({
        while: () => !stopped,
        body: () => {
          const id = ++lastId
          return (isTransaction ? sql.withTransaction(write(id)) : write(id)).pipe(
            Failover.outcomes,
            Effect.exit,
            Effect.tap((exit) => {
              note(id, exit)
              return Exit.isSuccess(exit) ? Effect.sleep(PAUSE) : Effect.void
            })
          )
        },
        step: () => {}
      })
    }

    const fibers = yield* Effect.forEach(Array.from({ length: writers }), (_, index) =>
      Effect.forkScoped(writer(index))
    )
    return {
      nextAck: Effect.sync(() => {
        const next = (waiting ??= Deferred.unsafeMake<bigint>(FiberId.none))
        return Deferred.await(next)
      }),
      acked: () => told.acknowledged.length,
      stop: Effect.suspend(() => {
        stopped = true
        return Fiber.joinAll(fibers)
      }).pipe(Effect.asVoid),
      told
    }
  })

/** Compares what was told with what the present primary has. */
export const verify = (
  cluster: PostgresCluster,
  told: Told
): Effect.Effect<Verdict, PostgresClusterError> =>
  Effect.gen(function* () {
    const rows = yield* cluster.query(
      yield* cluster.primary,
      "select id::integer as id, count(*)::integer as times from ledger group by id"
    )
    const times = new Map(rows.map((row) => [Number(row["id"]), Number(row["times"])]))
    const count = (ids: ReadonlyArray<number>, is: (times: number) => boolean) =>
      ids.filter((id) => is(times.get(id) ?? 0)).length
    return {
      lost: count(told.acknowledged, (_) => _ === 0),
      duplicated: count([...told.acknowledged, ...told.unknown], (_) => _ > 1),
      ghosts: count(told.notExecuted, (_) => _ > 0)
    }
  })
