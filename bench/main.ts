/** `npm run bench`: see `usage` in options.ts. */
import { NodeRuntime } from "@effect/platform-node"
import { Console, Effect } from "effect"
import * as ArangoBench from "./arango.js"
import * as FailoverBench from "./failover.js"
import * as HeapBench from "./heap.js"
import type { Options } from "./options.js"
import { parse } from "./options.js"
import * as ReadersBench from "./readers/main.js"
import * as StatementsBench from "./statements.js"

const run = (options: Options) => {
  switch (options.command) {
    case "statements":
      return StatementsBench.run(options)
    case "failover":
      return FailoverBench.run(options)
    case "heap":
      return HeapBench.run(options)
    case "arango":
      return ArangoBench.measure(options)
    case "readers":
      return ReadersBench.measure(options)
  }
}

NodeRuntime.runMain(
  parse(process.argv.slice(2)).pipe(
    Effect.flatMap((options) => Effect.scoped(run(options))),
    Effect.catchTag("UsageError", (error) =>
      Effect.zipRight(
        Console.error(error.message),
        Effect.sync(() => {
          process.exitCode = 2
        })
      )
    )
  )
)
