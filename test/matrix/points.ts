/** The work of each cell, and how it is known that it has come to the point. */
import { Effect, Stream } from "effect"
import { eventually } from "../support/waiting.js"
import { endReplication } from "./replication.js"
import type { Stage } from "./stage.js"
import type { Cell, Context, Point } from "./vocabulary.js"

export interface Plan {
  readonly work: Effect.Effect<unknown, unknown>
  /** Waits until the work is where it is to be hit. */
  readonly arrived: Effect.Effect<void>
  /** All of these are there afterwards, or none is. */
  readonly ids: ReadonlyArray<number>
}

/** Only the statement that is hit has this mark. */
const MARK = "/* the third */"

export const STREAMED = 1000

/** By its third fetch: two have been delivered by then. */
const HELD_FROM = 300

const isNested = (context: Context): boolean => context === "nested"

const isIn = (state: string, query: string) => (backend: { state: string; query: string }) =>
  backend.state === state && backend.query.includes(query)

/** `body` in its context: rows 1 and 2 are written by the transactions around it. */
const inContext = (
  { db: { client: sql, table } }: Stage,
  context: Context,
  body: Effect.Effect<unknown, unknown>
): Effect.Effect<unknown, unknown> => {
  const insert = (id: number) => sql`INSERT INTO ${sql(table)} ${sql.insert({ id })}`
  switch (context) {
    case "autocommit":
      return body
    case "nested":
      return sql.withTransaction(
        Effect.zipRight(insert(1), sql.withTransaction(Effect.zipRight(insert(2), body)))
      )
    case "transaction":
    case "status":
    case "ledger":
      return sql.withTransaction(Effect.zipRight(insert(1), body))
  }
}

/** Without the third row. */
const outerIds = (context: Context): ReadonlyArray<number> =>
  context === "autocommit" ? [] : isNested(context) ? [1, 2] : [1]

const streamed = ({ db: { client: sql, table } }: Stage) =>
  sql
    .unsafe(
      `SELECT n + CASE WHEN n = ${HELD_FROM} THEN ${table}_gate() ELSE 0 END AS n FROM generate_series(1, ${STREAMED}) AS n`
    )
    .stream.pipe(
      Stream.runCount,
      Effect.filterOrDie(
        (n) => n === STREAMED,
        (n) => new Error(`the stream ended after ${n} of ${STREAMED} rows as if it were complete`)
      )
    )

/** After COMMIT has come to the gate, it is executed, and its reply lost. */
const committedUnanswered = (
  stage: Stage,
  atGate: Effect.Effect<void> = Effect.void
): Effect.Effect<void> =>
  stage.atGate.pipe(
    Effect.zipRight(atGate),
    Effect.zipRight(stage.dropReplies),
    Effect.zipRight(stage.openGate),
    Effect.zipRight(
      eventually(
        "the commit at the server",
        Effect.map(stage.countOf(1), (n) => n === 1)
      )
    )
  )

export const plan = ({ context, fault, point }: Cell, stage: Stage): Plan => {
  const { atGate, db, dropReplies, pause, paused, seen } = stage
  const { client: sql, table } = db
  const insert = (id: number) => sql`INSERT INTO ${sql(table)} ${sql.insert({ id })}`
  const third = sql.unsafe(`${MARK} INSERT INTO ${table} VALUES (3)`)
  const around = (body: Effect.Effect<unknown, unknown>) => inContext(stage, context, body)
  const ids = [...outerIds(context), 3]

  const plans: Readonly<Record<Exclude<Point, "listen">, () => Plan>> = {
    beforeSend: () => ({ ids, work: Effect.zipRight(pause, third), arrived: paused }),
    between: () => ({ ids, work: around(Effect.zipRight(pause, third)), arrived: paused }),
    sent: () => ({
      ids,
      work: around(sql.unsafe(`${MARK} INSERT INTO ${table} SELECT 3 + ${table}_gate()`)),
      arrived: atGate
    }),
    executed: () => ({
      ids,
      work: around(Effect.zipRight(dropReplies, third)),
      arrived:
        context === "autocommit"
          ? eventually(
              "the row at the server",
              Effect.map(stage.countOf(3), (n) => n === 1)
            )
          : seen("the third statement to be executed", isIn("idle in transaction", MARK))
    }),
    begin: () => ({
      ids,
      work: Effect.zipRight(dropReplies, around(third)),
      arrived: seen("BEGIN to be executed", isIn("idle in transaction", "BEGIN"))
    }),
    savepoint: () => ({
      ids: [1, 3],
      work: sql.withTransaction(
        Effect.all([insert(1), dropReplies, sql.withTransaction(third)], { discard: true })
      ),
      arrived: seen("SAVEPOINT to be executed", isIn("idle in transaction", "SAVEPOINT"))
    }),
    mark: () => ({
      ids,
      work: around(Effect.zipRight(third, dropReplies)),
      arrived: seen(
        "the mark to be written",
        ({ query, state }) => state === "idle in transaction" && /effect.failover/.test(query)
      )
    }),
    commitSent: () => ({ ids, work: around(third), arrived: atGate }),
    commitExecuted: () => ({ ids, work: around(third), arrived: committedUnanswered(stage) }),
    commitCut: () => ({
      ids,
      work: around(third),
      arrived: committedUnanswered(stage, Effect.orDie(endReplication(stage)))
    }),
    commitLost: () => ({ ids, work: around(third), arrived: committedUnanswered(stage) }),
    commitReused: () => ({ ids, work: around(third), arrived: committedUnanswered(stage) }),
    rollback: () => {
      const failing = Effect.all([third, dropReplies, Effect.fail("its own")], { discard: true })
      return {
        ids,
        // The outer transaction goes on as if nothing had been lost.
        work: isNested(context)
          ? sql.withTransaction(
              Effect.all(
                [
                  insert(1),
                  Effect.ignore(sql.withTransaction(Effect.zipRight(insert(2), failing))),
                  insert(2)
                ],
                { discard: true }
              )
            )
          : around(failing),
        arrived: isNested(context)
          ? seen("ROLLBACK TO to be executed", isIn("idle in transaction", "ROLLBACK TO"))
          : seen("ROLLBACK to be executed", isIn("idle", "ROLLBACK"))
      }
    },
    stream: () => ({
      ids: outerIds(context),
      work: around(streamed(stage)),
      arrived:
        fault === "dropped"
          ? Effect.all(
              [
                atGate,
                dropReplies,
                stage.openGate,
                seen(
                  "the third fetch to be executed",
                  ({ query, state, waits }) =>
                    state === "active" &&
                    waits === "ClientRead" &&
                    query.includes("generate_series")
                )
              ],
              { discard: true }
            )
          : atGate
    })
  }
  return point === "listen" ? { ids: [], work: Effect.void, arrived: Effect.void } : plans[point]()
}
