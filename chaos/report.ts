/** A result as text. */
import type { Result } from "./run.js"

/** More would hide the first ones. */
const SHOWN = 20

const lines = (counts: Readonly<Record<string, number>>): ReadonlyArray<string> =>
  Object.entries(counts)
    .sort(([, a], [, b]) => b - a)
    .map(([name, n]) => `  ${String(n).padStart(6)}  ${name}`)

export const render = (result: Result): string => {
  const { faults, flavor, kills, outcomes, replyDrops, seconds, seed, violations, work } = result
  const total = Object.values(faults).reduce((sum, n) => sum + n, 0)
  return [
    `chaos: ${seconds} s, ${flavor}, seed ${seed}`,
    "",
    `${total} faults: ${kills} kills, ${replyDrops} reply drops`,
    ...lines(faults),
    "",
    `${work} pieces of work`,
    ...Object.entries(outcomes)
      .sort(([a], [b]) => a.localeCompare(b))
      .flatMap(([kind, counts]) => [`  ${kind}`, ...lines(counts)]),
    "",
    ...(violations.length === 0
      ? ["every caller was told the truth"]
      : [
          `${violations.length} VIOLATIONS`,
          ...violations.slice(0, SHOWN).map((_) => `  ${_}`),
          ...(violations.length > SHOWN ? [`  ... and ${violations.length - SHOWN} more`] : []),
          `again: npm run chaos -- --seconds ${seconds} --seed ${seed} --flavor ${flavor}`
        ]),
    ""
  ].join("\n")
}
