/**
 * A service's work: single writes, transactions of two rows, reads. The same for both clients; how a
 * write is sent, retried and judged is each service's own code (`library.ts`, `plain.ts`).
 */
import { SqlClient, type SqlError } from "@effect/sql"
import { Effect, Fiber, Random, Schedule, type Scope } from "effect"
import type { Kind, Ledger, Verdict } from "./ledger.js"

export const FIBERS = { singles: 16, transactions: 6, reads: 2 }

/** For both clients: one for each fiber, so that nobody waits for a connection. */
export const MAX_CONNECTIONS = FIBERS.singles + FIBERS.transactions + FIBERS.reads

/** How often both services retry: at once would be a storm, and seconds would be all that one measures. */
export const RETRY = Schedule.spaced("100 millis").pipe(
  Schedule.jittered,
  Schedule.upTo("30 seconds")
)

/** Between two pieces of work of one fiber. */
const THINK_MILLIS = 2

/** After a failure, as a caller of the service would. */
const AFTER_FAILURE = "100 millis"

/** No unique constraint: a write that was done twice has to show. */
export const SCHEMA = `
  CREATE TABLE entry (id bigint NOT NULL, leg text NOT NULL, amount integer NOT NULL);
  CREATE INDEX entry_by_id ON entry (id);
`

export type Write = Effect.Effect<unknown, SqlError.SqlError, SqlClient.SqlClient>

/** A service's way to do a write: it retries what it thinks it may, and says what it knows at the end. */
export type Serve = (write: Write) => Effect.Effect<Verdict, never, SqlClient.SqlClient>

const single = (id: number): Write =>
  Effect.flatMap(
    SqlClient.SqlClient,
    (sql) => sql`INSERT INTO entry ${sql.insert({ id, leg: "payment", amount: 10 })}`
  )

const transaction = (id: number): Write =>
  Effect.flatMap(SqlClient.SqlClient, (sql) =>
    sql.withTransaction(
      Effect.zipRight(
        sql`INSERT INTO entry ${sql.insert({ id, leg: "debit", amount: -10 })}`,
        sql`INSERT INTO entry ${sql.insert({ id, leg: "credit", amount: 10 })}`
      )
    )
  )

const writes: Record<Kind, (id: number) => Write> = { single, transaction }

export interface Workload {
  /** Lets everybody finish what is under way. */
  readonly stop: Effect.Effect<void>
}

/** How long `stop` waits for what is under way; it stays without a verdict then. */
const STOP_BOUND = "10 seconds"

export const start = (
  ledger: Ledger,
  serve: Serve
): Effect.Effect<Workload, never, SqlClient.SqlClient | Scope.Scope> =>
  Effect.gen(function* () {
    let stopping = false

    const think = Effect.flatMap(Random.nextRange(0, THINK_MILLIS), Effect.sleep)

    const writer = (kind: Kind) =>
      Effect.suspend(() => {
        const id = ledger.begin(kind)
        const attempt = Effect.suspend(() => {
          ledger.attempt(id)
          return writes[kind](id)
        })
        return serve(Effect.tapErrorCause(attempt, () => ledger.erred)).pipe(
          Effect.tap((verdict) => ledger.settle(id, verdict)),
          Effect.flatMap((verdict) =>
            verdict === "acknowledged" ? think : Effect.sleep(AFTER_FAILURE)
          )
        )
      })

    const reader = Effect.gen(function* () {
      const sql = yield* SqlClient.SqlClient
      const id = yield* Random.nextIntBetween(1, ledger.entries.size + 2)
      yield* sql`SELECT leg, amount FROM entry WHERE id = ${id}`
      ledger.read()
      yield* think
      // Reading twice is fine: it is repeated whatever the error.
    }).pipe(Effect.retry(RETRY), Effect.ignore)

    const untilStopped = <R>(work: Effect.Effect<void, never, R>) =>
      Effect.whileLoop({ while: () => !stopping, body: () => work, step: () => {} })

    const crew = [
      ...Array.from({ length: FIBERS.singles }, () => writer("single")),
      ...Array.from({ length: FIBERS.transactions }, () => writer("transaction")),
      ...Array.from({ length: FIBERS.reads }, () => reader)
    ]
    // Told to end with the scope, and not waited for: `@effect/sql` waits for a connection
    // uninterruptibly, and Ctrl-C must not.
    const fibers = yield* Effect.acquireRelease(
      Effect.forEach(crew, (work) => Effect.forkDaemon(Effect.interruptible(untilStopped(work)))),
      (fibers) => Effect.forEach(fibers, Fiber.interruptFork, { discard: true })
    )
    return {
      stop: Effect.suspend(() => {
        stopping = true
        return Effect.forEach(fibers, Fiber.await, { discard: true })
      }).pipe(Effect.timeoutOption(STOP_BOUND), Effect.asVoid)
    }
  })
