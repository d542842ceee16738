/**
 * A request under way: what was asked, how, and until when.
 *
 * @internal
 */
import { HttpClientRequest } from "@effect/platform"
import { Duration } from "effect"
import { ALLOW_DIRTY_READ } from "./answer.js"
import type { Settings } from "./settings.js"

type Request = HttpClientRequest.HttpClientRequest

/** @internal */
export interface Errand {
  readonly request: Request
  readonly path: string
  /** To one server and no other. */
  readonly isPinned: boolean
  readonly isDirty: boolean
  /** Whether answers are looked into for refusals. */
  readonly isRouted: boolean
  /** Whether it may be sent again though a server may have executed it. */
  readonly mayRepeat: boolean
  /** For one attempt. */
  readonly millis: number
  readonly startedAt: number
  /** Clock milliseconds. */
  readonly deadline: number
  /** Until when somebody is looked for who serves. */
  readonly searchUntil: number
}

/** The caller's time is divided by the number of endpoints, three at most: the documents' rule. */
const MOST_PARTS = 3

/** Whoever asks this wants to know of this server. */
const AVAILABILITY = "/_admin/server/availability"
const CURSOR = /^(\/_db\/[^/]+)?\/_api\/cursor(\/|$)/

const isRead = ({ method }: Request): boolean => method === "GET" || method === "HEAD"

/**
 * Whether the body is there still after it was sent.
 *
 * @internal
 */
export const isReplayable = ({ body }: Request): boolean => {
  switch (body._tag) {
    case "Empty":
    case "Uint8Array":
    case "FormData":
      return true
    case "Raw":
      return typeof body.body === "string" || ArrayBuffer.isView(body.body)
    case "Stream":
      return false
  }
}

/** @internal */
export interface Rules {
  readonly timeoutMillis: number
  readonly failoverTimeoutMillis: number
  readonly followLeader: boolean
  readonly repeatReads: boolean
}

/** @internal */
export const make = (
  request: Request,
  path: string,
  settings: Settings,
  rules: Rules,
  endpoints: number,
  startedAt: number
): Errand => {
  const isPinned = settings.host !== undefined
  const isDirty = settings.allowsDirty && (isRead(request) || CURSOR.test(path))
  const timeout =
    settings.timeout === undefined ? rules.timeoutMillis : Duration.toMillis(settings.timeout)
  const parts = isPinned ? 1 : Math.min(MOST_PARTS, endpoints)
  return {
    request: isDirty ? HttpClientRequest.setHeader(request, ALLOW_DIRTY_READ, "true") : request,
    path,
    isPinned,
    isDirty,
    isRouted: !isPinned && rules.followLeader && !path.endsWith(AVAILABILITY),
    mayRepeat: settings.isIdempotent || (rules.repeatReads && isRead(request)),
    millis: timeout / parts,
    startedAt,
    deadline: startedAt + timeout,
    searchUntil: startedAt + Math.min(timeout, rules.failoverTimeoutMillis)
  }
}
