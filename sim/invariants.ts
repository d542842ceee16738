/**
 * What must hold at every moment of a run, and what is noted about it. The table of the invariants is in
 * `docs/simulation.md`; each violation names the one that it breaks.
 */
import type { Connector, Failover, Host, Topology, TopologyState } from "effect-failover"
import type { Entry, SimulatedCluster } from "effect-failover/testing/SimulatedCluster"
import type { Signal } from "../test/matrix/signal.js"
import type { Observed, Observer } from "./observe.js"
import type { Disturbance, Operator } from "./operator.js"
import { START } from "./runtime.js"
import type { ClientOptions, Scenario, Work } from "./scenario.js"
import type { Tally } from "./tally.js"
import { count, noTally } from "./tally.js"

export const invariants = [
  "one writer per epoch",
  "no writer of an older epoch",
  "a confirmed writer is one",
  "no statement to an older host",
  "no statement on an unchecked session",
  "no statement twice",
  "sent is unknown, not sent is not",
  "single flight",
  "one outage, one failover",
  "deadlines",
  "typed errors",
  "liveness",
  "history",
  "reads have a host",
  "nothing is written on a reader's connection",
  "own writes are seen",
  "staleness is bounded",
  "a transaction has one host",
  "strict readers are readers",
  "one monitor",
  "nothing leaks",
  "virtual time goes on"
] as const

export type Invariant = (typeof invariants)[number]

export interface Violation {
  readonly kind: Invariant
  readonly text: string
}

/** Moments that the invariants are about: without them, they hold for nothing. */
export const moments = [
  "a statement was not sent",
  "a statement was sent and not answered",
  "a statement was refused by a reader",
  "a new connection led to a reader",
  "an older writer claimed to be the writer",
  "COMMIT was not answered",
  "COMMIT was found to be committed",
  "COMMIT was found to be rolled back",
  "a failover ended in vain",
  "an interrupt while a statement was under way",
  "a read on a reader",
  "a read on the writer for want of a reader",
  "a read that was run again",
  "a write on a reader was refused",
  "own writes were seen on a reader",
  "a bound was kept while a reader lagged",
  "work without any disturbance"
] as const

type Moment = (typeof moments)[number]

/** The slowest host takes its time; a statement that was sent to it may be the last to know. */
const ECHO = 6000

/** A read that was sent and not answered is sent again, up to so many times. */
const MOST_SENDS = 3

/** More of one kind say nothing new. */
const VIOLATIONS_PER_KIND = 3

export interface Client {
  readonly index: number
  readonly topology: Topology.Topology
  readonly failover: Failover.Failover
}

/** A session of a client's pool. */
export interface PoolSession extends Observed {
  readonly client: number
  /** Set to read only. */
  isReaders: boolean
  /** What the transaction on it has written, if one is open. */
  transaction: Array<number> | undefined
}

/** What has happened to the statements of one piece of work. */
interface Sends {
  times: number
  /** One of them left this process, and nobody knows what became of it. */
  isUnanswered: boolean
  isAnswered: boolean
  isCommitUnanswered: boolean
}

interface Flight {
  isFlying: boolean
  connected: { readonly at: number; readonly isNewEpoch: boolean } | undefined
  epoch: number
}

/** Asked on each new connection, by the library. */
const isRoleQuestion = (sql: string): boolean => /\bpg_is_in_recovery\(\)/.test(sql)

/** What makes a connection one to a reader. */
const isReadOnlySetting = (sql: string): boolean => /^SET SESSION CHARACTERISTICS\b/.test(sql)

/**
 * Asked on a connection that is opened before it is known who the writer will be, or of one that is read from:
 * nothing that a caller has asked for.
 */
const isQuestion = (sql: string): boolean =>
  isRoleQuestion(sql) ||
  isReadOnlySetting(sql) ||
  /^SELECT \S*\bpg_postmaster_start_time\(\)|\b(pg_last_wal_replay_lsn|pg_current_wal_insert_lsn)\b|\bREPLICA_LAG_IN_MSEC\b/.test(
    sql
  )

/** The caller's own statements; the library's questions have none of these words. */
const isWork = (sql: string): boolean =>
  /work\b/.test(sql) || /^(BEGIN|COMMIT|ROLLBACK|SAVEPOINT)/.test(sql)

const isTransactionEnd = (sql: string): boolean =>
  sql === "COMMIT" || (sql.startsWith("ROLLBACK") && !sql.startsWith("ROLLBACK TO"))

