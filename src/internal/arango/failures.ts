/**
 * What a caller is told: the library's errors, as causes of the one that `HttpClient` fails with.
 *
 * @internal
 */
import type { HttpClientRequest } from "@effect/platform"
import { HttpClientError } from "@effect/platform"
import { Duration } from "effect"
import type { ConnectionRejected } from "../../Errors.js"
import { ConfigurationError, FailoverFailed, RequestUnanswered } from "../../Errors.js"
import * as Host from "../../Host.js"
import type { Failed, Outcome } from "./attempt.js"
import type { Endpoint } from "./endpoint.js"
import type { Errand } from "./errand.js"
import type { Journey } from "./journey.js"

/** @internal */
export const carry = (
  request: HttpClientRequest.HttpClientRequest,
  cause: RequestUnanswered | FailoverFailed | ConfigurationError | ConnectionRejected
): HttpClientError.RequestError =>
  new HttpClientError.RequestError({
    request,
    reason: "Transport",
    cause,
    description: cause.message
  })

/** It was sent here, or could not be sent again, and got no answer. @internal */
export const unanswered = (
  { path, request, startedAt }: Errand,
  journey: Journey,
  endpoint: Endpoint,
  failed: Pick<Failed, "sent" | "timedOut" | "cause">,
  now: number
): HttpClientError.RequestError =>
  carry(
    request,
    new RequestUnanswered({
      from: endpoint.host,
      method: request.method,
      path: path.replace(/\?.*/, ""),
      sent: failed.sent,
      timedOut: failed.timedOut,
      tried: [...journey.tried.values()],
      elapsed: Duration.millis(now - startedAt),
      attempts: journey.attempts,
      cause: failed.cause
    })
  )

/** Nobody is left to be asked, or no time. @internal */
export const exhausted = (
  errand: Errand,
  journey: Journey,
  last: Exclude<Outcome, { readonly _tag: "Answered" }>,
  now: number
): HttpClientError.RequestError =>
  journey.sent !== undefined
    ? unanswered(errand, journey, journey.sent.endpoint, journey.sent.failed, now)
    : carry(
        errand.request,
        new FailoverFailed({
          reason: journey.everHeard || now >= errand.deadline ? "Timeout" : "Unreachable",
          outcome: "NotExecuted",
          from: journey.from.host,
          tried: [...journey.tried.values()],
          elapsed: Duration.millis(now - errand.startedAt),
          attempts: journey.attempts,
          cause: last._tag === "Failed" ? last.cause : new Error(last.description)
        })
      )

/** @internal */
export const unknownHost = (
  request: HttpClientRequest.HttpClientRequest,
  host: Host.Host | undefined
): HttpClientError.RequestError =>
  carry(
    request,
    new ConfigurationError({
      field: "host",
      value: host === undefined ? undefined : Host.address(host),
      problem: "is no endpoint of this client",
      hint: "pin requests to one of its endpoints"
    })
  )
