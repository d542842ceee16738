/** What a budget earns, spends and forgets; virtual time. */
import { assert, describe, expectTypeOf, it } from "@effect/vitest"
import { Clock, Effect, TestClock } from "effect"
import { RetryBudget } from "effect-failover"
import fc from "fast-check"

const deposits = (budget: RetryBudget.RetryBudget, times: number) =>
  Effect.sync(() => {
    for (let i = 0; i < times; i++) budget.unsafeDeposit()
  })

/** How many of so many retries are granted. */
const granted = (budget: RetryBudget.RetryBudget, asked: number) =>
  Effect.map(
    Effect.replicateEffect(budget.withdraw, asked),
    (answers) => answers.filter((_) => _).length
  )

describe("RetryBudget", () => {
  it.effect("starts with ten seconds of ten retries a second", () =>
    Effect.gen(function* () {
      const budget = yield* RetryBudget.make()
      assert.strictEqual(yield* budget.balance, 100)
      assert.strictEqual(yield* granted(budget, 200), 100)
    })
  )

  it.effect("earns one retry for every five statements, and none for four", () =>
    Effect.gen(function* () {
      const budget = yield* RetryBudget.make({ reserve: 0 })
      yield* deposits(budget, 4)
      assert.isFalse(yield* budget.withdraw)
      yield* deposits(budget, 1)
      assert.deepStrictEqual([yield* budget.withdraw, yield* budget.withdraw], [true, false])
    })
  )

  it.effect("is exact over many statements", () =>
    Effect.gen(function* () {
      for (const statements of [10, 15, 100, 12_345]) {
        const budget = yield* RetryBudget.make({ reserve: 0 })
        yield* deposits(budget, statements)
        assert.strictEqual(yield* budget.balance, Math.floor(statements / 5))
      }
    })
  )

  it.effect("takes ratio, reserve and time to live from its options", () =>
    Effect.gen(function* () {
      const budget = yield* RetryBudget.make({ ratio: 0.5, reserve: 2, ttl: "3 seconds" })
      yield* deposits(budget, 4)
      assert.strictEqual(yield* budget.balance, 2 * 3 + 2)
    })
  )

  it.effect("without a reserve and without traffic allows nothing", () =>
    Effect.gen(function* () {
      const budget = yield* RetryBudget.make({ reserve: 0 })
      assert.deepStrictEqual([yield* budget.withdraw, yield* budget.balance], [false, 0])
    })
  )

  it.effect("forgets what was earned, a slice at a time", () =>
    Effect.gen(function* () {
      const budget = yield* RetryBudget.make({ reserve: 0, ratio: 1 })
      yield* deposits(budget, 3)
      yield* TestClock.adjust("4 seconds")
      yield* deposits(budget, 2)
      yield* TestClock.adjust("5999 millis")
      assert.strictEqual(yield* budget.balance, 5)
      yield* TestClock.adjust("1 millis")
      assert.strictEqual(yield* budget.balance, 2)
      yield* TestClock.adjust("4 seconds")
      assert.strictEqual(yield* budget.balance, 0)
    })
  )

  it.effect("forgets what was spent just so: the reserve is there again", () =>
    Effect.gen(function* () {
      const budget = yield* RetryBudget.make({ reserve: 1, ttl: "10 seconds" })
      assert.strictEqual(yield* granted(budget, 20), 10)
      yield* TestClock.adjust("9 seconds")
      assert.strictEqual(yield* budget.balance, 0)
      yield* TestClock.adjust("1 second")
      assert.strictEqual(yield* budget.balance, 10)
    })
  )

  it.effect("a long pause forgets everything", () =>
    Effect.gen(function* () {
      const budget = yield* RetryBudget.make({ reserve: 0, ratio: 1 })
      yield* deposits(budget, 50)
      yield* TestClock.adjust("365 days")
      assert.strictEqual(yield* budget.balance, 0)
      yield* deposits(budget, 1)
      assert.strictEqual(yield* budget.balance, 1)
    })
  )

  it.effect("a refused withdrawal costs nothing", () =>
    Effect.gen(function* () {
      const budget = yield* RetryBudget.make({ reserve: 0, ratio: 1 })
      assert.strictEqual(yield* granted(budget, 50), 0)
      yield* deposits(budget, 1)
      assert.isTrue(yield* budget.withdraw)
    })
  )

  it.effect("is never negative, also when what paid for a withdrawal is forgotten first", () =>
    Effect.gen(function* () {
      const budget = yield* RetryBudget.make({ reserve: 0, ratio: 1 })
      yield* deposits(budget, 3)
      yield* TestClock.adjust("9 seconds")
      assert.strictEqual(yield* granted(budget, 3), 3)
      yield* TestClock.adjust("1 second")
      assert.deepStrictEqual([yield* budget.balance, yield* budget.withdraw], [0, false])
    })
  )

  it.effect("many fibers together get no more than there is", () =>
    Effect.gen(function* () {
      const budget = yield* RetryBudget.make()
      const answers = yield* Effect.all(
        Array.from({ length: 1000 }, () => Effect.zipRight(Effect.yieldNow(), budget.withdraw)),
        { concurrency: "unbounded" }
      )
      assert.lengthOf(
        answers.filter((_) => _),
        100
      )
    })
  )

  type Step = "deposit" | "withdraw" | number
  const step: fc.Arbitrary<Step> = fc.oneof(
    fc.constantFrom<Step>("deposit", "withdraw"),
    fc.integer({ min: 1, max: 4_000 })
  )

  it.effect.prop(
    "grants what a list of everything earned and spent would grant",
    [fc.array(step, { maxLength: 120 }), fc.integer({ min: 0, max: 2 }), fc.constantFrom(0.25, 1)],
    ([steps, reserve, ratio]) =>
      Effect.gen(function* () {
        const budget = yield* RetryBudget.make({ reserve, ratio })
        const book: Array<{ readonly at: number; readonly amount: number }> = []
        let now = yield* Clock.currentTimeMillis
        const slice = (at: number) => Math.floor(at / 1000)
        const balance = () =>
          book
            .filter(({ at }) => slice(now) - slice(at) < 10)
            .reduce((sum, { amount }) => sum + amount, reserve * 10)
        for (const step of steps) {
          if (step === "deposit") {
            budget.unsafeDeposit()
            book.push({ at: now, amount: ratio })
          } else if (step === "withdraw") {
            const expected = balance() >= 1
            assert.strictEqual(yield* budget.withdraw, expected)
            if (expected) book.push({ at: now, amount: -1 })
          } else {
            yield* TestClock.adjust(step)
            now += step
          }
          assert.strictEqual(yield* budget.balance, Math.max(0, Math.floor(balance())))
        }
      })
  )

  it("is made without failure and without requirements", () => {
    expectTypeOf(RetryBudget.make).returns.toEqualTypeOf<Effect.Effect<RetryBudget.RetryBudget>>()
    expectTypeOf<RetryBudget.RetryBudget["withdraw"]>().toEqualTypeOf<Effect.Effect<boolean>>()
  })
})
