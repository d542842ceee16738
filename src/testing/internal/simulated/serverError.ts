/**
 * The errors of a server and of the network below it, as node-postgres reports them.
 *
 * @internal
 */

/** What a server says. @internal */
export class ServerError extends Error {
  override readonly name = "error"
  constructor(
    readonly code: string,
    message: string,
    readonly severity: "ERROR" | "FATAL" = "ERROR"
  ) {
    super(message)
  }
}

/** PostgreSQL's own words for what tests ask for most. */
const MESSAGES: Readonly<Record<string, string>> = {
  "23505": "duplicate key value violates unique constraint",
  "25006": "cannot execute this statement in a read-only transaction",
  "25P02": "current transaction is aborted, commands ignored until end of transaction block",
  "28P01": "password authentication failed",
  "28000": "no pg_hba.conf entry for this host",
  "3D000": "database does not exist",
  "40001": "could not serialize access due to concurrent update",
  "40P01": "deadlock detected",
  "42501": "permission denied",
  "53300": "sorry, too many clients already",
  "57014": "canceling statement due to user request",
  "57P01": "terminating connection due to administrator command",
  "57P02": "terminating connection because of crash of another server process",
  "57P03": "the database system is starting up"
}

/** @internal */
export const serverError = (
  sqlState: string,
  options?: { readonly message?: string | undefined; readonly isFatal?: boolean | undefined }
): ServerError =>
  new ServerError(
    sqlState,
    options?.message ?? MESSAGES[sqlState] ?? `the simulated server says ${sqlState}`,
    options?.isFatal === true ? "FATAL" : "ERROR"
  )

const systemError = (code: string, message: string): Error =>
  Object.assign(new Error(message), { code })

/** @internal */
export const reset = (): Error => systemError("ECONNRESET", "read ECONNRESET")

/** @internal */
export const refused = (address: string): Error =>
  systemError("ECONNREFUSED", `connect ECONNREFUSED ${address}`)

/** @internal */
export const notFound = (host: string): Error =>
  systemError("ENOTFOUND", `getaddrinfo ENOTFOUND ${host}`)

/** node-postgres' own words, and no code. @internal */
export const connectTimeout = (): Error => new Error("timeout expired")
