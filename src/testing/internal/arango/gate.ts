/**
 * What a server refuses because of its mode, before it looks at anything else: so a refused request is known not
 * to have been executed.
 *
 * @internal
 */
import type { Call, Reply } from "./protocol.js"
import { failure } from "./protocol.js"

/**
 * - `default`: a leader, a coordinator, or a single server: serves everything.
 * - `follower`: answers 503/1496 with the leader's address (the server's REDIRECT mode).
 * - `election`: answers 503/1495 (TRYAGAIN).
 * - `maintenance`: starting up, 503/503.
 * - `stopping`: shutting down, 503/30.
 *
 * @internal
 */
export type Mode = "default" | "follower" | "election" | "maintenance" | "stopping"

/** The prefixes that arangod lets through on a follower. */
const whileFollowing =
  /^\/(_admin\/(shutdown|cluster\/health|compact|log|server\/|status|statistics)|_api\/(agency\/agency-callbacks|cluster\/|engine\/stats|replication|ttl\/statistics|wal|version))/

/** Later 3.x let the catalogue be read as well: with the follower's own users and collections. */
const catalogue = /^\/_api\/collection/

const isVersion = /^\/_api\/version/

const allowsDirtyRead = (call: Call): boolean =>
  call.headers["x-arango-allow-dirty-read"] === "true"

const readable = new Set(["GET", "HEAD"])

/** @internal */
export const refusal = (mode: Mode, call: Call): Reply | undefined => {
  if (call.path === "/_admin/server/availability") {
    return mode === "default" ? undefined : failure(503, 503, "service unavailable")
  }
  switch (mode) {
    case "default":
      return undefined
    case "maintenance":
      return failure(503, 503, "service unavailable due to startup or maintenance mode")
    case "stopping":
      return failure(503, 30, "shutdown in progress")
    case "follower":
      if (allowsDirtyRead(call) || whileFollowing.test(call.path)) return undefined
      return readable.has(call.method) && catalogue.test(call.path)
        ? undefined
        : failure(503, 1496, "not a leader")
    case "election":
      return whileFollowing.test(call.path) && !isVersion.test(call.path)
        ? undefined
        : failure(503, 1495, "leadership challenge is ongoing")
  }
}

/**
 * A follower that serves dirty reads is read-only.
 *
 * @internal
 */
export const isReadOnly = (mode: Mode): boolean => mode === "follower"
