/**
 * Aurora PostgreSQL: every instance lists all instances of its region. Only identifiers are listed, so
 * the instance host pattern turns them into addresses.
 *
 * An instance is the writer when the list says so (its row is the master's session) and the server
 * itself is not in recovery. Both are asked in one query.
 *
 * @since 0.1.0
 */
import { Effect } from "effect"
import type { Dialect } from "../Dialect.js"
import type { Member } from "../TopologyState.js"
import {
  hasFunctions,
  incarnation,
  loadOf,
  numberOf,
  textOf,
  unusable
} from "./internal/pgCatalog.js"
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

/**
 * Storage is shared, so a reader has no position of its own: it says how far behind the writer it is. An
 * instance may have several rows for a moment; the one that was reported last counts.
 */
const LOAD = `SELECT CASE WHEN NOT pg_catalog.pg_is_in_recovery() THEN 0 ELSE REPLICA_LAG_IN_MSEC END, CPU
FROM pg_catalog.aurora_replica_status()
WHERE SERVER_ID OPERATOR(pg_catalog.=) pg_catalog.aurora_db_instance_identifier()
ORDER BY LAST_UPDATE_TIMESTAMP DESC NULLS LAST LIMIT 1`

interface Row {
  readonly serverId: string
  readonly isWriter: boolean
  readonly lagMillis: number
  /** Seconds since 1970. The instance that is asked reports none for itself. */
  readonly updated: number | undefined
}

const parse = (row: ReadonlyArray<unknown>): Row => ({
  serverId: String(row[0]),
  isWriter: row[1] === true,
  lagMillis: numberOf(row[2]) ?? 0,
  updated: numberOf(row[3])
})

/** What never reported is as old as can be. */
const ageOf = ({ updated }: Row): number => updated ?? 0

/** One row per instance, and one writer: of two, the one that reported last. */
const deduplicate = (rows: ReadonlyArray<Row>): ReadonlyArray<Row> => {
  const byId = new Map<string, Row>()
  for (const row of rows) {
    const other = byId.get(row.serverId)
    if (other === undefined || ageOf(row) > ageOf(other)) byId.set(row.serverId, row)
  }
  const unique = [...byId.values()]
  const latest = Math.max(...unique.filter((_) => _.isWriter).map(ageOf))
  return unique.filter((_) => !_.isWriter || ageOf(_) === latest)
}

/**
 * Aurora PostgreSQL in one region. Needs the instance host pattern, and no privilege.
 *
 * @since 0.1.0
 * @category dialects
 */
export const dialect: Dialect = {
  name: "aurora-pg",
  // By what the server is made of, and not by what it lists: a list may be empty for a moment.
  detect: (query) => hasFunctions(query, "pg_catalog", ["aurora_replica_status"]),
  isWriter: PgStreaming.isWriter,
  incarnation,
  observe: (query, { hostOf, probed }) =>
    Effect.gen(function* () {
      const rows = yield* query(OBSERVE)
      const first = rows[0]
      if (first === undefined) {
        return yield* unusable("aurora_replica_status() lists no instance yet")
      }
      const self = String(first[4])
      const instances = deduplicate(rows.map(parse))
      const members: Array<Member> = []
      for (const { isWriter, lagMillis, serverId } of instances) {
        const host = yield* hostOf(serverId)
        members.push({ host, role: isWriter ? "writer" : "reader", lagMillis })
      }
      const writer = instances.find((_) => _.isWriter)
      return {
        probed,
        host: yield* hostOf(self),
        role: first[5] === false && writer?.serverId === self ? "writer" : "reader",
        incarnation: textOf(first[6]),
        members,
        // The writer knows no such moment of itself: what an old one would say of itself proves nothing.
        asOf: writer?.updated === undefined ? undefined : Math.round(writer.updated * 1000)
      } as const
    }),
  awaitPromotion: PgStreaming.awaitPromotion,
  load: (query) => Effect.map(query(LOAD), loadOf),
  readOnly: PgStreaming.readOnly
}
