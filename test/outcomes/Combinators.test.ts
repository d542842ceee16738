/** What is lifted, what is run again, and what never is. */
import type { SqlError } from "@effect/sql"
import { assert, describe, expectTypeOf, it } from "@effect/vitest"
import { Context, Effect, Exit, Fiber, Match, Ref, Schedule, TestClock } from "effect"
import type { Errors } from "effect-failover"
import { Failover, RetryBudget, SqlFailover } from "effect-failover"
import * as Pg from "effect-failover/layers/Pg"
import { Reactivity } from "@effect/experimental"
import { rejection } from "../core/fakes.js"
import { client, cluster } from "../core/simulated.js"
import {
  configuration,
  failoverFailed,
  failoverSuccess,
  serverError,
  sqlError,
  table,
  transaction
} from "./errors.js"

/** Nothing but a budget: the combinators need no more of the client. */
const withBudget = (budget: RetryBudget.RetryBudget) =>
  Effect.provideService(Failover.Failover, { budget } as Failover.Failover)

/** Fails with these errors, one run each, and succeeds then with the number of runs. */
const failing = <E>(...errors: ReadonlyArray<E>) =>
  Effect.map(Ref.make(0), (runs) => ({
    runs: Ref.get(runs),
    work: Effect.flatMap(
      Ref.updateAndGet(runs, (n) => n + 1),
      (n): Effect.Effect<number, E> =>
        n <= errors.length ? Effect.fail(errors[n - 1] as E) : Effect.succeed(n)
    )
  }))

const plenty = <A, E>(self: Effect.Effect<A, E, Failover.Failover>) =>
  Effect.flatMap(RetryBudget.make(), (budget) => withBudget(budget)(self))

const runsOf = (
  error: unknown,
  combinator: <A, E>(self: Effect.Effect<A, E>) => Effect.Effect<A, E, Failover.Failover>
) =>
  Effect.gen(function* () {
    const { runs, work } = yield* failing(error)
    yield* Effect.exit(plenty(combinator(work)))
    return yield* runs
  })

const forms = {
  "by itself": (_: unknown) => _,
  "in a SqlError": sqlError,
  "in a query builder's error": (cause: unknown) => sqlError(new Error("Failed query", { cause }))
}

for (const [form, wrap] of Object.entries(forms)) {
  describe(`an error ${form}`, () => {
    for (const [name, row] of Object.entries(table)) {
      const error = wrap(row.error)

      it(`${name}: safe to run again? ${row.safe}`, () => {
        assert.strictEqual(Failover.isSafeToRetry(error), row.safe)
      })

      it.effect(`${name}: lifted? ${row.outcome}`, () =>
        Effect.gen(function* () {
          const lifted = yield* Effect.flip(Failover.outcomes(Effect.fail(error)))
          assert.strictEqual(lifted, row.outcome ? row.error : error)
        })
      )

      it.effect(`${name}: retryTransaction runs it again? ${row.safe}`, () =>
        Effect.map(runsOf(error, Failover.retryTransaction(Schedule.recurs(5))), (runs) =>
          assert.strictEqual(runs, row.safe ? 2 : 1)
        )
      )

      it.effect(`${name}: idempotent runs it again? ${row.moved}`, () =>
        Effect.map(runsOf(error, Failover.idempotent), (runs) =>
          assert.strictEqual(runs, row.moved ? 2 : 1)
        )
      )
    }
  })
}

describe("outcomes", () => {
  it.effect("leaves success, defects and interruption alone", () =>
    Effect.gen(function* () {
      assert.strictEqual(yield* Failover.outcomes(Effect.succeed(1)), 1)
      const died = yield* Effect.exit(Failover.outcomes(Effect.die("mine")))
      assert.deepStrictEqual(died, Exit.die("mine"))
      const interrupted = yield* Effect.exit(Failover.outcomes(Effect.interrupt))
      assert.isTrue(Exit.isInterrupted(interrupted))
    })
  )

  it.effect("catchTag, catchTags and Match see the lifted outcome", () =>
    Effect.gen(function* () {
      const failed = (cause: unknown) => Failover.outcomes(Effect.fail(sqlError(cause)))
      const caught = yield* failed(transaction("Unknown")).pipe(
        Effect.catchTag("TransactionResolutionUnknown", (_) => Effect.succeed(_.outcome))
      )
      assert.strictEqual(caught, "Unknown")
      const both = yield* failed(failoverSuccess()).pipe(
        Effect.catchTags({
          FailoverSuccess: (_) => Effect.succeed(_.to.host),
          ConnectionRejected: (_) => Effect.succeed(_.field)
        })
      )
      assert.strictEqual(both, "b")
      const matched = yield* Effect.flip(failed(rejection("a")))
      assert.strictEqual(advice(matched), "look at password")
    })
  )
})

