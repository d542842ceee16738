import { assert, describe, it } from "@effect/vitest"
import {
  Cause,
  Chunk,
  Duration,
  Effect,
  Either,
  Exit,
  FastCheck,
  Fiber,
  Option,
  Random,
  Scope,
  Stream,
  TestClock
} from "effect"
import { Connector, SqlTopologySource } from "effect-failover"
import * as AuroraPg from "effect-failover/dialects/AuroraPg"
import * as PgStreaming from "effect-failover/dialects/PgStreaming"
import * as SimulatedCluster from "effect-failover/testing/SimulatedCluster"

type Cluster = SimulatedCluster.SimulatedCluster

const hostOf = (cluster: Cluster, name: string) => {
  const host = cluster.hosts.find((_) => _.id === name)
  if (host === undefined) throw new Error(`no host ${name}`)
  return host
}

const timeout = Duration.seconds(5)

const connect = (cluster: Cluster, name = "db-1") =>
  cluster.connector.connect(hostOf(cluster, name), { timeout })

const run = (session: Connector.Session, sql: string, ...params: ReadonlyArray<unknown>) =>
  session.execute({ sql, params, shape: "objects" })

const command = (session: Connector.Session, sql: string) =>
  session.execute({ sql, params: [], shape: "command" })

const write = (session: Connector.Session, id: number) =>
  run(session, "INSERT INTO t VALUES ($1)", id)

const codeOf = (cause: unknown): unknown =>
  typeof cause === "object" && cause !== null && "code" in cause ? cause.code : String(cause)

/** What a failing effect says: the statement's fate, and why. */
const signal = <A>(effect: Effect.Effect<A, Connector.SessionError>) =>
  Effect.map(Effect.flip(effect), ({ cause, fate }) => [fate, codeOf(cause)])

const ids = (writes: ReadonlyArray<SimulatedCluster.Write>) => writes.map((_) => _.params[0])

const fateOf = (cluster: Cluster) =>
  cluster.log.map((_) => [_.sql.split(" ")[0], _.outcome, _.isAnswered])

/** It has ended, or it waits. */
const isDone = (fiber: Fiber.RuntimeFiber<unknown, unknown>) => fiber.unsafePoll() !== null

const settle = Effect.yieldNow().pipe(Effect.repeatN(50))

const forked = <A, E>(effect: Effect.Effect<A, E>) => Effect.zipLeft(Effect.fork(effect), settle)

describe("a session", () => {
  it.scoped("runs statements at once, without the clock being moved", () =>
    Effect.gen(function* () {
      const cluster = yield* SimulatedCluster.make({
        answer: ({ params }, { host, role }) => [{ host, role, param: params[0] }]
      })
      const session = yield* connect(cluster)
      const request = { sql: "SELECT $1", params: [7] } as const
      assert.deepStrictEqual(yield* session.execute({ ...request, shape: "objects" }), [
        { host: "db-1", role: "writer", param: 7 }
      ])
      assert.deepStrictEqual(yield* session.execute({ ...request, shape: "values" }), [
        ["db-1", "writer", 7]
      ])
      assert.deepInclude(yield* session.execute({ ...request, shape: "raw" }), {
        command: "SELECT",
        rowCount: 1
      })
      assert.strictEqual(yield* command(session, "BEGIN"), "BEGIN")
      assert.isUndefined(session.submit?.({ ...request, shape: "values" }, () => undefined)())
    })
  )

  it.scoped("answers within `submit` itself", () =>
    Effect.gen(function* () {
      const cluster = yield* SimulatedCluster.make({ answer: () => [{ id: 1 }] })
      const session = yield* connect(cluster)
      const results: Array<unknown> = []
      session.submit?.({ sql: "SELECT", params: [], shape: "objects" }, (error, rows) =>
        results.push(error ?? rows)
      )
      assert.deepStrictEqual(results, [[{ id: 1 }]])
    })
  )

  it.scoped("takes latency to be answered, half of it on the way there", () =>
    Effect.gen(function* () {
      const cluster = yield* SimulatedCluster.make({ latency: "10 millis" })
      const connecting = yield* forked(connect(cluster))
      yield* TestClock.adjust("10 millis")
      const session = yield* Fiber.join(connecting)
      const writing = yield* forked(write(session, 1))
      yield* TestClock.adjust("4 millis")
      assert.lengthOf(cluster.log, 0)
      yield* TestClock.adjust("1 millis")
      assert.deepStrictEqual(ids(cluster.committed()), [1])
      assert.isFalse(isDone(writing))
      yield* TestClock.adjust("5 millis")
      assert.deepStrictEqual(yield* Fiber.join(writing), [])
      assert.deepInclude(cluster.log[0], { at: 15, outcome: "Executed", isAnswered: true })
    })
  )

  it.scoped(
    "given up while its statement is under way: unanswered, and cancelled on the server",
    () =>
      Effect.gen(function* () {
        const cluster = yield* SimulatedCluster.make()
        const session = yield* connect(cluster)
        yield* cluster.slow("db-1", "1 second")
        const writing = yield* forked(signal(write(session, 1)))
        session.destroy()
        assert.strictEqual((yield* Fiber.join(writing))[0], "Unanswered")
        yield* TestClock.adjust("2 seconds")
        assert.deepStrictEqual(fateOf(cluster), [["INSERT", "Dropped", false]])
        assert.deepStrictEqual([session.isOpen(), cluster.sessions()], [false, 0])
      })
  )

  it.scoped("interrupted while its statement is under way: broken, and says so once", () =>
    Effect.gen(function* () {
      const cluster = yield* SimulatedCluster.make()
      const session = yield* connect(cluster)
      let closed = 0
      session.onClose(() => closed++)
      yield* cluster.next(/INSERT/, "hang")
      yield* Effect.flatMap(forked(write(session, 1)), Fiber.interrupt)
      session.destroy()
      assert.deepStrictEqual([session.isOpen(), closed, cluster.sessions()], [false, 1, 0])
      assert.strictEqual((yield* signal(write(session, 2)))[0], "NotSent")
    })
  )

  it.scoped("a statement behind another one was not sent when the session ends", () =>
    Effect.gen(function* () {
      const cluster = yield* SimulatedCluster.make()
      const session = yield* connect(cluster)
      yield* cluster.next(/INSERT/, "hang")
      const first = yield* forked(signal(write(session, 1)))
      const second = yield* forked(signal(write(session, 2)))
      yield* cluster.kill("db-1")
      assert.deepStrictEqual(yield* Fiber.join(first), ["Unanswered", "ECONNRESET"])
      assert.deepStrictEqual(yield* Fiber.join(second), ["NotSent", "ECONNRESET"])
      assert.lengthOf(cluster.log, 1)
    })
  )

  it.scoped("not answered within queryTimeout: NoAnswer, and broken", () =>
    Effect.gen(function* () {
      const cluster = yield* SimulatedCluster.make()
      const session = yield* cluster
        .connectorWith({ queryTimeout: Duration.seconds(1) })
        .connect(hostOf(cluster, "db-1"), { timeout })
      yield* cluster.freeze("db-1")
      const writing = yield* forked(Effect.flip(write(session, 1)))
      yield* TestClock.adjust("1 second")
      const error = yield* Fiber.join(writing)
      assert.instanceOf(error.cause, Connector.NoAnswer)
      assert.deepStrictEqual([error.fate, session.isOpen()], ["Unanswered", false])
    })
  )

  it.scoped("a stream fails with the session when it is not at its end", () =>
    Effect.gen(function* () {
      const rows = Array.from({ length: 300 }, (_, id) => ({ id }))
      const cluster = yield* SimulatedCluster.make({ answer: () => rows })
      const session = yield* connect(cluster)
      const request = { sql: "SELECT", params: [], shape: "objects" } as const
      assert.lengthOf(yield* Stream.runCollect(session.stream(request)), 300)
      const seen: Array<unknown> = []
      const result = yield* signal(
        Stream.runForEach(session.stream(request), (row) =>
          Effect.zipRight(
            Effect.sync(() => seen.push(row)),
            seen.length === 10 ? cluster.kill("db-1") : Effect.void
          )
        )
      )
      assert.deepStrictEqual(result, ["Unanswered", "ECONNRESET"])
      assert.isBelow(seen.length, 300)
    })
  )

  it.scoped("hears what is notified, when it is committed", () =>
    Effect.gen(function* () {
      const cluster = yield* SimulatedCluster.make()
      const listener = yield* connect(cluster)
      const other = yield* connect(cluster)
      const heard = yield* forked(Stream.runCollect(Stream.take(listener.notifications, 2)))
      yield* command(listener, 'LISTEN "Jobs"')
      yield* command(other, "BEGIN")
      yield* run(other, "SELECT pg_catalog.pg_notify($1, $2)", "Jobs", "1")
      yield* command(other, "NOTIFY jobs, 'nobody listens'")
      yield* command(other, "COMMIT")
      yield* command(other, `NOTIFY "Jobs", '2'`)
      assert.deepStrictEqual(Chunk.toReadonlyArray(yield* Fiber.join(heard)), [
        { channel: "Jobs", payload: "1" },
        { channel: "Jobs", payload: "2" }
      ])
    })
  )
})

