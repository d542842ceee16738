/** What the client makes of what a CommitResolution finds out; virtual time, a simulated cluster. */
import { assert, describe, it } from "@effect/vitest"
import { Duration, Effect, Exit, Fiber, Ref, TestClock } from "effect"
import type { Dialect } from "effect-failover"
import { CommitResolution, Connector, Failover } from "effect-failover"
import { refuse } from "effect-failover/testing/SimulatedCluster"
import { client, cluster } from "../core/simulated.js"
import { serverError } from "./errors.js"

const connected = (change?: Parameters<typeof client>[1]) =>
  Effect.gen(function* () {
    const sim = yield* cluster("a", "b")
    const db = yield* client(sim, change)
    yield* db.sql.unsafe("SELECT 1")
    yield* sim.forget
    return { sim, ...db }
  })

/** A way that marks with a statement, and answers what the test says, one after the other. */
const answering = (
  ...answers: ReadonlyArray<Effect.Effect<CommitResolution.Resolution, Connector.SessionError>>
) =>
  Effect.map(Ref.make(0), (asked) => {
    const resolution: CommitResolution.CommitResolution = {
      name: "test",
      mark: (query) =>
        Effect.as(query("MARK"), () =>
          Effect.flatMap(
            Ref.getAndUpdate(asked, (n) => n + 1),
            (n) => answers[Math.min(n, answers.length - 1)] ?? Effect.succeed("Unknown" as const)
          )
        )
    }
    return { resolution, asked: Ref.get(asked) }
  })

const says = (answer: CommitResolution.Resolution) => Effect.succeed(answer)
const refused = Effect.fail(
  new Connector.SessionError({ cause: serverError("42501"), fate: "Answered" })
)
const lost = Effect.fail(
  new Connector.SessionError({ cause: new Error("read ECONNRESET"), fate: "Unanswered" })
)

/** A transaction whose COMMIT gets this fault; time passes until it ends. */
const commit = (
  { sim, sql }: Effect.Effect.Success<ReturnType<typeof connected>>,
  fault: "beforeReply" | "beforeExecute" | "hang" = "beforeReply"
) =>
  Effect.gen(function* () {
    yield* sim.next(/^COMMIT/, fault)
    const fiber = yield* Effect.fork(
      Effect.exit(
        Failover.outcomes(sql.withTransaction(Effect.as(sql.unsafe("INSERT", ["1"]), "mine")))
      )
    )
    for (let i = 0; i < 60 && fiber.unsafePoll() === null; i++) {
      yield* TestClock.adjust("250 millis")
    }
    return yield* Fiber.join(fiber)
  })

const assertLost = (exit: Exit.Exit<unknown, unknown>, outcome: "RolledBack" | "Unknown") => {
  const error: any = Exit.isFailure(exit) && exit.cause._tag === "Fail" ? exit.cause.error : exit
  assert.deepStrictEqual([error._tag, error.outcome], ["TransactionResolutionUnknown", outcome])
}

describe("a COMMIT that is not answered", () => {
  it.scoped("and turns out committed ends as the transaction's own success", () =>
    Effect.gen(function* () {
      const { asked, resolution } = yield* answering(says("Committed"))
      const db = yield* connected({ commitResolution: resolution })
      assert.deepStrictEqual(yield* commit(db), Exit.succeed("mine"))
      assert.strictEqual(yield* asked, 1)
    })
  )

  it.scoped("and turns out rolled back is safe to run again", () =>
    Effect.gen(function* () {
      const { resolution } = yield* answering(says("RolledBack"))
      const exit = yield* commit(yield* connected({ commitResolution: resolution }))
      assertLost(exit, "RolledBack")
      assert.isTrue(
        Exit.isFailure(exit) &&
          exit.cause._tag === "Fail" &&
          Failover.isSafeToRetry(exit.cause.error)
      )
    })
  )

  for (const [name, answers] of [
    ["cannot be told", [says("Unknown")]],
    ["may not be asked about", [refused]],
    ["is still under way when the time is over", [says("InProgress")]]
  ] as const) {
    it.scoped(`and ${name} stays unknown`, () =>
      Effect.gen(function* () {
        const { resolution } = yield* answering(...answers)
        assertLost(yield* commit(yield* connected({ commitResolution: resolution })), "Unknown")
      })
    )
  }

  it.scoped(
    "is asked about again while it is under way, and when the asking itself is cut off",
    () =>
      Effect.gen(function* () {
        const { asked, resolution } = yield* answering(says("InProgress"), lost, says("Committed"))
        const db = yield* connected({ commitResolution: resolution })
        assert.deepStrictEqual(yield* commit(db), Exit.succeed("mine"))
        assert.strictEqual(yield* asked, 3)
      })
  )

  it.scoped("because its time was over is asked about too", () =>
    Effect.gen(function* () {
      const { resolution } = yield* answering(says("RolledBack"))
      const db = yield* connected({
        commitResolution: resolution,
        queryTimeout: Duration.seconds(1)
      })
      const exit = yield* commit(db, "hang")
      assertLost(exit, "RolledBack")
    })
  )

  it.scoped("without a resolution is unknown, and nobody is asked", () =>
    Effect.gen(function* () {
      const db = yield* connected()
      assertLost(yield* commit(db), "Unknown")
      assert.deepStrictEqual(db.sim.executed("a").slice(0, 3), ["BEGIN", "INSERT", "COMMIT"])
    })
  )
})

