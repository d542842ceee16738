/**
 * `npm run demo`: a real PostgreSQL cluster loses its writer under load, once under effect-failover and
 * once under plain @effect/sql-pg.
 */
import { NodeRuntime } from "@effect/platform-node"
import { Cause, Deferred, Effect, Exit, Logger } from "effect"
import * as PostgresCluster from "effect-failover/testing/PostgresCluster"
import { Board, make as makeBoard } from "./board.js"
import * as Figures from "./figures.js"
import * as Library from "./library.js"
import * as Log from "./log.js"
import * as Options from "./options.js"
import * as Plain from "./plain.js"
import * as Report from "./report.js"
import * as Scenario from "./scenario.js"
import * as Screen from "./screen.js"
import * as Signals from "./signals.js"
import * as Text from "./text.js"

const EXIT = { kept: 0, broken: 1, cannotRun: 2, interrupted: 130 }

const printLog = (lines: ReadonlyArray<string>) =>
  Screen.print(lines.map((text) => Text.line(text)))

const drills = (flavor: PostgresCluster.Flavor) =>
  Effect.gen(function* () {
    const template = yield* PostgresCluster.makeTemplate
    const library = yield* Scenario.run(Library.contender, { flavor, template })
    const plain = yield* Scenario.run(Plain.contender, { flavor, template })
    return { library, plain }
  }).pipe(Effect.scoped)

/** Side by side: on Ctrl-C the terminal is itself again while the cluster is still being removed. */
const whileShown = <A, E>(running: Effect.Effect<A, E>, board: Board): Effect.Effect<A, E> =>
  Effect.flatMap(Deferred.make<void>(), (done) =>
    Effect.all(
      [
        Effect.ensuring(running, Deferred.succeed(done, void 0)),
        Screen.live(board, Deferred.await(done))
      ],
      { concurrency: "unbounded" }
    )
  ).pipe(Effect.map(([results]) => results))

const demo = (options: Options.Options) =>
  Effect.gen(function* () {
    const board = yield* makeBoard({
      flavor: options.flavor,
      onChange: (change) => (Screen.isLive ? Effect.void : printLog(Log.lines(change)))
    })
    if (!Screen.isLive) yield* printLog(Log.opening(yield* board.model))
    const running = Effect.provideService(drills(options.flavor), Board, board)
    const results = yield* (Screen.isLive ? whileShown(running, board) : running).pipe(
      Effect.onInterrupt(() => Screen.write("interrupted; the cluster is stopped and removed\n"))
    )
    if (Screen.isLive) {
      const model = yield* board.model
      yield* printLog([...Log.opening(model), ...Log.record(model)])
    }
    yield* Screen.print(Report.render(results, Screen.columns()))
    if (options.json) {
      yield* Screen.write(
        `${JSON.stringify({
          library: Figures.toJson(results.library),
          plain: Figures.toJson(results.plain)
        })}\n`
      )
    }
    return Report.isKept(results.library) ? EXIT.kept : EXIT.broken
  })

/** An error in words: its message, and its hint where it has one. */
const describe = (error: unknown): string => {
  const message = error instanceof Error ? error.message : String(error)
  const hint =
    typeof error === "object" && error !== null && "hint" in error
      ? `\n  ${String(error.hint)}`
      : ""
  return `the demo could not run: ${message}${hint}\n`
}

const main = Effect.gen(function* () {
  yield* Signals.install
  const options = yield* Options.parse(process.argv.slice(2))
  if (options.help) {
    yield* Screen.write(Options.HELP)
    return EXIT.kept
  }
  return yield* demo(options)
}).pipe(
  Effect.catchAllCause((cause) =>
    Cause.isInterruptedOnly(cause)
      ? Effect.interrupt
      : Effect.sync(() => {
          process.stderr.write(describe(Cause.squash(cause)))
          return EXIT.cannotRun
        })
  ),
  // A line of a logger would tear the view; what matters is shown in it.
  Effect.provide(Logger.remove(Logger.defaultLogger))
)

NodeRuntime.runMain(main, {
  disableErrorReporting: true,
  teardown: (exit, onExit) => {
    const code = Exit.isSuccess(exit) ? Number(exit.value) : EXIT.interrupted
    onExit(code)
    // All scopes are closed; a connection that @effect/sql-pg has mislaid need not be waited for.
    process.exit(code)
  }
})
