/**
 * What PostgreSQL dialects ask the catalog. Nothing in here depends on the session's search_path: every
 * function, type and operator is named with its schema.
 *
 * @internal
 */
import { Effect } from "effect"
import { SessionError } from "../../Connector.js"
import type { Load, Query } from "../../Dialect.js"

/**
 * Whether the server has functions of these names. The catalog answers everybody, while a look at a
 * function itself (`regproc`, a call) is refused to users who may not use its schema.
 *
 * @internal
 */
export const hasFunctions = (
  query: Query,
  schema: string,
  names: readonly [string, ...ReadonlyArray<string>]
): Effect.Effect<boolean, SessionError> =>
  Effect.map(
    query(
      `SELECT ${names
        .map(
          (name) => `EXISTS (SELECT 1 FROM pg_catalog.pg_proc AS p
  INNER JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) p.pronamespace
  WHERE n.nspname OPERATOR(pg_catalog.=) '${schema}' AND p.proname OPERATOR(pg_catalog.=) '${name}')`
        )
        .join(" AND ")}`
    ),
    (rows) => rows[0]?.[0] === true
  )

/**
 * The role of a server with PostgreSQL's own WAL: in recovery, the name of the WAL segment being written
 * (NULL in recovery), when it was started.
 *
 * The segment's name has the timeline from the first moment after a promotion;
 * `pg_control_checkpoint()` follows only with the next checkpoint.
 *
 * @internal
 */
export const ROLE = `pg_catalog.pg_is_in_recovery(),
  CASE WHEN pg_catalog.pg_is_in_recovery() THEN NULL
  ELSE pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()) END,
  pg_catalog.pg_postmaster_start_time()::pg_catalog.text`

/** What `ROLE` says of the start: a server is never a standby again without another one. @internal */
export const incarnation = (query: Query): Effect.Effect<unknown, SessionError> =>
  Effect.map(
    query("SELECT pg_catalog.pg_postmaster_start_time()::pg_catalog.text"),
    (rows) => rows[0]?.[0]
  )

/** The timeline: the first eight digits of a WAL segment's name. @internal */
export const timelineOf = (segment: unknown): bigint | undefined =>
  typeof segment === "string" && /^[0-9A-F]{24}$/.test(segment)
    ? BigInt(`0x${segment.slice(0, 8)}`)
    : undefined

/** @internal */
export const textOf = (u: unknown): string | undefined =>
  typeof u === "string" && u !== "" ? u : undefined

/** Numbers come as text where they may be larger than JavaScript's. @internal */
export const numberOf = (u: unknown): number | undefined => {
  const value = u === null || u === undefined ? Number.NaN : Number(u)
  return Number.isFinite(value) ? value : undefined
}

/**
 * The lag, and the CPU where it is told. A negative lag is how Aurora says that there is none to tell.
 *
 * @internal
 */
export const loadOf = ([row]: ReadonlyArray<ReadonlyArray<unknown>>): Load => {
  const lag = numberOf(row?.[0])
  return {
    lagMillis: lag === undefined || lag < 0 ? undefined : lag,
    cpuPercent: numberOf(row?.[1])
  }
}

/** The server answered, and what it said cannot be used (yet): it is asked again. @internal */
export const unusable = (problem: string): SessionError =>
  new SessionError({ cause: new Error(problem), fate: "Answered" })
