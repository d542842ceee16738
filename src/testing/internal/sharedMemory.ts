/**
 * A PostgreSQL server keeps a few bytes of System V shared memory, by which a second server on the same data is found
 * out. A server that is killed leaves them, and the system has room for some thousand only. The next server on the same
 * directory removes them; where there will be none, somebody else has to.
 */
import * as Fs from "node:fs"
import * as Path from "node:path"
import { Effect } from "effect"
import * as Command from "./command.js"

/** Only a server that did not end in an orderly manner leaves its postmaster.pid, with `key id` in the seventh line. */
export const leftBy = (directory: string): string | undefined => {
  try {
    const lines = Fs.readFileSync(Path.join(directory, "postmaster.pid"), "utf8").split("\n")
    return lines[6]?.trim().split(/\s+/)[1]
  } catch {
    return undefined
  }
}

/** Best effort: ids are not used again, so one that is gone already does no harm. */
export const remove = (id: string): Effect.Effect<void> =>
  Effect.ignore(Command.run({ program: "ipcrm", args: ["-m", id], account: undefined }))
