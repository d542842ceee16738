/**
 * How ArangoDB's servers are asked who leads, and who else there is: `/_admin/server/availability`, which needs no
 * credentials, and `/_api/cluster/endpoints`, which lists the leader first.
 *
 * In a cluster every coordinator is available: the one that is used counts as the writer, the others as readers.
 *
 * @internal
 */
import type { HttpClient } from "@effect/platform"
import { HttpClientRequest } from "@effect/platform"
import { Effect, Predicate } from "effect"
import type { Host } from "../../Host.js"
import type { Watch } from "../../TopologySource.js"
import { SourceError } from "../../TopologySource.js"
import type { Member } from "../../TopologyState.js"
import type { Auth } from "./auth.js"
import { describe } from "./connectPhase.js"
import type { Endpoint } from "./endpoint.js"

const AVAILABILITY = "/_admin/server/availability"
const ENDPOINTS = "/_api/cluster/endpoints"

/** Logging in for the list may take this long; without a list, the servers' roles are known still. */
const LOGIN_MILLIS = 5_000

const listed = (body: unknown): ReadonlyArray<string> =>
  Predicate.hasProperty(body, "endpoints") && Array.isArray(body.endpoints)
    ? body.endpoints.flatMap((_: unknown) =>
        Predicate.hasProperty(_, "endpoint") && typeof _.endpoint === "string" ? [_.endpoint] : []
      )
    : []

/** @internal */
export const make = (options: {
  readonly client: HttpClient.HttpClient
  readonly auth: Auth
  readonly database: string | undefined
  readonly endpointOf: (host: Host) => Endpoint
  /** An endpoint that a server lists, as this client reaches it. */
  readonly learn: (listed: string) => Endpoint | undefined
}) => {
  const { auth, client } = options
  const prefix =
    options.database === undefined ? "" : `/_db/${encodeURIComponent(options.database)}`

  const fail = (cause: unknown) =>
    new SourceError({ description: describe(cause), rejection: undefined, cause })

  const get = (endpoint: Endpoint, path: string, authorization?: string) =>
    client.execute(
      HttpClientRequest.get(endpoint.origin + path, {
        headers: authorization === undefined ? {} : { authorization }
      })
    )

  /** No list is no failure: of a single server, of an old one, to a user who may not see it. */
  const members = (endpoint: Endpoint): Effect.Effect<ReadonlyArray<Member> | undefined> =>
    Effect.gen(function* () {
      const authorization = yield* auth.authorize(endpoint, LOGIN_MILLIS)
      if (authorization._tag !== "Authorized") return undefined
      const response = yield* get(endpoint, prefix + ENDPOINTS, authorization.header)
      if (response.status !== 200) return yield* Effect.as(response.text, undefined)
      const found = listed(yield* response.json).flatMap((_) => options.learn(_) ?? [])
      return found.length === 0
        ? undefined
        : found.map(({ host }, i): Member => ({ host, role: i === 0 ? "writer" : "reader" }))
    }).pipe(Effect.orElseSucceed(() => undefined))

  return {
    watch: (host: Host): Effect.Effect<Watch> => {
      const endpoint = options.endpointOf(host)
      return Effect.succeed({
        ask: Effect.gen(function* () {
          const response = yield* Effect.mapError(get(endpoint, AVAILABILITY), fail)
          yield* Effect.mapError(response.text, fail)
          const role = response.status === 200 ? ("writer" as const) : ("reader" as const)
          const found = yield* members(endpoint)
          // The list puts some coordinator first; the one that answers is as good, and is used.
          const own = found?.map((_) =>
            role === "writer"
              ? { ..._, role: isSame(_.host, host) ? role : ("reader" as const) }
              : _
          )
          return { probed: host, host, role, ...(own === undefined ? {} : { members: own }) }
        }),
        pause: Effect.sleep,
        closed: Effect.never
      })
    }
  }
}

const isSame = (a: Host, b: Host) => a.host === b.host && a.port === b.port
