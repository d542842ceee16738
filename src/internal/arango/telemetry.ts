/**
 * What a dashboard shows of a lost endpoint: counters, and a span around all that a request does after its first
 * endpoint did not serve it. A request that is simply answered pays for one comparison.
 *
 * An outage begins with the first request that its endpoint fails or refuses, and is one however many requests meet it.
 * It is over when a request is answered that another endpoint served, or that was begun afterwards; it has failed when
 * a request gives up. Pinned requests and dirty reads tell nothing of the endpoint that the client sticks to.
 *
 * @internal
 */
import { HttpClientError } from "@effect/platform"
import type { Clock } from "effect"
import { Effect, Metric, type Tracer } from "effect"
import { FailoverFailed, RequestUnanswered } from "../../Errors.js"
import type { Endpoint } from "./endpoint.js"
import type { Errand } from "./errand.js"
import type { Journey } from "./journey.js"

const SYSTEM = "arangodb"

const counter = (name: string) =>
  Metric.tagged(Metric.counter(name, { incremental: true }), "db.system.name", SYSTEM)

const started = counter("db.failover.started")
const completed = counter("db.failover.completed")
const gaveUp = counter("db.failover.failed")

/** Each request whose first endpoint did not serve it, by how it ended. */
const requests = counter("db.failover.requests")
const ended = {
  Answered: Metric.tagged(requests, "outcome", "Answered"),
  RequestUnanswered: Metric.tagged(requests, "outcome", "RequestUnanswered"),
  FailoverFailed: Metric.tagged(requests, "outcome", "FailoverFailed"),
  Refused: Metric.tagged(requests, "outcome", "Refused")
}

const outcomeOf = (error: HttpClientError.HttpClientError): keyof typeof ended => {
  const cause = error instanceof HttpClientError.RequestError ? error.cause : undefined
  if (cause instanceof RequestUnanswered) return "RequestUnanswered"
  return cause instanceof FailoverFailed ? "FailoverFailed" : "Refused"
}

/** @internal */
export interface Telemetry {
  /** Around everything that comes after a request's first endpoint did not serve it. */
  readonly journey: <A>(
    errand: Errand,
    from: Endpoint,
    run: (span: Tracer.Span) => Effect.Effect<A, HttpClientError.HttpClientError>
  ) => Effect.Effect<A, HttpClientError.HttpClientError>
  /** One attempt of it that was of no use. */
  readonly attempted: (span: Tracer.Span, endpoint: Endpoint, description: string) => void
  /** It was answered at last. */
  readonly arrived: (
    span: Tracer.Span,
    journey: Journey,
    errand: Errand,
    endpoint: Endpoint
  ) => Effect.Effect<void>
  /** A request was answered by its first endpoint: what is to be recorded, if anything is. */
  readonly answered: (errand: Errand, endpoint: Endpoint) => Effect.Effect<void> | undefined
}

/** @internal */
export const make = (clock: Clock.Clock): Telemetry => {
  let outage: { readonly from: Endpoint; readonly since: number } | undefined

  const isTelling = ({ isDirty, isPinned }: Errand): boolean => !isDirty && !isPinned

  const end = (metric: Metric.Metric.Counter<number>): Effect.Effect<void> =>
    Effect.suspend(() => {
      if (outage === undefined) return Effect.void
      outage = undefined
      return Metric.increment(metric)
    })

  const begin = (errand: Errand, from: Endpoint): Effect.Effect<void> =>
    Effect.suspend(() => {
      if (outage !== undefined || !isTelling(errand)) return Effect.void
      outage = { from, since: clock.unsafeCurrentTimeMillis() }
      return Metric.increment(started)
    })

  return {
    journey: (errand, from, run) =>
      Effect.useSpan(
        "db.failover",
        {
          kind: "client",
          captureStackTrace: false,
          attributes: {
            "db.system.name": SYSTEM,
            "db.failover.from": from.host.id,
            "http.request.method": errand.request.method
          }
        },
        (span) =>
          Effect.zipRight(begin(errand, from), Effect.withParentSpan(run(span), span)).pipe(
            Effect.tapError((error) => {
              const outcome = outcomeOf(error)
              span.attribute("db.failover.outcome", outcome)
              return Effect.zipRight(
                Metric.increment(ended[outcome]),
                outcome === "FailoverFailed" && isTelling(errand) ? end(gaveUp) : Effect.void
              )
            })
          )
      ),
    attempted: (span, { host }, description) =>
      span.event("db.failover.attempt", clock.unsafeCurrentTimeNanos(), {
        "server.address": host.host,
        "server.port": host.port,
        "db.failover.reason": description
      }),
    arrived: (span, journey, errand, { host }) => {
      span.attribute("db.failover.to", host.id)
      span.attribute("db.failover.attempts", journey.attempts)
      span.attribute("db.failover.outcome", "Answered")
      span.attribute("server.address", host.host)
      span.attribute("server.port", host.port)
      return Effect.zipRight(
        Metric.increment(ended.Answered),
        isTelling(errand) ? end(completed) : Effect.void
      )
    },
    answered: (errand, { origin }) => {
      if (outage === undefined || !isTelling(errand)) return undefined
      return origin !== outage.from.origin || errand.startedAt > outage.since
        ? end(completed)
        : undefined
    }
  }
}