describe("the mark", () => {
  it.scoped("costs one statement before COMMIT, and nothing where the option is off", () =>
    Effect.gen(function* () {
      const { asked, resolution } = yield* answering(says("Committed"))
      const on = yield* connected({ commitResolution: resolution })
      const off = yield* connected()
      for (const { sql } of [on, off]) yield* sql.withTransaction(sql.unsafe("INSERT", ["1"]))
      assert.deepStrictEqual(on.sim.executed("a"), ["BEGIN", "INSERT", "MARK", "COMMIT"])
      assert.deepStrictEqual(off.sim.executed("a"), ["BEGIN", "INSERT", "COMMIT"])
      assert.strictEqual(yield* asked, 0)
    })
  )

  it.scoped("is not made by a nested transaction, nor by one that rolls back", () =>
    Effect.gen(function* () {
      const { resolution } = yield* answering(says("Committed"))
      const { sim, sql } = yield* connected({ commitResolution: resolution })
      yield* sql.withTransaction(sql.withTransaction(sql.unsafe("INSERT", ["1"])))
      yield* Effect.exit(sql.withTransaction(Effect.fail("no")))
      assert.lengthOf(
        sim.executed("a").filter((_) => _ === "MARK"),
        1
      )
    })
  )

  it.scoped("that is lost: rolled back, for COMMIT was not sent", () =>
    Effect.gen(function* () {
      const { asked, resolution } = yield* answering(says("Unknown"))
      const db = yield* connected({ commitResolution: resolution })
      yield* db.sim.next(/^MARK/, "beforeReply")
      assertLost(yield* commit(db), "RolledBack")
      assert.deepStrictEqual([yield* asked, db.sim.table()], [0, []])
    })
  )

  it.scoped("that is refused: the server's error, and the connection leaves the transaction", () =>
    Effect.gen(function* () {
      const { resolution } = yield* answering(says("Unknown"))
      const { sim, sql } = yield* connected({ commitResolution: resolution })
      yield* sim.next(/^MARK/, refuse("42P01"))
      const error = yield* Effect.flip(sql.withTransaction(sql.unsafe("INSERT", ["1"])))
      assert.propertyVal(error.cause, "code", "42P01")
      yield* sql.unsafe("INSERT", ["2"])
      assert.deepStrictEqual(sim.table(), ["2"])
    })
  )

  it.scoped("in a transaction that has failed: COMMIT is answered with ROLLBACK, an error", () =>
    Effect.gen(function* () {
      const { resolution } = yield* answering(says("Committed"))
      const { sim, sql } = yield* connected({ commitResolution: resolution })
      yield* sim.next(/^INSERT/, refuse("23505"))
      const caught = Effect.ignore(sql.unsafe("INSERT", ["1"]))
      const error = yield* Effect.flip(sql.withTransaction(caught))
      assert.include(error.message, "rolled back")
      assert.deepStrictEqual([sim.executed("a").at(-1), sim.table()], ["COMMIT", []])
    })
  )
})

/** A table with a unique token, as far as the ledger's two statements need one. */
const ledgerServer = () => {
  const rows = new Map<string, boolean>()
  const statements: Array<string> = []
  const query: Dialect.Query = (sql) =>
    Effect.sync(() => {
      statements.push(sql)
      const token = /'([0-9a-f]{32})'/.exec(sql)?.[1] ?? ""
      const before = rows.get(token)
      if (before === undefined) rows.set(token, !/FALSE/i.test(sql))
      if (/DO UPDATE/i.test(sql)) return [[rows.get(token)]]
      return before === undefined ? [[token]] : []
    })
  return { query, rows, statements }
}

describe("the ledger", () => {
  const { mark, name } = CommitResolution.ledger()

  it.effect("finds the row of a committed transaction", () =>
    Effect.gen(function* () {
      assert.strictEqual(name, "ledger")
      const { query } = ledgerServer()
      assert.strictEqual(yield* (yield* mark(query))(query), "Committed")
    })
  )

  it.effect("finds no row of a lost one, however often it is asked", () =>
    Effect.gen(function* () {
      const resolve = yield* mark(ledgerServer().query)
      const { query } = ledgerServer()
      // The first answer may be lost on its way: the second one must not be another.
      assert.strictEqual(yield* resolve(query), "RolledBack")
      assert.strictEqual(yield* resolve(query), "RolledBack")
    })
  )

  it.effect("gives each transaction a token of its own", () =>
    Effect.gen(function* () {
      const { query, rows } = ledgerServer()
      yield* Effect.replicateEffect(mark(query), 1000)
      assert.strictEqual(rows.size, 1000)
    })
  )

  it("quotes the table's name, with and without a schema", () => {
    assert.include(CommitResolution.ledgerTable(), ` "${CommitResolution.DEFAULT_LEDGER}" `)
    assert.include(CommitResolution.ledgerTable('audit.my"log'), ' "audit"."my""log" ')
  })
})
