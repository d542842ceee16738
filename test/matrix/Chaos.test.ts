/** `npm run chaos`, in short: whatever happens when, every caller is told the truth. */
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { run } from "../../chaos/run.js"

describe("Chaos", () => {
  for (const flavor of ["streaming", "aurora"] as const) {
    it.live(
      `every caller is told the truth under random faults, ${flavor}`,
      () =>
        Effect.gen(function* () {
          const result = yield* run({ seconds: 3, seed: 7, flavor, json: false })
          assert.deepStrictEqual(result.violations, [])
          assert.isAbove(result.kills, 0)
          assert.isAbove(result.work, 0)
        }),
      180_000
    )
  }
})
