/**
 * Documents of one collection, through a schema.
 *
 * @internal
 */
import type { Option } from "effect"
import { Effect, type ParseResult, Predicate, Schema } from "effect"
import type { ArangoClientError, Ask, Wire } from "./wire.js"

/** @internal */
export interface Handle {
  readonly _key: string
  readonly _id: string
  readonly _rev: string
}

/** @internal */
export interface Collection<A, I, R> {
  readonly name: string
  readonly create: (
    document: A
  ) => Effect.Effect<Handle, ArangoClientError | ParseResult.ParseError, R>
  readonly get: (
    key: string
  ) => Effect.Effect<Option.Option<A>, ArangoClientError | ParseResult.ParseError, R>
  readonly update: (
    key: string,
    changes: Partial<I>,
    options?: { readonly ifRev?: string | undefined }
  ) => Effect.Effect<Handle, ArangoClientError>
  readonly replace: (
    key: string,
    document: A,
    options?: { readonly ifRev?: string | undefined }
  ) => Effect.Effect<Handle, ArangoClientError | ParseResult.ParseError, R>
  readonly remove: (
    key: string,
    options?: { readonly ifRev?: string | undefined }
  ) => Effect.Effect<Handle, ArangoClientError>
}

const DOCUMENT_NOT_FOUND = 1202

const text = (body: unknown, name: string): string =>
  Predicate.hasProperty(body, name) && typeof body[name] === "string" ? body[name] : ""

const handleOf = (body: unknown): Handle => ({
  _key: text(body, "_key"),
  _id: text(body, "_id"),
  _rev: text(body, "_rev")
})

/** @internal */
export const make =
  (wire: Wire) =>
  <A, I, R>(name: string, schema: Schema.Schema<A, I, R>): Collection<A, I, R> => {
    const encode = Schema.encode(schema)
    const decode = Schema.decodeUnknown(schema)
    const path = `/_api/document/${encodeURIComponent(name)}`
    const of = (key: string) => `${path}/${encodeURIComponent(key)}`
    const write = (ask: Ask, ifRev?: string) =>
      Effect.map(
        wire(ifRev === undefined ? ask : { ...ask, headers: { "if-match": `"${ifRev}"` } }),
        ({ body }) => handleOf(body)
      )
    return {
      name,
      create: (document) =>
        Effect.flatMap(encode(document), (body) => write({ method: "POST", path, body })),
      get: (key) =>
        wire({ method: "GET", path: of(key) }).pipe(
          Effect.flatMap(({ body }) => Effect.asSome(decode(body))),
          Effect.catchIf(
            (error) => error._tag === "ArangoError" && error.errorNum === DOCUMENT_NOT_FOUND,
            () => Effect.succeedNone
          )
        ),
      update: (key, body, options) =>
        write({ method: "PATCH", path: of(key), body }, options?.ifRev),
      replace: (key, document, options) =>
        Effect.flatMap(encode(document), (body) =>
          write({ method: "PUT", path: of(key), body }, options?.ifRev)
        ),
      remove: (key, options) => write({ method: "DELETE", path: of(key) }, options?.ifRev)
    }
  }
