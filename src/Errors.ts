/**
 * What callers are told. Four outcomes carry the truth about work that a failure cut off; the other
 * errors say what has to be changed before the work can be done.
 *
 * | error | SQLSTATE | what it says |
 * |---|---|---|
 * | `FailoverSuccess` | 08S02 | the connection is restored; the statement that was in flight may have been executed |
 * | `TransactionResolutionUnknown` | 08007 | the connection is restored; the transaction was rolled back, or its COMMIT is unknown |
 * | `FailoverFailed` | 08S01 | no host could be reached before the deadline; `outcome` says what became of the work |
 * | `RequestUnanswered` | - | over HTTP (ArangoDB): a request that had left completely got no answer, and may have been executed |
 *
 * They reach a caller as the `cause` of the `SqlError` that `SqlClient` fails with, or of the
 * `RequestError` that `HttpClient` fails with;
 * `Failover.outcomes` lifts them into the typed error channel.
 *
 * @since 0.1.0
 */
import { Data, Duration } from "effect"
import type { Host, Role } from "./Host.js"

/**
 * What is known about a piece of work whose connection failed.
 *
 * - `NotExecuted`: it never reached a server, or a server refused it. Running it (again) is safe.
 * - `RolledBack`: its transaction ended without COMMIT having been sent. Running it again is safe.
 * - `Unknown`: it was sent and not answered. It may or may not have been executed.
 *
 * @since 0.1.0
 * @category models
 */
export type Outcome = "NotExecuted" | "RolledBack" | "Unknown"

/**
 * One host that was tried, how often, and what it answered last.
 *
 * @since 0.1.0
 * @category models
 */
export interface Tried {
  readonly host: Host
  readonly attempts: number
  readonly lastError: string
}

const millis = (duration: Duration.Duration): string =>
  `${Math.round(Duration.toMillis(duration))} ms`

/** Its address, and its name where the cluster gives it another one. */
const at = (host: Host): string => {
  const address = `${host.host}:${host.port}`
  return host.id === address ? address : `${host.id} (${address})`
}

/**
 * The connection failed while a statement outside a transaction was in flight, and the client has
 * moved. The statement **may have been executed**: run it again only if running it twice is fine.
 * Session state that was set by hand on the old connection is lost.
 *
 * @since 0.1.0
 * @category outcomes
 */
export class FailoverSuccess extends Data.TaggedError("FailoverSuccess")<{
  /** The host that the statement was sent to. */
  readonly from: Host
  /** The host that the client uses now; the same as `from` if that host was confirmed again. */
  readonly to: Host
  /** The role of `to`, verified by asking it. */
  readonly role: Role
  /** The topology's epoch that the client is on now. */
  readonly epoch: number
  /** From the failure of the statement to the restored connection. */
  readonly elapsed: Duration.Duration
  /** How many connections were tried on confirmed writers until one held. */
  readonly attempts: number
  /** Whether the statement had left this process; `false` only on a reserved connection or in a stream. */
  readonly sent: boolean
  /** The driver's own error. */
  readonly cause: unknown
}> {
  readonly sqlState = "08S02"

  get outcome(): Outcome {
    return this.sent ? "Unknown" : "NotExecuted"
  }

  get hint(): string {
    return this.sent
      ? "the statement was sent and not answered: it may have been executed. Run it again only if that is safe (an idempotent statement, or after looking). What was SET by hand on its connection is lost"
      : "the statement was not sent: reserve a connection anew, set up its session, and run it again"
  }

  override get message(): string {
    return `connection to ${at(this.from)} failed; now on ${at(this.to)} after ${millis(this.elapsed)}; ${this.hint}`
  }
}

/**
 * The connection failed inside a transaction, and the client has moved.
 *
 * `outcome: "RolledBack"`: COMMIT was never sent, so nothing of the transaction exists: run it again
 * from its beginning. `outcome: "Unknown"`: COMMIT was sent and not answered.
 *
 * @since 0.1.0
 * @category outcomes
 */
export class TransactionResolutionUnknown extends Data.TaggedError("TransactionResolutionUnknown")<{
  readonly outcome: "RolledBack" | "Unknown"
  readonly from: Host
  readonly to: Host
  readonly role: Role
  readonly epoch: number
  readonly elapsed: Duration.Duration
  readonly attempts: number
  /** Whether the statement that failed had left this process. */
  readonly sent: boolean
  readonly cause: unknown
}> {
  readonly sqlState = "08007"

  get hint(): string {
    return this.outcome === "RolledBack"
      ? "COMMIT was not sent, so the transaction was rolled back: run it again from its beginning"
      : "COMMIT was sent and not answered: look whether the transaction's work is there before running it again"
  }

  override get message(): string {
    return `connection to ${at(this.from)} failed inside a transaction; now on ${at(this.to)} after ${millis(this.elapsed)}; ${this.hint}`
  }
}

/**
 * No writer (or no reader, where only readers may be read from) could be reached before the deadline, or the client was closed while it searched, or work
 * was cut off and no host lets us in any more (then `cause` is the rejection).
 *
 * @since 0.1.0
 * @category outcomes
 */
