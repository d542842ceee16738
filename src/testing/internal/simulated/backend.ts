/**
 * The server's end of a session: takes statements in turn, and answers them.
 *
 * @internal
 */
import type { Notification } from "../../../Connector.js"
import type { Fault, Statement } from "../../SimulatedCluster.js"
import type { Answer } from "./engine.js"
import { Engine } from "./engine.js"
import { JournalEntry } from "./journal.js"
import { Line } from "./line.js"
import type { Server } from "./server.js"
import { serverError, ServerError } from "./serverError.js"
import { isInternal } from "./systemQueries.js"
import type { World } from "./world.js"

/** The client's end. Called when a message gets there. @internal */
export interface Client {
  readonly isOpen: () => boolean
  readonly answered: (answers: ReadonlyArray<Answer>) => void
  readonly refused: (error: ServerError) => void
  /** The server ends the session, and says why. */
  readonly ended: (error: ServerError) => void
  readonly reset: () => void
  readonly notified: (notification: Notification) => void
}

type Reply = ReadonlyArray<Answer> | ServerError

interface Job {
  readonly statement: Statement
  readonly fault: Fault | undefined
  readonly entry: JournalEntry
  /** What became of it, if the session ended now. */
  fate: "Dropped" | "Executed"
  /** What is to be done as soon as the process goes on. */
  next: (() => void) | undefined
  /** Calls off its beginning. */
  stop: () => void
}

const nothing = (): void => undefined

/** @internal */
export class Backend {
  readonly id: number
  readonly line: Line
  readonly engine: Engine
  client: Client | undefined
  isEnded = false
  private readonly inbox: Array<Job> = []
  private current: Job | undefined
  private clientHasLeft = false

  constructor(
    private readonly world: World,
    readonly server: Server
  ) {
    this.id = world.nextSession()
    this.line = new Line(world, server)
    this.engine = new Engine(world, server, this.id)
    server.backends.add(this)
  }

  /** A statement has arrived. */
  receive(statement: Statement, fault: Fault | undefined): void {
    if (this.isEnded) return this.toClient((client) => client.reset())
    const entry = new JournalEntry(
      this.world.timers.now(),
      this.server,
      this.id,
      statement,
      isInternal(statement.sql)
    )
    this.world.journal.push(entry)
    this.inbox.push({ statement, fault, entry, fate: "Dropped", next: undefined, stop: nothing })
    if (fault === "beforeExecute") this.reset()
    else this.pump()
  }

  /** The client has closed its end, and asked for its statement to be cancelled if one was under way. */
  leave(): void {
    if (this.isEnded) return
    // A stopped process reads what came before the end first, and its postmaster forwards no request to cancel.
    if (this.server.isFrozen) this.clientHasLeft = true
    else this.end()
  }

  /** The process goes on where it was. */
  goOn(): void {
    const next = this.current?.next
    if (this.current !== undefined) this.current.next = undefined
    next?.()
    this.pump()
    if (this.clientHasLeft && !this.isEnded && !this.server.isFrozen) this.end()
  }

  reset(): void {
    if (this.isEnded) return
    this.end()
    this.toClient((client) => client.reset())
  }

  terminate(error: ServerError): void {
    if (this.isEnded) return
    this.end()
    this.toClient((client) => client.ended(error))
  }

  notify(notification: Notification): void {
    if (!this.isEnded) this.toClient((client) => client.notified(notification))
  }

  /** Its transaction vanishes. A commit that waits for a standby stays committed here. */
  end(): void {
    if (this.isEnded) return
    this.isEnded = true
    this.server.backends.delete(this)
    const { current } = this
    this.current = undefined
    current?.stop()
    const isDurable = this.engine.end()
    if (current !== undefined) current.entry.ends(isDurable ? "Executed" : current.fate)
    for (const { entry } of this.inbox.splice(0)) entry.ends("Dropped")
    this.server.transactionEnded()
  }

  private toClient(message: (client: Client) => void): void {
    this.line.toClient(() => {
      if (this.client !== undefined) message(this.client)
    })
  }

  private reply(entry: JournalEntry, message: (client: Client) => void): void {
    this.toClient((client) => {
      if (client.isOpen()) entry.isAnswered = true
      message(client)
    })
  }

  /** One statement at a time, and none while the process is stopped. */
  private pump(): void {
    if (this.current !== undefined || this.isEnded || this.server.isFrozen) return
    const job = this.inbox.shift()
    if (job === undefined) return
    this.current = job
    // For a client that has left, nobody is slow: all that it sent is done before its end is noticed.
    const wait = this.clientHasLeft ? 0 : this.server.slowBy
    job.stop = this.world.timers.after(wait, () => this.step(job, () => this.execute(job)))
  }

  /** Goes on with the statement, or does so when the process does. */
  private step(job: Job, act: () => void): void {
    if (this.isEnded || this.current !== job) return
    if (this.server.isFrozen) job.next = act
    else act()
  }

  private execute(job: Job): void {
    const { entry, fault, statement } = job
    entry.begins(this.server)
    if (fault === "hang") return
    if (typeof fault === "object") {
      const error = serverError(fault.sqlState, { isFatal: fault.isFatal })
      this.engine.fail()
      return this.finish(job, error)
    }
    this.engine.run(statement, (reply) => this.step(job, () => this.finish(job, reply)))
  }

  private finish(job: Job, reply: Reply): void {
    const { entry, fault } = job
    job.fate = "Executed"
    if (reply instanceof ServerError) entry.ends("Refused", reply.code)
    else entry.ends("Executed")
    if (fault === "hangAfter") return
    if (fault === "beforeReply") return this.reset()
    this.current = undefined
    if (!(reply instanceof ServerError)) {
      this.reply(entry, (client) => client.answered(reply))
    } else if (reply.severity === "FATAL") {
      this.end()
      return this.reply(entry, (client) => client.ended(reply))
    } else {
      this.reply(entry, (client) => client.refused(reply))
    }
    this.pump()
  }
}
