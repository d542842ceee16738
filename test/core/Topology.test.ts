import { assert, describe, it } from "@effect/vitest"
import { Chunk, Duration, Effect, Exit, Fiber, Scheduler, Scope, Stream, TestClock } from "effect"
import { Topology } from "effect-failover"
import { evenly, host, rejection, scriptedSource, settle } from "./fakes.js"

const make = (
  script: ReturnType<typeof scriptedSource>,
  seeds: ReadonlyArray<string>,
  options?: Partial<Topology.Options>
) => Topology.make({ clusterId: "t", seeds: seeds.map(host), source: script.source, ...options })

const wait = (topology: Topology.Topology) => topology.awaitWriter({ timeout: "1 minute" })

/** Two hosts in calm, `a` the writer; short periods, so that little virtual time shows much. */
const calmPair = Effect.gen(function* () {
  const script = scriptedSource("a", "b")
  yield* script.promote("a", 1)
  const topology = yield* make(script, ["a", "b"])
  const writer = yield* wait(topology)
  assert.strictEqual(writer.host.host, "a")
  return { script, topology, writer }
})

const phase = (topology: Topology.Topology) => topology.unsafeCurrent().phase._tag

/** Puts every fiber aside once, after so many operations. */
const putAside = (operations: number): Scheduler.Scheduler => {
  const wasAside = new WeakSet<object>()
  const usual = Scheduler.defaultScheduler
  return {
    scheduleTask: (task, priority) => usual.scheduleTask(task, priority),
    shouldYield: (fiber) => {
      if (wasAside.has(fiber) || fiber.currentOpCount < operations) return usual.shouldYield(fiber)
      wasAside.add(fiber)
      return 0
    }
  }
}

describe("the first need", () => {
  it.scoped("nothing is asked before somebody needs a writer", () =>
    Effect.gen(function* () {
      const script = scriptedSource("a")
      const topology = yield* make(script, ["a"])
      yield* TestClock.adjust("1 hour")
      assert.strictEqual(script.get("a").counts.connects, 0)
      assert.strictEqual(phase(topology), "Idle")
    })
  )

  it.scoped("a refresh and a report of a loss are no need", () =>
    Effect.gen(function* () {
      const script = scriptedSource("a")
      const topology = yield* make(script, ["a"])
      yield* topology.refresh
      yield* topology.reportLost(0)
      yield* TestClock.adjust("1 hour")
      assert.strictEqual(script.get("a").counts.connects, 0)
    })
  )

  it.scoped("one need asks every seed once and finds the writer", () =>
    Effect.gen(function* () {
      const { script, topology, writer } = yield* calmPair
      assert.strictEqual(writer.epoch, 1)
      assert.strictEqual(phase(topology), "Calm")
      assert.deepStrictEqual([script.asks("a"), script.asks("b")], [1, 1])
    })
  )

  // No time passes here, and TestClock keeps a book of all fibers.
  it.scopedLive("ten thousand waiters are one search", () =>
    Effect.gen(function* () {
      const script = scriptedSource("a", "b")
      yield* script.promote("a", 1)
      const topology = yield* make(script, ["a", "b"])
      const writers = yield* Effect.forEach(
        Array.from({ length: 10_000 }),
        () => topology.settled,
        { concurrency: "unbounded" }
      )
      assert.isTrue(writers.every((_) => _.host.host === "a" && _.epoch === 1))
      assert.deepStrictEqual([script.asks("a"), script.asks("b")], [1, 1])
    })
  )

  for (let operations = 1; operations <= 24; operations++) {
    it.scoped(`is heard although the watcher was put aside (after ${operations} operations)`, () =>
      Effect.forEach([0, 1, 2, 3, 4, 5], (turns) =>
        Effect.gen(function* () {
          const script = scriptedSource("a", "b")
          yield* script.promote("a", 1)
          const topology = yield* make(script, ["a", "b"]).pipe(
            Effect.withScheduler(putAside(operations))
          )
          yield* Effect.repeatN(Effect.yieldNow(), turns)
          const writer = yield* Effect.fork(topology.settled)
          yield* settle
          assert.isNotNull(writer.unsafePoll(), `needed after ${turns} turns`)
        })
      )
    )
  }

  it.scoped("who asks in calm is answered at once and asks nobody", () =>
    Effect.gen(function* () {
      const { script, topology } = yield* calmPair
      assert.strictEqual((yield* topology.settled).host.host, "a")
      assert.strictEqual(script.asks("a"), 1)
    })
  )

  it.scoped("members that are discovered are searched too", () =>
    Effect.gen(function* () {
      const script = scriptedSource("a", "b")
      yield* script.promote("b", 1)
      yield* script.set("a", {
        answer: { role: "reader", members: [{ host: host("b"), role: "writer" }] }
      })
      const topology = yield* make(script, ["a"])
      assert.strictEqual((yield* wait(topology)).host.host, "b")
    })
  )
})

