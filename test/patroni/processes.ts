/** The cluster's processes: each has a name and a log, none survives the scope, whatever state it is in. */
import { type ChildProcess, spawn } from "node:child_process"
import * as Fs from "node:fs"
import * as Path from "node:path"
import { Data, Effect, type Scope } from "effect"
import * as Command from "../../src/testing/internal/command.js"
import * as Processes from "../../src/testing/internal/processes.js"
import * as SharedMemory from "../../src/testing/internal/sharedMemory.js"
import type { Guarded } from "../../src/testing/internal/watchdog.js"
import type { Programs } from "./programs.js"

export class PatroniClusterError extends Data.TaggedError("PatroniClusterError")<{
  readonly message: string
  readonly cause?: unknown
}> {}

export const failure = (message: string, cause?: unknown) =>
  new PatroniClusterError({ message, cause })

type Do<A = void> = Effect.Effect<A, PatroniClusterError>

export interface Supervised {
  readonly start: (name: string, command: readonly [string, ...ReadonlyArray<string>]) => Do
  readonly isRunning: (name: string) => boolean
  readonly pid: (name: string) => Do<number>
  /** The postmaster of a data directory. It is nobody's child: Patroni hands it over to init. */
  readonly postmaster: (directory: string) => Do<number>
  readonly log: (name: string) => string
  /** SIGCONT for all that there is. */
  readonly resumeAll: Effect.Effect<void>
}

const readText = (path: string): string => {
  try {
    return Fs.readFileSync(path, "utf8")
  } catch {
    return ""
  }
}

const postmasterOf = (directory: string): number | undefined => {
  const pid = Number(readText(Path.join(directory, "postmaster.pid")).split("\n")[0])
  const isOurs = pid > 0 && readText(`/proc/${pid}/cmdline`).includes(`${directory}\0`)
  return isOurs && Processes.isAlive(pid) ? pid : undefined
}

const found = (pid: number | undefined, otherwise: string): Do<number> =>
  pid === undefined ? Effect.fail(failure(otherwise)) : Effect.succeed(pid)

const signalTree = (pid: number, name: "SIGCONT"): void => {
  for (const child of Processes.childrenOf(pid)) signalTree(child, name)
  Processes.signal(pid, name)
}

/** SIGSTOP for the process and whatever it has started. */
export const freeze = (pid: number): Effect.Effect<void> =>
  Effect.sync(() => void Processes.freeze(pid))

/** SIGCONT for the same. */
export const resume = (pid: number): Effect.Effect<void> =>
  Effect.sync(() => signalTree(pid, "SIGCONT"))

export const terminate = (pid: number): Effect.Effect<void> =>
  Effect.sync(() => void Processes.signal(pid, "SIGTERM"))

/** SIGKILL for all of these and whatever they have started. */
export const kill = (...pids: ReadonlyArray<number>): Effect.Effect<void> =>
  Effect.suspend(() => {
    const all = pids.flatMap((pid) => [pid, ...Processes.freeze(pid)])
    for (const pid of all) Processes.signal(pid, "SIGKILL")
    return Processes.gone(all)
  })

export const make = ({
  directories,
  guarded,
  programs
}: {
  readonly programs: Programs
  readonly guarded: Guarded
  /** The data directories of the postmasters that Patroni may start. */
  readonly directories: ReadonlyArray<string>
}): Effect.Effect<Supervised, never, Scope.Scope> =>
  Effect.gen(function* () {
    const running = new Map<string, ChildProcess>()
    const logOf = (name: string) => Path.join(guarded.directory, `${name}.log`)
    const pids = () => [...running.values()].flatMap(({ pid }) => pid ?? [])
    const postmasters = () => directories.flatMap((directory) => postmasterOf(directory) ?? [])

    const start: Supervised["start"] = (name, [program, ...args]) =>
      Effect.try({
        try: () => {
          const log = Fs.openSync(logOf(name), "a")
          try {
            const child = spawn(program, args, {
              ...programs.account,
              cwd: guarded.directory,
              env: { ...Command.environment, HOME: guarded.directory, ...programs.environment },
              // Ctrl-C in a terminal goes to the whole group: the scope ends them, not the terminal.
              detached: true,
              stdio: ["ignore", log, log]
            })
            guarded.track(child.pid)
            child.on("error", () => {})
            child.once("exit", () => running.get(name) === child && running.delete(name))
            if (child.pid !== undefined) running.set(name, child)
          } finally {
            Fs.closeSync(log)
          }
        },
        catch: (cause) => failure(`cannot start ${name}`, cause)
      })

    yield* Effect.addFinalizer(() =>
      Effect.gen(function* () {
        // Patroni first, so that it starts no server any more.
        yield* kill(...pids())
        const segments = directories.flatMap((directory) => SharedMemory.leftBy(directory) ?? [])
        yield* kill(...postmasters())
        yield* Effect.forEach(segments, SharedMemory.remove)
      }).pipe(Effect.timeout("10 seconds"), Effect.ignore)
    )

    return {
      start,
      isRunning: (name) => running.has(name),
      pid: (name) => Effect.suspend(() => found(running.get(name)?.pid, `${name} is not running`)),
      postmaster: (directory) =>
        Effect.suspend(() => found(postmasterOf(directory), `${directory} has no server`)),
      log: (name) => readText(logOf(name)),
      resumeAll: Effect.suspend(() =>
        Effect.forEach([...pids(), ...postmasters()], resume, { discard: true })
      )
    }
  })