export class FailoverFailed extends Data.TaggedError("FailoverFailed")<{
  /** Why the search ended. */
  readonly reason: "Timeout" | "Closed" | "Rejected" | "Unreachable"
  /** What became of the caller's work. */
  readonly outcome: Outcome
  /** The host that was lost, where there was one. */
  readonly from: Host | undefined
  /** Every host that was tried, with its last answer. */
  readonly tried: ReadonlyArray<Tried>
  readonly elapsed: Duration.Duration
  /** How many connections were tried on confirmed writers. */
  readonly attempts: number
  /** What was looked for. Default `"writer"`. */
  readonly role?: Exclude<Role, "unknown"> | undefined
  readonly cause: unknown
}> {
  readonly sqlState = "08S01"

  /** Whether the work may have left this process without an answer. */
  get sent(): boolean {
    return this.outcome === "Unknown"
  }

  private get wanted(): string {
    return this.role ?? "writer"
  }

  get hint(): string {
    switch (this.outcome) {
      case "NotExecuted":
        return `the work was not executed: run it again when the cluster has a ${this.wanted}`
      case "RolledBack":
        return `the transaction was rolled back: run it again when the cluster has a ${this.wanted}`
      case "Unknown":
        return "the work was sent and not answered: look before running it again"
    }
  }

  override get message(): string {
    const elapsed = millis(this.elapsed)
    const why = {
      Timeout: `no ${this.wanted} within ${elapsed}`,
      Closed: `the client was closed after ${elapsed} of searching for a ${this.wanted}`,
      Rejected: `no host lets us in any more (after ${elapsed})`,
      Unreachable: `no host could be reached (after ${elapsed})`
    }[this.reason]
    const tried = this.tried.map(
      (_) => `${at(_.host)}: ${_.lastError}${_.attempts > 1 ? ` (${_.attempts} times)` : ""}`
    )
    return `${why}; tried ${tried.length === 0 ? "no host" : tried.join("; ")}; ${this.hint}`
  }
}

/**
 * A request over HTTP failed without an answer, and was not sent again. With `sent` it had left this
 * process completely, so that it **may have been executed**; without, it had not (a server does not
 * execute half a request), and only its body, which can be read once, or that it was meant for this one
 * server, kept it from going elsewhere. The next request goes to another endpoint.
 *
 * @since 0.1.0
 * @category outcomes
 */
export class RequestUnanswered extends Data.TaggedError("RequestUnanswered")<{
  /** The host that the request was sent to last. */
  readonly from: Host
  readonly method: string
  readonly path: string
  /** Whether the request had been written completely, or nobody can tell that it had not. */
  readonly sent: boolean
  /** Whether it was given up because no answer came in time; else the connection failed. */
  readonly timedOut: boolean
  /** Every host that it was sent to, with what happened there. */
  readonly tried: ReadonlyArray<Tried>
  readonly elapsed: Duration.Duration
  readonly attempts: number
  /** The HTTP client's own error. */
  readonly cause: unknown
}> {
  get outcome(): Outcome {
    return this.sent ? "Unknown" : "NotExecuted"
  }

  get hint(): string {
    return this.sent
      ? "it was sent completely: it may have been executed. Run it again only if that is safe (an idempotent request, or after looking)"
      : "it was not executed: run it again, with a new body if that is a stream"
  }

  override get message(): string {
    const what = this.timedOut
      ? `gave no answer within ${millis(this.elapsed)}`
      : "broke the connection without an answer"
    return `${at(this.from)} ${what} to ${this.method} ${this.path}; ${this.hint}`
  }
}

/**
 * Why a reachable host refused a connection for good. Waiting or moving to another host does not
 * help, so no failover is started.
 *
 * @since 0.1.0
 * @category errors
 */
export type RejectionReason = "Credentials" | "Database" | "Privilege" | "Tls" | "Protocol"

/**
 * A host answered and refused the connection for a reason that only a change of options, or of the
 * server, can mend.
 *
 * @since 0.1.0
 * @category errors
 */
export class ConnectionRejected extends Data.TaggedError("ConnectionRejected")<{
  readonly reason: RejectionReason
  /** The option to look at. */
  readonly field: string
  readonly host: Host
  /** The server's SQLSTATE, where it gave one. */
  readonly sqlState: string | undefined
  readonly hint: string
  readonly cause: unknown
}> {
  readonly outcome: Outcome = "NotExecuted"

  override get message(): string {
    const said = this.cause instanceof Error ? this.cause.message : String(this.cause)
    return `${at(this.host)} refused the connection: ${said}; check \`${this.field}\`: ${this.hint}`
  }
}

/**
 * An option that cannot be used. Found before anything is connected, wherever that is possible.
 *
 * @since 0.1.0
 * @category errors
 */
export class ConfigurationError extends Data.TaggedError("ConfigurationError")<{
  /** The option's name. */
  readonly field: string
  readonly value?: unknown
  readonly problem: string
  /** What to write instead. */
  readonly hint: string
}> {
  readonly outcome: Outcome = "NotExecuted"

  override get message(): string {
    const value = this.value === undefined ? "" : ` ${JSON.stringify(this.value)}`
    return `\`${this.field}\`${value} ${this.problem}: ${this.hint}`
  }
}

