import * as fs from "node:fs"
import * as path from "node:path"

export const root = path.resolve(import.meta.dirname, "..")

export interface PublicModule {
  /** Path below `src`, without extension: `Topology`, `layers/Pg`, `index`. */
  readonly id: string
  /** Key in the `exports` map. */
  readonly subpath: string
  /** Path from the root. */
  readonly source: string
}

const barrel: PublicModule = { id: "index", subpath: ".", source: "src/index.ts" }

/** The barrel, then every TypeScript file of `src` that is not below an `internal` folder, sorted. */
export const publicModules = (): ReadonlyArray<PublicModule> => {
  const folder = path.join(root, "src")
  const files = fs.existsSync(folder) ? fs.readdirSync(folder, { recursive: true }) : []
  const ids = files
    .map((file) => String(file).split(path.sep).join("/"))
    .filter((file) => file.endsWith(".ts") && !/(^|\/)internal\//.test(file))
    .map((file) => file.slice(0, -".ts".length))
    .filter((id) => id !== barrel.id)
    .sort()
  return [barrel, ...ids.map((id) => ({ id, subpath: `./${id}`, source: `src/${id}.ts` }))]
}

/** `paths` that give the package's public names, and only those, the sources behind them. */
export const packagePaths = (): Record<string, Array<string>> =>
  Object.fromEntries(
    publicModules().map(({ source, subpath }) => [
      path.posix.join("effect-failover", subpath),
      [path.join(root, source)]
    ])
  )