describe("the two rates", () => {
  it.scoped("in calm the writer is asked every 30 s and nobody else", () =>
    Effect.gen(function* () {
      const { script } = yield* calmPair
      yield* TestClock.adjust("29 seconds")
      assert.strictEqual(script.asks("a"), 1)
      yield* TestClock.adjust("2 seconds")
      assert.strictEqual(script.asks("a"), 2)
      yield* TestClock.adjust("9 minutes")
      assert.strictEqual(script.asks("a"), 20)
      assert.strictEqual(script.asks("b"), 1)
    }).pipe(evenly)
  )

  it.scoped("in a search every host is asked every 100 ms", () =>
    Effect.gen(function* () {
      const script = scriptedSource("a", "b")
      const topology = yield* make(script, ["a", "b"])
      yield* Effect.fork(wait(topology))
      yield* TestClock.adjust("1050 millis")
      assert.deepStrictEqual([script.asks("a"), script.asks("b")], [11, 11])
      assert.strictEqual(phase(topology), "Searching")
    }).pipe(evenly)
  )

  it.scoped(
    "after a failover the writer is asked every 100 ms for the period, then every 30 s",
    () =>
      Effect.gen(function* () {
        const script = scriptedSource("a", "b")
        yield* script.promote("a", 1)
        const topology = yield* make(script, ["a", "b"], { highRatePeriod: Duration.seconds(3) })
        yield* wait(topology)
        yield* script.promote("b", 2)
        yield* topology.reportLost(1)
        assert.strictEqual((yield* wait(topology)).host.host, "b")
        const before = script.asks("b")
        yield* TestClock.adjust("2950 millis")
        assert.strictEqual(script.asks("b") - before, 29)
        yield* TestClock.adjust("100 millis")
        yield* TestClock.adjust("29 seconds")
        assert.strictEqual(script.asks("b") - before, 30)
        yield* TestClock.adjust("2 seconds")
        assert.strictEqual(script.asks("b") - before, 31)
        assert.strictEqual(script.asks("a"), 2)
      }).pipe(evenly)
  )

  it("the defaults are 30 s, 100 ms, 5 s", () => {
    assert.strictEqual(Duration.toMillis(Topology.DEFAULT_REFRESH_RATE), 30_000)
    assert.strictEqual(Duration.toMillis(Topology.DEFAULT_HIGH_REFRESH_RATE), 100)
    assert.strictEqual(Duration.toMillis(Topology.DEFAULT_PROBE_TIMEOUT), 5_000)
  })

  it.scoped("a refresh asks the writer now", () =>
    Effect.gen(function* () {
      const { script, topology } = yield* calmPair
      yield* topology.refresh
      yield* settle
      assert.strictEqual(script.asks("a"), 2)
      assert.strictEqual(script.get("a").counts.connects, 1)
    })
  )

  it.scoped("many refreshes before the answer are one question", () =>
    Effect.gen(function* () {
      const { script, topology } = yield* calmPair
      yield* Effect.replicateEffect(topology.refresh, 1000, { discard: true })
      yield* settle
      assert.isAtMost(script.asks("a"), 3)
    })
  )
})

