/**
 * Time limits of attempts, cheaply: one fiber sleeps to the nearest limit, instead of one for each request. Nearly
 * every attempt ends long before its own.
 *
 * @internal
 */
import type { Exit, Scope } from "effect"
import { Clock, Duration, Effect, Fiber, FiberId, Queue } from "effect"

/** An attempt that does not end when it is interrupted is given up after this. */
const GIVE_UP_MILLIS = 1_000

/** @internal */
export interface Limited<A, E> {
  readonly exit: Exit.Exit<A, E> | undefined
  /** Whether it was interrupted because its time was up. Without an exit it has not ended even so. */
  readonly expired: boolean
}

/**
 * Something with a time limit. Entries form a list by themselves, since a hash table of entries that hardly live costs
 * more than all else here.
 *
 * @internal
 */
export abstract class Entry {
  at = 0
  expired = false
  before: Entry | undefined = undefined
  after: Entry | undefined = undefined

  /** The time is up. */
  abstract expire(): void
  /** It has not ended even so. */
  abstract giveUp(): void
}

/** @internal */
export interface Deadlines {
  readonly arm: (entry: Entry, millis: number) => void
  /** Whether the time was up. */
  readonly disarm: (entry: Entry) => boolean
  /**
   * Runs the effect in a fiber of its own, and interrupts it after so many milliseconds. `onInterrupt` is called if the
   * caller is interrupted.
   */
  readonly limit: <A, E, R>(
    effect: Effect.Effect<A, E, R>,
    millis: number,
    onInterrupt: () => void
  ) => Effect.Effect<Limited<A, E>, never, R>
}

/** @internal */
export const make: Effect.Effect<Deadlines, never, Scope.Scope> = Effect.gen(function* () {
  const clock = yield* Clock.clockWith(Effect.succeed)
  let first: Entry | undefined
  const sooner = yield* Queue.sliding<void>(1)
  /** When the sweeper looks next; Infinity while it waits for an entry. */
  let next = Infinity

  const remove = (entry: Entry): void => {
    if (entry.before === undefined && first !== entry) return
    if (entry.before === undefined) first = entry.after
    else entry.before.after = entry.after
    if (entry.after !== undefined) entry.after.before = entry.before
    entry.before = undefined
    entry.after = undefined
  }

  const arm: Deadlines["arm"] = (entry, millis) => {
    entry.at = clock.unsafeCurrentTimeMillis() + millis
    entry.after = first
    if (first !== undefined) first.before = entry
    first = entry
    if (entry.at < next) {
      next = entry.at
      sooner.unsafeOffer(void 0)
    }
  }

  const disarm: Deadlines["disarm"] = (entry) => {
    remove(entry)
    return entry.expired
  }

  const sweep = (now: number): void => {
    next = Infinity
    const due: Array<Entry> = []
    for (let entry = first; entry !== undefined; entry = entry.after) {
      if (entry.at <= now) due.push(entry)
      else next = Math.min(next, entry.at)
    }
    // Afterwards, for what ends takes itself off the list.
    for (const entry of due) {
      if (entry.expired) {
        remove(entry)
        entry.giveUp()
      } else {
        entry.expired = true
        entry.at = now + GIVE_UP_MILLIS
        next = Math.min(next, entry.at)
        entry.expire()
      }
    }
  }

  yield* Effect.suspend(() => {
    const wait = next - clock.unsafeCurrentTimeMillis()
    const woken = Queue.take(sooner)
    return next === Infinity
      ? woken
      : Effect.zipRight(
          wait <= 0 ? Effect.void : Effect.raceFirst(Effect.sleep(Duration.millis(wait)), woken),
          Effect.sync(() => sweep(clock.unsafeCurrentTimeMillis()))
        )
  }).pipe(Effect.forever, Effect.interruptible, Effect.forkScoped)

  const limit = <A, E, R>(
    effect: Effect.Effect<A, E, R>,
    millis: number,
    onInterrupt: () => void
  ): Effect.Effect<Limited<A, E>, never, R> =>
    Effect.uninterruptibleMask((restore) =>
      Effect.flatMap(Effect.forkDaemon(Effect.interruptible(effect)), (fiber) =>
        restore(
          Effect.async<Limited<A, E>>((resume) => {
            const entry = new Fibers(fiber, () =>
              resume(Effect.succeed({ exit: undefined, expired: true }))
            )
            arm(entry, millis)
            fiber.addObserver((exit) => resume(Effect.succeed({ exit, expired: disarm(entry) })))
            return Effect.suspend(() => {
              disarm(entry)
              onInterrupt()
              return Fiber.interrupt(fiber)
            })
          })
        )
      )
    )
  return { arm, disarm, limit }
})

/** The limit of a fiber. */
class Fibers<A, E> extends Entry {
  constructor(
    private readonly fiber: Fiber.RuntimeFiber<A, E>,
    readonly giveUp: () => void
  ) {
    super()
  }

  expire(): void {
    this.fiber.unsafeInterruptAsFork(FiberId.none)
  }
}
