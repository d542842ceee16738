/**
 * Plain PostgreSQL with streaming replication: every host is asked what it is. The members are the
 * hosts of the configuration.
 *
 * The epoch is the timeline: a promotion begins a new one, so a resumed old primary is on an older one.
 * It is read from the name of the WAL segment being written, which is right from the first moment
 * after a promotion; `pg_control_checkpoint()` follows only with the next checkpoint.
 *
 * @since 0.1.0
 */
import { Duration, Effect } from "effect"
import { SessionError } from "../Connector.js"
import type { Dialect, Query } from "../Dialect.js"

/** A server writes WAL only if it is not in recovery: its timeline is the second question. */
const OBSERVE = `SELECT pg_catalog.pg_is_in_recovery(),
  CASE WHEN pg_catalog.pg_is_in_recovery() THEN NULL
  ELSE pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()) END,
  pg_catalog.pg_postmaster_start_time()::pg_catalog.text`

/** The first eight digits of a WAL segment's name. */
const timelineOf = (segment: unknown): bigint | undefined =>
  typeof segment === "string" && /^[0-9A-F]{24}$/.test(segment)
    ? BigInt(`0x${segment.slice(0, 8)}`)
    : undefined

/**
 * Whether the server takes writes, as every PostgreSQL can tell.
 *
 * @since 0.1.0
 * @category queries
 */
export const isWriter = (query: Query): Effect.Effect<boolean, SessionError> =>
  Effect.map(query("SELECT pg_catalog.pg_is_in_recovery()"), (rows) => rows[0]?.[0] === false)

/** Promotion is looked for this often on the server: 2 ms cost a standby well under a percent of a core. */
const WATCH_INTERVAL_SECONDS = 0.002

/**
 * Parks a wait on a standby: it ends with the promotion, or after `atMost`. It holds no snapshot
 * between its looks, so it holds back neither vacuum nor recovery.
 *
 * @since 0.1.0
 * @category queries
 */
export const awaitPromotion = (
  query: Query,
  atMost: Duration.Duration
): Effect.Effect<void, SessionError> =>
  Effect.asVoid(
    query(`DO $$
DECLARE deadline pg_catalog.timestamptz := pg_catalog.clock_timestamp()
  OPERATOR(pg_catalog.+) '${Math.round(Duration.toMillis(atMost))} milliseconds'::pg_catalog.interval;
BEGIN
  WHILE pg_catalog.pg_is_in_recovery() AND pg_catalog.clock_timestamp() OPERATOR(pg_catalog.<) deadline LOOP
    PERFORM pg_catalog.pg_sleep(${WATCH_INTERVAL_SECONDS});
  END LOOP;
END $$`)
  )

/**
 * @since 0.1.0
 * @category dialects
 */
export const dialect: Dialect = {
  name: "pg",
  detect: (query) =>
    Effect.map(query("SELECT 1 FROM pg_catalog.pg_proc LIMIT 1"), (rows) => rows.length === 1),
  isWriter,
  observe: (query, { probed }) =>
    Effect.flatMap(query(OBSERVE), ([row]) => {
      if (row === undefined || typeof row[0] !== "boolean") {
        const cause = new Error("the role query answered with no row")
        return Effect.fail(new SessionError({ cause, fate: "Answered" }))
      }
      const serverEpoch = timelineOf(row[1])
      return Effect.succeed({
        probed,
        host: probed,
        role: !row[0] && serverEpoch !== undefined ? "writer" : "reader",
        serverEpoch,
        incarnation: typeof row[2] === "string" ? row[2] : undefined
      })
    }),
  awaitPromotion
}
