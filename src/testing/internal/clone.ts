/** Copies of data directories: of the template, and of a running primary (a base backup). */
import * as Fs from "node:fs"
import * as Path from "node:path"
import { Effect } from "effect"
import * as Account from "./account.js"
import { PostgresClusterError } from "./clusterError.js"
import * as Command from "./command.js"
import type { Session } from "./sessions.js"
import type { Guarded } from "./watchdog.js"

interface Place {
  readonly directory: string
  readonly account: Account.Account
  readonly guarded: Guarded
}

const failed = (directory: string) => (cause: unknown) =>
  new PostgresClusterError({
    message: `cannot prepare ${directory}`,
    hint: "is there room in the temporary directory, and does nobody else work in it?",
    cause
  })

/** The directory itself stays: by its inode, PostgreSQL finds and removes the shared memory of a killed server. */
const empty = (place: Place): Effect.Effect<void, PostgresClusterError> =>
  Effect.try({
    try: () => {
      if (!Fs.existsSync(place.directory)) {
        Fs.mkdirSync(place.directory, { mode: 0o700 })
        Account.own(place.directory, place.account)
      }
      return Fs.readdirSync(place.directory).map((name) => Path.join(place.directory, name))
    },
    catch: failed(place.directory)
  }).pipe(
    Effect.flatMap((paths) =>
      paths.length === 0
        ? Effect.void
        : Command.succeed({
            program: "rm",
            args: ["-rf", "--", ...paths],
            account: undefined,
            guarded: place.guarded
          })
    )
  )

const write = (place: Place, name: string, text: string) =>
  Effect.try({
    try: () => {
      const path = Path.join(place.directory, name)
      Fs.writeFileSync(path, text, { mode: 0o600 })
      Account.own(path, place.account)
    },
    catch: failed(place.directory)
  })

/** Tells a server that starts in the directory that it is a standby. */
export const markStandby = (place: Place) => write(place, "standby.signal", "")

export const fromTemplate = (
  template: string,
  place: Place
): Effect.Effect<void, PostgresClusterError> =>
  Effect.zipRight(
    empty(place),
    Command.succeed({
      program: "cp",
      args: ["-R", `${template}/.`, `${place.directory}/`],
      account: place.account,
      guarded: place.guarded
    })
  )

/** What belongs to the running server and not to its data, as pg_basebackup leaves it out. */
const leftOut = new Set([
  "postmaster.pid",
  "postmaster.opts",
  "backup_label",
  "backup_label.old",
  "tablespace_map",
  "standby.signal",
  "recovery.signal",
  "postgresql.conf",
  "postgresql.conf.new"
])
const keptEmpty = [
  "pg_wal",
  "pg_wal/archive_status",
  "pg_wal/summaries",
  "pg_dynshmem",
  "pg_notify",
  "pg_replslot",
  "pg_serial",
  "pg_snapshots",
  "pg_stat_tmp",
  "pg_subtrans"
]

/** Files that the server removes during the copy are in no need of being copied; nothing else may be missing. */
const onlyVanished = (output: string): boolean =>
  output
    .split("\n")
    .filter((line) => line.trim() !== "")
    .every((line) => line.includes("No such file or directory"))

/**
 * A base backup of the running server `source` (with a session on it) into a stopped one's directory, marked as a
 * standby. The backup belongs to the session: it ends with it, should this be interrupted.
 */
export const fromPrimary = (
  source: string,
  session: Session,
  place: Place
): Effect.Effect<void, PostgresClusterError> =>
  Effect.gen(function* () {
    yield* Effect.all(
      [session.query("select pg_backup_start('effect-failover', fast => true)"), empty(place)],
      { concurrency: 2, discard: true }
    )
    const top = yield* Effect.try({
      try: () =>
        Fs.readdirSync(source).filter((name) => !leftOut.has(name) && !keptEmpty.includes(name)),
      catch: failed(source)
    })
    const copied = yield* Command.run({
      program: "cp",
      args: ["-R", ...top.map((name) => Path.join(source, name)), `${place.directory}/`],
      account: place.account,
      guarded: place.guarded
    })
    if (copied.code !== 0 && !onlyVanished(copied.output)) {
      return yield* new PostgresClusterError({
        message: `cannot copy ${source} to ${place.directory}`,
        hint: "is there room in the temporary directory?",
        log: Command.tail(copied.output)
      })
    }
    yield* Effect.try({
      try: () => {
        for (const name of keptEmpty) {
          const path = Path.join(place.directory, name)
          Fs.mkdirSync(path, { mode: 0o700 })
          Account.own(path, place.account)
        }
      },
      catch: failed(place.directory)
    })
    const [label] = yield* session.query(
      "select labelfile from pg_backup_stop(wait_for_archive => false)"
    )
    yield* write(place, "backup_label", String(label?.["labelfile"]))
    yield* markStandby(place)
  })
