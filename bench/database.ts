/** The library's layer over a test cluster, through the nodes' proxies. */
import type { Layer } from "effect"
import * as Pg from "../src/layers/Pg.js"
import type { Push } from "../src/Topology.js"
import type { PostgresCluster } from "../src/testing/PostgresCluster.js"

export const layerOf = (
  cluster: PostgresCluster,
  maxConnections: number,
  topologyPush?: Push
): Layer.Layer<Pg.Provided, Pg.PgLayerError> =>
  Pg.layer({
    hosts: cluster.nodes.map((node) => `${node.host}:${node.port}`),
    database: cluster.database,
    username: cluster.username,
    password: cluster.password,
    maxConnections,
    topologyPush,
    // Aurora lists its instances by their identifiers.
    instanceHostPattern: "?.cluster.test:5432",
    translateAddress: (host) => cluster.nodes.find(({ id }) => id === host.id) ?? host
  })
