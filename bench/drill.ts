/** One failover of a test cluster: SIGKILL to the primary, a moment later a promotion, and the dead node comes back. */
import { Duration, Effect } from "effect"
import type { Node, PostgresCluster } from "../src/testing/PostgresCluster.js"

/** What a cluster manager takes at the very least to notice; the clients have noticed by then. */
export const OUTAGE = Duration.millis(100)

export interface Killed {
  readonly node: Node
  /** Milliseconds of the Clock. */
  readonly at: number
}

export const kill = (cluster: PostgresCluster) =>
  Effect.gen(function* () {
    const node = yield* cluster.primary
    const at = yield* Effect.clockWith((_) => _.currentTimeMillis)
    yield* cluster.kill(node)
    yield* Effect.sleep(OUTAGE)
    return { node, at } satisfies Killed
  })
