/**
 * What an answer says of the server that gave it. The error number decides; the header `X-Arango-Endpoint` only
 * names whom to ask.
 *
 * | answer | meaning | executed |
 * |---|---|---|
 * | 503 with 1496 | a follower | no |
 * | 401, 404 to a GET or HEAD, with the header | a follower, with its own users and collections | no |
 * | 503 with 1495 | nobody leads, an election is under way | no |
 * | 503 with 503 | starting up, or in maintenance | no |
 * | 503 with 30 | shutting down | no |
 * | 503 with 21003 | its queue is full | no |
 * | anything else | the request's answer | |
 *
 * @internal
 */
import type { HttpClientError, HttpClientResponse } from "@effect/platform"
import { HttpClientResponse as Response } from "@effect/platform"
import { Effect, Predicate } from "effect"

/** @internal */
export type Refusal =
  | {
      readonly _tag: "NotLeader"
      /** Whom the header names, if anybody. */
      readonly leader: string | undefined
      readonly description: string
    }
  | { readonly _tag: "Unavailable"; readonly description: string }

const LEADER_HEADER = "x-arango-endpoint"
const DIRTY_HEADER = "x-arango-potential-dirty-read"

/** @internal */
export const ALLOW_DIRTY_READ = "x-arango-allow-dirty-read"

const NOT_A_LEADER = 1496

const unavailable: ReadonlyMap<number, string> = new Map([
  [1495, "a leadership challenge is ongoing"],
  [503, "starting up or in maintenance"],
  [30, "shutting down"],
  [21003, "its queue is full"]
])

/** @internal */
export const isPotentiallyDirty = (response: HttpClientResponse.HttpClientResponse): boolean =>
  response.headers[DIRTY_HEADER] === "true"

/** Answers that may be refusals: all others are not looked into. */
const suspicious: ReadonlySet<number> = new Set([401, 404, 503])

/** @internal */
export const mayBeRefusal = (response: HttpClientResponse.HttpClientResponse): boolean =>
  suspicious.has(response.status)

const leaderOf = (response: HttpClientResponse.HttpClientResponse): string | undefined =>
  response.headers[LEADER_HEADER] || undefined

const errorNumOf = (text: string): number | undefined => {
  try {
    const body: unknown = JSON.parse(text)
    return Predicate.hasProperty(body, "errorNum") && typeof body.errorNum === "number"
      ? body.errorNum
      : undefined
  } catch {
    return undefined
  }
}

const isRead = (method: string): boolean => method === "GET" || method === "HEAD"

/** An answer whose body was looked at, as new. */
const unread = (
  response: HttpClientResponse.HttpClientResponse,
  text: string
): HttpClientResponse.HttpClientResponse =>
  Response.fromWeb(
    response.request,
    new globalThis.Response(text, {
      status: response.status,
      headers: { ...response.headers }
    })
  )

/**
 * The refusal that an answer is, or the answer, whose body can be read still.
 *
 * @internal
 */
export const read = (
  response: HttpClientResponse.HttpClientResponse,
  allowsDirty: boolean
): Effect.Effect<
  Refusal | HttpClientResponse.HttpClientResponse,
  HttpClientError.ResponseError
> => {
  const leader = leaderOf(response)
  if (response.status !== 503) {
    return leader === undefined || allowsDirty || !isRead(response.request.method)
      ? Effect.succeed(response)
      : // Read to its end, so that its connection can be used again.
        Effect.as(response.text, {
          _tag: "NotLeader" as const,
          leader,
          description: `a follower, answered ${response.status} from its own data`
        })
  }
  return Effect.map(response.text, (text) => {
    const errorNum = errorNumOf(text)
    if (errorNum === NOT_A_LEADER) {
      const whom = leader === undefined ? "" : `, names ${leader}`
      return { _tag: "NotLeader" as const, leader, description: `not a leader${whom}` }
    }
    const description = errorNum === undefined ? undefined : unavailable.get(errorNum)
    return description === undefined
      ? unread(response, text)
      : { _tag: "Unavailable" as const, description }
  })
}
