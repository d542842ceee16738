/**
 * Commit resolution by PostgreSQL's own records: `pg_xact_status` of the transaction's id, asked on the
 * new writer.
 *
 * A transaction id alone proves nothing. What the new writer never received of the old one's log is gone,
 * and the ids in it are given out again: the status could be another transaction's. So a mark is written to
 * the log before COMMIT, and its position is compared with the one up to which the new writer replayed:
 *
 * | the new writer | its log reaches the mark | answer |
 * |---|---|---|
 * | is the same server, not restarted | | the status |
 * | is the same server, restarted | yes, or it was shut down cleanly | the status |
 * | ... | no | rolled back: the COMMIT lies behind the mark |
 * | is one promotion further, not restarted since the mark | yes | the status |
 * | is one promotion further | no | rolled back |
 * | ... | it was restarted since the mark, so its position proves nothing | unknown |
 * | is more than one promotion further, or on an older timeline | | unknown |
 *
 * The question itself is a write, and waits for a standby like one where replication is synchronous.
 *
 * "Since the mark" compares the clocks of two servers: they may differ by a second. A server that loses the
 * end of its own log in one restart and is restarted a second time before it is asked could mislead.
 *
 * Not for Aurora, which keeps no such positions: use `CommitResolution.ledger` there.
 *
 * @since 0.1.0
 */
import { Effect } from "effect"
import type { CommitResolution, Resolution } from "../CommitResolution.js"

const TIMELINE = `pg_catalog.substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()), 1, 8)`

/** A transaction that wrote nothing has no id: there is nothing to lose. */
const MARK = `SELECT xid::pg_catalog.text,
  CASE WHEN xid IS NOT NULL THEN pg_catalog.pg_logical_emit_message(true, 'effect-failover', '')::pg_catalog.text END,
  ${TIMELINE},
  pg_catalog.pg_postmaster_start_time()::pg_catalog.text,
  pg_catalog.clock_timestamp()::pg_catalog.text
FROM (SELECT pg_catalog.pg_current_xact_id_if_assigned() AS xid) AS mark`

interface Mark {
  readonly xid: string
  readonly lsn: string
  readonly timeline: number
  /** When the server was started. */
  readonly started: string
  /** When the mark was written, by the server's clock. */
  readonly at: string
}

/** Clocks that are synchronised at all differ by less. */
const CLOCK_MARGIN = "1 second"

/**
 * The status is asked only where it means this transaction: an id that is out again means another one.
 *
 * The question writes to the log, so that under synchronous replication its own commit waits for a standby,
 * and what was committed before it is there too. A primary that was replaced and does not know it yet would
 * otherwise call a transaction committed that only it has.
 */
const resolveSql = ({ at, lsn, started, xid }: Mark): string => `SELECT ${TIMELINE},
  same,
  replayed IS NULL,
  replayed OPERATOR(pg_catalog.>=) '${lsn}'::pg_catalog.pg_lsn,
  pg_catalog.pg_postmaster_start_time() OPERATOR(pg_catalog.<)
    ('${at}'::pg_catalog.timestamptz OPERATOR(pg_catalog.-) '${CLOCK_MARGIN}'::pg_catalog.interval),
  CASE WHEN same OR replayed IS NULL OR replayed OPERATOR(pg_catalog.>=) '${lsn}'::pg_catalog.pg_lsn
    THEN pg_catalog.pg_xact_status('${xid}'::pg_catalog.xid8) END,
  pg_catalog.pg_logical_emit_message(true, 'effect-failover', '') IS NULL
FROM (SELECT pg_catalog.pg_last_wal_replay_lsn() AS replayed,
  pg_catalog.pg_postmaster_start_time()::pg_catalog.text OPERATOR(pg_catalog.=) '${started}' AS same) AS log`

const statuses: Readonly<Record<string, Resolution>> = {
  committed: "Committed",
  aborted: "RolledBack",
  "in progress": "InProgress"
}

const timelineOf = (u: unknown): number => Number.parseInt(String(u), 16)

const resolutionOf = (mark: Mark, row: ReadonlyArray<unknown>): Resolution => {
  const [timeline, isSameStart, hasForgotten, reachesMark, isOlderThanMark, status] = row
  const answer = (typeof status === "string" ? statuses[status] : undefined) ?? "Unknown"
  switch (timelineOf(timeline) - mark.timeline) {
    case 0:
      return isSameStart === true || hasForgotten === true || reachesMark === true
        ? answer
        : "RolledBack"
    case 1:
      if (hasForgotten === true) return "Unknown"
      if (reachesMark !== true) return "RolledBack"
      return isOlderThanMark === true ? answer : "Unknown"
    default:
      return "Unknown"
  }
}

/**
 * @since 0.1.0
 * @category resolution
 */
export const resolution: CommitResolution = {
  name: "transaction-status",
  mark: (query) =>
    Effect.map(query(MARK), ([row]) => {
      if (row === undefined || typeof row[0] !== "string" || typeof row[1] !== "string") {
        return () => Effect.succeed("Committed" as const)
      }
      const mark: Mark = {
        xid: row[0],
        lsn: row[1],
        timeline: timelineOf(row[2]),
        started: String(row[3]),
        at: String(row[4])
      }
      return (query) =>
        Effect.map(query(resolveSql(mark)), ([row]) =>
          row === undefined ? "Unknown" : resolutionOf(mark, row)
        )
    })
}
