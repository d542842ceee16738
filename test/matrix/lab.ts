/** Clusters that the cells share: a cell has one to itself, and several cells run at a time. */
import { Reactivity } from "@effect/experimental"
import { Context, Effect, Layer, Queue } from "effect"
import * as PostgresCluster from "effect-failover/testing/PostgresCluster"
import type { Cluster } from "../support/database.js"
import type { Finding } from "./runCell.js"
import { runCell } from "./runCell.js"
import type { Cell } from "./vocabulary.js"
import { isAsynchronous } from "./vocabulary.js"

/** Most cells wait for somebody's patience to end, so that two cores serve some of them at a time. */
export const CLUSTERS = 3

export class Lab extends Context.Tag("test/matrix/Lab")<
  Lab,
  { readonly run: (cell: Cell) => Effect.Effect<Finding, unknown> }
>() {}

export const layer: Layer.Layer<Lab, PostgresCluster.PostgresClusterError> = Layer.scoped(
  Lab,
  Effect.gen(function* () {
    const reactivity = yield* Reactivity.Reactivity
    const template = yield* PostgresCluster.makeTemplate
    const free = (count: number, replication: PostgresCluster.Replication) =>
      Effect.gen(function* () {
        const queue = yield* Queue.unbounded<Cluster>()
        const cluster = PostgresCluster.make({ nodes: 2, replication, template })
        for (let i = 0; i < count; i++) yield* Queue.offer(queue, yield* cluster)
        return queue
      })
    const synchronous = yield* free(CLUSTERS, "synchronous")
    const asynchronous = yield* free(1, "asynchronous")
    return {
      run: (cell) => {
        const queue = isAsynchronous(cell) ? asynchronous : synchronous
        return Effect.acquireUseRelease(
          Queue.take(queue),
          (cluster) => runCell(cell, cluster),
          (cluster) => Queue.offer(queue, cluster)
        ).pipe(Effect.provideService(Reactivity.Reactivity, reactivity))
      }
    }
  })
).pipe(Layer.provide(Reactivity.layer))
