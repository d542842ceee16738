import { assert, describe, it } from "@effect/vitest"
import { SqlError } from "@effect/sql"
import {
  Cause,
  Chunk,
  Duration,
  Effect,
  Exit,
  Fiber,
  FiberId,
  Scope,
  Stream,
  TestClock
} from "effect"
import type { Connector, HostPool } from "effect-failover"
import { Errors, Failover } from "effect-failover"
import { evenly, settle } from "./fakes.js"
import { refuse } from "effect-failover/testing/SimulatedCluster"
import type { Cluster } from "./simulated.js"
import { client, cluster } from "./simulated.js"

/** Three hosts, `a` the writer, and a client that is connected to it. */
const connected = (change?: Parameters<typeof client>[1]) =>
  Effect.gen(function* () {
    const sim = yield* cluster("a", "b", "c")
    const db = yield* client(sim, change)
    yield* db.sql.unsafe("SELECT 1")
    yield* sim.forget
    return { sim, ...db }
  })

/** Runs until it ends, at the pace of the search. */
const outcome = <A, E>(effect: Effect.Effect<A, E>) =>
  Effect.gen(function* () {
    const fiber = yield* Effect.fork(Effect.exit(Failover.outcomes(effect)))
    yield* settle
    for (let i = 0; i < 30 && fiber.unsafePoll() === null; i++) {
      yield* TestClock.adjust("250 millis")
    }
    const exit = yield* Fiber.join(fiber)
    return Exit.isFailure(exit) && exit.cause._tag === "Fail"
      ? exit.cause.error
      : Exit.isFailure(exit)
        ? exit.cause
        : exit.value
  })

const insert = (sql: Effect.Effect.Success<ReturnType<typeof client>>["sql"], id: string) =>
  sql.unsafe("INSERT", [id])

const noneLeaked = (db: { readonly stats: () => HostPool.Stats }) => {
  const { idle, open, waiting } = db.stats()
  assert.deepStrictEqual({ open, waiting }, { open: idle, waiting: 0 })
}