describe("a transaction", () => {
  const begun = Effect.gen(function* () {
    const cluster = yield* SimulatedCluster.make({
      answer: (_, { writes }) => [{ count: writes().length }]
    })
    const session = yield* connect(cluster)
    yield* command(session, "BEGIN")
    yield* write(session, 1)
    return { cluster, session }
  })

  it.scoped("is committed as one, and seen by others only then", () =>
    Effect.gen(function* () {
      const { cluster, session } = yield* begun
      const other = yield* connect(cluster)
      yield* write(session, 2)
      assert.deepStrictEqual(yield* run(other, "SELECT count"), [{ count: 0 }])
      assert.deepStrictEqual(yield* run(session, "SELECT count"), [{ count: 2 }])
      yield* command(session, "COMMIT")
      assert.deepStrictEqual(yield* run(other, "SELECT count"), [{ count: 2 }])
      const [first, second] = cluster.committed()
      assert.deepStrictEqual([first?.params, second?.params], [[1], [2]])
      assert.strictEqual(first?.transaction, second?.transaction)
    })
  )

  it.scoped("a refused statement fails it: 25P02, and COMMIT is answered with ROLLBACK", () =>
    Effect.gen(function* () {
      const { cluster, session } = yield* begun
      yield* cluster.next(/INSERT/, SimulatedCluster.refuse("23505"))
      assert.deepStrictEqual(yield* signal(write(session, 2)), ["Answered", "23505"])
      assert.deepStrictEqual(yield* signal(write(session, 3)), ["Answered", "25P02"])
      assert.strictEqual(yield* command(session, "COMMIT"), "ROLLBACK")
      assert.lengthOf(cluster.committed(), 0)
      yield* write(session, 4)
      assert.deepStrictEqual(ids(cluster.committed()), [4])
    })
  )

  it.scoped("goes on from a savepoint, without what came after it", () =>
    Effect.gen(function* () {
      const { cluster, session } = yield* begun
      yield* command(session, "SAVEPOINT a")
      yield* write(session, 2)
      yield* cluster.next(/INSERT/, SimulatedCluster.refuse("23505"))
      yield* signal(write(session, 3))
      assert.strictEqual(yield* command(session, "ROLLBACK TO SAVEPOINT a"), "ROLLBACK")
      yield* write(session, 4)
      yield* command(session, "RELEASE SAVEPOINT a")
      assert.deepStrictEqual(yield* signal(command(session, "ROLLBACK TO a")), [
        "Answered",
        "3B001"
      ])
      yield* command(session, "ROLLBACK")
      assert.deepStrictEqual(yield* signal(command(session, "SAVEPOINT b")), ["Answered", "25P01"])
      assert.lengthOf(cluster.committed(), 0)
    })
  )

  it.scoped("what a savepoint held is committed with the rest", () =>
    Effect.gen(function* () {
      const { cluster, session } = yield* begun
      yield* command(session, "SAVEPOINT a")
      yield* write(session, 2)
      yield* command(session, "ROLLBACK TO a")
      yield* write(session, 3)
      yield* command(session, "COMMIT")
      assert.deepStrictEqual(ids(cluster.committed()), [1, 3])
    })
  )

  it.scoped("vanishes with its session", () =>
    Effect.gen(function* () {
      const { cluster, session } = yield* begun
      session.destroy()
      const other = yield* connect(cluster)
      yield* command(other, "COMMIT")
      assert.lengthOf(cluster.committed(), 0)
    })
  )

  it.scoped("that is read-only writes nothing, and neither does a reader", () =>
    Effect.gen(function* () {
      const cluster = yield* SimulatedCluster.make()
      const session = yield* connect(cluster)
      yield* command(session, "BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY")
      assert.deepStrictEqual(yield* signal(write(session, 1)), ["Answered", "25006"])
      const reader = yield* connect(cluster, "db-2")
      for (const sql of [
        "insert into t values (1)",
        "WITH gone AS (DELETE FROM t RETURNING *) SELECT * FROM gone",
        "-- a comment\n UPDATE t SET a = 1",
        "SELECT * FROM t FOR UPDATE",
        "SELECT nextval('s')",
        "COPY t FROM STDIN"
      ]) {
        assert.deepStrictEqual(yield* signal(run(reader, sql)), ["Answered", "25006"], sql)
      }
      for (const sql of [
        "SELECT 'INSERT INTO t'",
        "SELECT update_of FROM t /* UPDATE t SET */",
        "WITH x AS (SELECT 1) SELECT * FROM x",
        'SELECT "delete from"'
      ]) {
        assert.deepStrictEqual(yield* run(reader, sql), [], sql)
      }
    })
  )

  it.scoped("of a read-only session writes nothing unless it says so, on a writer too", () =>
    Effect.gen(function* () {
      const cluster = yield* SimulatedCluster.make()
      const session = yield* connect(cluster)
      const refused = ["Answered", "25006"]
      yield* PgStreaming.readOnly(SqlTopologySource.query(session))
      assert.deepStrictEqual(yield* signal(write(session, 1)), refused)
      assert.deepStrictEqual(yield* signal(run(session, "INSERT INTO t; SELECT 1")), refused)
      yield* command(session, "BEGIN")
      assert.deepStrictEqual(yield* signal(write(session, 2)), refused)
      yield* command(session, "ROLLBACK")
      yield* command(session, "BEGIN READ WRITE")
      yield* write(session, 3)
      yield* command(session, "COMMIT")
      yield* command(session, "BEGIN")
      yield* command(session, "SET TRANSACTION READ WRITE")
      yield* write(session, 4)
      yield* command(session, "COMMIT")
      assert.deepStrictEqual(yield* signal(write(session, 5)), refused)
      yield* write(yield* connect(cluster), 6)
      assert.deepStrictEqual(ids(cluster.committed()), [3, 4, 6])
      // The library's own affair, as its questions are.
      assert.isTrue(cluster.log[0]?.isInternal)
    })
  )

  it.scoped("what a transaction sets for its session goes with its rollback", () =>
    Effect.gen(function* () {
      const cluster = yield* SimulatedCluster.make()
      const session = yield* connect(cluster)
      const set = "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY"
      yield* command(session, "BEGIN")
      yield* command(session, set)
      // Of those to come, and not of this one.
      yield* write(session, 1)
      yield* command(session, "ROLLBACK")
      yield* write(session, 2)
      yield* command(session, "SET default_transaction_read_only = on")
      assert.deepStrictEqual(yield* signal(write(session, 3)), ["Answered", "25006"])
      yield* command(session, "SET default_transaction_read_only TO off")
      yield* write(session, 4)
      assert.deepStrictEqual(ids(cluster.committed()), [2, 4])
    })
  )

  it.scoped(
    "of a session that was made read-only on a standby: it writes nothing as a writer",
    () =>
      Effect.gen(function* () {
        const cluster = yield* SimulatedCluster.make()
        const session = yield* connect(cluster, "db-2")
        yield* PgStreaming.readOnly(SqlTopologySource.query(session))
        yield* command(session, "BEGIN")
        assert.deepStrictEqual(yield* signal(command(session, "SET TRANSACTION READ WRITE")), [
          "Answered",
          "0A000"
        ])
        yield* command(session, "ROLLBACK")
        yield* cluster.failover()
        assert.strictEqual(yield* cluster.writer, "db-2")
        assert.deepStrictEqual(yield* signal(write(session, 1)), ["Answered", "25006"])
        yield* write(yield* connect(cluster, "db-2"), 2)
        assert.deepStrictEqual(ids(cluster.committed()), [2])
      })
  )

  it.scoped("several commands in one text are one", () =>
    Effect.gen(function* () {
      const cluster = yield* SimulatedCluster.make()
      const session = yield* connect(cluster)
      const text = "INSERT INTO t VALUES ('a;b'); ROLLBACK TO nowhere"
      assert.deepStrictEqual(yield* signal(run(session, text)), ["Answered", "25P01"])
      assert.lengthOf(cluster.committed(), 0)
      assert.deepStrictEqual(yield* run(session, "INSERT INTO t; SELECT 1;"), [[], []])
      assert.lengthOf(cluster.committed(), 1)
    })
  )
})

