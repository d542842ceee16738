/** What the fault matrix is made of: points, faults, contexts, and the rules by which cells are left out. */

export const points = {
  beforeSend: "before the statement is sent",
  sent: "sent, before it is executed",
  executed: "executed, before the reply",
  between: "between two statements",
  begin: "BEGIN, before the reply",
  savepoint: "SAVEPOINT, before the reply",
  mark: "commit resolution's mark, before the reply",
  commitSent: "COMMIT sent, before it is executed",
  commitExecuted: "COMMIT executed, before the reply",
  commitCut: "COMMIT executed, replicated up to the mark",
  commitLost: "COMMIT executed, nothing replicated",
  commitReused: "... and its transaction id given out again",
  rollback: "ROLLBACK, before the reply",
  stream: "in a stream",
  listen: "in LISTEN"
} as const
export type Point = keyof typeof points

export const faults = {
  kill: "SIGKILL",
  stop: "fast stop",
  reset: "connection reset",
  dropped: "reply dropped",
  blackHole: "black hole",
  terminated: "backend terminated",
  refused: "sessions refused",
  timeout: "no answer in time",
  noWriter: "no writer in time"
} as const
export type Fault = keyof typeof faults

/** What each fault is done with. */
export const faultNotes: Readonly<Record<Fault, string>> = {
  kill: "the writer's server and all its processes get SIGKILL; a standby is promoted",
  stop: "the writer is shut down fast, which tells its sessions (57P01); a standby is promoted",
  reset: "the client's connections end with a RST; the server lives, and goes on with what it has",
  dropped:
    "the server gets everything, the client gets nothing, not even the end of the connection; the writer is killed then and a standby promoted",
  blackHole:
    "nothing goes either way, and nothing is closed; the writer is killed behind it and a standby promoted",
  terminated: "`pg_terminate_backend` for every session of the client",
  refused:
    "the writer crashes and comes back in place: connects are refused, then sessions (57P03), until it has recovered",
  timeout: "the client's `queryTimeout` (700 ms) passes; then the host answers again",
  noWriter:
    "the writer is killed, and nothing takes its place within `failoverTimeout` (500 ms); it comes back afterwards"
}

export const contexts = {
  autocommit: "autocommit",
  transaction: "transaction",
  nested: "nested transaction",
  status: "transaction, resolved by `transaction-status`",
  ledger: "transaction, resolved by `ledger`"
} as const
export type Context = keyof typeof contexts

export interface Cell {
  readonly point: Point
  readonly fault: Fault
  readonly context: Context
}

const oneOf = <A>(value: A, ...values: ReadonlyArray<A>): boolean => values.includes(value)

/** The points of which nothing has been executed yet, so that there is no reply to be dropped. */
const isBefore = (point: Point): boolean =>
  oneOf(point, "beforeSend", "sent", "between", "commitSent")

/** The new writer does not have what the old one committed. */
export const isReplication = (point: Point): boolean =>
  oneOf(point, "commitCut", "commitLost", "commitReused")

/** The first rule that a cell breaks leaves it out. */
export const rules: ReadonlyArray<{
  readonly rule: string
  readonly leavesOut: (cell: Cell) => boolean
}> = [
  {
    rule: "Outside a transaction there is no BEGIN, SAVEPOINT, COMMIT or ROLLBACK, and between two statements is before the second one is sent. Inside one, before a statement is sent is between two statements.",
    leavesOut: ({ context, point }) =>
      context === "autocommit"
        ? !oneOf(point, "beforeSend", "sent", "executed", "stream", "listen")
        : point === "beforeSend"
  },
  {
    rule: "The outer transaction has BEGIN, the nested one SAVEPOINT.",
    leavesOut: ({ context, point }) =>
      (point === "begin" && context === "nested") || (point === "savepoint" && context !== "nested")
  },
  {
    rule: "LISTEN has a connection of its own, outside of every transaction.",
    leavesOut: ({ context, point }) => point === "listen" && context !== "autocommit"
  },
  {
    rule: "A commit resolution changes nothing before its mark and COMMIT; without one there is no mark.",
    leavesOut: ({ context, point }) =>
      oneOf(context, "status", "ledger")
        ? !oneOf(point, "mark", "commitSent", "commitExecuted") && !isReplication(point)
        : point === "mark"
  },
  {
    rule: "A reply is dropped after the execution: before it there is none.",
    leavesOut: ({ fault, point }) => fault === "dropped" && isBefore(point)
  },
  {
    rule: "`queryTimeout` is for a statement in flight: not for one that has not been sent, a stream or a listener.",
    leavesOut: ({ fault, point }) =>
      fault === "timeout" && oneOf(point, "beforeSend", "stream", "listen")
  },
  {
    rule: "What the new writer never received is lost only with the old one: by SIGKILL, under asynchronous replication. Nesting makes no difference there.",
    leavesOut: ({ context, fault, point }) =>
      isReplication(point) && (fault !== "kill" || context === "nested")
  }
]

export const ruleAgainst = (cell: Cell): string | undefined =>
  rules.find(({ leavesOut }) => leavesOut(cell))?.rule

const keys = <K extends string>(record: Readonly<Record<K, unknown>>): ReadonlyArray<K> =>
  Object.keys(record) as Array<K>

export const allPoints = keys(points)
export const allFaults = keys(faults)
export const allContexts = keys(contexts)

/** Every cell that makes sense, row by row. */
export const cells: ReadonlyArray<Cell> = allPoints
  .flatMap((point) =>
    allContexts.flatMap((context) => allFaults.map((fault) => ({ point, fault, context })))
  )
  .filter((cell) => ruleAgainst(cell) === undefined)

/** Their commits do not wait for a standby. */
export const isAsynchronous = ({ point }: Cell): boolean => isReplication(point)

export const nameOf = ({ context, fault, point }: Cell): string =>
  `${points[point]} × ${faults[fault]} × ${contexts[context]}`
