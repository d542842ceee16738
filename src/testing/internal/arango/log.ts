/**
 * Every request that a server received, and what became of it: the truth that a client's claims are held against.
 *
 * @internal
 */
import type { IncomingHttpHeaders } from "node:http"
import type { Operation } from "./store.js"

/**
 * One request, as far as it came.
 *
 * @since 0.1.0
 * @category models
 */
export interface RequestRecord {
  /** Grows with every request of the deployment. */
  readonly id: number
  /** Milliseconds of the epoch at which its head was there. */
  readonly at: number
  /** The id of the server that received it. */
  readonly node: string
  readonly method: string
  /** Without `/_db/<database>`. */
  readonly path: string
  readonly database: string
  readonly headers: IncomingHttpHeaders
  /** Whether it was read to its end. */
  readonly complete: boolean
  readonly body: string
  /** Whether it got past the server's gate and did its work. */
  readonly executed: boolean
  /** What it changed, once it is visible to others: a transaction's writes are those of its commit. */
  readonly operations: ReadonlyArray<Operation>
  /** Its answer, `undefined` while (or if) there is none. */
  readonly status: number | undefined
}

/** @internal */
export interface MutableRecord extends RequestRecord {
  complete: boolean
  body: string
  executed: boolean
  readonly operations: Array<Operation>
  status: number | undefined
}

/** @internal */
export interface Log {
  readonly records: Array<MutableRecord>
  readonly begin: (
    _: Pick<RequestRecord, "node" | "method" | "path" | "database" | "headers">
  ) => MutableRecord
}

/** @internal */
export const make = (): Log => {
  let next = 1
  const records: Array<MutableRecord> = []
  return {
    records,
    begin: (request) => {
      const record: MutableRecord = {
        ...request,
        id: next++,
        at: Date.now(),
        complete: false,
        body: "",
        executed: false,
        operations: [],
        status: undefined
      }
      records.push(record)
      return record
    }
  }
}
