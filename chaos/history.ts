/** What every caller was told, and the check against what the database holds. */
import { Cause, Effect, Exit } from "effect"
import type { Signal } from "../test/matrix/signal.js"
import { signalOf, violationOf } from "../test/matrix/signal.js"

export interface Work {
  readonly kind: string
  /** There as a whole, or not at all. */
  readonly ids: ReadonlyArray<number>
  /** Undone by the work itself: not there, whatever happens. */
  readonly never: ReadonlyArray<number>
  readonly run: Effect.Effect<unknown, unknown>
}

interface Entry {
  readonly kind: string
  readonly ids: ReadonlyArray<number>
  readonly never: ReadonlyArray<number>
  readonly signal: Signal
}

/** An interrupted caller knows nothing. */
const told = (exit: Exit.Exit<unknown, unknown>): Signal =>
  Exit.isFailure(exit) && Cause.isInterruptedOnly(exit.cause)
    ? { text: "interrupted", claim: "Unknown" }
    : signalOf(exit)

export class History {
  private readonly entries: Array<Entry> = []
  private nextId = 1

  id(): number {
    return this.nextId++
  }

  get size(): number {
    return this.entries.length
  }

  readonly record = ({ ids, kind, never, run }: Work): Effect.Effect<void> =>
    Effect.map(Effect.exit(run), (exit) => {
      this.entries.push({ kind, ids, never, signal: told(exit) })
    })

  /** By kind of work and by signal. */
  counts(): Readonly<Record<string, Readonly<Record<string, number>>>> {
    const counts: Record<string, Record<string, number>> = {}
    for (const { kind, signal } of this.entries) {
      const ofKind = (counts[kind] ??= {})
      ofKind[signal.text] = (ofKind[signal.text] ?? 0) + 1
    }
    return counts
  }

  violations(rows: ReadonlyMap<number, number>): ReadonlyArray<string> {
    const known = new Set(this.entries.flatMap(({ ids, never }) => [...ids, ...never]))
    const strays = [...rows.keys()].filter((id) => !known.has(id))
    const count = (id: number): number => rows.get(id) ?? 0
    return [
      ...strays.map((id) => `${id} was written by nobody`),
      ...this.entries.flatMap(({ ids, kind, never, signal }) => {
        const wrong = violationOf(signal, ids.map(count))
        return [
          ...(wrong === undefined ? [] : [`${kind} ${ids.join()}: ${wrong}`]),
          ...never
            .filter((id) => count(id) > 0)
            .map((id) => `${kind} ${id} was undone by its caller, and is there`)
        ]
      })
    ]
  }
}
