/**
 * The lowest latency. A host without a sample is tried like the fastest one while nothing is outstanding
 * there: it is not starved, and it cannot be flooded, for it has one statement at a time until its first
 * answer. Not before the fastest: a host that fails at once, and so never gives a sample, would take
 * every statement.
 *
 * @internal
 */
import type { HostSelector } from "../../HostSelector.js"
import { isKnown, leastKnown, lowest } from "./pick.js"

/** @internal */
export const fastestResponse: HostSelector = (candidates, chance) => {
  const least = leastKnown(candidates, (_) => _.latencyMillis)
  // Nobody has answered yet, and all may be busy.
  if (least === undefined) return lowest(candidates, (_) => _.outstanding, chance)
  return lowest(
    candidates,
    ({ latencyMillis, outstanding }) =>
      isKnown(latencyMillis) ? latencyMillis : outstanding === 0 ? least : Number.POSITIVE_INFINITY,
    chance
  )
}
