/**
 * Where commits go: to the log of the server that writes, and from there to the others.
 *
 * @internal
 */
import type { Statement, Write } from "../../SimulatedCluster.js"
import type { Server } from "./server.js"

/** One entry of a server's log. Two logs have a history in common as far as they hold the same records. @internal */
export interface LogRecord {
  /** Clock milliseconds. */
  readonly at: number
  readonly xid: number
  /** Otherwise a mark, written before a commit that may follow. */
  readonly isCommit: boolean
  readonly writes: ReadonlyArray<Write>
}

/** @internal */
export const commitOf = (
  statements: ReadonlyArray<Statement>,
  by: Omit<Write, keyof Statement> & { readonly xid: number }
): LogRecord => {
  const { at, host, session, timeline, transaction, xid } = by
  return {
    at,
    xid,
    isCommit: true,
    writes: statements.map(({ params, sql }) => ({
      sql,
      params,
      at,
      host,
      session,
      timeline,
      transaction
    }))
  }
}

/** @internal */
export interface Replication {
  /** The last one that was promoted, or is being promoted. */
  readonly newest: () => Server
  /**
   * Calls `done` when the commit may be acknowledged. A server that may not write any more is stopped
   * instead. What it returns gives up waiting: the commit is not taken back.
   */
  readonly commit: (server: Server, record: LogRecord, done: () => void) => () => void
  /** Nobody waits for a mark. */
  readonly mark: (server: Server, record: LogRecord) => void
  /** Whether others see it: not while its own session waits for a standby. */
  readonly isVisible: (server: Server, record: LogRecord) => boolean
  /** Whether nothing that was acknowledged is missing. */
  readonly isComplete: (server: Server) => boolean
  /** All that the writer has, for the host that takes over in good order. */
  readonly handOver: (from: Server, to: Server) => void
  /** A promotion has begun: nobody follows the old timeline from here on. */
  readonly promotionBegins: (server: Server) => void
  readonly promotionEnds: (server: Server) => void
  /** A host was started, can be reached again, or goes on: it has something to learn. */
  readonly isBack: (server: Server) => void
  /** Who can reach whom has changed. */
  readonly sync: () => void
  /** Who streams from it. */
  readonly followers: (server: Server) => ReadonlyArray<Server>
  /** How a host lists the cluster, where hosts do. */
  readonly members: ((server: Server) => ReadonlyArray<Member>) | undefined
}

/** A host in the list of another one. @internal */
export interface Member {
  readonly name: string
  readonly isWriter: boolean
  readonly lagMillis: number
  /** Clock milliseconds. */
  readonly updatedAt: number
}
