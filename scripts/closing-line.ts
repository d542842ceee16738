/** Prints `N passed, M failed[, K skipped]` from the JSON report of a vitest run, and fails if M > 0. */
import * as fs from "node:fs"

interface Report {
  readonly success: boolean
  readonly testResults: ReadonlyArray<{
    readonly name: string
    readonly status: string
    readonly message: string
    readonly assertionResults: ReadonlyArray<{ readonly status: string }>
  }>
}

const [file = ""] = process.argv.slice(2)
const report: Report = fs.existsSync(file)
  ? JSON.parse(fs.readFileSync(file, "utf8"))
  : { success: false, testResults: [] }

const tests = report.testResults.flatMap(({ assertionResults }) => assertionResults)
const passed = tests.filter(({ status }) => status === "passed").length
let failed = tests.filter(({ status }) => status === "failed").length
const skipped = tests.length - passed - failed

// A file that does not load, or a failing hook, has no failing test to be counted by.
for (const { assertionResults, message, name, status } of report.testResults) {
  if (status === "failed" && assertionResults.every((test) => test.status !== "failed")) {
    console.log(`failed: ${name}: ${message}`)
    failed += 1
  }
}
if (failed === 0 && (!report.success || passed === 0)) {
  console.log("failed: the test run itself")
  failed = 1
}

console.log(`${passed} passed, ${failed} failed${skipped > 0 ? `, ${skipped} skipped` : ""}`)
process.exitCode = failed > 0 ? 1 : 0
