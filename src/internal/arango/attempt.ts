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
import { Entry, type Deadlines } from "./deadlines.js"
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

type Result<A> = Effect.Effect<A, HttpClientError.HttpClientError>

/** What follows from the outcome. It is not a step of its own, as `Effect.flatMap` would be: each one costs. */
type Then<A> = (outcome: Outcome) => Result<A>

/** @internal */
export type Send = <A>(attempt: Attempt, then: Then<A>) => Result<A>

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

/**
 * The path that requests take while all is well is `inPlace`: in the caller's fiber, in one step around the client's
 * own. `inFiber` is for clients of which nobody knows yet that an aborted request ends.
 *
 * @internal
 */
export const make = (client: HttpClient.HttpClient, deadlines: Deadlines): Send => {
  /** What the tracker sees is one of Node's own clients: those end a request that is aborted. */
  let canAbort = false

  const looksInto = (attempt: Attempt, response: HttpClientResponse.HttpClientResponse): boolean =>
    attempt.isRouted && Answer.mayBeRefusal(response)

  class InPlace extends Entry {
    readonly tie = new Tied.Tie()

    expire(): void {
      this.tie.abort()
    }

    giveUp(): void {
      canAbort = false
    }
  }

  const inPlace = <A>(attempt: Attempt, then: Then<A>): Result<A> =>
    Effect.uninterruptibleMask((restore) => {
      const tracked = Written.open()
      const entry = new InPlace()
      const { tie } = entry
      deadlines.arm(entry, attempt.millis)
      const proceed = (outcome: Outcome): Result<A> => {
        const next = then(outcome)
        return Exit.isExit(next) ? next : restore(next)
      }
      const answered = (answer: Answer): Result<A> => {
        // An answer that came in the very moment is aborted with its request.
        if (deadlines.disarm(entry)) {
          return Effect.flatMap(conclude(tracked, attempt, undefined, true), proceed)
        }
        if (!tie.isUsed) canAbort = false
        Written.close(tracked)
        return proceed(outcomeOf(answer))
      }
      const failed = (cause: Cause.Cause<HttpClientError.HttpClientError>): Result<A> => {
        const expired = deadlines.disarm(entry)
        if (!Cause.isInterrupted(cause)) {
          const exit = Exit.failCause(cause)
          return Effect.flatMap(conclude(tracked, attempt, exit, expired), proceed)
        }
        Written.close(tracked)
        tie.abort()
        return Effect.failCause(cause)
      }
      return Effect.matchCauseEffect(
        restore(Tied.execute(client, addressed(attempt, tracked), tie)),
        {
          onFailure: failed,
          onSuccess: (response) =>
            looksInto(attempt, response)
              ? Effect.matchCauseEffect(
                  restore(Answer.read(Tied.answer(response, tie), attempt.allowsDirty)),
                  { onFailure: failed, onSuccess: answered }
                )
              : answered(Tied.answer(response, tie))
        }
      )
    })

  const inFiber = (attempt: Attempt): Result<Outcome> =>
    Effect.suspend(() => {
      const tracked = Written.open()
      const tie = new Tied.Tie()
      const answer = Effect.uninterruptibleMask((restore) =>
        restore(Tied.execute(client, addressed(attempt, tracked), tie)).pipe(
          Effect.map((response) => Tied.answer(response, tie)),
          Effect.flatMap((response) =>
            looksInto(attempt, response)
              ? restore(Answer.read(response, attempt.allowsDirty))
              : Effect.succeed<Answer>(response)
          ),
          Effect.onInterrupt(() => Effect.sync(() => tie.abort()))
        )
      )
      const onInterrupt = () => Written.close(tracked)
      return Effect.flatMap(
        deadlines.limit(answer, attempt.millis, onInterrupt),
        ({ exit, expired }) => {
          if (tie.isUsed && tracked.written !== "unseen") canAbort = true
          return conclude(tracked, attempt, exit, expired)
        }
      )
    })

  return (attempt, then) =>
    canAbort ? inPlace(attempt, then) : Effect.flatMap(inFiber(attempt), then)
}

const addressed = (
  { endpoint, path, request }: Attempt,
  tracked: Written.Tracked
): HttpClientRequest.HttpClientRequest =>
  HttpClientRequest.setHeader(
    HttpClientRequest.setUrl(request, endpoint.origin + path),
    Written.HEADER,
    tracked.id
  )

const outcomeOf = (answer: Answer): Outcome =>
  isRefusal(answer) ? answer : { _tag: "Answered", response: answer }

const conclude = (
  tracked: Written.Tracked,
  attempt: Attempt,
  exit: Exit.Exit<Answer, HttpClientError.HttpClientError> | undefined,
  expired: boolean
): Effect.Effect<Outcome, HttpClientError.HttpClientError> => {
  if (exit !== undefined && Exit.isSuccess(exit)) {
    Written.close(tracked)
    return Effect.succeed(outcomeOf(exit.value))
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
