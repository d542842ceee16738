/** What was written before is there, while replay stands still on one reader, on another, on all of them. */
import { assert, layer } from "@effect/vitest"
import { Duration, Effect, Fiber } from "effect"
import { Failover, Readers } from "effect-failover"
import { causeOf, clusterLayer, flavors, openWarm } from "../support/database.js"
import { find, ids, indexed, insert, summary, writeThenRead } from "../support/pairs.js"
import * as Reading from "../support/readers.js"
import { expectNothingUnhandled } from "../support/unhandled.js"
import { AT_ONCE, eventually, within } from "../support/waiting.js"

expectNothingUnhandled()

const AGES = Duration.minutes(5)

for (const flavor of flavors) {
  layer(clusterLayer({ flavor }), { excludeTestServices: true })(
    `Read your writes, replay held up, ${flavor}`,
    (it) => {
      it.scoped("while replay stops and goes on on one reader after the other: none is stale", () =>
        Effect.gen(function* () {
          const db = yield* openWarm()
          yield* indexed(db)
          yield* Failover.onReader(find(db, 0))
          yield* Reading.knows(db.readers, 2)
          const standbys = yield* db.cluster.standbys
          let stops = 0
          yield* Effect.forEach([...standbys, undefined], (one) =>
            Effect.scoped(
              Effect.gen(function* () {
                // Now this one, then that one, then all.
                for (const node of one === undefined ? standbys : [one]) {
                  yield* Reading.pauseReplay(db.cluster, node)
                }
                stops++
                yield* Effect.sleep("100 millis")
              })
            )
          ).pipe(Effect.forever, Effect.forkScoped)
          const pairs = yield* Effect.forEach(
            ids(2000),
            (id) => writeThenRead(db, id, { within: "50 millis" }),
            { concurrency: 16 }
          ).pipe(within("2 000 pairs"))
          assert.strictEqual(summary(pairs).stale, 0)
          assert.isAtLeast(stops, 3)
          // Aurora's readers cannot tell what they have.
          if (flavor === "aurora") assert.strictEqual(summary(pairs).onReaders, 0)
          else assert.isAbove(summary(pairs).onReaders, 0)
        })
      )

      it.scoped("all that is written in one scope, by many fibers, is seen by its reads", () =>
        Effect.gen(function* () {
          const db = yield* openWarm()
          yield* indexed(db)
          const reader = (yield* db.cluster.standbys)[0]
          assert.isDefined(reader)
          yield* Failover.onReader(find(db, 0))
          yield* Reading.pauseReplay(db.cluster, reader)
          const found = yield* Effect.gen(function* () {
            yield* Effect.forEach(ids(20), (id) => insert(db, id), { concurrency: 8 })
            yield* db.client.withTransaction(Effect.forEach([20, 21], (id) => insert(db, id)))
            return yield* Effect.forEach(
              ids(22),
              (id) => Failover.onReader(find(db, id), { within: "20 millis" }),
              { concurrency: 8 }
            )
          }).pipe(Readers.readYourWrites)
          assert.strictEqual(summary(found).stale, 0)
        })
      )

      it.scoped("a transaction and a stream on a reader see it, too", () =>
        Effect.gen(function* () {
          const db = yield* openWarm()
          for (const reader of yield* db.cluster.standbys) {
            yield* Reading.pauseReplay(db.cluster, reader)
          }
          const { client: sql, table } = db
          yield* Effect.gen(function* () {
            yield* insert(db, 1)
            const inTransaction = yield* sql
              .withTransaction(find(db, 1))
              .pipe(Failover.onReader({ within: "20 millis" }))
            assert.strictEqual(inTransaction.found, 1)
            const streamed = yield* Reading.collect(sql`SELECT id FROM ${sql(table)}`.stream).pipe(
              Failover.onReader({ within: "20 millis" })
            )
            assert.lengthOf(streamed, 1)
          }).pipe(Readers.readYourWrites)
        })
      )
    }
  )
}

