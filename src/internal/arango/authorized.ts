/**
 * An attempt with the header that the endpoint wants. A request that brings its own `Authorization` keeps it.
 *
 * @internal
 */
import { HttpClientRequest } from "@effect/platform"
import { Effect } from "effect"
import type { Attempt, Outcome, Send } from "./attempt.js"
import type { Auth } from "./auth.js"
import { isReplayable } from "./errand.js"

const withHeader = (attempt: Attempt, header: string): Attempt => ({
  ...attempt,
  request: HttpClientRequest.setHeader(attempt.request, "authorization", header)
})

const isUnauthorized = (outcome: Outcome): boolean =>
  outcome._tag === "Answered" && outcome.response.status === 401

/** @internal */
export const make = (auth: Auth | undefined, send: Send): Send => {
  if (auth === undefined) return send
  return (attempt, then) => {
    const { endpoint, millis, request } = attempt
    if (request.headers["authorization"] !== undefined) return send(attempt, then)

    /** Once, with a new token: what was refused with 401 was not executed. */
    const again = (refused: Outcome) =>
      Effect.flatMap(auth.authorize(endpoint, millis), (authorization) =>
        authorization._tag === "Authorized" && authorization.header !== undefined
          ? send(withHeader(attempt, authorization.header), then)
          : then(refused)
      )
    const as = (header: string | undefined) =>
      header === undefined
        ? send(attempt, then)
        : send(withHeader(attempt, header), (outcome) =>
            isUnauthorized(outcome) && isReplayable(request) && auth.refused(endpoint, header)
              ? again(outcome)
              : then(outcome)
          )

    const ready = auth.ready(endpoint)
    return ready === undefined
      ? Effect.flatMap(auth.authorize(endpoint, millis), (authorization) =>
          authorization._tag === "Authorized" ? as(authorization.header) : then(authorization)
        )
      : as(ready)
  }
}
