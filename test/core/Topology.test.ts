import { assert, describe, it } from "@effect/vitest"
import {
  Chunk,
  Duration,
  Effect,
  Exit,
  Fiber,
  Logger,
  LogLevel,
  Random,
  Scheduler,
  Scope,
  Stream,
  TestClock
} from "effect"
import { Topology } from "effect-failover"
import type { Answer } from "./fakes.js"
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

/** The phases that follow, each once per change. */
const phasesOf = (topology: Topology.Topology) =>
  Effect.gen(function* () {
    const seen: Array<string> = []
    yield* topology.changes.pipe(
      Stream.map((_) => _.phase._tag),
      Stream.changes,
      Stream.runForEach((tag) => Effect.sync(() => seen.push(tag))),
      Effect.forkScoped
    )
    yield* settle
    return seen
  })

const members = (writer: string, ...readers: ReadonlyArray<string>) => [
  { host: host(writer), role: "writer" as const },
  ...readers.map((name) => ({ host: host(name), role: "reader" as const }))
]

/** Two hosts in calm, `a` the writer, and waits are parked on both. */
const listeningPair = (options?: Partial<Topology.Options>) =>
  Effect.gen(function* () {
    const script = scriptedSource("a", "b", "c")
    yield* script.promote("a", 1)
    const topology = yield* make(script, ["a", "b"], { push: "always", ...options })
    yield* wait(topology)
    yield* settle
    return { script, topology, phases: yield* phasesOf(topology) }
  })

const writerOf = (topology: Topology.Topology) => topology.unsafeCurrent().writer?.host.host

