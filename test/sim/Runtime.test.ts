/** Virtual time in one synchronous loop. */
import { assert, describe, it } from "@effect/vitest"
import { Clock, Duration, Effect, Exit, Fiber, Random } from "effect"
import type { Ended } from "../../sim/runtime.js"
import { run, START } from "../../sim/runtime.js"

const HOUR = Duration.toMillis(Duration.hours(1))

const runFor = <A, E>(effect: Effect.Effect<A, E>, afterTask?: () => void): Ended<A, E> =>
  run(() => effect, { random: Random.make(1), limit: HOUR, afterTask })

describe("runtime", () => {
  it("sleeps without waiting, and tells the time of its own clock", () => {
    const ended = runFor(Effect.zipRight(Effect.sleep("59 minutes"), Clock.currentTimeMillis))
    assert.deepStrictEqual(ended.exit, Exit.succeed(START + 59 * 60_000))
    assert.strictEqual(ended.elapsed, 59 * 60_000)
  })

  it("wakes sleepers by their time, and those of one instant in the order in which they fell asleep", () => {
    const order: Array<string> = []
    const sleeper = (name: string, millis: number) =>
      Effect.delay(
        Effect.sync(() => order.push(name)),
        millis
      )
    const sleepers = [
      sleeper("late", 9),
      sleeper("first", 5),
      sleeper("second", 5),
      sleeper("early", 1)
    ]
    const ended = runFor(Effect.all(sleepers, { concurrency: "unbounded", discard: true }))
    assert.isTrue(Exit.isSuccess(ended.exit ?? Exit.fail("stuck")))
    assert.deepStrictEqual(order, ["early", "first", "second", "late"])
  })

  it("keeps the order of a thousand sleepers", () => {
    const woken: Array<number> = []
    const random = Random.make("sleepers")
    const sleeper = Effect.flatMap(random.nextIntBetween(0, 500), (millis) =>
      Effect.delay(
        Effect.sync(() => woken.push(millis)),
        millis
      )
    )
    runFor(
      Effect.all(
        Array.from({ length: 1000 }, () => sleeper),
        { concurrency: "unbounded" }
      )
    )
    assert.strictEqual(woken.length, 1000)
    assert.deepStrictEqual(
      woken,
      [...woken].sort((a, b) => a - b)
    )
  })

  it("draws the same numbers for the same seed", () => {
    const draw = () => runFor(Effect.replicateEffect(Random.next, 5)).exit
    assert.deepStrictEqual(draw(), draw())
  })

  it("looks at the world after each task", () => {
    let looks = 0
    const ended = runFor(Effect.repeatN(Effect.sleep(1), 9), () => looks++)
    assert.strictEqual(looks, ended.tasks)
    assert.isAtLeast(looks, 10)
  })

  it("says who runs in circles at one instant", () => {
    const ended = runFor(Effect.zipRight(Effect.sleep(1500), Effect.forever(Effect.yieldNow())))
    assert.match(ended.stuck ?? "", /runs in circles at 1\.500 s/)
  })

  it("says that nobody runs and nobody sleeps", () => {
    assert.match(runFor(Effect.never).stuck ?? "", /nobody runs and nobody sleeps/)
  })

  it("ends what does not end by itself", () => {
    assert.match(runFor(Effect.forever(Effect.sleep(1000))).stuck ?? "", /goes on after 3600 s/)
  })

  it("counts the sleepers and the fibers that are left", () => {
    const ended = runFor(Effect.asVoid(Effect.forkDaemon(Effect.sleep("1 minute"))))
    assert.deepInclude(ended, { sleepers: 1, fibers: 1 })
  })

  it("counts nobody when all have ended", () => {
    const ended = runFor(
      Effect.gen(function* () {
        const fiber = yield* Effect.forkDaemon(Effect.sleep("1 minute"))
        yield* Effect.timeoutOption(Effect.never, "1 second")
        yield* Fiber.interrupt(fiber)
      })
    )
    assert.deepInclude(ended, { sleepers: 0, fibers: 0, stuck: undefined })
  })
})
