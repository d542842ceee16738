/**
 * A request that is aborted from outside when its time is up, in the caller's own fiber: a fiber for each request would
 * cost more than all the rest of this library's work for it. Only clients that take our controller for their own can be
 * used so, which is seen from their asking it for its signal; the others are given up with the fiber that they run in
 * (`Deadlines.limit`).
 *
 * A client leaves it to the controller's owner to abort an answer that is not read to its end: `TiedResponse` does what
 * the client does for requests of its own.
 *
 * @internal
 */
import type { HttpClient, HttpClientError, HttpClientRequest } from "@effect/platform"
import { HttpClientResponse as Responses, HttpIncomingMessage } from "@effect/platform"
import { Cause, Effect, GlobalValue, Inspectable, Stream } from "effect"

type Request = HttpClientRequest.HttpClientRequest
type Response = Responses.HttpClientResponse

/**
 * Where `HttpClient.withScope` keeps the controllers of its requests. To go through it would need a `Scope` in the
 * context of every request: a third of what a whole request costs with undici. Should it ever be kept elsewhere, nobody
 * asks our controllers for their signals, and every request gets a fiber.
 */
const controllers = GlobalValue.globalValue(
  "@effect/platform/HttpClient/scopedRequests",
  () => new WeakMap<Request, AbortController>()
)

/** @internal */
export class Tie extends AbortController {
  /** Whether the client uses it: aborting ends the request. */
  isUsed = false

  override get signal(): AbortSignal {
    this.isUsed = true
    return super.signal
  }
}

/** An answer that nobody reads holds its connection until it is forgotten. */
const unread = GlobalValue.globalValue(
  "effect-failover/arango/unread",
  () => new FinalizationRegistry((tie: Tie) => tie.abort())
)

/**
 * Nearly every answer is read by the step that gets it. Only the others are left to the collector, to which each of
 * them is work.
 */
let fresh: Array<TiedResponse> = []
const now = Promise.resolve()
const look = (): void => {
  const all = fresh
  fresh = []
  for (const response of all) response.leave()
}

class TiedResponse extends Inspectable.Class implements Response {
  readonly [Responses.TypeId]: Responses.TypeId = Responses.TypeId
  readonly [HttpIncomingMessage.TypeId]: HttpIncomingMessage.TypeId = HttpIncomingMessage.TypeId

  private state: "fresh" | "unread" | "read" = "fresh"

  constructor(
    private readonly original: Response,
    private readonly to: Tie
  ) {
    super()
    if (fresh.push(this) === 1) void now.then(look)
  }

  /** Nobody has read it so far. */
  leave(): void {
    if (this.state !== "fresh") return
    this.state = "unread"
    unread.register(this, this.to, this)
  }

  private take(): void {
    if (this.state === "unread") unread.unregister(this)
    this.state = "read"
  }

  private tie<A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> {
    return Effect.uninterruptibleMask((restore) => {
      this.take()
      return Effect.catchAllCause(restore(effect), (cause) => {
        if (Cause.isInterrupted(cause)) this.to.abort()
        return Effect.failCause(cause)
      })
    })
  }

  get request() {
    return this.original.request
  }
  get status() {
    return this.original.status
  }
  get headers() {
    return this.original.headers
  }
  get cookies() {
    return this.original.cookies
  }
  get remoteAddress() {
    return this.original.remoteAddress
  }
  get formData() {
    return this.tie(this.original.formData)
  }
  get text() {
    return this.tie(this.original.text)
  }
  get json() {
    return this.tie(this.original.json)
  }
  get urlParamsBody() {
    return this.tie(this.original.urlParamsBody)
  }
  get arrayBuffer() {
    return this.tie(this.original.arrayBuffer)
  }
  get stream() {
    return Stream.suspend(() => {
      this.take()
      return Stream.ensuring(
        this.original.stream,
        Effect.sync(() => this.to.abort())
      )
    })
  }
  override toJSON() {
    return this.original.toJSON()
  }
}

/**
 * The request, which ends when the tie is aborted if the client uses it.
 *
 * @internal
 */
export const execute = (
  client: HttpClient.HttpClient,
  request: Request,
  tie: Tie
): Effect.Effect<Response, HttpClientError.HttpClientError> => {
  controllers.set(request, tie)
  return client.execute(request)
}

/** @internal */
export const answer = (response: Response, tie: Tie): Response =>
  tie.isUsed ? new TiedResponse(response, tie) : response
