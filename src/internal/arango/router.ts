/**
 * The client over all endpoints: the Go driver's rules for what was not written, Active Failover's for what a follower
 * refused.
 *
 * | an attempt ended with | then |
 * |---|---|
 * | an answer | it is the caller's, and requests stick to this endpoint |
 * | a refusal: not executed | the leader that it names, if known and not asked yet; else the next endpoint |
 * | a failure before the request was written | the next endpoint |
 * | a failure afterwards | the caller is told; reads, and what is marked as idempotent, go to the next endpoint |
 * | everybody asked, somebody answered | a pause, and another pass, until `failoverTimeout` |
 * | everybody asked, nobody answered | the caller is told |
 *
 * @internal
 */
import type { HttpClientRequest, HttpClientResponse } from "@effect/platform"
import { HttpClient, type HttpClientError } from "@effect/platform"
import type { Clock, Tracer } from "effect"
import { Duration, Effect, Exit, Random } from "effect"
import * as Host from "../../Host.js"
import type { Attempt, Failed, Outcome, Send } from "./attempt.js"
import type { Refusal } from "./answer.js"
import type { Book } from "./book.js"
import { describe } from "./connectPhase.js"
import type { Endpoint } from "./endpoint.js"
import { pathOf } from "./endpoint.js"
import type { Errand, Rules } from "./errand.js"
import * as Errands from "./errand.js"
import * as Failures from "./failures.js"
import type { Journey } from "./journey.js"
import * as Journeys from "./journey.js"
import * as CurrentSettings from "./settings.js"
import * as Telemetries from "./telemetry.js"

type Request = HttpClientRequest.HttpClientRequest
type Result = Effect.Effect<HttpClientResponse.HttpClientResponse, HttpClientError.HttpClientError>

/** @internal */
export interface RouterOptions extends Rules {
  readonly client: HttpClient.HttpClient
  readonly send: Send
  readonly book: Book
  readonly clock: Clock.Clock
  /** The endpoint that a follower's header names, if the client may go there. */
  readonly named: (leader: string) => Endpoint | undefined
  /** Before the first request. */
  readonly onUse: Effect.Effect<void>
  /** Grows with every leader that is found. */
  readonly epoch: () => number
  /** Nobody serves in this epoch: waits for the next one, for so long at most. */
  readonly onLeaderless: (epoch: number, atMost: Duration.Duration) => Effect.Effect<void>
}

const isMade = (request: Effect.Effect<Request>): request is Exit.Success<Request, never> =>
  Exit.isExit(request) && Exit.isSuccess(request)

