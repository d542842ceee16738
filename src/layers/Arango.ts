/**
 * ArangoDB: an `HttpClient` over several endpoints: the coordinators of a cluster, or an Active Failover deployment.
 * Put it over the client that you have (Node's `http`, undici or `fetch`); requests name paths, and go where somebody
 * serves.
 *
 * - A request that was **not completely written**, or that a follower refused, goes to another endpoint without the
 *   caller noticing.
 * - One that **was written** and got no answer is never sent again without leave: it fails with `RequestUnanswered`,
 *   which says whether it timed out. GET, HEAD, and what is marked with `idempotent`, are sent again.
 * - Where nobody serves, as during an election, requests wait until `failoverTimeout`, and fail with `FailoverFailed`.
 *
 * The library's errors are the `cause` of the `RequestError` that `HttpClient` fails with; `Failover.outcomes` lifts
 * them into the typed channel, and `Failover.isSafeToRetry` understands them.
 *
 * @example
 * ```ts
 * import { HttpBody, HttpClient } from "@effect/platform"
 * import { NodeHttpClient } from "@effect/platform-node"
 * import { Effect, Layer, Redacted } from "effect"
 * import { Failover } from "effect-failover"
 * import * as Arango from "effect-failover/layers/Arango"
 *
 * const Database = Arango.layer({
 *   endpoints: ["http://arango-1.internal:8529", "http://arango-2.internal:8529"],
 *   auth: { username: "app", password: Redacted.make("secret") }
 * }).pipe(Layer.provide(NodeHttpClient.layer))
 *
 * const program = Effect.gen(function* () {
 *   const client = yield* HttpClient.HttpClient
 *   const body = HttpBody.unsafeJson({ _key: "1", amount: 10 })
 *   return yield* client.post("/_db/shop/_api/document/payments", { body })
 * }).pipe(
 *   Failover.outcomes,
 *   Effect.catchTag("RequestUnanswered", (error) =>
 *     Effect.logWarning(`payment 1 may or may not be stored: ${error.message}`)
 *   ),
 *   Effect.provide(Database)
 * )
 * ```
 *
 * @since 0.1.0
 */
import { HttpClient, type HttpClientResponse } from "@effect/platform"
import type { ConfigError, Redacted, Scope } from "effect"
import { Config, Context, Duration, Effect, Layer, Option } from "effect"
import { dual } from "effect/Function"
import type { ClusterIdConflict, ConfigurationError } from "../Errors.js"
import type { Host } from "../Host.js"
import * as Answer from "../internal/arango/answer.js"
import type { Settings } from "../internal/arango/settings.js"
import * as CurrentSettings from "../internal/arango/settings.js"
import * as Topology from "../Topology.js"
import * as internal from "./internal/arango.js"

/**
 * Who the client is: a user, or a token of his. A request that brings an `Authorization` header of its own keeps it.
 *
 * @since 0.1.0
 * @category models
 */
export interface ArangoAuth {
  /** Default `"root"`. */
  readonly username?: string | undefined
  /** A secret, or an effect that is evaluated for every log-in. Default: empty. */
  readonly password?: Redacted.Redacted | Effect.Effect<Redacted.Redacted> | undefined
  /**
   * `"jwt"` logs in, and again before the token expires and when a server refuses it. `"basic"` sends the password with
   * every request. Default `"jwt"`.
   */
  readonly method?: "jwt" | "basic" | undefined
  /** Whether the servers share a JWT secret, so that a token of one is good on all. Default `true`. */
  readonly sharedSecret?: boolean | undefined
  /** A token instead of a user; an effect is evaluated for every request. */
  readonly token?: Redacted.Redacted | Effect.Effect<Redacted.Redacted> | undefined
}

/**
 * Durations are `Duration.DurationInput`: `"30 seconds"`, or milliseconds as a number.
 *
 * @since 0.1.0
 * @category models
 */
export interface ArangoOptions {
  /**
   * The servers, tried in this order: `"http://name:8529"`, `"https://[::1]:8529"`, ArangoDB's `"tcp://"` and
   * `"ssl://"`, or `"name"` alone (port 8529). A URL without a port has its scheme's (80 or 443). Certificates are the
   * business of the client below: `NodeHttpClient.makeAgentLayer({ ca })`.
   */
  readonly endpoints: string | ReadonlyArray<string>
  readonly auth?: ArangoAuth | undefined
  /**
   * Which endpoint requests go to. `"none"`: all stick to one, until it fails. `"one-random"`: the same, beginning with
   * any. `"round-robin"`: to each in turn; for coordinators of a cluster. Default `"none"`.
   */
  readonly loadBalancing?: "none" | "round-robin" | "one-random" | undefined

  /**
   * For one request with all its attempts. Each attempt gets a part of it: a half with two endpoints, a third with
   * three or more. Default 9 minutes.
   */
  readonly timeout?: Duration.DurationInput | undefined
  /** How long a request that nobody executes looks for somebody who does, within `timeout`. Default 1 minute. */
  readonly failoverTimeout?: Duration.DurationInput | undefined
  /** Whether a GET or HEAD that may have been executed is sent again. Default `true`. */
  readonly repeatReads?: boolean | undefined

