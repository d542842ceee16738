/**
 * The way of one request over the endpoints, while it has not been executed. Each endpoint is asked once in a pass;
 * passes are repeated as long as somebody answers that he cannot serve now.
 *
 * @internal
 */
import type { Tried } from "../../Errors.js"
import type { Book } from "./book.js"
import type { Failed } from "./attempt.js"
import type { Endpoint } from "./endpoint.js"

/** @internal */
export interface Journey {
  readonly from: Endpoint
  readonly asked: Set<string>
  readonly tried: Map<string, Tried>
  attempts: number
  /** Whether anybody answered, in this pass, and ever. */
  heard: boolean
  everHeard: boolean
  /** The last time that the request was sent and not answered. */
  sent: { readonly endpoint: Endpoint; readonly failed: Failed } | undefined
  /** Milliseconds to wait before the next pass. */
  pause: number
}

/** Elections take seconds: the first look comes soon, the others do not crowd the servers. */
const FIRST_PAUSE_MILLIS = 20
const LONGEST_PAUSE_MILLIS = 250

/** @internal */
export const begin = (from: Endpoint): Journey => ({
  from,
  asked: new Set(),
  tried: new Map(),
  attempts: 0,
  heard: false,
  everHeard: false,
  sent: undefined,
  pause: FIRST_PAUSE_MILLIS
})

/** @internal */
export const record = (self: Journey, endpoint: Endpoint, lastError: string): void => {
  self.asked.add(endpoint.origin)
  self.tried.set(endpoint.origin, {
    host: endpoint.host,
    attempts: (self.tried.get(endpoint.origin)?.attempts ?? 0) + 1,
    lastError
  })
}

/** @internal */
export const hear = (self: Journey): void => {
  self.heard = true
  self.everHeard = true
}

/**
 * Whom to ask next in this pass. One that failed lately is asked only if nobody else answered, even if a follower names
 * it: a follower names a dead leader until the next election.
 *
 * @internal
 */
export const next = (
  self: Journey,
  book: Book,
  named: Endpoint | undefined,
  now: number
): Endpoint | undefined => {
  const isOpen = (_: Endpoint) => !self.asked.has(_.origin)
  const isTrusted = (_: Endpoint) => !book.isSuspect(_, now)
  if (named !== undefined && isOpen(named) && isTrusted(named)) return named
  const all = book.all()
  const at = all.findIndex((_) => _.origin === book.current().origin)
  const open = [...all.slice(at), ...all.slice(0, Math.max(at, 0))].filter(isOpen)
  return open.find(isTrusted) ?? (self.heard ? undefined : open[0])
}

/** @internal */
export const nextPass = (self: Journey): number => {
  const pause = self.pause
  self.pause = Math.min(pause * 2, LONGEST_PAUSE_MILLIS)
  self.asked.clear()
  self.heard = false
  return pause
}
