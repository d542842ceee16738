/**
 * One topology, and one retry budget, per cluster id in a process, shared by every layer that names it and closed with the
 * last of them.
 *
 * @internal
 */
import { Effect, Exit, GlobalValue, Scope } from "effect"
import { ClusterIdConflict } from "../Errors.js"
import * as RetryBudget from "../RetryBudget.js"
import type { Topology } from "../Topology.js"

/** What the layers of one cluster share. @internal */
export interface Cluster {
  readonly topology: Topology
  readonly budget: RetryBudget.RetryBudget
}

interface Shared extends Cluster {
  readonly scope: Scope.CloseableScope
  /** What the cluster is, to tell it from another one under the same id. */
  readonly description: string
  users: number
}

// In the global scope, since ESM and CJS copies of this module may live side by side.
const clusters = GlobalValue.globalValue("effect-failover/clusters", () => ({
  byId: new Map<string, Shared>(),
  lock: Effect.unsafeMakeSemaphore(1)
}))

/** @internal */
export const share = <R>(options: {
  readonly clusterId: string
  readonly description: string
  readonly make: Effect.Effect<Topology, never, R | Scope.Scope>
}): Effect.Effect<Cluster, ClusterIdConflict, R | Scope.Scope> => {
  const { clusterId, description } = options
  const join = Effect.gen(function* () {
    const existing = clusters.byId.get(clusterId)
    if (existing === undefined) {
      const scope = yield* Scope.make()
      const topology = yield* Scope.extend(options.make, scope)
      const budget = yield* RetryBudget.make()
      const shared: Shared = { topology, budget, scope, description, users: 1 }
      clusters.byId.set(clusterId, shared)
      return shared
    }
    if (existing.description !== description) {
      return yield* new ClusterIdConflict({
        clusterId,
        existing: existing.description,
        requested: description
      })
    }
    existing.users++
    return existing
  })
  const leave = Effect.suspend(() => {
    const shared = clusters.byId.get(clusterId)
    if (shared === undefined || --shared.users > 0) return Effect.void
    clusters.byId.delete(clusterId)
    return Scope.close(shared.scope, Exit.void)
  })
  return Effect.acquireRelease(clusters.lock.withPermits(1)(join), () =>
    clusters.lock.withPermits(1)(leave)
  )
}
