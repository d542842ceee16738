/**
 * What everything in one simulated cluster shares.
 *
 * @internal
 */
import type { Fault, Options, Statement } from "../../SimulatedCluster.js"
import type { JournalEntry } from "./journal.js"
import type { Replication } from "./replication.js"
import type { Server } from "./server.js"
import type { ServerError } from "./serverError.js"
import type { Session } from "./session.js"
import type { Question } from "./systemQueries.js"
import type { Timers } from "./timers.js"

/** @internal */
export interface World {
  readonly timers: Timers
  /** In the order of the options. */
  readonly servers: ReadonlyMap<string, Server>
  readonly replication: Replication
  readonly answer: NonNullable<Options["answer"]>
  readonly questions: Map<string, Question | ServerError>
  readonly journal: Array<JournalEntry>
  /** Those that clients hold open. */
  readonly sessions: Set<Session>
  /** Milliseconds that a message takes, one way. */
  readonly delay: () => number
  /** What the test has planned for this statement, once. */
  readonly faultOf: (statement: Statement) => Fault | undefined
  /** Numbers that are given out once. */
  readonly nextSession: () => number
  readonly nextTransaction: () => number
  readonly nextStart: () => number
}
