/**
 * Reading from readers: what there is beyond `Failover.onReader` and `Failover.onWriter`.
 *
 * | | what it costs |
 * |---|---|
 * | `onReader` | nothing |
 * | `maxStaleness` | each host is asked four times as often as the bound is long |
 * | `readYourWrites` | one question to the writer for the first read after writes, and one to the reader for each read |
 * | `hedged` | a tenth of the reads at most is asked twice |
 *
 * What a reader may show: a state that the writer was in, some milliseconds ago. Two readers show different
 * ones, so two reads may go back in time; within one transaction they do not. `readYourWrites` and `after`
 * say which state a read must not be older than.
 *
 * @since 0.1.0
 */
import type { SqlError } from "@effect/sql"
import { Context, Effect } from "effect"
import type { Availability, Host, Role } from "./Host.js"
import { currentHedging, currentWrites } from "./internal/reading.js"

/**
 * A host, as the client that reads from it knows it.
 *
 * @since 0.1.0
 * @category models
 */
export interface ReaderState {
  readonly host: Host
  readonly role: Role
  readonly availability: Availability
  /** Statements of this client under way on it. */
  readonly outstanding: number
  /** Connections of this client to it that can only read. */
  readonly connections: number
  /** The round trip of a question, lately. */
  readonly latencyMillis: number | undefined
  readonly lagMillis: number | undefined
  /** Where the cluster tells it (Aurora). */
  readonly cpuPercent: number | undefined
  /** Why it is unavailable. */
  readonly lastError: string | undefined
}

/**
 * @since 0.1.0
 * @category models
 */
export interface Readers {
  /**
   * What the writer has written by now: a text, to be kept and sent wherever it is needed (a cookie, a
   * message), and to be given to `Failover.onReader({ after })`.
   *
   * Fails, with a `ConfigurationError` as its cause, where readers cannot tell what they have (Aurora).
   */
  readonly position: Effect.Effect<string, SqlError.SqlError>
  /** The hosts as they are now; none before the first read. */
  readonly hosts: Effect.Effect<ReadonlyArray<ReaderState>>
}

/**
 * @since 0.1.0
 * @category tags
 */
export const Readers = Context.GenericTag<Readers>("effect-failover/Readers")

/**
 * What the writer has written by now: see `Readers`.
 *
 * @example
 * ```ts
 * import { SqlClient } from "@effect/sql"
 * import { Effect } from "effect"
 * import { Failover, Readers } from "effect-failover"
 *
 * const rename = (id: number, name: string) =>
 *   Effect.gen(function* () {
 *     const sql = yield* SqlClient.SqlClient
 *     yield* sql`UPDATE account SET name = ${name} WHERE id = ${id}`
 *     return yield* Readers.position // to be kept in a cookie
 *   })
 *
 * const profile = (id: number, position: string | undefined) =>
 *   Effect.flatMap(SqlClient.SqlClient, (sql) => sql`SELECT * FROM account WHERE id = ${id}`).pipe(
 *     Failover.onReader({ after: position, within: "100 millis" })
 *   )
 * ```
 *
 * @since 0.1.0
 * @category getters
 */
export const position: Effect.Effect<string, SqlError.SqlError, Readers> = Effect.flatMap(
  Readers,
  (_) => _.position
)

/**
 * What is read from readers in this effect sees all that was written in it before: a reader that has not
 * replayed it yet is waited for (`within`), and then the writer is read from. Where readers cannot tell what
 * they have (Aurora), reads after writes go to the writer.
 *
 * @example
 * ```ts
 * import { SqlClient } from "@effect/sql"
 * import { Effect } from "effect"
 * import { Failover, Readers } from "effect-failover"
 *
 * const order = Effect.gen(function* () {
 *   const sql = yield* SqlClient.SqlClient
 *   yield* sql`INSERT INTO orders ${sql.insert({ id: 1, amount: 10 })}`
 *   return yield* sql`SELECT * FROM orders WHERE id = 1`.pipe(Failover.onReader())
 * }).pipe(Readers.readYourWrites)
 * ```
 *
 * @since 0.1.0
 * @category combinators
 */
export const readYourWrites = <A, E, R>(self: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
  Effect.suspend(() => Effect.locally(self, currentWrites, { version: 0, position: undefined }))

/**
 * Says that reads of this effect may be made twice: one that takes longer than 95 of 100 is asked of a
 * second reader too, and the first answer counts. At most a tenth of the reads is. For statements that are
 * read from readers, outside of transactions.
 *
 * @example
 * ```ts
 * import { SqlClient } from "@effect/sql"
 * import { Effect } from "effect"
 * import { Failover, Readers } from "effect-failover"
 *
 * const search = (text: string) =>
 *   Effect.flatMap(SqlClient.SqlClient, (sql) => sql`SELECT * FROM article WHERE body LIKE ${text}`).pipe(
 *     Failover.onReader(),
 *     Readers.hedged
 *   )
 * ```
 *
 * @since 0.1.0
 * @category combinators
 */
export const hedged = <A, E, R>(self: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
  Effect.locally(self, currentHedging, true)
