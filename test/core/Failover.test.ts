import { assert, describe, expectTypeOf, it } from "@effect/vitest"
import { SqlError } from "@effect/sql"
import {
  Chunk,
  Deferred,
  Duration,
  Effect,
  Exit,
  Fiber,
  FiberId,
  Scope,
  Stream,
  TestClock
} from "effect"
import type { Connector, Topology } from "effect-failover"
import { Errors, Failover, TopologyState } from "effect-failover"
import { evenly, host, rejection, sessionError, settle } from "./fakes.js"

/** A topology whose writer the test names; `undefined`: nobody is the writer. */
const scriptedTopology = Effect.gen(function* () {
  const settings = {
    reelectionGrace: Duration.zero,
    highRatePeriod: Duration.zero,
    stableAgreement: Duration.seconds(15)
  }
  let state = TopologyState.initial({ clusterId: "t", seeds: [host("a"), host("b")] })
  let settledBy = yield* Deferred.make<
    TopologyState.Writer,
    TopologyState.Rejection | Errors.TopologyClosed
  >()
  let epochOfServer = 0n
  const reports: Array<number> = []
  /** Who is confirmed again whenever somebody asks. */
  const standing: { writer: string | undefined } = { writer: undefined }
  const step = (event: TopologyState.Event) => {
    state = TopologyState.reduce(state, event, 0, settings)
  }
  const topology: Topology.Topology = {
    clusterId: "t",
    current: Effect.sync(() => state),
    changes: Stream.empty,
    awaitWriter: () => Effect.die("not used"),
    refresh: Effect.void,
    settled: Effect.suspend(() => {
      const writer = TopologyState.confirmedWriter(state)
      if (writer !== undefined) return Effect.succeed(writer)
      const again = standing.writer === undefined ? Effect.void : elect(standing.writer)
      return Effect.zipRight(
        again,
        Effect.suspend(() => Deferred.await(settledBy))
      )
    }),
    reportLost: (epoch) =>
      Effect.suspend(() => {
        reports.push(epoch)
        const before = state
        step(TopologyState.Event.WriterLost({ epoch }))
        if (before.phase._tag !== "Calm" || state.phase._tag === "Calm") return Effect.void
        return Effect.sync(() => void (settledBy = Deferred.unsafeMake(FiberId.none)))
      }),
    unsafeOnChange: () => () => {},
    unsafeCurrent: () => state
  }
  const elect = (name: string): Effect.Effect<unknown> =>
    Effect.suspend(() => {
      step(TopologyState.Event.Needed())
      for (const other of ["a", "b"]) {
        step(
          TopologyState.Event.ProbeFailed({ probed: host(other), error: "x", rejection: undefined })
        )
      }
      const observation = {
        probed: host(name),
        host: host(name),
        role: "writer" as const,
        serverEpoch: ++epochOfServer
      }
      step(TopologyState.Event.Observed({ observation }))
      const writer = TopologyState.confirmedWriter(state)
      return writer === undefined ? Effect.die("no writer") : Deferred.succeed(settledBy, writer)
    })
  return {
    topology,
    elect,
    standing,
    reports,
    end: (error: TopologyState.Rejection | Errors.TopologyClosed) =>
      Effect.suspend(() => Deferred.fail(settledBy, error))
  }
})

const setup = (options?: { readonly timeout?: Duration.Duration }) =>
  Effect.gen(function* () {
    const script = yield* scriptedTopology
    const calls: Array<string> = []
    let connected: number | undefined
    let abandoned = 0
    const connection: {
      to: (
        writer: TopologyState.Writer
      ) => Effect.Effect<void, Connector.SessionError | TopologyState.Rejection>
    } = { to: () => Effect.void }
    const failover = yield* Failover.make({
      topology: script.topology,
      timeout: options?.timeout,
      connect: (writer) =>
        Effect.suspend(() => {
          calls.push(writer.host.host)
          return connection.to(writer)
        }).pipe(Effect.tap(() => Effect.sync(() => (connected = writer.epoch)))),
      connectedEpoch: () => connected,
      abandon: Effect.sync(() => void abandoned++)
    })
    const recover = (epoch: number, cause?: unknown) => failover.recover({ epoch, cause })
    return { ...script, failover, recover, calls, connection, abandoned: () => abandoned }
  })

