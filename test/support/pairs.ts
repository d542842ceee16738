/** Pairs of a write and a read of what was written, each a scope of its own of `Readers.readYourWrites`. */
import { assert } from "@effect/vitest"
import { Effect } from "effect"
import { Failover, Readers } from "effect-failover"
import type { Database } from "./database.js"

export interface Pair {
  readonly found: number
  readonly is_standby: boolean
}

export const insert = ({ client: sql, table }: Database, id: number) =>
  sql`INSERT INTO ${sql(table)} ${sql.insert({ id })}`

/** Whether the row is there, and who says so. */
export const find = ({ client: sql, table }: Database, id: number) =>
  Effect.map(
    sql<Pair>`SELECT count(*)::int AS found, pg_is_in_recovery() AS is_standby
      FROM ${sql(table)} WHERE id = ${id}`,
    ([row]) => {
      assert.isDefined(row)
      return row
    }
  )

/** A read must not take longer with every write before it. */
export const indexed = (db: Database) =>
  Effect.flatMap(db.cluster.primary, (primary) =>
    db.cluster.query(primary, `create index on ${db.table} (id)`)
  )

export const writeThenRead = (db: Database, id: number, options?: Failover.ReadOptions) =>
  Effect.zipRight(insert(db, id), Failover.onReader(find(db, id), options)).pipe(
    Readers.readYourWrites
  )

export const summary = (pairs: ReadonlyArray<Pair>) => ({
  stale: pairs.filter(({ found }) => found !== 1).length,
  onReaders: pairs.filter((_) => _.is_standby).length
})

export const ids = (count: number): ReadonlyArray<number> =>
  Array.from({ length: count }, (_, id) => id)