const sqlStateOf = (error: Connector.SessionError): unknown =>
  typeof error.cause === "object" && error.cause !== null && "code" in error.cause
    ? error.cause.code
    : undefined

const describe = (error: Connector.SessionError): string =>
  `${error.fate} (${error.cause instanceof Error ? error.cause.message : String(error.cause)})`

/** They leave an old writer that does not know of its successor. */
const TWO_WRITERS: ReadonlySet<string> = new Set([
  "usurped",
  "isolated",
  "returned",
  "freeze",
  "partition"
])

export class Watch {
  readonly tally: Tally = noTally()
  readonly violations: Array<Violation> = []
  readonly log: Array<string> = []
  /** Milliseconds since the start. */
  elapsed: () => number = () => 0
  private disturbances: ReadonlyArray<Disturbance> = []
  private serverLog: ReadonlyArray<Entry> = []
  private operator: Operator | undefined
  private openMonitors = 0
  private readonly clients: Array<Client> = []
  private readonly sends = new Map<number, Sends>()
  private readonly flights = new Map<number, Flight>()
  private readonly epochs = new Map<number, string>()
  private last: TopologyState.TopologyState | undefined
  /**
   * The newest timeline that a host has claimed to the monitor, and the one before. Of claims that are heard
   * at the same instant, either may be taken note of first.
   */
  private newestClaim = { timeline: 0, at: 0, before: 0 }
  private readonly underWay = new Map<PoolSession, string>()
  private readonly options: ClientOptions

  constructor(
    readonly scenario: Scenario,
    readonly isLogging: boolean
  ) {
    this.options = scenario.options
  }

  /** To be called before the first client is added. */
  begin(world: {
    readonly elapsed: () => number
    readonly cluster: SimulatedCluster
    readonly operator: Operator
  }): void {
    this.elapsed = world.elapsed
    this.disturbances = world.operator.disturbances
    this.serverLog = world.cluster.log
    this.operator = world.operator
  }

  readonly note = (text: string): void => {
    if (this.isLogging) this.log.push(`${(this.elapsed() / 1000).toFixed(4).padStart(10)} ${text}`)
  }

  readonly seen = (moment: Moment): void => count(this.tally.seen, moment)

  readonly violate = (kind: Invariant, text: string): void => {
    this.note(`VIOLATED ${kind}: ${text}`)
    if (this.violations.filter((_) => _.kind === kind).length < VIOLATIONS_PER_KIND) {
      this.violations.push({ kind, text: `${text} (at ${(this.elapsed() / 1000).toFixed(3)} s)` })
    }
  }

  readonly add = (client: Client): void => {
    this.clients.push(client)
    this.flights.set(client.index, { isFlying: false, connected: undefined, epoch: 0 })
  }

  /** Whether nothing has disturbed the clients between these moments. */
  isCalm(from: number, to: number): boolean {
    return !this.disturbances.some(
      (_) => _.from <= to && (_.to === undefined || _.to + this.echo >= from)
    )
  }

  /** For so long a client may hear of a disturbance that is over: answers under way, statements that hang. */
  private get echo(): number {
    return ECHO + this.options.queryTimeout
  }

  /** How long after the last disturbance the clients must be as good as new. */
  get settling(): number {
    const { connectTimeout, queryTimeout, refreshRate } = this.options
    return 1.2 * refreshRate + 3 * connectTimeout + queryTimeout + ECHO
  }

  /** Looks at the topology that the clients share, after whatever has just been done. */
  readonly afterTask = (): void => {
    const state = this.clients[0]?.topology.unsafeCurrent()
    if (state === undefined || state === this.last) return
    const before = this.last
    this.last = state
    if (before !== undefined && before.phase._tag !== state.phase._tag) {
      this.note(`topology: ${state.phase._tag}, epoch ${state.epoch}`)
    }
    if (before !== undefined && state.epoch < before.epoch) {
      this.violate("one writer per epoch", `epoch ${state.epoch} after ${before.epoch}`)
    }
    if (state.writer !== undefined && state.writer !== before?.writer) this.onWriter(state.writer)
  }

