/**
 * Whether a request had left this process completely when it failed. The HTTP client below does not tell, but Node's
 * diagnostics channels do: every attempt carries a number in a header, by which its events are known.
 *
 * | client | channel | the request is written when |
 * |---|---|---|
 * | `node:http` | `http.client.request.start` | its `finish` fires: the kernel has all of it |
 * | undici, and the global `fetch` | `undici:request:create`, `undici:request:bodySent` | its body was handed to an open socket, which can be early: that errs on the safe side |
 * | any other | - | nobody can tell: only errors of the connect phase mean that it was not |
 *
 * A server executes no request that it got a part of: ArangoDB takes no chunked bodies, so a Content-Length says
 * how much there is.
 *
 * @internal
 */
import { Effect, GlobalValue, Predicate, type Scope } from "effect"
import * as DiagnosticsChannel from "node:diagnostics_channel"

/** @internal */
export const HEADER = "x-effect-failover-attempt"

/** @internal */
export interface Tracked {
  readonly id: string
  /** Whether it was, as far as anybody said; without a tracker nobody says anything. */
  written: "no" | "yes" | "unseen"
  /** Where undici writes it. */
  socket: unknown
}

interface State {
  next: number
  subscribers: number
  readonly attempts: Map<string, Tracked>
}

// Shared by ESM and CJS copies of this module, whose attempts meet in the same channels.
const state = GlobalValue.globalValue("effect-failover/arango/written", (): State => ({
  next: 0,
  subscribers: 0,
  attempts: new Map()
}))

interface ClientRequest {
  readonly getHeader: (name: string) => unknown
  readonly once: (event: "finish", listener: () => void) => unknown
}

const isClientRequest = (u: unknown): u is ClientRequest =>
  Predicate.hasProperty(u, "getHeader") &&
  typeof u.getHeader === "function" &&
  Predicate.hasProperty(u, "once")

const requestOf = (message: unknown): unknown =>
  Predicate.hasProperty(message, "request") ? message.request : undefined

/** A client that sends a request again by itself has written it once already. */
const created = (attempt: Tracked): void => {
  if (attempt.written === "unseen") attempt.written = "no"
}

const onNodeStart = (message: unknown): void => {
  const request = requestOf(message)
  if (state.attempts.size === 0 || !isClientRequest(request)) return
  const id = request.getHeader(HEADER)
  const attempt = typeof id === "string" ? state.attempts.get(id) : undefined
  if (attempt === undefined) return
  created(attempt)
  request.once("finish", () => {
    attempt.written = "yes"
  })
}

/** A list of names and values in turn; older ones have the text that goes over the wire. */
const idIn = (headers: unknown): string | undefined => {
  if (Array.isArray(headers)) {
    for (let i = 0; i + 1 < headers.length; i += 2) {
      if (headers[i] === HEADER) return String(headers[i + 1])
    }
    return undefined
  }
  return typeof headers === "string"
    ? new RegExp(`^${HEADER}: (\\S+)`, "m").exec(headers)?.[1]
    : undefined
}

/** The attempt, kept on undici's own request: a table of requests would cost the collector more. */
const ATTEMPT = Symbol.for("effect-failover/arango/attempt")

interface UndiciRequest {
  readonly headers?: unknown
  [ATTEMPT]?: Tracked
}

interface UndiciMessage {
  readonly request: UndiciRequest
  readonly socket?: unknown
}

const isUndiciMessage = (message: unknown): message is UndiciMessage =>
  Predicate.isObject(requestOf(message))

const onUndiciCreate = (message: unknown): void => {
  if (state.attempts.size === 0 || !isUndiciMessage(message)) return
  const id = idIn(message.request.headers)
  const attempt = id === undefined ? undefined : state.attempts.get(id)
  if (attempt === undefined) return
  created(attempt)
  message.request[ATTEMPT] = attempt
}

const onUndiciHeaders = (message: unknown): void => {
  if (!isUndiciMessage(message)) return
  const attempt = message.request[ATTEMPT]
  if (attempt !== undefined) attempt.socket = message.socket
}

/**
 * undici says so of a body that waits for a full socket to drain, too, when that socket is closed. But had the kernel
 * taken the rest, the socket would have drained, and this have been said, in that same turn and before the close.
 */
const isCutOff = (socket: unknown): boolean =>
  Predicate.hasProperty(socket, "destroyed") && socket.destroyed === true

const onUndiciSent = (message: unknown): void => {
  const attempt = isUndiciMessage(message) ? message.request[ATTEMPT] : undefined
  if (attempt !== undefined && !isCutOff(attempt.socket)) attempt.written = "yes"
}

const channels: ReadonlyArray<readonly [string, (message: unknown) => void]> = [
  ["http.client.request.start", onNodeStart],
  ["undici:request:create", onUndiciCreate],
  ["undici:client:sendHeaders", onUndiciHeaders],
  ["undici:request:bodySent", onUndiciSent]
]

/**
 * Listens for as long as the scope. Requests of others pay for one comparison.
 *
 * @internal
 */
export const listen: Effect.Effect<void, never, Scope.Scope> = Effect.acquireRelease(
  Effect.sync(() => {
    if (state.subscribers++ > 0) return
    for (const [name, listener] of channels) DiagnosticsChannel.subscribe(name, listener)
  }),
  () =>
    Effect.sync(() => {
      if (--state.subscribers > 0) return
      for (const [name, listener] of channels) DiagnosticsChannel.unsubscribe(name, listener)
    })
)

/**
 * One attempt; its id is for the header. It is tracked until it is closed.
 *
 * @internal
 */
export const open = (): Tracked => {
  const attempt: Tracked = {
    id: (state.next++).toString(36),
    written: "unseen",
    socket: undefined
  }
  state.attempts.set(attempt.id, attempt)
  return attempt
}

/** @internal */
export const close = (attempt: Tracked): void => void state.attempts.delete(attempt.id)

/**
 * A request that was aborted may have been given to the kernel in this very turn, and its `finish` be under way: it
 * has fired when the event loop has gone round.
 *
 * @internal
 */
export const settle: Effect.Effect<void> = Effect.async((resume) => {
  setImmediate(() => resume(Effect.void))
})
