/**
 * An attempt with the header that the endpoint wants. A request that brings its own `Authorization` keeps it.
 *
 * @internal
 */
import type { HttpClientError } from "@effect/platform"
import { HttpClientRequest } from "@effect/platform"
import { Effect } from "effect"
import type { Attempt, Outcome } from "./attempt.js"
import type { Auth } from "./auth.js"
import { isReplayable } from "./errand.js"

type Send = (_: Attempt) => Effect.Effect<Outcome, HttpClientError.HttpClientError>

const withHeader = (attempt: Attempt, header: string): Attempt => ({
  ...attempt,
  request: HttpClientRequest.setHeader(attempt.request, "authorization", header)
})

const isUnauthorized = (outcome: Outcome): boolean =>
  outcome._tag === "Answered" && outcome.response.status === 401

/** @internal */
export const make = (auth: Auth | undefined, send: Send): Send => {
  if (auth === undefined) return send
  /** Once, with a new token: what was refused with 401 was not executed. */
  const again = (attempt: Attempt, refused: Outcome) =>
    Effect.flatMap(auth.authorize(attempt.endpoint, attempt.millis), (authorization) =>
      authorization._tag === "Authorized" && authorization.header !== undefined
        ? send(withHeader(attempt, authorization.header))
        : Effect.succeed(refused)
    )

  return (attempt) =>
    attempt.request.headers["authorization"] !== undefined
      ? send(attempt)
      : Effect.flatMap(auth.authorize(attempt.endpoint, attempt.millis), (authorization) => {
          if (authorization._tag !== "Authorized") return Effect.succeed(authorization)
          const { header } = authorization
          if (header === undefined) return send(attempt)
          return Effect.flatMap(send(withHeader(attempt, header)), (outcome) =>
            isUnauthorized(outcome) &&
            isReplayable(attempt.request) &&
            auth.refused(attempt.endpoint, header)
              ? again(attempt, outcome)
              : Effect.succeed(outcome)
          )
        })
}
