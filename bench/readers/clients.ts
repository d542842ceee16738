/** What the parts of `bench readers` share: the library, compiled, and clients on a test cluster. */
import { SqlClient } from "@effect/sql"
import { Context, Effect, Layer } from "effect"
import { pathToFileURL } from "node:url"
import { bundle } from "../../scripts/bundle.js"
import type { PgOptions } from "../../src/layers/Pg.js"
import type * as PostgresCluster from "../../src/testing/PostgresCluster.js"
import * as Library from "../library.js"

export const READERS = 3

/** What is compared, compiled. It shares its fiber references and tags with the layers, by their names. */
export const loadIndex = Effect.flatMap(bundle("src/index.ts"), (file) =>
  Effect.promise(
    (): Promise<typeof import("../../src/index.js")> => import(pathToFileURL(file).href)
  )
)

export type Index = Effect.Effect.Success<typeof loadIndex>

export const sqlOf = (options: PgOptions) =>
  Effect.gen(function* () {
    const { layer } = yield* Library.load
    return Context.get(yield* Layer.build(layer(options)), SqlClient.SqlClient)
  })

export const connectionOf = (
  cluster: PostgresCluster.PostgresCluster,
  nodes: ReadonlyArray<PostgresCluster.Node | undefined> = cluster.nodes
) => ({
  // Straight to the servers: the nodes' proxies live in this process.
  hosts: nodes.flatMap((node) => (node === undefined ? [] : `${node.host}:${node.serverPort}`)),
  database: cluster.database,
  username: cluster.username,
  password: cluster.password
})
