/**
 * The `SqlClient` over a `Runner`. Built from `Statement.make` instead of `SqlClient.make`, whose
 * transactions die on a lost connection and share one tag between all clients.
 *
 * @internal
 */
import { Reactivity } from "@effect/experimental"
import type { SqlConnection, SqlError } from "@effect/sql"
import { SqlClient, Statement } from "@effect/sql"
import { Context, Effect, Fiber, Option } from "effect"
import type { HostPool } from "../HostPool.js"
import type { Session } from "../Connector.js"
import { SessionError } from "../Connector.js"
import { ConfigurationError } from "../Errors.js"
import * as Classifier from "../ErrorClassifier.js"
import type { TransformRows } from "./connection.js"
import * as Connection from "./connection.js"
import type { Routes } from "./routes.js"
import { answered } from "./tell.js"
import * as Statements from "./statements.js"
import type { Frame } from "./transaction.js"
import * as Transaction from "./transaction.js"

/** Each client has its own tag, and this tells them apart. */
let clients = 0

/** @internal */
export const make = (options: {
  readonly routes: Routes
  readonly compiler: Statement.Compiler
  readonly transformRows: TransformRows
  readonly spanAttributes: ReadonlyArray<readonly [string, unknown]>
}): Effect.Effect<SqlClient.SqlClient, never, Reactivity.Reactivity> =>
  Effect.gen(function* () {
    const { compiler, routes, spanAttributes, transformRows } = options
    const reactivity = yield* Reactivity.Reactivity
    const owner = Symbol("effect-failover/client")
    const tag: Transaction.FrameTag = Context.GenericTag<Frame>(
      `effect-failover/SqlFailover/Transaction/${clients++}`
    )

    const acquirer: SqlConnection.Connection.Acquirer = Effect.withFiberRuntime((fiber) =>
      Effect.succeed(
        Transaction.currentFrame(fiber.currentContext, tag, owner)?.connection ??
          routes.connection(fiber)
      )
    )

    let served: { readonly by: HostPool; readonly attributes: typeof spanAttributes } | undefined
    const attributesOf = (pool: HostPool | undefined): typeof spanAttributes => {
      if (pool === undefined) return spanAttributes
      if (served?.by !== pool) {
        served = {
          by: pool,
          attributes: [
            ...spanAttributes,
            ["server.address", pool.host.host],
            ["server.port", pool.host.port],
            ["db.failover.role", pool.role],
            ["db.failover.epoch", pool.epoch]
          ]
        }
      }
      return served.attributes
    }

    // For what is not simply yielded (values, raw, streams): a statement iterates its client's attributes
    // when it starts, which is the moment to say where it is sent.
    const liveAttributes: ReadonlyArray<readonly [string, unknown]> = Object.assign(
      [...spanAttributes],
      {
        [Symbol.iterator]: () => {
          const fiber = Option.getOrUndefined(Fiber.getCurrentFiber())
          if (fiber === undefined) return spanAttributes.values()
          const frame = Transaction.currentFrame(fiber.currentContext, tag, owner)
          return attributesOf(frame?.connection.pool ?? routes.pool(fiber)).values()
        }
      }
    )

    const runWith =
      (transform: TransformRows): Statements.Run =>
      (sql, params, fiber, aim, span) => {
        const frame = Transaction.currentFrame(fiber.currentContext, tag, owner)
        const annotate = (pool: HostPool) => {
          for (const [key, value] of attributesOf(pool)) span.attribute(key, value)
        }
        if (frame !== undefined) {
          annotate(frame.connection.pool)
          return frame.connection.execute(sql, params, transform)
        }
        const rows = routes.execute(fiber, { sql, params, shape: "objects" }, annotate, aim)
        return transform === undefined ? rows : Effect.map(rows, transform)
      }

    const constructor = Statements.routed(
      Statement.make(acquirer, compiler, liveAttributes, transformRows),
      runWith(transformRows)
    )
    const self = {
      [SqlClient.TypeId]: SqlClient.TypeId,
      withTransaction: routes.noting(
        Transaction.make({
          tag,
          owner,
          spanAttributes: attributesOf,
          begin: (fiber, sql, restore) => routes.begin(fiber, owner, sql, restore)
        })
      ),
      reserve: routes.reserve,
      reactive: reactivity.stream,
      reactiveMailbox: reactivity.query
    }
    const clientOf = (constructor: Statement.Constructor, raw: () => SqlClient.SqlClient) => {
      const client = Object.assign(constructor, self, { withoutTransforms: raw })
      // `safe` is the client itself, which no literal can say.
      return Object.assign(client, { safe: client }) as SqlClient.SqlClient
    }
    const raw: SqlClient.SqlClient =
      transformRows === undefined
        ? clientOf(constructor, () => raw)
        : clientOf(
            Statements.routed(
              Statement.make(acquirer, compiler.withoutTransform, liveAttributes, undefined),
              runWith(undefined)
            ),
            () => raw
          )
    return transformRows === undefined ? raw : clientOf(constructor, () => raw)
  })

/**
 * Runs the user's set-up on a new connection. What the server refuses there will be refused on every
 * connection, so it is the option that is wrong.
 *
 * @internal
 */
export const setUpSession = (
  session: Session,
  compiler: Statement.Compiler,
  setUp: (sql: Statement.Constructor) => Effect.Effect<unknown, SqlError.SqlError>
): Effect.Effect<void, SessionError> => {
  let broken: SessionError | undefined
  const connection = Connection.onSession(session, (error) => {
    broken = error.fate === "Answered" ? undefined : error
    return Effect.fail(answered(error.cause))
  })
  const sql = Statement.make(Effect.succeed(connection), compiler, [], undefined)
  return Effect.matchEffect(setUp(sql), {
    onSuccess: () => Effect.void,
    onFailure: (error) =>
      Effect.fail(
        new SessionError({
          fate: "NotSent",
          cause:
            broken?.cause ??
            new ConfigurationError({
              field: "sessionSetup",
              problem: `failed on a new connection: ${Classifier.describe(error.cause)}`,
              hint: "every new connection runs it, so it must succeed on each"
            })
        })
      )
  })
}
