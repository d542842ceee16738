/**
 * Freshness by positions in PostgreSQL's own WAL: what the writer has inserted, and what a standby has
 * replayed.
 *
 * The position is that of the insertion and not of the flush: with `synchronous_commit = off`, a commit is
 * acknowledged before it is flushed. So it may be ahead of what standbys can have: what a transaction has
 * written and not committed is flushed with the next commit, or by the background writer within 15 s.
 *
 * @internal
 */
import { Effect } from "effect"
import { SessionError } from "../../Connector.js"
import type { Freshness } from "../../Dialect.js"
import { numberOf, textOf, unusable } from "./pgCatalog.js"

const LSN = /^([0-9A-F]{1,8})\/([0-9A-F]{1,8})$/i

const parse = (text: string | undefined): bigint | undefined => {
  const [, high, low] = LSN.exec(text ?? "") ?? []
  return high === undefined || low === undefined
    ? undefined
    : (BigInt(`0x${high}`) << 32n) | BigInt(`0x${low}`)
}

const format = (lsn: bigint): string =>
  `${(lsn >> 32n).toString(16)}/${(lsn & 0xffffffffn).toString(16)}`.toUpperCase()

const POSITION = `SELECT pg_catalog.pg_current_wal_insert_lsn()::pg_catalog.text,
  pg_catalog.pg_size_bytes(pg_catalog.current_setting('wal_block_size')),
  pg_catalog.pg_size_bytes(pg_catalog.current_setting('wal_segment_size'))`

/** Of a page, and of the first page of a segment: `SizeOfXLogShortPHD` and `SizeOfXLogLongPHD`. */
const PAGE_HEADER = 24n
const SEGMENT_HEADER = 40n

/**
 * Where the next record begins is not where the last one ends: a page header may be in between, and nothing
 * replays that. At rest after a change of segment (`archive_timeout`), no standby would ever get there.
 */
const endOfRecords = (next: bigint, block: bigint, segment: bigint): bigint => {
  const header = next % segment < block ? SEGMENT_HEADER : PAGE_HEADER
  return next % block === header ? next - header : next
}

/**
 * Compared row by row, and what is replayed only grows: as many as are counted have been reached. A writer has
 * what it has inserted, and not more: one that was replaced and does not know it lacks what its successor wrote.
 */
const reachedSql = (positions: ReadonlyArray<bigint>): string => `SELECT pg_catalog.count(*)
FROM pg_catalog.unnest('{${positions.map(format).join()}}'::pg_catalog.pg_lsn[]) AS p(position)
WHERE p.position OPERATOR(pg_catalog.<=) CASE WHEN pg_catalog.pg_is_in_recovery()
  THEN pg_catalog.pg_last_wal_replay_lsn() ELSE pg_catalog.pg_current_wal_insert_lsn() END`

/** It is refused here, so that nothing of it gets into a query. */
const noPosition = (text: string): SessionError =>
  new SessionError({
    cause: new Error(`Not a position in PostgreSQL's WAL: ${JSON.stringify(text.slice(0, 40))}`),
    fate: "Answered"
  })

/** @internal */
export const freshness: Freshness = {
  position: (query) =>
    Effect.flatMap(query(POSITION), ([row]) => {
      const next = parse(textOf(row?.[0]))
      const block = numberOf(row?.[1])
      const segment = numberOf(row?.[2])
      return next === undefined || block === undefined || segment === undefined
        ? Effect.fail(unusable("the position query answered with no position"))
        : Effect.succeed(format(endOfRecords(next, BigInt(block), BigInt(segment))))
    }),
  reached: (query, positions) =>
    Effect.gen(function* () {
      const sought: Array<bigint> = []
      // One that was lost in a promotion may be ahead of newer ones: they count only together with it.
      let furthest = 0n
      for (const text of positions) {
        const position = parse(text)
        if (position === undefined) return yield* noPosition(text)
        if (position > furthest) furthest = position
        sought.push(furthest)
      }
      if (sought.length === 0) return 0
      const [row] = yield* query(reachedSql(sought))
      const count = numberOf(row?.[0])
      return count ?? (yield* unusable("the replay query answered with no count"))
    })
}
