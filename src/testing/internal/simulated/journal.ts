/**
 * The statements that servers received, and what became of them.
 *
 * @internal
 */
import type { Entry, Outcome, Statement } from "../../SimulatedCluster.js"
import type { Server } from "./server.js"

/** @internal */
export class JournalEntry implements Entry {
  readonly sql: string
  readonly params: ReadonlyArray<unknown>
  readonly host: string
  role: "writer" | "reader"
  timeline: number
  outcome: Outcome = "Pending"
  sqlState: string | undefined
  isAnswered = false

  constructor(
    readonly at: number,
    server: Server,
    readonly session: number,
    statement: Statement,
    readonly isInternal: boolean
  ) {
    this.sql = statement.sql
    this.params = statement.params
    this.host = server.name
    this.role = server.role
    this.timeline = server.timeline
  }

  /** What the server is may have changed since the receipt. */
  begins(server: Server): void {
    this.role = server.role
    this.timeline = server.timeline
  }

  ends(outcome: Outcome, sqlState?: string): void {
    if (this.outcome !== "Pending") return
    this.outcome = outcome
    this.sqlState = sqlState
  }
}
