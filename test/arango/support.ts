/** Doubles, and clients over them. */
import type { HttpClient } from "@effect/platform"
import { FetchHttpClient, HttpBody, type HttpClientResponse } from "@effect/platform"
import { NodeHttpClient } from "@effect/platform-node"
import { Effect, Either, Layer } from "effect"
import type { ArangoDouble } from "effect-failover/testing/ArangoDouble"
import * as Arango from "effect-failover/layers/Arango"

export const transports: Record<string, Layer.Layer<HttpClient.HttpClient>> = {
  "node:http": NodeHttpClient.layer,
  undici: NodeHttpClient.layerUndici,
  fetch: FetchHttpClient.layer
}

/** A client of the endpoints; it asks nothing by itself unless told to. */
export const connect = (
  endpoints: ReadonlyArray<string>,
  options: Partial<Arango.ArangoOptions> = {},
  transport: Layer.Layer<HttpClient.HttpClient> = NodeHttpClient.layer
) =>
  Effect.gen(function* () {
    const context = yield* Layer.build(transport)
    return yield* Effect.provide(
      Arango.make({ endpoints, synchronize: false, ...options }),
      context
    )
  })

export const create = (client: HttpClient.HttpClient, key: string) =>
  client.post("/_api/document/items", { body: HttpBody.unsafeJson({ _key: key }) })

/** Past every client. */
export const collection = (double: ArangoDouble, name = "items") =>
  Effect.gen(function* () {
    const leader = (yield* double.leader) ?? double.nodes[0]
    yield* Effect.promise(() =>
      fetch(`${leader.url}/_api/collection`, {
        method: "POST",
        body: JSON.stringify({ name }),
        headers: { "content-type": "application/json" }
      }).then((response) => response.text())
    )
    yield* double.clearLog
  })

/** The library's error that an HTTP client's error carries. */
export const failure = <E, R>(self: Effect.Effect<unknown, E, R>): Effect.Effect<any, never, R> =>
  Effect.map(Effect.either(self), (result) => {
    if (Either.isRight(result)) throw new Error("it succeeded")
    const error: any = result.left
    return error.cause ?? error
  })

/** Which nodes were asked, in turn. */
export const asked = (double: ArangoDouble) =>
  Effect.map(double.log, (log) => log.map((_) => _.node))

export const status = (
  self: Effect.Effect<HttpClientResponse.HttpClientResponse, unknown>
): Effect.Effect<number, unknown> => Effect.map(self, (_) => _.status)
