/** Whatever fails wherever: what the caller is told is what the database holds. */
import { afterAll, assert, layer } from "@effect/vitest"
import { Effect } from "effect"
import { writeFileSync } from "node:fs"
import { expectNothingUnhandled } from "../support/unhandled.js"
import { CLUSTERS, Lab, layer as labLayer } from "./lab.js"
import type { Finding } from "./runCell.js"
import { cells, nameOf } from "./vocabulary.js"

expectNothingUnhandled()

/** For `npm run matrix`, which makes a table of them. */
const findings: Array<Finding> = []
afterAll(() => {
  const file = process.env["MATRIX_FINDINGS"]
  if (file !== undefined) writeFileSync(file, JSON.stringify(findings))
})

layer(labLayer, { excludeTestServices: true })("Fault matrix", (it) => {
  for (const cell of cells) {
    it.effect(
      nameOf(cell),
      () =>
        Effect.gen(function* () {
          const lab = yield* Lab
          const finding = yield* lab.run(cell)
          findings.push(finding)
          assert.deepStrictEqual(finding.violations, [])
        }),
      { concurrent: true, timeout: 60_000 * CLUSTERS }
    )
  }
})