describe("a fault", () => {
  it.scoped("kill: sessions are reset, connections refused, until it is started again", () =>
    Effect.gen(function* () {
      const cluster = yield* SimulatedCluster.make()
      const [busy, idle] = [yield* connect(cluster), yield* connect(cluster)]
      yield* cluster.slow("db-1", "1 second")
      const writing = yield* forked(signal(write(busy, 1)))
      yield* cluster.kill("db-1")
      assert.deepStrictEqual(yield* Fiber.join(writing), ["Unanswered", "ECONNRESET"])
      assert.deepStrictEqual([idle.isOpen(), cluster.sessions()], [false, 0])
      assert.deepStrictEqual(yield* signal(write(idle, 2)), ["NotSent", "ECONNRESET"])
      assert.deepStrictEqual(yield* signal(connect(cluster)), ["NotSent", "ECONNREFUSED"])
      assert.deepStrictEqual(fateOf(cluster), [["INSERT", "Dropped", false]])
      yield* cluster.slow("db-1", 0)
      yield* cluster.start("db-1")
      yield* write(yield* connect(cluster), 3)
      assert.deepStrictEqual(ids(cluster.committed()), [3])
    })
  )

  it.scoped(
    "freeze: nothing is answered, nobody is let in; what had arrived is executed later",
    () =>
      Effect.gen(function* () {
        const cluster = yield* SimulatedCluster.make()
        const [kept, left] = [yield* connect(cluster), yield* connect(cluster)]
        yield* cluster.freeze("db-1")
        const writing = yield* forked(write(kept, 1))
        const abandoned = yield* forked(write(left, 2))
        const refused = yield* forked(signal(connect(cluster)))
        yield* TestClock.adjust("5 seconds")
        assert.deepStrictEqual(yield* Fiber.join(refused), ["NotSent", "Error: timeout expired"])
        const late = yield* forked(connect(cluster))
        yield* Fiber.interrupt(abandoned)
        assert.deepStrictEqual(fateOf(cluster), [
          ["INSERT", "Pending", false],
          ["INSERT", "Pending", false]
        ])
        yield* cluster.resume("db-1")
        yield* Fiber.join(writing)
        assert.isTrue((yield* Fiber.join(late)).isOpen())
        assert.deepStrictEqual(ids(cluster.committed()), [1, 2])
        assert.deepStrictEqual(fateOf(cluster), [
          ["INSERT", "Executed", true],
          ["INSERT", "Executed", false]
        ])
      })
  )

  it.scoped("partition: what is sent arrives when it is healed, unless it was given up", () =>
    Effect.gen(function* () {
      const cluster = yield* SimulatedCluster.make()
      const [kept, left] = [yield* connect(cluster), yield* connect(cluster)]
      yield* cluster.partition("db-1")
      const writing = yield* forked(write(kept, 1))
      const abandoned = yield* forked(write(left, 2))
      const connecting = yield* forked(signal(connect(cluster)))
      yield* TestClock.adjust("5 seconds")
      assert.deepStrictEqual(yield* Fiber.join(connecting), ["NotSent", "Error: timeout expired"])
      assert.isFalse(isDone(writing))
      yield* Fiber.interrupt(abandoned)
      yield* cluster.heal("db-1")
      yield* Fiber.join(writing)
      assert.deepStrictEqual(ids(cluster.committed()), [1])
      assert.lengthOf(cluster.log, 1)
    })
  )

  it.scoped("partition after the statement has arrived: executed, and not answered", () =>
    Effect.gen(function* () {
      const cluster = yield* SimulatedCluster.make({ latency: "10 millis" })
      const connecting = yield* forked(connect(cluster))
      yield* TestClock.adjust("10 millis")
      const session = yield* Fiber.join(connecting)
      const writing = yield* forked(signal(write(session, 1)))
      yield* TestClock.adjust("6 millis")
      yield* cluster.partition("db-1")
      yield* TestClock.adjust("1 minute")
      assert.isFalse(isDone(writing))
      session.destroy()
      assert.strictEqual((yield* Fiber.join(writing))[0], "Unanswered")
      assert.deepStrictEqual(fateOf(cluster), [["INSERT", "Executed", false]])
    })
  )

  it.scoped("a session of a host that died behind a partition is reset when it is healed", () =>
    Effect.gen(function* () {
      const cluster = yield* SimulatedCluster.make()
      const session = yield* connect(cluster)
      yield* cluster.partition("db-1")
      yield* cluster.kill("db-1")
      const writing = yield* forked(signal(write(session, 1)))
      assert.isTrue(session.isOpen())
      yield* cluster.heal("db-1")
      assert.deepStrictEqual(yield* Fiber.join(writing), ["Unanswered", "ECONNRESET"])
      assert.lengthOf(cluster.log, 0)
    })
  )

  it.scoped("terminate: 57P01 for whoever waits and whoever does not", () =>
    Effect.gen(function* () {
      const cluster = yield* SimulatedCluster.make()
      const [busy, idle] = [yield* connect(cluster), yield* connect(cluster)]
      yield* cluster.next(/INSERT/, "hang")
      const writing = yield* forked(signal(write(busy, 1)))
      const causes: Array<unknown> = []
      idle.onClose((cause) => causes.push(codeOf(cause)))
      yield* cluster.terminate("db-1")
      assert.deepStrictEqual(yield* Fiber.join(writing), ["Unanswered", "57P01"])
      assert.deepStrictEqual(causes, ["57P01"])
      assert.isTrue((yield* connect(cluster)).isOpen())
    })
  )

  it.scoped("restart: 57P01, down for a while, and the same server in another incarnation", () =>
    Effect.gen(function* () {
      const cluster = yield* SimulatedCluster.make()
      const session = yield* connect(cluster)
      const started = "SELECT pg_catalog.pg_postmaster_start_time()::pg_catalog.text"
      const before = yield* run(session, started)
      yield* cluster.restart("db-1", { downFor: "2 seconds" })
      assert.isFalse(session.isOpen())
      assert.deepStrictEqual(yield* signal(connect(cluster)), ["NotSent", "ECONNREFUSED"])
      yield* TestClock.adjust("2 seconds")
      const again = yield* connect(cluster)
      assert.notDeepEqual(yield* run(again, started), before)
      yield* write(again, 1)
    })
  )

  it.scoped("refuse: new connections only, until they are accepted", () =>
    Effect.gen(function* () {
      const cluster = yield* SimulatedCluster.make()
      const session = yield* connect(cluster)
      yield* cluster.refuse("db-1", "53300")
      assert.deepStrictEqual(yield* signal(connect(cluster)), ["NotSent", "53300"])
      yield* write(session, 1)
      yield* cluster.accept("db-1")
      assert.isTrue((yield* connect(cluster)).isOpen())
      assert.strictEqual(cluster.sessions("db-1"), 2)
    })
  )

  it.scoped("slow: statements and log-ins take longer", () =>
    Effect.gen(function* () {
      const cluster = yield* SimulatedCluster.make()
      const session = yield* connect(cluster)
      yield* cluster.slow("db-1", "3 seconds")
      const writing = yield* forked(write(session, 1))
      const connecting = yield* forked(connect(cluster))
      yield* TestClock.adjust("2 seconds")
      assert.deepStrictEqual([isDone(writing), isDone(connecting)], [false, false])
      yield* TestClock.adjust("1 second")
      assert.deepStrictEqual([isDone(writing), isDone(connecting)], [true, true])
    })
  )

  it.scoped("demote: writes are refused; who has written in a transaction is cut off", () =>
    Effect.gen(function* () {
      const cluster = yield* SimulatedCluster.make()
      const [writing, reading] = [yield* connect(cluster), yield* connect(cluster)]
      yield* command(writing, "BEGIN")
      yield* write(writing, 1)
      yield* command(reading, "BEGIN")
      yield* cluster.demote("db-1")
      assert.deepStrictEqual([writing.isOpen(), reading.isOpen()], [false, true])
      assert.deepStrictEqual(yield* signal(write(reading, 2)), ["Answered", "25006"])
      assert.isUndefined(yield* cluster.writer)
    })
  )

  interface Expected {
    /** None: it hangs. */
    readonly signal: ReadonlyArray<unknown> | undefined
    readonly log: ReadonlyArray<unknown>
    readonly rows: ReadonlyArray<unknown>
  }
  const cases: ReadonlyArray<readonly [SimulatedCluster.Fault, Expected]> = [
    ["beforeSend", { signal: ["NotSent", "ECONNRESET"], log: [], rows: [] }],
    [
      "beforeExecute",
      { signal: ["Unanswered", "ECONNRESET"], log: [["INSERT", "Dropped", false]], rows: [] }
    ],
    [
      "beforeReply",
      { signal: ["Unanswered", "ECONNRESET"], log: [["INSERT", "Executed", false]], rows: [1] }
    ],
    ["hang", { signal: undefined, log: [["INSERT", "Pending", false]], rows: [] }],
    ["hangAfter", { signal: undefined, log: [["INSERT", "Executed", false]], rows: [1] }],
    [
      SimulatedCluster.refuse("40001"),
      { signal: ["Answered", "40001"], log: [["INSERT", "Refused", true]], rows: [] }
    ],
    [
      SimulatedCluster.refuse("57P01", { fatal: true }),
      { signal: ["Unanswered", "57P01"], log: [["INSERT", "Refused", true]], rows: [] }
    ]
  ]
  for (const [fault, expected] of cases) {
    it.scoped(`of one statement, ${JSON.stringify(fault)}: its signal, and what was done`, () =>
      Effect.gen(function* () {
        const cluster = yield* SimulatedCluster.make()
        const session = yield* connect(cluster)
        yield* cluster.next(/^INSERT/, fault)
        yield* run(session, "SELECT 'INSERT'")
        const writing = yield* forked(signal(write(session, 1)))
        assert.deepEqual(fateOf(cluster).slice(1), expected.log)
        assert.deepEqual(ids(cluster.committed()), expected.rows)
        if (expected.signal === undefined) assert.isFalse(isDone(writing))
        else assert.deepEqual(yield* Fiber.join(writing), expected.signal)
        if (session.isOpen() && isDone(writing)) yield* write(session, 2)
      })
    )
  }

  it.effect("nothing happens after the scope", () =>
    Effect.gen(function* () {
      const scope = yield* Scope.make()
      const cluster = yield* Scope.extend(SimulatedCluster.make(), scope)
      const session = yield* connect(cluster)
      yield* cluster.failover({ promoteAfter: "1 second" })
      yield* Scope.close(scope, Exit.void)
      yield* TestClock.adjust("2 seconds")
      assert.deepStrictEqual([session.isOpen(), yield* cluster.writer], [false, undefined])
    })
  )
})