describe("the lines", () => {
  it.scoped("one in calm: the one to the writer, handed over by the search", () =>
    Effect.gen(function* () {
      const { script } = yield* calmPair
      yield* settle
      assert.strictEqual(script.get("a").counts.open, 1)
      assert.strictEqual(script.openLines(), 1)
      yield* TestClock.adjust("5 minutes")
      assert.strictEqual(script.get("a").counts.connects, 1)
    })
  )

  it.scoped("one per host in a search", () =>
    Effect.gen(function* () {
      const script = scriptedSource("a", "b", "c")
      const topology = yield* make(script, ["a", "b", "c"])
      yield* Effect.fork(wait(topology))
      yield* TestClock.adjust("1 second")
      assert.strictEqual(script.openLines(), 3)
      assert.deepStrictEqual(
        ["a", "b", "c"].map((_) => script.get(_).counts.connects),
        [1, 1, 1]
      )
    })
  )

  it.scoped("a line that breaks in calm is noticed at once and opened anew", () =>
    Effect.gen(function* () {
      const { script, topology } = yield* calmPair
      yield* script.get("a").cut
      yield* settle
      assert.strictEqual(script.get("a").counts.connects, 2)
      assert.strictEqual(script.openLines(), 1)
      assert.strictEqual(phase(topology), "Calm")
      assert.strictEqual(topology.unsafeCurrent().epoch, 1)
    })
  )

  it.scoped("a search begins only when the new line fails too", () =>
    Effect.gen(function* () {
      const { script, topology } = yield* calmPair
      yield* script.set("a", { state: "down" })
      const connects = script.get("a").counts.connects
      yield* script.get("a").cut
      yield* settle
      assert.isAtLeast(script.get("a").counts.connects, connects + 1)
      assert.strictEqual(phase(topology), "Searching")
    })
  )

  it.scoped("a host that is down is tried again at the high rate", () =>
    Effect.gen(function* () {
      const script = scriptedSource("a")
      yield* script.set("a", { state: "down" })
      const topology = yield* make(script, ["a"])
      const waiting = yield* Effect.fork(wait(topology))
      yield* TestClock.adjust("1050 millis")
      assert.strictEqual(script.get("a").counts.connects, 11)
      yield* script.set("a", { state: "up", answer: { role: "writer", serverEpoch: 1n } })
      yield* TestClock.adjust("100 millis")
      assert.strictEqual((yield* Fiber.join(waiting)).host.host, "a")
    }).pipe(evenly)
  )

  it.scoped("a line that breaks in a search is opened anew", () =>
    Effect.gen(function* () {
      const script = scriptedSource("a")
      const topology = yield* make(script, ["a"])
      yield* Effect.fork(wait(topology))
      yield* TestClock.adjust("500 millis")
      yield* script.get("a").cut
      yield* TestClock.adjust("500 millis")
      assert.strictEqual(script.get("a").counts.connects, 2)
      assert.strictEqual(script.openLines(), 1)
    })
  )

  it.scoped("failovers one after the other leak no line", () =>
    Effect.gen(function* () {
      const { script, topology } = yield* calmPair
      for (let epoch = 1; epoch < 20; epoch++) {
        yield* script.promote(epoch % 2 === 0 ? "a" : "b", epoch + 1)
        yield* topology.reportLost(topology.unsafeCurrent().epoch)
        yield* topology.settled
        yield* settle
        assert.strictEqual(script.openLines(), 1, `after epoch ${epoch}`)
      }
      assert.strictEqual(topology.unsafeCurrent().epoch, 20)
    })
  )
})