describe("a statement", () => {
  it.scoped("nothing is connected before the first one", () =>
    Effect.gen(function* () {
      const sim = yield* cluster("a", "b")
      const db = yield* client(sim)
      yield* TestClock.adjust("10 minutes")
      assert.strictEqual(sim.connects(), 0)
      assert.deepStrictEqual(yield* db.sql.unsafe("SELECT 1"), [{ host: "a" }])
    })
  )

  it.scoped("of a second client of the cluster connects it, and does not disturb the first", () =>
    Effect.gen(function* () {
      const { sim, topology } = yield* connected()
      const phases: Array<string> = []
      yield* Effect.fork(
        Stream.runForEach(topology.changes, ({ phase }) =>
          Effect.sync(() => phases.push(phase._tag))
        )
      )
      yield* settle
      const other = yield* client(sim, { topology })
      assert.deepStrictEqual(yield* other.sql.unsafe("SELECT 1"), [{ host: "a" }])
      yield* settle
      assert.deepStrictEqual(phases, ["Calm"])
    })
  )

  it.scoped("runs on the writer, over one connection", () =>
    Effect.gen(function* () {
      const { sim, sql, stats } = yield* connected()
      for (const id of ["1", "2", "3"]) yield* insert(sql, id)
      assert.deepStrictEqual(sim.table(), ["1", "2", "3"])
      assert.deepStrictEqual([stats().open, stats().host?.host], [1, "a"])
      assert.lengthOf(sim.executed("b"), 0)
    })
  )

  it.scoped("not sent: run on a new connection, and the caller notices nothing", () =>
    Effect.gen(function* () {
      const { sim, sql } = yield* connected()
      yield* sim.next(/INSERT/, "beforeSend")
      assert.deepStrictEqual(yield* outcome(insert(sql, "1")), [])
      assert.deepStrictEqual(sim.table(), ["1"])
    })
  )

  it.scoped("not sent, and the writer is gone: run on the new writer, once", () =>
    Effect.gen(function* () {
      const { failover, sim, sql, stats } = yield* connected()
      yield* sim.failover("a", "b")
      assert.deepStrictEqual(yield* outcome(insert(sql, "1")), [])
      assert.deepStrictEqual([sim.table(), sim.executed("b")], [["1"], ["INSERT"]])
      assert.strictEqual(stats().host?.host, "b")
      assert.isUndefined(failover.failureOf(1))
    })
  )

  it.scoped("the only connection broke while idle: the caller notices nothing", () =>
    Effect.gen(function* () {
      const { sim, sql, topology } = yield* connected()
      yield* sim.terminate("a")
      assert.deepStrictEqual(yield* outcome(insert(sql, "1")), [])
      assert.deepStrictEqual(sim.table(), ["1"])
      assert.strictEqual(topology.unsafeCurrent().epoch, 1)
    })
  )

  for (const [kind, rows] of [
    ["beforeExecute", []],
    ["beforeReply", ["1"]]
  ] as const) {
    it.scoped(`sent and lost (${kind}): FailoverSuccess, and never run twice`, () =>
      Effect.gen(function* () {
        const { sim, sql } = yield* connected()
        yield* sim.next(/INSERT/, kind)
        const error = yield* outcome(insert(sql, "1"))
        assert.instanceOf(error, Errors.FailoverSuccess)
        assert.deepStrictEqual(
          [error.from.host, error.to.host, error.sent, error.outcome],
          ["a", "a", true, "Unknown"]
        )
        assert.strictEqual(error.sqlState, "08S02")
        assert.deepStrictEqual(sim.table(), [...rows])
        assert.isFalse(Failover.isSafeToRetry(error))
      })
    )
  }

  it.scoped("FailoverSuccess tells the new host, its epoch, the time and the driver's error", () =>
    Effect.gen(function* () {
      const { sim, sql } = yield* connected()
      yield* sim.next(/INSERT/, "hang")
      const running = yield* Effect.fork(outcome(insert(sql, "1")))
      yield* settle
      yield* sim.kill("a")
      yield* TestClock.adjust("2 seconds")
      yield* sim.promote("b")
      const error = yield* Fiber.join(running)
      assert.instanceOf(error, Errors.FailoverSuccess)
      assert.deepStrictEqual(
        [error.to.host, error.role, error.epoch, error.attempts],
        ["b", "writer", 2, 1]
      )
      assert.isAtLeast(Duration.toMillis(error.elapsed), 2000)
      assert.match(String(error.cause), /ECONNRESET/)
    })
  )

  it.scoped("the error arrives as the cause of a SqlError", () =>
    Effect.gen(function* () {
      const { sim, sql } = yield* connected()
      yield* sim.next(/INSERT/, "beforeReply")
      const error = yield* Effect.flip(insert(sql, "1"))
      assert.instanceOf(error, SqlError.SqlError)
      assert.instanceOf(error.cause, Errors.FailoverSuccess)
      assert.strictEqual(error.message, error.cause.message)
    })
  )

  it.scoped("refused by a host that is no writer any more: run on the new one", () =>
    Effect.gen(function* () {
      const { sim, sql } = yield* connected()
      yield* sim.demote("a")
      yield* sim.promote("b")
      assert.deepStrictEqual(yield* outcome(insert(sql, "1")), [])
      assert.deepStrictEqual(sim.table(), ["1"])
      assert.deepStrictEqual(sim.executed("a"), ["refused INSERT"])
    })
  )

  it.scoped("refused by the writer (a read-only session): the server's error, no failover", () =>
    Effect.gen(function* () {
      const { sim, sql, topology } = yield* connected()
      yield* sim.next(/INSERT/, refuse("25006"))
      const error = yield* outcome(insert(sql, "1"))
      assert.instanceOf(error, SqlError.SqlError)
      assert.deepInclude(error.cause as object, { code: "25006" })
      assert.strictEqual(topology.unsafeCurrent().epoch, 1)
      assert.strictEqual(topology.unsafeCurrent().phase._tag, "Calm")
    })
  )

  it.scoped("not answered within the statement's time: StatementTimeout, no failover", () =>
    Effect.gen(function* () {
      const { sim, sql, topology } = yield* connected({ queryTimeout: Duration.seconds(1) })
      yield* sim.next(/INSERT/, "hang")
      const error = yield* outcome(insert(sql, "1"))
      assert.instanceOf(error, SqlError.SqlError)
      const { cause } = error
      assert.instanceOf(cause, Errors.StatementTimeout)
      assert.deepStrictEqual([cause.outcome, Duration.toMillis(cause.timeout)], ["Unknown", 1000])
      assert.strictEqual(topology.unsafeCurrent().phase._tag, "Calm")
    })
  )

  for (const code of ["23505", "42601", "57014", "40001", "58030", "08006"]) {
    it.scoped(`the server's own error ${code}: untouched, the connection goes on`, () =>
      Effect.gen(function* () {
        const { sim, sql, stats } = yield* connected()
        yield* sim.next(/INSERT/, refuse(code))
        const error = yield* Effect.flip(insert(sql, "1"))
        assert.deepInclude(error.cause as object, { code })
        assert.deepStrictEqual([stats().open, stats().idle], [1, 1])
        const connects = sim.connects()
        yield* insert(sql, "2")
        assert.strictEqual(sim.connects(), connects)
      })
    )
  }

  it.scoped("cut off by the server (57P01): FailoverSuccess", () =>
    Effect.gen(function* () {
      const { sim, sql } = yield* connected()
      yield* sim.next(/INSERT/, refuse("57P01", { fatal: true }))
      assert.instanceOf(yield* outcome(insert(sql, "1")), Errors.FailoverSuccess)
    })
  )

  it.scoped("no connection slot: tried again without a failover", () =>
    Effect.gen(function* () {
      const { failover, sim, sql, topology } = yield* connected()
      yield* sim.refuse("a", "53300")
      yield* sim.terminate("a")
      const running = yield* Effect.fork(insert(sql, "1"))
      yield* TestClock.adjust("3 seconds")
      assert.deepStrictEqual([sim.table(), failover.failureOf(1)], [[], undefined])
      yield* sim.accept("a")
      yield* TestClock.adjust("1 second")
      assert.deepStrictEqual(yield* Fiber.join(running), [])
      assert.isAtMost(topology.unsafeCurrent().epoch, 2)
    })
  )

  it.scoped("rejected for good: at once, for everybody, and as the rejection", () =>
    Effect.gen(function* () {
      const sim = yield* cluster("a", "b")
      for (const name of ["a", "b"]) yield* sim.refuse(name, "28P01")
      const { sql } = yield* client(sim)
      for (const error of yield* Effect.all([
        outcome(insert(sql, "1")),
        outcome(insert(sql, "2"))
      ])) {
        assert.instanceOf(error, Errors.ConnectionRejected)
        assert.deepStrictEqual([error.reason, error.sqlState], ["Credentials", "28P01"])
      }
      for (const name of ["a", "b"]) yield* sim.accept(name)
      assert.deepStrictEqual(yield* outcome(insert(sql, "3")), [])
    })
  )

  it.scoped("rejected for good after a loss: nobody logs in again until somebody asks", () =>
    Effect.gen(function* () {
      const { sim, sql, topology } = yield* connected()
      for (const name of ["a", "b", "c"]) yield* sim.refuse(name, "28P01")
      yield* sim.terminate("a")
      assert.instanceOf(yield* outcome(insert(sql, "1")), Errors.ConnectionRejected)
      yield* settle
      assert.strictEqual(topology.unsafeCurrent().phase._tag, "Idle")
      const before = sim.connects()
      yield* TestClock.adjust("10 seconds")
      assert.strictEqual(sim.connects(), before)
      for (const name of ["a", "b", "c"]) yield* sim.accept(name)
      assert.deepStrictEqual(yield* outcome(insert(sql, "2")), [])
    })
  )

  it.scoped("without a writer before the deadline: FailoverFailed, not executed", () =>
    Effect.gen(function* () {
      const { sim, sql } = yield* connected({ failoverTimeout: Duration.seconds(3) })
      yield* sim.kill("a")
      const error = yield* outcome(insert(sql, "1"))
      assert.instanceOf(error, Errors.FailoverFailed)
      assert.deepStrictEqual(
        [error.reason, error.outcome, error.from?.host],
        ["Timeout", "NotExecuted", "a"]
      )
      assert.sameMembers(
        error.tried.map((_) => _.host.host),
        ["a", "b", "c"]
      )
      assert.isTrue(Failover.isSafeToRetry(error))
    })
  )

  it.scoped("sent, and no writer before the deadline: FailoverFailed, unknown", () =>
    Effect.gen(function* () {
      const { sim, sql } = yield* connected({ failoverTimeout: Duration.seconds(3) })
      yield* sim.next(/INSERT/, "hang")
      const running = yield* Effect.fork(outcome(insert(sql, "1")))
      yield* settle
      yield* sim.kill("a")
      const error = yield* Fiber.join(running)
      assert.instanceOf(error, Errors.FailoverFailed)
      assert.deepStrictEqual([error.outcome, error.sent, error.from?.host], ["Unknown", true, "a"])
      assert.isFalse(Failover.isSafeToRetry(error))
    })
  )

  it.scoped("all connections busy for acquireTimeout: PoolTimeout, not executed", () =>
    Effect.gen(function* () {
      const pool = {
        maxConnections: 1,
        minConnections: 0,
        acquireTimeout: Duration.seconds(2),
        idleTimeout: Duration.minutes(10),
        connectionTTL: Duration.minutes(30)
      }
      const { sim, sql } = yield* connected({ pool })
      yield* sim.next(/INSERT/, "hang")
      yield* Effect.fork(insert(sql, "1"))
      yield* settle
      const second = yield* Effect.fork(Effect.flip(insert(sql, "2")))
      yield* TestClock.adjust("2 seconds")
      assert.instanceOf((yield* Fiber.join(second)).cause, Errors.PoolTimeout)
    })
  )

  it.scoped("a stream that is cut off fails with the outcome", () =>
    Effect.gen(function* () {
      const { sim, sql } = yield* connected()
      yield* sim.next(/SELECT/, "beforeReply")
      const rows = sql.unsafe("SELECT 2").stream.pipe(Stream.runCollect)
      const error = yield* outcome(rows)
      assert.instanceOf(error, Errors.FailoverSuccess)
      assert.isTrue(error.sent)
    })
  )

  it.scoped("a reserved connection that is lost is not moved quietly", () =>
    Effect.gen(function* () {
      const { sim, sql } = yield* connected()
      const connection = yield* sql.reserve
      yield* sim.next(/INSERT/, "beforeSend")
      const error = yield* outcome(connection.execute("INSERT", ["1"], undefined))
      assert.instanceOf(error, Errors.FailoverSuccess)
      assert.deepStrictEqual([error.sent, error.outcome, sim.table()], [false, "NotExecuted", []])
    })
  )
})

