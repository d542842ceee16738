/**
 * Where Patroni, etcd and PostgreSQL come from, in this order:
 *
 * 1. the folder named by `PATRONI_ROOT`: unpacked Debian packages (`usr/bin/etcd`, `usr/lib/postgresql/*`,
 *    `usr/lib/python3/dist-packages/patroni`); one that is not complete fails the run
 * 2. `patroni` and `etcd` on the PATH, with PostgreSQL on the PATH or where Debian has it
 * 3. `../shared/tools/debs`, where there is one, which unpacks Debian's packages for this run
 *
 * `PATRONI_SOURCE` may name a folder with another version's `patroni` package, to be run by the Python
 * of the first or the third.
 */
import { spawnSync } from "node:child_process"
import * as Fs from "node:fs"
import * as Os from "node:os"
import * as Path from "node:path"
import { Effect, Either } from "effect"
import * as Account from "../../src/testing/internal/account.js"

export interface Programs {
  readonly account: Account.Account
  /** Run with the path of a configuration as one more argument. */
  readonly patroni: readonly [string, ...ReadonlyArray<string>]
  readonly etcd: string
  /**
   * The API of etcd that Patroni uses: the second, as long as etcd has it. By the third, Patroni 3.0.2 takes the
   * leader's key back without asking when it is resumed, and throws the new leader's timeline away.
   */
  readonly store: "etcd" | "etcd3"
  /** The folder of `postgres`, `initdb`, `pg_basebackup` and `pg_rewind`. */
  readonly postgres: string
  readonly environment: Readonly<Record<string, string>>
  /** What was unpacked for this run, to be removed after it. */
  readonly temporary: string | undefined
}

/** Every node has an address of its own; elsewhere than on Linux, 127.0.0.1 is the only one of its kind. */
const WHERE = "the suite runs on Linux"

const MISSING =
  "Patroni, etcd and PostgreSQL are not all on the PATH: install them, or name a folder with Debian's unpacked packages by PATRONI_ROOT"

const found = (path: string): string | undefined => (Fs.existsSync(path) ? path : undefined)

const onPath = (name: string): string | undefined =>
  (process.env["PATH"] ?? "")
    .split(Path.delimiter)
    .map((directory) => Path.join(directory, name))
    .find((path) => Fs.existsSync(path))

const list = (directory: string): Array<string> =>
  Fs.existsSync(directory) ? Fs.readdirSync(directory) : []

/** The newest one that Debian has there. */
const debianPostgres = (root: string): string | undefined =>
  list(Path.join(root, "usr/lib/postgresql"))
    .sort((a, b) => Number(b) - Number(a))
    .map((version) => Path.join(root, "usr/lib/postgresql", version, "bin"))
    .find((bin) => Fs.existsSync(Path.join(bin, "pg_basebackup")))

const storeOf = (etcd: string): Programs["store"] => {
  const { stdout } = spawnSync(etcd, ["--version"], { encoding: "utf8" })
  return /^etcd Version: 3\.[0-5]\./.test(stdout ?? "") ? "etcd" : "etcd3"
}

const RUN = "from patroni.__main__ import main; main()"

const unpacked = (
  root: string,
  account: Account.Account,
  temporary?: string
): Programs | undefined => {
  const packages = Path.join(root, "usr/lib/python3/dist-packages")
  const libraries = list(Path.join(root, "usr/lib")).find((name) => name.endsWith("-linux-gnu"))
  const python = found(Path.join(root, "usr/bin/python3"))
  const etcd = found(Path.join(root, "usr/bin/etcd"))
  const postgres = debianPostgres(root)
  if (!python || !etcd || !postgres || !libraries) return undefined
  if (!Fs.existsSync(Path.join(packages, "patroni"))) return undefined
  return {
    account,
    patroni: [python, "-c", RUN],
    etcd,
    store: storeOf(etcd),
    postgres,
    environment: {
      PYTHONHOME: Path.join(root, "usr"),
      PYTHONPATH: [process.env["PATRONI_SOURCE"], packages].filter(Boolean).join(Path.delimiter),
      PYTHONDONTWRITEBYTECODE: "1",
      LD_LIBRARY_PATH: Path.join(root, "usr/lib", libraries)
    },
    temporary
  }
}

const installed = (account: Account.Account): Programs | undefined => {
  const patroni = onPath("patroni")
  const etcd = onPath("etcd")
  const beside = onPath("pg_basebackup")
  const postgres = debianPostgres("/") ?? (beside && Path.dirname(Fs.realpathSync(beside)))
  return patroni && etcd && postgres
    ? {
        account,
        patroni: [patroni],
        etcd,
        store: storeOf(etcd),
        postgres,
        environment: {},
        temporary: undefined
      }
    : undefined
}

const PACKAGES = [
  "patroni",
  "etcd-server",
  "postgresql-15",
  "python3-psycopg2",
  "python3-etcd",
  "python3-cdiff"
]

const unpack = (tool: string): Either.Either<string, string> => {
  const target = Fs.mkdtempSync(Path.join(Os.tmpdir(), "effect-failover-patroni-"))
  const { status, stderr } = spawnSync(tool, ["bookworm", target, ...PACKAGES], {
    encoding: "utf8",
    env: { ...process.env, EXCLUDE: "libllvm|systemd|perl" }
  })
  if (status === 0) {
    // Whoever the servers run as must be able to read them.
    Fs.chmodSync(target, 0o755)
    return Either.right(target)
  }
  Fs.rmSync(target, { recursive: true, force: true })
  return Either.left(`${tool} fails: ${stderr.trim().slice(-300)}`)
}

const throughTool = (account: Account.Account): Either.Either<Programs, string> => {
  const tool = Path.resolve(import.meta.dirname, "../../../shared/tools/debs")
  if (!Fs.existsSync(tool)) return Either.left(MISSING)
  return Either.flatMap(unpack(tool), (root) =>
    Either.fromNullable(unpacked(root, account, root), () => `${tool} has not unpacked everything`)
  )
}

/** The programs, or why the suite cannot run here. */
export const find: Effect.Effect<Either.Either<Programs, string>> = Effect.gen(function* () {
  if (process.platform !== "linux") return Either.left(WHERE)
  const account = yield* Effect.orDie(Account.find)
  const root = process.env["PATRONI_ROOT"]
  if (root !== undefined) {
    const programs = unpacked(root, account)
    return programs === undefined
      ? yield* Effect.dieMessage(`PATRONI_ROOT=${root} does not hold all programs`)
      : Either.right(programs)
  }
  const programs = installed(account)
  return programs === undefined ? throughTool(account) : Either.right(programs)
})