describe("waits that are always parked", () => {
  it.scoped("one line to each host in calm", () =>
    Effect.gen(function* () {
      const { script } = yield* listeningPair()
      assert.deepStrictEqual([script.get("a").counts.open, script.get("b").counts.open], [1, 1])
    })
  )

  it.scoped("a switchover with a newer epoch is heard at once, without a search", () =>
    Effect.gen(function* () {
      const { phases, script, topology } = yield* listeningPair()
      yield* script.promote("b", 2)
      yield* settle
      assert.deepStrictEqual([writerOf(topology), topology.unsafeCurrent().epoch], ["b", 2])
      assert.deepStrictEqual(phases, ["Calm"])
    })
  )

  it.scoped("without epochs it is heard at once, by one search", () =>
    Effect.gen(function* () {
      const { phases, script, topology } = yield* listeningPair()
      yield* script.set("a", { answer: { role: "reader" } })
      yield* script.set("b", { answer: { role: "writer", incarnation: "b 1" } })
      yield* script.wake("b")
      yield* settle
      assert.deepStrictEqual([writerOf(topology), topology.unsafeCurrent().epoch], ["b", 2])
      assert.deepStrictEqual(phases, ["Calm", "Searching", "Calm"])
    })
  )

  const oldClaims: ReadonlyArray<readonly [string, Answer, Answer]> = [
    [
      "of an epoch that has ended",
      { role: "writer", serverEpoch: 1n, incarnation: "a 1" },
      { role: "writer", serverEpoch: 2n, incarnation: "b 1" }
    ],
    [
      "without an epoch",
      { role: "writer", incarnation: "a 1" },
      { role: "writer", incarnation: "b 1" }
    ],
    [
      "with an old list",
      { role: "writer", incarnation: "a 1", asOf: 100_000 },
      { role: "writer", incarnation: "b 1", asOf: 110_000 }
    ]
  ]
  for (const [what, old, fresh] of oldClaims) {
    it.scoped(`an old writer that goes on claiming ${what} does not make the client flap`, () =>
      Effect.gen(function* () {
        const script = scriptedSource("a", "b")
        yield* script.set("a", { answer: old })
        const topology = yield* make(script, ["a", "b"], {
          push: "always",
          highRatePeriod: Duration.zero
        })
        yield* wait(topology)
        const phases = yield* phasesOf(topology)
        yield* script.set("b", { answer: fresh })
        yield* script.wake("b")
        // A client that flaps without end would never let the clock move.
        yield* settle
        assert.isAtMost(phases.filter((_) => _ === "Searching").length, 2)
        yield* TestClock.adjust("1 minute")
        assert.deepStrictEqual([writerOf(topology), topology.unsafeCurrent().epoch], ["b", 2])
        assert.isAtMost(phases.filter((_) => _ === "Searching").length, 1)
      })
    )
  }

  it.scoped("a claim that was refused is heard again after its host was a reader", () =>
    Effect.gen(function* () {
      const { phases, script, topology } = yield* listeningPair()
      const claim: Answer = { role: "writer", incarnation: "b 1" }
      yield* script.set("a", { answer: { role: "writer", incarnation: "a 1" } })
      for (const answer of [claim, { role: "reader" } satisfies Answer]) {
        yield* script.set("b", { answer })
        yield* script.wake("b")
        yield* settle
      }
      const before = phases.length
      yield* script.set("a", { answer: { role: "reader" } })
      yield* script.set("b", { answer: claim })
      yield* script.wake("b")
      yield* TestClock.adjust("1 second")
      assert.strictEqual(writerOf(topology), "b")
      assert.isAtMost(phases.slice(before).filter((_) => _ === "Searching").length, 1)
    })
  )

  it.scoped("a host that appears is listened to", () =>
    Effect.gen(function* () {
      const { script, topology } = yield* listeningPair()
      yield* script.set("a", {
        answer: { ...script.get("a").answer, members: members("a", "b", "c") }
      })
      yield* topology.refresh
      yield* settle
      assert.strictEqual(script.get("c").counts.open, 1)
      yield* script.promote("c", 2)
      yield* settle
      assert.strictEqual(writerOf(topology), "c")
    })
  )

  it.scoped("a host that left is listened to no more", () =>
    Effect.gen(function* () {
      const { script, topology } = yield* listeningPair()
      yield* script.set("a", { answer: { ...script.get("a").answer, members: members("a") } })
      yield* topology.refresh
      yield* settle
      const asked = script.asks("b")
      yield* TestClock.adjust("2 minutes")
      assert.strictEqual(script.get("b").counts.open, 0)
      assert.strictEqual(script.asks("b"), asked)
      assert.deepStrictEqual(
        topology.unsafeCurrent().hosts.map((_) => _.host.host),
        ["a"]
      )
    })
  )

  it.scoped("a wait lives for five seconds at most, then its host is asked", () =>
    Effect.gen(function* () {
      const { script } = yield* listeningPair()
      const before = script.asks("b")
      yield* TestClock.adjust("20100 millis")
      assert.isAtMost(Math.max(...script.get("b").pauses), 5000)
      assert.strictEqual(script.asks("b") - before, 4)
    }).pipe(evenly)
  )

  it.scoped("a listener whose line breaks listens again at the next turn", () =>
    Effect.gen(function* () {
      const { script, topology } = yield* listeningPair()
      const { counts } = script.get("b")
      const connects = counts.connects
      yield* script.get("b").cut
      yield* TestClock.adjust("35 seconds")
      assert.deepStrictEqual([counts.open, counts.connects], [1, connects + 1])
      assert.strictEqual(phase(topology), "Calm")
    }).pipe(evenly)
  )

  it.scoped("a host that does not take the line holds up neither the search nor the end", () =>
    Effect.gen(function* () {
      const script = scriptedSource("a", "b", "c")
      yield* script.promote("a", 1)
      yield* script.set("c", { state: "down" })
      const scope = yield* Scope.make()
      const topology = yield* make(script, ["a", "b", "c"], { push: "always" }).pipe(
        Scope.extend(scope)
      )
      yield* wait(topology)
      yield* script.set("c", { state: "hung" })
      yield* TestClock.adjust("31 seconds")
      yield* script.promote("b", 2)
      yield* topology.reportLost(1)
      yield* settle
      assert.strictEqual(writerOf(topology), "b")
      assert.strictEqual(phase(topology), "Calm")
      const closing = yield* Effect.fork(Scope.close(scope, Exit.void))
      yield* settle
      assert.isNotNull(closing.unsafePoll())
      assert.strictEqual(script.openLines(), 0)
    })
  )

  it.scoped("the writer that was heard in calm is the one that is watched", () =>
    Effect.gen(function* () {
      const { script, topology } = yield* listeningPair()
      yield* script.promote("b", 2)
      yield* settle
      const asked = script.asks("b")
      yield* topology.refresh
      yield* settle
      assert.isAbove(script.asks("b"), asked)
      yield* script.set("b", { state: "down" })
      yield* script.get("b").cut
      yield* TestClock.adjust("1 second")
      assert.strictEqual(phase(topology), "Searching")
    })
  )

  it.scoped("the writer that was heard in calm is no longer listened to, its forerunner is", () =>
    Effect.gen(function* () {
      const { script, topology } = yield* listeningPair()
      yield* script.promote("b", 2)
      yield* TestClock.adjust("1 minute")
      assert.deepStrictEqual([script.get("a").counts.open, script.get("b").counts.open], [1, 1])
      yield* script.promote("a", 3)
      yield* settle
      assert.deepStrictEqual([writerOf(topology), topology.unsafeCurrent().epoch], ["a", 3])
    })
  )

  it.scoped("listeners end with the phase and leave no line", () =>
    Effect.gen(function* () {
      const { script, topology } = yield* listeningPair()
      for (let epoch = 1; epoch < 10; epoch++) {
        yield* script.promote(epoch % 2 === 0 ? "a" : "b", epoch + 1)
        yield* topology.reportLost(topology.unsafeCurrent().epoch)
        yield* topology.settled
        yield* settle
        assert.strictEqual(script.openLines(), 2, `after epoch ${epoch}`)
      }
    })
  )

  it.effect("a scope that closes while listeners begin leaves no line", () =>
    Effect.gen(function* () {
      for (let moment = 0; moment < 40; moment++) {
        const script = scriptedSource("a", "b")
        yield* script.promote("a", 1)
        const scope = yield* Scope.make()
        const topology = yield* make(script, ["a", "b"], { push: "always" }).pipe(
          Scope.extend(scope)
        )
        yield* wait(topology)
        yield* Effect.yieldNow().pipe(Effect.repeatN(moment))
        yield* Scope.close(scope, Exit.void)
        assert.strictEqual(script.openLines(), 0, `closed after ${moment} steps`)
      }
    })
  )
})

