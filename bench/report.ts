/** What the benchmarks print: plain tables for people, and for programs one JSON object on the last line. */
import { Console, Effect } from "effect"

const sorted = (values: ReadonlyArray<number>) => [...values].sort((a, b) => a - b)

/** Nearest rank: an observed value. `NaN` of nothing. */
export const percentile = (values: ReadonlyArray<number>, p: number): number =>
  sorted(values)[Math.max(0, Math.ceil(values.length * p) - 1)] ?? NaN

export const median = (values: ReadonlyArray<number>): number => {
  const half = Math.floor(values.length / 2)
  const all = sorted(values)
  return values.length % 2 === 1
    ? (all[half] ?? NaN)
    : ((all[half - 1] ?? NaN) + (all[half] ?? NaN)) / 2
}

export const round = (value: number, digits: number): number => Number(value.toFixed(digits))

export const table = (
  header: ReadonlyArray<string>,
  rows: ReadonlyArray<ReadonlyArray<string | number>>
): Effect.Effect<void> => {
  const all = [header, ...rows].map((row) => row.map(String))
  const widths = header.map((_, column) => Math.max(...all.map((row) => row[column]?.length ?? 0)))
  const line = (row: ReadonlyArray<string>) =>
    row
      .map((cell, column) => cell.padEnd(widths[column] ?? 0))
      .join("  ")
      .trimEnd()
  return Console.log(
    ["", ...all.map(line).toSpliced(1, 0, widths.map((_) => "-".repeat(_)).join("  ")), ""].join(
      "\n"
    )
  )
}

export const json = (enabled: boolean, value: unknown): Effect.Effect<void> =>
  enabled ? Console.log(JSON.stringify(value)) : Effect.void

/** The process ends with 1 when everything is printed and cleaned up. */
export const fail = (reason: string): Effect.Effect<void> =>
  Effect.zipRight(
    Console.error(`FAILED: ${reason}`),
    Effect.sync(() => {
      process.exitCode = 1
    })
  )