/** Connected to `a` in epoch 1. */
const connectedToA = (options?: { readonly timeout?: Duration.Duration }) =>
  Effect.gen(function* () {
    const it = yield* setup(options)
    yield* it.elect("a")
    yield* it.recover(0)
    it.calls.length = 0
    return it
  })

describe("a flight", () => {
  it.scoped("reports the loss, waits for the writer, connects to it", () =>
    Effect.gen(function* () {
      const { calls, elect, recover, reports } = yield* connectedToA()
      const flight = yield* Effect.fork(recover(1))
      yield* TestClock.adjust("3 seconds")
      assert.deepStrictEqual([reports.at(-1), calls.length], [1, 0])
      yield* elect("b")
      const recovered = yield* Fiber.join(flight)
      assert.deepStrictEqual(
        [recovered.from?.host, recovered.writer.host.host, recovered.writer.epoch],
        ["a", "b", 2]
      )
      assert.deepStrictEqual(
        [Duration.toMillis(recovered.elapsed), recovered.attempts, calls],
        [3000, 1, ["b"]]
      )
    })
  )

  it.scoped("the first connect is a flight from nowhere", () =>
    Effect.gen(function* () {
      const { elect, recover } = yield* setup()
      yield* elect("a")
      const { from, writer } = yield* recover(0)
      assert.strictEqual(writer.epoch, 1)
      assert.isTrue(from === undefined || from.host === "a")
    })
  )

  it.scopedLive("ten thousand callers are one flight", () =>
    Effect.gen(function* () {
      const { calls, elect, recover } = yield* connectedToA()
      const all = yield* Effect.fork(
        Effect.forEach(Array.from({ length: 10_000 }), () => recover(1), {
          concurrency: "unbounded"
        })
      )
      yield* settle
      yield* elect("b")
      const recovered = yield* Fiber.join(all)
      assert.isTrue(recovered.every((_) => _.writer.host.host === "b"))
      assert.deepStrictEqual(calls, ["b"])
    })
  )

  it.scoped("a caller of a newer epoch joins the flight that is under way", () =>
    Effect.gen(function* () {
      const { calls, elect, recover } = yield* connectedToA()
      const first = yield* Effect.fork(recover(1))
      yield* settle
      const joiner = yield* Effect.fork(recover(2))
      yield* elect("b")
      assert.deepStrictEqual(yield* Fiber.join(first), yield* Fiber.join(joiner))
      assert.deepStrictEqual(calls, ["b"])
    })
  )

  it.scoped("a late report of an epoch that is over gets the answer at once", () =>
    Effect.gen(function* () {
      const { calls, elect, recover, reports } = yield* connectedToA()
      const flight = yield* Effect.fork(recover(1))
      yield* settle
      yield* elect("b")
      yield* Fiber.join(flight)
      const before = reports.length
      const late = yield* recover(1)
      assert.deepStrictEqual(
        [late.writer.host.host, Duration.toMillis(late.elapsed), late.attempts],
        ["b", 0, 0]
      )
      assert.deepStrictEqual([calls, reports.length], [["b"], before])
    })
  )

  it.scoped("the next outage is another flight", () =>
    Effect.gen(function* () {
      const { calls, elect, recover } = yield* connectedToA()
      for (const [epoch, name] of ["b", "a", "b"].entries()) {
        const flight = yield* Effect.fork(recover(epoch + 1))
        yield* settle
        yield* elect(name)
        assert.strictEqual((yield* Fiber.join(flight)).writer.epoch, epoch + 2)
      }
      assert.deepStrictEqual(calls, ["b", "a", "b"])
    })
  )

  it.scoped("a caller that is interrupted does not stop it", () =>
    Effect.gen(function* () {
      const { elect, recover } = yield* connectedToA()
      const first = yield* Effect.fork(recover(1))
      const second = yield* Effect.fork(recover(1))
      yield* settle
      yield* Fiber.interrupt(first)
      yield* elect("b")
      assert.strictEqual((yield* Fiber.join(second)).writer.host.host, "b")
    })
  )

  it.scoped("goes on when every caller is interrupted", () =>
    Effect.gen(function* () {
      const { calls, elect, recover } = yield* connectedToA()
      const only = yield* Effect.fork(recover(1))
      yield* settle
      yield* Fiber.interrupt(only)
      yield* elect("b")
      yield* settle
      assert.deepStrictEqual(calls, ["b"])
    })
  )
})

