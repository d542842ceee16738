/**
 * `npm run mutations`: does the simulation bite? Each mutation takes one guard out of a copy of the client;
 * the simulation must fail on it. Prints which invariant found it, and at which seed.
 */
import { execFile } from "node:child_process"
import { cp, mkdtemp, readFile, rm, symlink, writeFile } from "node:fs/promises"
import { tmpdir } from "node:os"
import { dirname, join } from "node:path"
import { fileURLToPath } from "node:url"
import { parseArgs } from "node:util"
import type { Mutation } from "./mutations/list.js"
import { mutations } from "./mutations/list.js"

const root = dirname(dirname(fileURLToPath(import.meta.url)))

/** All that the simulation runs on. */
const COPIED = [
  "src",
  "sim",
  "chaos",
  "test/matrix",
  "scripts/bundle.ts",
  "scripts/modules.ts",
  "package.json",
  "tsconfig.json"
]

/** A mutation that survives these is one that the simulation does not see. */
const SEEDS = 2000

/** Most mutations are found among the first: nobody waits for the rest. */
const AT_A_TIME = 100

interface Verdict {
  readonly mutation: Mutation
  /** Undefined if nothing was found. */
  readonly killedBy: string | undefined
  readonly seed: number | undefined
  readonly text: string
}

/** The text must be there exactly once: a mutation that no longer fits its source proves nothing. */
const mutate = (source: string, { find, name, replace, file }: Mutation): string => {
  const parts = source.split(find)
  if (parts.length !== 2) {
    throw new Error(
      `mutation "${name}": its text is ${parts.length - 1} times in ${file}, and must be there once`
    )
  }
  return parts.join(replace)
}

interface Report {
  readonly failures: ReadonlyArray<{
    readonly seed: number
    readonly violations: ReadonlyArray<{ readonly kind: string; readonly text: string }>
  }>
}

const simulate = (directory: string, seeds: number, from = 1): Promise<Report> =>
  new Promise((resolve, reject) => {
    const options = ["--json", "--no-shrink", "--seeds", `${seeds}`, "--from", `${from}`]
    const args = ["--import", "tsx", "sim/main.ts", ...options]
    execFile(
      process.execPath,
      args,
      { cwd: directory, maxBuffer: 2 ** 28 },
      (_error, stdout, stderr) => {
        try {
          const report: Report = JSON.parse(stdout)
          resolve(report)
        } catch {
          reject(new Error(`the simulation did not run: ${stderr}`))
        }
      }
    )
  })

const judge = async (directory: string, mutation: Mutation, seeds: number): Promise<Verdict> => {
  const path = join(directory, mutation.file)
  const original = await readFile(path, "utf8")
  await writeFile(path, mutate(original, mutation))
  try {
    let failure: Report["failures"][number] | undefined
    for (let from = 1; from <= seeds && failure === undefined; from += AT_A_TIME) {
      failure = (await simulate(directory, Math.min(AT_A_TIME, seeds), from)).failures[0]
    }
    const violation = failure?.violations[0]
    return {
      mutation,
      killedBy: violation?.kind,
      seed: failure?.seed,
      text: violation?.text ?? "SURVIVED"
    }
  } catch (error) {
    // A run that does not come to an end is found, too: nothing is let through.
    const text = error instanceof Error ? (error.message.split("\n")[0] ?? "") : String(error)
    if (!text.includes("no end within")) throw error
    return { mutation, killedBy: "the run does not end", seed: undefined, text }
  } finally {
    await writeFile(path, original)
  }
}

const line = ({ killedBy, mutation, seed }: Verdict): string =>
  `| ${mutation.name} | ${killedBy ?? "**survived**"} | ${seed ?? ""} |`

const main = async (): Promise<number> => {
  const { values } = parseArgs({
    options: {
      only: { type: "string", default: "" },
      seeds: { type: "string", default: String(SEEDS) }
    }
  })
  const chosen = mutations.filter((_) => _.name.includes(values.only))
  // A text that has gone is found before anything is run.
  for (const mutation of chosen) {
    mutate(await readFile(join(root, mutation.file), "utf8"), mutation)
  }
  const directory = await mkdtemp(join(tmpdir(), "mutations-"))
  try {
    for (const part of COPIED) {
      await cp(join(root, part), join(directory, part), { recursive: true })
    }
    await symlink(join(root, "node_modules"), join(directory, "node_modules"))
    const untouched = await simulate(directory, Math.min(300, Number(values.seeds)))
    if (untouched.failures.length > 0) {
      process.stderr.write("the simulation fails without any mutation: run `npm run sim` first\n")
      return 2
    }
    process.stdout.write("| mutation | found by | seed |\n|---|---|---|\n")
    let survivors = 0
    for (const mutation of chosen) {
      const verdict = await judge(directory, mutation, Number(values.seeds))
      if (verdict.killedBy === undefined) survivors++
      process.stdout.write(`${line(verdict)}\n`)
    }
    return survivors === 0 ? 0 : 1
  } finally {
    await rm(directory, { recursive: true, force: true })
  }
}

process.exitCode = await main()
