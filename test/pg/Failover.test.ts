/** What a client makes of every way in which a cluster can lose its writer. */
import { assert, describe, layer } from "@effect/vitest"
import { Effect, Fiber, Metric } from "effect"
import {
  addressOf,
  allGivenBack,
  assertOutcome,
  clusterLayer,
  countOf,
  Fault,
  flavors,
  idleIsGone,
  nodeAt,
  open,
  openWarm,
  running
} from "../support/database.js"
import { expectNothingUnhandled } from "../support/unhandled.js"
import { eventually, within } from "../support/waiting.js"
import { History, load } from "../support/workload.js"

expectNothingUnhandled()

for (const flavor of flavors) {
  layer(clusterLayer({ flavor }), { excludeTestServices: true })(`Failover, ${flavor}`, (it) => {
    describe("under load", () => {
      it.scoped("SIGKILL of the writer: every writer is told the truth", () =>
        Effect.gen(function* () {
          const db = yield* openWarm()
          const writers = yield* load(db)
          yield* db.cluster.kill(yield* db.cluster.primary)
          const { node } = yield* db.cluster.promote()
          yield* writers.acknowledged(20)
          yield* writers.end
          assert.strictEqual(nodeAt(db.cluster, db.stats().host), node)
          assert.deepStrictEqual(yield* db.failovers, { noticed: 1, connected: 1 })
        })
      )

      for (const mode of ["fast", "immediate"] as const) {
        it.scoped(`${mode} stop of the writer: every writer is told the truth`, () =>
          Effect.gen(function* () {
            const db = yield* openWarm()
            const writers = yield* load(db)
            yield* db.cluster.stop(yield* db.cluster.primary, mode)
            const { node } = yield* db.cluster.promote()
            yield* writers.acknowledged(20)
            yield* writers.end
            assert.strictEqual(nodeAt(db.cluster, db.stats().host), node)
          })
        )
      }

      it.scoped("a planned switchover and back: every writer is told the truth", () =>
        Effect.gen(function* () {
          const db = yield* openWarm()
          const writers = yield* load(db)
          const old = yield* db.cluster.primary
          yield* db.cluster.switchover()
          yield* writers.acknowledged(20)
          yield* db.cluster.switchover(old)
          yield* writers.acknowledged(20)
          yield* writers.end
          assert.strictEqual(nodeAt(db.cluster, db.stats().host), old)
        })
      )

      it.scoped("the writer restarted: every writer is told the truth", () =>
        Effect.gen(function* () {
          const db = yield* openWarm()
          const writers = yield* load(db)
          const primary = yield* db.cluster.primary
          yield* db.cluster.restart(primary)
          yield* writers.acknowledged(20)
          yield* writers.end
          assert.strictEqual(nodeAt(db.cluster, db.stats().host), primary)
        })
      )
    })

    it.scoped("10 000 fibers caught in one outage share one failover", () =>
      Effect.gen(function* () {
        const db = yield* openWarm({ acquireTimeout: "1 minute" })
        const started = Metric.counter("db.failover.started", { incremental: true })
        const before = (yield* Metric.value(started)).count
        const history = new History(db)
        const fibers = yield* Effect.fork(
          Effect.all(
            Array.from({ length: 10_000 }, () => history.statement),
            { concurrency: "unbounded", discard: true }
          )
        )
        yield* eventually(
          "100 acknowledged writes",
          Effect.sync(() => history.count("acknowledged") >= 100)
        )
        yield* db.cluster.kill(yield* db.cluster.primary)
        yield* db.cluster.promote()
        yield* Fiber.join(fibers).pipe(within("10 000 fibers to end"))
        yield* history.verify
        assert.strictEqual(history.entries.length, 10_000)
        assert.isAtLeast(history.count("acknowledged"), 9_900)
        assert.deepStrictEqual(yield* db.failovers, { noticed: 1, connected: 1 })
        assert.strictEqual((yield* Metric.value(started)).count - before, 1)
      })
    )

    it.scoped(
      "the writer comes back as the writer: FailoverSuccess from and to the same host",
      () =>
        Effect.gen(function* () {
          const db = yield* openWarm()
          const primary = yield* db.cluster.primary
          const { epoch } = db.topology.unsafeCurrent()
          const fiber = yield* Effect.fork(db.client`SELECT pg_sleep(600)`)
          yield* running(db, primary, "pg_sleep")
          yield* db.cluster.kill(primary)
          yield* db.cluster.start(primary)
          const error = assertOutcome(
            yield* Fiber.await(fiber).pipe(within("the statement to end")),
            {
              _tag: "FailoverSuccess",
              outcome: "Unknown"
            }
          )
          assert.deepStrictEqual([error.from.port, error.to.port], [primary.port, primary.port])
          assert.deepStrictEqual(
            [error.sqlState, error.role, error.sent],
            ["08S02", "writer", true]
          )
          assert.isAbove(error.epoch, epoch)
        })
    )

    it.scoped("FailoverSuccess names the host that was lost and the one that took over", () =>
      Effect.gen(function* () {
        const db = yield* openWarm()
        const primary = yield* db.cluster.primary
        const fiber = yield* Effect.fork(db.client`SELECT pg_sleep(600)`)
        yield* running(db, primary, "pg_sleep")
        yield* db.cluster.kill(primary)
        const { node } = yield* db.cluster.promote()
        const error = assertOutcome(
          yield* Fiber.await(fiber).pipe(within("the statement to end")),
          {
            _tag: "FailoverSuccess",
            outcome: "Unknown"
          }
        )
        assert.deepStrictEqual([error.from.port, error.to.port], [primary.port, node.port])
        if (flavor === "aurora") {
          assert.deepStrictEqual([error.from.id, error.to.id], [primary.id, node.id])
        }
        assert.include(error.message, addressOf(node))
      })
    )

    it.scoped("all nodes down and up again: calls wait, then succeed", () =>
      Effect.gen(function* () {
        const db = yield* openWarm()
        yield* Effect.forEach(db.cluster.nodes, db.cluster.kill, { discard: true })
        yield* idleIsGone(db)
        const history = new History(db)
        const fiber = yield* Effect.fork(
          Effect.all(
            Array.from({ length: 50 }, () => history.statement),
            { concurrency: "unbounded" }
          )
        )
        yield* eventually(
          "the failover to be noticed",
          Effect.map(db.failovers, ({ noticed }) => noticed === 1)
        )
        assert.strictEqual(history.entries.length, 0)
        const primary = yield* db.cluster.primary
        yield* db.cluster.start(primary)
        yield* Fiber.join(fiber).pipe(within("50 waiting calls to end"))
        yield* history.verify
        assert.strictEqual(history.count("acknowledged"), 50)
      })
    )

    it.scoped(
      "all nodes down for good: FailoverFailed says what was tried, nothing was executed",
      () =>
        Effect.gen(function* () {
          const db = yield* openWarm({ failoverTimeout: "1500 millis" })
          const primary = yield* db.cluster.primary
          yield* Effect.forEach(db.cluster.nodes, db.cluster.kill, { discard: true })
          const exits = yield* Effect.all(
            Array.from({ length: 20 }, (_, id) =>
              Effect.exit(db.client`INSERT INTO ${db.client(db.table)} ${db.client.insert({ id })}`)
            ),
            { concurrency: "unbounded" }
          ).pipe(within("20 calls to give up"))
          for (const exit of exits) {
            const error = assertOutcome(exit, { _tag: "FailoverFailed", outcome: "NotExecuted" })
            assert.deepStrictEqual([error.reason, error.sqlState], ["Timeout", "08S01"])
            assert.deepStrictEqual(
              error.tried.map((_: any) => _.host.port).sort(),
              db.cluster.nodes.map(({ port }) => port).sort()
            )
          }
          yield* db.cluster.start(primary)
          assert.strictEqual((yield* db.client`SELECT 1 AS one`).length, 1)
          assert.strictEqual(yield* countOf(db, 1), 0)
        })
    )

    it.scoped("a standby lost: no failover, no error, the same epoch", () =>
      Effect.gen(function* () {
        const db = yield* openWarm({ topologyRefreshRate: "200 millis" })
        const { epoch } = db.topology.unsafeCurrent()
        const writers = yield* load(db)
        for (const standby of yield* db.cluster.standbys) yield* db.cluster.kill(standby)
        yield* writers.acknowledged(100)
        yield* writers.end
        const { entries } = writers.history
        assert.strictEqual(writers.history.count("acknowledged"), entries.length)
        assert.strictEqual(db.topology.unsafeCurrent().epoch, epoch)
        assert.deepStrictEqual(yield* db.failovers, { noticed: 0, connected: 0 })
      })
    )

    it.scoped("a frozen writer that is replaced and resumed gets no write any more", () =>
      Effect.gen(function* () {
        const db = yield* openWarm({
          connectTimeout: "1 second",
          topologyRefreshRate: "200 millis"
        })
        const old = yield* db.cluster.primary
        const hanging = yield* Effect.fork(db.client`SELECT pg_sleep(600)`)
        yield* running(db, old, "pg_sleep")
        yield* db.cluster.freeze(old)
        const { node } = yield* db.cluster.promote()
        const exit = yield* Fiber.await(hanging).pipe(within("the hanging statement to end"))
        const error = assertOutcome(exit, { _tag: "FailoverSuccess", outcome: "Unknown" })
        assert.strictEqual(error.to.port, node.port)
        yield* db.cluster.resume(old)
        const writers = yield* load(db)
        yield* writers.acknowledged(100)
        yield* writers.end
        const [row] = yield* db.cluster.query(old, `select count(*)::int as n from ${db.table}`)
        assert.strictEqual(row?.["n"], 0)
        assert.strictEqual(nodeAt(db.cluster, db.stats().host), node)
      })
    )

    it.scoped("a writer that falls silent in the network is replaced like a frozen one", () =>
      Effect.gen(function* () {
        const db = yield* openWarm({
          connectTimeout: "1 second",
          topologyRefreshRate: "200 millis"
        })
        const old = yield* db.cluster.primary
        const hanging = yield* Effect.fork(db.client`SELECT pg_sleep(600)`)
        yield* running(db, old, "pg_sleep")
        yield* old.proxy.set(Fault.BlackHole())
        const { node } = yield* db.cluster.promote()
        const exit = yield* Fiber.await(hanging).pipe(within("the hanging statement to end"))
        assertOutcome(exit, { _tag: "FailoverSuccess", outcome: "Unknown" })
        const writers = yield* load(db)
        yield* old.proxy.set(Fault.Pass())
        yield* writers.acknowledged(100)
        yield* writers.end
        assert.strictEqual(nodeAt(db.cluster, db.stats().host), node)
      })
    )

    it.scoped(
      "a network that stalls and goes on: the statements wait, and no failover is begun",
      () =>
        Effect.gen(function* () {
          const db = yield* openWarm()
          const { epoch } = db.topology.unsafeCurrent()
          const { proxy } = yield* db.cluster.primary
          yield* proxy.set(Fault.BlackHole())
          const history = new History(db)
          const fiber = yield* Effect.fork(
            Effect.all(
              Array.from({ length: 20 }, () => history.statement),
              { concurrency: "unbounded" }
            )
          )
          yield* eventually(
            "the statements to wait",
            Effect.sync(() => db.stats().waiting > 0)
          )
          yield* proxy.set(Fault.Pass())
          yield* Fiber.join(fiber).pipe(within("20 statements"))
          yield* history.verify
          assert.strictEqual(history.count("acknowledged"), 20)
          assert.strictEqual(db.topology.unsafeCurrent().epoch, epoch)
          assert.deepStrictEqual(yield* db.failovers, { noticed: 0, connected: 0 })
        })
    )

    it.scoped(
      "the new writer dies too: the next one is found, every writer is told the truth",
      () =>
        Effect.gen(function* () {
          const db = yield* openWarm()
          const writers = yield* load(db)
          yield* db.cluster.kill(yield* db.cluster.primary)
          const { node } = yield* db.cluster.promote()
          // A sibling that follows it, or what was acknowledged since dies with it.
          yield* eventually(
            "a standby that follows the new writer",
            Effect.map(
              db.cluster.query(node, "select 1 from pg_stat_replication where state = 'streaming'"),
              (rows) => rows.length > 0
            )
          )
          yield* db.cluster.kill(node)
          const third = yield* db.cluster.promote()
          yield* writers.acknowledged(20)
          yield* writers.end
          assert.strictEqual(nodeAt(db.cluster, db.stats().host), third.node)
        })
    )

    it.scoped(
      "fibers interrupted throughout a failover leak no connection, and the rest is true",
      () =>
        Effect.gen(function* () {
          const db = yield* openWarm({ maxConnections: 5 })
          const history = new History(db)
          const turn = (i: number) => (i % 3 === 0 ? history.transaction : history.statement)
          const fibers = yield* Effect.forEach(
            Array.from({ length: 600 }, (_, i) => i),
            (i) => Effect.fork(turn(i))
          )
          const interruptSome = (nth: number) =>
            Effect.forEach(
              fibers.filter((_, i) => i % 6 === nth),
              (_) => Fiber.interruptFork(_),
              { discard: true }
            )
          yield* eventually(
            "20 acknowledged writes",
            Effect.sync(() => history.count("acknowledged") >= 20)
          )
          yield* interruptSome(0)
          yield* db.cluster.kill(yield* db.cluster.primary)
          yield* interruptSome(1)
          yield* db.cluster.promote()
          yield* interruptSome(2)
          yield* Effect.forEach(fibers, (_) => Fiber.await(_)).pipe(within("600 fibers to end"))
          yield* history.verify
          yield* db.client`SELECT 1`
          yield* allGivenBack(db)
          assert.strictEqual(history.count("untyped") + history.count("defect"), 0)
        })
    )

    // Two Aurora instances cannot both be the master: their storage knows one. PostgreSQL's can.
    if (flavor === "streaming") {
      it.scoped("a client that is new finds the writer among two that claim to be it", () =>
        Effect.gen(function* () {
          const db = yield* open()
          const old = yield* db.cluster.primary
          yield* db.cluster.kill(old)
          const { node } = yield* db.cluster.promote()
          yield* db.cluster.start(old)
          yield* db.client`SELECT 1`
          assert.strictEqual(nodeAt(db.cluster, db.stats().host), node)
        })
      )
    }
  })
}
