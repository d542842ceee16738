/** Workers that do every kind of work, each piece with ids of its own. */
import type { SqlClient } from "@effect/sql"
import { Effect, Random, Schedule } from "effect"
import { Failover } from "effect-failover"
import type * as Pg from "effect-failover/layers/Pg"
import type { History, Work } from "./history.js"

/** Clients of one cluster; they share its topology. */
export interface Clients {
  readonly plain: Pg.PgFailover
  readonly ledger: Pg.PgFailover
  /** Not on Aurora, which cannot tell. */
  readonly status: Pg.PgFailover | undefined
}

/** Without any constraint: a write that came twice is there twice. */
export const TABLE = "chaos"
/** For writes that may come twice. */
export const KEYED = "chaos_keyed"

const insert = (sql: SqlClient.SqlClient, id: number) =>
  sql`INSERT INTO ${sql(TABLE)} ${sql.insert({ id })}`

const pair = (sql: SqlClient.SqlClient, ids: ReadonlyArray<number>) =>
  sql.withTransaction(Effect.forEach(ids, (id) => insert(sql, id)))

/** Long enough for every failover of the run; it is the outcome that ends most of them. */
const retries = Schedule.spaced("20 millis").pipe(Schedule.upTo("20 seconds"))

type Make = (history: History, random: Random.Random) => Effect.Effect<Work>

const kinds = ({ ledger, plain, status }: Clients): ReadonlyArray<Make> => {
  const sql = plain.client
  const withFailover = Effect.provideService(Failover.Failover, plain.failover)
  const made =
    (kind: string, width: number, run: (ids: ReadonlyArray<number>) => Work["run"]): Make =>
    (history) =>
      Effect.sync(() => {
        const ids = Array.from({ length: width }, () => history.id())
        return { kind, ids, never: [], run: run(ids) }
      })
  const each = (ids: ReadonlyArray<number>) => Effect.forEach(ids, (id) => insert(sql, id))

  const undone: Make = (history) =>
    Effect.sync(() => {
      const [outer, inner] = [history.id(), history.id()]
      return {
        kind: "nested, the inner one undone",
        ids: [outer],
        never: [inner],
        run: sql.withTransaction(
          Effect.zipRight(
            insert(sql, outer),
            Effect.ignore(
              sql.withTransaction(Effect.zipRight(insert(sql, inner), Effect.fail("its own")))
            )
          )
        )
      }
    })

  const interrupted: Make = (history, random) =>
    Effect.map(random.nextIntBetween(0, 6), (millis) => {
      const ids = [history.id(), history.id()]
      return {
        kind: "transaction, interrupted",
        ids,
        never: [],
        run: Effect.raceFirst(
          pair(sql, ids),
          Effect.zipRight(Effect.sleep(millis), Effect.interrupt)
        )
      }
    })

  return [
    made("statement", 1, each),
    made("transaction", 2, (ids) => pair(sql, ids)),
    made("nested", 3, ([first = 0, ...rest]) =>
      sql.withTransaction(Effect.zipRight(insert(sql, first), pair(sql, rest)))
    ),
    undone,
    interrupted,
    made("transaction, rolled back", 2, (ids) =>
      sql.withTransaction(Effect.zipRight(each(ids), Effect.fail("its own")))
    ),
    made("retryTransaction", 2, (ids) =>
      pair(sql, ids).pipe(Failover.retryTransaction(retries), withFailover)
    ),
    made("idempotent", 1, ([id = 0]) =>
      Failover.idempotent(
        sql`INSERT INTO ${sql(KEYED)} ${sql.insert({ id })} ON CONFLICT DO NOTHING`
      ).pipe(withFailover)
    ),
    made("transaction, ledger", 2, (ids) => pair(ledger.client, ids)),
    ...(status === undefined
      ? []
      : [made("transaction, transaction-status", 2, (ids) => pair(status.client, ids))])
  ]
}

/** Ends after the piece of work during which it is told to. */
export const worker = (
  clients: Clients,
  history: History,
  options: { readonly seed: string; readonly isOver: () => boolean }
): Effect.Effect<void> => {
  const random = Random.make(options.seed)
  const all = kinds(clients)
  const turn = Effect.gen(function* () {
    const make = all[yield* random.nextIntBetween(0, all.length)]
    if (make !== undefined) yield* history.record(yield* make(history, random))
    // Some work at every moment is worth more than as much work as possible.
    yield* Effect.sleep(yield* random.nextIntBetween(0, 8))
  })
  return Effect.whileLoop({
    while: () => !options.isOver(),
    body: () => turn,
    step: () => {}
  })
}
