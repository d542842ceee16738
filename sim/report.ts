/** Results as text. */
import type { Failure, Shrunk } from "./batch.js"
import { workKinds } from "./scenario.js"
import type { Scenario } from "./scenario.js"
import type { Result } from "./simulate.js"
import type { Tally } from "./tally.js"

/** Below this many seeds, something rare may not have happened. */
const ENOUGH_SEEDS = 1000

/** What must have happened in enough seeds: each is a path that an invariant is about. */
const EXPECTED = {
  faults: [
    "crash",
    "restart",
    "freeze",
    "usurped",
    "partition",
    "isolated",
    "switchover",
    "outage",
    "refuse",
    "terminate",
    "slow",
    "lag",
    "stale"
  ],
  signals: [
    "success",
    "interrupted",
    "the caller's own failure",
    "FailoverSuccess Unknown",
    "FailoverFailed NotExecuted",
    "FailoverFailed Unknown",
    "FailoverFailed RolledBack",
    "RolledBack",
    "Unknown",
    "StatementTimeout Unknown",
    "StatementTimeout RolledBack",
    "PoolTimeout NotExecuted"
  ]
} as const

const signalsOf = (tally: Tally): Readonly<Record<string, number>> => {
  const signals: Record<string, number> = {}
  for (const counts of Object.values(tally.outcomes)) {
    for (const [text, n] of Object.entries(counts)) signals[text] = (signals[text] ?? 0) + n
  }
  return signals
}

/** What should have happened by now, and did not. */
export const missing = (
  tally: Tally,
  expectedSeen: ReadonlyArray<string>
): ReadonlyArray<string> => {
  if (tally.seeds < ENOUGH_SEEDS) return []
  const signals = signalsOf(tally)
  return [
    ...EXPECTED.faults.filter((_) => !(_ in tally.faults)).map((_) => `fault: ${_}`),
    ...workKinds.filter((_) => !(_ in tally.outcomes)).map((_) => `work: ${_}`),
    ...EXPECTED.signals.filter((_) => !(_ in signals)).map((_) => `signal: ${_}`),
    ...expectedSeen.filter((_) => !(_ in tally.seen)).map((_) => `seen: ${_}`)
  ]
}

const lines = (counts: Readonly<Record<string, number>>): ReadonlyArray<string> =>
  Object.entries(counts)
    .sort(([a, n], [b, m]) => m - n || (a < b ? -1 : 1))
    .map(([name, n]) => `  ${String(n).padStart(8)}  ${name}`)

const HOUR = 3_600_000

export interface Rate {
  readonly hours: number
  readonly seconds: number
  readonly hoursPerMinute: number
}

export const rateOf = (tally: Tally, realMillis: number): Rate => ({
  hours: Math.round(tally.elapsed / HOUR),
  seconds: Math.round(realMillis / 100) / 10,
  hoursPerMinute: Math.round(tally.elapsed / HOUR / (realMillis / 60_000))
})

export const renderRate = (tally: Tally, realMillis: number): string => {
  const { hours, hoursPerMinute, seconds } = rateOf(tally, realMillis)
  return `${tally.seeds} seeds, ${hours} virtual hours in ${seconds} s (${hoursPerMinute} a minute), ${tally.failovers} failovers, ${tally.statements} statements`
}

export const renderTally = (tally: Tally): string =>
  [
    "faults",
    ...lines(tally.faults),
    "",
    "what callers were told",
    ...lines(signalsOf(tally)),
    "",
    "seen on the way",
    ...lines(tally.seen),
    ""
  ].join("\n")

const renderViolations = ({ violations }: { readonly violations: Result["violations"] }): string =>
  violations.map(({ kind, text }) => `  ${kind}: ${text}`).join("\n")

const renderScenario = ({ faults, options, work, ...rest }: Scenario): string =>
  [
    JSON.stringify(rest),
    `options ${JSON.stringify(options)}`,
    ...faults.map((_) => `fault   ${JSON.stringify(_)}`),
    ...work.map((_) => `work    ${JSON.stringify(_)}`)
  ].join("\n")

export const renderReplay = (scenario: Scenario, { log, violations }: Result): string =>
  [
    renderScenario(scenario),
    "",
    ...log,
    "",
    violations.length === 0
      ? "nothing is violated"
      : `VIOLATED\n${renderViolations({ violations })}`,
    ""
  ].join("\n")

export const renderFailure = (
  { seed, violations }: Failure,
  { log, scenario, ...shrunk }: Shrunk
) =>
  [
    `SEED ${seed} FAILS`,
    renderViolations({ violations }),
    `again: npm run sim -- --seed ${seed}`,
    "",
    "shrunk to",
    renderScenario(scenario),
    "",
    ...log,
    "",
    renderViolations(shrunk),
    ""
  ].join("\n")
