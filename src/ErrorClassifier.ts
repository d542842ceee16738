/**
 * What a driver's error means for a connection and for a cluster. The knowledge is data: a list of
 * rules, tried in order, that users can put their own in front of.
 *
 * @since 0.1.0
 */
import { Predicate } from "effect"
import type { RejectionReason } from "./Errors.js"
import { ConfigurationError, ConnectionRejected } from "./Errors.js"
import type { Host } from "./Host.js"

/**
 * - `ConnectionLost`: this connection is gone, its host perhaps too.
 * - `HostUnavailable`: the host answers, but serves no session now (starting up, shutting down).
 * - `Saturated`: the host is fine and has no connection slot left.
 * - `ReadOnly`: the host refused to write, so it is not the writer. Other connections are fine.
 * - `Rejected`: no waiting and no other host will help.
 * - `Timeout`: no answer in the time that the caller gave. Says nothing about the host by itself.
 * - `Statement`: the server executed its part and refused the statement. The connection is fine.
 *
 * @since 0.1.0
 * @category models
 */
export type Verdict =
  | { readonly _tag: "ConnectionLost" }
  | { readonly _tag: "HostUnavailable" }
  | { readonly _tag: "Saturated" }
  | { readonly _tag: "ReadOnly" }
  | {
      readonly _tag: "Rejected"
      readonly reason: RejectionReason
      readonly field: string
      readonly hint: string
    }
  | { readonly _tag: "Timeout" }
  | { readonly _tag: "Statement" }

/**
 * One rule. It matches when every condition that it states holds for one error of the cause chain.
 *
 * @since 0.1.0
 * @category models
 */
export interface Rule {
  /** A prefix of the error's `code`: a SQLSTATE (`"57P01"`, `"08"`) or a system error (`"ECONNRESET"`). */
  readonly code?: string | undefined
  /** The error's `severity`, as PostgreSQL reports it. */
  readonly severity?: string | undefined
  readonly message?: RegExp | undefined
  readonly verdict: Verdict
}

/**
 * @since 0.1.0
 * @category models
 */
export interface ErrorClassifier {
  readonly rules: ReadonlyArray<Rule>
}

/**
 * @since 0.1.0
 * @category constructors
 */
export const make = (rules: ReadonlyArray<Rule>): ErrorClassifier => ({ rules })

/**
 * Rules that are tried before those of `self`.
 *
 * @since 0.1.0
 * @category combinators
 */
export const prepend = (self: ErrorClassifier, rules: ReadonlyArray<Rule>): ErrorClassifier =>
  rules.length === 0 ? self : make([...rules, ...self.rules])

const lost: Verdict = { _tag: "ConnectionLost" }
const unavailable: Verdict = { _tag: "HostUnavailable" }
const statement: Verdict = { _tag: "Statement" }

const rejected = (reason: RejectionReason, field: string, hint: string): Verdict => ({
  _tag: "Rejected",
  reason,
  field,
  hint
})

const credentials = rejected(
  "Credentials",
  "password",
  "the server does not accept this user with this password (or pg_hba.conf does not let it in)"
)

const tlsUnsupported = rejected(
  "Tls",
  "ssl",
  "the server speaks no TLS: set `ssl` to false, or enable TLS on the server"
)

const tlsCertificate = rejected(
  "Tls",
  "ssl",
  "the server's certificate was not accepted: pass its CA as `ssl: { ca }`"
)

const notADatabase = rejected(
  "Protocol",
  "hosts",
  "whatever listens there is no such database: check the host's name and port"
)

const codes = (list: ReadonlyArray<string>, verdict: Verdict): ReadonlyArray<Rule> =>
  list.map((code) => ({ code, verdict }))

/**
 * What an operating system or Node says when a connection cannot be made or is cut off, and of
 * certificates that it does not accept.
 *
 * @since 0.1.0
 * @category rules
 */
export const transport: ReadonlyArray<Rule> = [
  ...codes(
    [
      "ECONNREFUSED",
      "ECONNRESET",
      "ECONNABORTED",
      "EPIPE",
      "ETIMEDOUT",
      "EHOSTUNREACH",
      "EHOSTDOWN",
      "ENETUNREACH",
      "ENETDOWN",
      "ENETRESET",
      "EADDRNOTAVAIL",
      "ENOTFOUND",
      "EAI_AGAIN",
      "ERR_STREAM_DESTROYED",
      "ERR_STREAM_WRITE_AFTER_END"
    ],
    lost
  ),
  ...codes(
    [
      "SELF_SIGNED_CERT",
      "DEPTH_ZERO_SELF_SIGNED_CERT",
      "UNABLE_TO_",
      "CERT_",
      "ERR_TLS_CERT_ALTNAME_INVALID",
      "HOSTNAME_MISMATCH"
    ],
    tlsCertificate
  )
]

