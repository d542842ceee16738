/**
 * What one client knows of the load of one host: how much it has outstanding there, and how fast the host
 * has answered lately. A value: time is passed in, in milliseconds of any clock.
 *
 * The latency is Finagle's peak-EWMA: an answer that is slower than the average is believed at once, a
 * faster one gradually, because a queue is built in an instant and drained slowly. Time, not the number of
 * answers, makes the old ones count less: a busy host's average spans as many seconds as an idle one's.
 *
 * @internal
 */

/** @internal */
export interface Load {
  /** Statements that were sent, or are about to be, and are not answered. */
  readonly outstanding: number
  /** The average at the time of the last answer. `undefined`: there was none yet. */
  readonly averageMillis: number | undefined
  /** When the last answer came. */
  readonly at: number
}

/** In this time an old answer's part in the average falls to 1/e: Finagle's 10 s. @internal */
export const DECAY_MILLIS = 10_000

/**
 * Without an answer for this long, the latency is unknown again, so that a host which was slow once, and
 * is avoided for it, is tried again. After three times the decay the old average would make up 5 % of a
 * new one (e⁻³); it is also the calm refresh rate, so that a monitor's probes alone keep it known.
 *
 * @internal
 */
export const FORGET_MILLIS = 3 * DECAY_MILLIS

/** @internal */
export const empty: Load = { outstanding: 0, averageMillis: undefined, at: 0 }

/** Call it when a host was chosen, before anything waits: whoever chooses next has to see it. @internal */
export const begin = (self: Load): Load => ({ ...self, outstanding: self.outstanding + 1 })

/** However the work ended. A failure or an interruption is no answer, and tells no latency. @internal */
export const end = (self: Load): Load => ({
  ...self,
  outstanding: Math.max(0, self.outstanding - 1)
})

/** What is known at `now`. @internal */
export const latencyMillis = (self: Load, now: number): number | undefined =>
  now - self.at > FORGET_MILLIS ? undefined : self.averageMillis

/** The host answered after `millis`. @internal */
export const answered = (self: Load, millis: number, now: number): Load => {
  // A clock that was set back makes an answer that came before its question.
  if (!(millis >= 0)) return self
  const average = latencyMillis(self, now)
  if (average === undefined || millis >= average) return { ...self, averageMillis: millis, at: now }
  const kept = Math.exp(-Math.max(0, now - self.at) / DECAY_MILLIS)
  return { ...self, averageMillis: average * kept + millis * (1 - kept), at: now }
}