  /** With `false`, refusals (503 of a follower, of an election, of maintenance) are answers like others. Default `true`. */
  readonly followLeader?: boolean | undefined
  /**
   * Whether a follower may send requests, with their credentials, to a server that neither the options nor the
   * servers' own list name. Default `false`: then the other endpoints are tried.
   */
  readonly trustLeaderHeader?: boolean | undefined
  /**
   * Watch who leads, and learn the servers' endpoints from `/_api/cluster/endpoints`, from the first request on; the
   * ones given are kept. Default `true`.
   */
  readonly synchronize?: boolean | undefined
  /** How a server's endpoint, as servers name it, is reached: for tunnels and mapped ports. */
  readonly translateEndpoint?: ((endpoint: string) => string) | undefined
  /** The database through which endpoints are listed, for users who may not use `_system`. */
  readonly database?: string | undefined
  /** Pause between two looks in calm. Default 30 seconds. */
  readonly topologyRefreshRate?: Duration.DurationInput | undefined
  /** Pause between two looks while nobody leads, and for 30 s after it. Default 100 ms. */
  readonly topologyHighRefreshRate?: Duration.DurationInput | undefined
  /** Layers with one cluster id share one topology. Default: derived from the endpoints. */
  readonly clusterId?: string | undefined
}

/**
 * @since 0.1.0
 * @category models
 */
export interface ArangoFailover {
  readonly client: HttpClient.HttpClient
  /**
   * The leader is the writer, followers are readers. Of a cluster's coordinators, the one in use counts as the writer.
   * With `synchronize: false` it looks only when it is asked to.
   */
  readonly topology: Topology.Topology
  /** All that are known now. */
  readonly endpoints: Effect.Effect<ReadonlyArray<Host>>
  /** The one that requests stick to now. */
  readonly current: Effect.Effect<Host>
}

/**
 * @since 0.1.0
 * @category tags
 */
export const ArangoFailover = Context.GenericTag<ArangoFailover>(
  "effect-failover/layers/Arango/ArangoFailover"
)

/**
 * The client, and what moves it, over the `HttpClient` of the context. Connects to nothing.
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = (
  options: ArangoOptions
): Effect.Effect<
  ArangoFailover,
  ConfigurationError | ClusterIdConflict,
  HttpClient.HttpClient | Scope.Scope
> => Effect.flatMap(HttpClient.HttpClient, (client) => internal.make(client, options))

/**
 * Makes a client of one server a client of all. Requests with a path go to the endpoints, and so do those with a URL
 * of a known endpoint; URLs of other servers go there, as before, and get no credentials.
 *
 * @since 0.1.0
 * @category constructors
 */
export const transform: {
  (
    options: ArangoOptions
  ): (
    client: HttpClient.HttpClient
  ) => Effect.Effect<HttpClient.HttpClient, ConfigurationError | ClusterIdConflict, Scope.Scope>
  (
    client: HttpClient.HttpClient,
    options: ArangoOptions
  ): Effect.Effect<HttpClient.HttpClient, ConfigurationError | ClusterIdConflict, Scope.Scope>
} = dual(2, (client: HttpClient.HttpClient, options: ArangoOptions) =>
  Effect.map(internal.make(client, options), (_) => _.client)
)

/**
 * Everything that the layer provides.
 *
 * @since 0.1.0
 * @category models
 */
export type Provided = HttpClient.HttpClient | ArangoFailover | Topology.Topology

const contextOf = (made: ArangoFailover): Context.Context<Provided> =>
  Context.make(HttpClient.HttpClient, made.client).pipe(
    Context.add(ArangoFailover, made),
    Context.add(Topology.Topology, made.topology)
  )

/**
 * `HttpClient` over all endpoints, in the place of the one below. It is built without connecting, also while every
 * server is down.
 *
 * @since 0.1.0
 * @category layers
 */
export const layer = (
  options: ArangoOptions
): Layer.Layer<Provided, ConfigurationError | ClusterIdConflict, HttpClient.HttpClient> =>
  Layer.scopedContext(Effect.map(make(options), contextOf))

/**
 * `layer` with options from `Config`: `Arango.layerConfig(Arango.config)` reads all of them.
 *
 * @since 0.1.0
 * @category layers
 */
export const layerConfig = (
  config: Config.Config.Wrap<ArangoOptions>
): Layer.Layer<
  Provided,
  ConfigurationError | ClusterIdConflict | ConfigError.ConfigError,
  HttpClient.HttpClient
> => Layer.scopedContext(Effect.map(Effect.flatMap(Config.unwrap(config), make), contextOf))

const optional = <A>(config: Config.Config<A>): Config.Config<A | undefined> =>
  Config.map(Config.option(config), Option.getOrUndefined)

