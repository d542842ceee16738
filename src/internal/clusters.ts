/**
 * One topology, and one retry budget, per cluster id in a process, shared by every layer that names it and
 * closed with the last of them.
 *
 * The monitor outlives the layer that was there first, so it must not live on that layer's credentials alone:
 * each layer brings its own way to ask hosts, and takes it away when it is closed.
 *
 * @internal
 */
import type { Scope } from "effect"
import { Effect, Exit, GlobalValue, Scope as Scopes } from "effect"
import { ClusterIdConflict } from "../Errors.js"
import type { Host } from "../Host.js"
import * as RetryBudget from "../RetryBudget.js"
import type { Topology } from "../Topology.js"
import type { SourceError, TopologySource, Watch } from "../TopologySource.js"

/** What the layers of one cluster share. @internal */
export interface Cluster {
  readonly topology: Topology
  readonly budget: RetryBudget.RetryBudget
}

/** A layer's way to ask hosts. @internal */
export interface Contribution {
  readonly source: TopologySource
  /** Made for monitoring: it is asked before those that work with a client's own credentials. */
  readonly isForMonitoring: boolean
}

interface Shared extends Cluster {
  readonly scope: Scope.CloseableScope
  /** What the cluster is, to tell it from another one under the same id. */
  readonly description: string
  readonly contributions: Array<Contribution>
}

// In the global scope, since ESM and CJS copies of this module may live side by side.
const clusters = GlobalValue.globalValue("effect-failover/clusters", () => ({
  byId: new Map<string, Shared>(),
  lock: Effect.unsafeMakeSemaphore(1)
}))

/** Whoever is turned away at the door leaves it to the next. */
const firstLetIn = (contributions: ReadonlyArray<Contribution>): TopologySource => {
  const told = new WeakSet<Contribution>()
  /** Once: a search asks each host ten times a second. */
  const tell = (contribution: Contribution, host: Host, error: SourceError) =>
    Effect.suspend(() => {
      if (!contribution.isForMonitoring || told.has(contribution)) return Effect.void
      told.add(contribution)
      return Effect.logWarning(
        `${host.id} rejects the monitoring connection, and is asked as a client`,
        error.rejection?.message
      )
    })
  const attempt = (
    host: Host,
    [first, ...others]: ReadonlyArray<Contribution>
  ): Effect.Effect<Watch, SourceError, Scope.Scope> =>
    first === undefined
      ? Effect.never
      : Effect.catchIf(
          first.source.watch(host),
          (error) => error.rejection !== undefined && others.length > 0,
          (error) => Effect.zipRight(tell(first, host, error), attempt(host, others))
        )
  return {
    watch: (host) =>
      Effect.suspend(() => {
        const isFirst = (_: Contribution) => _.isForMonitoring
        return attempt(host, [
          ...contributions.filter(isFirst),
          ...contributions.filter((_) => !isFirst(_))
        ])
      })
  }
}

/** @internal */
export const share = <R>(options: {
  readonly clusterId: string
  readonly description: string
  readonly contributions: ReadonlyArray<Contribution>
  readonly make: (source: TopologySource) => Effect.Effect<Topology, never, R | Scope.Scope>
}): Effect.Effect<Cluster, ClusterIdConflict, R | Scope.Scope> => {
  const { clusterId, description } = options
  const join = Effect.gen(function* () {
    const existing = clusters.byId.get(clusterId)
    if (existing === undefined) {
      const scope = yield* Scopes.make()
      const contributions = [...options.contributions]
      const topology = yield* Scopes.extend(options.make(firstLetIn(contributions)), scope)
      const budget = yield* RetryBudget.make()
      const shared: Shared = { topology, budget, scope, description, contributions }
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
    existing.contributions.push(...options.contributions)
    return existing
  })
  const leave = Effect.suspend(() => {
    const shared = clusters.byId.get(clusterId)
    if (shared === undefined) return Effect.void
    for (const contribution of options.contributions) {
      shared.contributions.splice(shared.contributions.indexOf(contribution), 1)
    }
    if (shared.contributions.length > 0) return Effect.void
    clusters.byId.delete(clusterId)
    return Scopes.close(shared.scope, Exit.void)
  })
  return Effect.acquireRelease(clusters.lock.withPermits(1)(join), () =>
    clusters.lock.withPermits(1)(leave)
  )
}
