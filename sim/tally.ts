/** What has happened in some runs, by kind: a run in which nothing happens proves nothing. */

type Counts = Record<string, number>

export interface Tally {
  seeds: number
  /** Virtual milliseconds. */
  elapsed: number
  tasks: number
  statements: number
  failovers: number
  readonly faults: Counts
  /** By kind of work, then by signal. */
  readonly outcomes: Record<string, Counts>
  /** Moments that the invariants are about. */
  readonly seen: Counts
}

export const noTally = (): Tally => ({
  seeds: 0,
  elapsed: 0,
  tasks: 0,
  statements: 0,
  failovers: 0,
  faults: {},
  outcomes: {},
  seen: {}
})

export const count = (counts: Counts, name: string, n = 1): void => {
  counts[name] = (counts[name] ?? 0) + n
}

const addCounts = (to: Counts, from: Counts): void => {
  for (const [name, n] of Object.entries(from)) count(to, name, n)
}

/** Adds to the first. */
export const add = (to: Tally, from: Tally): void => {
  to.seeds += from.seeds
  to.elapsed += from.elapsed
  to.tasks += from.tasks
  to.statements += from.statements
  to.failovers += from.failovers
  addCounts(to.faults, from.faults)
  addCounts(to.seen, from.seen)
  for (const [kind, counts] of Object.entries(from.outcomes)) {
    addCounts((to.outcomes[kind] ??= {}), counts)
  }
}
