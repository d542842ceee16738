/** One clock for everything that the demo times: the monotonic one, in milliseconds with fractions. */
import { Clock, Effect } from "effect"

const toMillis = (nanos: bigint): number => Number(nanos / 1000n) / 1000

export const now: Effect.Effect<number> = Effect.map(Clock.currentTimeNanos, toMillis)

/** The cluster tells moments by `process.hrtime`, which is the Clock's monotonic time with another zero. */
export const fromHrtime = (moment: bigint): Effect.Effect<number> =>
  Effect.map(Clock.currentTimeNanos, (nanos) => toMillis(nanos - process.hrtime.bigint() + moment))
