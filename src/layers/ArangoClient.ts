/**
 * A small typed client for ArangoDB, over `layers/Arango`: queries as streams, documents through a schema, stream
 * transactions. It logs in, and again in time, with the `auth` of that layer.
 *
 * Cursors and transactions live on one server: what follows their first request goes there and nowhere else. When that
 * server is lost, they fail with `CursorLost` and `TransactionLost`, and never go on elsewhere as if nothing had been.
 *
 * @example
 * ```ts
 * import { NodeHttpClient } from "@effect/platform-node"
 * import { Effect, Layer, Redacted, Schedule, Schema, Stream } from "effect"
 * import { Failover } from "effect-failover"
 * import * as ArangoClient from "effect-failover/layers/ArangoClient"
 *
 * const Account = Schema.Struct({ _key: Schema.String, balance: Schema.Number })
 *
 * const program = Effect.gen(function* () {
 *   const arango = yield* ArangoClient.ArangoClient
 *   const accounts = arango.collection("accounts", Account)
 *   yield* accounts.update("alice", { balance: 90 }).pipe(
 *     Effect.zipRight(accounts.update("bob", { balance: 110 })),
 *     arango.withTransaction({ write: ["accounts"] }),
 *     Effect.retry({ while: Failover.isSafeToRetry, schedule: Schedule.spaced("100 millis") })
 *   )
 *   return yield* arango
 *     .query(Account, ArangoClient.aql`FOR a IN accounts FILTER a.balance > ${100} RETURN a`)
 *     .pipe(Stream.runCollect)
 * }).pipe(
 *   Effect.provide(
 *     ArangoClient.layer({
 *       endpoints: ["http://arango-1.internal:8529", "http://arango-2.internal:8529"],
 *       database: "bank",
 *       auth: { username: "app", password: Redacted.make("secret") }
 *     }).pipe(Layer.provide(NodeHttpClient.layer))
 *   )
 * )
 * ```
 *
 * @since 0.1.0
 */
import { HttpClient } from "@effect/platform"
import type { ConfigError, ParseResult } from "effect"
import { Config, Context, Effect, Layer, Schema, Stream } from "effect"
import type { ClusterIdConflict, ConfigurationError } from "../Errors.js"
import * as Arango from "./Arango.js"
import * as Cursors from "./internal/arangoClient/cursors.js"
import * as Documents from "./internal/arangoClient/documents.js"
import * as Transactions from "./internal/arangoClient/transactions.js"
import * as Wire from "./internal/arangoClient/wire.js"

export {
  /**
   * The server answered with an error.
   *
   * @since 0.1.0
   * @category errors
   */
  ArangoError,
  /**
   * A cursor is gone with the server that it was on. The rows that came before are good.
   *
   * @since 0.1.0
   * @category errors
   */
  CursorLost,
  /**
   * A stream transaction is gone with the server that it was on. `outcome` says whether it is rolled back, or whether its
   * commit was sent and not answered.
   *
   * @since 0.1.0
   * @category errors
   */
  TransactionLost
} from "./internal/arangoClient/errors.js"

export type {
  /**
   * `RequestUnanswered`, `FailoverFailed` and `ConnectionRejected` are the library's, lifted from the `RequestError` that
   * carried them.
   *
   * @since 0.1.0
   * @category errors
   */
  ArangoClientError
} from "./internal/arangoClient/wire.js"

export type {
  /**
   * The documents of one collection. `get` gives `None` where there is no such document; `ifRev` makes a write fail with
   * a conflict (`ArangoError.isConflict`) if the document has another revision by now.
   *
   * @since 0.1.0
   * @category models
   */
  Collection,
  /**
   * What the server says of a document that it has written.
   *
   * @since 0.1.0
   * @category models
   */
  Handle
} from "./internal/arangoClient/documents.js"

export type {
  /**
   * The collections of a transaction, by how it uses them.
   *
   * @since 0.1.0
   * @category models
   */
  Collections
} from "./internal/arangoClient/transactions.js"

/**
 * A query with its values apart from its text.
 *
 * @since 0.1.0
 * @category models
 */
