/**
 * Writes what follows from the files in `src`: the barrel `src/index.ts` and the `exports` of
 * package.json. With `--check` it writes nothing and fails where they differ.
 */
import * as fs from "node:fs"
import * as path from "node:path"
import { publicModules, root } from "./modules.js"

const read = (file: string) => fs.readFileSync(path.join(root, file), "utf8")

/** The comment that opens a module is its documentation, and becomes that of its namespace. */
const moduleDocs = (source: string): string => {
  const docs = /^\/\*\*[\s\S]*?\*\//.exec(read(source))
  if (docs === null) {
    throw new Error(`${source} must open with a module comment (/** ... @since x.y.z */)`)
  }
  return docs[0]
}

/** Dialects, layers and testing belong to one database each: they stay out of the barrel. */
const barrel = () =>
  publicModules()
    .filter(({ id }) => id !== "index" && !id.includes("/"))
    .map(({ id, source }) => `${moduleDocs(source)}\nexport * as ${id} from "./${id}.js"\n`)
    .join("\n")

const target = (format: "esm" | "cjs", id: string) => ({
  types: `./dist/${format}/${id}.d.ts`,
  default: `./dist/${format}/${id}.js`
})

const manifest = () => {
  const exports = publicModules().map(({ id, subpath }) => [
    subpath,
    { import: target("esm", id), require: target("cjs", id) }
  ])
  const json = {
    ...JSON.parse(read("package.json")),
    exports: { "./package.json": "./package.json", ...Object.fromEntries(exports) }
  }
  return JSON.stringify(json, null, 2) + "\n"
}

const drift = Object.entries({ "src/index.ts": barrel(), "package.json": manifest() }).filter(
  ([file, content]) => !fs.existsSync(path.join(root, file)) || read(file) !== content
)

if (process.argv.includes("--check")) {
  for (const [file] of drift) {
    console.error(`${file} does not follow from src: run "npm run codegen"`)
  }
  process.exitCode = drift.length === 0 ? 0 : 1
} else {
  for (const [file, content] of drift) {
    fs.writeFileSync(path.join(root, file), content)
    console.log(`wrote ${file}`)
  }
}
