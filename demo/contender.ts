/** A client in the drill: how it is provided, how a service uses it, and what it shows of itself. */
import type { SqlClient } from "@effect/sql"
import type { Effect, Layer, Scope } from "effect"
import type { Node, PostgresCluster } from "effect-failover/testing/PostgresCluster"
import type { Stage } from "./model.js"
import type { Serve } from "./workload.js"

/** What a client tells while it runs. */
export interface Observer {
  readonly stage: (stage: Stage) => Effect.Effect<void>
  /** What the client takes each node for, by the node's id. */
  readonly seen: (seen: ReadonlyMap<string, string>) => Effect.Effect<void>
  /** A failover of the client's own is over. */
  readonly failedOver: Effect.Effect<void>
}

export interface Prepared {
  readonly client: Layer.Layer<SqlClient.SqlClient, unknown>
  /** What happens around the client when a standby was promoted. */
  readonly promoted: (node: Node) => Effect.Effect<void>
}

export interface Contender {
  readonly name: string
  /** What the demo's column about this client's view of the nodes is called. */
  readonly view: string
  /** How it is configured and used, for the reader. */
  readonly configured: ReadonlyArray<string>
  readonly serve: Serve
  /** Whether its first error is its notice: it has no event for that. */
  readonly noticesByErrors: boolean
  readonly prepare: (
    cluster: PostgresCluster,
    observer: Observer
  ) => Effect.Effect<Prepared, unknown, Scope.Scope>
}
