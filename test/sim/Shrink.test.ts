/** What is left of a scenario that fails. */
import { assert, describe, it } from "@effect/vitest"
import { draw } from "../../sim/draw.js"
import type { Scenario } from "../../sim/scenario.js"
import { shrink } from "../../sim/shrink.js"

const seedWith = (holds: (scenario: Scenario) => boolean): Scenario => {
  for (let seed = 1; seed < 1000; seed++) {
    const scenario = draw(seed)
    if (holds(scenario)) return scenario
  }
  throw new Error("no such scenario")
}

const hasCrash = ({ faults }: Scenario) => faults.some((_) => _.kind === "crash")
const hasRetried = ({ work }: Scenario) => work.some((_) => _.kind === "retried")

describe("draw", () => {
  it("draws the same scenario from the same seed, and another one from another", () => {
    assert.deepStrictEqual(draw(7), draw(7))
    assert.notDeepEqual({ ...draw(7), seed: 0 }, { ...draw(8), seed: 0 })
  })

  it("draws plain data", () => {
    for (let seed = 1; seed <= 50; seed++) {
      assert.deepStrictEqual(JSON.parse(JSON.stringify(draw(seed))), draw(seed))
    }
  })

  it("draws an hour or more, unless hosts are asked all the time, with all work and all faults before the end", () => {
    for (let seed = 1; seed <= 200; seed++) {
      const { endsAt, faults, healedAt, options, work } = draw(seed)
      const isRead = work.some((_) => _.reading !== undefined)
      if (options.push !== "always" && !isRead) assert.isAtLeast(endsAt, 3_600_000)
      assert.isAbove(endsAt, healedAt)
      for (const { at } of [...faults, ...work]) assert.isAtMost(at, healedAt)
    }
  })
})

describe("shrink", () => {
  it("leaves only what the failure needs", () => {
    const scenario = seedWith((_) => hasCrash(_) && hasRetried(_) && _.faults.length > 3)
    const smallest = shrink(scenario, (_) => hasCrash(_) && hasRetried(_))
    assert.deepStrictEqual(
      smallest.faults.map((_) => _.kind),
      ["crash"]
    )
    assert.deepStrictEqual(
      smallest.work.map(({ client, kind, think, writes }) => ({ client, kind, think, writes })),
      [{ client: 0, kind: "retried", think: 0, writes: 1 }]
    )
    assert.strictEqual(smallest.hosts, 1)
    assert.isBelow(smallest.healedAt, 2000)
  })

  it("keeps an order and a distance that the failure needs", () => {
    const isLate = ({ faults, work }: Scenario) =>
      faults.some((fault) => work.some((_) => _.kind === "write" && _.at > fault.at + 1000))
    const smallest = shrink(seedWith(isLate), isLate)
    assert.lengthOf(smallest.faults, 1)
    assert.lengthOf(smallest.work, 1)
    assert.isTrue(isLate(smallest))
  })

  it("returns a scenario that cannot be made smaller as it is", () => {
    const scenario = draw(1)
    assert.deepStrictEqual(
      shrink(scenario, () => false),
      scenario
    )
  })

  it("ends after the number of attempts that it is given", () => {
    let attempts = 0
    shrink(
      draw(3),
      () => {
        attempts++
        return false
      },
      10
    )
    assert.strictEqual(attempts, 10)
  })
})
