/** What reading from readers costs: the same statements on the writer and on a reader. */
import { Reactivity } from "@effect/experimental"
import type { SqlError } from "@effect/sql"
import { PgClient } from "@effect/sql-pg"
import { Duration, Effect, Either, Stream } from "effect"
import { performance } from "node:perf_hooks"
import type { Connector, Dialect, Host, SqlFailover } from "../../src/index.js"
import type * as PostgresCluster from "../../src/testing/PostgresCluster.js"
import type { Options } from "../options.js"
import * as Report from "../report.js"
import type { Index } from "./clients.js"
import { connectionOf, READERS, sqlOf } from "./clients.js"

const WARM_UP_SECONDS = 1

/** A round is cut into so many turns of each way: what disturbs for a moment does not hit one alone. */
const TURNS = 20

/** A way to run a statement. `within` is around all of a fiber's statements. */
interface Way {
  readonly name: string
  readonly statement: () => Effect.Effect<unknown, SqlError.SqlError>
  readonly within?: <A, E>(loop: Effect.Effect<A, E>) => Effect.Effect<A, E>
}

interface Measured {
  readonly ops: number
  readonly cpuMicros: number
}

const run = (
  { statement, within = (loop) => loop }: Way,
  fibers: number,
  seconds: number
): Effect.Effect<Measured> =>
  Effect.promise((signal) => {
    const before = process.cpuUsage()
    const until = performance.now() + seconds * 1000
    let ops = 0
    const loop = Effect.whileLoop({
      while: () => performance.now() < until,
      body: statement,
      step: () => ops++
    })
    return Effect.runPromise(
      Effect.forEach(Array.from({ length: fibers }), () => within(loop), {
        concurrency: "unbounded",
        discard: true
      }),
      { signal }
    ).then(() => {
      const { system, user } = process.cpuUsage(before)
      return { ops, cpuMicros: system + user }
    })
  })

/**
 * The ways take turns, and each turn gives two ratios to the first way: of statements per second, and of CPU time for a
 * statement. Their medians count. A busy neighbour makes all code slower, by up to twice: so the CPU time itself is that
 * of the turn of the first way that was disturbed least, times the ratio.
 */
const compare = (ways: ReadonlyArray<Way>, fibers: number, { rounds, seconds }: Options) =>
  Effect.gen(function* () {
    for (const way of ways) yield* run(way, fibers, WARM_UP_SECONDS)
    const measured = ways.map((): Array<Measured> => [])
    for (let turn = 0; turn < rounds * TURNS; turn++) {
      const all = [...ways.entries()]
      const order = [...all.slice(turn % all.length), ...all.slice(0, turn % all.length)]
      // Each begins in its turn, and every other turn is in reverse: nobody always comes after the same neighbour.
      for (const [i, way] of turn % 2 === 0 ? order : order.toReversed()) {
        measured[i]?.push(yield* run(way, fibers, seconds / TURNS))
      }
    }
    const [first = []] = measured
    const micros = (_: Measured | undefined) => (_ === undefined ? NaN : _.cpuMicros / _.ops)
    const leastMicros = Math.min(...first.map(micros))
    return ways.map(({ name }, i) => {
      const turns = measured[i] ?? []
      const dearer = Report.median(turns.map((_, turn) => micros(_) / micros(first[turn])))
      return {
        way: name,
        fibers,
        opsPerSecond: Math.round(Report.median(turns.map(({ ops }) => (ops * TURNS) / seconds))),
        ratio: Report.round(
          Report.median(turns.map(({ ops }, turn) => ops / (first[turn]?.ops ?? NaN))),
          3
        ),
        cpuMicros: Report.round(leastMicros * dearer, 2),
        addedMicros: Report.round(leastMicros * (dearer - 1), 2)
      }
    })
  })

type Row = Effect.Effect.Success<ReturnType<typeof compare>>[number]

export const show = (rows: ReadonlyArray<Row>) =>
  Report.table(
    ["statements", "fibers", "ops/s", "ratio", "CPU us/op", "more"],
    rows.map((_) => [
      _.way,
      _.fibers,
      _.opsPerSecond,
      _.ratio.toFixed(3),
      _.cpuMicros.toFixed(2),
      _.addedMicros.toFixed(2)
    ])
  )

