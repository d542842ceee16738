/**
 * The three ways to one server that are compared. Each runs a work in a number of concurrent loops until the
 * deadline and says how often. Conditions are the same: one process, one kind of loop, as many connections.
 */
import { SqlClient, type SqlError } from "@effect/sql"
import { PgClient } from "@effect/sql-pg"
import { Context, Effect, Layer, Redacted, type Scope } from "effect"
import { performance } from "node:perf_hooks"
import PgDriver from "pg"
import * as Library from "./library.js"

export type Name = "library" | "sql-pg" | "pg"
export type Work = "select-1" | "lookup" | "transaction"

export interface Client {
  readonly name: Name
  readonly run: (work: Work, fibers: number, seconds: number) => Effect.Effect<number>
}

export interface Server {
  readonly host: string
  readonly port: number
  readonly database: string
  readonly username: string
  readonly password: Redacted.Redacted<string>
}

export const ITEMS = 10_000
const MAX_CONNECTIONS = 16

/** Keys in an order that no cache likes better than another: a prime step through the table. */
const makeKeys = () => {
  let key = 0
  return () => (key = (key + 7919) % ITEMS) + 1
}

const effectClient = (name: Name, sql: SqlClient.SqlClient): Client => {
  const statementOf = (work: Work): (() => Effect.Effect<unknown, SqlError.SqlError>) => {
    const key = makeKeys()
    switch (work) {
      case "select-1":
        return () => sql`SELECT 1`
      case "lookup":
        return () => sql`SELECT id, name FROM item WHERE id = ${key()}`
      case "transaction":
        return () => sql.withTransaction(sql`UPDATE item SET name = name WHERE id = ${key()}`)
    }
  }
  return {
    name,
    run: (work, fibers, seconds) =>
      Effect.promise((signal) => {
        const statement = statementOf(work)
        const until = performance.now() + seconds * 1000
        let count = 0
        const loop = Effect.whileLoop({
          while: () => performance.now() < until,
          body: statement,
          step: () => count++
        })
        return Effect.runPromise(
          Effect.forEach(Array.from({ length: fibers }), () => loop, {
            concurrency: "unbounded",
            discard: true
          }),
          { signal }
        ).then(() => count)
      })
  }
}

const driverClient = (pool: PgDriver.Pool): Client => {
  const transaction = async (key: number): Promise<unknown> => {
    const client = await pool.connect()
    try {
      await client.query("BEGIN")
      const result = await client.query("UPDATE item SET name = name WHERE id = $1", [key])
      await client.query("COMMIT")
      return result.rows
    } finally {
      client.release()
    }
  }
  const statementOf = (work: Work): (() => Promise<unknown>) => {
    const key = makeKeys()
    switch (work) {
      case "select-1":
        return () => pool.query("SELECT 1")
      case "lookup":
        return () => pool.query("SELECT id, name FROM item WHERE id = $1", [key()])
      case "transaction":
        return () => transaction(key())
    }
  }
  return {
    name: "pg",
    run: (work, fibers, seconds) =>
      Effect.promise((signal) => {
        const statement = statementOf(work)
        const until = performance.now() + seconds * 1000
        let count = 0
        const loop = async () => {
          while (performance.now() < until && !signal.aborted) {
            await statement()
            count++
          }
        }
        return Promise.all(Array.from({ length: fibers }, loop)).then(() => count)
      })
  }
}

const sqlClientOf = <I, E>(
  layer: Layer.Layer<SqlClient.SqlClient | I, E>
): Effect.Effect<SqlClient.SqlClient, E, Scope.Scope> =>
  Effect.map(Layer.build(layer), (context) => Context.get(context, SqlClient.SqlClient))

export const make = (server: Server) =>
  Effect.gen(function* () {
    const { database, host, password, port, username } = server
    const Pg = yield* Library.load
    const library = yield* sqlClientOf(
      Pg.layer({
        hosts: [`${host}:${port}`],
        database,
        username,
        password,
        maxConnections: MAX_CONNECTIONS
      })
    )
    const adapter = yield* sqlClientOf(
      PgClient.layer({ host, port, database, username, password, maxConnections: MAX_CONNECTIONS })
    )
    const pool = yield* Effect.acquireRelease(
      Effect.sync(
        () =>
          new PgDriver.Pool({
            host,
            port,
            database,
            user: username,
            password: Redacted.value(password),
            max: MAX_CONNECTIONS
          })
      ),
      (pool) => Effect.promise(() => pool.end())
    )
    return [
      effectClient("library", library),
      effectClient("sql-pg", adapter),
      driverClient(pool)
    ] as const
  })
