/**
 * Writers with unique ids, and the checker of what they were told: every acknowledged write is in the
 * table exactly once, one that was not executed (or rolled back) not at all, an unknown one at most
 * once, and a transaction as a whole or not at all.
 */
import { assert } from "@effect/vitest"
import { Cause, Effect, Exit, Fiber, Option } from "effect"
import type { Database } from "./database.js"
import { allGivenBack } from "./database.js"
import { eventually, within } from "./waiting.js"

export type Fate = "acknowledged" | "NotExecuted" | "RolledBack" | "Unknown" | "untyped" | "defect"

interface Entry {
  readonly ids: ReadonlyArray<number>
  readonly exit: Exit.Exit<unknown, unknown>
}

export const fateOf = (exit: Exit.Exit<unknown, unknown>): Fate => {
  if (Exit.isSuccess(exit)) return "acknowledged"
  if (Cause.isDie(exit.cause)) return "defect"
  if (Cause.isInterruptedOnly(exit.cause)) return "Unknown"
  const failure: any = Option.getOrUndefined(Cause.failureOption(exit.cause))
  const outcome = failure?.cause?.outcome
  return outcome === "NotExecuted" || outcome === "RolledBack" || outcome === "Unknown"
    ? outcome
    : "untyped"
}

const violationOf = ({ exit, ids }: Entry, counts: ReadonlyMap<number, number>) => {
  const found = ids.map((id) => counts.get(id) ?? 0)
  const fate = fateOf(exit)
  const isRight =
    fate === "acknowledged"
      ? found.every((n) => n === 1)
      : fate === "Unknown"
        ? found.every((n) => n <= 1 && n === found[0])
        : (fate === "NotExecuted" || fate === "RolledBack") && found.every((n) => n === 0)
  const told = Exit.isFailure(exit) ? `: ${Cause.pretty(exit.cause)}` : ""
  return isRight ? [] : [`${ids.join()} was ${fate}, and is there ${found.join()} times${told}`]
}

export class History {
  readonly entries: Array<Entry> = []
  private next = 1

  constructor(private readonly db: Database) {}

  count(fate: Fate): number {
    return this.entries.filter(({ exit }) => fateOf(exit) === fate).length
  }

  private record(
    ids: ReadonlyArray<number>,
    work: Effect.Effect<unknown, unknown>
  ): Effect.Effect<void> {
    return Effect.uninterruptibleMask((restore) =>
      Effect.map(Effect.exit(restore(work)), (exit) => void this.entries.push({ ids, exit }))
    )
  }

  private insert(id: number) {
    const { client: sql, table } = this.db
    return sql`INSERT INTO ${sql(table)} ${sql.insert({ id })}`
  }

  readonly statement: Effect.Effect<void> = Effect.suspend(() => {
    const id = this.next++
    return this.record([id], this.insert(id))
  })

  readonly transaction: Effect.Effect<void> = Effect.suspend(() => {
    const ids = [this.next++, this.next++]
    return this.record(
      ids,
      this.db.client.withTransaction(Effect.forEach(ids, (id) => this.insert(id)))
    )
  })

  /** Asks the primary, past the client. */
  readonly verify: Effect.Effect<void> = Effect.suspend(() =>
    Effect.gen(this, function* () {
      const { cluster, table } = this.db
      const rows = yield* cluster.query(
        yield* cluster.primary,
        `select id::int as id, count(*)::int as n from ${table} group by id`
      )
      const counts = new Map(rows.map(({ id, n }) => [Number(id), Number(n)]))
      const violations = this.entries.flatMap((entry) => violationOf(entry, counts))
      const known = new Set(this.entries.flatMap(({ ids }) => ids))
      const strays = [...counts.keys()].filter((id) => !known.has(id))
      assert.deepStrictEqual(
        { violations: violations.slice(0, 5), strays },
        { violations: [], strays: [] }
      )
    })
  ).pipe(Effect.orDie)
}

export interface Load {
  readonly history: History
  /** Waits until this many more pieces of work are acknowledged. */
  readonly acknowledged: (more: number) => Effect.Effect<void>
  /** Lets every writer finish what it began, and checks what they were told. */
  readonly end: Effect.Effect<void>
}

/** Writers that write until the load is ended: statements, and a transaction in every third turn. */
export const load = (db: Database, writers = 8) =>
  Effect.gen(function* () {
    const history = new History(db)
    let stopped = false
    const writer = Effect.whileLoop({
      while: () => !stopped,
      body: () =>
        Effect.zipRight(
          history.statement,
          Effect.zipRight(
            Effect.yieldNow(),
            history.entries.length % 3 === 0 ? history.transaction : history.statement
          )
        ),
      step: () => {}
    })
    const fibers = yield* Effect.forkScoped(
      Effect.all(
        Array.from({ length: writers }, () => writer),
        { concurrency: "unbounded", discard: true }
      )
    )
    const acknowledged = (more: number) =>
      Effect.suspend(() => {
        const goal = history.count("acknowledged") + more
        return eventually(
          `${more} more acknowledged writes`,
          Effect.sync(() => history.count("acknowledged") >= goal)
        )
      })
    yield* acknowledged(20)
    return {
      history,
      acknowledged,
      end: Effect.suspend(() => {
        stopped = true
        return Fiber.join(fibers).pipe(
          within("the writers to finish"),
          Effect.zipRight(history.verify),
          Effect.zipRight(allGivenBack(db))
        )
      })
    } satisfies Load
  })
