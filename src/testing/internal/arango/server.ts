/**
 * One server: its mode, its copy of the data, and what it answers.
 *
 * @internal
 */
import type { Credentials } from "./credentials.js"
import * as Auth from "./credentials.js"
import * as Documents from "./documents.js"
import type { Mode } from "./gate.js"
import * as Gate from "./gate.js"
import type { MutableRecord } from "./log.js"
import type { Call, Reply } from "./protocol.js"
import { failure, notFound, ok } from "./protocol.js"
import type { Cursors } from "./queries.js"
import * as Queries from "./queries.js"
import type { Operation, Store, Workspace } from "./store.js"
import type { Transactions } from "./transactions.js"
import * as Transactional from "./transactions.js"

/** @internal */
export type Deployment = "active-failover" | "cluster" | "single"

/** @internal */
export interface Server {
  readonly id: string
  /** `http://host:port`, known once it listens. */
  url: string
  mode: Mode
  store: Store
  alive: boolean
  /** Whose data it copies. Stale from the death of a leader to the next election, as in the original. */
  follows: Server | undefined
  /** What it writes into `X-Arango-Endpoint` instead of the truth. */
  leaderHeader: string | undefined
  credentials: Credentials | undefined
  readonly cursors: Cursors
  readonly transactions: Transactions
}

/** What a server needs of the deployment that it is part of. */
interface Surroundings {
  readonly deployment: Deployment
  readonly endpoints: () => ReadonlyArray<string> | undefined
  readonly committed: (server: Server, operation: Operation) => void
  readonly nextId: () => string
}

class ReadOnly extends Error {}

const information = (
  server: Server,
  { deployment }: Surroundings,
  call: Call
): Reply | undefined => {
  if (call.method !== "GET") return undefined
  switch (call.path) {
    case "/_api/version":
      return { status: 200, body: { server: "arango", license: "community", version: "3.11.8" } }
    case "/_admin/server/role":
      return ok({
        role: deployment === "cluster" ? "COORDINATOR" : "SINGLE",
        mode: deployment === "active-failover" ? "resilient" : "default"
      })
    case "/_admin/server/availability":
    case "/_admin/server/mode":
      return ok({ mode: "default" })
    case "/_admin/server/id":
      return deployment === "cluster"
        ? ok({ id: server.id })
        : failure(500, 4, "ServerState is not in cluster mode")
    case "/_admin/status":
      return ok({ serverInfo: { serverId: server.id, role: "SINGLE" } })
    case "/_admin/time":
      return ok({ time: (server.credentials?.now() ?? 0) / 1000 })
    case "/_admin/echo":
      return ok({ headers: call.headers, requestType: call.method })
    case "/_api/replication/server-id":
      return { status: 200, body: { serverId: server.id } }
    case "/_api/database":
    case "/_api/database/user":
      return ok({ result: ["_system"] })
    case "/_api/database/current":
      return ok({ result: { id: "1", name: call.database, isSystem: call.database === "_system" } })
    default:
      return undefined
  }
}

const members = (server: Server, { deployment, endpoints }: Surroundings): Reply => {
  if (deployment === "single") {
    return failure(501, 9, "automatic failover is not enabled")
  }
  const listed = endpoints()
  return listed === undefined || server.mode === "election"
    ? failure(503, 1495, "leadership challenge is ongoing")
    : ok({ endpoints: listed.map((endpoint) => ({ endpoint })) })
}

const route = (
  server: Server,
  surroundings: Surroundings,
  call: Call,
  workspace: Workspace
): Reply => {
  if (call.path === "/_api/cluster/endpoints") return members(server, surroundings)
  const subject = Transactional.workspaceOf(call, server.transactions, workspace)
  if ("status" in subject) return subject
  return (
    Auth.login(server.credentials, call) ??
    information(server, surroundings, call) ??
    Documents.collections(call, subject) ??
    Documents.documents(call, subject) ??
    Queries.queries(call, server.cursors, subject) ??
    Transactional.transactions(call, server.transactions, workspace) ??
    notFound(call)
  )
}

/** On every answer of a server that does not lead, also on 200 and 401. */
const marks = (server: Server): Readonly<Record<string, string>> => {
  switch (server.mode) {
    case "follower":
      return {
        "x-arango-endpoint": server.leaderHeader ?? server.follows?.url ?? "",
        "x-arango-potential-dirty-read": "true"
      }
    case "election":
      return { "x-arango-endpoint": server.leaderHeader ?? "" }
    default:
      return {}
  }
}

/** @internal */
export const serve =
  (server: Server, surroundings: Surroundings) =>
  (call: Call, record: MutableRecord): Reply => {
    const withMarks = (reply: Reply): Reply => ({
      ...reply,
      headers: { ...reply.headers, ...marks(server) }
    })
    const refused = Gate.refusal(server.mode, call) ?? Auth.refusal(server.credentials, call)
    if (refused !== undefined) return withMarks(refused)
    record.executed = true
    const workspace: Workspace = {
      store: server.store,
      nextId: surroundings.nextId,
      write: (operation) => {
        if (Gate.isReadOnly(server.mode)) throw new ReadOnly()
        server.store.apply(operation)
        record.operations.push(operation)
        surroundings.committed(server, operation)
      }
    }
    try {
      return withMarks(route(server, surroundings, call, workspace))
    } catch (error) {
      if (!(error instanceof ReadOnly)) throw error
      record.executed = false
      return withMarks(failure(403, 1004, "cannot execute write operation: server is read-only"))
    }
  }