layer(clusterLayer(), { excludeTestServices: true })("A position of the writer", (it) => {
  it.scoped("is waited for on the reader", () =>
    Effect.gen(function* () {
      const db = yield* openWarm()
      const standbys = yield* db.cluster.standbys
      for (const reader of standbys) yield* Reading.pauseReplay(db.cluster, reader)
      yield* insert(db, 1)
      const after = yield* db.readers.position
      const waiting = yield* Effect.fork(Failover.onReader(find(db, 1), { after, within: AGES }))
      yield* eventually(
        "a reader to be held by it",
        Effect.map(db.readers.hosts, (hosts) => hosts.some((_) => _.outstanding > 0))
      )
      for (const reader of standbys) yield* Reading.resumeReplay(db.cluster, reader)
      assert.deepStrictEqual(yield* Fiber.join(waiting).pipe(within("the read", AT_ONCE)), {
        found: 1,
        is_standby: true
      })
    })
  )

  it.scoped("that no reader reaches in time is read from the writer", () =>
    Effect.gen(function* () {
      const db = yield* openWarm()
      for (const reader of yield* db.cluster.standbys) {
        yield* Reading.pauseReplay(db.cluster, reader)
      }
      yield* insert(db, 1)
      const after = yield* db.readers.position
      const pair = yield* Failover.onReader(find(db, 1), { after, within: "20 millis" })
      assert.deepStrictEqual(pair, { found: 1, is_standby: false })
    })
  )

  it.scoped("that one reader has and the other has not: strict-reader ends on the one", () =>
    Effect.gen(function* () {
      const db = yield* openWarm()
      const [late] = yield* db.cluster.standbys
      assert.isDefined(late)
      yield* Failover.onReader(find(db, 0))
      yield* Reading.knows(db.readers, 2)
      yield* Reading.pauseReplay(db.cluster, late)
      yield* insert(db, 1)
      const after = yield* db.readers.position
      for (let i = 0; i < 10; i++) {
        const pair = yield* Failover.onReader(find(db, 1), {
          mode: "strict-reader",
          after,
          within: "20 millis"
        })
        assert.deepStrictEqual(pair, { found: 1, is_standby: true })
      }
    })
  )

  it.scoped("that no reader reaches: strict-reader fails in time", () =>
    Effect.gen(function* () {
      const db = yield* openWarm({ failoverTimeout: "500 millis" })
      for (const reader of yield* db.cluster.standbys) {
        yield* Reading.pauseReplay(db.cluster, reader)
      }
      yield* insert(db, 1)
      const after = yield* db.readers.position
      const exit = yield* Failover.onReader(find(db, 1), {
        mode: "strict-reader",
        after,
        within: "20 millis"
      }).pipe(Effect.exit, within("the read to give up", AT_ONCE))
      const { _tag, reason, role } = causeOf(exit)
      assert.deepStrictEqual([_tag, reason, role], ["FailoverFailed", "Timeout", "reader"])
    })
  )

  it.scoped("of before a failover is reached after it", () =>
    Effect.gen(function* () {
      const db = yield* openWarm()
      yield* insert(db, 1)
      const after = yield* db.readers.position
      yield* db.cluster.switchover()
      for (let i = 0; i < 10; i++) {
        const { found } = yield* Failover.onReader(find(db, 1), { after, within: "5 seconds" })
        assert.strictEqual(found, 1)
      }
    })
  )

  it.scoped("that is none is refused, and nothing of it is run", () =>
    Effect.gen(function* () {
      const db = yield* openWarm()
      const after = `0/0'); DROP TABLE ${db.table}; --`
      const exit = yield* Effect.exit(Failover.onReader(find(db, 1), { after }))
      assert.include(String(causeOf(exit)), "Not a position")
      yield* insert(db, 1)
    })
  )
})
