/** `--seeds N --from S`, or `--seed S`; `--jobs N --json`. */
import { Either } from "effect"
import { parseArgs } from "node:util"

export interface Options {
  readonly seeds: number
  readonly from: number
  /** One seed, with its scenario and all that happened. */
  readonly replay: number | undefined
  /** Processes. */
  readonly jobs: number
  readonly json: boolean
  /** Whether the first seed that fails is made smaller. */
  readonly shrinks: boolean
}

export const usage = `Usage: npm run sim -- [--seeds N] [--from S] [--jobs N] [--json] [--no-shrink]
       npm run sim -- --seed S [--json]

The whole client against simulated clusters, in virtual time, and a check of what every caller was told.
  --seeds N   how many runs, each with a seed of its own (default 1000)
  --from S    the first seed (default 1)
  --seed S    this run only: its scenario and everything that happened in it
  --jobs N    processes (default: one for each core)
  --json      print the result as one JSON object
  --no-shrink leave a seed that fails as it is
Exits with 1 if something is violated (the first seed that fails is shrunk and printed) or if some kind of
fault or outcome never happened in 1000 seeds or more, and with 2 if the simulation itself failed.
`

const natural = (name: string, value: string): Either.Either<number, string> => {
  const number = Number(value)
  return Number.isSafeInteger(number) && number >= 0
    ? Either.right(number)
    : Either.left(`--${name} ${value}: a whole number`)
}

/** `jobs` is taken where none are given. */
export const parse = (
  args: ReadonlyArray<string>,
  jobs: number
): Either.Either<Options | "help", string> =>
  Either.gen(function* () {
    const values = yield* Either.try({
      try: () =>
        parseArgs({
          args: [...args],
          options: {
            seeds: { type: "string", default: "1000" },
            from: { type: "string", default: "1" },
            seed: { type: "string" },
            jobs: { type: "string", default: String(jobs) },
            json: { type: "boolean", default: false },
            "no-shrink": { type: "boolean", default: false },
            help: { type: "boolean", short: "h", default: false }
          }
        }).values,
      catch: (cause) => (cause instanceof Error ? cause.message : String(cause))
    })
    if (values.help) return "help"
    return {
      seeds: yield* natural("seeds", values.seeds),
      from: yield* natural("from", values.from),
      replay: values.seed === undefined ? undefined : yield* natural("seed", values.seed),
      jobs: Math.max(1, yield* natural("jobs", values.jobs)),
      json: values.json,
      shrinks: !values["no-shrink"]
    }
  })
