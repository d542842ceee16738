/**
 * What the callers were told, unit of work by unit of work: the side of the books that is not the
 * database. Plain and mutable, because every write passes through it.
 */
import { Deferred, Effect, FiberId } from "effect"
import * as Time from "./time.js"

/** A single row, or two rows that belong together. */
export type Kind = "single" | "transaction"

/**
 * What a caller has in its hands at the end.
 *
 * - `acknowledged`: the write is stored.
 * - `unknown`: told that it may or may not be stored.
 * - `died`: a defect, which no `catchTag` and no `retry` sees.
 * - `failed`: any other error, after the retries.
 */
export type Verdict = "acknowledged" | "unknown" | "died" | "failed"

export interface Entry {
  readonly kind: Kind
  /** How often it was tried; all attempts carry the same id. */
  attempts: number
  /** `undefined` while it is under way. */
  verdict: Verdict | undefined
}

export interface Totals {
  readonly acknowledged: number
  readonly unknown: number
  readonly died: number
  readonly failed: number
  /** Attempts beyond the first. */
  readonly retries: number
  readonly reads: number
}

export class Ledger {
  readonly entries = new Map<number, Entry>()
  /** The last write that was acknowledged before `expectNewWriter`. */
  lastBefore: number | undefined
  /** The first error that any caller's attempt met after `expectTrouble`. */
  readonly trouble = Deferred.unsafeMake<number>(FiberId.none)
  /** The first write that was acknowledged after `expectNewWriter`. */
  readonly firstAfter = Deferred.unsafeMake<number>(FiberId.none)

  private readonly told = { acknowledged: 0, unknown: 0, died: 0, failed: 0 }
  private retries = 0
  private reads = 0
  private lastAcknowledged: number | undefined
  private phase: "calm" | "trouble" | "new writer" = "calm"

  begin(kind: Kind): number {
    const id = this.entries.size + 1
    this.entries.set(id, { kind, attempts: 0, verdict: undefined })
    return id
  }

  attempt(id: number): void {
    const entry = this.entries.get(id)
    if (entry !== undefined && entry.attempts++ > 0) this.retries++
  }

  settle(id: number, verdict: Verdict): Effect.Effect<void> {
    return Effect.flatMap(Time.now, (at) => {
      const entry = this.entries.get(id)
      if (entry !== undefined) entry.verdict = verdict
      this.told[verdict]++
      if (verdict !== "acknowledged") return Effect.void
      this.lastAcknowledged = at
      return this.phase === "new writer" ? Deferred.succeed(this.firstAfter, at) : Effect.void
    })
  }

  read(): void {
    this.reads++
  }

  /** The writer is about to be killed. */
  expectTrouble(): void {
    this.phase = "trouble"
  }

  /** A standby is about to be promoted: whatever the old writer acknowledged has arrived long ago. */
  expectNewWriter(): void {
    this.phase = "new writer"
    this.lastBefore = this.lastAcknowledged
  }

  readonly erred: Effect.Effect<void> = Effect.suspend(() =>
    this.phase === "calm"
      ? Effect.void
      : Effect.flatMap(Time.now, (at) => Deferred.succeed(this.trouble, at))
  )

  totals(): Totals {
    return { ...this.told, retries: this.retries, reads: this.reads }
  }
}
