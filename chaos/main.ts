/** `npm run chaos`: random faults under mixed work on a real cluster, and the check of what was told. */
import { Cause, Effect, Either, Exit, Logger, LogLevel } from "effect"
import { parse, usage } from "./options.js"
import { render } from "./report.js"
import { run } from "./run.js"

const EXIT = { kept: 0, broken: 1, cannotRun: 2, interrupted: 130 }

const main = async (): Promise<number> => {
  const options = parse(process.argv.slice(2), Date.now() % 1_000_000)
  if (Either.isLeft(options)) {
    process.stderr.write(`${options.left}\n\n${usage}`)
    return EXIT.cannotRun
  }
  if (options.right === "help") {
    process.stdout.write(usage)
    return EXIT.kept
  }
  const { json, seed } = options.right
  const controller = new AbortController()
  process.once("SIGINT", () => controller.abort())
  process.once("SIGTERM", () => controller.abort())
  const exit = await Effect.runPromiseExit(
    run(options.right).pipe(Logger.withMinimumLogLevel(LogLevel.None)),
    { signal: controller.signal }
  )
  if (Exit.isFailure(exit)) {
    process.stderr.write(`the run with seed ${seed} failed: ${Cause.pretty(exit.cause)}\n`)
    return Exit.isInterrupted(exit) ? EXIT.interrupted : EXIT.cannotRun
  }
  process.stdout.write(json ? `${JSON.stringify(exit.value)}\n` : render(exit.value))
  return exit.value.violations.length === 0 ? EXIT.kept : EXIT.broken
}

process.exitCode = await main()
