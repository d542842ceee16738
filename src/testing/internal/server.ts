/** One PostgreSQL server as a process tree and a data directory. What it is to the cluster, its manager knows. */
import { type ChildProcess, spawn } from "node:child_process"
import * as Fs from "node:fs"
import * as Path from "node:path"
import { Deferred, Duration, Effect, type Scope } from "effect"
import type { Account } from "./account.js"
import { PostgresClusterError } from "./clusterError.js"
import * as Command from "./command.js"
import * as Processes from "./processes.js"
import * as SharedMemory from "./sharedMemory.js"
import type { Guarded } from "./watchdog.js"

export interface Server {
  readonly directory: string
  readonly process: () => "running" | "stopped" | "frozen"
  /** Replaces postgresql.conf, and has a running server read it, unless it is what it was. */
  readonly configure: (text: string) => Effect.Effect<void, PostgresClusterError>
  /** Starts the process. It is not ready then: connect to see when it is. */
  readonly start: Effect.Effect<void, PostgresClusterError>
  /** Ends when the process does, however that happens; never when it is not running. */
  readonly exited: Effect.Effect<void>
  readonly stop: (mode: "fast" | "immediate") => Effect.Effect<void, PostgresClusterError>
  readonly kill: Effect.Effect<void, PostgresClusterError>
  readonly freeze: Effect.Effect<void, PostgresClusterError>
  readonly resume: Effect.Effect<void, PostgresClusterError>
  /** A failure of this server with the end of its log. */
  readonly failure: (message: string, hint: string, cause?: unknown) => PostgresClusterError
}

type State =
  | { readonly _tag: "Stopped" }
  | { readonly _tag: "Running"; readonly child: ChildProcess; readonly pid: number }
  | {
      readonly _tag: "Frozen"
      readonly child: ChildProcess
      readonly pid: number
      readonly children: ReadonlyArray<number>
    }

const stopped: State = { _tag: "Stopped" }

/** A fast stop waits for clients' transactions to end and for standbys to have all WAL: milliseconds, or a hang. */
const stopBound = Duration.seconds(30)
const killBound = Duration.seconds(10)
/** An immediate stop takes some 10 ms; it is preferred to SIGKILL at the end only because it leaves no shared memory. */
const closeBound = Duration.seconds(3)

const readTail = (file: string): string => {
  try {
    return Command.tail(Fs.readFileSync(file, "utf8").slice(-20_000))
  } catch {
    return ""
  }
}

