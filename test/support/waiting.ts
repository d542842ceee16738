/** Waits for events. Every bound is generous, and a wait that fails says what it waited for. */
import { Duration, Effect } from "effect"

/** Two busy cores: what takes milliseconds alone may take seconds in a full run. */
const BOUND = Duration.seconds(30)

/** "At once": far below every timeout that could end the wait instead, and far above a busy machine's delays. */
export const AT_ONCE = Duration.seconds(5)

const never = (what: string, bound: Duration.Duration) => () =>
  new Error(`waited ${Duration.format(bound)} in vain for: ${what}`)

export const within =
  (what: string, bound: Duration.Duration = BOUND) =>
  <A, E, R>(self: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
    // The fiber that waits may be one that cannot be interrupted: that is a finding too.
    Effect.flatten(
      Effect.disconnect(Effect.exit(self)).pipe(
        Effect.timeoutFail({ duration: bound, onTimeout: never(what, bound) }),
        Effect.orDie
      )
    )

export const eventually = <E, R>(
  what: string,
  ready: Effect.Effect<boolean, E, R>
): Effect.Effect<void, never, R> =>
  ready.pipe(
    Effect.orElseSucceed(() => false),
    Effect.flatMap((done) =>
      done ? Effect.succeed(true) : Effect.delay(Effect.succeed(false), "5 millis")
    ),
    Effect.repeat({ until: (done) => done }),
    Effect.asVoid,
    within(what)
  )
