/**
 * `/_api/transaction`: stream transactions. What they write is seen by them alone until they commit; they live
 * and die with their server.
 *
 * @internal
 */
import type { Call, Reply } from "./protocol.js"
import { below, failure, notFound, ok } from "./protocol.js"
import type { Operation, Store, StoredDocument, Workspace } from "./store.js"

interface Transaction {
  readonly store: Store
  readonly operations: Array<Operation>
  /** The documents as they were when it first wrote them. */
  readonly seen: Map<string, StoredDocument | undefined>
  status: "running" | "committed" | "aborted"
}

/** @internal */
export type Transactions = Map<string, Transaction>

const unknownTransaction = failure(404, 1655, "transaction not found")

const place = (operation: Operation): string | undefined =>
  operation.kind === "put" || operation.kind === "remove"
    ? JSON.stringify([operation.database, operation.collection, operation.key])
    : undefined

const find = (store: Store, operation: Operation): StoredDocument | undefined =>
  operation.kind === "put" || operation.kind === "remove"
    ? store.collection(operation.database, operation.collection)?.get(operation.key)
    : undefined

/**
 * The view of the transaction that a request names in `x-arango-trx-id`.
 *
 * @internal
 */
export const workspaceOf = (
  call: Call,
  transactions: Transactions,
  server: Workspace
): Workspace | Reply => {
  const id = call.headers["x-arango-trx-id"]
  if (typeof id !== "string") return server
  const transaction = transactions.get(id)
  if (transaction === undefined || transaction.status !== "running") return unknownTransaction
  return {
    nextId: server.nextId,
    store: transaction.store,
    write: (operation) => {
      const key = place(operation)
      if (key !== undefined && !transaction.seen.has(key)) {
        transaction.seen.set(key, find(server.store, operation))
      }
      transaction.store.apply(operation)
      transaction.operations.push(operation)
    }
  }
}

const commit = (id: string, transaction: Transaction, server: Workspace): Reply => {
  const isStale = transaction.operations.some((operation) => {
    const key = place(operation)
    return (
      key !== undefined && transaction.seen.get(key)?._rev !== find(server.store, operation)?._rev
    )
  })
  if (isStale) {
    transaction.status = "aborted"
    return failure(409, 1200, "write-write conflict")
  }
  transaction.operations.forEach(server.write)
  transaction.status = "committed"
  return ok({ result: { id, status: "committed" } })
}

/** @internal */
export const transactions = (
  call: Call,
  running: Transactions,
  server: Workspace
): Reply | undefined => {
  const parts = below("/_api/transaction", call.path)
  if (parts === undefined) return undefined
  const [id] = parts
  if (id === "begin" && call.method === "POST") {
    const created = server.nextId()
    running.set(created, {
      store: server.store.copy(),
      operations: [],
      seen: new Map(),
      status: "running"
    })
    return ok({ result: { id: created, status: "running" } }, 201)
  }
  if (id === undefined) {
    return call.method === "GET"
      ? ok({ transactions: [...running].map(([id, { status }]) => ({ id, state: status })) })
      : notFound(call)
  }
  const transaction = running.get(id)
  if (transaction === undefined) return unknownTransaction
  switch (call.method) {
    case "GET":
      return ok({ result: { id, status: transaction.status } })
    case "PUT":
      // Committing twice is not an error.
      return transaction.status === "running"
        ? commit(id, transaction, server)
        : transaction.status === "committed"
          ? ok({ result: { id, status: "committed" } })
          : failure(400, 1653, "transaction was aborted")
    case "DELETE":
      if (transaction.status === "committed") {
        return failure(400, 1653, "transaction was committed")
      }
      transaction.status = "aborted"
      return ok({ result: { id, status: "aborted" } })
    default:
      return notFound(call)
  }
}