export const make = (options: {
  readonly id: string
  readonly programs: string
  readonly account: Account
  readonly guarded: Guarded
  /** Called in the same tick as the process's end is seen. */
  readonly onExit: () => void
}): Effect.Effect<Server, never, Scope.Scope> =>
  Effect.gen(function* () {
    const directory = Path.join(options.guarded.directory, options.id)
    const logFile = `${directory}.log`
    const configFile = Path.join(directory, "postgresql.conf")
    let state: State = stopped
    let exit = Deferred.unsafeMake<void>(yield* Effect.fiberId)
    let closed = false
    /** What killed servers have left, unless a later one has removed it. */
    const segments = new Set<string>()

    const failure: Server["failure"] = (message, hint, cause) => {
      const log = readTail(logFile)
      return new PostgresClusterError({
        message: `${options.id}: ${message}`,
        hint,
        node: options.id,
        ...(log === "" ? {} : { log }),
        ...(cause === undefined ? {} : { cause })
      })
    }

    const exited = Effect.suspend(() => Deferred.await(exit))

    const start = Effect.gen(function* () {
      if (state._tag !== "Stopped" || closed) {
        return yield* failure("is not stopped, or its cluster is closed", "look at `status`")
      }
      const done = yield* Deferred.make<void>()
      exit = done
      const child = yield* Effect.try({
        try: () => {
          const log = Fs.openSync(logFile, "a")
          try {
            return spawn(Path.join(options.programs, "postgres"), ["-D", directory], {
              ...options.account,
              cwd: "/",
              env: Command.environment,
              // Ctrl-C in a terminal goes to the whole group: the scope ends the servers, not the terminal.
              detached: true,
              stdio: ["ignore", log, log]
            })
          } finally {
            Fs.closeSync(log)
          }
        },
        catch: (cause) => failure("cannot start postgres", "see the cause", cause)
      })
      child.on("error", () => {})
      const { pid } = child
      if (pid === undefined) return yield* failure("cannot start postgres", "is it executable?")
      options.guarded.track(pid)
      state = { _tag: "Running", child, pid }
      child.once("exit", () => {
        // The postmaster of a frozen node was killed from outside: its children cannot notice.
        if (state._tag === "Frozen") {
          for (const each of state.children) Processes.signal(each, "SIGKILL")
        }
        state = stopped
        Deferred.unsafeDone(done, Effect.void)
        options.onExit()
      })
    }).pipe(Effect.uninterruptible)

    const noteSegment = (): void => {
      const id = SharedMemory.leftBy(directory)
      if (id !== undefined) segments.add(id)
    }

    const kill = Effect.suspend(() => {
      if (state._tag === "Stopped") return Effect.void
      const { pid } = state
      // All stand still before the first one dies: nobody notices half a death, and nobody escapes the list.
      const children = Processes.freeze(pid)
      noteSegment()
      for (const each of [pid, ...children]) Processes.signal(each, "SIGKILL")
      return Effect.zipRight(exited, Processes.gone(children)).pipe(
        Effect.timeoutFail({
          duration: killBound,
          onTimeout: () =>
            failure(
              `is not gone ${Duration.format(killBound)} after SIGKILL (pids ${[pid, ...children].join(", ")})`,
              "the machine is overloaded, or a process hangs in the kernel"
            )
        })
      )
    }).pipe(Effect.uninterruptible)

    const stop: Server["stop"] = (mode) =>
      Effect.suspend(() => {
        if (state._tag === "Stopped") return Effect.void
        if (state._tag === "Frozen") {
          return Effect.fail(failure("is frozen", "resume or kill it first"))
        }
        Processes.signal(state.pid, mode === "fast" ? "SIGINT" : "SIGQUIT")
        return exited.pipe(
          Effect.timeoutFail({
            duration: stopBound,
            onTimeout: () =>
              failure(
                `has not stopped ${Duration.format(stopBound)} after a ${mode} stop was asked for`,
                "a frozen standby may keep it from shipping its last WAL: resume it, or kill this node"
              )
          })
        )
      })

    const freeze = Effect.suspend(() => {
      if (state._tag === "Frozen") return Effect.void
      if (state._tag === "Stopped") return Effect.fail(failure("is not running", "start it first"))
      const { child, pid } = state
      state = { _tag: "Frozen", child, pid, children: Processes.freeze(pid) }
      return Effect.void
    })

    const resume = Effect.suspend(() => {
      if (state._tag === "Running") return Effect.void
      if (state._tag === "Stopped") return Effect.fail(failure("is not running", "start it first"))
      const { child, children, pid } = state
      state = { _tag: "Running", child, pid }
      for (const each of [...children, pid]) Processes.signal(each, "SIGCONT")
      return Effect.void
    })

    const configure: Server["configure"] = (text) =>
      Effect.try({
        try: () => {
          if (Fs.existsSync(configFile) && Fs.readFileSync(configFile, "utf8") === text) return
          // Replaced in one step: a server that reads it at this moment gets the old one or the new one.
          Fs.writeFileSync(`${configFile}.new`, text, { mode: 0o644 })
          Fs.renameSync(`${configFile}.new`, configFile)
          if (state._tag !== "Stopped") Processes.signal(state.pid, "SIGHUP")
        },
        catch: (cause) => failure(`cannot write ${configFile}`, "is the disk full?", cause)
      })

    yield* Effect.addFinalizer(() =>
      Effect.suspend(() => {
        closed = true
        return state._tag === "Running" ? stop("immediate") : Effect.void
      }).pipe(
        Effect.timeout(closeBound),
        Effect.ignore,
        Effect.zipRight(kill),
        Effect.zipRight(Effect.sync(noteSegment)),
        Effect.zipRight(Effect.suspend(() => Effect.forEach(segments, SharedMemory.remove))),
        Effect.ignore
      )
    )

    return { directory, process, configure, start, exited, stop, kill, freeze, resume, failure }

    function process(): "running" | "stopped" | "frozen" {
      switch (state._tag) {
        case "Running":
          return "running"
        case "Stopped":
          return "stopped"
        case "Frozen":
          return "frozen"
      }
    }
  })
