/** What was written before is there, on whichever host is read from: ten thousand times. */
import { assert, layer } from "@effect/vitest"
import { Duration, Effect } from "effect"
import { Failover } from "effect-failover"
import { clusterLayer, openWarm, TestCluster } from "../support/database.js"
import { find, ids, indexed, insert, summary, writeThenRead } from "../support/pairs.js"
import { expectNothingUnhandled } from "../support/unhandled.js"
import { within } from "../support/waiting.js"

expectNothingUnhandled()

layer(clusterLayer({ settings: { recovery_min_apply_delay: "3ms" } }), {
  excludeTestServices: true
})("Read your writes, readers 3 ms late", (it) => {
  it.scoped(
    "10 000 writes and reads: none is stale, nearly all are read from readers",
    () =>
      Effect.gen(function* () {
        const { nodes } = yield* TestCluster
        const db = yield* openWarm({
          acquireTimeout: "1 minute",
          // Past the proxies: they would carry every statement a second time.
          hosts: nodes.map((_) => `${_.host}:${_.serverPort}`)
        })
        yield* indexed(db)
        const pairs = yield* Effect.forEach(
          ids(10_000),
          (id) => writeThenRead(db, id, { within: "2 seconds" }),
          { concurrency: 32 }
        ).pipe(within("10 000 pairs", Duration.minutes(2)))
        const { onReaders, stale } = summary(pairs)
        assert.deepStrictEqual({ pairs: pairs.length, stale }, { pairs: 10_000, stale: 0 })
        assert.isAbove(onReaders, 9_900)
      }),
    { timeout: 150_000 }
  )

  it.scoped("without it, writes are missed: the readers are late indeed", () =>
    Effect.gen(function* () {
      const db = yield* openWarm()
      yield* Failover.onReader(find(db, 0))
      const pairs = yield* Effect.forEach(ids(200), (id) =>
        Effect.zipRight(insert(db, id), Failover.onReader(find(db, id)))
      )
      assert.isAbove(summary(pairs).stale, 0)
    })
  )
})
