/** `npm run sim`, in short: whole clients on simulated clusters, an hour of virtual time for each seed. */
import { assert, describe, it } from "@effect/vitest"
import { runBatch, shrinkFailure } from "../../sim/batch.js"
import { draw } from "../../sim/draw.js"
import type { Scenario } from "../../sim/scenario.js"
import { simulate } from "../../sim/simulate.js"

/** Small: a run of seeds blocks its process, and nobody else's must take it for dead. */
const BATCHES = 30
const SEEDS = 10

describe("Simulation", () => {
  for (let batch = 0; batch < BATCHES; batch++) {
    const from = 1 + batch * SEEDS
    const to = from + SEEDS - 1
    it(`no invariant is violated in seeds ${from} to ${to}`, () => {
      const { failures, tally } = runBatch(Array.from({ length: SEEDS }, (_, i) => from + i))
      assert.deepStrictEqual(failures, [])
      assert.isAbove(tally.failovers, SEEDS)
      assert.isAbove(tally.statements, 20 * SEEDS)
      assert.isAbove(tally.elapsed, SEEDS * 0.9 * 3_600_000)
    })
  }

  it("does the same things in the same order for the same seed", () => {
    for (const seed of [3, 17, 37]) {
      const first = simulate(draw(seed), { log: true })
      assert.isAbove(first.log.length, 20)
      assert.deepStrictEqual(simulate(draw(seed), { log: true }), first)
    }
  })

  it("does the same things whether they are logged or not", () => {
    const { log: _log, ...logged } = simulate(draw(5), { log: true })
    const { log, ...silent } = simulate(draw(5))
    assert.deepStrictEqual(log, [])
    assert.deepStrictEqual(silent, logged)
  })

  it("shrinks a scenario that violates something to one that violates the same", () => {
    // No answer comes in time, so the last work of the client fails although all is well.
    const doomed: Scenario = { ...draw(2), latency: [120_000, 120_000] }
    const { log, scenario: smallest, violations } = shrinkFailure(doomed, 60)
    const [violation] = violations
    assert.strictEqual(violation?.kind, simulate(doomed).violations[0]?.kind)
    assert.isAtMost(smallest.work.length, doomed.work.length)
    assert.isTrue(log.some((line) => line.includes("VIOLATED")))
  })
})
