/**
 * Executes the statements of one session, by PostgreSQL's rules for transactions.
 *
 * @internal
 */
import type { Statement, View } from "../../SimulatedCluster.js"
import * as Ledger from "./ledger.js"
import * as Messages from "./messages.js"
import type { LogRecord } from "./replication.js"
import { commitOf } from "./replication.js"
import type { Server } from "./server.js"
import { serverError, ServerError } from "./serverError.js"
import type { Command } from "./sqlText.js"
import * as SqlText from "./sqlText.js"
import * as SystemQueries from "./systemQueries.js"
import { outsideTransaction, Transaction } from "./transaction.js"
import type { World } from "./world.js"

/** What a command is answered with. @internal */
export interface Answer {
  readonly tag: string
  readonly rows: ReadonlyArray<object>
  readonly rowCount: number | null
}

type Reply = Answer | ServerError

const nothing = (): void => undefined

const answerOf = (
  tag: string,
  rows: ReadonlyArray<object> = [],
  rowCount: number | null = null
): Answer => ({ tag, rows, rowCount })

const readOnly = (what: string): ServerError =>
  serverError("25006", { message: `cannot execute ${what} in a read-only transaction` })

/** @internal */
export class Engine {
  private transaction: Transaction | undefined
  /** Of transactions that do not say anything else. */
  private isReadOnlySession = false
  /** In the log, and not acknowledged yet. */
  private committing: LogRecord | undefined
  private readonly channels = new Set<string>()
  /** Calls off what the statement under way waits for. */
  private stop: () => void = nothing

  constructor(
    private readonly world: World,
    private readonly server: Server,
    private readonly session: number
  ) {}

  /** Calls `done` once, unless the session ends first. */
  run(
    { params, sql }: Statement,
    done: (reply: ReadonlyArray<Answer> | ServerError) => void
  ): void {
    const commands = SqlText.commands(sql)
    const answers: Array<Answer> = []
    const step = (i: number): void => {
      const command = commands[i]
      if (command !== undefined) {
        return this.execute(command, params, (reply) => {
          this.stop = nothing
          if (reply instanceof ServerError) {
            this.fail()
            return done(reply)
          }
          answers.push(reply)
          step(i + 1)
        })
      }
      if (this.transaction?.isImplicit === true) this.commit(() => done(answers))
      else done(answers)
    }
    if (commands.length > 1 && this.transaction === undefined) this.begin(undefined, true)
    step(0)
  }

  /** A statement was refused: its transaction, if it is in one, can only be rolled back. */
  fail(): void {
    if (this.transaction === undefined) return
    if (this.transaction.isImplicit) this.rollback()
    else this.transaction.isFailed = true
  }

  /** The session is over. Whether a commit that it waited for is in the log, and stays there. */
  end(): boolean {
    const { committing } = this
    this.transaction = undefined
    this.committing = undefined
    this.channels.clear()
    this.stop()
    return committing !== undefined && this.server.log.lastIndexOf(committing) >= 0
  }

  /** Whether a transaction is under way that has something to lose. */
  hasWritten(): boolean {
    return this.xid() !== undefined
  }

  /** What the transaction under way has written. */
  uncommitted(): ReadonlyArray<Statement> {
    return this.transaction?.writes ?? this.committing?.writes ?? []
  }

  /** The id of the transaction under way, if it has one. */
  xid(): number | undefined {
    return this.transaction?.xid ?? this.committing?.xid
  }

  hears(channel: string): boolean {
    return this.channels.has(channel)
  }

  private begin(isReadOnly: boolean | undefined, isImplicit: boolean): void {
    // One that began in recovery stays read-only, also if the server is promoted meanwhile.
    const isReader = this.server.role === "reader"
    const { isReadOnlySession } = this
    this.transaction = new Transaction(
      isReader || (isReadOnly ?? isReadOnlySession),
      isImplicit,
      isReadOnlySession
    )
  }

  private rollback(): void {
    // What it has set is taken back with it.
    this.isReadOnlySession = this.transaction?.wasReadOnlySession ?? this.isReadOnlySession
    this.transaction = undefined
    this.server.transactionEnded()
  }

  private commit(done: () => void): void {
    const { transaction } = this
    this.transaction = undefined
    if (transaction === undefined) return done()
    const committed = () => {
      Messages.publish(this.server, transaction.messages)
      done()
    }
    if (transaction.xid !== undefined) {
      return this.append(transaction.xid, transaction.writes, committed)
    }
    this.server.transactionEnded()
    committed()
  }

  private append(
    xid: number | undefined,
    writes: ReadonlyArray<Statement>,
    done: () => void
  ): void {
    const { server, session, world } = this
    const record = commitOf(writes, {
      at: world.timers.now(),
      host: server.name,
      session,
      timeline: server.timeline,
      transaction: world.nextTransaction(),
      xid: xid ?? server.takeXid()
    })
    this.committing = record
    const stop = world.replication.commit(server, record, () => {
      if (this.committing !== record) return
      this.committing = undefined
      server.transactionEnded()
      done()
    })
    // Neither acknowledged already, nor was the server stopped by it, and this session with it.
    if (this.committing === record) this.stop = stop
  }