describe("a failover", () => {
  it.scoped("a report of the present epoch starts a search, a second one joins it", () =>
    Effect.gen(function* () {
      const { script, topology } = yield* calmPair
      yield* script.set("a", { state: "down" })
      yield* topology.reportLost(1)
      yield* topology.reportLost(1)
      yield* script.promote("b", 2)
      const writer = yield* wait(topology)
      assert.deepStrictEqual([writer.host.host, writer.epoch], ["b", 2])
      yield* topology.reportLost(1)
      assert.strictEqual(phase(topology), "Calm")
    })
  )

  it.scoped("who waits gets the writer of the newer epoch, not the lost one", () =>
    Effect.gen(function* () {
      const { script, topology } = yield* calmPair
      yield* script.set("a", { state: "down" })
      yield* topology.reportLost(1)
      const waiting = yield* Effect.fork(wait(topology))
      yield* TestClock.adjust("2 seconds")
      assert.isNull(
        yield* Fiber.poll(waiting).pipe(Effect.map((_) => (_._tag === "None" ? null : _)))
      )
      yield* script.promote("b", 2)
      yield* TestClock.adjust("200 millis")
      assert.strictEqual((yield* Fiber.join(waiting)).epoch, 2)
    })
  )

  it.scoped("a writer that turned reader is found at its next question", () =>
    Effect.gen(function* () {
      const { script, topology } = yield* calmPair
      yield* script.promote("b", 2)
      yield* topology.refresh
      yield* settle
      assert.strictEqual(topology.unsafeCurrent().writer?.host.host, "b")
      assert.strictEqual(topology.unsafeCurrent().epoch, 2)
    })
  )

  it.scoped("a writer that hangs is given up after two probe timeouts", () =>
    Effect.gen(function* () {
      const { script, topology } = yield* calmPair
      yield* script.set("a", { state: "deaf" })
      yield* topology.refresh
      yield* TestClock.adjust("9 seconds")
      assert.strictEqual(phase(topology), "Calm")
      yield* TestClock.adjust("2 seconds")
      assert.strictEqual(phase(topology), "Searching")
      assert.match(
        topology.unsafeCurrent().hosts[0]?.lastError ?? "",
        /no answer to the topology query within 5000 ms/
      )
    })
  )

  it.scoped("a host that never takes the line is bounded by the probe timeout", () =>
    Effect.gen(function* () {
      const script = scriptedSource("a", "b")
      yield* script.promote("b", 1)
      yield* script.set("a", { state: "hung" })
      const topology = yield* make(script, ["a", "b"], { probeTimeout: Duration.millis(500) })
      const waiting = yield* Effect.fork(wait(topology))
      yield* TestClock.adjust("501 millis")
      assert.strictEqual((yield* Fiber.join(waiting)).host.host, "b")
      assert.match(topology.unsafeCurrent().hosts[0]?.lastError ?? "", /no answer to connect/)
    })
  )

  it.scoped("a resumed old writer does not come back", () =>
    Effect.gen(function* () {
      const { script, topology } = yield* calmPair
      yield* script.promote("b", 2)
      yield* script.set("a", { answer: { role: "writer", serverEpoch: 1n, incarnation: "a 1" } })
      yield* topology.reportLost(1)
      const writer = yield* wait(topology)
      assert.deepStrictEqual([writer.host.host, writer.epoch], ["b", 2])
    })
  )
})

