/** Where statements go by each mode. */
import { assert, describe, layer } from "@effect/vitest"
import { Duration, Effect, Fiber } from "effect"
import { Failover } from "effect-failover"
import type { Database } from "../support/database.js"
import {
  assertOutcome,
  causeOf,
  clusterLayer,
  countOf,
  flavors,
  open,
  openWarm,
  running
} from "../support/database.js"
import { insert } from "../support/pairs.js"
import * as Reading from "../support/readers.js"
import { expectNothingUnhandled } from "../support/unhandled.js"
import { AT_ONCE, eventually, within } from "../support/waiting.js"

expectNothingUnhandled()

const killReaders = (db: Database) =>
  Effect.flatMap(db.cluster.standbys, (readers) => Effect.forEach(readers, db.cluster.kill))

const isServedBy = (db: Database, role: "reader" | "writer", options: Failover.ReadOptions = {}) =>
  eventually(
    `the ${role} to be read from`,
    Effect.map(
      Failover.onReader(Reading.who(db.client), options),
      (_) => _.is_standby === (role === "reader")
    )
  )

for (const flavor of flavors) {
  layer(clusterLayer({ flavor }), { excludeTestServices: true })(`Modes, ${flavor}`, (it) => {
    describe("strict-reader", () => {
      it.scoped("reads from readers only, and from all of them", () =>
        Effect.gen(function* () {
          const db = yield* Reading.openReading({
            failoverMode: "strict-reader",
            readerHostSelector: "roundRobin"
          })
          const counts = new Map<number, number>()
          for (let i = 0; i < 50; i++) {
            const { is_standby, port } = yield* Reading.who(db.client)
            assert.isTrue(is_standby)
            counts.set(port, (counts.get(port) ?? 0) + 1)
          }
          // Each has its turn, also the one that has no connection yet.
          assert.strictEqual(counts.size, 2)
          for (const count of counts.values()) assert.isAtLeast(count, 20)
          assert.strictEqual(db.stats().open, 0, "nothing of the writer's pool")
        })
      )

      it.scoped("with all readers dead it fails in time, and the writer is not asked", () =>
        Effect.gen(function* () {
          const db = yield* openWarm({ failoverMode: "strict-reader", failoverTimeout: "1 second" })
          yield* killReaders(db)
          const exits = yield* Effect.all(
            Array.from({ length: 10 }, () => Effect.exit(db.client`SELECT 1`)),
            { concurrency: "unbounded" }
          ).pipe(within("10 reads to give up", AT_ONCE))
          for (const exit of exits) {
            const error = assertOutcome(exit, { _tag: "FailoverFailed", outcome: "NotExecuted" })
            assert.deepStrictEqual([error.reason, error.role], ["Timeout", "reader"])
            assert.isTrue(Duration.lessThan(error.elapsed, AT_ONCE))
          }
        })
      )

      it.scoped(
        "with all readers dead a read that waits leaves turns to others, and can be interrupted",
        () =>
          Effect.gen(function* () {
            const db = yield* openWarm({ failoverMode: "strict-reader" })
            yield* killReaders(db)
            const fiber = yield* Effect.fork(db.client`SELECT 1`)
            yield* eventually(
              "the readers to be known as dead",
              Effect.map(db.readers.hosts, (hosts) =>
                hosts.every((_) => _.role === "writer" || _.availability !== "available")
              )
            )
            // Whoever spins leaves no turn to others.
            yield* Effect.sleep("50 millis").pipe(within("a turn", AT_ONCE))
            yield* Fiber.interrupt(fiber).pipe(within("the interruption", AT_ONCE))
          })
      )

      it.scoped("goes on when a reader is back", () =>
        Effect.gen(function* () {
          const db = yield* openWarm({ failoverMode: "strict-reader", topologyRefreshRate: 500 })
          const [reader] = yield* db.cluster.standbys
          assert.isDefined(reader)
          yield* killReaders(db)
          const fiber = yield* Effect.fork(Reading.who(db.client))
          yield* db.cluster.start(reader)
          const { port } = yield* Fiber.join(fiber).pipe(within("the read"))
          assert.strictEqual(port, reader.serverPort)
        })
      )

      it.scoped("a reader that is promoted is not read from any more", () =>
        Effect.gen(function* () {
          const db = yield* Reading.openReading({ failoverMode: "strict-reader" })
          yield* db.cluster.kill(yield* db.cluster.primary)
          const { node } = yield* db.cluster.promote()
          yield* eventually(
            "the new writer to be known as one",
            Effect.map(db.readers.hosts, (hosts) =>
              hosts.some((_) => _.host.port === node.port && _.role === "writer")
            )
          )
          for (let i = 0; i < 50; i++) {
            assert.isTrue((yield* Reading.who(db.client)).is_standby)
          }
        })
      )
    })

    describe("reader-or-writer", () => {
      it.scoped("the first read of a client is from a reader, too", () =>
        Effect.gen(function* () {
          for (let i = 0; i < 5; i++) {
            yield* Effect.scoped(
              Effect.gen(function* () {
                const db = yield* openWarm()
                assert.isTrue((yield* Failover.onReader(Reading.who(db.client))).is_standby)
              })
            )
          }
        })
      )

      it.scoped("the first read of a client that has not connected yet, too", () =>
        Effect.gen(function* () {
          for (let i = 0; i < 5; i++) {
            yield* Effect.scoped(
              Effect.gen(function* () {
                const db = yield* open()
                assert.isTrue((yield* Failover.onReader(Reading.who(db.client))).is_standby)
              })
            )
          }
        })
      )

      it.scoped("goes to the writer while there is no reader, and back", () =>
        Effect.gen(function* () {
          const db = yield* openWarm({
            failoverMode: "reader-or-writer",
            topologyRefreshRate: "500 millis"
          })
          const readers = yield* db.cluster.standbys
          yield* isServedBy(db, "reader")
          yield* killReaders(db)
          yield* isServedBy(db, "writer")
          // Nothing can be written there either: a read that is cut off may be run again.
          const exit = yield* Effect.exit(insert(db, 1))
          assert.strictEqual(causeOf(exit)._tag, "WriteOnReader")
          yield* Failover.onWriter(insert(db, 2))
          yield* Effect.forEach(readers, db.cluster.start)
          yield* isServedBy(db, "reader")
          yield* Reading.knows(db.readers, 2)
          for (let i = 0; i < 20; i++) {
            assert.isTrue((yield* Reading.who(db.client)).is_standby)
          }
        })
      )

      it.scoped("reads go on while there is no writer", () =>
        Effect.gen(function* () {
          const db = yield* openWarm({ failoverMode: "reader-or-writer" })
          yield* isServedBy(db, "reader")
          yield* db.cluster.kill(yield* db.cluster.primary)
          for (let i = 0; i < 50; i++) {
            assert.isTrue((yield* Reading.who(db.client)).is_standby)
          }
        })
      )

      it.scoped("a client that is new while there is no writer reads", () =>
        Effect.gen(function* () {
          const db = yield* open({ failoverMode: "reader-or-writer" })
          yield* db.cluster.kill(yield* db.cluster.primary)
          const { is_standby } = yield* Reading.who(db.client).pipe(within("the read"))
          assert.isTrue(is_standby)
        })
      )
    })
  })
}

layer(clusterLayer({ nodes: 1 }), { excludeTestServices: true })("A cluster of one host", (it) => {
  for (const mode of ["reader-or-writer", "strict-reader"] as const) {
    it.scoped(`${mode} reads from it, and cannot write`, () =>
      Effect.gen(function* () {
        const db = yield* openWarm({ failoverMode: mode })
        assert.isFalse((yield* Reading.who(db.client)).is_standby)
        const exit = yield* Effect.exit(insert(db, 1))
        assert.strictEqual(causeOf(exit)._tag, "WriteOnReader")
        yield* Failover.onWriter(insert(db, 1))
        assert.strictEqual(yield* countOf(db, 1), 1)
      })
    )

    it.scoped(`${mode} goes on after a restart of it`, () =>
      Effect.gen(function* () {
        const db = yield* openWarm({ failoverMode: mode })
        const fiber = yield* Effect.fork(db.client`SELECT pg_sleep(1)`)
        const primary = yield* db.cluster.primary
        yield* running(db, primary, "pg_sleep(1)")
        yield* db.cluster.restart(primary)
        yield* Fiber.join(fiber).pipe(within("the statement"))
      })
    )
  }
})