describe("replication", () => {
  it.scoped("asynchronous: what a standby has not received is lost when it is promoted", () =>
    Effect.gen(function* () {
      const cluster = yield* SimulatedCluster.make()
      const session = yield* connect(cluster)
      yield* write(session, 1)
      yield* cluster.lag("db-2", "10 seconds")
      yield* cluster.lag("db-3", "5 seconds")
      yield* write(session, 2)
      yield* TestClock.adjust("5 seconds")
      yield* write(session, 3)
      assert.deepStrictEqual(
        ["db-1", "db-2", "db-3"].map((name) => ids(cluster.committed(name))),
        [[1, 2, 3], [1], [1, 2]]
      )
      yield* cluster.failover()
      assert.strictEqual(yield* cluster.writer, "db-3")
      yield* write(yield* connect(cluster, "db-3"), 4)
      yield* cluster.start("db-1")
      yield* TestClock.adjust("10 seconds")
      assert.deepStrictEqual(
        ["db-1", "db-2", "db-3"].map((name) => ids(cluster.committed(name))),
        [
          [1, 2, 4],
          [1, 2, 4],
          [1, 2, 4]
        ]
      )
    })
  )

  it.scoped("asynchronous: two writers write, and the older one's writes are lost", () =>
    Effect.gen(function* () {
      const cluster = yield* SimulatedCluster.make()
      const old = yield* connect(cluster)
      yield* cluster.promote("db-2")
      yield* write(old, 1)
      yield* write(yield* connect(cluster, "db-2"), 2)
      assert.deepStrictEqual(
        cluster.log.map((_) => [_.host, _.role, _.timeline, _.outcome]),
        [
          ["db-1", "writer", 1, "Executed"],
          ["db-2", "writer", 2, "Executed"]
        ]
      )
      yield* cluster.demote("db-1")
      assert.deepStrictEqual(ids(cluster.committed("db-1")), [2])
    })
  )

  const synchronous = SimulatedCluster.make({ replication: "synchronous" })

  it.scoped("synchronous: COMMIT is answered once a standby has it, and not before", () =>
    Effect.gen(function* () {
      const cluster = yield* synchronous
      const session = yield* connect(cluster)
      yield* cluster.kill("db-2")
      yield* write(session, 1)
      yield* cluster.partition("db-3", "peers")
      const writing = yield* forked(write(session, 2))
      yield* TestClock.adjust("1 minute")
      assert.deepStrictEqual(fateOf(cluster).at(-1), ["INSERT", "Pending", false])
      yield* cluster.start("db-2")
      yield* Fiber.join(writing)
      assert.deepStrictEqual(ids(cluster.committed("db-2")), [1, 2])
      assert.deepStrictEqual(ids(cluster.committed("db-3")), [1])
    })
  )

  it.scoped("synchronous: what waits is seen by nobody, and stays if its session ends", () =>
    Effect.gen(function* () {
      const cluster = yield* SimulatedCluster.make({
        hosts: ["db-1", "db-2"],
        replication: "synchronous",
        answer: (_, { writes }) => [{ count: writes().length }]
      })
      const [session, other] = [yield* connect(cluster), yield* connect(cluster)]
      yield* cluster.kill("db-2")
      const writing = yield* forked(write(session, 1))
      assert.deepStrictEqual(yield* run(other, "SELECT count"), [{ count: 0 }])
      yield* Fiber.interrupt(writing)
      assert.deepStrictEqual(yield* run(other, "SELECT count"), [{ count: 1 }])
      assert.deepStrictEqual(fateOf(cluster)[0], ["INSERT", "Executed", false])
    })
  )

  it.scoped("synchronous: a primary that is cut off from its peers acknowledges nothing", () =>
    Effect.gen(function* () {
      const cluster = yield* synchronous
      const session = yield* connect(cluster)
      yield* write(session, 1)
      yield* cluster.partition("db-1", "peers")
      yield* cluster.promote("db-3")
      const writing = yield* forked(write(session, 2))
      yield* write(yield* connect(cluster, "db-3"), 3)
      yield* cluster.heal("db-1")
      yield* TestClock.adjust("1 minute")
      assert.isFalse(isDone(writing))
      yield* cluster.start("db-1", { as: "standby" })
      assert.deepStrictEqual(ids(cluster.committed("db-1")), [1, 3])
    })
  )

  it.scoped(
    "synchronous: a standby without what was acknowledged is not promoted, but by force",
    () =>
      Effect.gen(function* () {
        const cluster = yield* synchronous
        const session = yield* connect(cluster)
        yield* cluster.partition("db-2", "peers")
        yield* write(session, 1)
        yield* cluster.kill("db-1")
        assert.deepStrictEqual(["db-1", "db-2", "db-3", "db-3"].map(cluster.isPromotable), [
          false,
          false,
          true,
          true
        ])
        const refused = yield* Effect.sandbox(cluster.promote("db-2")).pipe(Effect.flip)
        assert.match(Cause.pretty(refused), /has not received all that was acknowledged/)
        yield* cluster.promote("db-2", { force: true })
        assert.lengthOf(cluster.committed(), 0)
      })
  )

  for (const [name, options] of [
    ["synchronous", { replication: "synchronous" }],
    ["aurora", { flavor: "aurora", staleLists: "500 millis", promotionTime: "200 millis" }]
  ] as const) {
    it.effect.prop(
      `${name}: whatever happens, no acknowledged write is lost and none is there twice`,
      [
        FastCheck.array(
          FastCheck.tuple(
            FastCheck.constantFrom(
              ...(["write", "write", "write", "transaction", "kill", "start", "itself"] as const),
              ...([
                "freeze",
                "resume",
                "cut",
                "heal",
                "promote",
                "failover",
                "lag",
                "wait"
              ] as const)
            ),
            FastCheck.nat(2)
          ),
          { minLength: 5, maxLength: 60 }
        )
      ],
      ([steps]) =>
        Effect.gen(function* () {
          const cluster = yield* SimulatedCluster.make(options)
          const acknowledged: Array<number> = []
          const nameOf = (i: number) => `db-${i + 1}`
          let id = 0
          for (const [step, i] of steps) {
            const on = nameOf(i)
            switch (step) {
              case "write":
              case "transaction": {
                const mine = ++id
                yield* connect(cluster, on).pipe(
                  Effect.flatMap((session) =>
                    step === "write"
                      ? write(session, mine)
                      : command(session, "BEGIN").pipe(
                          Effect.zipRight(write(session, mine)),
                          Effect.zipRight(command(session, "COMMIT"))
                        )
                  ),
                  Effect.tap(() => Effect.sync(() => acknowledged.push(mine))),
                  Effect.ignore,
                  Effect.forkScoped
                )
                yield* settle
                break
              }
              case "start":
                yield* cluster.start(on)
                break
              case "itself":
                yield* cluster.start(on, { as: "itself" })
                break
              case "cut":
                yield* cluster.partition(on, i === 0 ? "all" : "peers")
                break
              case "promote":
                if (cluster.isPromotable(on)) yield* cluster.promote(on)
                break
              case "failover":
                yield* cluster.failover()
                break
              case "lag":
                yield* cluster.lag(on, "1 second")
                break
              case "wait":
                yield* TestClock.adjust("1 second")
                break
              default:
                yield* cluster[step](on)
            }
          }
          const there = ids(cluster.committed())
          assert.deepStrictEqual(
            acknowledged.filter((_) => !there.includes(_)),
            []
          )
          assert.lengthOf(there, new Set(there).size)
        }).pipe(Effect.scoped),
      { fastCheck: { numRuns: 60 } }
    )
  }
})

