/** Runs every `check:*` script of package.json, two at a time, and shows what the failing ones said. */
import { spawn } from "node:child_process"
import * as fs from "node:fs"
import * as path from "node:path"
import { root } from "./modules.js"

const { scripts } = JSON.parse(fs.readFileSync(path.join(root, "package.json"), "utf8")) as {
  readonly scripts: Record<string, string>
}
const queue = Object.keys(scripts).filter((name) => name.startsWith("check:"))

const run = (name: string) =>
  new Promise<void>((resolve) => {
    const start = performance.now()
    const output: Array<Buffer> = []
    const child = spawn("npm", ["run", "--silent", name], {
      cwd: root,
      stdio: ["ignore", "pipe", "pipe"],
      shell: process.platform === "win32"
    })
    child.stdout.on("data", (chunk) => output.push(chunk))
    child.stderr.on("data", (chunk) => output.push(chunk))
    child.on("close", (code) => {
      const seconds = ((performance.now() - start) / 1000).toFixed(1)
      console.log(`${code === 0 ? "ok    " : "FAILED"} ${name} (${seconds} s)`)
      if (code !== 0) {
        console.log(Buffer.concat(output).toString())
        process.exitCode = 1
      }
      resolve()
    })
  })

const worker = async () => {
  for (let name = queue.shift(); name !== undefined; name = queue.shift()) await run(name)
}

await Promise.all([worker(), worker()])
