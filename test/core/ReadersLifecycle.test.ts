/** Hosts that come and go, and clients that are closed: what begins, and what is left. */
import { Reactivity } from "@effect/experimental"
import { assert, describe } from "@effect/vitest"
import { SqlClient } from "@effect/sql"
import { Array as Arr, Effect, Exit, Fiber, Scope, Stream } from "effect"
import { Errors, Failover, Readers } from "effect-failover"
import * as Test from "effect-failover/layers/Test"
import * as SimulatedCluster from "effect-failover/testing/SimulatedCluster"
import {
  causeOf,
  hostsOf,
  inVirtualTime,
  make,
  type Seen,
  settle,
  soon,
  test
} from "./readersWorld.js"

describe("before the first read", () => {
  test("no reader is connected to, and no host is known", {}, (world) =>
    Effect.gen(function* () {
      const { cluster, readers, write } = world
      yield* write(1)
      yield* Effect.sleep("5 minutes")
      assert.deepStrictEqual([cluster.sessions("db-2"), cluster.sessions("db-3")], [0, 0])
      assert.deepStrictEqual(yield* readers.hosts, [])
    })
  )
})

describe("a client that reads", () => {
  test("tells how its hosts are", { latency: "4 millis" }, (world) =>
    Effect.gen(function* () {
      const { cluster, read, readers } = world
      yield* Effect.all(
        Arr.makeBy(8, () => read()),
        { concurrency: "unbounded" }
      )
      yield* cluster.kill("db-3")
      yield* Effect.sleep("1 second")
      const hosts = yield* readers.hosts
      assert.deepStrictEqual(
        hosts.map((_) => [_.host.id, _.role, _.availability, _.outstanding]),
        [
          ["db-1", "writer", "available", 0],
          ["db-2", "reader", "available", 0],
          ["db-3", "reader", "unavailable", 0]
        ]
      )
      const [, second, third] = hosts
      assert.approximately(second?.latencyMillis ?? 0, 4, 0.5)
      assert.isAtLeast(second?.connections ?? 0, 1)
      assert.include(third?.lastError ?? "", "ECONNREFUSED")
    })
  )

  test(
    "asks its hosts seldom while nobody reads, and is quick again when somebody does",
    {},
    (world) =>
      Effect.gen(function* () {
        const { cluster, read } = world
        yield* read()
        yield* Effect.sleep("2 minutes")
        const before = cluster.log.length
        yield* Effect.sleep("1 minute")
        // Of three hosts, six times each, and of the monitor.
        assert.isBelow(cluster.log.length - before, 60)
        yield* cluster.kill("db-2")
        yield* settle
        assert.deepStrictEqual(yield* hostsOf(read()), ["db-3"])
      })
  )
})

/** The members of the cluster change: on shared storage, the list of the writer is what counts. */
const refreshed = { flavor: "aurora", client: { topologyRefreshRate: "1 second" } } as const

describe("hosts that come and go", () => {
  test(
    "one that was down so long that it has left the list is read from when it is back",
    refreshed,
    (world) =>
      Effect.gen(function* () {
        const { cluster, read, readers } = world
        yield* read()
        yield* cluster.kill("db-3")
        yield* Effect.sleep("6 minutes")
        yield* hostsOf(read())
        assert.deepStrictEqual((yield* readers.hosts).map((_) => _.host.id).sort(), [
          "db-1",
          "db-2"
        ])
        yield* cluster.start("db-3")
        yield* Effect.sleep("5 seconds")
        assert.deepStrictEqual(yield* hostsOf(read()), ["db-2", "db-3"])
      })
  )

  test("one that leaves the list while work is on it lets the work be done", refreshed, (world) =>
    Effect.gen(function* () {
      const { cluster, look, readers, read, sql } = world
      yield* read()
      yield* cluster.kill("db-3")
      yield* Effect.sleep("4 minutes")
      yield* read()
      // Cut off from its peers it reports nothing; its clients reach it.
      yield* cluster.partition("db-2", "peers")
      yield* Effect.sleep("298 seconds")
      const transaction = yield* Effect.fork(
        Failover.onReader(sql.withTransaction(Effect.zip(look, Effect.delay(look, "5 seconds"))))
      )
      yield* Effect.sleep("4 seconds")
      assert.deepStrictEqual(
        (yield* readers.hosts).map((_) => _.host.id),
        ["db-1"]
      )
      assert.deepStrictEqual(yield* hostsOf(read()), ["db-1"])
      const [first, second] = yield* soon(Fiber.join(transaction))
      assert.deepStrictEqual([first.host, second.host], ["db-2", "db-2"])
      yield* Effect.sleep("6 seconds")
      assert.strictEqual(cluster.sessions("db-2"), 0)
    })
  )

  test("one that leaves the list and is back at once keeps its work", refreshed, (world) =>
    Effect.gen(function* () {
      const { cluster, look, read, readers, sql } = world
      yield* read()
      yield* cluster.kill("db-3")
      yield* Effect.sleep("4 minutes")
      yield* read()
      yield* cluster.partition("db-2", "peers")
      yield* Effect.sleep("298 seconds")
      const transaction = yield* Effect.fork(
        Failover.onReader(sql.withTransaction(Effect.zip(look, Effect.delay(look, "10 seconds"))))
      )
      yield* Effect.sleep("4 seconds")
      assert.deepStrictEqual(
        (yield* readers.hosts).map((_) => _.host.id),
        ["db-1"]
      )
      yield* cluster.heal("db-2")
      yield* Effect.sleep("3 seconds")
      assert.deepStrictEqual(yield* hostsOf(read()), ["db-2"])
      const [first, second] = yield* soon(Fiber.join(transaction))
      assert.deepStrictEqual([first.host, second.host], ["db-2", "db-2"])
    })
  )

  test(
    "one that leaves the list with work that does not end is closed after some seconds",
    refreshed,
    (world) =>
      Effect.gen(function* () {
        const { cluster, look, read, sql } = world
        yield* read()
        yield* cluster.kill("db-3")
        yield* Effect.sleep("4 minutes")
        yield* read()
        yield* cluster.partition("db-2", "peers")
        yield* Effect.sleep("298 seconds")
        const transaction = yield* Effect.fork(
          Effect.exit(
            Failover.onReader(sql.withTransaction(Effect.zip(look, Effect.delay(look, "1 minute"))))
          )
        )
        yield* Effect.sleep("15 seconds")
        assert.strictEqual(cluster.sessions("db-2"), 0)
        assert.instanceOf(
          causeOf(yield* soon(Fiber.join(transaction), "2 minutes")),
          Errors.TransactionResolutionUnknown
        )
      })
  )
})