describe("the dialects", () => {
  const sourceOf = (cluster: Cluster, name: string) =>
    Effect.gen(function* () {
      const session = yield* connect(cluster, name)
      return { session, query: SqlTopologySource.query(session) }
    })

  const observe = (cluster: Cluster, name: string) =>
    Effect.gen(function* () {
      const { query } = yield* sourceOf(cluster, name)
      const dialect = cluster.flavor === "aurora" ? AuroraPg.dialect : PgStreaming.dialect
      return yield* dialect.observe(query, {
        probed: hostOf(cluster, name),
        hostOf: (id) => Either.right(hostOf(cluster, id)),
        hostAt: Option.some,
        seeds: cluster.hosts
      })
    })

  it.scoped("streaming: role and timeline, and a promotion on a newer one", () =>
    Effect.gen(function* () {
      const cluster = yield* SimulatedCluster.make()
      const before = yield* observe(cluster, "db-1")
      assert.deepInclude(before, { role: "writer", serverEpoch: 1n })
      assert.deepInclude(yield* observe(cluster, "db-2"), {
        role: "reader",
        serverEpoch: undefined
      })
      yield* cluster.promote("db-2")
      assert.deepInclude(yield* observe(cluster, "db-2"), { role: "writer", serverEpoch: 2n })
      assert.deepInclude(yield* observe(cluster, "db-1"), { role: "writer", serverEpoch: 1n })
    })
  )

  it.scoped("a wait that is parked on a standby ends with its promotion, or with its time", () =>
    Effect.gen(function* () {
      const cluster = yield* SimulatedCluster.make()
      const { query } = yield* sourceOf(cluster, "db-2")
      const park = PgStreaming.awaitPromotion(query, Duration.seconds(10))
      const first = yield* forked(park)
      yield* TestClock.adjust("9 seconds")
      assert.isFalse(isDone(first))
      yield* TestClock.adjust("1 second")
      assert.isTrue(isDone(first))
      const second = yield* forked(park)
      yield* cluster.promote("db-2")
      yield* settle
      assert.isTrue(isDone(second))
      yield* park
    })
  )

  it.scoped("aurora: each instance lists all, and recognises itself", () =>
    Effect.gen(function* () {
      const cluster = yield* SimulatedCluster.make({ flavor: "aurora" })
      const { query } = yield* sourceOf(cluster, "db-2")
      assert.isTrue(yield* AuroraPg.dialect.detect(query))
      const seen = yield* observe(cluster, "db-2")
      assert.deepStrictEqual([seen.role, seen.host.id], ["reader", "db-2"])
      assert.deepStrictEqual(
        seen.members?.map((_) => [_.host.id, _.role]),
        [
          ["db-1", "writer"],
          ["db-2", "reader"],
          ["db-3", "reader"]
        ]
      )
      const streaming = yield* sourceOf(yield* SimulatedCluster.make(), "db-2")
      assert.isFalse(yield* AuroraPg.dialect.detect(streaming.query))
      assert.isTrue(yield* PgStreaming.dialect.detect(streaming.query))
    })
  )

  it.scoped("aurora: the old writer is restarted as a reader, and what it wrote is there", () =>
    Effect.gen(function* () {
      const cluster = yield* SimulatedCluster.make({ flavor: "aurora" })
      const old = yield* connect(cluster)
      yield* write(old, 1)
      yield* cluster.promote("db-2")
      assert.isFalse(old.isOpen())
      assert.strictEqual((yield* observe(cluster, "db-1")).role, "reader")
      assert.deepStrictEqual(ids(cluster.committed("db-2")), [1])
    })
  )

  it.scoped("aurora: news of an older writer do not stop a newer one", () =>
    Effect.gen(function* () {
      const cluster = yield* SimulatedCluster.make({ flavor: "aurora", staleLists: "2 seconds" })
      yield* cluster.switchover("db-2")
      yield* cluster.partition("db-2", "all")
      yield* cluster.promote("db-3")
      yield* cluster.heal("db-2")
      const session = yield* connect(cluster, "db-3")
      yield* TestClock.adjust("5 seconds")
      assert.strictEqual(yield* cluster.writer, "db-3")
      yield* write(session, 1)
      assert.deepStrictEqual(ids(cluster.committed()), [1], "in a session from before the news")
      const roles = yield* Effect.forEach(["db-1", "db-2", "db-3"], (_) => observe(cluster, _))
      assert.deepStrictEqual(
        roles.map((_) => _.role),
        ["reader", "reader", "writer"]
      )
    })
  )

  it.scoped("aurora: a writer that does not know that it was replaced commits nothing", () =>
    Effect.gen(function* () {
      const cluster = yield* SimulatedCluster.make({ flavor: "aurora", staleLists: "10 seconds" })
      const old = yield* connect(cluster)
      yield* command(old, "BEGIN")
      yield* write(old, 1)
      yield* cluster.promote("db-2")
      assert.strictEqual((yield* observe(cluster, "db-1")).role, "writer")
      assert.deepStrictEqual(yield* signal(command(old, "COMMIT")), ["Unanswered", "57P02"])
      assert.lengthOf(cluster.committed(), 0)
      assert.strictEqual((yield* observe(cluster, "db-1")).role, "reader")
    })
  )

  it.scoped("aurora: list and recovery agree only after both have changed", () =>
    Effect.gen(function* () {
      const listsFirst = yield* SimulatedCluster.make({
        flavor: "aurora",
        promotionTime: "2 seconds"
      })
      yield* listsFirst.failover()
      const { query } = yield* sourceOf(listsFirst, "db-2")
      const rolesOf = (cluster: Cluster) =>
        Effect.map(observe(cluster, "db-2"), ({ members, role }) => [
          role,
          members?.find((_) => _.host.id === "db-2")?.role
        ])
      assert.deepStrictEqual(yield* rolesOf(listsFirst), ["reader", "writer"])
      assert.isFalse(yield* AuroraPg.dialect.isWriter(query))
      yield* TestClock.adjust("2 seconds")
      assert.deepStrictEqual(yield* rolesOf(listsFirst), ["writer", "writer"])

      const recoveryFirst = yield* SimulatedCluster.make({
        flavor: "aurora",
        staleLists: "2 seconds"
      })
      yield* recoveryFirst.failover()
      assert.deepStrictEqual(yield* rolesOf(recoveryFirst), ["reader", "reader"])
      yield* TestClock.adjust("2 seconds")
      assert.deepStrictEqual(yield* rolesOf(recoveryFirst), ["writer", "writer"])
    })
  )
})

