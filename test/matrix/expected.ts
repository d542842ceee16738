/** The signal of each cell, by rule: the most that can be known at its point. */
import type { Cell } from "./vocabulary.js"
import { isReplication } from "./vocabulary.js"

type Known =
  /** Nothing of the caller's has happened: it is done elsewhere, and the caller notices nothing. */
  | "Movable"
  /** Outside a transaction, and sent. */
  | "Sent"
  /** COMMIT has not been sent. */
  | "RolledBack"
  | "CommitSent"

const known = ({ context, point }: Cell): Known => {
  switch (point) {
    case "beforeSend":
    case "begin":
    case "listen":
      return "Movable"
    case "sent":
    case "executed":
    case "stream":
      return context === "autocommit" ? "Sent" : "RolledBack"
    case "between":
    case "savepoint":
    case "mark":
    case "rollback":
      return "RolledBack"
    case "commitSent":
    case "commitExecuted":
    case "commitCut":
    case "commitLost":
    case "commitReused":
      return "CommitSent"
  }
}

const isResolved = ({ context }: Cell): boolean => context === "status" || context === "ledger"

/** What the database holds is what a resolution has to find out. */
const resolved = (counts: ReadonlyArray<number>): ReadonlyArray<string> =>
  counts[0] === 1 ? ["success"] : ["RolledBack"]

const unanswered = (cell: Cell, counts: ReadonlyArray<number>): ReadonlyArray<string> => {
  switch (known(cell)) {
    case "Movable":
      return [cell.point === "listen" ? "Moved, hears again" : "success"]
    case "Sent":
      return ["FailoverSuccess Unknown"]
    case "RolledBack":
      return ["RolledBack"]
    case "CommitSent":
      if (!isResolved(cell)) return ["Unknown"]
      // Positions may be unable to prove it: then the truth is Unknown.
      return cell.context === "status" && isReplication(cell.point)
        ? [...resolved(counts), "Unknown"]
        : resolved(counts)
  }
}

const outcomes: Readonly<Record<Known, string>> = {
  Movable: "NotExecuted",
  Sent: "Unknown",
  RolledBack: "RolledBack",
  CommitSent: "Unknown"
}

export const expected = (cell: Cell, counts: ReadonlyArray<number>): ReadonlyArray<string> => {
  const outcome = outcomes[known(cell)]
  switch (cell.fault) {
    case "noWriter":
      return [`FailoverFailed ${outcome}`]
    case "timeout":
      if (known(cell) === "CommitSent" && isResolved(cell)) return resolved(counts)
      // ROLLBACK is not waited for as long as that: the end of its connection does the same.
      if (cell.point === "rollback") return ["RolledBack", "StatementTimeout RolledBack"]
      // BEGIN has been sent: whatever it began ended with its connection.
      return [`StatementTimeout ${cell.point === "begin" ? "RolledBack" : outcome}`]
    default:
      return unanswered(cell, counts)
  }
}
