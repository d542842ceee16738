/** Process trees: who belongs to a postmaster, stopping all of them at once, and when they are really gone. */
import { spawnSync } from "node:child_process"
import * as Fs from "node:fs"
import { Effect } from "effect"

const read = (path: string): string | undefined => {
  try {
    return Fs.readFileSync(path, "utf8")
  } catch {
    return undefined
  }
}

/** `/proc/<pid>/stat` has the command in parentheses, which may hold anything: state and parent follow the last one. */
const stat = (
  pid: number | string
): { readonly state: string; readonly parent: number } | undefined => {
  const text = read(`/proc/${pid}/stat`)
  const fields = text?.slice(text.lastIndexOf(")") + 2).split(" ")
  return fields?.[0] === undefined ? undefined : { state: fields[0], parent: Number(fields[1]) }
}

/** Where there is no /proc, or one that hides the rest of the machine. */
const ps = (columns: string): ReadonlyArray<ReadonlyArray<string>> =>
  spawnSync("ps", ["-A", "-o", columns], { encoding: "utf8" })
    .stdout?.split("\n")
    .map((line) => line.trim().split(/\s+/)) ?? []

const hasProc = read("/proc/self/stat") !== undefined

/** PostgreSQL's processes each lead a group of their own, so the group's id does not find them: the parent's does. */
export const childrenOf = (pid: number): ReadonlyArray<number> => {
  const listed = read(`/proc/${pid}/task/${pid}/children`)
  if (listed !== undefined) return listed.split(" ").filter(Boolean).map(Number)
  if (hasProc) {
    return Fs.readdirSync("/proc")
      .filter((name) => /^\d+$/.test(name) && stat(name)?.parent === pid)
      .map(Number)
  }
  return ps("pid=,ppid=")
    .filter(([, parent]) => Number(parent) === pid)
    .map(([child]) => Number(child))
}

/** Sends a signal; false when the process is not there any more. */
export const signal = (pid: number, name: NodeJS.Signals): boolean => {
  try {
    return process.kill(pid, name)
  } catch {
    return false
  }
}

/** A zombie is gone: all it has left is an exit code that its parent (or a container's idle init) does not fetch. */
export const isAlive = (pid: number): boolean => {
  if (hasProc) {
    const state = stat(pid)?.state
    return state !== undefined && state !== "Z" && state !== "X"
  }
  try {
    process.kill(pid, 0)
  } catch {
    return false
  }
  const state = ps("pid=,stat=").find(([each]) => Number(each) === pid)?.[1]
  return state !== undefined && !state.startsWith("Z")
}

/**
 * Stops (SIGSTOP) a process and all its descendants; returns the descendants. A parent goes first, so that it makes no
 * new ones; the list is complete when nothing new is found twice, because by then those who could change it stand still.
 */
export const freeze = (pid: number): ReadonlyArray<number> => {
  const descendants = new Set<number>()
  signal(pid, "SIGSTOP")
  for (let quiet = 0; quiet < 2; quiet++) {
    for (const child of childrenOf(pid)) {
      if (descendants.has(child)) continue
      quiet = -1
      descendants.add(child)
      for (const each of freeze(child)) descendants.add(each)
    }
  }
  return [...descendants]
}

/** Ends when none of the processes is left, and does not end before: the caller sets the bound. */
export const gone = (pids: ReadonlyArray<number>): Effect.Effect<void> =>
  Effect.suspend(() =>
    pids.some(isAlive)
      ? Effect.delay(
          Effect.suspend(() => gone(pids)),
          "1 millis"
        )
      : Effect.void
  )