describe("a transaction", () => {
  it.scoped("commits on one connection", () =>
    Effect.gen(function* () {
      const { sim, sql, ...db } = yield* connected()
      yield* sql.withTransaction(Effect.all([insert(sql, "1"), insert(sql, "2")]))
      assert.deepStrictEqual(sim.executed("a"), ["BEGIN", "INSERT", "INSERT", "COMMIT"])
      assert.deepStrictEqual(sim.table(), ["1", "2"])
      noneLeaked(db)
    })
  )

  it.scoped("rolls back on a failure, and on a defect", () =>
    Effect.gen(function* () {
      const { sim, sql, ...db } = yield* connected()
      const failing = sql.withTransaction(Effect.zipRight(insert(sql, "1"), Effect.fail("mine")))
      assert.strictEqual(yield* Effect.flip(failing), "mine")
      const dying = sql.withTransaction(Effect.zipRight(insert(sql, "2"), Effect.die("bug")))
      assert.deepStrictEqual(yield* Effect.exit(dying), Exit.die("bug"))
      assert.deepStrictEqual([sim.table(), sim.executed("a").at(-1)], [[], "ROLLBACK"])
      noneLeaked(db)
    })
  )

  for (const kind of ["beforeSend", "beforeExecute", "beforeReply"] as const) {
    it.scoped(`BEGIN lost (${kind}): begun again, the caller notices nothing`, () =>
      Effect.gen(function* () {
        const { sim, sql } = yield* connected()
        yield* sim.next(/BEGIN/, kind)
        assert.deepStrictEqual(yield* outcome(sql.withTransaction(insert(sql, "1"))), [])
        assert.deepStrictEqual(sim.table(), ["1"])
      })
    )
  }

  it.scoped("the writer is gone before BEGIN: begun on the new one", () =>
    Effect.gen(function* () {
      const { sim, sql } = yield* connected()
      yield* sim.failover("a", "b")
      assert.deepStrictEqual(yield* outcome(sql.withTransaction(insert(sql, "1"))), [])
      assert.deepStrictEqual(sim.executed("b"), ["BEGIN", "INSERT", "COMMIT"])
    })
  )

  for (const kind of ["beforeSend", "beforeExecute", "beforeReply"] as const) {
    it.scoped(`a statement lost in it (${kind}): rolled back, safe to run again`, () =>
      Effect.gen(function* () {
        const { sim, sql, ...db } = yield* connected()
        yield* sim.next(/INSERT/, kind)
        const error = yield* outcome(sql.withTransaction(insert(sql, "1")))
        assert.instanceOf(error, Errors.TransactionResolutionUnknown)
        assert.deepStrictEqual([error.outcome, error.sent], ["RolledBack", kind !== "beforeSend"])
        assert.isTrue(Failover.isSafeToRetry(error))
        assert.deepStrictEqual(sim.table(), [])
        noneLeaked(db)
      })
    )
  }

  it.scoped("a connection lost between two statements: rolled back", () =>
    Effect.gen(function* () {
      const { sim, sql } = yield* connected()
      const work = sql.withTransaction(
        insert(sql, "1").pipe(
          Effect.zipRight(sim.failover("a", "b")),
          Effect.zipRight(insert(sql, "2"))
        )
      )
      const error = yield* outcome(work)
      assert.instanceOf(error, Errors.TransactionResolutionUnknown)
      assert.deepStrictEqual([error.outcome, error.sent, error.to.host], ["RolledBack", false, "b"])
      assert.deepStrictEqual(sim.table(), [])
    })
  )

  it.scoped("COMMIT not sent: rolled back", () =>
    Effect.gen(function* () {
      const { sim, sql } = yield* connected()
      yield* sim.next(/COMMIT/, "beforeSend")
      const error = yield* outcome(sql.withTransaction(insert(sql, "1")))
      assert.instanceOf(error, Errors.TransactionResolutionUnknown)
      assert.deepStrictEqual([error.outcome, error.sent, sim.table()], ["RolledBack", false, []])
    })
  )

  for (const [kind, rows] of [
    ["beforeExecute", []],
    ["beforeReply", ["1"]]
  ] as const) {
    it.scoped(`COMMIT sent and not answered (${kind}): unknown`, () =>
      Effect.gen(function* () {
        const { sim, sql, ...db } = yield* connected()
        yield* sim.next(/COMMIT/, kind)
        const error = yield* outcome(sql.withTransaction(insert(sql, "1")))
        assert.instanceOf(error, Errors.TransactionResolutionUnknown)
        assert.deepStrictEqual([error.outcome, error.sqlState], ["Unknown", "08007"])
        assert.isFalse(Failover.isSafeToRetry(error))
        assert.deepStrictEqual(sim.table(), [...rows])
        noneLeaked(db)
      })
    )
  }

  it.scoped("COMMIT unanswered and no writer in time: FailoverFailed, unknown", () =>
    Effect.gen(function* () {
      const { sim, sql } = yield* connected({ failoverTimeout: Duration.seconds(2) })
      yield* sim.next(/COMMIT/, "hang")
      const running = yield* Effect.fork(outcome(sql.withTransaction(insert(sql, "1"))))
      yield* settle
      yield* sim.kill("a")
      const error = yield* Fiber.join(running)
      assert.instanceOf(error, Errors.FailoverFailed)
      assert.strictEqual(error.outcome, "Unknown")
    })
  )

  it.scoped("a statement lost and no writer in time: FailoverFailed, rolled back", () =>
    Effect.gen(function* () {
      const { sim, sql } = yield* connected({ failoverTimeout: Duration.seconds(2) })
      yield* sim.next(/INSERT/, "hang")
      const running = yield* Effect.fork(outcome(sql.withTransaction(insert(sql, "1"))))
      yield* settle
      yield* sim.kill("a")
      const error = yield* Fiber.join(running)
      assert.instanceOf(error, Errors.FailoverFailed)
      assert.deepStrictEqual([error.outcome, Failover.isSafeToRetry(error)], ["RolledBack", true])
    })
  )

  for (const kind of ["beforeSend", "beforeExecute", "beforeReply"] as const) {
    it.scoped(`ROLLBACK lost (${kind}): rolled back, beside the caller's own failure`, () =>
      Effect.gen(function* () {
        const { sim, sql, ...db } = yield* connected()
        yield* sim.next(/ROLLBACK/, kind)
        const work = Effect.zipRight(insert(sql, "1"), Effect.fail("mine" as const))
        const cause = yield* Effect.sandbox(sql.withTransaction(work)).pipe(Effect.flip)
        const [lost, mine] = Chunk.toReadonlyArray(Cause.failures(cause))
        assert.instanceOf(lost, SqlError.SqlError)
        assert.deepInclude(lost.cause as object, { outcome: "RolledBack", sqlState: "08007" })
        assert.deepStrictEqual([mine, sim.table()], ["mine", []])
        noneLeaked(db)
      })
    )
  }

  it.scoped("ROLLBACK on a hung host ends with the connection, after a second", () =>
    Effect.gen(function* () {
      const { sim, sql, ...db } = yield* connected()
      yield* sim.next(/ROLLBACK/, "hang")
      const work = Effect.zipRight(insert(sql, "1"), Effect.fail("mine" as const))
      const running = yield* Effect.fork(Effect.flip(sql.withTransaction(work)))
      yield* TestClock.adjust("1 second")
      const error = yield* Fiber.join(running)
      assert.instanceOf(error, SqlError.SqlError)
      assert.deepInclude(error.cause as object, { outcome: "RolledBack" })
      noneLeaked(db)
    })
  )

  it.scoped("COMMIT refused: the server's error", () =>
    Effect.gen(function* () {
      const { sim, sql, ...db } = yield* connected()
      yield* sim.next(/COMMIT/, refuse("40001"))
      const error = yield* outcome(sql.withTransaction(insert(sql, "1")))
      assert.instanceOf(error, SqlError.SqlError)
      assert.deepInclude(error.cause as object, { code: "40001" })
      noneLeaked(db)
    })
  )

  it.scoped("COMMIT answered with ROLLBACK: an error, for nothing is stored", () =>
    Effect.gen(function* () {
      const { sim, sql } = yield* connected()
      yield* sim.next(/INSERT/, refuse("23505"))
      const error = yield* outcome(sql.withTransaction(Effect.ignore(insert(sql, "1"))))
      assert.instanceOf(error, SqlError.SqlError)
      assert.match(error.message, /rolled back: a statement in it had failed/)
      assert.deepStrictEqual(sim.table(), [])
    })
  )

  it.scoped("what is lost stays lost: the caught error does not lead to a commit", () =>
    Effect.gen(function* () {
      const { sim, sql } = yield* connected()
      yield* sim.next(/INSERT/, "beforeReply")
      const later: Array<unknown> = []
      const work = sql.withTransaction(
        Effect.ignore(insert(sql, "1")).pipe(
          Effect.zipRight(Effect.flip(insert(sql, "2"))),
          Effect.tap((error) => Effect.sync(() => later.push(error.cause)))
        )
      )
      const error = yield* outcome(work)
      assert.instanceOf(error, Errors.TransactionResolutionUnknown)
      assert.deepStrictEqual([later[0] === error, sim.table()], [true, []])
    })
  )

  it.scoped("no answer in time: StatementTimeout, rolled back; at COMMIT, unknown", () =>
    Effect.gen(function* () {
      const { sim, sql } = yield* connected({ queryTimeout: Duration.seconds(1) })
      for (const [at, expected] of [
        [/INSERT/, "RolledBack"],
        [/COMMIT/, "Unknown"],
        [/BEGIN/, "RolledBack"]
      ] as const) {
        yield* sim.next(at, "hang")
        const error = yield* outcome(sql.withTransaction(insert(sql, "1")))
        assert.instanceOf(error, SqlError.SqlError)
        assert.instanceOf(error.cause, Errors.StatementTimeout)
        assert.strictEqual(error.cause.outcome, expected, String(at))
      }
    })
  )

  it.scoped("read-only refused inside: the server's error, and the writer is looked at", () =>
    Effect.gen(function* () {
      const { sim, sql, topology } = yield* connected()
      yield* sim.demote("a")
      yield* sim.promote("b")
      const error = yield* Effect.flip(sql.withTransaction(insert(sql, "1")))
      assert.deepInclude(error.cause as object, { code: "25006" })
      yield* TestClock.adjust("1 second")
      assert.strictEqual(topology.unsafeCurrent().writer?.host.host, "b")
    })
  )

  it.scoped("a savepoint rolls back alone", () =>
    Effect.gen(function* () {
      const { sim, sql } = yield* connected()
      const inner = sql.withTransaction(Effect.zipRight(insert(sql, "2"), Effect.fail("inner")))
      yield* sql.withTransaction(Effect.zipRight(insert(sql, "1"), Effect.ignore(inner)))
      assert.deepStrictEqual(sim.executed("a"), [
        "BEGIN",
        "INSERT",
        "SAVEPOINT effect_sql_1",
        "INSERT",
        "ROLLBACK TO SAVEPOINT effect_sql_1",
        "COMMIT"
      ])
    })
  )

  for (const at of [/SAVEPOINT/, /ROLLBACK TO/]) {
    it.scoped(`lost at ${at.source}: the whole transaction is rolled back`, () =>
      Effect.gen(function* () {
        const { sim, sql, ...db } = yield* connected()
        yield* sim.next(at, "beforeReply")
        const inner = sql.withTransaction(Effect.zipRight(insert(sql, "2"), Effect.fail("inner")))
        const work = sql.withTransaction(Effect.zipRight(insert(sql, "1"), Effect.ignore(inner)))
        const error = yield* outcome(work)
        assert.instanceOf(error, Errors.TransactionResolutionUnknown)
        assert.deepStrictEqual([error.outcome, sim.table()], ["RolledBack", []])
        noneLeaked(db)
      })
    )
  }

  it.scoped("another client's statement does not run in it", () =>
    Effect.gen(function* () {
      const { sim, sql } = yield* connected()
      const other = yield* cluster("x")
      const foreign = (yield* client(other)).sql
      yield* sql.withTransaction(Effect.zipRight(insert(foreign, "x"), insert(sql, "1")))
      assert.deepStrictEqual([sim.table(), other.table()], [["1"], ["x"]])
      assert.deepStrictEqual(other.executed("x"), ["INSERT"])
    })
  )

  it.scoped("run again while it is safe, it is stored exactly once", () =>
    Effect.gen(function* () {
      const { sim, sql } = yield* connected()
      for (const at of [/INSERT/, /INSERT/, /BEGIN/]) yield* sim.next(at, "beforeReply")
      const work = sql.withTransaction(insert(sql, "1"))
      yield* outcome(Effect.retry(work, { while: Failover.isSafeToRetry }))
      assert.deepStrictEqual(sim.table(), ["1"])
    })
  )
})