/** Exhaustive: it does not compile if an error is missing, or one too many is named. */
const advice = Match.type<
  Failover.OutcomeError | Errors.ConnectionRejected | SqlError.SqlError
>().pipe(
  Match.tag("FailoverSuccess", (_) => `now on ${_.to.host}`),
  Match.tag("TransactionResolutionUnknown", (_) => _.outcome),
  Match.tag("FailoverFailed", (_) => _.reason),
  Match.tag("ConnectionRejected", (_) => `look at ${_.field}`),
  Match.tag("SqlError", (_) => _.message),
  Match.exhaustive
)

describe("retryTransaction", () => {
  for (const code of ["40001", "40P01"]) {
    it.effect(`runs again on the server's ${code}`, () =>
      Effect.gen(function* () {
        const { work } = yield* failing(sqlError(serverError(code)), sqlError(serverError(code)))
        const retried = Failover.retryTransaction(work, Schedule.recurs(5))
        assert.strictEqual(yield* plenty(retried), 3)
      })
    )

    it.effect(`never on Unknown, also when ${code} is what is behind it`, () =>
      Effect.gen(function* () {
        const error = sqlError(transaction("Unknown", serverError(code)))
        const runs = yield* runsOf(error, Failover.retryTransaction(Schedule.recurs(5)))
        assert.strictEqual(runs, 1)
      })
    )
  }

  it.effect("data-first and data-last are one", () =>
    Effect.gen(function* () {
      const first = yield* failing(transaction("RolledBack"))
      const last = yield* failing(transaction("RolledBack"))
      const schedule = Schedule.recurs(1)
      assert.strictEqual(yield* plenty(Failover.retryTransaction(first.work, schedule)), 2)
      assert.strictEqual(yield* plenty(last.work.pipe(Failover.retryTransaction(schedule))), 2)
    })
  )

  it.effect("ends with the last error when the schedule ends", () =>
    Effect.gen(function* () {
      const errors = [
        failoverFailed("RolledBack"),
        transaction("RolledBack"),
        failoverFailed("NotExecuted")
      ]
      const { runs, work } = yield* failing(...errors)
      const error = yield* Effect.flip(plenty(Failover.retryTransaction(work, Schedule.recurs(2))))
      assert.strictEqual(error, errors[2])
      assert.strictEqual(yield* runs, 3)
    })
  )

  it.effect("waits as the schedule says", () =>
    Effect.gen(function* () {
      const { runs, work } = yield* failing(transaction("RolledBack"), transaction("RolledBack"))
      const fiber = yield* Effect.fork(
        plenty(Failover.retryTransaction(work, Schedule.exponential("1 second")))
      )
      yield* TestClock.adjust("999 millis")
      assert.strictEqual(yield* runs, 1)
      yield* TestClock.adjust("1 millis")
      assert.strictEqual(yield* runs, 2)
      yield* TestClock.adjust("2 seconds")
      assert.strictEqual(yield* Fiber.join(fiber), 3)
    })
  )

  it.effect("ends with the last error when the budget is empty", () =>
    Effect.gen(function* () {
      const budget = yield* RetryBudget.make({ reserve: 0, ratio: 1 })
      budget.unsafeDeposit()
      const errors = [
        transaction("RolledBack"),
        failoverFailed("RolledBack"),
        transaction("RolledBack")
      ]
      const { runs, work } = yield* failing(...errors)
      const error = yield* Effect.flip(
        withBudget(budget)(Failover.retryTransaction(work, Schedule.forever))
      )
      assert.strictEqual(error, errors[1])
      assert.deepStrictEqual([yield* runs, yield* budget.balance], [2, 0])
    })
  )

  it.effect("pays one for each run after the first, and nothing for what is not run again", () =>
    Effect.gen(function* () {
      const budget = yield* RetryBudget.make()
      const retried = yield* failing(transaction("RolledBack"), transaction("RolledBack"))
      yield* withBudget(budget)(Failover.retryTransaction(retried.work, Schedule.recurs(5)))
      assert.strictEqual(yield* budget.balance, 98)
      const unknown = yield* failing(transaction("Unknown"))
      yield* Effect.exit(withBudget(budget)(Failover.idempotent(Effect.fail(configuration))))
      yield* Effect.exit(
        withBudget(budget)(Failover.retryTransaction(unknown.work, Schedule.recurs(5)))
      )
      assert.strictEqual(yield* budget.balance, 98)
    })
  )

  it.effect("does not run again what was interrupted or died", () =>
    Effect.gen(function* () {
      for (const end of [Effect.interrupt, Effect.die(transaction("RolledBack"))]) {
        let runs = 0
        const work = Effect.zipRight(
          Effect.sync(() => runs++),
          end
        )
        yield* Effect.exit(plenty(Failover.retryTransaction(work, Schedule.recurs(5))))
        assert.strictEqual(runs, 1)
      }
    })
  )

  it.scoped(
    "on the client: the lost transaction is stored once, the unknown one is not repeated",
    () =>
      Effect.gen(function* () {
        const sim = yield* cluster("a", "b")
        const { failover, sql } = yield* client(sim)
        const book = (id: string) =>
          sql
            .withTransaction(sql.unsafe("INSERT", [id]))
            .pipe(
              Failover.retryTransaction(Schedule.recurs(3)),
              Effect.provideService(Failover.Failover, failover),
              Effect.exit
            )
        yield* sim.next(/^INSERT/, "beforeReply")
        const again = yield* Effect.fork(book("lost"))
        yield* TestClock.adjust("5 seconds")
        assert.isTrue(Exit.isSuccess(yield* Fiber.join(again)))
        yield* sim.next(/^COMMIT/, "beforeReply")
        const once = yield* Effect.fork(book("unknown"))
        yield* TestClock.adjust("5 seconds")
        assert.isTrue(Exit.isFailure(yield* Fiber.join(once)))
        assert.deepStrictEqual(sim.table(), ["lost", "unknown"])
      })
  )
})

