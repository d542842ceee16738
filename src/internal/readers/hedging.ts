/**
 * Hedged reads: a read that takes longer than 95 of 100 is asked of a second reader too; the first answer
 * counts, and the other question is given up. Within a budget, so that readers that are slow for being busy
 * do not get twice the work.
 *
 * @internal
 */
import { Duration, Effect } from "effect"
import type { Reading } from "../reading.js"
import type { Fleet } from "./fleet.js"
import type { Reads } from "./reads.js"

/** Hedges that each read earns, and as many as may be saved up. */
const EARNED = 0.1
const MOST = 10

/** So many reads are remembered, and looked through anew after so many more. */
const REMEMBERED = 200
const LOOKED_THROUGH_AFTER = 20

const PERCENTILE = 0.95

/** How long reads took, lately. @internal */
export class Latencies {
  private readonly millis: Array<number> = []
  private next = 0
  private added = 0
  /** Undefined until there are enough of them. */
  percentile: number | undefined

  add(millis: number): void {
    this.millis[this.next] = millis
    this.next = (this.next + 1) % REMEMBERED
    if (++this.added % LOOKED_THROUGH_AFTER > 0) return
    const sorted = [...this.millis].sort((a, b) => a - b)
    this.percentile = sorted[Math.floor(sorted.length * PERCENTILE)]
  }
}

/** @internal */
export const make = (
  fleet: Fleet
): Effect.Effect<(execute: Reads["execute"]) => Reads["execute"]> =>
  Effect.map(Effect.clock, (clock) => {
    const latencies = new Latencies()
    let saved = 1

    const pays = (): boolean => {
      if (saved < 1) return false
      saved--
      return true
    }

    /** One that was given up took at least that long. */
    const measured = <A, E>(self: Effect.Effect<A, E>): Effect.Effect<A, E> =>
      Effect.suspend(() => {
        const began = clock.unsafeCurrentTimeNanos()
        return Effect.ensuring(
          self,
          Effect.sync(() => latencies.add(Number(clock.unsafeCurrentTimeNanos() - began) / 1e6))
        )
      })

    return (execute) => (reading, request, annotate, chosen) =>
      Effect.suspend(() => {
        saved = Math.min(MOST, saved + EARNED)
        const { percentile } = latencies
        fleet.start()
        const member = chosen ?? fleet.choose(reading)
        // Known from the beginning: to wait for a connection is a reason to ask elsewhere, too.
        let first = member?.pool
        const primary = measured(
          execute(
            reading,
            request,
            (pool) => {
              first = pool
              annotate?.(pool)
            },
            member
          )
        )
        if (percentile === undefined) return primary
        const second = Effect.suspend(() => {
          if (first === undefined) return Effect.never
          // The writer is no second reader.
          const elsewhere: Reading = { ...reading, mode: "strict-reader", except: first }
          const other = fleet.choose(elsewhere)
          return other?.role === "reader" && pays()
            ? // A second reader that fails decides nothing: the first one has been asked, and may answer.
              Effect.catchAll(
                measured(execute(elsewhere, request, annotate, other)),
                () => Effect.never
              )
            : Effect.never
        })
        return Effect.raceFirst(primary, Effect.delay(second, Duration.millis(percentile)))
      })
  })
