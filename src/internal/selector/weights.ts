/**
 * How much of the work a candidate is to get, in proportion to the others.
 *
 * @internal
 */
import { Either } from "effect"
import { ConfigurationError } from "../../Errors.js"
import * as Host from "../../Host.js"
import type { Candidate, WeightOptions } from "../../HostSelector.js"

/** @internal */
export type WeightOf = (candidate: Candidate) => number

/** One statement in a million; with proportions far beyond, a rotation could not add up its strides. */
const LEAST = 1e-6
const MOST = 1e6

const isWeight = (weight: number | undefined): weight is number =>
  weight !== undefined && (weight === 0 || (weight >= LEAST && weight <= MOST))

/** What the candidate itself says; 1 where it says nothing that can be used. @internal */
export const ownWeight: WeightOf = (candidate) =>
  isWeight(candidate.weight) ? candidate.weight : 1

const refused = (field: string, problem: string, hint: string) =>
  Either.left(new ConfigurationError({ field, problem, hint }))

/** Checked once, so that a wrong weight is found before the first statement. @internal */
export const make = (options: WeightOptions): Either.Either<WeightOf, ConfigurationError> => {
  const { defaultWeight = 1 } = options
  if (!isWeight(defaultWeight) || defaultWeight === 0) {
    return refused(
      "defaultWeight",
      `is ${defaultWeight}`,
      `give a number from ${LEAST} to ${MOST}: hosts without a weight are to get work, too`
    )
  }
  const weights = new Map(Object.entries(options.weights ?? {}))
  for (const [name, weight] of weights) {
    if (name.trim() === "") return refused("weights", "names no host", `write { "db-1": 2 }`)
    if (!isWeight(weight)) {
      return refused(
        "weights",
        `gives ${name} the weight ${weight}`,
        `give a number from ${LEAST} to ${MOST}, or 0: no work while any other host can do it`
      )
    }
  }
  const own: WeightOf = ({ weight }) => (isWeight(weight) ? weight : defaultWeight)
  if (weights.size === 0) return Either.right(own)
  return Either.right(
    (candidate) =>
      weights.get(candidate.host.id) ?? weights.get(Host.address(candidate.host)) ?? own(candidate)
  )
}
