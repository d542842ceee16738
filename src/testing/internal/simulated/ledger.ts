/**
 * What `CommitResolution.ledger` asks of its table: the look-up waits for a transaction that holds the same
 * token, and of two rows the first one stands.
 *
 * @internal
 */
import type { Statement } from "../../SimulatedCluster.js"
import type { Engine } from "./engine.js"
import type { Server } from "./server.js"

interface Row {
  readonly token: string
  readonly committed: boolean
}

const ROW = /\(token, committed\) VALUES \('([^']*)', (true|false)\)/

const LOOK_UP = /\bON CONFLICT \(token\) DO UPDATE\b[^]*\bRETURNING committed\b/

const readRow = (sql: string): Row | undefined => {
  const found = ROW.exec(sql)
  return found?.[1] === undefined ? undefined : { token: found[1], committed: found[2] === "true" }
}

/** @internal */
export const readLookUp = (sql: string): Row | undefined =>
  LOOK_UP.test(sql) ? readRow(sql) : undefined

/** Whether another transaction has written the token, and is under way. @internal */
export const isUndecided = (server: Server, asking: Engine, { token }: Row): boolean =>
  !server.isRunning() ||
  [...server.backends].some(
    ({ engine }) =>
      engine !== asking && engine.uncommitted().some(({ sql }) => readRow(sql)?.token === token)
  )

/** What the row of this token says. @internal */
export const find = (writes: ReadonlyArray<Statement>, { token }: Row): boolean | undefined => {
  for (const { sql } of writes) {
    const row = readRow(sql)
    if (row?.token === token) return row.committed
  }
  return undefined
}