describe("waits that are never parked", () => {
  it.scoped("the source is not asked to wait, in a search and in calm", () =>
    Effect.gen(function* () {
      const script = scriptedSource("a", "b")
      const topology = yield* make(script, ["a", "b"], { push: "never" })
      const waiting = yield* Effect.fork(wait(topology))
      yield* TestClock.adjust("1050 millis")
      assert.deepStrictEqual([script.asks("a"), script.asks("b")], [11, 11])
      yield* script.promote("a", 1)
      yield* TestClock.adjust("1 minute")
      yield* Fiber.join(waiting)
      assert.deepStrictEqual([script.get("a").pauses, script.get("b").pauses], [[], []])
    }).pipe(evenly)
  )
})

describe("a wait that is parked in a search", () => {
  it.scoped("ends with the promotion, before the next question is due", () =>
    Effect.gen(function* () {
      const script = scriptedSource("a", "b")
      const topology = yield* make(script, ["a", "b"])
      const waiting = yield* Effect.fork(wait(topology))
      yield* TestClock.adjust("50 millis")
      yield* script.promote("b", 1)
      yield* settle
      assert.strictEqual((yield* Fiber.join(waiting)).host.host, "b")
    }).pipe(evenly)
  )

  it.scoped("is given up with a host that falls silent, which is asked on a new line", () =>
    Effect.gen(function* () {
      const script = scriptedSource("a")
      const topology = yield* make(script, ["a"], { probeTimeout: Duration.seconds(2) })
      const waiting = yield* Effect.fork(wait(topology))
      yield* TestClock.adjust("50 millis")
      yield* script.set("a", { state: "deaf" })
      yield* TestClock.adjust("2040 millis")
      assert.deepStrictEqual([script.get("a").counts.connects, script.openLines()], [1, 1])
      yield* TestClock.adjust("20 millis")
      assert.match(
        topology.unsafeCurrent().hosts[0]?.lastError ?? "",
        /no answer to the parked wait within 2100 ms/
      )
      yield* script.promote("a", 1)
      yield* script.set("a", { state: "up" })
      yield* TestClock.adjust("200 millis")
      assert.strictEqual((yield* Fiber.join(waiting)).host.host, "a")
      assert.deepStrictEqual([script.get("a").counts.connects, script.openLines()], [2, 1])
    }).pipe(evenly)
  )
})

