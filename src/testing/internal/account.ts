/** The operating system's account that the servers run under: PostgreSQL refuses root. */
import * as Fs from "node:fs"
import * as Os from "node:os"
import * as Path from "node:path"
import { Effect } from "effect"
import { PostgresClusterError } from "./clusterError.js"

/** As `spawn` takes it: on macOS, nobody is -2. `undefined` is this process's own account. */
export type Account = { readonly uid: number; readonly gid: number } | undefined

/** postgres where a package has made it, nobody everywhere else. */
const candidates = ["postgres", "nobody"]

const passwd = (): ReadonlyArray<ReadonlyArray<string>> => {
  try {
    return Fs.readFileSync("/etc/passwd", "utf8")
      .split("\n")
      .map((line) => line.split(":"))
  } catch {
    return []
  }
}

export const find: Effect.Effect<Account, PostgresClusterError> = Effect.suspend(() => {
  if (process.getuid?.() !== 0) {
    // initdb looks its own name up, and says "could not look up effective user ID" when there is none.
    return Effect.try({
      try: (): Account => void Os.userInfo(),
      catch: (cause) =>
        new PostgresClusterError({
          message: "this process's user id has no entry in the system's list of users",
          hint: "PostgreSQL needs one: run as a user with a name, for example `docker run --user node`",
          cause
        })
    })
  }
  const entries = passwd()
  for (const name of candidates) {
    const entry = entries.find(([user]) => user === name)
    const uid = Number(entry?.[2])
    const gid = Number(entry?.[3])
    if (Number.isInteger(uid) && Number.isInteger(gid) && uid !== 0) {
      return Effect.succeed({ uid, gid })
    }
  }
  return Effect.fail(
    new PostgresClusterError({
      message: "PostgreSQL does not run as root, and there is no user to run it as",
      hint: `add one of these users to /etc/passwd: ${candidates.join(", ")}`
    })
  )
})

/** Gives a path to the account (unsigned for `chown`, which knows no -2). */
export const own = (path: string, account: Account): void => {
  if (account !== undefined) Fs.chownSync(path, account.uid >>> 0, account.gid >>> 0)
}

/** Whether the account can get to what is below a directory: every directory on the way must let it pass. */
export const canEnter = (directory: string, account: Account): boolean => {
  try {
    if (account === undefined) {
      Fs.accessSync(directory, Fs.constants.X_OK)
      return true
    }
    for (let at = Fs.realpathSync(directory); ; at = Path.dirname(at)) {
      const { gid, mode, uid } = Fs.statSync(at)
      const bit = uid === account.uid >>> 0 ? 0o100 : gid === account.gid >>> 0 ? 0o010 : 0o001
      if ((mode & bit) === 0) return false
      if (at === Path.dirname(at)) return true
    }
  } catch {
    return false
  }
}
