/**
 * Aurora Global Database: one primary region with the writer, and secondary regions with readers. Every
 * instance of every region lists all instances, with their regions; each region has an instance host
 * pattern of its own.
 *
 * The home region of a client is that of its hosts. The writer may be in another one: it is found there,
 * and followed when the global database is switched or failed over to another region.
 *
 * @since 0.1.0
 */
import { Effect, Either } from "effect"
import type { Context, Dialect } from "../Dialect.js"
import * as Host from "../Host.js"
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

const OBSERVE = `SELECT SERVER_ID,
  CASE WHEN SESSION_ID OPERATOR(pg_catalog.=) 'MASTER_SESSION_ID' THEN TRUE ELSE FALSE END,
  VISIBILITY_LAG_IN_MSEC,
  AWS_REGION,
  pg_catalog.aurora_db_instance_identifier(),
  pg_catalog.pg_is_in_recovery(),
  pg_catalog.pg_postmaster_start_time()::pg_catalog.text
FROM pg_catalog.aurora_global_db_instance_status()`

const HAS_REGIONS =
  "SELECT pg_catalog.count(*) OPERATOR(pg_catalog.>) 1 FROM pg_catalog.aurora_global_db_status()"

/**
 * Against the writer, in whichever region it is. Of two readers in two regions that have one identifier, it
 * is not known which one answers: the later of them counts, and none if one of them does not know.
 */
const LAG = `SELECT CASE WHEN NOT pg_catalog.pg_is_in_recovery() THEN 0 ELSE (
  SELECT CASE WHEN pg_catalog.count(*) OPERATOR(pg_catalog.=) pg_catalog.count(VISIBILITY_LAG_IN_MSEC)
    THEN pg_catalog.max(VISIBILITY_LAG_IN_MSEC) END
  FROM pg_catalog.aurora_global_db_instance_status()
  WHERE SERVER_ID OPERATOR(pg_catalog.=) pg_catalog.aurora_db_instance_identifier()
    AND SESSION_ID OPERATOR(pg_catalog.<>) 'MASTER_SESSION_ID'
) END`

interface Row {
  readonly serverId: string
  readonly region: string
  readonly isWriter: boolean
  readonly lagMillis: number | undefined
}

const parse = (row: ReadonlyArray<unknown>): Row => ({
  serverId: String(row[0]),
  region: String(row[3]).toLowerCase(),
  isWriter: row[1] === true,
  lagMillis: numberOf(row[2])
})

/**
 * The row of the instance that answers. Identifiers are unique within a region only: where two regions
 * have the same one, the server's role or the address that was asked tells which one it is.
 */
const selfOf = (
  rows: ReadonlyArray<Row>,
  serverId: string,
  isInRecovery: boolean,
  { hostOf, probed }: Context
): Row | undefined => {
  const named = rows.filter((_) => _.serverId === serverId)
  if (named.length <= 1) return named[0]
  const ofRole = named.filter((_) => _.isWriter === !isInRecovery)
  if (ofRole.length === 1) return ofRole[0]
  return named.find((_) =>
    Either.match(hostOf(_.serverId, _.region), {
      onLeft: () => false,
      onRight: (host) => Host.isSame(host, probed)
    })
  )
}

/**
 * The dialect, for clients that know all regions or only their own.
 *
 * - With `knowsAllRegions`, a region without an instance host pattern is a `ConfigurationError` that
 *   names it: a failover to there could not be followed. Every Aurora server is recognised, so that a
 *   global database that has one region for the time being is one too.
 * - Without, the server is recognised when it lists several regions, and instances that cannot be
 *   addressed are left out: a region that is added to a running cluster stops no client. If the writer
 *   is there, it is the same `ConfigurationError`.
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = (options: { readonly knowsAllRegions: boolean }): Dialect => ({
  name: "aurora-global-pg",
  detect: (query) =>
    Effect.gen(function* () {
      const isAurora = yield* hasFunctions(query, "pg_catalog", [
        "aurora_global_db_status",
        "aurora_global_db_instance_status"
      ])
      if (!isAurora || options.knowsAllRegions) return isAurora
      const [row] = yield* query(HAS_REGIONS)
      return row?.[0] === true
    }),
  isWriter: PgStreaming.isWriter,
  incarnation,
  observe: (query, context) =>
    Effect.gen(function* () {
      const { hostOf, probed } = context
      const answer = yield* query(OBSERVE)
      const first = answer[0]
      if (first === undefined) {
        return yield* unusable("aurora_global_db_instance_status() lists no instance yet")
      }
      const isInRecovery = first[5] !== false
      const rows = answer.map(parse)
      const self = selfOf(rows, String(first[4]), isInRecovery, context)

      /** A client that knows its own region only has that region's pattern as the only one. */
      const addressOf = ({ region, serverId }: Row) =>
        Either.orElse(hostOf(serverId, region), (error) =>
          !options.knowsAllRegions && region === self?.region
            ? hostOf(serverId)
            : Either.left(error)
        )
      const isWriter = !isInRecovery && self?.isWriter === true
      const isDisputed = rows.filter((_) => _.isWriter).length > 1
      const roleOf = (row: Row): Member["role"] => {
        if (!row.isWriter) return "reader"
        // No row tells its age: of two writers, only the one that answers is known to be one.
        return !isDisputed || (isWriter && row === self) ? "writer" : "unknown"
      }
      const members: Array<Member> = []
      for (const row of rows) {
        const host = addressOf(row)
        if (Either.isLeft(host) && !options.knowsAllRegions && !row.isWriter) continue
        members.push({ host: yield* host, role: roleOf(row), lagMillis: row.lagMillis })
      }
      return {
        probed,
        host: self === undefined ? probed : yield* addressOf(self),
        role: isWriter ? "writer" : "reader",
        incarnation: textOf(first[6]),
        members
      } as const
    }),
  awaitPromotion: PgStreaming.awaitPromotion,
  load: (query) => Effect.map(query(LAG), loadOf),
  readOnly: PgStreaming.readOnly
})

/**
 * Aurora Global Database, for clients that know the instance host patterns of all regions. Needs no
 * privilege.
 *
 * @since 0.1.0
 * @category dialects
 */
export const dialect: Dialect = make({ knowsAllRegions: true })