/**
 * PostgreSQL, as the server and node-postgres report it. Where the peers' tables disagree:
 *
 * - 08004 is a server that rejects the connection, so it is `Rejected` here (peers: network error).
 * - 53300 (too many connections) is `Saturated`: the host lives, so nobody fails over (Go: network).
 * - 08 and 58 (system error) lose the connection only if the server itself says FATAL or PANIC: as an
 *   ordinary ERROR they come from a foreign table or a disk, over a connection that is fine.
 * - 57014 (query cancelled) is an ordinary answer.
 *
 * @since 0.1.0
 * @category rules
 */
export const postgres: ReadonlyArray<Rule> = [
  { code: "25006", verdict: { _tag: "ReadOnly" } },
  { code: "28", verdict: credentials },
  {
    code: "3D000",
    verdict: rejected("Database", "database", "the server has no database of this name")
  },
  {
    code: "57P04",
    verdict: rejected("Database", "database", "this database was dropped")
  },
  {
    code: "42501",
    severity: "FATAL",
    verdict: rejected("Privilege", "username", "the user may not connect to this database")
  },
  {
    code: "08004",
    verdict: rejected(
      "Privilege",
      "username",
      "the server rejects connections of this user or to this database"
    )
  },
  { code: "53300", verdict: { _tag: "Saturated" } },
  { code: "57P03", verdict: unavailable },
  ...codes(["57P01", "57P02", "57P05"], lost),
  { severity: "FATAL", verdict: lost },
  { severity: "PANIC", verdict: lost },
  {
    message: /^SASL: /,
    verdict: rejected(
      "Credentials",
      "password",
      "the server asks for a password, and none is given or it does not fit"
    )
  },
  { message: /^The server does not support SSL connections/, verdict: tlsUnsupported },
  { message: /^There was an error establishing an SSL connection/, verdict: notADatabase },
  { message: /^Not a PostgreSQL server/, verdict: notADatabase },
  {
    message: /^(Connection terminated|Client has encountered a connection error|Client was closed)/,
    verdict: lost
  },
  { message: /^(timeout expired|timeout exceeded when trying to connect)/, verdict: lost },
  { message: /^(Query read timeout|No answer within)/, verdict: { _tag: "Timeout" } }
]

interface Facts {
  readonly code: string
  readonly severity: string
  readonly message: string
}

const text = (u: unknown): string => (typeof u === "string" ? u : "")

const factsOf = (error: object): Facts => ({
  code: "code" in error ? text(error.code) : "",
  severity: "severity" in error ? text(error.severity) : "",
  message: "message" in error ? text(error.message) : ""
})

/** Causes nest three or four deep in practice; the bound is for cycles. */
const MAX_CAUSES = 16

/** An error, its causes, and the members of an `AggregateError` (Node's happy eyeballs make them). */
const chain = (error: unknown): ReadonlyArray<Facts> => {
  const facts: Array<Facts> = []
  const queue: Array<unknown> = [error]
  for (let i = 0; i < queue.length && facts.length < MAX_CAUSES; i++) {
    const current = queue[i]
    if (!Predicate.isRecord(current) && !(current instanceof Error)) continue
    facts.push(factsOf(current))
    if ("cause" in current) queue.push(current.cause)
    if ("errors" in current && Array.isArray(current.errors)) queue.push(...current.errors)
  }
  return facts
}

const matches = (rule: Rule, facts: Facts): boolean =>
  (rule.code !== undefined || rule.severity !== undefined || rule.message !== undefined) &&
  (rule.code === undefined || facts.code.startsWith(rule.code)) &&
  (rule.severity === undefined || facts.severity === rule.severity) &&
  (rule.message === undefined || rule.message.test(facts.message))

/**
 * The verdict of the first rule that matches the error or one of its causes. An error that no rule
 * knows is the statement's own.
 *
 * @since 0.1.0
 * @category classification
 */
export const classify = (self: ErrorClassifier, error: unknown): Verdict => {
  for (const facts of chain(error)) {
    const rule = self.rules.find((rule) => matches(rule, facts))
    if (rule !== undefined) return rule.verdict
  }
  return statement
}

/**
 * The error's SQLSTATE, where it has one. Each has a digit, which tells it from `EPIPE`.
 *
 * @since 0.1.0
 * @category getters
 */
export const sqlState = (error: unknown): string | undefined =>
  chain(error).find((facts) => /^(?=.*\d)[0-9A-Z]{5}$/.test(facts.code))?.code

/**
 * The message of the error, or of its first cause that has one.
 *
 * @since 0.1.0
 * @category getters
 */
export const describe = (error: unknown): string =>
  chain(error).find((facts) => facts.message !== "")?.message ?? String(error)

/**
 * The error as a rejection of the connection, if that is what it is.
 *
 * @since 0.1.0
 * @category classification
 */
export const rejection = (
  self: ErrorClassifier,
  host: Host,
  error: unknown
): ConnectionRejected | ConfigurationError | undefined => {
  if (error instanceof ConnectionRejected || error instanceof ConfigurationError) return error
  const verdict = classify(self, error)
  return verdict._tag === "Rejected"
    ? new ConnectionRejected({
        reason: verdict.reason,
        field: verdict.field,
        hint: verdict.hint,
        host,
        sqlState: sqlState(error),
        cause: error
      })
    : undefined
}