describe("ignoreRefresh", () => {
  const patient = Effect.gen(function* () {
    const script = scriptedSource("a", "b")
    yield* script.promote("a", 1)
    const topology = yield* make(script, ["a", "b"], { ignoreRefresh: Duration.seconds(10) })
    yield* wait(topology)
    return { script, topology }
  })

  it.scoped("a refresh soon after a writer was confirmed asks nobody", () =>
    Effect.gen(function* () {
      const { script, topology } = yield* patient
      yield* TestClock.adjust("9999 millis")
      yield* topology.refresh
      yield* settle
      assert.strictEqual(script.asks("a"), 1)
    })
  )

  it.scoped("a later one asks the writer", () =>
    Effect.gen(function* () {
      const { script, topology } = yield* patient
      yield* TestClock.adjust("10 seconds")
      yield* topology.refresh
      yield* settle
      assert.strictEqual(script.asks("a"), 2)
    })
  )

  it.scoped("the time begins again with the next writer", () =>
    Effect.gen(function* () {
      const { script, topology } = yield* patient
      yield* TestClock.adjust("20 seconds")
      yield* script.promote("b", 2)
      yield* topology.reportLost(1)
      yield* wait(topology)
      const asked = script.asks("b")
      yield* topology.refresh
      yield* settle
      assert.strictEqual(script.asks("b"), asked)
    })
  )

  it.scoped("a report of a loss searches all the same", () =>
    Effect.gen(function* () {
      const { script, topology } = yield* patient
      yield* script.promote("b", 2)
      yield* topology.refresh
      yield* topology.reportLost(1)
      assert.strictEqual((yield* wait(topology)).host.host, "b")
    })
  )

  it.scoped("a refresh during the search asks nobody after it", () =>
    Effect.gen(function* () {
      const { script, topology } = yield* patient
      yield* TestClock.adjust("20 seconds")
      yield* script.set("a", { state: "down" })
      yield* topology.reportLost(1)
      yield* settle
      yield* topology.refresh
      yield* script.promote("b", 2)
      yield* wait(topology)
      const asked = script.asks("b")
      yield* settle
      assert.strictEqual(script.asks("b"), asked)
    })
  )
})

