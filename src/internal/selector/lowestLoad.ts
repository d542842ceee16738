/**
 * The lowest sum of CPU and replication lag.
 *
 * A figure that nobody has counts for nobody. A host that lacks one which others have gets the benefit of
 * the doubt, as far as the best of the others: it shares the work with that one, and never takes it all.
 *
 * @internal
 */
import { Either } from "effect"
import { ConfigurationError } from "../../Errors.js"
import type { Candidate, HostSelector } from "../../HostSelector.js"
import { isKnown, leastKnown, lowest } from "./pick.js"

const selector =
  (lagWeight: number): HostSelector =>
  (candidates, chance) => {
    const leastLag = leastKnown(candidates, (_) => _.lagMillis) ?? 0
    const leastCpu = leastKnown(candidates, (_) => _.cpuPercent) ?? 0
    const loadOf = ({ cpuPercent, lagMillis }: Candidate) =>
      (isKnown(cpuPercent) ? cpuPercent : leastCpu) +
      (isKnown(lagMillis) ? lagMillis : leastLag) * lagWeight
    const isSure = (_: Candidate) => isKnown(_.cpuPercent) && isKnown(_.lagMillis)
    const best = leastKnown(candidates, (_) => (isSure(_) ? loadOf(_) : undefined)) ?? 0
    return lowest(candidates, (_) => (isSure(_) ? loadOf(_) : Math.max(loadOf(_), best)), chance)
  }

/** @internal */
export const lowestLoad = (lagWeight: number): Either.Either<HostSelector, ConfigurationError> =>
  Number.isFinite(lagWeight) && lagWeight >= 0
    ? Either.right(selector(lagWeight))
    : Either.left(
        new ConfigurationError({
          field: "lagWeight",
          problem: `is ${lagWeight}`,
          hint: "give the percent of CPU that one millisecond of lag weighs: a number from 0 on"
        })
      )
