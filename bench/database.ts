/**
 * The library's layer over a test cluster: compiled, and straight to the servers. The nodes' proxies live in this
 * process, where each of their turns would be counted as the library's.
 */
import type { Scope } from "effect"
import { Effect } from "effect"
import type { Layer } from "effect"
import type * as Pg from "../src/layers/Pg.js"
import type { Push } from "../src/Topology.js"
import type { PostgresCluster } from "../src/testing/PostgresCluster.js"
import * as Library from "./library.js"

export const layerOf = (
  cluster: PostgresCluster,
  maxConnections: number,
  topologyPush?: Push
): Effect.Effect<Layer.Layer<Pg.Provided, Pg.PgLayerError>, never, Scope.Scope> => {
  const addressOf = (node: PostgresCluster["nodes"][number]) => ({
    host: node.host,
    port: node.serverPort
  })
  return Effect.map(Library.load, ({ layer }) =>
    layer({
      hosts: cluster.nodes.map((node) => `${node.host}:${node.serverPort}`),
      database: cluster.database,
      username: cluster.username,
      password: cluster.password,
      maxConnections,
      topologyPush,
      // Aurora lists its instances by their identifiers.
      instanceHostPattern: "?.cluster.test:5432",
      translateAddress: (host) => {
        const node = cluster.nodes.find(({ id }) => id === host.id)
        return node === undefined ? host : addressOf(node)
      }
    })
  )
}
