/**
 * A PostgreSQL cluster in memory and in virtual time, for tests: servers with a role, a timeline and a log
 * of what was committed, a network in between, and faults at the moment that the test names. It speaks the
 * `Connector` port, so the whole client runs on it; `layers/Test` puts both together.
 *
 * Time is the `Clock`'s and chance is `Random`'s, so that under `TestClock` a test does the same things in
 * the same order each time. With no latency, a statement is answered at once, without the clock being moved.
 *
 * What it is true to:
 *
 * | | |
 * |---|---|
 * | transactions | PostgreSQL's rules, savepoints included; what fails is 25P02 until it is rolled back; a killed session's transaction vanishes |
 * | `"synchronous"` | COMMIT is answered once a standby has it, and waits for as long as none can; so a primary cut off from its peers acknowledges nothing, and no promotion loses what was acknowledged |
 * | `"asynchronous"` | COMMIT is answered at once; what a standby has not received is lost when it is promoted |
 * | `"aurora"` | storage is shared, and only the newest writer may write to it; lists of members may be old |
 * | a partition | as TCP has it: what was sent waits, and arrives when the partition is healed, unless the client has given up |
 * | a frozen host | what has arrived is executed when it goes on, even if the client is gone |
 *
 * It has no tables: a statement that writes is kept as it is, and rows are what `answer` says. No locks, so
 * two transactions never wait for each other or conflict.
 *
 * @since 0.1.0
 */
import type { Duration, Effect, Scope } from "effect"
import type { Connector } from "../Connector.js"
import type { Host } from "../Host.js"
import * as Cluster from "./internal/simulated/cluster.js"

/**
 * @since 0.1.0
 * @category models
 */
export interface Statement {
  readonly sql: string
  readonly params: ReadonlyArray<unknown>
}

/**
 * A statement that wrote, and is committed.
 *
 * @since 0.1.0
 * @category models
 */
export interface Write extends Statement {
  /** Clock milliseconds at which it was committed. */
  readonly at: number
  /** The server that committed it. */
  readonly host: string
  readonly session: number
  /** That of the server then. */
  readonly timeline: number
  /** Writes of one transaction have the same number; no other transaction of the cluster has it. */
  readonly transaction: number
}

/**
 * - `Pending`: received, and not done yet: its host is frozen or slow, or no standby has it.
 * - `Executed`: done.
 * - `Refused`: the server answered with an error.
 * - `Dropped`: not executed, and it never will be: its session or its server ended first.
 *
 * @since 0.1.0
 * @category models
 */
export type Outcome = "Pending" | "Executed" | "Refused" | "Dropped"

/**
 * A statement that a server received, and what became of it so far.
 *
 * @since 0.1.0
 * @category models
 */
export interface Entry extends Statement {
  /** Clock milliseconds at which it was received. */
  readonly at: number
  readonly host: string
  readonly session: number
  /** What the server took itself for when it executed the statement. */
  readonly role: "writer" | "reader"
  readonly timeline: number
  readonly outcome: Outcome
  /** What it was refused with. */
  readonly sqlState: string | undefined
  /** Whether the client has the answer. */
  readonly isAnswered: boolean
  /** A question about role, topology or commits, which the library asks by itself. */
  readonly isInternal: boolean
}

/**
 * What happens to one statement.
 *
 * - `beforeSend`: the connection breaks before anything has left the client.
 * - `beforeExecute`: it breaks when the statement arrives; it is not executed.
 * - `beforeReply`: it breaks after the statement was executed.
 * - `hang`: the statement arrives, and nothing happens.
 * - `hangAfter`: it is executed, and never answered.
 * - `refuse(sqlState)`: the server answers with this error.
 *
 * @since 0.1.0
 * @category models
 */
export type Fault = "beforeSend" | "beforeExecute" | "beforeReply" | "hang" | "hangAfter" | Refusal

/**
 * @since 0.1.0
 * @category models
 */
export interface Refusal {
  readonly _tag: "Refusal"
  readonly sqlState: string
  /** The server ends the session with it. */
  readonly isFatal: boolean
}

/**
 * The server answers with this error; `fatal`, and it ends the session.
 *
 * @since 0.1.0
 * @category constructors
 */
export const refuse = (sqlState: string, options?: { readonly fatal?: boolean }): Refusal => ({
  _tag: "Refusal",
  sqlState,
  isFatal: options?.fatal === true
})

/**
 * Who cannot reach a host: the clients, the other servers, or both.
 *
 * @since 0.1.0
 * @category models
 */
export type Cut = "clients" | "peers" | "all"

/**
 * What a session sees, for `Options.answer`.
 *
 * @since 0.1.0
 * @category models
 */
export interface View {
  /** The server that is asked. */
  readonly host: string
  readonly role: "writer" | "reader"
  /**
   * What the session sees: what is committed there and has been received (on a reader that lags, less than on
   * the writer), and what the session's own transaction has written.
   */
  readonly writes: () => ReadonlyArray<Statement>
}

/**
 * @since 0.1.0
 * @category models
 */
export interface Options {
  /** Their names are their addresses. The first one is the writer. Default `["db-1", "db-2", "db-3"]`. */
  readonly hosts?: ReadonlyArray<string> | undefined
  /** `"streaming"`: PostgreSQL with its own replication. `"aurora"`: shared storage. Default `"streaming"`. */
  readonly flavor?: "streaming" | "aurora" | undefined
  /** Without a meaning on `"aurora"`. Default `"asynchronous"`, as PostgreSQL's. */
  readonly replication?: "synchronous" | "asynchronous" | undefined
  /**
   * From a statement to its answer: half of it there, half of it back. A range is drawn from anew for each
   * way. Default zero.
   */
  readonly latency?:
    | Duration.DurationInput
    | { readonly least: Duration.DurationInput; readonly most: Duration.DurationInput }
    | undefined
  /** How long a promoted standby stays in recovery. Default zero. */
  readonly promotionTime?: Duration.DurationInput | undefined
  /** On `"aurora"`: how much later an instance's list of members shows a new writer. Default zero. */
  readonly staleLists?: Duration.DurationInput | undefined
  /** The rows of a SELECT, or of RETURNING. `undefined`: none. An error that it throws is the server's. */
  readonly answer?:
    ((statement: Statement, view: View) => ReadonlyArray<object> | undefined) | undefined
}

