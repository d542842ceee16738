/**
 * Patroni's REST API: what is asked, and what an answer has to look like. Every failure is a
 * `PatroniError`; none is a defect, whatever answers there.
 *
 * @internal
 */
import type { HttpClient } from "@effect/platform"
import { Data, Deferred, Duration, Effect, Schema } from "effect"

/**
 * Patroni did not answer, or not as Patroni does.
 *
 * @internal
 */
export class PatroniError extends Data.TaggedError("PatroniError")<{
  readonly url: string
  readonly problem: string
  readonly cause?: unknown
}> {
  override get message(): string {
    return `${this.url} ${this.problem}`
  }
}

const optional = <A, I>(schema: Schema.Schema<A, I>) =>
  Schema.optionalWith(schema, { nullable: true })

/**
 * One entry of `GET /cluster`: only what is used, so that versions may differ in the rest.
 *
 * @internal
 */
export const ListedMember = Schema.Struct({
  name: Schema.NonEmptyString,
  role: Schema.String,
  /** Absent until the member has told Patroni's store where it listens. */
  host: optional(Schema.NonEmptyString),
  port: optional(Schema.Int.pipe(Schema.between(1, 65_535))),
  timeline: optional(Schema.NonNegativeInt),
  api_url: optional(Schema.String)
})

/** @internal */
export type ListedMember = typeof ListedMember.Type

/**
 * `GET /cluster`. `scope` is there since Patroni 3.2.
 *
 * @internal
 */
export const MemberList = Schema.Struct({
  members: Schema.Array(ListedMember),
  scope: optional(Schema.String),
  pause: optional(Schema.Boolean)
})

/** @internal */
export type MemberList = typeof MemberList.Type

/**
 * `GET /patroni`: the node behind the API. `name` is there since Patroni 3.2.
 *
 * @internal
 */
export const NodeStatus = Schema.Struct({
  patroni: Schema.Struct({ scope: Schema.String, name: optional(Schema.String) }),
  postmaster_start_time: optional(Schema.String),
  failsafe_mode_is_active: optional(Schema.Boolean)
})

/** @internal */
export type NodeStatus = typeof NodeStatus.Type

/** @internal */
export interface Api {
  readonly list: (endpoint: string) => Effect.Effect<MemberList, PatroniError>
  readonly status: (endpoint: string) => Effect.Effect<NodeStatus, PatroniError>
}

/**
 * Endpoints are base URLs without a path.
 *
 * @internal
 */
export const make = (client: HttpClient.HttpClient): Api => {
  const get =
    <A, I>(path: string, schema: Schema.Schema<A, I>) =>
    (endpoint: string): Effect.Effect<A, PatroniError> => {
      const url = `${endpoint}${path}`
      const failed = (problem: string) => (cause: unknown) =>
        new PatroniError({ url, problem, cause })
      return client.get(url, { headers: { accept: "application/json" } }).pipe(
        Effect.mapError(failed("does not answer")),
        Effect.flatMap((response) =>
          // Read to its end in any case: an answer that nobody reads holds its connection.
          Effect.flatMap(
            Effect.mapError(response.text, failed("does not answer to the end")),
            (text) =>
              response.status === 200
                ? Effect.succeed(text)
                : Effect.fail(failed(`answers with the status ${response.status}`)(undefined))
          )
        ),
        Effect.flatMap((text) =>
          Effect.mapError(
            Schema.decode(Schema.parseJson(schema))(text),
            failed("answers with something else than Patroni does")
          )
        )
      )
    }
  return { list: get("/cluster", MemberList), status: get("/patroni", NodeStatus) }
}

/**
 * The first success. The first endpoint has half of the time for itself; then, or as soon as it has
 * failed, all others are asked at once.
 *
 * @internal
 */
export const firstOf = <A>(
  endpoints: readonly [string, ...ReadonlyArray<string>],
  atMost: Duration.Duration,
  ask: (endpoint: string) => Effect.Effect<A, PatroniError>
): Effect.Effect<A, PatroniError> =>
  Effect.gen(function* () {
    const [first, ...others] = endpoints
    const failed = yield* Deferred.make<void>()
    const turn = Effect.raceFirst(Deferred.await(failed), Effect.sleep(Duration.times(atMost, 0.5)))
    return yield* Effect.raceAll([
      Effect.tapError(ask(first), () => Deferred.succeed(failed, void 0)),
      ...others.map((endpoint) => Effect.zipRight(turn, ask(endpoint)))
    ])
  }).pipe(
    Effect.timeoutFail({
      duration: atMost,
      onTimeout: () => new PatroniError({ url: endpoints[0], problem: "does not answer in time" })
    })
  )