describe("the connection to the confirmed writer", () => {
  it.scoped("is tried again, with growing pauses, until the deadline", () =>
    Effect.gen(function* () {
      const { abandoned, calls, connection, elect, recover, standing } = yield* connectedToA({
        timeout: Duration.seconds(10)
      })
      connection.to = () => Effect.fail(sessionError())
      const flight = yield* Effect.fork(Effect.flip(recover(1, "lost")))
      yield* settle
      standing.writer = "b"
      yield* elect("b")
      yield* TestClock.adjust("200 millis")
      assert.isAbove(calls.length, 3)
      yield* TestClock.adjust("10 seconds")
      const error = yield* Fiber.join(flight)
      assert(error._tag === "FailoverFailed")
      assert.deepStrictEqual(
        [error.reason, error.outcome, Duration.toMillis(error.elapsed), error.cause],
        ["Timeout", "NotExecuted", 10_000, "lost"]
      )
      assert.strictEqual(error.attempts, calls.length)
      assert.isBelow(calls.length, 25)
      assert.strictEqual(abandoned(), 1)
    })
  )

  it.scoped("that is refused once is no failure", () =>
    Effect.gen(function* () {
      const { connection, elect, recover } = yield* connectedToA()
      let refusals = 0
      connection.to = () => (refusals++ === 0 ? Effect.fail(sessionError()) : Effect.void)
      const flight = yield* Effect.fork(recover(1))
      yield* settle
      yield* elect("b")
      yield* settle
      yield* elect("b")
      yield* TestClock.adjust("1 second")
      assert.strictEqual((yield* Fiber.join(flight)).attempts, 2)
    })
  )

  it.scoped("that hangs is bounded by the deadline", () =>
    Effect.gen(function* () {
      const { abandoned, connection, elect, recover } = yield* connectedToA({
        timeout: Duration.seconds(2)
      })
      connection.to = () => Effect.never
      const flight = yield* Effect.fork(Effect.flip(recover(1)))
      yield* settle
      yield* elect("b")
      yield* TestClock.adjust("2 seconds")
      assert.strictEqual((yield* Fiber.join(flight))._tag, "FailoverFailed")
      assert.strictEqual(abandoned(), 1)
    })
  )

  it.scoped("a rejection ends the flight at once", () =>
    Effect.gen(function* () {
      const { abandoned, connection, elect, failover, recover } = yield* connectedToA()
      connection.to = () => Effect.fail(rejection("b"))
      const flight = yield* Effect.fork(Effect.flip(recover(1)))
      yield* settle
      yield* elect("b")
      assert.strictEqual((yield* Fiber.join(flight))._tag, "ConnectionRejected")
      assert.strictEqual(failover.failureOf(1)?._tag, "ConnectionRejected")
      assert.strictEqual(abandoned(), 1)
    })
  )
})