/**
 * Faults take effect at once; what is to happen later (`after`) happens by itself, so that no test has to
 * wait for it. A host that is not there, and a promotion that no cluster manager would make, is a defect.
 *
 * @since 0.1.0
 * @category models
 */
export interface SimulatedCluster {
  /** Of its own for each cluster. */
  readonly id: string
  readonly flavor: "streaming" | "aurora"
  readonly hosts: ReadonlyArray<Host>
  readonly connector: Connector
  /** A connector as a driver with these options. */
  readonly connectorWith: (options: {
    /** After which a statement is given up, with its connection. */
    readonly queryTimeout?: Duration.Duration | undefined
  }) => Connector

  /** The process is gone: sessions are reset, connections refused. */
  readonly kill: (name: string) => Effect.Effect<void>
  /**
   * A host that was killed comes back: as `"standby"` of the newest writer, without what that one never
   * received, or as `"itself"`: an old primary that takes itself for one. Default: as a standby if another
   * host was promoted meanwhile, else as itself. A host that is up is restarted.
   */
  readonly start: (
    name: string,
    options?: { readonly as?: "standby" | "itself" | undefined }
  ) => Effect.Effect<void>
  /** Ends the sessions (57P01) and comes back as itself, `downFor` later. */
  readonly restart: (
    name: string,
    options?: { readonly downFor?: Duration.DurationInput | undefined }
  ) => Effect.Effect<void>
  /** SIGSTOP: the host takes what is sent to it and does nothing. */
  readonly freeze: (name: string) => Effect.Effect<void>
  /** SIGCONT. It knows nothing of what happened meanwhile. */
  readonly resume: (name: string) => Effect.Effect<void>
  /** A black hole around the host, until `heal`. Cuts add up. Default: for `"clients"`. */
  readonly partition: (name: string, cut?: Cut) => Effect.Effect<void>
  readonly heal: (name: string) => Effect.Effect<void>
  /**
   * A standby becomes the writer, on a new timeline; those that can be reached follow it. The old writer is
   * not told: kill or isolate it first, or there are two. On `"aurora"` it is restarted as a reader as soon
   * as its list of members shows the new one.
   *
   * `force`: also if it has not received all that was acknowledged, which is then lost.
   */
  readonly promote: (
    name: string,
    options?: { readonly force?: boolean | undefined }
  ) => Effect.Effect<void>
  /** Whether `promote` is possible now: it is up, a standby, and has all that was acknowledged. */
  readonly isPromotable: (name: string) => boolean
  /**
   * The writer takes no writes any more (25006); its sessions stay, but for those in a transaction that has
   * written (57P01). It follows the newest writer.
   */
  readonly demote: (name: string) => Effect.Effect<void>
  /** In good order: the writer is restarted as a standby, and this one takes over with all that it had. */
  readonly switchover: (to: string) => Effect.Effect<void>
  /**
   * The writer is killed, and the standby that has received most is promoted, if there is one that may be.
   * `startAfter`: the old writer comes back as a standby.
   */
  readonly failover: (options?: {
    readonly promoteAfter?: Duration.DurationInput | undefined
    readonly startAfter?: Duration.DurationInput | undefined
  }) => Effect.Effect<void>
  /** Each statement and each log-in takes this much longer on the host. */
  readonly slow: (name: string, by: Duration.DurationInput) => Effect.Effect<void>
  /**
   * The standby receives what is written this much later; on `"aurora"`, where storage is shared, it shows it
   * this much later. A reader that is cut off from its peers receives and shows nothing new.
   */
  readonly lag: (name: string, by: Duration.DurationInput) => Effect.Effect<void>
  /** `Options.staleLists` from now on. */
  readonly staleLists: (by: Duration.DurationInput) => Effect.Effect<void>
  /** New connections are refused with this SQLSTATE: 28P01, 53300, 57P03, ... */
  readonly refuse: (name: string, sqlState: string) => Effect.Effect<void>
  /** New connections are accepted again. */
  readonly accept: (name: string) => Effect.Effect<void>
  /** An administrator ends all sessions of the host: 57P01. */
  readonly terminate: (name: string) => Effect.Effect<void>
  /** The next statement that matches suffers this, on whichever host. The library's own questions do not count. */
  readonly next: (match: RegExp, fault: Fault) => Effect.Effect<void>

  /** The newest timeline's writer, if it is up. */
  readonly writer: Effect.Effect<string | undefined>
  /**
   * What is committed on this host, which on `"aurora"` is what all have in storage, shown or not; without a
   * name, on the newest timeline's writer, be it up or down.
   */
  readonly committed: (name?: string) => ReadonlyArray<Write>
  /** Every statement that a server received, in the order of their receipt. */
  readonly log: ReadonlyArray<Entry>
  /** Sessions that the clients hold open, of this host or of all. */
  readonly sessions: (name?: string) => number
}

/**
 * Ends with the scope: nothing happens after it.
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = (options: Options = {}): Effect.Effect<SimulatedCluster, never, Scope.Scope> =>
  Cluster.make(options)
