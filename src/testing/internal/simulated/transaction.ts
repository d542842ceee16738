/**
 * A transaction that is under way: what it has written, and to where it can go back.
 *
 * @internal
 */
import type { Statement } from "../../SimulatedCluster.js"
import type { Message } from "./messages.js"
import { serverError, type ServerError } from "./serverError.js"
import type { Command } from "./sqlText.js"

interface Savepoint {
  readonly name: string
  /** How much had been done when it was set. */
  readonly writes: number
  readonly messages: number
}

/** @internal */
export class Transaction {
  isFailed = false
  /** From the first write on. */
  xid: number | undefined
  readonly writes: Array<Statement> = []
  /** Sent when it is committed. */
  readonly messages: Array<Message> = []
  private readonly savepoints: Array<Savepoint> = []

  constructor(
    public isReadOnly: boolean,
    /** Of several commands in one text: it ends with the text. */
    public isImplicit: boolean,
    /** When it began. */
    readonly wasReadOnlySession: boolean
  ) {}

  /** SAVEPOINT, RELEASE and ROLLBACK TO; returns why it is refused. */
  savepoint({ kind, name, tag }: Command): ServerError | undefined {
    if (this.isImplicit) return outsideTransaction(tag)
    const { messages, savepoints, writes } = this
    if (kind === "savepoint") {
      savepoints.push({ name, writes: writes.length, messages: messages.length })
      return undefined
    }
    const at = savepoints.findLastIndex((_) => _.name === name)
    const found = savepoints[at]
    if (found === undefined) {
      return serverError("3B001", { message: `savepoint "${name}" does not exist` })
    }
    if (kind === "release") {
      savepoints.length = at
    } else {
      savepoints.length = at + 1
      writes.length = found.writes
      messages.length = found.messages
      this.isFailed = false
    }
    return undefined
  }
}

/** @internal */
export const outsideTransaction = (what: string): ServerError =>
  serverError("25P01", { message: `${what} can only be used in transaction blocks` })