describe("in vain", () => {
  it.scoped("without a writer before the deadline: FailoverFailed, with what was tried", () =>
    Effect.gen(function* () {
      const { abandoned, failover, recover } = yield* connectedToA({ timeout: Duration.seconds(5) })
      const all = yield* Effect.forEach([1, 2, 3], () => Effect.fork(Effect.flip(recover(1, "c"))))
      yield* TestClock.adjust("5 seconds")
      const errors = yield* Effect.forEach(all, Fiber.join)
      for (const error of errors) {
        assert(error._tag === "FailoverFailed")
        assert.deepStrictEqual(
          [error.reason, error.from?.host, error.attempts],
          ["Timeout", "a", 0]
        )
        assert.isNotEmpty(error.tried)
      }
      assert.strictEqual(failover.failureOf(1), errors[0])
      assert.isUndefined(failover.failureOf(2))
      assert.strictEqual(abandoned(), 1)
    })
  )

  it.scoped("the topology's rejection is everybody's, at once", () =>
    Effect.gen(function* () {
      const { end, recover } = yield* connectedToA()
      const flight = yield* Effect.fork(Effect.flip(recover(1)))
      yield* settle
      yield* end(rejection("a", "Database"))
      const error = yield* Fiber.join(flight)
      assert(error._tag === "ConnectionRejected")
      assert.strictEqual(error.reason, "Database")
    })
  )

  it.scoped("the next caller tries again and may succeed", () =>
    Effect.gen(function* () {
      const { elect, failover, recover } = yield* connectedToA({ timeout: Duration.seconds(1) })
      const failed = yield* Effect.fork(Effect.flip(recover(1)))
      yield* TestClock.adjust("1 second")
      yield* Fiber.join(failed)
      const again = yield* Effect.fork(recover(1))
      yield* settle
      yield* elect("b")
      assert.strictEqual((yield* Fiber.join(again)).writer.host.host, "b")
      assert.isUndefined(failover.failureOf(1))
    })
  )

  it.scoped("a closed topology ends it with Closed", () =>
    Effect.gen(function* () {
      const { end, recover } = yield* connectedToA()
      const flight = yield* Effect.fork(Effect.flip(recover(1)))
      yield* settle
      yield* end(new Errors.TopologyClosed())
      const error = yield* Fiber.join(flight)
      assert(error._tag === "FailoverFailed")
      assert.strictEqual(error.reason, "Closed")
    })
  )

  it.effect("the end of the scope ends whoever waits, and whoever comes after, with Closed", () =>
    Effect.gen(function* () {
      const scope = yield* Scope.make()
      const { recover } = yield* connectedToA().pipe(Scope.extend(scope))
      const waiting = yield* Effect.fork(Effect.flip(recover(1)))
      yield* settle
      yield* Scope.close(scope, Exit.void)
      for (const error of [yield* Fiber.join(waiting), yield* Effect.flip(recover(1))]) {
        assert(error._tag === "FailoverFailed")
        assert.deepStrictEqual([error.reason, error.outcome], ["Closed", "NotExecuted"])
      }
    })
  )
})

describe("the events", () => {
  it.scoped("tell the stages in order", () =>
    Effect.gen(function* () {
      const { elect, failover, recover } = yield* connectedToA()
      const flight = yield* Effect.fork(recover(1, "the cause"))
      yield* TestClock.adjust("2 seconds")
      yield* elect("b")
      yield* Fiber.join(flight)
      const events = Chunk.toReadonlyArray(
        yield* failover.events.pipe(Stream.take(6), Stream.runCollect)
      ).slice(3)
      assert.deepStrictEqual(
        events.map((_) => [_._tag, _.at]),
        [
          ["Noticed", 0],
          ["WriterConfirmed", 2000],
          ["Connected", 2000]
        ]
      )
      assert(events[0]?._tag === "Noticed")
      assert.deepStrictEqual([events[0].from?.host, events[0].cause], ["a", "the cause"])
    })
  )

  it.scoped("end with GaveUp when it was in vain", () =>
    Effect.gen(function* () {
      const { failover, recover } = yield* connectedToA({ timeout: Duration.seconds(1) })
      yield* Effect.fork(Effect.ignore(recover(1)))
      yield* TestClock.adjust("1 second")
      const events = yield* failover.events.pipe(Stream.take(5), Stream.runCollect)
      assert.deepStrictEqual(
        Chunk.toReadonlyArray(events).map((_) => _._tag),
        ["Noticed", "WriterConfirmed", "Connected", "Noticed", "GaveUp"]
      )
    })
  )
})

const failoverFailed = (outcome: Errors.Outcome) =>
  new Errors.FailoverFailed({
    reason: "Timeout",
    outcome,
    from: host("a"),
    tried: [],
    elapsed: Duration.zero,
    attempts: 0,
    cause: undefined
  })

const moved = {
  from: host("a"),
  to: host("b"),
  role: "writer",
  epoch: 2,
  elapsed: Duration.millis(120),
  attempts: 1,
  cause: undefined
} as const

const unknown = (outcome: "RolledBack" | "Unknown") =>
  new Errors.TransactionResolutionUnknown({ ...moved, outcome, sent: true })

const wrapped = (cause: unknown) => new SqlError.SqlError({ cause, message: "x" })

