/** `--seconds N --seed S --flavor streaming|aurora --json`. */
import { Either } from "effect"
import type { Flavor } from "effect-failover/testing/PostgresCluster"
import { parseArgs } from "node:util"

export interface Options {
  readonly seconds: number
  /** The run's faults and its work are drawn from it; how they meet is the machine's. */
  readonly seed: number
  readonly flavor: Flavor
  readonly json: boolean
}

export const usage = `Usage: npm run chaos -- [--seconds N] [--seed S] [--flavor streaming|aurora] [--json]

A seeded random run on a real PostgreSQL cluster, and a check of what every caller was told.
  --seconds N   how long faults are made (default 60)
  --seed S      a whole number; draws the same faults and work again (default: from the clock)
  --flavor F    streaming (default) or aurora
  --json        print the result as one JSON object
Exits with 1 if anything that a caller was told is not so, with 2 if the run itself failed.
`

/** `seed` is taken where none is given. */
export const parse = (
  args: ReadonlyArray<string>,
  seed: number
): Either.Either<Options | "help", string> =>
  Either.try({
    try: () =>
      parseArgs({
        args: [...args],
        options: {
          seconds: { type: "string", default: "60" },
          seed: { type: "string", default: String(seed) },
          flavor: { type: "string", default: "streaming" },
          json: { type: "boolean", default: false },
          help: { type: "boolean", short: "h", default: false }
        }
      }).values,
    catch: (cause) => (cause instanceof Error ? cause.message : String(cause))
  }).pipe(
    Either.flatMap((values): Either.Either<Options | "help", string> => {
      if (values.help) return Either.right("help")
      const seconds = Number(values.seconds)
      const seed = Number(values.seed)
      const { flavor, json } = values
      if (!(seconds > 0)) return Either.left(`--seconds ${values.seconds}: a number above 0`)
      if (!Number.isSafeInteger(seed)) return Either.left(`--seed ${values.seed}: a whole number`)
      if (flavor !== "streaming" && flavor !== "aurora") {
        return Either.left(`--flavor ${flavor}: streaming or aurora`)
      }
      return Either.right({ seconds, seed, flavor, json })
    })
  )
