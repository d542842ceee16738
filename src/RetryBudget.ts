/**
 * How much may be run again, shared by all clients of a cluster, so that an outage does not become a
 * storm. Finagle's numbers: a fifth of the traffic, and ten a second on top for services that have little
 * of it; what was earned is forgotten after ten seconds.
 *
 * @since 0.1.0
 */
import type { Clock } from "effect"
import { Duration, Effect } from "effect"

/**
 * @since 0.1.0
 * @category models
 */
export interface RetryBudget {
  /** A statement was run: it earns its share. Without an Effect, for every statement does it. */
  readonly unsafeDeposit: () => void
  /** Whether one more retry may be made; it is paid for if so. */
  readonly withdraw: Effect.Effect<boolean>
  /** Retries that could be made now. */
  readonly balance: Effect.Effect<number>
}

/**
 * @since 0.1.0
 * @category models
 */
export interface Options {
  /** Retries that each statement earns. Default 0.2. */
  readonly ratio?: number | undefined
  /** Retries a second that need not be earned. Default 10. */
  readonly reserve?: number | undefined
  /** What was earned longer ago is forgotten. Default 10 seconds. */
  readonly ttl?: Duration.DurationInput | undefined
}

/**
 * @since 0.1.0
 * @category defaults
 */
export const DEFAULT_RATIO = 0.2

/**
 * @since 0.1.0
 * @category defaults
 */
export const DEFAULT_RESERVE = 10

/**
 * @since 0.1.0
 * @category defaults
 */
export const DEFAULT_TTL = Duration.seconds(10)

/** One retry, in the whole numbers that are counted: fifths do not add up to one in binary fractions. */
const RETRY = 1000

/** The time to live is kept in this many slices; the oldest is forgotten as a whole. */
const SLICES = 10

/**
 * @since 0.1.0
 * @category constructors
 */
export const unsafeMake = (clock: Clock.Clock, options: Options = {}): RetryBudget => {
  const deposit = Math.round((options.ratio ?? DEFAULT_RATIO) * RETRY)
  const ttl = Math.max(SLICES, Duration.toMillis(Duration.decode(options.ttl ?? DEFAULT_TTL)))
  const reserve = Math.round((options.reserve ?? DEFAULT_RESERVE) * RETRY * (ttl / 1000))
  const sliceMillis = ttl / SLICES
  // Deposits less withdrawals of each slice; a withdrawal counts for as long as a deposit does.
  const slices = new Array<number>(SLICES).fill(0)
  let current = Math.floor(clock.unsafeCurrentTimeMillis() / sliceMillis)

  const slice = (): number => {
    const now = Math.floor(clock.unsafeCurrentTimeMillis() / sliceMillis)
    for (let i = Math.max(current + 1, now - SLICES + 1); i <= now; i++) slices[i % SLICES] = 0
    current = Math.max(current, now)
    return current % SLICES
  }

  const add = (amount: number): void => {
    const i = slice()
    slices[i] = (slices[i] ?? 0) + amount
  }

  const balance = (): number => {
    slice()
    return slices.reduce((sum, _) => sum + _, reserve)
  }

  return {
    unsafeDeposit: () => add(deposit),
    withdraw: Effect.sync(() => {
      if (balance() < RETRY) return false
      add(-RETRY)
      return true
    }),
    balance: Effect.sync(() => Math.max(0, Math.floor(balance() / RETRY)))
  }
}

/**
 * @since 0.1.0
 * @category constructors
 */
export const make = (options?: Options): Effect.Effect<RetryBudget> =>
  Effect.map(Effect.clock, (clock) => unsafeMake(clock, options))
