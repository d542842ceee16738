import type { Dialect } from "effect-failover"
import { Host } from "effect-failover"
import * as PgStreaming from "effect-failover/dialects/PgStreaming"
import { Effect } from "effect"

// PostgreSQL whose members are listed in a table: role, epoch and promotion as in any other.
export const registry: Dialect.Dialect = {
  name: "registry",
  detect: (query) =>
    Effect.map(
      query("SELECT pg_catalog.to_regclass('ops.member') IS NOT NULL"),
      ([row]) => row?.[0] === true
    ),
  isWriter: PgStreaming.isWriter,
  observe: (query, context) =>
    Effect.gen(function* () {
      const seen = yield* PgStreaming.dialect.observe(query, context)
      const rows = yield* query("SELECT id, host, port FROM ops.member")
      const hosts = rows.map(([id, host, port]) =>
        Host.make({ id: String(id), host: String(host), port: Number(port) })
      )
      return { ...seen, isWhole: true, members: hosts.map((host) => ({ host, role: "unknown" })) }
    }),
  awaitPromotion: PgStreaming.awaitPromotion
}
