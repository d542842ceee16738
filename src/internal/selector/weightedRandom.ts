/**
 * By chance, in proportion to the weights.
 *
 * @internal
 */
import type { HostSelector } from "../../HostSelector.js"
import { uniform } from "./pick.js"
import type { WeightOf } from "./weights.js"

/** @internal */
export const weightedRandom =
  (weightOf: WeightOf): HostSelector =>
  (candidates, chance) => {
    let total = 0
    for (const candidate of candidates) total += weightOf(candidate)
    // Nobody is to get work, and somebody must.
    if (total === 0) return uniform(candidates, chance)
    let rest = chance() * total
    let chosen = candidates[0]
    for (const candidate of candidates) {
      const weight = weightOf(candidate)
      if (weight === 0) continue
      // Rounding, or a chance of 1, can leave a rest after the last one: then it is the last one.
      chosen = candidate
      rest -= weight
      if (rest < 0) break
    }
    return chosen
  }