  private onWriter(writer: TopologyState.Writer): void {
    const host = writer.host.id
    const { epoch, serverEpoch } = writer
    this.note(`topology: the writer of epoch ${epoch} is ${host}, timeline ${serverEpoch}`)
    const known = this.epochs.get(epoch)
    if (known !== undefined && known !== host) {
      this.violate("one writer per epoch", `${known} and ${host} in epoch ${epoch}`)
    }
    this.epochs.set(epoch, host)
    const { at, before, timeline } = this.newestClaim
    const newest = at < this.elapsed() ? timeline : before
    if (serverEpoch !== undefined && serverEpoch < BigInt(newest)) {
      this.violate(
        "no writer of an older epoch",
        `${host} of timeline ${serverEpoch} was confirmed after timeline ${newest} was seen`
      )
    }
    // On the readers' word alone, whoever they name is looked at before anything is sent to it.
    if (writer.isVerified && !this.wasWriter(host)) {
      this.violate(
        "a confirmed writer is one",
        `${host} was confirmed and did not take itself for the writer when it was asked`
      )
    }
  }

  /** Whether the host took itself for the writer when it executed something within the last question's time. */
  private wasWriter(host: string): boolean {
    const since = START + this.elapsed() - this.options.connectTimeout
    for (let i = this.serverLog.length - 1; i >= 0; i--) {
      const entry = this.serverLog[i]
      if (entry === undefined || entry.at < since) return false
      if (entry.host === host && entry.role === "writer") return true
    }
    return false
  }

  private sendsOf(id: number): Sends {
    const known = this.sends.get(id)
    if (known !== undefined) return known
    const made = { times: 0, isUnanswered: false, isAnswered: false, isCommitUnanswered: false }
    this.sends.set(id, made)
    return made
  }

  /** For the connections of the monitor. */
  readonly monitorObserver: Observer<Observed> = {
    opened: (host) => {
      this.openMonitors++
      return { host, openedAt: this.elapsed(), isOpen: true }
    },
    closed: () => {
      this.openMonitors--
    },
    sending: () => {},
    ended: (session, { sql }, error) => {
      if (error !== undefined || this.scenario.flavor !== "streaming") return
      const { id } = session.host
      const answer = this.serverLog.findLast((_) => _.host === id && _.sql === sql)
      if (answer?.role !== "writer") return
      const { at, before, timeline } = this.newestClaim
      const now = this.elapsed()
      if (answer.timeline > timeline) {
        this.newestClaim = {
          timeline: answer.timeline,
          at: now,
          before: at < now ? timeline : before
        }
      } else if (answer.timeline < timeline) {
        this.seen("an older writer claimed to be the writer")
        this.note(`${id} claims to be the writer, of timeline ${answer.timeline}`)
      }
    }
  }

  /** For the connections of a client's pool. */
  readonly poolObserver = (client: number): Observer<PoolSession> => ({
    opened: (host: Host.Host) => ({
      client,
      host,
      openedAt: this.elapsed(),
      isOpen: true,
      isReaders: false,
      transaction: undefined
    }),
    closed: (session) => {
      this.underWay.delete(session)
    },
    sending: (session, request) => this.sending(session, request),
    ended: (session, request, error, result) => this.ended(session, request, error, result)
  })

  private sending(session: PoolSession, { params, sql }: Connector.Request): void {
    this.tally.statements++
    if (isReadOnlySetting(sql)) session.isReaders = true
    if (isQuestion(sql)) return
    if (session.isOpen) this.operator?.sending(sql)
    this.note(`client ${session.client} to ${session.host.id}: ${sql} ${params.join(", ")}`)
    this.underWay.set(session, sql)
    const writer = this.clients[session.client]?.topology.unsafeCurrent().writer
    const isElsewhere = writer !== undefined && writer.host.id !== session.host.id
    if (session.isOpen && isElsewhere && !session.isReaders) {
      this.violate(
        "no statement to an older host",
        `${sql} was sent to ${session.host.id} after ${writer.host.id} had been confirmed`
      )
    }
    if (!isWork(sql)) return
    if (sql.startsWith("BEGIN")) session.transaction = []
    const id = idOf(params)
    if (id === undefined) return
    session.transaction?.push(id)
    this.sendsOf(id).times++
  }

  private ended(
    session: PoolSession,
    { params, sql }: Connector.Request,
    error: Connector.SessionError | undefined,
    result: Connector.Row
  ): void {
    if (isRoleQuestion(sql)) {
      if (error === undefined && firstOf(result) === true && !this.readsFromReaders) {
        this.seen("a new connection led to a reader")
      }
      return
    }
    this.underWay.delete(session)
    if (error !== undefined) {
      this.note(`client ${session.client}: ${sql} ${params.join(", ")} ${describe(error)}`)
    }
    if (!isWork(sql)) return
    const id = idOf(params)
    const sends = id === undefined ? undefined : this.sendsOf(id)
    switch (error?.fate) {
      case "NotSent":
        this.seen("a statement was not sent")
        break
      case "Unanswered":
        this.seen("a statement was sent and not answered")
        if (sends !== undefined) sends.isUnanswered = true
        if (sql === "COMMIT") {
          this.seen("COMMIT was not answered")
          for (const id of session.transaction ?? []) this.sendsOf(id).isCommitUnanswered = true
        }
        break
      case "Answered":
        if (sqlStateOf(error) === "25006") this.seen("a statement was refused by a reader")
        break
      case undefined:
        if (sends !== undefined) sends.isAnswered = true
        break
    }
    if (isTransactionEnd(sql)) session.transaction = undefined
  }

