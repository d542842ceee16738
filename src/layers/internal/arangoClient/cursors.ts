/**
 * Queries: a stream of rows, fetched batch by batch from the server that began it.
 *
 * @internal
 */
import { Chunk, Effect, Option, Predicate, Stream } from "effect"
import { RequestUnanswered } from "../../../Errors.js"
import type { Host } from "../../../Host.js"
import { CursorLost } from "./errors.js"
import type { ArangoClientError, Wire } from "./wire.js"
import { isGone, pinned } from "./wire.js"

/** @internal */
export interface Query {
  readonly query: string
  readonly bindVars: Readonly<Record<string, unknown>>
}

interface Batch {
  readonly rows: ReadonlyArray<unknown>
  readonly next: { readonly id: string; readonly batchId: string | undefined } | undefined
}

/** A cursor on a server that has more. */
interface Open {
  readonly host: Host
  readonly next: NonNullable<Batch["next"]>
}

const CURSOR_NOT_FOUND = 1600

const textIn = (body: unknown, name: string): string | undefined =>
  Predicate.hasProperty(body, name) && typeof body[name] === "string" ? body[name] : undefined

const batchOf = (body: unknown): Batch => {
  const rows: unknown = Predicate.hasProperty(body, "result") ? body.result : []
  const id = textIn(body, "id")
  const hasMore = Predicate.hasProperty(body, "hasMore") && body.hasMore === true
  return {
    rows: Array.isArray(rows) ? rows : [],
    next: hasMore && id !== undefined ? { id, batchId: textIn(body, "nextBatchId") } : undefined
  }
}

const isLost = (error: ArangoClientError): boolean =>
  error instanceof RequestUnanswered ||
  isGone(error) ||
  (error._tag === "ArangoError" && error.errorNum === CURSOR_NOT_FOUND)

/** @internal */
export const make =
  (wire: Wire) =>
  (
    query: Query,
    options: Readonly<Record<string, unknown>>
  ): Stream.Stream<unknown, ArangoClientError> => {
    const fetch = (host: Host, { id, batchId }: NonNullable<Batch["next"]>, batches: number) => {
      const path = `/_api/cursor/${encodeURIComponent(id)}`
      return wire({
        method: "POST",
        path: batchId === undefined ? path : `${path}/${encodeURIComponent(batchId)}`
      }).pipe(
        // The server keeps the last batch for whoever asks for it by its number.
        Effect.retry({
          times: batchId === undefined ? 0 : 1,
          while: (error) => error instanceof RequestUnanswered
        }),
        pinned(host),
        Effect.mapError((error) =>
          isLost(error) ? new CursorLost({ host, batches, cause: error }) : error
        )
      )
    }
    const forget = (host: Host, id: string) =>
      Effect.ignore(
        wire({ method: "DELETE", path: `/_api/cursor/${encodeURIComponent(id)}` }).pipe(
          pinned(host)
        )
      )

    return Stream.unwrapScoped(
      Effect.gen(function* () {
        /** What is open on a server, to be closed if nobody wants the rest. */
        let open: Open | undefined
        let batches = 0
        yield* Effect.addFinalizer(() =>
          open === undefined ? Effect.void : forget(open.host, open.next.id)
        )
        const begin = wire({
          method: "POST",
          path: "/_api/cursor",
          body: { ...options, ...query, options: { allowRetry: true } }
        })
        const follow = ({ host, next }: Open) =>
          Effect.tapError(fetch(host, next, batches), (error) =>
            Effect.sync(() => {
              // It is gone: there is nothing to close.
              if (error._tag === "CursorLost") open = undefined
            })
          )
        return Stream.paginateChunkEffect<Open | undefined, unknown, ArangoClientError, never>(
          undefined,
          (previous) =>
            Effect.map(previous === undefined ? begin : follow(previous), (answer) => {
              batches++
              const { next, rows } = batchOf(answer.body)
              const host = previous?.host ?? answer.host
              open = next === undefined || host === undefined ? undefined : { host, next }
              return [Chunk.fromIterable(rows), Option.fromNullable(open)] as const
            })
        )
      })
    )
  }
