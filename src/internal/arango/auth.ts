/**
 * Who the client is, for every endpoint anew: a header that stays the same, or tokens that are fetched by logging in,
 * and fetched again before they expire or when a server refuses one.
 *
 * @internal
 */
import type { HttpClientError } from "@effect/platform"
import { HttpBody, HttpClientRequest } from "@effect/platform"
import type { Clock, Redacted, Scope } from "effect"
import { Deferred, Effect, Encoding, Either, Predicate, Redacted as Secret } from "effect"
import { ConnectionRejected } from "../../Errors.js"
import type { Outcome, Send } from "./attempt.js"
import type { Endpoint } from "./endpoint.js"
import { carry } from "./failures.js"

/** @internal */
export type Credentials =
  | { readonly method: "header"; readonly value: Effect.Effect<Redacted.Redacted> }
  | {
      readonly method: "jwt"
      readonly username: string
      readonly password: Effect.Effect<Redacted.Redacted>
      /** Whether a token of one server is good on all of them. */
      readonly isShared: boolean
    }

/** @internal */
export interface Authorized {
  readonly _tag: "Authorized"
  readonly header: string | undefined
}

/** @internal */
export interface Auth {
  /** The header for this endpoint, if it is at hand. */
  readonly ready: (endpoint: Endpoint) => string | undefined
  /** The header for this endpoint; else how logging in there ended. */
  readonly authorize: (
    endpoint: Endpoint,
    millis: number
  ) => Effect.Effect<Authorized | Outcome, HttpClientError.HttpClientError>
  /** The endpoint refused this header. Whether another one may be had. */
  readonly refused: (endpoint: Endpoint, header: string) => boolean
}

/** A token is replaced when a tenth of its life is left, and no later than this before its end. */
const LEAST_REST_MILLIS = 5_000

interface Token {
  readonly header: string
  /** Clock milliseconds; Infinity if it does not say. */
  readonly renewAt: number
}

const claims = (jwt: string): unknown =>
  Either.getOrUndefined(
    Either.flatMap(Encoding.decodeBase64UrlString(jwt.split(".")[1] ?? ""), (text) =>
      Either.try((): unknown => JSON.parse(text))
    )
  )

/** Its life is measured by our own clock: the server's may be wrong. */
const tokenOf = (jwt: string, now: number): Token => {
  const said = claims(jwt)
  const life =
    Predicate.hasProperty(said, "exp") && Predicate.hasProperty(said, "iat")
      ? (Number(said.exp) - Number(said.iat)) * 1000
      : Infinity
  const rest = Math.min(Math.max(life / 10, LEAST_REST_MILLIS), life / 2)
  return { header: `bearer ${jwt}`, renewAt: life > 0 ? now + life - rest : Infinity }
}

const rejected = (endpoint: Endpoint, request: HttpClientRequest.HttpClientRequest) =>
  carry(
    request,
    new ConnectionRejected({
      reason: "Credentials",
      field: "auth",
      host: endpoint.host,
      sqlState: undefined,
      hint: "check the user's name and password",
      cause: new Error("the log-in was refused with 401")
    })
  )

/** @internal */
export const make = (options: {
  readonly credentials: Credentials | undefined
  readonly send: Send
  readonly clock: Clock.Clock
}): Effect.Effect<Auth, never, Scope.Scope> =>
  Effect.gen(function* () {
    const { clock, credentials, send } = options
    if (credentials === undefined || credentials.method === "header") {
      const authorized =
        credentials === undefined
          ? Effect.succeed<Authorized>({ _tag: "Authorized", header: undefined })
          : Effect.map(credentials.value, (value): Authorized => ({
              _tag: "Authorized",
              header: Secret.value(value)
            }))
      return { ready: () => undefined, authorize: () => authorized, refused: () => false }
    }
    const scope = yield* Effect.scope
    const tokens = new Map<string, Token>()
    type Ended = Authorized | Outcome
    const logins = new Map<string, Deferred.Deferred<Ended, HttpClientError.HttpClientError>>()
    const keyOf = (endpoint: Endpoint) => (credentials.isShared ? "" : endpoint.origin)

    const login = (endpoint: Endpoint, millis: number) =>
      Effect.gen(function* () {
        const password = yield* credentials.password
        const request = HttpClientRequest.post("/_open/auth", {
          body: HttpBody.text(
            JSON.stringify({ username: credentials.username, password: Secret.value(password) }),
            "application/json"
          )
        })
        const attempt = {
          endpoint,
          request,
          path: "/_open/auth",
          millis,
          isRouted: true,
          allowsDirty: false
        }
        const outcome = yield* send(attempt, (outcome) => Effect.succeed(outcome))
        // Logging in twice does no harm: a log-in that got no answer leaves the request itself unsent.
        if (outcome._tag === "Failed") return { ...outcome, sent: false }
        if (outcome._tag !== "Answered") return outcome
        const { response } = outcome
        if (response.status === 401) return yield* Effect.fail(rejected(endpoint, request))
        const body = response.status === 200 ? yield* response.json : undefined
        if (!Predicate.hasProperty(body, "jwt") || typeof body.jwt !== "string") return outcome
        const token = tokenOf(body.jwt, clock.unsafeCurrentTimeMillis())
        tokens.set(keyOf(endpoint), token)
        return { _tag: "Authorized", header: token.header } as const
      })

    /** Requests that need a token of one endpoint at once share one log-in, which none of them can interrupt. */
    const join = (
      endpoint: Endpoint,
      millis: number
    ): Effect.Effect<Ended, HttpClientError.HttpClientError> =>
      Effect.suspend(() => {
        const running = logins.get(endpoint.origin)
        if (running !== undefined) return Deferred.await(running)
        const ended = Deferred.unsafeMake<Ended, HttpClientError.HttpClientError>(scopeFiber)
        logins.set(endpoint.origin, ended)
        return login(endpoint, millis).pipe(
          Effect.exit,
          Effect.flatMap((exit) => {
            logins.delete(endpoint.origin)
            return Deferred.done(ended, exit)
          }),
          Effect.onInterrupt(() => {
            logins.delete(endpoint.origin)
            return Deferred.interrupt(ended)
          }),
          Effect.interruptible,
          Effect.forkIn(scope),
          Effect.zipRight(Deferred.await(ended))
        )
      })
    const scopeFiber = yield* Effect.fiberId

    const ready = (endpoint: Endpoint): string | undefined => {
      const token = tokens.get(keyOf(endpoint))
      return token !== undefined && clock.unsafeCurrentTimeMillis() < token.renewAt
        ? token.header
        : undefined
    }

    return {
      ready,
      authorize: (endpoint, millis) =>
        Effect.suspend((): Effect.Effect<Ended, HttpClientError.HttpClientError> => {
          const header = ready(endpoint)
          return header === undefined
            ? join(endpoint, millis)
            : Effect.succeed({ _tag: "Authorized", header })
        }),
      refused: (endpoint, header) => {
        // Another request may have replaced it meanwhile.
        if (tokens.get(keyOf(endpoint))?.header === header) tokens.delete(keyOf(endpoint))
        return true
      }
    }
  })