  /** Whether one of the client's statements is on its way at this moment. */
  isBusy(client: number): boolean {
    return [...this.underWay.keys()].some((_) => _.client === client)
  }

  /** What a caller was told of a piece of work is held against what was done for it. */
  readonly told = (work: Work, label: string, ids: ReadonlyArray<number>, signal: Signal): void => {
    this.note(`${label} is told: ${signal.text}`)
    const counts = (this.tally.outcomes[work.kind] ??= {})
    count(counts, signal.text)
    if (signal.claim === undefined) return this.violate("typed errors", `${label}: ${signal.text}`)
    const sends = ids.map((id) => this.sendsOf(id))
    const isTransaction = ids.length > 1 || work.kind !== "write"
    if (work.kind === "write" || work.kind === "reserved") {
      for (const id of ids) {
        const { isAnswered, isUnanswered, times } = this.sendsOf(id)
        if (times > 1 && isUnanswered && isAnswered) {
          this.violate("no statement twice", `${label} was sent and not answered, and sent again`)
        }
      }
    }
    switch (signal.claim) {
      case "Unknown":
        if (
          signal.text !== "interrupted" &&
          !sends.some((_) => _.isUnanswered || _.isCommitUnanswered)
        ) {
          this.violate(
            "sent is unknown, not sent is not",
            `${label}: ${signal.text}, and nothing of it was left without an answer`
          )
        }
        break
      case "NotExecuted":
        if (!isTransaction && sends.some((_) => _.isUnanswered)) {
          this.violate(
            "sent is unknown, not sent is not",
            `${label}: ${signal.text}, and it was sent and not answered`
          )
        }
        break
      case "RolledBack":
        if (sends.some((_) => _.isCommitUnanswered)) {
          this.seen("COMMIT was found to be rolled back")
          if (this.options.resolution === "none") {
            this.violate(
              "sent is unknown, not sent is not",
              `${label}: ${signal.text}, and its COMMIT was sent and not answered`
            )
          }
        }
        break
      case "Done":
        if (sends.some((_) => _.isCommitUnanswered)) this.seen("COMMIT was found to be committed")
        break
    }
  }

  /** The stages of a client's failovers, as it publishes them. */
  readonly onEvent = (client: number, event: Failover.FailoverEvent): void => {
    const flight = this.flights.get(client)
    if (flight === undefined) return
    this.note(`client ${client}: ${event._tag}`)
    switch (event._tag) {
      case "Noticed": {
        if (flight.isFlying) {
          this.violate("single flight", `client ${client} began a failover during another one`)
        }
        flight.isFlying = true
        this.tally.failovers++
        const { connected } = flight
        if (connected?.isNewEpoch === true && this.isCalm(connected.at, this.elapsed())) {
          this.violate(
            "one outage, one failover",
            `client ${client} was connected to the new writer and began another failover`
          )
        }
        break
      }
      case "WriterConfirmed":
        break
      case "Connected": {
        if (!flight.isFlying) {
          this.violate("single flight", `client ${client} ended a failover that had not begun`)
        }
        const { epoch, host } = event.recovered.writer
        const isNewEpoch = epoch > flight.epoch && this.operator?.leader() === host.id
        flight.isFlying = false
        flight.epoch = epoch
        flight.connected = { at: this.elapsed(), isNewEpoch }
        break
      }
      case "GaveUp":
        if (!flight.isFlying) {
          this.violate("single flight", `client ${client} ended a failover that had not begun`)
        }
        this.seen("a failover ended in vain")
        flight.isFlying = false
        flight.connected = undefined
        break
    }
  }

  /** Readers are asked for their role, too, and are what they should be. */
  private get readsFromReaders(): boolean {
    return this.scenario.work.some((_) => _.reading !== undefined)
  }

  /** The writes that somebody was told are done, and when. */
  private readonly acknowledged = new Map<number, number>()

  readonly acknowledge = (ids: ReadonlyArray<number>): void => {
    for (const id of ids) this.acknowledged.set(id, this.elapsed())
  }