/** @internal */
export const make = (options: RouterOptions): HttpClient.HttpClient => {
  const { book, clock } = options
  const now = () => clock.unsafeCurrentTimeMillis()
  const telemetry = Telemetries.make(clock)
  let isUsed = false

  const attemptOf = (
    { isDirty, isRouted, path, request }: Errand,
    endpoint: Endpoint,
    millis: number
  ): Attempt => ({ endpoint, request, path, millis, isRouted, allowsDirty: isDirty })

  /** Fails if the request must not, or cannot, be sent again. */
  const onFailure = (errand: Errand, journey: Journey, endpoint: Endpoint, failed: Failed) => {
    book.suspect(endpoint, now())
    if (!errand.isPinned) book.moveFrom(endpoint, now())
    if (failed.sent) journey.sent = { endpoint, failed }
    const isOver =
      errand.isPinned || !Errands.isReplayable(errand.request) || (failed.sent && !errand.mayRepeat)
    return isOver
      ? Effect.fail(Failures.unanswered(errand, journey, endpoint, failed, now()))
      : Effect.succeed(undefined)
  }

  /** Gives the endpoint to which it refers. Fails if the request cannot be sent again. */
  const onRefusal = (errand: Errand, journey: Journey, endpoint: Endpoint, refusal: Refusal) => {
    Journeys.hear(journey)
    book.clear(endpoint)
    const { description } = refusal
    return Errands.isReplayable(errand.request)
      ? Effect.succeed(
          refusal._tag === "NotLeader" && refusal.leader !== undefined
            ? options.named(refusal.leader)
            : undefined
        )
      : Effect.fail(
          Failures.unanswered(
            errand,
            journey,
            endpoint,
            { sent: false, timedOut: false, cause: new Error(description) },
            now()
          )
        )
  }

  const travel = (errand: Errand, first: Endpoint, outcome: Outcome, span: Tracer.Span): Result =>
    Effect.gen(function* () {
      const journey = Journeys.begin(first)
      let endpoint = first
      let last = outcome
      let epoch = options.epoch()
      while (last._tag !== "Answered") {
        const description = last._tag === "Failed" ? describe(last.cause) : last.description
        journey.attempts++
        Journeys.record(journey, endpoint, description)
        telemetry.attempted(span, endpoint, description)
        const named: Endpoint | undefined =
          last._tag === "Failed"
            ? yield* onFailure(errand, journey, endpoint, last)
            : yield* onRefusal(errand, journey, endpoint, last)
        let next = Journeys.next(journey, book, named, now())
        if (next === undefined && journey.everHeard && (yield* rest(errand, journey, epoch))) {
          epoch = options.epoch()
          next = Journeys.next(journey, book, undefined, now())
        }
        const millis = Math.min(errand.millis, errand.deadline - now())
        if (next === undefined || millis <= 0) {
          return yield* Effect.fail(Failures.exhausted(errand, journey, last, now()))
        }
        endpoint = next
        last = yield* options.send(attemptOf(errand, endpoint, millis), (_) => Effect.succeed(_))
      }
      journey.attempts++
      book.clear(endpoint)
      if (!errand.isDirty) book.stickTo(endpoint)
      yield* telemetry.arrived(span, journey, errand, endpoint)
      return last.response
    })

  /** Somebody is there who cannot serve now. Whether there is time for another pass, after a pause. */
  const rest = (errand: Errand, journey: Journey, epoch: number): Effect.Effect<boolean> =>
    Effect.gen(function* () {
      // Many wait for the same event: they must not all ask at once.
      const pause = Journeys.nextPass(journey) * (yield* Random.nextRange(0.5, 1))
      const left = errand.searchUntil - now() - pause
      if (left <= 0) return false
      yield* Effect.sleep(Duration.millis(pause))
      yield* options.onLeaderless(epoch, Duration.millis(left))
      return now() < errand.searchUntil
    })

  const route = (request: Request): Result =>
    Effect.withFiberRuntime((fiber) => {
      const path = pathOf(request.url, (origin) => book.find(origin) !== undefined)
      if (path === undefined) return options.client.execute(request)
      const settings = fiber.getFiberRef(CurrentSettings.current)
      const startedAt = now()
      const endpoints = book.all()
      const errand = Errands.make(request, path, settings, options, endpoints.length, startedAt)
      const { host } = settings
      const start =
        host !== undefined
          ? endpoints.find((_) => Host.isSame(_.host, host))
          : errand.isDirty
            ? book.reader(startedAt)
            : book.start(startedAt)
      if (start === undefined) return Effect.fail(Failures.unknownHost(request, host))
      return options.send(attemptOf(errand, start, errand.millis), (outcome) => {
        if (outcome._tag !== "Answered") {
          return telemetry.journey(errand, start, (span) => travel(errand, start, outcome, span))
        }
        book.clear(start)
        const recorded = telemetry.answered(errand, start)
        return recorded === undefined
          ? Effect.succeed(outcome.response)
          : Effect.as(recorded, outcome.response)
      })
    })

  const execute = (request: Request): Result =>
    isUsed
      ? route(request)
      : Effect.suspend(() => {
          if (isUsed) return route(request)
          isUsed = true
          return Effect.zipRight(options.onUse, route(request))
        })

  return HttpClient.makeWith<never, never, HttpClientError.HttpClientError, never>(
    // Requests come as they are, unless somebody changes them in an effect.
    (request) => (isMade(request) ? execute(request.value) : Effect.flatMap(request, execute)),
    Effect.succeed
  )
}