  private execute(
    command: Command,
    params: ReadonlyArray<unknown>,
    done: (reply: Reply) => void
  ): void {
    const { kind, tag } = command
    const isFailed = this.transaction?.isFailed === true
    const isEnd = kind === "commit" || kind === "rollback" || kind === "rollbackTo"
    if (isFailed && !isEnd) return done(serverError("25P02"))
    switch (kind) {
      case "commit":
        if (!isFailed) return this.commit(() => done(answerOf(tag)))
        this.rollback()
        return done(answerOf("ROLLBACK"))
      case "write":
        return this.write(command, params, done)
      case "other":
        return this.read(command, params, done)
      default:
        return done(this.control(command, params))
    }
  }

  /** Commands that are answered at once, and without rows. */
  private control(command: Command, params: ReadonlyArray<unknown>): Reply {
    const { transaction } = this
    const { kind, name, tag } = command
    switch (kind) {
      case "begin":
        if (transaction === undefined) this.begin(SqlText.isReadOnly(command), false)
        else transaction.isImplicit = false
        return answerOf(tag)
      case "rollback":
        this.rollback()
        return answerOf(tag)
      case "savepoint":
      case "release":
      case "rollbackTo":
        return (
          (transaction === undefined ? outsideTransaction(tag) : transaction.savepoint(command)) ??
          answerOf(tag)
        )
      case "access":
        return this.setAccess(command) ?? answerOf(tag)
      case "listen":
        if (this.server.role === "reader") return readOnly(tag)
        this.channels.add(name)
        return answerOf(tag)
      case "unlisten":
        if (name === "*") this.channels.clear()
        else this.channels.delete(name)
        return answerOf(tag)
      default:
        return this.notify(command, params) ?? answerOf(tag)
    }
  }

  private setAccess(command: Command): ServerError | undefined {
    const { transaction } = this
    const isReadOnly = SqlText.isReadOnly(command) === true
    if (!SqlText.isOfTransaction(command)) {
      this.isReadOnlySession = isReadOnly
    } else if (transaction !== undefined) {
      if (!isReadOnly && this.server.role === "reader") {
        return serverError("0A000", {
          message: "cannot set transaction read-write mode during recovery"
        })
      }
      transaction.isReadOnly = isReadOnly
    }
    return undefined
  }

  private isReadOnly(): boolean {
    return this.server.role === "reader" || (this.transaction?.isReadOnly ?? this.isReadOnlySession)
  }

  private write(
    command: Command,
    params: ReadonlyArray<unknown>,
    done: (reply: Reply) => void
  ): void {
    const { server } = this
    const { tag, text } = command
    if (this.isReadOnly()) return done(readOnly(tag))
    const lookUp = Ledger.readLookUp(text)
    let found: boolean | undefined
    if (lookUp !== undefined) {
      if (Ledger.isUndecided(server, this, lookUp)) {
        this.stop = server.whenTransactionEnds(() => this.write(command, params, done))
        return
      }
      // A row that is there is updated to what it is: a write like any other, and it waits like any other.
      found = Ledger.find(this.visible(), lookUp)
    }
    const statement: Statement = { sql: text, params }
    const rows =
      lookUp !== undefined
        ? [{ committed: found ?? false }]
        : SqlText.returnsRows(command)
          ? this.ask(statement)
          : []
    if (rows instanceof ServerError) return done(rows)
    const answer = answerOf(tag, rows, rows.length === 0 ? 1 : rows.length)
    if (this.transaction === undefined) {
      return this.append(undefined, [statement], () => done(answer))
    }
    this.transaction.xid ??= server.takeXid()
    this.transaction.writes.push(statement)
    done(answer)
  }

  private read(
    command: Command,
    params: ReadonlyArray<unknown>,
    done: (reply: Reply) => void
  ): void {
    const { server, world } = this
    const { tag, text } = command
    if (SqlText.locksRows(command) && this.isReadOnly()) return done(readOnly("SELECT FOR UPDATE"))
    const parked = SystemQueries.parkedMillis(text)
    if (parked !== undefined) {
      if (server.role === "writer") return done(answerOf(tag))
      this.stop = server.park(parked, () => done(answerOf(tag)))
      return
    }
    if (Messages.isSent(text)) return done(this.notify(command, params) ?? answerOf(tag, [{}], 1))
    const rows = SystemQueries.isInternal(text)
      ? SystemQueries.answer(world, server, text, this.transaction?.xid)
      : this.ask({ sql: text, params })
    if (rows instanceof ServerError) return done(rows)
    const answer = answerOf(tag, rows, rows.length)
    if (this.transaction === undefined && SystemQueries.writes(text)) {
      return this.append(undefined, [], () => done(answer))
    }
    done(answer)
  }

  /** The rows that the test gives. */
  private ask(statement: Statement): ReadonlyArray<object> | ServerError {
    const { server } = this
    const view: View = {
      host: server.name,
      role: server.role,
      writes: () => [...this.visible(), ...(this.transaction?.writes ?? [])]
    }
    try {
      return this.world.answer(statement, view) ?? []
    } catch (error) {
      return error instanceof ServerError
        ? error
        : serverError("XX000", { message: error instanceof Error ? error.message : String(error) })
    }
  }

  private visible(): ReadonlyArray<Statement> {
    return this.server.log.flatMap((record) =>
      this.world.replication.isVisible(this.server, record) ? record.writes : []
    )
  }

  /** Heard when the transaction is committed. */
  private notify(command: Command, params: ReadonlyArray<unknown>): ServerError | undefined {
    if (this.server.role === "reader") return readOnly("NOTIFY")
    const message = Messages.read(command, params)
    if (this.transaction === undefined) Messages.publish(this.server, [message])
    else this.transaction.messages.push(message)
    return undefined
  }
}