describe("a driver that has no `submit`", () => {
  const plain = (sim: Cluster): Connector.Connector => {
    const { connect, system } = sim.connectorWith({})
    return {
      system,
      connect: (...to) => Effect.map(connect(...to), (_) => ({ ..._, submit: undefined }))
    }
  }

  it.scoped("runs statements and transactions alike, and tells the same truth", () =>
    Effect.gen(function* () {
      const sim = yield* cluster("a", "b")
      const { sql, ...db } = yield* client(sim, { connector: plain(sim) })
      yield* insert(sql, "1")
      yield* sql.withTransaction(Effect.all([insert(sql, "2"), insert(sql, "3")]))
      yield* sim.next(/INSERT/, "beforeReply")
      assert.instanceOf(yield* outcome(insert(sql, "4")), Errors.FailoverSuccess)
      yield* sim.next(/COMMIT/, "beforeExecute")
      const error = yield* outcome(sql.withTransaction(insert(sql, "5")))
      assert.instanceOf(error, Errors.TransactionResolutionUnknown)
      yield* sim.next(/INSERT/, "hang")
      const running = yield* Effect.fork(insert(sql, "6"))
      yield* settle
      yield* Fiber.interrupt(running)
      assert.deepStrictEqual(sim.table(), ["1", "2", "3", "4"])
      noneLeaked(db)
    })
  )
})