describe("a writer on the readers' word", () => {
  /** `a` cannot be reached; `b` and `c` name it, and after two seconds it is the writer. */
  const agreed = (state: "down" | "hung" = "down") =>
    Effect.gen(function* () {
      const script = scriptedSource("a", "b", "c")
      yield* script.set("a", { state })
      for (const name of ["b", "c"]) {
        yield* script.set(name, { answer: { role: "reader", members: members("a", "b", "c") } })
      }
      const topology = yield* make(script, ["a", "b", "c"], {
        stableAgreement: Duration.seconds(2),
        probeTimeout: Duration.seconds(1)
      })
      const waiting = yield* Effect.fork(wait(topology))
      return { script, topology, waiting }
    })

  it.scoped("is what clients get when readers have agreed for the time", () =>
    Effect.gen(function* () {
      const { script, topology, waiting } = yield* agreed()
      yield* TestClock.adjust("1900 millis")
      assert.strictEqual(phase(topology), "Searching")
      yield* TestClock.adjust("200 millis")
      const writer = yield* Fiber.join(waiting)
      assert.deepStrictEqual([writer.host.host, writer.isVerified, writer.epoch], ["a", false, 1])
      yield* settle
      assert.strictEqual(script.openLines(), 1)
    })
  )

  it.scoped("speaks for itself when it can be reached again, in the same epoch", () =>
    Effect.gen(function* () {
      const { script, topology, waiting } = yield* agreed()
      yield* TestClock.adjust("3 seconds")
      yield* Fiber.join(waiting)
      yield* script.set("a", {
        state: "up",
        answer: { role: "writer", incarnation: "a 1", serverEpoch: 4n }
      })
      yield* topology.refresh
      yield* settle
      const { epoch, writer } = topology.unsafeCurrent()
      assert.deepStrictEqual([writer?.isVerified, writer?.serverEpoch, epoch], [true, 4n, 1])
      assert.strictEqual(phase(topology), "Calm")
    })
  )

  it.scoped("is itself watched once it has spoken, and its witness no more", () =>
    Effect.gen(function* () {
      const { script, topology, waiting } = yield* agreed()
      yield* TestClock.adjust("3 seconds")
      yield* Fiber.join(waiting)
      yield* script.set("a", { state: "up", answer: { role: "writer", incarnation: "a 1" } })
      yield* topology.refresh
      yield* settle
      yield* topology.refresh
      yield* settle
      assert.deepStrictEqual(
        ["a", "b", "c"].map((_) => script.get(_).counts.open),
        [1, 0, 0]
      )
      yield* script.set("a", { state: "down" })
      yield* script.get("a").cut
      yield* settle
      assert.strictEqual(phase(topology), "Searching")
    })
  )

  it.scoped("that takes no line holds up neither its witness, nor the search, nor the end", () =>
    Effect.gen(function* () {
      const { script, topology, waiting } = yield* agreed("hung")
      yield* TestClock.adjust("5 seconds")
      yield* Fiber.join(waiting)
      const asked = script.asks("b") + script.asks("c")
      yield* topology.refresh
      yield* TestClock.adjust("5 seconds")
      assert.isAbove(script.asks("b") + script.asks("c"), asked)
      yield* topology.refresh
      yield* settle
      yield* topology.reportLost(1)
      yield* script.promote("b", 1)
      yield* settle
      assert.strictEqual((yield* topology.settled).host.host, "b")
      assert.strictEqual(phase(topology), "Calm")
    })
  )

  it.effect("that takes no line does not hold up the end of the scope", () =>
    Effect.gen(function* () {
      const scope = yield* Scope.make()
      const { script, topology, waiting } = yield* Scope.extend(agreed("hung"), scope)
      yield* TestClock.adjust("5 seconds")
      yield* Fiber.join(waiting)
      yield* topology.refresh
      yield* settle
      const closing = yield* Effect.fork(Scope.close(scope, Exit.void))
      yield* settle
      assert.isNotNull(closing.unsafePoll())
      assert.strictEqual(script.openLines(), 0)
    })
  )

  it.scoped("is searched for when its witness dies", () =>
    Effect.gen(function* () {
      const { script, topology, waiting } = yield* agreed()
      yield* TestClock.adjust("3 seconds")
      yield* Fiber.join(waiting)
      const witness = topology.unsafeCurrent().writer?.probed.host ?? ""
      yield* script.set(witness, { state: "down" })
      yield* script.get(witness).cut
      yield* settle
      assert.strictEqual(phase(topology), "Searching")
      yield* TestClock.adjust("3 seconds")
      const writer = yield* topology.settled
      assert.deepStrictEqual([writer.host.host, writer.isVerified, writer.epoch], ["a", false, 2])
      assert.notStrictEqual(writer.probed.host, witness)
    })
  )

  it.scoped("is searched for when its witness names another host", () =>
    Effect.gen(function* () {
      const { script, topology, waiting } = yield* agreed()
      yield* TestClock.adjust("3 seconds")
      yield* Fiber.join(waiting)
      for (const name of ["b", "c"]) {
        yield* script.set(name, { answer: { role: "reader", members: members("c", "a", "b") } })
      }
      yield* script.set("c", { answer: { role: "writer", incarnation: "c 1" } })
      yield* topology.refresh
      yield* settle
      const writer = yield* topology.settled
      assert.deepStrictEqual([writer.host.host, writer.isVerified, writer.epoch], ["c", true, 2])
    })
  )
})

