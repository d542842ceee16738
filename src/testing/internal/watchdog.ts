/**
 * A directory with everything that belongs to a cluster, and a tiny shell process beside it that outlives this process
 * by a moment. The shell holds a pipe to this process. When the pipe ends, however this process ended (SIGKILL
 * included, where no handler runs), it kills what was started in the directory and removes the directory.
 */
import { spawn } from "node:child_process"
import { randomBytes } from "node:crypto"
import * as Fs from "node:fs"
import * as Os from "node:os"
import * as Path from "node:path"
import { Effect, type Scope } from "effect"
import * as Account from "./account.js"
import { PostgresClusterError } from "./clusterError.js"

export interface Guarded {
  readonly directory: string
  /** To be called in the same tick as `spawn`, with a process whose command line names the directory. */
  readonly track: (pid: number | undefined) => void
}

/**
 * A process is killed only if its command line still names our directory (whose name is random), so a reused pid is
 * left alone. A process is stopped before its children are looked for, so that it cannot make new ones meanwhile;
 * SIGKILL reaches stopped processes, frozen nodes included. A killed server leaves one small System V shared memory
 * segment, whose id is in its postmaster.pid.
 */
const script = `
root=$1
trap '' HUP INT TERM QUIT
pids=
while IFS= read -r line; do
  [ "$line" = done ] && exit 0
  pids="$pids $line"
done
command_line() {
  if [ -r "/proc/$1/cmdline" ]; then tr '\\0' ' ' < "/proc/$1/cmdline"; else ps -ww -o args= -p "$1"; fi
}
children() {
  if [ -d "/proc/$1" ]; then
    grep -ls "^PPid:[[:space:]]*$1\\$" /proc/[0-9]*/status | sed 's|/proc/||; s|/status||'
  else
    ps -A -o pid=,ppid= | while read -r pid parent; do [ "$parent" = "$1" ] && echo "$pid"; done
  fi
}
tree() {
  for child in $(children "$1"); do echo "$child"; tree "$child"; done
}
for file in "$root"/*/postmaster.pid; do
  [ -f "$file" ] && IFS= read -r pid < "$file" && pids="$pids $pid"
done
for pid in $pids; do
  command_line "$pid" | grep -qF -- "$root/" || continue
  kill -STOP "$pid"
  all=$(tree "$pid")
  [ -n "$all" ] && kill -STOP $all
  all="$all $(tree "$pid")"
  kill -KILL "$pid" $all
done
for file in "$root"/*/postmaster.pid; do
  [ -f "$file" ] || continue
  set -- $(sed -n 7p "$file")
  [ -n "$2" ] && ipcrm -m "$2"
done
tries=0
while [ -e "$root" ] && [ $tries -lt 100 ]; do
  rm -rf -- "$root"
  sleep 0.05
  tries=$((tries + 1))
done
`

export type Kind = "cluster" | "template" | "programs"

/** A cluster of three takes about 100 MB at rest; what is written comes on top, for every node. */
const roomOnTmpfs = 2 ** 30

const onTmpfs = (): ReadonlyArray<string> => {
  try {
    const { bavail, bsize } = Fs.statfsSync("/dev/shm")
    return process.platform === "linux" && bavail * bsize >= roomOnTmpfs ? ["/dev/shm"] : []
  } catch {
    return []
  }
}

/** Whoever sets TMPDIR means it. Else memory, where there is enough: hundreds of clones make a disk write for minutes. */
const bases = (kind: Kind): ReadonlyArray<string> => {
  const others = [Os.tmpdir(), "/tmp", "/var/tmp"]
  // Containers mount /dev/shm noexec: data may be there, programs may not.
  return process.env["TMPDIR"] === undefined && kind !== "programs"
    ? [...onTmpfs(), ...others]
    : others
}

const canWrite = (directory: string): boolean => {
  try {
    Fs.accessSync(directory, Fs.constants.W_OK)
    return true
  } catch {
    return false
  }
}

const acquire = (kind: Kind, account: Account.Account) =>
  Effect.try({
    try: () => {
      const base = bases(kind).find((path) => canWrite(path) && Account.canEnter(path, account))
      if (base === undefined) throw new Error(`none of ${bases(kind).join(", ")} is usable`)
      const directory = Path.join(
        Fs.realpathSync(base),
        `effect-failover-${kind}-${randomBytes(6).toString("hex")}`
      )
      // Before the directory: there is no moment in which it exists unguarded.
      const child = spawn("/bin/sh", ["-c", script, "effect-failover-watchdog", directory], {
        cwd: "/",
        // Out of this process's group and session: what a terminal or a test runner kills is not the watchdog.
        detached: true,
        stdio: ["pipe", "ignore", "ignore"]
      })
      // Neither its absence nor its end may crash the process; the finalizer does the same work.
      child.on("error", () => {})
      child.stdin.on("error", () => {})
      child.unref()
      const pipe = child.stdin as typeof child.stdin & { readonly unref?: () => void }
      pipe.unref?.()
      try {
        Fs.mkdirSync(directory, { mode: 0o700 })
        Account.own(directory, account)
      } catch (error) {
        child.stdin.end()
        throw error
      }
      return { child, directory }
    },
    catch: (cause) =>
      new PostgresClusterError({
        message: "no directory for the cluster's data",
        hint: "set TMPDIR to a directory that is writable, and that the user postgres or nobody can enter when you are root",
        cause
      })
  })

/** The finalizer must have ended everything that was tracked before this scope closes. */
export const make = (
  kind: Kind,
  account: Account.Account
): Effect.Effect<Guarded, PostgresClusterError, Scope.Scope> =>
  Effect.acquireRelease(acquire(kind, account), ({ child, directory }) =>
    Effect.async<void>((resume) => {
      // Removal is retried: a process that is being killed may still create a file.
      Fs.rm(
        directory,
        { recursive: true, force: true, maxRetries: 20, retryDelay: 20 },
        (error) => {
          if (child.exitCode !== null || child.signalCode !== null || child.pid === undefined) {
            return resume(Effect.void)
          }
          child.once("exit", () => resume(Effect.void))
          child.ref()
          // Where this process could not remove it, the end of the pipe lets the watchdog try.
          child.stdin.end(error === null ? "done\n" : "")
        }
      )
    })
  ).pipe(
    Effect.map(({ child, directory }) => ({
      directory,
      track: (pid) => {
        if (pid !== undefined && child.stdin.writable) child.stdin.write(`${pid}\n`)
      }
    }))
  )
