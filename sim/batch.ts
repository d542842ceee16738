/** Runs of seeds in a row, and what they came to. */
import { draw } from "./draw.js"
import type { Scenario } from "./scenario.js"
import { shrink } from "./shrink.js"
import { simulate } from "./simulate.js"
import type { Violation } from "./invariants.js"
import type { Tally } from "./tally.js"
import { add, noTally } from "./tally.js"

export interface Failure {
  readonly seed: number
  readonly violations: ReadonlyArray<Violation>
}

export interface Batch {
  readonly tally: Tally
  readonly failures: ReadonlyArray<Failure>
}

export const runBatch = (seeds: Iterable<number>): Batch => {
  const tally = noTally()
  const failures: Array<Failure> = []
  for (const seed of seeds) {
    const result = simulate(draw(seed))
    add(tally, result.tally)
    if (result.violations.length > 0) failures.push({ seed, violations: result.violations })
  }
  return { tally, failures }
}

export interface Shrunk {
  readonly scenario: Scenario
  readonly violations: ReadonlyArray<Violation>
  readonly log: ReadonlyArray<string>
}

/** The smallest scenario found that violates what this one violates first. */
export const shrinkFailure = (scenario: Scenario, attempts?: number): Shrunk => {
  const kind = simulate(scenario).violations[0]?.kind
  const smallest = shrink(
    scenario,
    (candidate) => simulate(candidate).violations[0]?.kind === kind,
    attempts
  )
  const { log, violations } = simulate(smallest, { log: true })
  return { scenario: smallest, violations, log }
}