/** What was logged as an error. */
const logged = () => {
  const messages: Array<string> = []
  const logger = Logger.make(({ logLevel, message }) => {
    if (LogLevel.greaterThanEqual(logLevel, LogLevel.Error)) messages.push(String(message))
  })
  return { messages, layer: Logger.replace(Logger.defaultLogger, logger) }
}

describe("a source that dies", () => {
  for (const dies of ["watch", "ask", "pause"] as const) {
    it.scoped(`in ${dies}: the others are asked, and who waits gets the writer`, () => {
      const { layer, messages } = logged()
      return Effect.gen(function* () {
        const script = scriptedSource("a", "b")
        yield* script.set("a", { dies })
        const topology = yield* make(script, ["a", "b"])
        const waiting = yield* Effect.fork(wait(topology))
        yield* TestClock.adjust("1 second")
        assert.match(
          topology.unsafeCurrent().hosts.find((_) => _.host.host === "a")?.lastError ?? "",
          new RegExp(`a defect in the topology source: .*died in ${dies}`)
        )
        yield* script.promote("b", 1)
        yield* TestClock.adjust("1 second")
        assert.strictEqual((yield* Fiber.join(waiting)).host.host, "b")
        assert.include(messages.join(), "a topology source or dialect died")
        yield* settle
        assert.strictEqual(script.openLines(), 1)
      }).pipe(Effect.provide(layer))
    })

    it.scoped(`in ${dies}: the only host is asked again`, () => {
      const { layer } = logged()
      return Effect.gen(function* () {
        const script = scriptedSource("a")
        yield* script.set("a", { dies })
        const topology = yield* make(script, ["a"])
        const waiting = yield* Effect.fork(wait(topology))
        yield* TestClock.adjust("1 second")
        yield* script.set("a", { dies: undefined })
        yield* script.promote("a", 1)
        yield* TestClock.adjust("1 second")
        assert.strictEqual((yield* Fiber.join(waiting)).host.host, "a")
        yield* settle
        assert.strictEqual(script.openLines(), 1)
      }).pipe(Effect.provide(layer))
    })
  }

  it.scoped("in calm: the writer is asked on a new line, then searched for", () => {
    const { layer } = logged()
    return Effect.gen(function* () {
      const { script, topology } = yield* calmPair
      yield* script.set("a", { dies: "ask" })
      yield* topology.refresh
      yield* settle
      assert.strictEqual(phase(topology), "Searching")
      yield* script.promote("b", 2)
      yield* TestClock.adjust("1 second")
      assert.strictEqual(writerOf(topology), "b")
    }).pipe(Effect.provide(layer))
  })

  it.scoped("in the end of its lines: the writer is asked at the rate all the same", () => {
    const { layer } = logged()
    return Effect.gen(function* () {
      const script = scriptedSource("a")
      yield* script.promote("a", 1)
      yield* script.set("a", { dies: "closed" })
      const topology = yield* make(script, ["a"])
      yield* wait(topology)
      yield* TestClock.adjust("5 minutes")
      assert.isAtLeast(script.asks("a"), 10)
      assert.strictEqual(phase(topology), "Calm")
    }).pipe(Effect.provide(layer), evenly)
  })

  it.scoped("with its answer, in a search: the only host is asked again", () => {
    const { layer, messages } = logged()
    return Effect.gen(function* () {
      const script = scriptedSource("a")
      yield* script.set("a", { dies: "answer" })
      const topology = yield* make(script, ["a"])
      const waiting = yield* Effect.fork(wait(topology))
      yield* TestClock.adjust("1 second")
      yield* script.promote("a", 1)
      yield* script.set("a", { dies: undefined })
      yield* TestClock.adjust("1 second")
      assert.strictEqual((yield* Fiber.join(waiting)).host.host, "a")
      assert.isNotEmpty(messages)
      yield* settle
      assert.strictEqual(script.openLines(), 1)
    }).pipe(Effect.provide(layer))
  })

  it.scoped("with its answer, in a search: the others are asked, and no line is left", () => {
    const { layer } = logged()
    return Effect.gen(function* () {
      const script = scriptedSource("a", "b")
      yield* script.set("a", { dies: "answer" })
      const topology = yield* make(script, ["a", "b"])
      const waiting = yield* Effect.fork(wait(topology))
      yield* TestClock.adjust("1 second")
      assert.isAtMost(script.get("a").counts.open, 1)
      yield* script.promote("b", 1)
      yield* TestClock.adjust("2 seconds")
      assert.strictEqual((yield* Fiber.join(waiting)).host.host, "b")
      yield* settle
      assert.strictEqual(script.openLines(), 1)
    }).pipe(Effect.provide(layer))
  })

  it.scoped("with its answer, in calm: the writer is watched or searched for again", () => {
    const { layer, messages } = logged()
    return Effect.gen(function* () {
      const { script, topology } = yield* calmPair
      yield* script.set("a", { dies: "answer" })
      yield* topology.refresh
      yield* TestClock.adjust("1 second")
      assert.isNotEmpty(messages)
      yield* script.set("a", { dies: undefined })
      yield* script.promote("b", 2)
      yield* TestClock.adjust("1 minute")
      assert.strictEqual((yield* topology.settled).host.host, "b")
      assert.strictEqual(script.openLines(), 1)
    }).pipe(Effect.provide(layer))
  })
})

