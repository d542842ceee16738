/**
 * How the statements of our client run when they are simply yielded.
 *
 * `@effect/sql` gives a connection no access to the statement's span, and opens a scope for each
 * statement. Ours are routed without either, so that the span tells the host that really served the
 * statement, also when it had to be moved. With a transformer in place, `@effect/sql`'s own way is taken.
 *
 * @internal
 */
import { Statement } from "@effect/sql"
import type { SqlError } from "@effect/sql"
import type { Fiber, Tracer } from "effect"
import { Effect } from "effect"
import type { Row } from "../Connector.js"

type AnyStatement = Statement.Statement<Row>

/** Runs compiled SQL in the fiber. @internal */
export type Run = (
  sql: string,
  params: ReadonlyArray<unknown>,
  fiber: Fiber.RuntimeFiber<unknown, unknown>,
  span: Tracer.Span
) => Effect.Effect<ReadonlyArray<Row>, SqlError.SqlError>

const isStatement = (u: unknown): u is AnyStatement & { readonly commit: () => ReturnType<Run> } =>
  typeof u === "object" && u !== null && "commit" in u && "segments" in u

/** @internal */
export const routed = (base: Statement.Constructor, run: Run): Statement.Constructor => {
  const commit = function (this: AnyStatement): ReturnType<Run> {
    return Effect.withFiberRuntime((fiber) => {
      if (fiber.getFiberRef(Statement.currentTransformer)._tag === "Some") {
        return Object.getPrototypeOf(this).commit.call(this)
      }
      return Effect.useSpan("sql.execute", { kind: "client", captureStackTrace: false }, (span) => {
        const [sql, params] = this.compile()
        span.attribute("db.operation.name", "execute")
        span.attribute("db.query.text", sql)
        return run(sql, params, fiber, span)
      })
    })
  }
  const route = <A>(made: A): A => (isStatement(made) ? Object.assign(made, { commit }) : made)
  const constructor = (...args: ReadonlyArray<unknown>) =>
    route(Reflect.apply(base, undefined, args))
  return Object.assign(constructor, base, {
    unsafe: (sql: string, params?: ReadonlyArray<unknown>) => route(base.unsafe(sql, params))
  }) as Statement.Constructor
}