/** Against real servers. */
export const statements = (
  { Failover }: Index,
  cluster: PostgresCluster.PostgresCluster,
  options: Options
) =>
  Effect.gen(function* () {
    // With one reader there is as little to choose as on the writer.
    const [writer, reader] = cluster.nodes
    const sql = yield* sqlOf({ ...connectionOf(cluster, [writer, reader]), maxConnections: 16 })
    const ways: ReadonlyArray<Way> = [
      { name: "on the writer", statement: () => sql`SELECT 1` },
      { name: "each in an onReader", statement: () => Failover.onReader(sql`SELECT 1`) },
      { name: "all in one onReader", statement: () => sql`SELECT 1`, within: Failover.onReader() }
    ]
    return (yield* Effect.forEach([1, 16], (fibers) => compare(ways, fibers, options))).flat()
  })

/** Answers everything at once, and by `isWriter` whether it is the writer. */
const instantSession = (host: Host.Host, isWriter: boolean): Connector.Session => ({
  host,
  openedAt: 0,
  isOpen: () => true,
  onClose: () => {},
  execute: () => Effect.succeed([[isWriter]]),
  submit: (_, done) => {
    queueMicrotask(() => done(undefined, []))
    return () => {}
  },
  stream: () => Stream.empty,
  notifications: Stream.never,
  destroy: () => {}
})

const instantDialect: Dialect.Dialect = {
  name: "instant",
  detect: () => Effect.succeed(true),
  isWriter: (query) => Effect.map(query("role"), ([row]) => row?.[0] === true),
  observe: (query, { probed }) =>
    Effect.map(query("role"), ([row]) => ({
      probed,
      host: probed,
      role: row?.[0] === true ? "writer" : "reader",
      serverEpoch: 1n,
      incarnation: "1"
    })),
  freshness: {
    position: () => Effect.succeed("1"),
    reached: (_, positions) => Effect.succeed(positions.length)
  }
}

const instantClient = (library: Index, options: Partial<SqlFailover.Options>) =>
  Effect.gen(function* () {
    const { ErrorClassifier, Host, HostPool, SqlFailover, SqlTopologySource, Topology } = library
    const hosts = Array.from({ length: 1 + READERS }, (_, i) => {
      const name = `db-${i}`
      return Host.make({ host: name, port: 5432, id: name })
    })
    const connector: Connector.Connector = {
      system: "postgresql",
      connect: (host) =>
        Effect.sync(() => instantSession(host, Host.isSame(host, hosts[0] ?? host)))
    }
    const classifier = ErrorClassifier.make(ErrorClassifier.postgres)
    const connectTimeout = Duration.seconds(5)
    const source = SqlTopologySource.make({
      connector,
      dialects: [instantDialect],
      classifier,
      connectTimeout,
      hostOf: (name) => Either.right(Host.make({ host: name, port: 5432, id: name }))
    })
    const topology = yield* Topology.make({ clusterId: "instant", seeds: hosts, source })
    const { client } = yield* SqlFailover.make({
      topology,
      connector,
      classifier,
      dialect: source.dialect,
      compiler: PgClient.makeCompiler(),
      spanAttributes: [],
      connectTimeout,
      pool: {
        maxConnections: HostPool.DEFAULT_MAX_CONNECTIONS,
        minConnections: 0,
        acquireTimeout: HostPool.DEFAULT_ACQUIRE_TIMEOUT,
        idleTimeout: HostPool.DEFAULT_IDLE_TIMEOUT,
        connectionTTL: HostPool.DEFAULT_CONNECTION_TTL
      },
      ...options
    })
    return client
  }).pipe(Effect.provide(Reactivity.layer))

/** On sessions that answer at once, so that nothing but our own code is left. */
export const routing = (library: Index, options: Options) =>
  Effect.gen(function* () {
    const { Failover } = library
    const sql = yield* instantClient(library, {})
    const byDefault = yield* instantClient(library, { failoverMode: "reader-or-writer" })
    const fresh = Failover.onReader({ maxStaleness: "10 seconds" })
    const statement = () => sql`SELECT 1`
    return yield* compare(
      [
        { name: "on the writer", statement },
        { name: "by failoverMode", statement: () => byDefault`SELECT 1` },
        { name: "each in an onReader", statement: () => Failover.onReader(statement()) },
        { name: "all in one onReader", statement, within: Failover.onReader() },
        { name: "all in one onReader, maxStaleness", statement, within: fresh }
      ],
      1,
      options
    )
  })
