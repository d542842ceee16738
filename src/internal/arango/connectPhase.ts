/**
 * Errors that come before the first byte of a request: its name was not resolved, its connection not made, its TLS
 * handshake not finished.
 *
 * @internal
 */
import { Predicate } from "effect"

/** Clients put errors of their own in between; the bound is for cycles. */
const MAX_DEPTH = 8

const codes =
  /^(ECONNREFUSED|EHOSTUNREACH|EHOSTDOWN|ENETUNREACH|ENETDOWN|EADDRNOTAVAIL|ENOTFOUND|EAI_\w+|UND_ERR_CONNECT_TIMEOUT|ERR_TLS_\w+|ERR_SSL_\w+|CERT_\w+|DEPTH_ZERO_SELF_SIGNED_CERT|SELF_SIGNED_CERT_IN_CHAIN|UNABLE_TO_\w+|EPROTO)$/

const of = (error: unknown, depth: number): boolean => {
  if (depth > MAX_DEPTH || !Predicate.isObject(error)) return false
  if (Predicate.hasProperty(error, "syscall") && error.syscall === "connect") return true
  if (Predicate.hasProperty(error, "code") && codes.test(String(error.code))) return true
  // One for each address that a name has: none of them was reached.
  if (error instanceof AggregateError) {
    return error.errors.length > 0 && error.errors.every((_) => of(_, depth + 1))
  }
  return Predicate.hasProperty(error, "cause") && of(error.cause, depth + 1)
}

/** @internal */
export const isConnectPhase = (error: unknown): boolean => of(error, 0)

/**
 * What to show of it, without the layers of the HTTP client.
 *
 * @internal
 */
export const describe = (error: unknown): string => {
  let cause = error
  for (let i = 0; i < MAX_DEPTH; i++) {
    if (!Predicate.hasProperty(cause, "cause") || !(cause.cause instanceof Error)) break
    cause = cause.cause
  }
  if (!(cause instanceof Error)) return String(cause)
  const code = Predicate.hasProperty(cause, "code") ? String(cause.code) : ""
  return cause.message === "" ? code || cause.name : cause.message
}
