/**
 * What `dialects/PgTransactionStatus` asks: positions in the log, and the status of a transaction's id.
 *
 * @internal
 */
import * as Position from "./position.js"
import type { Server } from "./server.js"
import { serverError, ServerError } from "./serverError.js"
import * as Timestamp from "./timestamp.js"
import type { World } from "./world.js"

const timelineOf = ({ timeline }: Server): string =>
  timeline.toString(16).toUpperCase().padStart(8, "0")

/** Writes the mark, if the transaction has an id. @internal */
export const mark = (
  world: World,
  server: Server,
  xid: number | undefined
): ReadonlyArray<object> => {
  const at = world.timers.now()
  if (xid !== undefined) {
    world.replication.mark(server, { at, xid, isCommit: false, writes: [] })
  }
  return [
    {
      xid: xid === undefined ? null : String(xid),
      lsn: xid === undefined ? null : Position.format(server.log.length),
      timeline: timelineOf(server),
      started: server.startText(),
      at: Timestamp.timestamp(at)
    }
  ]
}

const literal = (sql: string, type: string): string =>
  new RegExp(`'([^']*)'::pg_catalog\\.${type}\\b`).exec(sql)?.[1] ?? ""

const statusOf = (server: Server, xid: number): string | ServerError => {
  if ([...server.backends].some(({ engine }) => engine.xid() === xid)) return "in progress"
  if (server.log.some((_) => _.isCommit && _.xid === xid)) return "committed"
  return server.isFutureXid(xid)
    ? serverError("22023", { message: `transaction ID ${xid} is in the future` })
    : "aborted"
}

const CLOCK_MARGIN_MILLIS = 1000

/** @internal */
export const resolve = (server: Server, sql: string): ReadonlyArray<object> | ServerError => {
  const replayed = server.replayedTo()
  const position = Position.parse(literal(sql, "pg_lsn"))
  const at = Timestamp.parse(literal(sql, "timestamptz"))
  const isSame = sql.includes(`'${server.startText()}'`)
  const reaches = replayed === undefined ? null : replayed >= position
  const status = isSame || reaches !== false ? statusOf(server, Number(literal(sql, "xid8"))) : null
  return status instanceof ServerError
    ? status
    : [
        {
          timeline: timelineOf(server),
          same: isSame,
          forgotten: replayed === undefined,
          reaches,
          isOlder: server.startedAt.millis < at - CLOCK_MARGIN_MILLIS,
          status
        }
      ]
}
