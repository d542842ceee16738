/**
 * What happens in one run, as plain data drawn from a seed: the cluster, the clients' options, their work
 * and the faults. Data can be printed, changed and run again, which is what shrinking does.
 *
 * All times are virtual milliseconds.
 */
export type Flavor = "streaming" | "aurora"

export interface ClientOptions {
  readonly refreshRate: number
  readonly highRefreshRate: number
  readonly highRatePeriod: number
  readonly connectTimeout: number
  readonly queryTimeout: number
  readonly failoverTimeout: number
  readonly acquireTimeout: number
  readonly idleTimeout: number
  readonly connectionTTL: number
  readonly maxConnections: number
  readonly minConnections: number
  /** Whether promotions are waited for on the servers. */
  readonly push: "search" | "always" | "never"
  readonly resolution: "none" | "ledger" | "transaction-status"
  /** How often a host that is read from is asked how it is. */
  readonly heartbeat: number
}

/** What is asked of readers. */
export const readerKinds = [
  "reader statement",
  "reader transaction",
  "reader stream",
  "reader write",
  "own writes"
] as const

export const workKinds = [
  ...readerKinds,
  "write",
  "read",
  "idempotent",
  "transaction",
  "nested",
  "undone",
  "failing",
  "retried",
  "parallel",
  "reserved",
  "last"
] as const

/** `last` is done after everything else, and must succeed. */
export type WorkKind = (typeof workKinds)[number]

/** One piece of work of one caller. */
export interface Work {
  readonly at: number
  readonly client: number
  readonly kind: WorkKind
  /** How many writes it is made of, where it may be made of several. */
  readonly writes: number
  /** How long its caller thinks before each further step. */
  readonly think: number
  /** What is asked of readers, says of which. */
  readonly reading?:
    | {
        readonly mode: "reader-or-writer" | "strict-reader"
        readonly maxStaleness?: number | undefined
      }
    | undefined
  /** The caller goes away: by an interrupt, or by a timeout of its own. */
  readonly leaves?: { readonly by: "interrupt" | "timeout"; readonly after: number } | undefined
}

/** The host that a fault is about: the writer of the moment, or one of the others. */
export type Target = "writer" | "reader"

/** Statements that a fault waits for. */
export const statements = ["INSERT", "SELECT", "BEGIN", "COMMIT", "SAVEPOINT", "ROLLBACK"] as const

/** What becomes of one statement: where its connection breaks, or whether it is never answered. */
export const fates = ["beforeSend", "beforeExecute", "beforeReply", "hang", "hangAfter"] as const

/**
 * - `crash`: the process dies; another host is promoted, and the old one comes back as a standby.
 * - `restart`: the process is restarted in place.
 * - `freeze`: the process stops answering and goes on later, where it was.
 * - `partition`: unreachable for a while.
 * - `usurped`, `isolated`, `returned`: the writer is frozen, unreachable or dead, and replaced; then it is
 *   back, and takes itself for the writer until it is fenced.
 * - `switchover`: the roles change in good order.
 * - `demotion`: the writer becomes a reader before another host becomes the writer; sessions stay.
 * - `outage`: every host is down for a while.
 * - `refuse`: new connections are refused for a while.
 * - `terminate`: the sessions of one host are ended by an administrator.
 * - `statement`: something happens to the next statement of a kind.
 * - `slow`: everything takes longer on one host.
 * - `lag`: a standby is behind.
 * - `stale`: lists of members are not brought up to date for a while.
 */
export type Fault =
  | {
      readonly kind: "crash"
      readonly at: number
      readonly target: Target
      readonly promoteAfter: number
      readonly lasts: number
    }
  | {
      readonly kind: "restart" | "freeze"
      readonly at: number
      readonly target: Target
      readonly lasts: number
    }
  | {
      readonly kind: "partition"
      readonly at: number
      readonly target: Target
      readonly cut: "clients" | "peers" | "all"
      readonly lasts: number
    }
  | {
      readonly kind: "usurped" | "isolated" | "returned"
      readonly at: number
      readonly promoteAfter: number
      readonly lasts: number
      /** From the moment at which it is back. */
      readonly fencedAfter: number
    }
  | { readonly kind: "switchover"; readonly at: number }
  | { readonly kind: "demotion"; readonly at: number; readonly promoteAfter: number }
  | { readonly kind: "outage"; readonly at: number; readonly lasts: number }
  | { readonly kind: "stale"; readonly at: number; readonly by: number; readonly lasts: number }
  | {
      readonly kind: "refuse"
      readonly at: number
      readonly target: Target | "all"
      readonly code: "53300" | "57P03" | "28P01"
      readonly lasts: number
    }
  | { readonly kind: "terminate"; readonly at: number; readonly target: Target }
  | {
      readonly kind: "statement"
      readonly at: number
      readonly match: (typeof statements)[number]
      readonly fate: (typeof fates)[number]
    }
  | {
      readonly kind: "slow" | "lag"
      readonly at: number
      readonly target: Target
      readonly by: number
      readonly lasts: number
    }

export type FaultKind = Fault["kind"]

export interface Scenario {
  readonly seed: number
  readonly flavor: Flavor
  readonly hosts: number
  readonly clients: number
  /** There and back, from a least to a most. */
  readonly latency: readonly [number, number]
  /** How long a promoted host stays in recovery. */
  readonly promotionTime: number
  readonly options: ClientOptions
  readonly work: ReadonlyArray<Work>
  readonly faults: ReadonlyArray<Fault>
  /** When all faults are over and the cluster is healed. */
  readonly healedAt: number
  /** When the clients are closed. */
  readonly endsAt: number
}
