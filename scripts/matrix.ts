/** `npm run matrix`: runs the fault matrix on real clusters and writes docs/fault-matrix.md. */
import { spawnSync } from "node:child_process"
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { render } from "../test/matrix/report.js"
import type { Finding } from "../test/matrix/runCell.js"

const root = fileURLToPath(new URL("..", import.meta.url))
const directory = mkdtempSync(join(tmpdir(), "effect-failover-matrix-"))
const findings = join(directory, "findings.json")

try {
  const run = spawnSync(
    process.execPath,
    [join(root, "node_modules/vitest/vitest.mjs"), "run", "test/matrix/Matrix.test.ts"],
    { cwd: root, stdio: "inherit", env: { ...process.env, MATRIX_FINDINGS: findings } }
  )
  if (run.status !== 0) {
    process.stderr.write("the matrix has violations: docs/fault-matrix.md is left as it is\n")
    process.exitCode = 1
  } else {
    const all: ReadonlyArray<Finding> = JSON.parse(readFileSync(findings, "utf8"))
    mkdirSync(join(root, "docs"), { recursive: true })
    writeFileSync(join(root, "docs/fault-matrix.md"), render(all))
    process.stdout.write(`docs/fault-matrix.md: ${all.length} cells\n`)
  }
} finally {
  rmSync(directory, { recursive: true, force: true })
}