describe("idempotent", () => {
  it.effect("runs again for as long as the client is moved, and ends with the success", () =>
    Effect.gen(function* () {
      const { work } = yield* failing<unknown>(
        sqlError(failoverSuccess()),
        sqlError(transaction("Unknown")),
        transaction("RolledBack")
      )
      assert.strictEqual(yield* plenty(Failover.idempotent(work)), 4)
    })
  )

  it.effect("ends with the last error when the budget is empty", () =>
    Effect.gen(function* () {
      const budget = yield* RetryBudget.make({ reserve: 0 })
      const { runs, work } = yield* failing(failoverSuccess(), failoverSuccess())
      const error = yield* Effect.flip(withBudget(budget)(Failover.idempotent(work)))
      assert.strictEqual(error._tag, "FailoverSuccess")
      assert.strictEqual(yield* runs, 1)
    })
  )

  it.scoped("on the client: a statement that was executed and not answered is executed again", () =>
    Effect.gen(function* () {
      const sim = yield* cluster("a", "b")
      const { failover, sql } = yield* client(sim)
      yield* sim.next(/^INSERT/, "beforeReply")
      const fiber = yield* Failover.idempotent(sql.unsafe("INSERT", ["1"])).pipe(
        Effect.provideService(Failover.Failover, failover),
        Effect.fork
      )
      yield* TestClock.adjust("5 seconds")
      yield* Fiber.join(fiber)
      assert.deepStrictEqual(sim.table(), ["1", "1"])
    })
  )
})

describe("the budget", () => {
  const budgetOf = (options: Pg.PgOptions) =>
    Effect.map(Pg.make({ username: "app", ...options }), (_) => _.failover.budget)

  it.scoped("is one for all clients of a cluster, and another one for another cluster", () =>
    Effect.gen(function* () {
      const hosts = ["a.test", "b.test"]
      const one = yield* budgetOf({ hosts })
      assert.strictEqual(yield* budgetOf({ hosts }), one)
      assert.strictEqual(yield* budgetOf({ hosts, maxConnections: 1 }), one)
      assert.notStrictEqual(yield* budgetOf({ hosts, clusterId: "other" }), one)
    }).pipe(Effect.provide(Reactivity.layer))
  )

  it.scoped("what one client spends, the other does not have", () =>
    Effect.gen(function* () {
      const one = yield* budgetOf({ hosts: "a.test" })
      const other = yield* budgetOf({ hosts: "a.test" })
      const before = yield* other.balance
      yield* one.withdraw
      assert.strictEqual(yield* other.balance, before - 1)
    }).pipe(Effect.provide(Reactivity.layer))
  )

  it.scoped("earns from each statement of the client", () =>
    Effect.gen(function* () {
      const budget = yield* RetryBudget.make({ reserve: 0, ratio: 1 })
      const { failover, sql } = yield* client(yield* cluster("a"), { budget })
      assert.strictEqual(failover.budget, budget)
      for (const _ of [1, 2, 3]) yield* sql.unsafe("SELECT 1")
      assert.strictEqual(yield* budget.balance, 3)
    })
  )

  it.scoped("earns from the statements of a transaction too", () =>
    Effect.gen(function* () {
      const budget = yield* RetryBudget.make({ reserve: 0, ratio: 1 })
      const { sql } = yield* client(yield* cluster("a"), { budget })
      yield* sql.withTransaction(
        Effect.zipRight(sql.unsafe("INSERT", ["1"]), sql.unsafe("INSERT", ["2"]))
      )
      assert.isAtLeast(yield* budget.balance, 1)
    })
  )
})

