/**
 * Finds out whether a transaction whose COMMIT was sent and not answered has been committed. Opt-in: it
 * costs one round trip before each COMMIT.
 *
 * | | `ledger` | `dialects/PgTransactionStatus` |
 * |---|---|---|
 * | exact | always | where position and timeline prove it; else the outcome stays `Unknown` |
 * | needs | a table | nothing |
 * | costs | a small row per transaction | a WAL record per writing transaction |
 * | works on | any SQL database | PostgreSQL with streaming replication, not Aurora |
 *
 * A resolved commit ends as the transaction's own success; a resolved loss as
 * `TransactionResolutionUnknown` with `outcome: "RolledBack"`, which is safe to run again.
 *
 * @since 0.1.0
 */
import { Effect, Random } from "effect"
import type { SessionError } from "./Connector.js"
import type { Query } from "./Dialect.js"

/**
 * What became of the transaction. `InProgress`: the server is still at it, so it is asked again.
 *
 * @since 0.1.0
 * @category models
 */
export type Resolution = "Committed" | "RolledBack" | "InProgress" | "Unknown"

/**
 * Asks the new writer. Run on a connection of its own, as often as the answer is `InProgress`.
 *
 * @since 0.1.0
 * @category models
 */
export type Resolve = (query: Query) => Effect.Effect<Resolution, SessionError>

/**
 * @since 0.1.0
 * @category models
 */
export interface CommitResolution {
  readonly name: string
  /** Run inside the transaction, right before its COMMIT; answers with the way to find out about it. */
  readonly mark: (query: Query) => Effect.Effect<Resolve, SessionError>
}

/**
 * The statement that creates the ledger's table, to be put into a migration.
 *
 * @since 0.1.0
 * @category ledger
 */
export const ledgerTable = (table: string = DEFAULT_LEDGER): string =>
  `CREATE TABLE IF NOT EXISTS ${quote(table)} (token CHAR(32) PRIMARY KEY, committed BOOLEAN NOT NULL, created_at TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP)`

/**
 * @since 0.1.0
 * @category ledger
 */
export const DEFAULT_LEDGER = "effect_failover_ledger"

const quote = (table: string): string =>
  table
    .split(".")
    .map((part) => `"${part.replaceAll('"', '""')}"`)
    .join(".")

/** 128 random bits in hexadecimal: no two transactions ever share a token. */
const token: Effect.Effect<string> = Effect.map(
  Effect.replicateEffect(Random.nextIntBetween(0, 2 ** 32), 4),
  (words) => words.map((_) => _.toString(16).padStart(8, "0")).join("")
)

/**
 * A row with a unique token is written in the transaction, and looked up afterwards by trying to write it
 * again, marked as not committed: the row that stands in the end says which of the two was first. If it is
 * the second, the transaction is not committed, and can never be.
 *
 * Rows are needed for as long as a failover may take; delete older ones by `created_at` now and then.
 *
 * @since 0.1.0
 * @category ledger
 */
export const ledger = (table: string = DEFAULT_LEDGER): CommitResolution => ({
  name: "ledger",
  mark: (query) =>
    Effect.flatMap(token, (token) => {
      const insert = (committed: boolean) =>
        `INSERT INTO ${quote(table)} (token, committed) VALUES ('${token}', ${committed})`
      // The second insert waits for a first one that is still under way, so it is never too early. It
      // updates nothing: only so does it answer with the row that is there.
      const lookUp = `${insert(false)} ON CONFLICT (token) DO UPDATE SET token = excluded.token RETURNING committed`
      const resolve: Resolve = (query) =>
        Effect.map(query(lookUp), ([row]) => (row?.[0] === true ? "Committed" : "RolledBack"))
      return Effect.as(query(insert(true)), resolve)
    })
})

/**
 * For transactions that cannot write: whatever becomes of their COMMIT, nothing is lost.
 *
 * @since 0.1.0
 * @category constructors
 */
export const readOnly: CommitResolution = {
  name: "read-only",
  mark: () => Effect.succeed(() => Effect.succeed("Committed"))
}