/**
 * Two layers name one cluster id and describe different clusters. Sharing one topology between them
 * would send one cluster's statements to the other.
 *
 * @since 0.1.0
 * @category errors
 */
export class ClusterIdConflict extends Data.TaggedError("ClusterIdConflict")<{
  readonly clusterId: string
  /** What the first layer said. */
  readonly existing: string
  /** What this layer says. */
  readonly requested: string
}> {
  readonly hint = "give each cluster its own `clusterId`, or leave the option out"

  override get message(): string {
    return `cluster id ${JSON.stringify(this.clusterId)} is in use for ${this.existing} and is now asked for ${this.requested}: ${this.hint}`
  }
}

/**
 * Every connection of the pool was busy for the whole of `acquireTimeout`. Nothing was sent.
 *
 * @since 0.1.0
 * @category errors
 */
export class PoolTimeout extends Data.TaggedError("PoolTimeout")<{
  readonly host: Host
  readonly elapsed: Duration.Duration
  readonly maxConnections: number
}> {
  readonly outcome: Outcome = "NotExecuted"
  readonly hint =
    "all connections were busy: raise `maxConnections`, shorten transactions, or raise `acquireTimeout`"

  override get message(): string {
    return `no connection to ${at(this.host)} came free within ${millis(this.elapsed)} (${this.maxConnections} in use); ${this.hint}`
  }
}

/**
 * Why a host was not chosen.
 *
 * - `Role`: it is not known to have the role that was asked for.
 * - `Unavailable`: the last attempt to talk to it failed.
 * - `PassedOver`: it could be used, and the selector chose none.
 *
 * @since 0.1.0
 * @category models
 */
export type Exclusion = "Role" | "Unavailable" | "PassedOver"

/**
 * A host that was not chosen, its role, and why.
 *
 * @since 0.1.0
 * @category models
 */
export interface Excluded {
  readonly host: Host
  readonly role: Role
  readonly reason: Exclusion
}

/**
 * No host could be chosen. Nothing was sent.
 *
 * @since 0.1.0
 * @category errors
 */
export class NoMatchingHost extends Data.TaggedError("NoMatchingHost")<{
  /** The role that was asked for; `undefined` for any. */
  readonly role: Role | undefined
  /** Every host that there was. */
  readonly excluded: ReadonlyArray<Excluded>
}> {
  readonly outcome: Outcome = "NotExecuted"

  get hint(): string {
    if (this.excluded.length === 0) return "wait until a host of the cluster has answered"
    const reasons = new Set(this.excluded.map((_) => _.reason))
    if (reasons.has("PassedOver")) return "the selector chose none: let it fall back to a host"
    return reasons.has("Unavailable")
      ? "wait until a host is available again"
      : "ask for another role, or wait until the topology knows a host of this one"
  }

  override get message(): string {
    const what = this.role === undefined ? "no host" : `no ${this.role}`
    const why = this.excluded.map(({ host, reason, role }) => {
      const said = {
        Role: role === "unknown" ? "its role is not known" : `it is a ${role}`,
        Unavailable: "it is unavailable",
        PassedOver: "it was passed over"
      }[reason]
      return `${at(host)}: ${said}`
    })
    return `${what} can be chosen; there is ${why.length === 0 ? "no host at all" : why.join("; ")}; ${this.hint}`
  }
}

/**
 * A statement that writes was run where nothing can be written: within `Failover.onReader`, or with a client
 * whose `failoverMode` reads from readers. The server refused it.
 *
 * @since 0.1.0
 * @category errors
 */
export class WriteOnReader extends Data.TaggedError("WriteOnReader")<{
  readonly host: Host
  /** The server's own error. */
  readonly cause: unknown
}> {
  readonly outcome: Outcome = "NotExecuted"
  readonly hint =
    "run it outside of `Failover.onReader`, or within `Failover.onWriter`; if the client's `failoverMode` reads from readers, it is not meant for writes"

  override get message(): string {
    return `a statement that writes was sent to ${at(this.host)} as a reader; ${this.hint}`
  }
}

/**
 * The statement did not answer within `queryTimeout`. Its connection was given up, and the server was
 * asked to cancel it. It may have been executed.
 *
 * @since 0.1.0
 * @category errors
 */
export class StatementTimeout extends Data.TaggedError("StatementTimeout")<{
  readonly host: Host
  readonly timeout: Duration.Duration
  readonly outcome: Outcome
}> {
  get hint(): string {
    return this.outcome === "RolledBack"
      ? "the connection was given up, and with it the transaction: run it again from its beginning"
      : "the statement was sent: it may have been executed. Raise `queryTimeout` if it needs longer"
  }

  override get message(): string {
    return `no answer from ${at(this.host)} within ${millis(this.timeout)}; ${this.hint}`
  }
}

/**
 * The topology's scope was closed while somebody waited for a writer.
 *
 * @since 0.1.0
 * @category errors
 */
export class TopologyClosed extends Data.TaggedError("TopologyClosed")<{}> {
  readonly outcome: Outcome = "NotExecuted"
}