describe("types", () => {
  class Mine extends Context.Tag("Mine")<Mine, number>() {}
  class NoStock {
    readonly _tag = "NoStock"
  }
  const work: Effect.Effect<string, SqlError.SqlError | NoStock, Mine> = Effect.succeed("")
  const lifted = Failover.outcomes(work)
  type All = SqlError.SqlError | NoStock | Failover.OutcomeError | Errors.ConnectionRejected

  it("outcomes adds the outcomes and the rejection to the error channel, and nothing else", () => {
    expectTypeOf(lifted).toEqualTypeOf<Effect.Effect<string, All, Mine>>()
    expectTypeOf<Failover.OutcomeError>().toEqualTypeOf<
      Errors.FailoverSuccess | Errors.FailoverFailed | Errors.TransactionResolutionUnknown
    >()
  })

  it("what catchTag and catchTags handle is gone from the channel", () => {
    const one = Effect.catchTag(lifted, "FailoverSuccess", (error) => {
      expectTypeOf(error).toEqualTypeOf<Errors.FailoverSuccess>()
      return Effect.succeed(1)
    })
    expectTypeOf(one).toEqualTypeOf<
      Effect.Effect<string | number, Exclude<All, Errors.FailoverSuccess>, Mine>
    >()
    const _three = Effect.catchTags(lifted, {
      FailoverFailed: (_) => Effect.succeed(_.outcome),
      TransactionResolutionUnknown: (_) => Effect.succeed(_.outcome),
      NoStock: () => Effect.void
    })
    expectTypeOf<Effect.Effect.Error<typeof _three>>().toEqualTypeOf<
      SqlError.SqlError | Errors.FailoverSuccess | Errors.ConnectionRejected
    >()
  })

  it("Match is exhaustive over the outcomes", () => {
    expectTypeOf(advice).returns.toEqualTypeOf<string>()
  })

  it("retryTransaction keeps success and errors, and asks for Failover", () => {
    type Expected = Effect.Effect<string, SqlError.SqlError | NoStock, Mine | Failover.Failover>
    expectTypeOf(Failover.retryTransaction(work, Schedule.recurs(1))).toEqualTypeOf<Expected>()
    expectTypeOf(work.pipe(Failover.retryTransaction(Schedule.recurs(1)))).toEqualTypeOf<Expected>()
    expectTypeOf(
      work.pipe(
        Failover.retryTransaction(
          Schedule.exponential("20 millis").pipe(Schedule.jittered, Schedule.upTo("30 seconds"))
        )
      )
    ).toEqualTypeOf<Expected>()
  })

  it("a schedule's input is the work's error, and its requirements are added", () => {
    const schedule = Schedule.recurs(3).pipe(
      Schedule.whileInput((_: SqlError.SqlError | NoStock) => _._tag === "SqlError"),
      Schedule.mapEffect(() => Effect.as(RateLimit, 1))
    )
    expectTypeOf(Failover.retryTransaction(work, schedule)).toEqualTypeOf<
      Effect.Effect<string, SqlError.SqlError | NoStock, Mine | RateLimit | Failover.Failover>
    >()
    const foreign = Schedule.recurWhile((_: number) => _ > 1)
    // @ts-expect-error a schedule for other errors
    void Failover.retryTransaction(work, foreign)
  })

  it("Effect.retry takes isSafeToRetry with every schedule, and keeps the error", () => {
    const retried = Effect.retry(lifted, {
      while: Failover.isSafeToRetry,
      schedule: Schedule.exponential("10 millis").pipe(Schedule.compose(Schedule.recurs(5)))
    })
    expectTypeOf(retried).toEqualTypeOf<Effect.Effect<string, All, Mine>>()
    const once = work.pipe(Effect.retry({ while: Failover.isSafeToRetry, times: 1 }))
    expectTypeOf(once).toEqualTypeOf<typeof work>()
  })

  it("idempotent keeps success and errors, and asks for Failover", () => {
    expectTypeOf(Failover.idempotent(work)).toEqualTypeOf<
      Effect.Effect<string, SqlError.SqlError | NoStock, Mine | Failover.Failover>
    >()
  })

  it("withIsolation changes nothing of the type, data-first and data-last", () => {
    const isolation = { level: "serializable", readOnly: true, deferrable: true } as const
    expectTypeOf(SqlFailover.withIsolation(work, isolation)).toEqualTypeOf<typeof work>()
    expectTypeOf(work.pipe(SqlFailover.withIsolation(isolation))).toEqualTypeOf<typeof work>()
    expectTypeOf<SqlFailover.Isolation["level"]>().toEqualTypeOf<
      "read committed" | "repeatable read" | "serializable" | undefined
    >()
  })
})

class RateLimit extends Context.Tag("RateLimit")<RateLimit, void>() {}