describe("an interruption", () => {
  it.scoped(
    "in the moment in which BEGIN is answered: no open transaction goes back to the pool",
    () =>
      Effect.gen(function* () {
        const sim = yield* cluster("a")
        const interruptedAfterBegin = (session: Connector.Session): Connector.Session => ({
          ...session,
          submit: undefined,
          execute: (request) =>
            request.sql === "BEGIN"
              ? Effect.tap(session.execute(request), () =>
                  Effect.withFiberRuntime((fiber) => {
                    fiber.unsafeInterruptAsFork(FiberId.none)
                    return Effect.void
                  })
                )
              : session.execute(request)
        })
        const { sql } = yield* client(sim, {
          connector: {
            ...sim.connector,
            connect: (...args) => Effect.map(sim.connector.connect(...args), interruptedAfterBegin)
          }
        })
        yield* Effect.exit(
          Effect.forkDaemon(sql.withTransaction(insert(sql, "1"))).pipe(Effect.flatMap(Fiber.await))
        )
        yield* insert(sql, "2")
        assert.deepStrictEqual(sim.table(), ["2"])
      })
  )

  const phases: ReadonlyArray<readonly [string, RegExp | undefined]> = [
    ["a statement in flight", /INSERT/],
    ["BEGIN in flight", /BEGIN/],
    ["COMMIT in flight", /COMMIT/],
    ["ROLLBACK in flight", /ROLLBACK/]
  ]
  for (const [name, at] of phases) {
    it.scoped(`of ${name} ends at once, or within the rollback's second, and leaks nothing`, () =>
      Effect.gen(function* () {
        const { sim, sql, ...db } = yield* connected()
        if (at !== undefined) yield* sim.next(at, "hang")
        const isRollback = name.startsWith("ROLLBACK")
        const work = Effect.zipRight(insert(sql, "1"), isRollback ? Effect.fail("x") : Effect.void)
        const running = yield* Effect.fork(sql.withTransaction(work))
        yield* settle
        const interrupting = yield* Effect.fork(Fiber.interrupt(running))
        yield* settle
        if (isRollback) yield* TestClock.adjust("1 second")
        yield* Fiber.join(interrupting)
        noneLeaked(db)
        assert.deepStrictEqual(sim.table(), [])
        assert.deepStrictEqual(yield* outcome(insert(sql, "2")), [])
      })
    )
  }

  it.scoped("between two statements rolls back and gives the connection back", () =>
    Effect.gen(function* () {
      const { sim, sql, ...db } = yield* connected()
      const work = Effect.zipRight(insert(sql, "1"), Effect.never)
      const running = yield* Effect.fork(sql.withTransaction(work))
      yield* settle
      yield* Fiber.interrupt(running)
      assert.strictEqual(sim.executed("a").at(-1), "ROLLBACK")
      assert.deepStrictEqual([sim.table(), db.stats().idle], [[], 1])
      noneLeaked(db)
    })
  )

  it.scoped("while the client searches stops the caller and not the search", () =>
    Effect.gen(function* () {
      const { sim, sql, ...db } = yield* connected()
      yield* sim.kill("a")
      const running = yield* Effect.fork(insert(sql, "1"))
      yield* TestClock.adjust("1 second")
      yield* Fiber.interrupt(running)
      yield* sim.promote("b")
      yield* TestClock.adjust("2 seconds")
      assert.strictEqual(db.stats().host?.host, "b")
      assert.deepStrictEqual(sim.table(), [])
      noneLeaked(db)
    })
  )

  it.scoped("while waiting for a connection leaves no waiter", () =>
    Effect.gen(function* () {
      const { sim, sql, ...db } = yield* connected()
      for (let i = 0; i < 10; i++) yield* sim.next(/INSERT/, "hang")
      const busy = yield* Effect.forEach(Array.from({ length: 10 }), () =>
        Effect.fork(insert(sql, "1"))
      )
      yield* settle
      const waiting = yield* Effect.fork(insert(sql, "2"))
      yield* settle
      assert.strictEqual(db.stats().waiting, 1)
      yield* Fiber.interrupt(waiting)
      assert.strictEqual(db.stats().waiting, 0)
      yield* Fiber.interruptAll(busy)
      noneLeaked(db)
    })
  )

  it.scoped("at any moment of a statement, a transaction or an outage leaks nothing", () =>
    Effect.gen(function* () {
      for (let moment = 0; moment < 30; moment++) {
        yield* Effect.scoped(
          Effect.gen(function* () {
            const { sim, sql, ...db } = yield* connected()
            if (moment % 2 === 0) yield* sim.failover("a", "b")
            const running = yield* Effect.fork(
              moment % 3 === 0 ? sql.withTransaction(insert(sql, "1")) : insert(sql, "1")
            )
            yield* Effect.yieldNow().pipe(Effect.repeatN(moment))
            yield* Fiber.interrupt(running)
            yield* settle
            noneLeaked(db)
            assert.isAtMost(sim.table().length, 1)
          })
        )
      }
    })
  )
})

