/**
 * The options of `layers/Arango`, checked. Every check names the option and the remedy.
 *
 * @internal
 */
import { Duration, Effect, Either, Encoding, Redacted } from "effect"
import { ConfigurationError } from "../../Errors.js"
import type { Credentials } from "../../internal/arango/auth.js"
import type { LoadBalancing } from "../../internal/arango/book.js"
import type { Endpoint } from "../../internal/arango/endpoint.js"
import * as Endpoints from "../../internal/arango/endpoint.js"
import * as Topology from "../../Topology.js"
import type { ArangoAuth, ArangoOptions } from "../Arango.js"

/** The Go driver's: three attempts of three minutes each. */
const DEFAULT_TIMEOUT = Duration.minutes(9)

/** The Go driver's test suite waits as long for a leader; the server's own grace period ends before. */
const DEFAULT_FAILOVER_TIMEOUT = Duration.minutes(1)

/** @internal */
export interface CheckedOptions {
  readonly endpoints: readonly [Endpoint, ...ReadonlyArray<Endpoint>]
  readonly clusterId: string
  readonly credentials: Credentials | undefined
  readonly database: string | undefined
  readonly loadBalancing: LoadBalancing
  readonly timeout: Duration.Duration
  readonly failoverTimeout: Duration.Duration
  readonly topologyRefreshRate: Duration.Duration
  readonly topologyHighRefreshRate: Duration.Duration
}

const invalid = (field: string, value: unknown, problem: string, hint: string) =>
  new ConfigurationError({ field, value, problem, hint })

const durationOf = (field: string, value: Duration.DurationInput) =>
  Either.filterOrLeft(
    Either.fromOption(Duration.decodeUnknown(value), () => undefined),
    (duration) => Duration.greaterThan(duration, Duration.zero) && Duration.isFinite(duration),
    () => undefined
  ).pipe(
    Either.mapLeft(() =>
      invalid(
        field,
        value,
        "is not a positive duration",
        'write it as "30 seconds", or as milliseconds'
      )
    )
  )

const endpointsOf = (
  given: ArangoOptions["endpoints"]
): Either.Either<CheckedOptions["endpoints"], ConfigurationError> =>
  Either.gen(function* () {
    const all = yield* Either.all(
      (typeof given === "string" ? [given] : given).map((_) => Endpoints.parse(_, "endpoints"))
    )
    const [first, ...others] = Endpoints.unique(all)
    return first === undefined
      ? yield* Either.left(
          invalid(
            "endpoints",
            undefined,
            "names no server",
            'name one at least, for example ["http://arango-1.internal:8529"]'
          )
        )
      : ([first, ...others] as const)
  })

const secret = (
  value: Redacted.Redacted | Effect.Effect<Redacted.Redacted>
): Effect.Effect<Redacted.Redacted> => (Effect.isEffect(value) ? value : Effect.succeed(value))

const credentialsOf = (
  auth: ArangoAuth | undefined
): Either.Either<Credentials | undefined, ConfigurationError> => {
  if (auth === undefined) return Either.right(undefined)
  if (auth.token !== undefined) {
    return auth.username === undefined && auth.password === undefined
      ? Either.right({
          method: "header",
          value: Effect.map(secret(auth.token), (token) =>
            Redacted.make(`bearer ${Redacted.value(token)}`)
          )
        })
      : Either.left(invalid("auth", undefined, "holds a token and a user", "give one of them"))
  }
  const { username = "root" } = auth
  const password = secret(auth.password ?? Redacted.make(""))
  switch (auth.method ?? "jwt") {
    case "jwt":
      return Either.right({
        method: "jwt",
        username,
        password,
        isShared: auth.sharedSecret ?? true
      })
    case "basic":
      return Either.right({
        method: "header",
        value: Effect.map(password, (password) =>
          Redacted.make(`basic ${Encoding.encodeBase64(`${username}:${Redacted.value(password)}`)}`)
        )
      })
    default:
      return Either.left(
        invalid("auth.method", auth.method, "is not known", 'use "jwt" or "basic"')
      )
  }
}

const modes: ReadonlyArray<LoadBalancing> = ["none", "round-robin", "one-random"]

const nonEmpty = (field: string, value: string | undefined) =>
  value !== undefined && value.trim() === ""
    ? Either.left(invalid(field, value, "is empty", "give a name, or leave the option out"))
    : Either.right(value)

/** @internal */
export const check = (options: ArangoOptions): Either.Either<CheckedOptions, ConfigurationError> =>
  Either.gen(function* () {
    const endpoints = yield* endpointsOf(options.endpoints)
    const loadBalancing = options.loadBalancing ?? "none"
    if (!modes.includes(loadBalancing)) {
      return yield* Either.left(
        invalid(
          "loadBalancing",
          loadBalancing,
          "is not known",
          `use ${modes.map((_) => `"${_}"`).join(", ")}`
        )
      )
    }
    const clusterId = yield* nonEmpty("clusterId", options.clusterId)
    return {
      endpoints,
      clusterId:
        clusterId ??
        `arangodb ${endpoints
          .map((_) => _.origin)
          .sort()
          .join(",")}`,
      credentials: yield* credentialsOf(options.auth),
      database: yield* nonEmpty("database", options.database),
      loadBalancing,
      timeout: yield* durationOf("timeout", options.timeout ?? DEFAULT_TIMEOUT),
      failoverTimeout: yield* durationOf(
        "failoverTimeout",
        options.failoverTimeout ?? DEFAULT_FAILOVER_TIMEOUT
      ),
      topologyRefreshRate: yield* durationOf(
        "topologyRefreshRate",
        options.topologyRefreshRate ?? Topology.DEFAULT_REFRESH_RATE
      ),
      topologyHighRefreshRate: yield* durationOf(
        "topologyHighRefreshRate",
        options.topologyHighRefreshRate ?? Topology.DEFAULT_HIGH_REFRESH_RATE
      )
    } satisfies CheckedOptions
  })
