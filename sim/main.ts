/** `npm run sim`: the whole client against simulated clusters, in virtual time. */
import { Cause, Clock, Effect, Either, Exit } from "effect"
import { availableParallelism } from "node:os"
import { shrinkFailure } from "./batch.js"
import { draw } from "./draw.js"
import type { Options } from "./options.js"
import { parse, usage } from "./options.js"
import { runSeeds } from "./pool.js"
import { missing, rateOf, renderFailure, renderRate, renderReplay, renderTally } from "./report.js"
import { simulate } from "./simulate.js"
import { moments } from "./invariants.js"

const EXIT = { kept: 0, violated: 1, cannotRun: 2, interrupted: 130 }

const PROGRESS_EVERY = 5000

const print = (text: string) => Effect.sync(() => process.stdout.write(`${text}\n`))

const replay = (seed: number, json: boolean) =>
  Effect.gen(function* () {
    const scenario = draw(seed)
    const result = simulate(scenario, { log: true })
    yield* print(json ? JSON.stringify({ scenario, ...result }) : renderReplay(scenario, result))
    return result.violations.length === 0 ? EXIT.kept : EXIT.violated
  })

const runAll = ({ from, jobs, json, seeds, shrinks }: Options) =>
  Effect.gen(function* () {
    const clock = yield* Effect.clock
    const start = yield* Clock.currentTimeMillis
    let printed = start
    const { failures, tally } = yield* runSeeds({
      from,
      seeds,
      jobs,
      onProgress: (tally) => {
        const now = clock.unsafeCurrentTimeMillis()
        if (now - printed < PROGRESS_EVERY) return
        printed = now
        process.stderr.write(`${renderRate(tally, now - start)}\n`)
      }
    })
    const took = (yield* Clock.currentTimeMillis) - start
    const [first] = failures
    const shrunk =
      first === undefined ? undefined : shrinkFailure(draw(first.seed), shrinks ? undefined : 0)
    const absent = first === undefined ? missing(tally, moments) : []
    if (json) {
      yield* print(
        JSON.stringify({ ...tally, ...rateOf(tally, took), failures, shrunk, missing: absent })
      )
    } else {
      yield* print(renderTally(tally))
      if (first !== undefined && shrunk !== undefined) {
        yield* print(renderFailure(first, shrunk))
      }
      if (absent.length > 0) yield* print(`NEVER HAPPENED\n  ${absent.join("\n  ")}\n`)
      yield* print(renderRate(tally, took))
    }
    return first === undefined && absent.length === 0 ? EXIT.kept : EXIT.violated
  })

const main = async (): Promise<number> => {
  const options = parse(process.argv.slice(2), availableParallelism())
  if (Either.isLeft(options)) {
    process.stderr.write(`${options.left}\n\n${usage}`)
    return EXIT.cannotRun
  }
  if (options.right === "help") {
    process.stdout.write(usage)
    return EXIT.kept
  }
  const controller = new AbortController()
  process.once("SIGINT", () => controller.abort())
  process.once("SIGTERM", () => controller.abort())
  const exit = await Effect.runPromiseExit(
    options.right.replay === undefined
      ? runAll(options.right)
      : replay(options.right.replay, options.right.json),
    { signal: controller.signal }
  )
  if (Exit.isSuccess(exit)) return exit.value
  if (Exit.isInterrupted(exit)) {
    process.stderr.write("interrupted\n")
    return EXIT.interrupted
  }
  process.stderr.write(`${Cause.pretty(exit.cause)}\n`)
  return EXIT.cannotRun
}

process.exitCode = await main()