export interface Aql {
  readonly query: string
  readonly bindVars: Readonly<Record<string, unknown>>
}

/**
 * @since 0.1.0
 * @category models
 */
export interface QueryOptions {
  /** Rows in one batch. Default: the server's 1000. */
  readonly batchSize?: number | undefined
  /** How many seconds the server keeps the cursor between two batches. Default: the server's 30. */
  readonly ttl?: number | undefined
}

/**
 * @since 0.1.0
 * @category models
 */
export interface ArangoClient {
  readonly database: string
  /** The rows, batch by batch, all from one server. The cursor is closed with the stream. */
  readonly query: <A, I, R>(
    schema: Schema.Schema<A, I, R>,
    query: Aql | string,
    options?: QueryOptions
  ) => Stream.Stream<A, Wire.ArangoClientError | ParseResult.ParseError, R>
  readonly collection: <A, I, R>(
    name: string,
    schema: Schema.Schema<A, I, R>
  ) => Documents.Collection<A, I, R>
  /**
   * Everything that this client does in the effect is one stream transaction: committed when the effect succeeds, aborted
   * when it fails or is interrupted. A transaction inside is one of its own.
   */
  readonly withTransaction: (
    collections: Transactions.Collections
  ) => <A, E, R>(self: Effect.Effect<A, E, R>) => Effect.Effect<A, E | Wire.ArangoClientError, R>
}

/**
 * @since 0.1.0
 * @category tags
 */
export const ArangoClient = Context.GenericTag<ArangoClient>("effect-failover/layers/ArangoClient")

/**
 * A query from a template: what is put in becomes a bind variable, never text. Names of collections are text.
 *
 * @example
 * ```ts
 * import { aql } from "effect-failover/layers/ArangoClient"
 *
 * const query = aql`FOR a IN accounts FILTER a.owner == ${"alice"} RETURN a`
 * ```
 *
 * @since 0.1.0
 * @category constructors
 */
export const aql = (strings: TemplateStringsArray, ...values: ReadonlyArray<unknown>): Aql => ({
  query: strings.reduce((text, part, i) => `${text}@value${i - 1}${part}`),
  bindVars: Object.fromEntries(values.map((value, i) => [`value${i}`, value]))
})

/**
 * The client of one database, over an `HttpClient` of `layers/Arango`.
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = (options: {
  /** Default `"_system"`. */
  readonly database?: string | undefined
}): Effect.Effect<ArangoClient, never, HttpClient.HttpClient> =>
  Effect.map(HttpClient.HttpClient, (client) => {
    const database = options.database ?? "_system"
    const wire = Wire.make(client, database)
    const rows = Cursors.make(wire)
    return {
      database,
      query: (schema, query, options = {}) =>
        Stream.mapEffect(
          rows(
            typeof query === "string" ? { query, bindVars: {} } : query,
            Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined))
          ),
          Schema.decodeUnknown(schema)
        ),
      collection: Documents.make(wire),
      withTransaction: Transactions.make(wire)
    }
  })

/**
 * Everything that the layer provides.
 *
 * @since 0.1.0
 * @category models
 */
export type Provided = ArangoClient | Arango.Provided

const over = (options: Arango.ArangoOptions) =>
  Layer.effect(ArangoClient, make(options)).pipe(Layer.provideMerge(Arango.layer(options)))

/**
 * The client, and everything that `Arango.layer` provides, over the `HttpClient` below.
 *
 * @since 0.1.0
 * @category layers
 */
export const layer = (
  options: Arango.ArangoOptions
): Layer.Layer<Provided, ConfigurationError | ClusterIdConflict, HttpClient.HttpClient> =>
  over(options)

/**
 * `layer` with options from `Config`: `ArangoClient.layerConfig(Arango.config)` reads all of them.
 *
 * @since 0.1.0
 * @category layers
 */
export const layerConfig = (
  config: Config.Config.Wrap<Arango.ArangoOptions>
): Layer.Layer<
  Provided,
  ConfigurationError | ClusterIdConflict | ConfigError.ConfigError,
  HttpClient.HttpClient
> => Layer.unwrapEffect(Effect.map(Config.unwrap(config), over))
