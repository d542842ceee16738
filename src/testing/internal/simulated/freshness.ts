/**
 * How fresh a server is, by its own word: what dialects ask writers and readers.
 *
 * @internal
 */
import * as Position from "./position.js"
import type { Server } from "./server.js"
import { serverError, type ServerError } from "./serverError.js"
import type { World } from "./world.js"

type Rows = ReadonlyArray<object>

/** A page of the WAL, and a segment. */
const BLOCK_BYTES = 8192
const SEGMENT_BYTES = 16 * 1024 * 1024

const position = (server: Server): Rows | ServerError =>
  server.role === "reader"
    ? serverError("55000", { message: "recovery is in progress" })
    : [{ position: Position.format(server.log.length), block: BLOCK_BYTES, segment: SEGMENT_BYTES }]

/** Instances with shared storage replay no log of their own, and have no position in it. */
const replayed = ({ replication }: World, server: Server): number =>
  replication.members === undefined ? server.log.length : -1

const reached = (world: World, server: Server, sql: string): Rows => {
  const sought = (/'\{([^}]*)\}'/.exec(sql)?.[1] ?? "").split(",").filter((_) => _ !== "")
  const to = server.role === "writer" ? server.log.length : replayed(world, server)
  return [{ count: sought.filter((_) => Position.parse(_) <= to).length }]
}

const lag = ({ replication }: World, server: Server): Rows => {
  const self = replication.members?.(server).find((_) => _.name === server.name)
  return [{ lag: server.role === "writer" ? 0 : (self?.lagMillis ?? null) }]
}

/** `undefined`: it is another question. @internal */
export const answer = (
  world: World,
  server: Server,
  sql: string
): Rows | ServerError | undefined => {
  if (sql.includes("pg_last_wal_replay_lsn")) return reached(world, server, sql)
  if (sql.includes("pg_current_wal_insert_lsn")) return position(server)
  return /^SELECT CASE\b[^]*\bREPLICA_LAG_IN_MSEC\b/.test(sql) ? lag(world, server) : undefined
}