describe("giving up", () => {
  it.scoped("awaitWriter fails with what was tried when its time is over", () =>
    Effect.gen(function* () {
      const script = scriptedSource("a", "b")
      yield* script.set("a", { state: "down" })
      const topology = yield* make(script, ["a", "b"])
      const waiting = yield* Effect.fork(Effect.flip(topology.awaitWriter({ timeout: "1 second" })))
      yield* TestClock.adjust("1 second")
      const error = yield* Fiber.join(waiting)
      assert(error._tag === "FailoverFailed")
      assert.deepStrictEqual(
        [error.reason, error.outcome, Duration.toMillis(error.elapsed), error.from],
        ["Timeout", "NotExecuted", 1000, undefined]
      )
      assert.deepStrictEqual(
        error.tried.map((_) => [_.host.host, _.lastError]),
        [
          ["a", "ECONNREFUSED"],
          ["b", "answers as reader"]
        ]
      )
      assert.isAtLeast(error.tried[0]?.attempts ?? 0, 9)
    })
  )

  it.scoped("the end of one waiter's time ends no search", () =>
    Effect.gen(function* () {
      const script = scriptedSource("a")
      const topology = yield* make(script, ["a"])
      yield* Effect.fork(topology.awaitWriter({ timeout: "1 second" }))
      const patient = yield* Effect.fork(wait(topology))
      yield* TestClock.adjust("2 seconds")
      yield* script.promote("a", 1)
      yield* TestClock.adjust("200 millis")
      assert.strictEqual((yield* Fiber.join(patient)).host.host, "a")
    })
  )

  it.scoped("an interrupted waiter ends no search", () =>
    Effect.gen(function* () {
      const script = scriptedSource("a")
      const topology = yield* make(script, ["a"])
      const first = yield* Effect.fork(wait(topology))
      const second = yield* Effect.fork(wait(topology))
      yield* settle
      yield* Fiber.interrupt(first)
      yield* script.promote("a", 1)
      yield* TestClock.adjust("200 millis")
      assert.strictEqual((yield* Fiber.join(second)).host.host, "a")
    })
  )

  it.scoped("a rejection fails whoever waits, and the next need searches again", () =>
    Effect.gen(function* () {
      const script = scriptedSource("a")
      yield* script.set("a", { state: rejection("a") })
      const topology = yield* make(script, ["a"])
      assert.strictEqual((yield* Effect.flip(wait(topology)))._tag, "ConnectionRejected")
      assert.strictEqual(script.openLines(), 0)
      yield* TestClock.adjust("1 minute")
      assert.strictEqual(script.get("a").counts.connects, 1)
      yield* script.set("a", { state: "up" })
      yield* script.promote("a", 1)
      assert.strictEqual((yield* wait(topology)).host.host, "a")
    })
  )

  it.effect("the end of the scope ends whoever waits with Closed, and every line", () =>
    Effect.gen(function* () {
      const script = scriptedSource("a", "b")
      yield* script.set("b", { state: "hung" })
      const scope = yield* Scope.make()
      const topology = yield* make(script, ["a", "b"]).pipe(Scope.extend(scope))
      const waiting = yield* Effect.fork(Effect.flip(wait(topology)))
      yield* TestClock.adjust("1 second")
      yield* Scope.close(scope, Exit.void)
      const error = yield* Fiber.join(waiting)
      assert(error._tag === "FailoverFailed")
      assert.strictEqual(error.reason, "Closed")
      assert.strictEqual(script.openLines(), 0)
    })
  )

  it.effect("after the end everybody is told so at once, and nobody is asked", () =>
    Effect.gen(function* () {
      const script = scriptedSource("a")
      yield* script.promote("a", 1)
      const scope = yield* Scope.make()
      const topology = yield* make(script, ["a"]).pipe(Scope.extend(scope))
      yield* wait(topology)
      yield* Scope.close(scope, Exit.void)
      assert.strictEqual(script.openLines(), 0)
      assert.strictEqual((yield* Effect.flip(topology.settled))._tag, "TopologyClosed")
      yield* topology.reportLost(1)
      yield* TestClock.adjust("1 minute")
      assert.strictEqual((yield* Effect.flip(topology.settled))._tag, "TopologyClosed")
      assert.strictEqual(script.asks("a"), 1)
    })
  )

  it.effect("a scope that closes while lines are being opened leaves none", () =>
    Effect.gen(function* () {
      for (let moment = 0; moment < 40; moment++) {
        const script = scriptedSource("a", "b")
        const scope = yield* Scope.make()
        const topology = yield* make(script, ["a", "b"]).pipe(Scope.extend(scope))
        yield* Effect.fork(wait(topology))
        yield* Effect.yieldNow().pipe(Effect.repeatN(moment))
        yield* Scope.close(scope, Exit.void)
        assert.strictEqual(script.openLines(), 0, `closed after ${moment} steps`)
      }
    })
  )
})

describe("the changes", () => {
  it.scoped("begin with what is known and follow in order", () =>
    Effect.gen(function* () {
      const script = scriptedSource("a", "b")
      yield* script.promote("a", 1)
      const topology = yield* make(script, ["a", "b"])
      const seen = yield* topology.changes.pipe(
        Stream.map((_) => `${_.phase._tag} ${_.epoch}`),
        Stream.changes,
        Stream.take(5),
        Stream.runCollect,
        Effect.fork
      )
      yield* settle
      yield* wait(topology)
      yield* script.promote("b", 2)
      yield* topology.reportLost(1)
      yield* wait(topology)
      assert.deepStrictEqual(Chunk.toReadonlyArray(yield* Fiber.join(seen)), [
        "Idle 0",
        "Searching 0",
        "Calm 1",
        "Searching 1",
        "Calm 2"
      ])
    })
  )

  it.scoped("a later subscriber begins with the present", () =>
    Effect.gen(function* () {
      const { topology } = yield* calmPair
      const first = yield* Stream.runHead(topology.changes)
      assert.strictEqual(first._tag === "Some" ? first.value.phase._tag : "", "Calm")
      assert.deepStrictEqual(yield* topology.current, topology.unsafeCurrent())
    })
  )
})
