/**
 * RDS Multi-AZ DB cluster for PostgreSQL: one writer and two readable standbys. Every instance lists
 * all of them with their endpoints, so no instance host pattern is needed.
 *
 * An instance is the writer when it is its own source of replication and the server itself is not in
 * recovery. Replication is PostgreSQL's, so the epoch is the timeline.
 *
 * The functions come with the extension `rds_tools`, which a superuser of the instance creates once per
 * database, and whose schema is closed to others:
 *
 * ```sql
 * CREATE EXTENSION IF NOT EXISTS rds_tools;
 * GRANT USAGE ON SCHEMA rds_tools TO app;
 * GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA rds_tools TO app;
 * ```
 *
 * @since 0.1.0
 */
import { Effect, Option } from "effect"
import type { Dialect } from "../Dialect.js"
import * as Host from "../Host.js"
import type { Member } from "../TopologyState.js"
import {
  hasFunctions,
  incarnation,
  numberOf,
  ROLE,
  textOf,
  timelineOf,
  unusable
} from "./internal/pgCatalog.js"
import * as PgStreaming from "./PgStreaming.js"

/** A scalar or a one-column set: it is not the same in all versions of the extension. */
const SOURCE = `(SELECT f.id FROM rds_tools.multi_az_db_cluster_source_dbi_resource_id() AS f(id) LIMIT 1)`

const SELF = `(SELECT f.id FROM rds_tools.dbi_resource_id() AS f(id) LIMIT 1)`

/** Where there is no column `port`, the instances listen on the port of the configuration. */
const OBSERVE = `SELECT ${ROLE},
  ${SELF}::pg_catalog.text,
  ${SOURCE}::pg_catalog.text,
  t.id::pg_catalog.text,
  t.endpoint::pg_catalog.text,
  pg_catalog.to_jsonb(t) OPERATOR(pg_catalog.->>) 'port'
FROM rds_tools.show_topology() AS t`

/** The first label of an endpoint is the instance's identifier. */
const identifierOf = (endpoint: string): string => endpoint.replace(/\..*$/, "")

/**
 * RDS Multi-AZ DB cluster. Needs the extension `rds_tools` and the right to use it.
 *
 * @since 0.1.0
 * @category dialects
 */
export const dialect: Dialect = {
  name: "multi-az-pg",
  detect: (query) =>
    Effect.flatMap(
      hasFunctions(query, "rds_tools", [
        "show_topology",
        "dbi_resource_id",
        "multi_az_db_cluster_source_dbi_resource_id"
      ]),
      (hasTools) =>
        hasTools
          ? // A single instance has the functions too, and no source.
            Effect.map(query(`SELECT ${SOURCE} IS NOT NULL`), ([row]) => row?.[0] === true)
          : Effect.succeed(false)
    ),
  isWriter: PgStreaming.isWriter,
  incarnation,
  observe: (query, { hostAt, probed }) =>
    Effect.gen(function* () {
      const rows = yield* query(OBSERVE)
      const [isInRecovery, segment, started, own, source] = rows[0] ?? []
      if (typeof isInRecovery !== "boolean") {
        return yield* unusable("rds_tools.show_topology() lists no instance yet")
      }
      const members: Array<Member> = []
      let self = probed
      for (const [, , , , , id, endpoint, port] of rows) {
        const name = textOf(endpoint)?.toLowerCase()
        if (name === undefined) continue
        const listed = Host.make({
          id: identifierOf(name),
          host: name,
          port: numberOf(port) ?? probed.port
        })
        const host = Option.getOrElse(hostAt(listed), () => listed)
        if (id === own) self = host
        members.push({ host, role: id === source ? "writer" : "reader" })
      }
      const serverEpoch = timelineOf(segment)
      return {
        probed,
        host: self,
        // Its own source: an instance without any source says nothing.
        role:
          !isInRecovery && serverEpoch !== undefined && textOf(own) !== undefined && own === source
            ? "writer"
            : "reader",
        serverEpoch,
        incarnation: textOf(started),
        members
      } as const
    }),
  awaitPromotion: PgStreaming.awaitPromotion,
  freshness: PgStreaming.freshness,
  readOnly: PgStreaming.readOnly
}