describe("freshness", () => {
  const counting = (options: SimulatedCluster.Options) =>
    Effect.gen(function* () {
      const cluster = yield* SimulatedCluster.make({
        ...options,
        answer: (_, { writes }) => [{ count: writes().length }]
      })
      const session = yield* connect(cluster)
      const reader = yield* connect(cluster, "db-2")
      const query = SqlTopologySource.query(reader)
      return {
        cluster,
        session,
        query,
        count: Effect.map(run(reader, "SELECT count"), ([row]) => row.count),
        position: PgStreaming.freshness.position(SqlTopologySource.query(session)),
        reached: (...positions: ReadonlyArray<string>) =>
          PgStreaming.freshness.reached(query, positions),
        lag: Effect.map(AuroraPg.dialect.load?.(query) ?? Effect.die("no load"), (_) => _.lagMillis)
      }
    })

  it.scoped("streaming: a standby has reached a position once it shows what was written", () =>
    Effect.gen(function* () {
      const { cluster, count, position, reached, session } = yield* counting({})
      yield* write(session, 1)
      const first = yield* position
      yield* cluster.lag("db-2", "10 seconds")
      yield* write(session, 2)
      const second = yield* position
      assert.notStrictEqual(first, second)
      assert.deepStrictEqual([yield* reached(first, second), yield* count], [1, 1])
      yield* TestClock.adjust("9 seconds")
      assert.deepStrictEqual([yield* reached(first, second), yield* count], [1, 1])
      yield* TestClock.adjust("1 second")
      assert.deepStrictEqual([yield* reached(first, second), yield* count], [2, 2])
      // As many as begin the list, and not as many as there are.
      assert.strictEqual(yield* reached("0/FFFFFFFF", first, second), 0)
    })
  )

  it.scoped("streaming: only a writer tells a position, and it has reached its own", () =>
    Effect.gen(function* () {
      const { cluster, query, reached } = yield* counting({})
      const far = "FFFFFFFF/FFFFFFFF"
      assert.deepStrictEqual(yield* signal(PgStreaming.freshness.position(query)), [
        "Answered",
        "55000"
      ])
      assert.strictEqual(yield* reached("0/0", far), 1)
      yield* cluster.failover()
      const own = yield* PgStreaming.freshness.position(query)
      assert.strictEqual(yield* reached("0/0", own, far), 2)
      assert.match(yield* PgStreaming.freshness.position(query), /^[0-9A-F]+\/[0-9A-F]+$/)
    })
  )

  it.scoped("streaming: what is no position is refused, and not asked", () =>
    Effect.gen(function* () {
      const { cluster, reached } = yield* counting({})
      const tokens = [
        "",
        "0",
        "0/",
        "0/G",
        "0/123456789",
        " 0/1",
        "0/1\n",
        "0/1}'; DROP TABLE t; --"
      ]
      for (const token of tokens) {
        const error = yield* Effect.flip(reached("0/1", token))
        assert.strictEqual(error.fate, "Answered", token)
        assert.match(String(error.cause), /Not a position in PostgreSQL's WAL/, token)
      }
      assert.strictEqual(yield* reached(), 0)
      assert.lengthOf(cluster.log, 0)
    })
  )

  it.scoped("aurora: a reader that lags says so, and shows what is older than that", () =>
    Effect.gen(function* () {
      const { cluster, count, lag, session } = yield* counting({ flavor: "aurora" })
      assert.strictEqual(yield* lag, 0)
      yield* TestClock.adjust("1 second")
      yield* write(session, 1)
      // What it could have shown by now, it does not hide again.
      yield* cluster.lag("db-2", "10 seconds")
      assert.deepStrictEqual([yield* count, yield* lag], [1, 0])
      yield* TestClock.adjust("20 seconds")
      yield* write(session, 2)
      assert.deepStrictEqual([yield* count, yield* lag], [1, 10_000])
      yield* TestClock.adjust("9 seconds")
      assert.strictEqual(yield* count, 1)
      yield* TestClock.adjust("1 second")
      assert.strictEqual(yield* count, 2)
      yield* write(session, 3)
      yield* cluster.lag("db-2", 0)
      assert.deepStrictEqual([yield* count, yield* lag], [3, 0])
      assert.lengthOf(cluster.committed("db-2"), 3)
    })
  )

  it.scoped("aurora: a reader that is cut off from its peers shows nothing new, and says so", () =>
    Effect.gen(function* () {
      const { cluster, count, lag, session } = yield* counting({ flavor: "aurora" })
      yield* write(session, 1)
      yield* TestClock.adjust("1 second")
      yield* cluster.partition("db-2", "peers")
      yield* TestClock.adjust("2 seconds")
      yield* write(session, 2)
      assert.deepStrictEqual([yield* count, yield* lag], [1, 2000])
      yield* cluster.heal("db-2")
      assert.deepStrictEqual([yield* count, yield* lag], [2, 0])
    })
  )

  it.scoped("aurora: a reader that takes over shows all, and goes on to", () =>
    Effect.gen(function* () {
      const { cluster, count, lag, session } = yield* counting({ flavor: "aurora" })
      yield* cluster.lag("db-2", "10 seconds")
      yield* TestClock.adjust("1 minute")
      yield* write(session, 1)
      assert.strictEqual(yield* count, 0)
      yield* cluster.failover()
      yield* write(yield* connect(cluster, "db-2"), 2)
      assert.deepStrictEqual([yield* count, yield* lag], [2, 0])
      yield* TestClock.adjust("1 second")
      yield* write(yield* connect(cluster, "db-2"), 3)
      yield* cluster.demote("db-2")
      assert.deepStrictEqual([yield* count, yield* lag], [3, 0])
    })
  )

  it.scoped("aurora: storage has no position", () =>
    Effect.gen(function* () {
      const { position, reached } = yield* counting({ flavor: "aurora" })
      assert.strictEqual(yield* reached(yield* position), 0)
      assert.isUndefined(AuroraPg.dialect.freshness)
    })
  )
})

describe("the order of things", () => {
  const history = (seed: number) =>
    Effect.gen(function* () {
      const cluster = yield* SimulatedCluster.make({
        latency: { least: "1 millis", most: "20 millis" },
        replication: "synchronous"
      })
      const start = yield* TestClock.currentTimeMillis
      for (let i = 0; i < 10; i++) {
        yield* Effect.forkScoped(
          Effect.ignore(
            Effect.flatMap(connect(cluster), (session) =>
              Effect.forEach([1, 2, 3], (_) => write(session, 10 * i + _))
            )
          )
        )
      }
      yield* TestClock.adjust("40 millis")
      yield* cluster.failover({ promoteAfter: "5 millis" })
      yield* TestClock.adjust("1 second")
      return cluster.log.map((_) => [
        Math.round((_.at - start) * 1000),
        _.session,
        _.params[0],
        _.outcome
      ])
    }).pipe(Effect.scoped, Effect.withRandom(Random.make(seed)))

  it.effect("is that of the seed", () =>
    Effect.gen(function* () {
      const first = yield* history(1)
      assert.isAbove(first.length, 10)
      assert.deepStrictEqual(yield* history(1), first)
      assert.notDeepEqual(yield* history(2), first)
    })
  )
})
