/**
 * A request that is aborted from outside when its time is up, in the caller's own fiber: a fiber for each request would
 * cost more than all the rest of this library's work for it. Only for clients that are known to end an aborted request;
 * the others are given up with the fiber that they run in (`Deadlines.limit`).
 *
 * `HttpClient.withScope` is what aborts. It leaves it to its user to abort, too, an answer that is not read to its end:
 * `TiedResponse` does what the client does for requests without a scope.
 *
 * @internal
 */
import type { HttpClientError, HttpClientRequest, HttpClientResponse } from "@effect/platform"
import { HttpClient, HttpClientResponse as Responses, HttpIncomingMessage } from "@effect/platform"
import { Cause, Effect, Exit, GlobalValue, Inspectable, Scope, Stream } from "effect"
import type { Deadlines, Limited } from "./deadlines.js"

type Response = HttpClientResponse.HttpClientResponse

const close = (scope: Scope.CloseableScope): Effect.Effect<void> => Scope.close(scope, Exit.void)

/** An answer that nobody reads holds its connection until it is forgotten. */
const unread = GlobalValue.globalValue(
  "effect-failover/arango/unread",
  () =>
    new FinalizationRegistry((scope: Scope.CloseableScope) => {
      Effect.runFork(close(scope))
    })
)

class TiedResponse extends Inspectable.Class implements Response {
  readonly [Responses.TypeId]: Responses.TypeId = Responses.TypeId
  readonly [HttpIncomingMessage.TypeId]: HttpIncomingMessage.TypeId = HttpIncomingMessage.TypeId

  constructor(
    private readonly original: Response,
    private readonly scope: Scope.CloseableScope
  ) {
    super()
    unread.register(this, scope, this)
  }

  private tie<A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> {
    return Effect.suspend(() => {
      unread.unregister(this)
      return Effect.onInterrupt(effect, () => close(this.scope))
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
      unread.unregister(this)
      return Stream.ensuring(this.original.stream, close(this.scope))
    })
  }
  override toJSON() {
    return this.original.toJSON()
  }
}

/** @internal */
export const make = (client: HttpClient.HttpClient, deadlines: Deadlines) => {
  const scoped = HttpClient.withScope(client)

  return <A>(options: {
    readonly request: HttpClientRequest.HttpClientRequest
    readonly read: (response: Response) => Effect.Effect<A, HttpClientError.HttpClientError>
    readonly millis: number
    readonly onInterrupt: () => void
    /** It was aborted, and does not end. */
    readonly onStuck: () => void
  }): Effect.Effect<Limited<A, HttpClientError.HttpClientError>> =>
    Effect.uninterruptibleMask((restore) =>
      Effect.flatMap(Scope.make(), (scope) => {
        const limit = deadlines.arm(options.millis, {
          expire: () => void Effect.runFork(close(scope)),
          giveUp: options.onStuck
        })
        return restore(
          Effect.flatMap(
            Effect.provideService(scoped.execute(options.request), Scope.Scope, scope),
            (response) => options.read(new TiedResponse(response, scope))
          )
        ).pipe(
          Effect.exit,
          Effect.flatMap((exit) => {
            const expired = limit.disarm()
            if (Exit.isFailure(exit) && Cause.isInterrupted(exit.cause)) {
              options.onInterrupt()
              return Effect.zipRight(close(scope), Effect.interrupt)
            }
            // An answer that came in the very moment is aborted with its request.
            return Effect.succeed({
              exit: expired && Exit.isSuccess(exit) ? undefined : exit,
              expired
            })
          })
        )
      })
    )
}
