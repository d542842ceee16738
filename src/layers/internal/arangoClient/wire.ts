/**
 * One request of the typed client: to the database, inside the transaction of the fiber, with the server's errors as
 * errors.
 *
 * @internal
 */
import {
  HttpBody,
  HttpClientRequest,
  type HttpClient,
  type HttpClientError
} from "@effect/platform"
import { Duration, Effect, Either, FiberRef, GlobalValue, Option, Predicate } from "effect"
import type { ConnectionRejected, FailoverFailed } from "../../../Errors.js"
import { RequestUnanswered } from "../../../Errors.js"
import * as Failover from "../../../Failover.js"
import type { Host } from "../../../Host.js"
import * as Endpoints from "../../../internal/arango/endpoint.js"
import * as Settings from "../../../internal/arango/settings.js"
import { ArangoError, type CursorLost, TransactionLost } from "./errors.js"

/** @internal */
export type ArangoClientError =
  | ArangoError
  | CursorLost
  | TransactionLost
  | RequestUnanswered
  | FailoverFailed
  | ConnectionRejected
  | HttpClientError.HttpClientError

/** A stream transaction: it lives on one server. @internal */
export interface Transaction {
  readonly id: string
  readonly host: Host
}

/** @internal */
export const currentTransaction = GlobalValue.globalValue(
  "effect-failover/arango/transaction",
  () => FiberRef.unsafeMake<Option.Option<Transaction>>(Option.none())
)

const TRANSACTION_HEADER = "x-arango-trx-id"

/** @internal */
export interface Answer {
  readonly body: unknown
  /** Who answered. */
  readonly host: Host | undefined
}

/** @internal */
export interface Ask {
  readonly method: "GET" | "POST" | "PUT" | "PATCH" | "DELETE"
  readonly path: string
  readonly body?: unknown
  readonly params?: Readonly<Record<string, string>>
  readonly headers?: Readonly<Record<string, string>>
}

/** @internal */
export type Wire = (ask: Ask) => Effect.Effect<Answer, ArangoClientError>

/** @internal */
export const pinned =
  (host: Host) =>
  <A, E, R>(self: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
    Effect.locallyWith(self, Settings.current, (settings) => ({ ...settings, host }))

/** The response's own request says where it went. */
const hostOf = (url: string): Host | undefined => {
  const origin = /^[a-z]+:\/\/[^/?#]+/i.exec(url)?.[0]
  return origin === undefined
    ? undefined
    : Either.getOrUndefined(Either.map(Endpoints.parse(origin, "url"), (_) => _.host))
}

const parse = (text: string): unknown => {
  try {
    return text === "" ? undefined : JSON.parse(text)
  } catch {
    return undefined
  }
}

const refusal = ({ method, path }: Ask, status: number, body: unknown): ArangoError =>
  new ArangoError({
    status,
    errorNum:
      Predicate.hasProperty(body, "errorNum") && typeof body.errorNum === "number"
        ? body.errorNum
        : 0,
    errorMessage:
      Predicate.hasProperty(body, "errorMessage") && typeof body.errorMessage === "string"
        ? body.errorMessage
        : `status ${status}`,
    method,
    path
  })

/** Its head came, and the rest did not: it was executed, and its result is not known. */
const brokenOff = (
  { method, path }: Ask,
  from: Host | undefined,
  cause: HttpClientError.ResponseError
): RequestUnanswered | HttpClientError.ResponseError =>
  from === undefined
    ? cause
    : new RequestUnanswered({
        from,
        method,
        path,
        sent: true,
        timedOut: false,
        tried: [],
        elapsed: Duration.zero,
        attempts: 1,
        cause
      })

/** @internal */
export const make = (client: HttpClient.HttpClient, database: string): Wire => {
  const prefix = `/_db/${encodeURIComponent(database)}`

  const send = (ask: Ask): Effect.Effect<Answer, ArangoClientError> => {
    const request = HttpClientRequest.make(ask.method)(prefix + ask.path, {
      headers: ask.headers,
      urlParams: ask.params
    })
    return client
      .execute(
        ask.body === undefined
          ? request
          : HttpClientRequest.setBody(
              request,
              HttpBody.text(JSON.stringify(ask.body), "application/json")
            )
      )
      .pipe(
        Effect.flatMap((response) =>
          Effect.flatMap(
            Effect.mapError(response.text, (error) =>
              brokenOff(ask, hostOf(response.request.url), error)
            ),
            (text) => {
              const body = parse(text)
              return response.status < 400
                ? Effect.succeed({ body, host: hostOf(response.request.url) })
                : Effect.fail(refusal(ask, response.status, body))
            }
          )
        ),
        Failover.outcomes,
        // Outcomes of SQL: no request has them.
        Effect.catchTag("FailoverSuccess", "TransactionResolutionUnknown", Effect.die)
      )
  }

  /** Whatever fails here, the commit was not sent. */
  const inTransaction = ({ host, id }: Transaction, ask: Ask) =>
    send({ ...ask, headers: { ...ask.headers, [TRANSACTION_HEADER]: id } }).pipe(
      pinned(host),
      Effect.mapError((error) =>
        error instanceof RequestUnanswered || isGone(error)
          ? new TransactionLost({ host, outcome: "RolledBack", cause: error })
          : error
      )
    )

  return (ask) =>
    Effect.flatMap(FiberRef.get(currentTransaction), (transaction) =>
      Option.isNone(transaction) ? send(ask) : inTransaction(transaction.value, ask)
    )
}

const TRANSACTION_NOT_FOUND = 1655

/**
 * The server that was asked cannot go on with what was begun there: it was restarted, or leads no more.
 *
 * @internal
 */
export const isGone = (error: ArangoClientError): boolean =>
  error._tag === "ArangoError" && (error.status === 503 || error.errorNum === TRANSACTION_NOT_FOUND)
