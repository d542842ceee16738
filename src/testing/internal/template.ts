/** What is made once and copied for every node: the programs, and a data directory with a password in it. */
import { randomBytes } from "node:crypto"
import * as Fs from "node:fs"
import * as Path from "node:path"
import { Effect, type Scope } from "effect"
import type { Template } from "../PostgresCluster.js"
import * as Account from "./account.js"
import * as Binaries from "./binaries.js"
import { PostgresClusterError } from "./clusterError.js"
import * as Command from "./command.js"
import * as SharedMemory from "./sharedMemory.js"
import * as Watchdog from "./watchdog.js"

export const make: Effect.Effect<Template, PostgresClusterError, Scope.Scope> = Effect.gen(
  function* () {
    const account = yield* Account.find
    const programs = yield* Binaries.make(account)
    const guarded = yield* Watchdog.make("template", account)
    const directory = Path.join(guarded.directory, "data")
    yield* Effect.addFinalizer(() => {
      const id = SharedMemory.leftBy(directory)
      return id === undefined ? Effect.void : SharedMemory.remove(id)
    })
    const passwordFile = Path.join(guarded.directory, "password")
    const username = "postgres"
    const password = randomBytes(12).toString("hex")
    yield* Effect.try({
      try: () => {
        Fs.writeFileSync(passwordFile, `${password}\n`, { mode: 0o600 })
        Account.own(passwordFile, account)
      },
      catch: (cause) =>
        new PostgresClusterError({
          message: `cannot write to ${guarded.directory}`,
          hint: "set TMPDIR to a directory with room",
          cause
        })
    })
    yield* Command.succeed({
      program: Path.join(programs, "initdb"),
      args: [
        ...["-D", directory],
        ...["-U", username],
        `--pwfile=${passwordFile}`,
        // Over TCP, so that a wrong password is refused as on a real server (28P01).
        "--auth=scram-sha-256",
        "--encoding=UTF8",
        "--locale=C",
        "--no-sync",
        "--no-instructions",
        "--no-data-checksums",
        // A base backup ends with a switch to the next segment: 1 MB of zeros to ship instead of 16 MB.
        "--wal-segsize=1",
        ...["-c", "io_method=sync"],
        ...["-c", "dynamic_shared_memory_type=mmap"]
      ],
      account,
      guarded,
      hint: "see the log; PostgreSQL needs a user with a name, and a directory that this user can reach"
    })
    return { directory, programs, username, password }
  }
)
