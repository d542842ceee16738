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
import type { Aim } from "./reading.js"
import { currentAim } from "./reading.js"

type AnyStatement = Statement.Statement<Row>

/** Runs compiled SQL in the fiber. @internal */
export type Run = (
  sql: string,
  params: ReadonlyArray<unknown>,
  fiber: Fiber.RuntimeFiber<unknown, unknown>,
  aim: Aim,
  span: Tracer.Span
) => Effect.Effect<ReadonlyArray<Row>, SqlError.SqlError>

/** Where this statement is to be run, whatever its fiber asks for. */
const AIM = Symbol.for("effect-failover/Statement/aim")

interface Aimed {
  readonly [AIM]: Aim
}

const isAimed = (u: object): u is Aimed => AIM in u

/**
 * Where the statements of this effect are to be run. A single statement of ours takes the word with it: a
 * scope for it would cost more than all the rest of its way.
 *
 * @internal
 */
export const aimed = <A, E, R>(
  self: Effect.Effect<A, E, R>,
  aim: NonNullable<Aim>
): Effect.Effect<A, E, R> => {
  if (!isAimed(self)) return Effect.locally(self, currentAim, aim)
  // The innermost counts, as with scopes.
  return self[AIM] === undefined
    ? Object.assign(Object.create(Object.getPrototypeOf(self)), self, { [AIM]: aim })
    : self
}

const isStatement = (u: unknown): u is AnyStatement & { readonly commit: () => ReturnType<Run> } =>
  typeof u === "object" && u !== null && "commit" in u && "segments" in u

/** @internal */
export const routed = (base: Statement.Constructor, run: Run): Statement.Constructor => {
  const commit = function (this: AnyStatement & Aimed): ReturnType<Run> {
    const aim = this[AIM]
    return Effect.withFiberRuntime((fiber) => {
      if (fiber.getFiberRef(Statement.currentTransformer)._tag === "Some") {
        const committed: ReturnType<Run> = Object.getPrototypeOf(this).commit.call(this)
        return aim === undefined ? committed : Effect.locally(committed, currentAim, aim)
      }
      return Effect.useSpan("sql.execute", { kind: "client", captureStackTrace: false }, (span) => {
        const [sql, params] = this.compile()
        span.attribute("db.operation.name", "execute")
        span.attribute("db.query.text", sql)
        return run(sql, params, fiber, aim, span)
      })
    })
  }
  const route = <A>(made: A): A =>
    isStatement(made) ? Object.assign(made, { commit, [AIM]: undefined }) : made
  const constructor = (...args: ReadonlyArray<unknown>) =>
    route(Reflect.apply(base, undefined, args))
  return Object.assign(constructor, base, {
    unsafe: (sql: string, params?: ReadonlyArray<unknown>) => route(base.unsafe(sql, params))
  }) as Statement.Constructor
}
