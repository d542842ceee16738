/** The command line. */
import { parseArgs } from "node:util"
import { Data, Effect } from "effect"
import type { Flavor } from "effect-failover/testing/PostgresCluster"

export const HELP = `npm run demo -- [options]

Kills the writer of a PostgreSQL cluster under load, twice: first under a service on
effect-failover, then under the same service on plain @effect/sql-pg. Shows what happens,
and then compares what the callers were told with what the database holds.
The cluster is real, needs no Docker, and is gone afterwards. Takes about 20 seconds.

  --flavor streaming|aurora   how the cluster tells its topology (default streaming)
  --json                      the last line of the output is one JSON object
  --help                      this text

Without a terminal, or with TERM=dumb, it prints one line for each event. NO_COLOR is respected.
Exit code: 0; 1 if effect-failover lost or duplicated a write; 2 if the demo could not run;
130 after Ctrl-C.
`

export interface Options {
  readonly flavor: Flavor
  readonly json: boolean
  readonly help: boolean
}

export class OptionsError extends Data.TaggedError("OptionsError")<{
  readonly message: string
  readonly hint: string
}> {}

const hint = "see npm run demo -- --help"

const flavors: ReadonlyArray<Flavor> = ["streaming", "aurora"]

export const parse = (args: ReadonlyArray<string>): Effect.Effect<Options, OptionsError> =>
  Effect.gen(function* () {
    const { values } = yield* Effect.try({
      try: () =>
        parseArgs({
          args: [...args],
          options: {
            flavor: { type: "string", default: "streaming" },
            json: { type: "boolean", default: false },
            help: { type: "boolean", short: "h", default: false }
          }
        }),
      catch: (cause) =>
        new OptionsError({ message: cause instanceof Error ? cause.message : String(cause), hint })
    })
    const flavor = flavors.find((_) => _ === values.flavor)
    if (flavor === undefined) {
      return yield* new OptionsError({
        message: `--flavor is ${flavors.join(" or ")}, and not ${JSON.stringify(values.flavor)}`,
        hint
      })
    }
    return { flavor, json: values.json, help: values.help }
  })
