/**
 * Things that happen later, in virtual time: by the time that they are due, and those of one instant in the
 * order in which they were planned. Whatever else sleeps at that instant, their order does not depend on it.
 *
 * @internal
 */
import type { Fiber, Scope } from "effect"
import { Duration, Effect, FiberId, FiberSet } from "effect"

/** @internal */
export interface Timers {
  /** Clock milliseconds. */
  readonly now: () => number
  /** At once, if there is nothing to wait for. Returns what calls it off. */
  readonly after: (millis: number, run: () => void) => () => void
  /** Milliseconds until then: none if it is less than a nanosecond, which no Clock can sleep. */
  readonly until: (at: number) => number
  /** `after`, but never at once: behind all that was planned for this instant. */
  readonly later: (millis: number, run: () => void) => () => void
}

interface Planned {
  readonly due: number
  readonly run: () => void
}

const nothing = (): void => undefined

const NANOSECOND = 1e-6

/** Nothing happens any more when the scope is closed. @internal */
export const make: Effect.Effect<Timers, never, Scope.Scope> = Effect.gen(function* () {
  const clock = yield* Effect.clock
  const fork = yield* FiberSet.makeRuntime<never>()
  const planned: Array<Planned> = []
  let alarm: { readonly due: number; fiber: Fiber.RuntimeFiber<void> | undefined } | undefined
  let isClosed = false
  yield* Effect.addFinalizer(() => Effect.sync(() => (isClosed = true)))

  const now = (): number => clock.unsafeCurrentTimeMillis()

  const ring = (due: number): void => {
    alarm = undefined
    // The sleep may end a rounding error before the time that it was meant for.
    for (let first = planned[0]; first !== undefined; first = planned[0]) {
      if (first.due > Math.max(now(), due)) break
      planned.shift()
      first.run()
    }
    arm()
  }

  /** One fiber sleeps, until the first of them is due. */
  const arm = (): void => {
    const first = planned[0]
    if (first === undefined || isClosed || (alarm !== undefined && alarm.due <= first.due)) return
    alarm?.fiber?.unsafeInterruptAsFork(FiberId.none)
    const next: NonNullable<typeof alarm> = { due: first.due, fiber: undefined }
    alarm = next
    const wait = Duration.millis(Math.max(first.due - now(), 0))
    // A Clock may end a short sleep within this call: not before it has returned.
    next.fiber = fork(
      Effect.sleep(wait).pipe(
        Effect.zipRight(Effect.yieldNow()),
        Effect.zipRight(Effect.sync(() => ring(next.due)))
      )
    )
  }

  const later: Timers["later"] = (millis, run) => {
    const one: Planned = { due: now() + Math.max(millis, 0), run }
    let at = planned.length
    while (at > 0 && (planned[at - 1]?.due ?? 0) > one.due) at--
    planned.splice(at, 0, one)
    arm()
    return () => {
      const at = planned.indexOf(one)
      if (at >= 0) planned.splice(at, 1)
    }
  }

  return {
    now,
    until: (at) => (at - now() < NANOSECOND ? 0 : at - now()),
    later,
    after: (millis, run) => {
      if (millis > 0) return later(millis, run)
      run()
      return nothing
    }
  }
})