describe("a monitor that dies", () => {
  /** Kills whoever draws from it, for as long as the test says. */
  const deadly = () => {
    const usual = Random.fixed([0.5])
    const drawn = { kills: false }
    const random: Random.Random = {
      [Random.RandomTypeId]: Random.RandomTypeId,
      next: usual.next,
      nextBoolean: usual.nextBoolean,
      nextInt: usual.nextInt,
      nextRange: (min, max) =>
        Effect.suspend(() =>
          drawn.kills ? Effect.dieMessage("drawn dead") : usual.nextRange(min, max)
        ),
      nextIntBetween: (min, max) => usual.nextIntBetween(min, max),
      shuffle: (elements) => usual.shuffle(elements)
    }
    return { drawn, random }
  }

  it.scoped("in calm is started again, and goes on watching the writer", () => {
    const { layer, messages } = logged()
    const { drawn, random } = deadly()
    return Effect.gen(function* () {
      const { script, topology } = yield* calmPair
      drawn.kills = true
      yield* topology.refresh
      yield* TestClock.adjust("1 second")
      assert.include(messages.join(), "the monitor of t died, and is started again")
      assert.strictEqual(script.openLines(), 0)
      drawn.kills = false
      yield* TestClock.adjust("1 second")
      yield* script.promote("b", 2)
      yield* topology.refresh
      yield* settle
      assert.strictEqual((yield* topology.settled).host.host, "b")
      assert.strictEqual(script.openLines(), 1)
    }).pipe(Effect.withRandom(random), Effect.provide(layer))
  })

  it.scoped("in a search is started again, and who waits gets the writer", () => {
    const { layer, messages } = logged()
    const { drawn, random } = deadly()
    return Effect.gen(function* () {
      const script = scriptedSource("a")
      const topology = yield* make(script, ["a"])
      drawn.kills = true
      const waiting = yield* Effect.fork(wait(topology))
      yield* TestClock.adjust("1 second")
      assert.include(messages.join(), "the monitor of t died, and is started again")
      assert.isAtMost(script.openLines(), 1)
      drawn.kills = false
      yield* script.promote("a", 1)
      yield* TestClock.adjust("1 second")
      assert.strictEqual((yield* Fiber.join(waiting)).host.host, "a")
      yield* settle
      assert.strictEqual(script.openLines(), 1)
    }).pipe(Effect.withRandom(random), Effect.provide(layer))
  })
})
