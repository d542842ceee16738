/**
 * One request to one endpoint, and what is known of it afterwards.
 *
 * @internal
 */
import type { HttpClient, HttpClientError, HttpClientResponse } from "@effect/platform"
import { HttpClientRequest } from "@effect/platform"
import { Cause, Effect, Exit, Option } from "effect"
import type { Refusal } from "./answer.js"
import * as Answer from "./answer.js"
import { isConnectPhase } from "./connectPhase.js"
import type { Deadlines, Limited } from "./deadlines.js"
import type { Endpoint } from "./endpoint.js"
import * as Tied from "./tied.js"
import * as Written from "./written.js"

/** @internal */
export type Failed = {
  readonly _tag: "Failed"
  /** Whether the request had left completely, or nobody knows that it had not. */
  readonly sent: boolean
  readonly timedOut: boolean
  readonly cause: unknown
}

/** @internal */
export type Outcome =
  | { readonly _tag: "Answered"; readonly response: HttpClientResponse.HttpClientResponse }
  | Refusal
  | Failed

/** @internal */
export interface Attempt {
  readonly endpoint: Endpoint
  readonly request: HttpClientRequest.HttpClientRequest
  readonly path: string
  readonly millis: number
  /** Whether the answer is looked into for a refusal. */
  readonly isRouted: boolean
  readonly allowsDirty: boolean
}

type Answer = Refusal | HttpClientResponse.HttpClientResponse

const isRefusal = (answer: Answer): answer is Refusal => "_tag" in answer

/** The error that this attempt failed with, unless it is one that sending it elsewhere cannot mend. */
const transportError = (
  cause: Cause.Cause<HttpClientError.HttpClientError>
): HttpClientError.HttpClientError | undefined =>
  Option.getOrUndefined(
    Option.filter(
      Cause.failureOption(cause),
      (error) =>
        error.reason === "Transport" ||
        // A refusal whose body broke off: its number is not known.
        (error._tag === "ResponseError" && error.reason === "Decode")
    )
  )

class Silence extends Error {
  override readonly name = "Silence"
}

/** @internal */
export const make = (client: HttpClient.HttpClient, deadlines: Deadlines) => {
  const tied = Tied.make(client, deadlines)
  /** What the tracker sees is one of Node's own clients: those end a request that is aborted. */
  let canAbort = false

  const limited = (
    attempt: Attempt,
    tracked: Written.Tracked
  ): Effect.Effect<Limited<Answer, HttpClientError.HttpClientError>> => {
    const request = HttpClientRequest.setHeader(
      HttpClientRequest.setUrl(attempt.request, attempt.endpoint.origin + attempt.path),
      Written.HEADER,
      tracked.id
    )
    const read = (
      response: HttpClientResponse.HttpClientResponse
    ): Effect.Effect<Answer, HttpClientError.HttpClientError> =>
      attempt.isRouted && Answer.mayBeRefusal(response)
        ? Answer.read(response, attempt.allowsDirty)
        : Effect.succeed(response)
    const onInterrupt = () => Written.close(tracked)
    if (canAbort) {
      const onStuck = () => {
        canAbort = false
      }
      return tied({ request, read, millis: attempt.millis, onInterrupt, onStuck })
    }
    const answer = Effect.flatMap(client.execute(request), read)
    return Effect.map(deadlines.limit(answer, attempt.millis, onInterrupt), (ended) => {
      if (tracked.written !== "unseen") canAbort = true
      return ended
    })
  }

  return (attempt: Attempt): Effect.Effect<Outcome, HttpClientError.HttpClientError> =>
    Effect.suspend(() => {
      const tracked = Written.open()
      return Effect.flatMap(limited(attempt, tracked), (ended) => conclude(tracked, attempt, ended))
    })
}

const conclude = (
  tracked: Written.Tracked,
  attempt: Attempt,
  { exit, expired }: Limited<Answer, HttpClientError.HttpClientError>
): Effect.Effect<Outcome, HttpClientError.HttpClientError> => {
  if (exit !== undefined && Exit.isSuccess(exit)) {
    Written.close(tracked)
    return Effect.succeed(
      isRefusal(exit.value) ? exit.value : { _tag: "Answered", response: exit.value }
    )
  }
  if (expired) {
    return Effect.map(Written.settle, () => {
      Written.close(tracked)
      return {
        _tag: "Failed",
        // What does not even end when it is interrupted may go on to be sent.
        sent: tracked.written !== "no" || exit === undefined,
        timedOut: true,
        cause: new Silence(`no answer within ${Math.round(attempt.millis)} ms`)
      }
    })
  }
  Written.close(tracked)
  if (exit === undefined) return Effect.interrupt
  const error = transportError(exit.cause)
  return error === undefined
    ? Effect.failCause(exit.cause)
    : Effect.succeed({
        _tag: "Failed",
        sent: tracked.written === "yes" || (tracked.written === "unseen" && !isConnectPhase(error)),
        timedOut: false,
        cause: error
      })
}
