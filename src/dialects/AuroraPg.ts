/**
 * Aurora PostgreSQL: every instance lists all instances. Only identifiers are listed, so the instance
 * host pattern turns them into addresses.
 *
 * An instance is the writer when the list says so (its row is the master's session) and the server
 * itself is not in recovery. Both are asked in one query.
 *
 * @since 0.1.0
 */
import { Effect } from "effect"
import { SessionError } from "../Connector.js"
import type { Dialect } from "../Dialect.js"
import type { Member } from "../TopologyState.js"
import * as PgStreaming from "./PgStreaming.js"

/** Rows older than five minutes belong to instances that are gone, as in the AWS wrappers. */
const OBSERVE = `SELECT SERVER_ID,
  CASE WHEN SESSION_ID OPERATOR(pg_catalog.=) 'MASTER_SESSION_ID' THEN TRUE ELSE FALSE END,
  COALESCE(REPLICA_LAG_IN_MSEC, 0),
  EXTRACT(EPOCH FROM LAST_UPDATE_TIMESTAMP),
  pg_catalog.aurora_db_instance_identifier(),
  pg_catalog.pg_is_in_recovery(),
  pg_catalog.pg_postmaster_start_time()::pg_catalog.text
FROM pg_catalog.aurora_replica_status()
WHERE EXTRACT(EPOCH FROM(pg_catalog.NOW() OPERATOR(pg_catalog.-) LAST_UPDATE_TIMESTAMP)) OPERATOR(pg_catalog.<=) 300
  OR SESSION_ID OPERATOR(pg_catalog.=) 'MASTER_SESSION_ID'
  OR LAST_UPDATE_TIMESTAMP IS NULL`

const HAS_AURORA_EXTENSION = `SELECT (setting OPERATOR(pg_catalog.~~) '%aurora_stat_utils%')
FROM pg_catalog.pg_settings WHERE name OPERATOR(pg_catalog.=) 'rds.extensions'`

const HAS_REPLICA_STATUS = "SELECT 1 FROM pg_catalog.aurora_replica_status() LIMIT 1"

interface Row {
  readonly serverId: string
  readonly isWriter: boolean
  readonly lagMillis: number
  readonly updated: number
}

const number = (u: unknown): number => {
  const value = Number(u)
  return Number.isFinite(value) ? value : 0
}

const parse = (row: ReadonlyArray<unknown>): Row => ({
  serverId: String(row[0]),
  isWriter: row[1] === true,
  lagMillis: number(row[2]),
  // An instance that never reported is as old as can be.
  updated: row[3] === null ? 0 : number(row[3])
})

/** One row per instance, and one writer: of two, the one that reported last. */
const deduplicate = (rows: ReadonlyArray<Row>): ReadonlyArray<Row> => {
  const byId = new Map<string, Row>()
  for (const row of rows) {
    const other = byId.get(row.serverId)
    if (other === undefined || row.updated > other.updated) byId.set(row.serverId, row)
  }
  const unique = [...byId.values()]
  const writers = unique.filter((_) => _.isWriter)
  const latest = Math.max(...writers.map((_) => _.updated))
  return unique.filter((_) => !_.isWriter || _.updated === latest)
}

/**
 * @since 0.1.0
 * @category dialects
 */
export const dialect: Dialect = {
  name: "aurora-pg",
  detect: (query) =>
    Effect.flatMap(query(HAS_AURORA_EXTENSION), (rows) =>
      rows[0]?.[0] === true
        ? Effect.map(query(HAS_REPLICA_STATUS), (rows) => rows.length === 1)
        : Effect.succeed(false)
    ),
  isWriter: PgStreaming.isWriter,
  observe: (query, { hostOf, probed }) =>
    Effect.gen(function* () {
      const rows = yield* query(OBSERVE)
      const first = rows[0]
      if (first === undefined) {
        const cause = new Error("aurora_replica_status() lists no instance yet")
        return yield* new SessionError({ cause, fate: "Answered" })
      }
      const self = String(first[4])
      const instances = deduplicate(rows.map(parse))
      const members: Array<Member> = []
      for (const { isWriter, lagMillis, serverId } of instances) {
        const host = yield* hostOf(serverId)
        members.push({ host, role: isWriter ? "writer" : "reader", lagMillis })
      }
      return {
        probed,
        host: yield* hostOf(self),
        role:
          first[5] === false && instances.some((_) => _.serverId === self && _.isWriter)
            ? "writer"
            : "reader",
        incarnation: typeof first[6] === "string" ? first[6] : undefined,
        members
      } as const
    }),
  awaitPromotion: PgStreaming.awaitPromotion
}