describe("an outage", () => {
  it.scopedLive("ten thousand fibers are one flight, and each learns the truth", () =>
    Effect.gen(function* () {
      const { failover, sim, sql } = yield* connected()
      for (let i = 0; i < 10; i++) yield* sim.next(/INSERT/, i % 2 === 0 ? "hang" : "hangAfter")
      const fibers = yield* Effect.forEach(Array.from({ length: 10_000 }), (_, i) =>
        Effect.fork(Effect.exit(Failover.outcomes(insert(sql, String(i)))))
      )
      yield* Effect.yieldNow().pipe(Effect.repeatN(500))
      yield* sim.failover("a", "b")
      const exits = yield* Effect.forEach(fibers, Fiber.join)
      const cutOff = exits.flatMap((exit, i) =>
        Exit.isFailure(exit) && exit.cause._tag === "Fail" ? [{ i, error: exit.cause.error }] : []
      )
      assert.lengthOf(cutOff, 10)
      assert.isTrue(cutOff.every((_) => _.error._tag === "FailoverSuccess"))
      assert.strictEqual(new Set(sim.table()).size, sim.table().length)
      const unknown = new Set(cutOff.map((_) => String(_.i)))
      assert.strictEqual(sim.table().filter((_) => !unknown.has(_)).length, 9_990)
      const events = yield* failover.events.pipe(Stream.take(6), Stream.runCollect)
      assert.lengthOf(
        Chunk.toReadonlyArray(events).filter((_) => _._tag === "Noticed"),
        2
      )
    })
  )

  it.scoped("of a hung host is found by the monitor, and ends what hangs on it", () =>
    Effect.gen(function* () {
      const { sim, sql } = yield* connected()
      yield* sim.freeze("a")
      yield* sim.promote("b")
      const running = yield* Effect.fork(Effect.flip(insert(sql, "1")))
      yield* TestClock.adjust("45 seconds")
      const error = yield* Fiber.join(running)
      assert.instanceOf(error.cause, Errors.FailoverSuccess)
      assert.strictEqual(error.cause.to.host, "b")
    })
  )

  it.scoped("over: nothing runs on a host of an older epoch, also when it resumes", () =>
    Effect.gen(function* () {
      const { sim, sql } = yield* connected()
      yield* sim.freeze("a")
      yield* sim.promote("b")
      yield* TestClock.adjust("45 seconds")
      yield* sim.forget
      yield* sim.resume("a")
      for (let i = 0; i < 6; i++) {
        yield* insert(sql, String(i))
        yield* sql.withTransaction(insert(sql, `t${i}`))
        yield* TestClock.adjust("150 millis")
      }
      assert.deepStrictEqual([sim.executed("a"), sim.table().length], [[], 12])
    })
  )

  it.scoped("noticed by the monitor alone moves an idle client", () =>
    Effect.gen(function* () {
      const { sim, stats } = yield* connected()
      yield* sim.failover("a", "b")
      yield* TestClock.adjust("1 second")
      assert.deepStrictEqual([stats().host?.host, stats().idle], ["b", 1])
    })
  )

  it.scoped("and another and another: every acknowledged row is there, none twice", () =>
    Effect.gen(function* () {
      const { sim, sql, ...db } = yield* connected()
      const acknowledged: Array<string> = []
      const names = ["a", "b", "c"] as const
      for (let i = 0; i < 12; i++) {
        const [from, to] = [names[i % 3] ?? "a", names[(i + 1) % 3] ?? "b"]
        const fibers = yield* Effect.forEach([0, 1, 2, 3], (n) =>
          Effect.fork(Effect.map(insert(sql, `${i}.${n}`), () => acknowledged.push(`${i}.${n}`)))
        )
        yield* sim.failover(from, to)
        yield* TestClock.adjust("300 millis")
        yield* Effect.forEach(fibers, Fiber.await)
        yield* sim.start(from, { as: "standby" })
      }
      assert.includeMembers(sim.table(), acknowledged)
      assert.strictEqual(new Set(sim.table()).size, sim.table().length)
      assert.isAtLeast(acknowledged.length, 12)
      noneLeaked(db)
    }).pipe(evenly)
  )

  it.effect("the end of the scope ends whoever waits, and every session", () =>
    Effect.gen(function* () {
      const scope = yield* Scope.make()
      const { sim, sql } = yield* connected().pipe(Scope.extend(scope))
      yield* sim.kill("a")
      const running = yield* Effect.fork(Effect.flip(Failover.outcomes(insert(sql, "1"))))
      yield* TestClock.adjust("1 second")
      yield* Scope.close(scope, Exit.void)
      const error = yield* Fiber.join(running)
      assert.instanceOf(error, Errors.FailoverFailed)
      assert.deepStrictEqual([error.reason, error.outcome], ["Closed", "NotExecuted"])
      assert.strictEqual(sim.sessions(), 0)
    })
  )

  it.effect("a statement after the end fails with Closed", () =>
    Effect.gen(function* () {
      const scope = yield* Scope.make()
      const { sim, sql } = yield* connected().pipe(Scope.extend(scope))
      yield* Scope.close(scope, Exit.void)
      const error = yield* outcome(insert(sql, "1"))
      assert.instanceOf(error, Errors.FailoverFailed)
      assert.deepStrictEqual([error.reason, sim.table()], ["Closed", []])
    })
  )
})

