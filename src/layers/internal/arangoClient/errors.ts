/**
 * What the typed client fails with, beside the library's own errors.
 *
 * @internal
 */
import { Data } from "effect"
import type { Outcome } from "../../../Errors.js"
import type { Host } from "../../../Host.js"
import { address } from "../../../Host.js"

/**
 * The server answered with an error.
 *
 * @since 0.1.0
 * @category errors
 */
export class ArangoError extends Data.TaggedError("ArangoError")<{
  /** The HTTP status. */
  readonly status: number
  /** ArangoDB's number: 1202 document not found, 1210 unique constraint violated, 1200 conflict. 0 of a proxy. */
  readonly errorNum: number
  readonly errorMessage: string
  readonly method: string
  readonly path: string
}> {
  /** A document was changed meanwhile, or a transaction lost against another: it may be run again. */
  get isConflict(): boolean {
    return this.errorNum === 1200
  }

  override get message(): string {
    return `${this.errorMessage} (${this.status}/${this.errorNum}, ${this.method} ${this.path})`
  }
}

/**
 * A cursor is gone with the server that it was on. The rows that came before are good; there are more, which nobody
 * has.
 *
 * @since 0.1.0
 * @category errors
 */
export class CursorLost extends Data.TaggedError("CursorLost")<{
  readonly host: Host
  /** How many batches had come. */
  readonly batches: number
  readonly cause: unknown
}> {
  readonly outcome: Outcome = "Unknown"
  readonly hint = "run the query again from its beginning, if it only reads"

  override get message(): string {
    return `the cursor on ${address(this.host)} is lost after ${this.batches} batches; ${this.hint}`
  }
}

/**
 * A stream transaction is gone with the server that it was on. `outcome: "RolledBack"`: its commit was not sent, so
 * nothing of it exists: run it again from its beginning. `outcome: "Unknown"`: its commit was sent and not answered.
 *
 * @since 0.1.0
 * @category errors
 */
export class TransactionLost extends Data.TaggedError("TransactionLost")<{
  readonly host: Host
  readonly outcome: "RolledBack" | "Unknown"
  readonly cause: unknown
}> {
  get hint(): string {
    return this.outcome === "RolledBack"
      ? "its commit was not sent, so it was rolled back: run it again from its beginning"
      : "its commit was sent and not answered: look whether its work is there before running it again"
  }

  override get message(): string {
    return `the transaction on ${address(this.host)} is lost; ${this.hint}`
  }
}
