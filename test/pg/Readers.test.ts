/** Many fibers read from readers, while every kind of harm comes to one reader after the other. */
import { assert, layer } from "@effect/vitest"
import { Clock, Duration, Effect, Exit } from "effect"
import { Failover, HostSelector } from "effect-failover"
import type { Database, Node } from "../support/database.js"
import { clusterLayer, flavors, openWarm } from "../support/database.js"
import * as Reading from "../support/readers.js"
import { expectNothingUnhandled } from "../support/unhandled.js"
import { AT_ONCE, eventually } from "../support/waiting.js"

expectNothingUnhandled()

const FIBERS = 32
const BOUND = Duration.seconds(1)

/** 150 for each of three: 20 % is three standard deviations of a share that is left to chance. */
const WINDOW = 450

/** Every reader has its share, and nobody else has any. */
const isEven = (
  shares: ReadonlyMap<number, number> | undefined,
  readers: ReadonlyArray<Node>
): boolean => {
  const mean = WINDOW / readers.length
  return (
    shares?.size === readers.length &&
    readers.every(({ serverPort }) => {
      const share = shares.get(serverPort) ?? 0
      return Math.abs(share - mean) <= 0.2 * mean
    })
  )
}

/** The bar: within 5 s after the host is back, which is now. */
const evenAgain = (db: Database, reading: Reading.Reading, what: string) =>
  Effect.gen(function* () {
    const readers = yield* db.cluster.standbys
    assert.lengthOf(readers, 3)
    const since = yield* Clock.currentTimeMillis
    yield* eventually(
      `even shares after ${what}`,
      Effect.sync(() => isEven(reading.shares(WINDOW, since), readers))
    )
    const took = (yield* Clock.currentTimeMillis) - since
    assert.isAtMost(took, Duration.toMillis(AT_ONCE), `even shares after ${what}`)
  })

/** What was under way when it happened is over, and nothing new comes. */
const isAvoided = (reading: Reading.Reading, node: Node) =>
  eventually(
    `nobody to read from ${node.id}`,
    Effect.sync(() => reading.shares(200)?.has(node.serverPort) === false)
  )

const isUnavailable = (db: Database, node: Node) =>
  eventually(
    `${node.id} to be unavailable`,
    Effect.map(db.readers.hosts, (hosts) =>
      hosts.every(
        ({ availability, host }) => host.port !== node.port || availability === "unavailable"
      )
    )
  )

const onReader = (mode: Failover.ReadMode) => Failover.onReader({ mode, maxStaleness: BOUND })

for (const flavor of flavors) {
  layer(clusterLayer({ flavor, nodes: 4 }), { excludeTestServices: true })(
    `Readers, ${flavor}`,
    (it) => {
      it.scoped(
        "one killed, one frozen, one lagging, one promoted: no read fails, and none is too old",
        () =>
          Effect.gen(function* () {
            const db = yield* openWarm({
              connectTimeout: "1 second",
              failoverTimeout: "20 seconds",
              // A reader that is back has to be listed first.
              topologyRefreshRate: "1 second",
              // All hosts are here: their round trips tell what else the machine has to do.
              readerHostSelector: HostSelector.twoChoices({ latencyWindow: Duration.infinity })
            })
            const { cluster } = db
            const old = yield* cluster.primary
            const [first, second, third] = yield* cluster.standbys
            assert.isDefined(first)
            assert.isDefined(second)
            assert.isDefined(third)
            const heart = yield* Reading.heart(cluster)
            const reading = yield* Reading.reading(
              db.client,
              heart,
              Array.from({ length: FIBERS }, (_, i) =>
                onReader(i % 2 === 0 ? "reader-or-writer" : "strict-reader")
              )
            )
            const unbound = yield* Reading.reading(db.client, heart, [Failover.onReader()])
            yield* Reading.knows(db.readers, 3)
            yield* evenAgain(db, reading, "the beginning")

            yield* cluster.kill(first)
            yield* isAvoided(reading, first)
            yield* isUnavailable(db, first)
            yield* cluster.start(first)
            yield* evenAgain(db, reading, "a kill")

            yield* cluster.freeze(second)
            yield* isAvoided(reading, second)
            yield* isUnavailable(db, second)
            yield* cluster.resume(second)
            yield* evenAgain(db, reading, "a freeze")

            yield* Effect.scoped(
              Effect.gen(function* () {
                yield* Reading.pauseReplay(cluster, third)
                yield* isAvoided(reading, third)
                yield* eventually(
                  "one who asks for no bound to see what is too old",
                  Effect.sync(() => Reading.tooOld(heart, unbound.reads, BOUND).length > 0)
                )
              })
            )
            yield* evenAgain(db, reading, "a lag")

            yield* cluster.switchover(third)
            assert.deepInclude(yield* cluster.standbys, old)
            yield* isAvoided(reading, third)
            yield* evenAgain(db, reading, "a promotion")

            yield* reading.end
            yield* unbound.end
            const failed = [...reading.reads, ...unbound.reads].filter(({ exit }) =>
              Exit.isFailure(exit)
            )
            const tooOld = Reading.tooOld(heart, reading.reads, BOUND)
            assert.deepStrictEqual(
              { failed: failed.slice(0, 3), tooOld: tooOld.slice(0, 3) },
              { failed: [], tooOld: [] },
              `${failed.length} failed, ${tooOld.length} were too old, of ${reading.reads.length}`
            )
          })
      )
    }
  )
}
