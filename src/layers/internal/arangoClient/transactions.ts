/**
 * Stream transactions: begun where requests go, then bound to that server until they end.
 *
 * @internal
 */
import { Effect, Exit, Option, Predicate } from "effect"
import { RequestUnanswered } from "../../../Errors.js"
import { ArangoError, TransactionLost } from "./errors.js"
import type { ArangoClientError, Transaction, Wire } from "./wire.js"
import { currentTransaction, isGone, pinned } from "./wire.js"

/** @internal */
export interface Collections {
  readonly read?: ReadonlyArray<string> | undefined
  readonly write?: ReadonlyArray<string> | undefined
  readonly exclusive?: ReadonlyArray<string> | undefined
}

const idOf = (body: unknown): string | undefined =>
  Predicate.hasProperty(body, "result") &&
  Predicate.hasProperty(body.result, "id") &&
  typeof body.result.id === "string"
    ? body.result.id
    : undefined

/** @internal */
export const make = (wire: Wire) => {
  const begin = (collections: Collections): Effect.Effect<Transaction, ArangoClientError> => {
    const ask = { method: "POST", path: "/_api/transaction/begin", body: { collections } } as const
    return Effect.flatMap(wire(ask), ({ body, host }) => {
      const id = idOf(body)
      return id === undefined || host === undefined
        ? Effect.fail(
            new ArangoError({
              status: 200,
              errorNum: 0,
              errorMessage: "the answer names no transaction",
              method: ask.method,
              path: ask.path
            })
          )
        : Effect.succeed({ id, host })
    })
  }

  const end = (method: "PUT" | "DELETE", { host, id }: Transaction) =>
    wire({ method, path: `/_api/transaction/${encodeURIComponent(id)}` }).pipe(pinned(host))

  /** A server that committed says so again when it is asked again. */
  const commit = (transaction: Transaction): Effect.Effect<void, ArangoClientError> => {
    let isSent = false
    return end("PUT", transaction).pipe(
      Effect.tapError((error) =>
        Effect.sync(() => {
          if (error instanceof RequestUnanswered && error.sent) isSent = true
        })
      ),
      Effect.retry({ times: 1, while: (error) => error instanceof RequestUnanswered }),
      Effect.asVoid,
      Effect.mapError((error) =>
        error instanceof RequestUnanswered || isGone(error)
          ? new TransactionLost({
              host: transaction.host,
              outcome: isSent ? "Unknown" : "RolledBack",
              cause: error
            })
          : error
      )
    )
  }

  return (collections: Collections) =>
    <A, E, R>(self: Effect.Effect<A, E, R>): Effect.Effect<A, E | ArangoClientError, R> =>
      Effect.uninterruptibleMask((restore) =>
        Effect.gen(function* () {
          const transaction = yield* restore(begin(collections))
          const exit = yield* Effect.exit(
            restore(Effect.locally(self, currentTransaction, Option.some(transaction)))
          )
          if (Exit.isSuccess(exit)) {
            yield* commit(transaction)
            return exit.value
          }
          yield* Effect.ignore(end("DELETE", transaction))
          return yield* exit
        }).pipe(Effect.locally(currentTransaction, Option.none()))
      )
}
