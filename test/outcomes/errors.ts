/** Every error that a caller may meet, and what it tells of the work. */
import { SqlError } from "@effect/sql"
import { Duration } from "effect"
import type { Errors as E } from "effect-failover"
import { Errors } from "effect-failover"
import { host, rejection } from "../core/fakes.js"

const moved = {
  from: host("a"),
  to: host("b"),
  role: "writer",
  epoch: 2,
  elapsed: Duration.millis(7),
  attempts: 1,
  cause: new Error("read ECONNRESET")
} as const

export const failoverSuccess = (sent = true) => new Errors.FailoverSuccess({ ...moved, sent })

export const transaction = (outcome: "RolledBack" | "Unknown", cause: unknown = moved.cause) =>
  new Errors.TransactionResolutionUnknown({ ...moved, outcome, sent: true, cause })

export const failoverFailed = (outcome: E.Outcome, reason: "Timeout" | "Closed" = "Timeout") =>
  new Errors.FailoverFailed({
    reason,
    outcome,
    from: host("a"),
    tried: [],
    elapsed: Duration.minutes(5),
    attempts: 0,
    cause: undefined
  })

export const configuration = new Errors.ConfigurationError({
  field: "hosts",
  problem: "is empty",
  hint: "list the hosts"
})

const timeout = (outcome: E.Outcome) =>
  new Errors.StatementTimeout({ host: host("a"), timeout: Duration.seconds(1), outcome })

const poolTimeout = new Errors.PoolTimeout({
  host: host("a"),
  elapsed: Duration.seconds(30),
  maxConnections: 10
})

/** As node-postgres raises it. */
export const serverError = (code: string) =>
  Object.assign(new Error(`server error ${code}`), { code, severity: "ERROR" })

export const sqlError = (cause: unknown) => new SqlError.SqlError({ cause, message: "failed" })

export interface Row {
  readonly error: unknown
  /** Known not to have happened, and worth another try. */
  readonly safe: boolean
  /** The client was moved under it, and works again. */
  readonly moved: boolean
  /** Is lifted out of a SqlError. */
  readonly outcome: boolean
}

const row = (error: unknown, marks: ReadonlyArray<"safe" | "moved" | "outcome">): Row => ({
  error,
  safe: marks.includes("safe"),
  moved: marks.includes("moved"),
  outcome: marks.includes("outcome")
})

export const table: Readonly<Record<string, Row>> = {
  "FailoverSuccess, sent": row(failoverSuccess(true), ["moved", "outcome"]),
  "FailoverSuccess, not sent": row(failoverSuccess(false), ["safe", "moved", "outcome"]),
  "TransactionResolutionUnknown, rolled back": row(transaction("RolledBack"), [
    "safe",
    "moved",
    "outcome"
  ]),
  "TransactionResolutionUnknown, unknown": row(transaction("Unknown"), ["moved", "outcome"]),
  "FailoverFailed, not executed": row(failoverFailed("NotExecuted"), ["safe", "outcome"]),
  "FailoverFailed, rolled back": row(failoverFailed("RolledBack"), ["safe", "outcome"]),
  "FailoverFailed, unknown": row(failoverFailed("Unknown"), ["outcome"]),
  ConnectionRejected: row(rejection("a"), ["outcome"]),
  ConfigurationError: row(configuration, []),
  ClusterIdConflict: row(
    new Errors.ClusterIdConflict({ clusterId: "c", existing: "a", requested: "b" }),
    []
  ),
  PoolTimeout: row(poolTimeout, ["safe"]),
  "StatementTimeout, not executed": row(timeout("NotExecuted"), ["safe"]),
  "StatementTimeout, rolled back": row(timeout("RolledBack"), ["safe"]),
  "StatementTimeout, unknown": row(timeout("Unknown"), []),
  "a unique violation": row(serverError("23505"), []),
  "a lost connection of another library": row(new Error("read ECONNRESET"), []),
  "no error at all": row(undefined, [])
}