const closings: ReadonlyArray<
  readonly [
    string,
    (world: Effect.Effect.Success<ReturnType<typeof make>>) => Effect.Effect<unknown, unknown>
  ]
> = [
  [
    "a statement hangs",
    ({ cluster, read }) => Effect.zipRight(cluster.next(/^SELECT/, "hang"), read())
  ],
  [
    "a hedged statement hangs",
    ({ cluster, read }) => Effect.zipRight(cluster.next(/^SELECT/, "hang"), Readers.hedged(read()))
  ],
  [
    "a transaction is under way",
    ({ look, sql }) =>
      Failover.onReader(
        sql.withTransaction(Effect.zipRight(look, Effect.zipRight(Effect.sleep("3 seconds"), look)))
      )
  ],
  [
    "a stream is under way",
    ({ sql }) =>
      Failover.onReader(
        Stream.runForEach(sql`SELECT many`.stream, () => Effect.sleep("100 millis"))
      )
  ],
  [
    "a connection is reserved",
    ({ sql }) =>
      Failover.onReader(Effect.scoped(Effect.zipRight(sql.reserve, Effect.sleep("3 seconds"))))
  ],
  [
    "no reader can be reached",
    ({ cluster, read }) =>
      Effect.zipRight(
        Effect.forEach(["db-2", "db-3"], cluster.kill),
        read({ mode: "strict-reader" })
      )
  ],
  [
    "a reader is frozen, and connections to it are being opened",
    ({ cluster, read }) => Effect.zipRight(Effect.forEach(["db-2", "db-3"], cluster.freeze), read())
  ],
  [
    "a position is waited for",
    ({ cluster, read, write }) =>
      Effect.zipRight(
        Effect.forEach(["db-2", "db-3"], (_) => cluster.lag(_, "1 minute")),
        Readers.readYourWrites(Effect.zipRight(write(1), read({ mode: "strict-reader" })))
      )
  ]
]

describe("a client is closed", () => {
  for (const [when, work] of closings) {
    inVirtualTime(`while ${when}: whoever waits is told, and nothing is left`, () =>
      Effect.gen(function* () {
        const scope = yield* Scope.make()
        const cluster = yield* Scope.make()
        const world = yield* make({ rows: 300 }).pipe(Scope.extend(scope))
        yield* world.read()
        const fiber = yield* Effect.fork(Effect.exit(work(world)))
        yield* Effect.sleep("500 millis")
        yield* Scope.close(scope, Exit.void)
        assert.strictEqual(world.cluster.sessions(), 0)
        yield* soon(Fiber.await(fiber), "1 minute")
        // Nobody can begin anything any more.
        const error = causeOf(yield* soon(Effect.exit(world.read()), "1 second"))
        assert.instanceOf(error, Errors.FailoverFailed)
        assert.strictEqual(error.reason, "Closed")
        yield* Scope.close(cluster, Exit.void)
      }).pipe(Effect.provide(Reactivity.layer))
    )
  }

  inVirtualTime("a hundred times: nothing adds up", () =>
    Effect.gen(function* () {
      const cluster = yield* SimulatedCluster.make({
        latency: "1 millis",
        answer: (_, { host, role }) => [{ host, role }]
      })
      for (let i = 0; i < 100; i++) {
        yield* Effect.scoped(
          Effect.gen(function* () {
            const { client } = yield* Test.client(cluster)
            const seen = yield* Effect.all(
              Arr.makeBy(5, () => Failover.onReader(client<Seen>`SELECT 1`)),
              { concurrency: "unbounded" }
            )
            assert.isTrue(seen.flat().every((_) => _.role === "reader"))
            if (i % 3 === 0) yield* cluster.restart(i % 2 === 0 ? "db-2" : "db-3")
          })
        )
        assert.strictEqual(cluster.sessions(), 0)
      }
    }).pipe(Effect.scoped, Effect.provide(Reactivity.layer))
  )
})

describe("a layer", () => {
  inVirtualTime("provides a client that reads from readers, and another one that writes", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient.SqlClient
      const cluster = yield* Test.Cluster
      const [row] = yield* sql<Seen>`SELECT 1`
      assert.strictEqual(row?.role, "reader")
      assert.lengthOf(yield* Effect.flatMap(Readers.Readers, (_) => _.hosts), 3)
      yield* Failover.onWriter(sql`INSERT INTO item (id) VALUES (1)`)
      assert.lengthOf(cluster.committed(), 1)
      assert.isString(yield* Readers.position)
    }).pipe(
      Effect.provide(
        Test.layer({
          answer: (_, { host, role }) => [{ host, role }],
          client: { failoverMode: "reader-or-writer" }
        })
      )
    )
  )
})
