/** The two sides of the books against each other: what callers were told, and what the database holds. */
import type { Entry, Verdict } from "./ledger.js"

/** How many rows of each leg the database holds, by id. */
export type Stored = ReadonlyMap<number, ReadonlyMap<string, number>>

export interface Times {
  readonly killedAt: number
  readonly noticedAt: number | undefined
  /** The new primary was known to accept writes. */
  readonly promotedAt: number
  readonly endpointMovedAt: number | undefined
  readonly lastBefore: number | undefined
  readonly firstAfter: number | undefined
}

export interface Figures {
  readonly acknowledged: number
  /** Acknowledged, and all its rows are in the database. */
  readonly found: number
  readonly lost: number
  /** Ids with a row more than once. */
  readonly duplicated: number
  /** Transactions with one of their two rows. */
  readonly torn: number
  readonly unknown: number
  readonly unknownFound: number
  readonly died: number
  readonly diedFound: number
  /** Any other error, or no answer before the end. */
  readonly failed: number
  readonly failedFound: number
  readonly retries: number
  readonly reads: number
  readonly failovers: number
  readonly noticedMs: number | undefined
  /** Kill to promoted. */
  readonly databaseMs: number
  /** Promoted to the endpoint's flip. */
  readonly endpointMs: number | undefined
  /** Promoted to the first acknowledged write. */
  readonly recoveryMs: number | undefined
  /** The last acknowledged write before to the first one after. */
  readonly outageMs: number | undefined
}

const since = (start: number | undefined, end: number | undefined): number | undefined =>
  start === undefined || end === undefined ? undefined : Math.max(end - start, 0)

const legsOf = (entry: Entry): number => (entry.kind === "single" ? 1 : 2)

export const make = (options: {
  readonly entries: ReadonlyMap<number, Entry>
  readonly stored: Stored
  readonly times: Times
  readonly retries: number
  readonly reads: number
  readonly failovers: number
}): Figures => {
  const { stored, times } = options
  const all = [...options.entries].map(([id, entry]) => {
    const legs = stored.get(id)
    return {
      verdict: entry.verdict ?? ("failed" satisfies Verdict),
      isFound: legs?.size === legsOf(entry),
      isTorn: legs !== undefined && legs.size < legsOf(entry),
      isDuplicated: legs !== undefined && [...legs.values()].some((rows) => rows > 1)
    }
  })
  const told = (verdict: Verdict) => all.filter((_) => _.verdict === verdict).length
  const foundOf = (verdict: Verdict) => all.filter((_) => _.verdict === verdict && _.isFound).length
  return {
    acknowledged: told("acknowledged"),
    found: foundOf("acknowledged"),
    lost: told("acknowledged") - foundOf("acknowledged"),
    duplicated: all.filter((_) => _.isDuplicated).length,
    torn: all.filter((_) => _.isTorn).length,
    unknown: told("unknown"),
    unknownFound: foundOf("unknown"),
    died: told("died"),
    diedFound: foundOf("died"),
    failed: told("failed"),
    failedFound: foundOf("failed"),
    retries: options.retries,
    reads: options.reads,
    failovers: options.failovers,
    noticedMs: since(times.killedAt, times.noticedAt),
    databaseMs: Math.max(times.promotedAt - times.killedAt, 0),
    endpointMs: since(times.promotedAt, times.endpointMovedAt),
    recoveryMs: since(times.promotedAt, times.firstAfter),
    outageMs: since(times.lastBefore, times.firstAfter)
  }
}

const rounded = (n: number | undefined): number | null =>
  n === undefined ? null : Math.round(n * 10) / 10

/** What `--json` prints of one client. */
export const toJson = (figures: Figures) => ({
  acknowledged: figures.acknowledged,
  found: figures.found,
  lost: figures.lost,
  duplicated: figures.duplicated,
  unknown: figures.unknown,
  failovers: figures.failovers,
  noticedMs: rounded(figures.noticedMs),
  recoveryMs: rounded(figures.recoveryMs),
  outageMs: rounded(figures.outageMs)
})
