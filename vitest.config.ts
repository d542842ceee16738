import { fileURLToPath } from "node:url"
import { defineConfig } from "vitest/config"

const src = fileURLToPath(new URL("./src/", import.meta.url))
const report = process.env["TEST_REPORT"]

export default defineConfig({
  resolve: {
    alias: [
      { find: /^effect-failover$/, replacement: `${src}index.ts` },
      { find: /^effect-failover\/(.+)$/, replacement: `${src}$1.ts` }
    ]
  },
  test: {
    include: ["test/**/*.test.ts"],
    setupFiles: ["./vitest.setup.ts"],
    // A fork can be killed with the servers it started; a thread cannot.
    pool: "forks",
    testTimeout: 60_000,
    hookTimeout: 60_000,
    reporters: ["default", "./scripts/skipped-reporter.ts", ...(report ? ["json"] : [])],
    ...(report ? { outputFile: { json: report } } : {})
  }
})