  /** Then nobody can tell how far behind a reader is: it may follow either. */
  private wereTwoWriters(since: number): boolean {
    return this.disturbances.some(
      ({ kind, to }) => TWO_WRITERS.has(kind) && (to === undefined || to + this.echo >= since)
    )
  }

  /** What was acknowledged until then must be among what a read saw. */
  readonly checkBound = (label: string, seen: ReadonlySet<number>, until: number): void => {
    for (const [id, at] of this.acknowledged) {
      if (at > until || seen.has(id) || this.wereTwoWriters(at)) continue
      this.violate(
        "staleness is bounded",
        `${label} did not see ${id}, which was acknowledged ${this.elapsed() - at} ms ago`
      )
    }
    const isLagging = this.disturbances.some((_) => _.kind === "lag" && _.to === undefined)
    if (isLagging) this.seen("a bound was kept while a reader lagged")
  }

  /** Whether a host that the mode allows was there all the time, and nothing had happened to it. */
  hadHost(mode: "reader-or-writer" | "strict-reader", since: number): boolean {
    const { hosts } = this.scenario
    const names = Array.from({ length: hosts }, (_, i) => `db-${i + 1}`)
    return names.some(
      (name) =>
        !this.disturbances.some(
          (_) =>
            _.kind !== "statement" &&
            (_.host === undefined || _.host === name) &&
            (_.to === undefined || _.to + this.settling >= since)
        ) &&
        (hosts === 1 || mode === "reader-or-writer" || this.operator?.hasLed(name, since) === false)
    )
  }

  /** What a caller was told of a read on readers. */
  readonly toldOfRead = (work: Work, label: string, mark: number, since: number, text: string) => {
    const { reading } = work
    if (reading === undefined) return
    const { isUnanswered, times } = this.sendsOf(mark)
    if (text.startsWith("WriteOnReader")) this.seen("a write on a reader was refused")
    // Nobody refuses a read; what a server says of its role is not the caller's affair.
    if (text.startsWith("SqlError")) this.violate("typed errors", `${label}: ${text}`)
    if (text === "success" && times > 1 && isUnanswered) this.seen("a read that was run again")
    if (text.startsWith("FailoverSuccess") && times < MOST_SENDS && work.kind !== "reader stream") {
      this.violate("reads have a host", `${label}: ${text}, and it was sent ${times} times`)
    }
    // A bound needs the writer, too.
    const isPlain = reading.maxStaleness === undefined && work.kind !== "own writes"
    const isInVain = text.startsWith("FailoverFailed") || text.startsWith("ConnectionRejected")
    if (isPlain && isInVain && this.hadHost(reading.mode, since)) {
      this.violate("reads have a host", `${label}: ${text}, and a host was there all the time`)
    }
  }

  /** In calm: the clients of one cluster share one line to it. */
  checkMonitors(): void {
    const { options, hosts } = this.scenario
    const most = options.push === "always" ? hosts : 1
    if (this.openMonitors < 1 || this.openMonitors > most) {
      this.violate("one monitor", `${this.openMonitors} monitoring connections in calm`)
    }
  }

  /** Once all is over: a session that carried work was seen to be on a writer before. */
  readonly checkServerLog = (): void => {
    const wereWriters = new Set<string>()
    const sessions = new Map<string, Set<string>>()
    const areReaders = new Set<string>()
    for (const { host, isInternal, outcome, role, session, sql } of this.serverLog) {
      const key = `${host}/${session}`
      if (isReadOnlySetting(sql)) areReaders.add(key)
      if (areReaders.has(key)) {
        if (outcome === "Executed" && sql.startsWith("INSERT")) {
          this.violate("nothing is written on a reader's connection", `${sql} on ${host}`)
        }
        continue
      }
      const open = sessions.get(host) ?? new Set()
      sessions.set(host, open.add(key))
      // One that was opened before its host was promoted is known by the life of its server.
      if (role === "writer") for (const one of open) wereWriters.add(one)
      else if (!isInternal && outcome !== "Dropped" && isWork(sql) && !wereWriters.has(key)) {
        this.violate(
          "no statement on an unchecked session",
          `${sql} was sent to ${host} on a connection on which it had always been a reader`
        )
      }
    }
  }
}

const idOf = (params: ReadonlyArray<unknown>): number | undefined => {
  const [id] = params
  return typeof id === "number" ? id : undefined
}

const firstOf = (rows: unknown): unknown => {
  const row: unknown = Array.isArray(rows) ? rows[0] : undefined
  return Array.isArray(row) ? row[0] : undefined
}