describe("outcomes", () => {
  it.effect("lifts each outcome out of the SqlError", () =>
    Effect.gen(function* () {
      for (const outcome of [
        failoverFailed("Unknown"),
        unknown("Unknown"),
        new Errors.FailoverSuccess({ ...moved, sent: true }),
        rejection("a")
      ]) {
        const lifted = yield* Effect.flip(Failover.outcomes(Effect.fail(wrapped(outcome))))
        assert.strictEqual(lifted, outcome)
      }
    })
  )

  it.effect("passes every other error and every success untouched", () =>
    Effect.gen(function* () {
      const others = [wrapped(new Error("syntax")), new Error("mine"), "text", undefined, null, 1]
      for (const error of others) {
        assert.strictEqual(yield* Effect.flip(Failover.outcomes(Effect.fail(error))), error)
      }
      assert.strictEqual(yield* Failover.outcomes(Effect.succeed(1)), 1)
    })
  )

  it.effect("keeps a defect a defect and an interrupt an interrupt", () =>
    Effect.gen(function* () {
      const died = yield* Effect.exit(Failover.outcomes(Effect.die("bug")))
      assert.deepStrictEqual(died, Exit.die("bug"))
      const interrupted = yield* Effect.exit(Failover.outcomes(Effect.interrupt))
      assert.isTrue(Exit.isInterrupted(interrupted))
    })
  )

  it("adds the tags to the type, and catchTag removes them", () => {
    const sql: Effect.Effect<number, SqlError.SqlError> = Effect.succeed(1)
    const lifted = sql.pipe(Failover.outcomes)
    expectTypeOf(lifted).toEqualTypeOf<
      Effect.Effect<
        number,
        | SqlError.SqlError
        | Errors.FailoverSuccess
        | Errors.FailoverFailed
        | Errors.TransactionResolutionUnknown
        | Errors.ConnectionRejected
      >
    >()
    const caught = lifted.pipe(
      Effect.catchTag("TransactionResolutionUnknown", (_) => Effect.succeed(_.outcome))
    )
    expectTypeOf(caught).toEqualTypeOf<
      Effect.Effect<
        number | "RolledBack" | "Unknown",
        | SqlError.SqlError
        | Errors.FailoverSuccess
        | Errors.FailoverFailed
        | Errors.ConnectionRejected
      >
    >()
  })

  it("is of use without SQL too", () => {
    const mine = Effect.fail("mine" as const).pipe(Failover.outcomes)
    expectTypeOf(mine).toEqualTypeOf<
      Effect.Effect<never, "mine" | Failover.OutcomeError | Errors.ConnectionRejected>
    >()
  })
})

describe("isSafeToRetry", () => {
  const table: ReadonlyArray<readonly [string, unknown, boolean]> = [
    ["FailoverFailed, not executed", failoverFailed("NotExecuted"), true],
    ["FailoverFailed, rolled back", failoverFailed("RolledBack"), true],
    ["FailoverFailed, unknown", failoverFailed("Unknown"), false],
    ["a transaction that was rolled back", unknown("RolledBack"), true],
    ["a transaction in doubt", unknown("Unknown"), false],
    ["a statement in doubt", new Errors.FailoverSuccess({ ...moved, sent: true }), false],
    ["a statement not sent", new Errors.FailoverSuccess({ ...moved, sent: false }), true],
    ["a rejection: safe, and in vain", rejection("a"), false],
    [
      "a wrong option: safe, and in vain",
      new Errors.ConfigurationError({ field: "x", problem: "y", hint: "z" }),
      false
    ],
    [
      "no free connection",
      new Errors.PoolTimeout({ host: host("a"), elapsed: Duration.zero, maxConnections: 1 }),
      true
    ],
    [
      "no answer in time",
      new Errors.StatementTimeout({ host: host("a"), timeout: Duration.zero, outcome: "Unknown" }),
      false
    ],
    [
      "no answer in time, in a transaction",
      new Errors.StatementTimeout({
        host: host("a"),
        timeout: Duration.zero,
        outcome: "RolledBack"
      }),
      true
    ],
    ["the server's own error", new Error("syntax"), false],
    ["no error at all", undefined, false],
    ["an outcome of somebody else's", { outcome: "Perhaps" }, false]
  ]
  for (const [name, error, expected] of table) {
    it(`${name}: ${expected}, also inside a SqlError`, () => {
      assert.strictEqual(Failover.isSafeToRetry(error), expected)
      assert.strictEqual(Failover.isSafeToRetry(wrapped(error)), expected)
    })
  }

  it.effect("drives Effect.retry", () =>
    Effect.gen(function* () {
      let runs = 0
      const work = Effect.suspend(() =>
        ++runs < 3 ? Effect.fail(wrapped(unknown("RolledBack"))) : Effect.succeed(runs)
      )
      assert.strictEqual(yield* Effect.retry(work, { while: Failover.isSafeToRetry }), 3)
    }).pipe(evenly)
  )
})