const auth: Config.Config<ArangoAuth | undefined> = Config.map(
  Config.all({
    username: optional(Config.string("USERNAME")),
    password: optional(Config.redacted("PASSWORD")),
    token: optional(Config.redacted("TOKEN")),
    method: optional(Config.literal("jwt", "basic")("AUTH_METHOD")),
    sharedSecret: optional(Config.boolean("SHARED_SECRET"))
  }),
  (auth) => (Object.values(auth).every((_) => _ === undefined) ? undefined : auth)
)

/**
 * Every option that can be written as text, by its name in capitals: `ENDPOINTS` (comma-separated), `USERNAME`,
 * `PASSWORD`, `TOKEN`, `AUTH_METHOD`, `SHARED_SECRET`, `LOAD_BALANCING`, `TIMEOUT`, `FAILOVER_TIMEOUT`,
 * `REPEAT_READS`, `FOLLOW_LEADER`, `TRUST_LEADER_HEADER`, `SYNCHRONIZE`, `DATABASE`, `TOPOLOGY_REFRESH_RATE`,
 * `TOPOLOGY_HIGH_REFRESH_RATE`, `CLUSTER_ID`.
 *
 * @example
 * ```ts
 * import { Config } from "effect"
 * import * as Arango from "effect-failover/layers/Arango"
 *
 * // ARANGO_ENDPOINTS, ARANGO_USERNAME, ARANGO_PASSWORD, ...
 * const Database = Arango.layerConfig(Config.nested(Arango.config, "ARANGO"))
 * ```
 *
 * @since 0.1.0
 * @category config
 */
export const config: Config.Config<ArangoOptions> = Config.all({
  endpoints: Config.map(Config.string("ENDPOINTS"), (text) => text.split(",").map((_) => _.trim())),
  auth,
  loadBalancing: optional(Config.literal("none", "round-robin", "one-random")("LOAD_BALANCING")),
  timeout: optional(Config.duration("TIMEOUT")),
  failoverTimeout: optional(Config.duration("FAILOVER_TIMEOUT")),
  repeatReads: optional(Config.boolean("REPEAT_READS")),
  followLeader: optional(Config.boolean("FOLLOW_LEADER")),
  trustLeaderHeader: optional(Config.boolean("TRUST_LEADER_HEADER")),
  synchronize: optional(Config.boolean("SYNCHRONIZE")),
  database: optional(Config.string("DATABASE")),
  topologyRefreshRate: optional(Config.duration("TOPOLOGY_REFRESH_RATE")),
  topologyHighRefreshRate: optional(Config.duration("TOPOLOGY_HIGH_REFRESH_RATE")),
  clusterId: optional(Config.string("CLUSTER_ID"))
})

const locally =
  (change: Partial<Settings>) =>
  <A, E, R>(self: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
    Effect.locallyWith(self, CurrentSettings.current, (settings) => ({ ...settings, ...change }))

/**
 * Says that every request in this effect may be executed twice: one that got no answer goes to another endpoint.
 *
 * @since 0.1.0
 * @category combinators
 */
export const idempotent: <A, E, R>(self: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R> =
  locally({ isIdempotent: true })

/**
 * The time for each request in this effect with all its attempts, instead of the option `timeout`. `Effect.timeout`
 * around it interrupts instead: nothing is tried any more, and nothing is told of what was under way.
 *
 * @since 0.1.0
 * @category combinators
 */
export const withTimeout: {
  (
    duration: Duration.DurationInput
  ): <A, E, R>(self: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R>
  <A, E, R>(self: Effect.Effect<A, E, R>, duration: Duration.DurationInput): Effect.Effect<A, E, R>
} = dual(
  2,
  <A, E, R>(
    self: Effect.Effect<A, E, R>,
    duration: Duration.DurationInput
  ): Effect.Effect<A, E, R> => locally({ timeout: Duration.decode(duration) })(self)
)

/**
 * Every request in this effect goes to this server and no other, with the whole of its timeout. A server that does not
 * lead says so in its answer; one that cannot be reached fails with `RequestUnanswered`.
 *
 * @since 0.1.0
 * @category combinators
 */
export const withHost: {
  (host: Host): <A, E, R>(self: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R>
  <A, E, R>(self: Effect.Effect<A, E, R>, host: Host): Effect.Effect<A, E, R>
} = dual(2, <A, E, R>(self: Effect.Effect<A, E, R>, host: Host): Effect.Effect<A, E, R> =>
  locally({ host })(self)
)

/**
 * Reads in this effect (GET, HEAD and queries) may be answered by followers, which take turns: the data can be old, and
 * `isPotentiallyDirty` tells of an answer whether it is a follower's.
 *
 * A query that writes fails with 403: a follower is read-only.
 *
 * @since 0.1.0
 * @category combinators
 */
export const withDirtyReads: <A, E, R>(self: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R> =
  locally({ allowsDirty: true })

/**
 * Whether the answer came from a follower, whose data can be old.
 *
 * @since 0.1.0
 * @category getters
 */
export const isPotentiallyDirty: (response: HttpClientResponse.HttpClientResponse) => boolean =
  Answer.isPotentiallyDirty
