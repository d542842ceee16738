/**
 * `/_api/cursor`: results in batches, kept on the server that ran the query.
 *
 * @internal
 */
import * as Aql from "./aql.js"
import type { Call, Reply } from "./protocol.js"
import { below, failure, fields, notFound, ok } from "./protocol.js"
import type { Workspace } from "./store.js"

/** ArangoDB's default batch size. */
const BATCH_SIZE = 1000

interface Cursor {
  readonly rows: ReadonlyArray<unknown>
  readonly batchSize: number
  /** Rows that were handed out. */
  taken: number
  /** The last batch, for a client that did not get it. */
  last: { readonly id: string; readonly reply: Reply } | undefined
  batch: number
}

/** @internal */
export type Cursors = Map<string, Cursor>

const unknownCursor = failure(404, 1600, "cursor not found")

const take = (cursors: Cursors, id: string, cursor: Cursor, status: number): Reply => {
  const result = cursor.rows.slice(cursor.taken, cursor.taken + cursor.batchSize)
  cursor.taken += result.length
  cursor.batch++
  const hasMore = cursor.taken < cursor.rows.length
  const reply = ok(
    {
      result,
      hasMore,
      cached: false,
      ...(hasMore ? { id, nextBatchId: String(cursor.batch + 1) } : {}),
      extra: { warnings: [], stats: {} },
      count: cursor.rows.length
    },
    status
  )
  cursor.last = { id: String(cursor.batch), reply }
  if (hasMore) cursors.set(id, cursor)
  else cursors.delete(id)
  return reply
}

const begin = (call: Call, cursors: Cursors, workspace: Workspace): Reply => {
  const rows = Aql.run(call, workspace)
  if (!Array.isArray(rows)) return rows as Reply
  const wanted = Number(fields(call.body)["batchSize"] ?? BATCH_SIZE)
  const batchSize = wanted > 0 ? wanted : BATCH_SIZE
  const cursor: Cursor = { rows, batchSize, taken: 0, last: undefined, batch: 0 }
  return take(cursors, workspace.nextId(), cursor, 201)
}

/** @internal */
export const queries = (call: Call, cursors: Cursors, workspace: Workspace): Reply | undefined => {
  const parts = below("/_api/cursor", call.path)
  if (parts === undefined) return undefined
  const [id, batch] = parts
  if (id === undefined) {
    return call.method === "POST" ? begin(call, cursors, workspace) : notFound(call)
  }
  const cursor = cursors.get(id)
  if (cursor === undefined) return unknownCursor
  switch (call.method) {
    case "POST":
    case "PUT":
      return batch !== undefined && batch === cursor.last?.id
        ? cursor.last.reply
        : take(cursors, id, cursor, 200)
    case "DELETE":
      cursors.delete(id)
      return ok({ id }, 202)
    default:
      return notFound(call)
  }
}
