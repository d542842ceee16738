/** Type checks the TypeScript of README.md and docs/*.md. */
import * as fs from "node:fs"
import * as path from "node:path"
import { checkExamples } from "./examples.js"
import { root } from "./modules.js"

const docs = path.join(root, "docs")
const files = [
  ...(fs.existsSync(path.join(root, "README.md")) ? ["README.md"] : []),
  ...(fs.existsSync(docs) ? fs.readdirSync(docs, { recursive: true }) : [])
    .map(String)
    .filter((file) => file.endsWith(".md"))
    .map((file) => path.join("docs", file))
]

const { count, errors } = checkExamples(files)
console.log(`${count} blocks in ${files.length} files`)
if (errors !== "") {
  console.error(errors)
  process.exitCode = 1
}
