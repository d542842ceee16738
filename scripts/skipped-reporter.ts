import * as path from "node:path"
import type { Reporter, TestModule } from "vitest/node"
import { root } from "./modules.js"

/** Names every skipped test with its reason (`ctx.skip(reason)`) when the run ends. */
export default class SkippedReporter implements Reporter {
  onTestRunEnd(modules: ReadonlyArray<TestModule>) {
    for (const module of modules) {
      for (const test of module.children.allTests("skipped")) {
        const result = test.result()
        const reason = (result.state === "skipped" && result.note) || "no reason given"
        console.log(
          `skipped: ${path.relative(root, module.moduleId)} > ${test.fullName}: ${reason}`
        )
      }
    }
  }
}
