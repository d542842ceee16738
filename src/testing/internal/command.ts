/** Short-lived programs (initdb, cp, rm): they are killed when the Effect is interrupted or takes too long. */
import { spawn } from "node:child_process"
import { Duration, Effect } from "effect"
import type { Account } from "./account.js"
import { PostgresClusterError } from "./clusterError.js"
import * as Processes from "./processes.js"
import type { Guarded } from "./watchdog.js"

export interface Command {
  readonly program: string
  readonly args: ReadonlyArray<string>
  readonly account: Account
  readonly guarded?: Guarded
  readonly hint?: string
}

export interface Result {
  readonly code: number | null
  readonly output: string
}

/** What the servers and the tools see of this process's environment: nothing that could change what they say or do. */
export const environment: NodeJS.ProcessEnv = {
  PATH: process.env["PATH"] ?? "/usr/local/bin:/usr/bin:/bin",
  LC_ALL: "C",
  // Without it, initdb looks through all time zones for the one that /etc/localtime is.
  TZ: "UTC"
}

/** The end of a text: what a person needs of a log. */
export const tail = (text: string): string => text.trimEnd().split("\n").slice(-15).join("\n")

/** initdb takes half a second, on a busy machine with slow disks some ten: whatever needs a minute hangs. */
const bound = Duration.minutes(1)

export const run = (command: Command): Effect.Effect<Result, PostgresClusterError> => {
  const line = `${command.program} ${command.args.join(" ")}`.slice(0, 300)
  const hint =
    command.hint ?? "the command has to be executable for the user that the servers run as"
  return Effect.async<Result, PostgresClusterError>((resume) => {
    let output = ""
    const child = spawn(command.program, command.args, {
      ...command.account,
      cwd: "/",
      env: environment,
      detached: true,
      stdio: ["ignore", "pipe", "pipe"]
    })
    command.guarded?.track(child.pid)
    child.stdout.on("data", (chunk) => (output += String(chunk)))
    child.stderr.on("data", (chunk) => (output += String(chunk)))
    child.once("error", (cause) =>
      resume(Effect.fail(new PostgresClusterError({ message: `cannot run ${line}`, hint, cause })))
    )
    child.once("close", (code) => resume(Effect.succeed({ code, output })))
    return Effect.suspend(() => {
      if (child.pid === undefined || child.exitCode !== null || child.signalCode !== null) {
        return Effect.void
      }
      // initdb runs a server, which would go on without it.
      const all = [child.pid, ...Processes.freeze(child.pid)]
      for (const each of all) Processes.signal(each, "SIGKILL")
      return Processes.gone(all)
    })
  }).pipe(
    Effect.timeoutFail({
      duration: bound,
      onTimeout: () =>
        new PostgresClusterError({
          message: `no end within ${Duration.format(bound)}: ${line}`,
          hint
        })
    })
  )
}

/** As `run`, for a program whose exit code other than 0 is a failure. */
export const succeed = (command: Command): Effect.Effect<void, PostgresClusterError> =>
  Effect.flatMap(run(command), ({ code, output }) =>
    code === 0
      ? Effect.void
      : Effect.fail(
          new PostgresClusterError({
            message: `exit code ${code}: ${command.program} ${command.args.join(" ")}`.slice(
              0,
              300
            ),
            hint: command.hint ?? "see the log",
            log: tail(output)
          })
        )
  )