describe("the session set-up", () => {
  it.scoped("runs on every new connection, also on the new writer", () =>
    Effect.gen(function* () {
      const { sim, sql } = yield* connected({ sessionSetup: (sql) => sql.unsafe("SET x") })
      yield* sim.failover("a", "b")
      yield* outcome(insert(sql, "1"))
      assert.deepStrictEqual(sim.executed("b"), ["SET x", "INSERT"])
    })
  )

  it.scoped("refused by the server: a wrong option, told at once", () =>
    Effect.gen(function* () {
      const sim = yield* cluster("a")
      yield* sim.next(/SET/, refuse("42601"))
      const { sql } = yield* client(sim, { sessionSetup: (sql) => sql.unsafe("SET x") })
      const error = yield* Effect.flip(insert(sql, "1"))
      assert.instanceOf(error.cause, Errors.ConfigurationError)
      assert.strictEqual(error.cause.field, "sessionSetup")
    })
  )

  it.scoped("cut off: tried again, the caller notices nothing", () =>
    Effect.gen(function* () {
      const sim = yield* cluster("a")
      yield* sim.next(/SET/, "beforeReply")
      const { sql } = yield* client(sim, { sessionSetup: (sql) => sql.unsafe("SET x") })
      assert.deepStrictEqual(yield* outcome(insert(sql, "1")), [])
      assert.deepStrictEqual(sim.table(), ["1"])
    })
  )
})
