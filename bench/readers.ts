/**
 * What reading from readers costs, and what choosing well among them gains.
 *
 * - `statements`: one client against real servers, on the writer and on a reader.
 * - `routing`: the same on sessions that answer at once, so that nothing but our own code is left. What a statement
 *   costs more than one on the writer is what routing adds: 2 us are the bar.
 * - `load`: three readers, one of which takes three times as long, under arrivals that do not wait for answers. Each way
 *   of choosing gets the very same arrivals.
 */
import { Reactivity } from "@effect/experimental"
import { SqlClient, type SqlError } from "@effect/sql"
import { PgClient } from "@effect/sql-pg"
import {
  Console,
  Context,
  Duration,
  Effect,
  Either,
  FiberRef,
  Layer,
  Random,
  type Scope,
  Stream
} from "effect"
import { performance } from "node:perf_hooks"
import { pathToFileURL } from "node:url"
import { bundle } from "../scripts/bundle.js"
import type { Connector, Dialect, Host, SqlFailover } from "../src/index.js"
import type { PgLayerError, PgOptions } from "../src/layers/Pg.js"
import * as PostgresCluster from "../src/testing/PostgresCluster.js"
import * as Library from "./library.js"
import type { Options } from "./options.js"
import * as Report from "./report.js"

const READERS = 3
const WARM_UP_SECONDS = 1

/** A round is cut into so many turns of each way: what disturbs for a moment does not hit one alone. */
const TURNS = 20

/** What is compared, compiled. It shares its fiber references and tags with the layers, by their names. */
const loadIndex = Effect.flatMap(bundle("src/index.ts"), (file) =>
  Effect.promise((): Promise<typeof import("../src/index.js")> => import(pathToFileURL(file).href))
)

type Index = Effect.Effect.Success<typeof loadIndex>

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

const show = (rows: ReadonlyArray<Row>) =>
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

const sqlOf = (options: PgOptions) =>
  Effect.gen(function* () {
    const { layer } = yield* Library.load
    return Context.get(yield* Layer.build(layer(options)), SqlClient.SqlClient)
  })

const statements = (
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

const connectionOf = (
  cluster: PostgresCluster.PostgresCluster,
  nodes: ReadonlyArray<PostgresCluster.Node | undefined> = cluster.nodes
) => ({
  // Straight to the servers: the nodes' proxies live in this process.
  hosts: nodes.flatMap((node) => (node === undefined ? [] : `${node.host}:${node.serverPort}`)),
  database: cluster.database,
  username: cluster.username,
  password: cluster.password
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

/** A scope costs what any fiber reference costs: it is shown beside `onReader`, which is one. */
const aside = FiberRef.unsafeMake<unknown>(undefined)

const routing = (library: Index, options: Options) =>
  Effect.gen(function* () {
    const { Failover } = library
    const sql = yield* instantClient(library, {})
    const byDefault = yield* instantClient(library, { failoverMode: "reader-or-writer" })
    const fresh = Failover.onReader({ maxStaleness: "10 seconds" })
    const statement = () => sql`SELECT 1`
    const ways: ReadonlyArray<Way> = [
      { name: "on the writer", statement },
      { name: "by failoverMode", statement: () => byDefault`SELECT 1` },
      { name: "all in one onReader", statement, within: Failover.onReader() },
      { name: "all in one onReader, maxStaleness", statement, within: fresh }
    ]
    const scoped: ReadonlyArray<Way> = [
      {
        name: "on the writer, each in a scope",
        statement: () => Effect.locally(statement(), aside, 1)
      },
      { name: "each in an onReader", statement: () => Failover.onReader(statement()) }
    ]
    return [...(yield* compare(ways, 1, options)), ...(yield* compare(scoped, 1, options))]
  })

/**
 * How much of the readers' capacity is asked for. By chance alone, the slow one gets a third of the reads, and has a
 * seventh of the capacity: it is overloaded from 43 % on.
 */
const LOADS = [0.3, 0.9]
const LOAD_ROUNDS = 3
const LOAD_SECONDS = 10

/** Statements that each reader works on at the same time. */
const CONNECTIONS = 8
/** Long beside the time that a busy machine takes to wake a process, which would be a load of its own. */
const SERVICE_SECONDS = 0.1
const TIMES_SLOWER = 3

/** Statements per second that the readers get done. */
const CAPACITY = (CONNECTIONS / SERVICE_SECONDS) * (READERS - 1 + 1 / TIMES_SLOWER)

/** Milliseconds at which reads are due, with exponential gaps. The same for the same seed. */
const arrivals = (
  { HostSelector }: Index,
  load: number,
  seconds: number,
  seed: string
): Effect.Effect<ReadonlyArray<number>> =>
  Effect.map(HostSelector.makeChance, (chance) => {
    const all: Array<number> = []
    for (let at = 0; at < seconds; at -= Math.log(1 - chance()) / (load * CAPACITY)) {
      all.push(at * 1000)
    }
    return all
  }).pipe(Effect.withRandom(Random.make(seed)))

interface Chooser {
  readonly name: string
  readonly read: Effect.Effect<{ readonly isSlow: boolean }, SqlError.SqlError>
}

/** How long each took, from the moment at which it was due: what comes late has waited for its own lateness, too. */
const serve = ({ read }: Chooser, due: ReadonlyArray<number>) =>
  Effect.suspend(() => {
    const began = performance.now()
    const elapsed = () => performance.now() - began
    return Effect.forEach(
      due,
      (at) =>
        Effect.suspend(() => Effect.delay(read, Math.max(0, at - elapsed()))).pipe(
          Effect.map(({ isSlow }) => ({ isSlow, millis: elapsed() - at }))
        ),
      { concurrency: "unbounded" }
    )
  })

const choosers = (
  { Failover, Readers }: Index,
  cluster: PostgresCluster.PostgresCluster
): Effect.Effect<ReadonlyArray<Chooser>, PgLayerError, Scope.Scope> =>
  Effect.gen(function* () {
    const slow = cluster.nodes.at(-1)?.id
    const readsOf = (readerHostSelector: string) =>
      Effect.map(
        sqlOf({ ...connectionOf(cluster), maxConnections: CONNECTIONS, readerHostSelector }),
        (sql) =>
          // Drawn by the server: what makes a read long is its host at that moment, and not the read.
          sql<{ readonly isSlow: boolean }>`
            WITH host AS (SELECT current_setting('cluster_name') = ${slow} AS "isSlow")
            SELECT "isSlow", pg_sleep(
              -ln(1 - random()) * ${SERVICE_SECONDS}::float8
                * CASE WHEN "isSlow" THEN ${TIMES_SLOWER}::int ELSE 1 END
            )::text
            FROM host`.pipe(
            Failover.onReader(),
            Effect.map(([row]) => ({ isSlow: row?.isSlow === true }))
          )
      )
    return [
      { name: "random", read: yield* readsOf("random") },
      { name: "twoChoices", read: yield* readsOf("twoChoices") },
      { name: "twoChoices, hedged", read: Readers.hedged(yield* readsOf("twoChoices")) }
    ]
  })

const load = (library: Index, cluster: PostgresCluster.PostgresCluster, { seconds }: Options) =>
  Effect.gen(function* () {
    const all = yield* choosers(library, cluster)
    // All connections are open, and hedging knows how long reads take.
    const warmUp = Array.from({ length: 60 }, () => 0)
    for (const chooser of all) yield* serve(chooser, warmUp)
    return (yield* Effect.forEach(LOADS, (utilisation) =>
      Effect.gen(function* () {
        const measured = all.map((): Array<Latencies> => [])
        for (let round = 0; round < LOAD_ROUNDS; round++) {
          const due = yield* arrivals(library, utilisation, LOAD_SECONDS * seconds, `${round}`)
          for (const [i, chooser] of all.entries()) {
            measured[i]?.push(latenciesOf(yield* serve(chooser, due)))
          }
        }
        return all.map(({ name }, i) => {
          const middle = (figure: keyof Latencies, digits = 0) =>
            Report.round(Report.median((measured[i] ?? []).map((_) => _[figure])), digits)
          return {
            utilisation,
            selector: name,
            p50: middle("p50"),
            p95: middle("p95"),
            p99: middle("p99"),
            onSlow: middle("onSlow", 2)
          }
        })
      })
    )).flat()
  })

interface Latencies {
  readonly p50: number
  readonly p95: number
  readonly p99: number
  /** The part that the slow reader answered. */
  readonly onSlow: number
}

const latenciesOf = (
  served: ReadonlyArray<{ readonly isSlow: boolean; readonly millis: number }>
): Latencies => {
  const millis = served.map((_) => _.millis)
  return {
    p50: Report.percentile(millis, 0.5),
    p95: Report.percentile(millis, 0.95),
    p99: Report.percentile(millis, 0.99),
    onSlow: served.filter((_) => _.isSlow).length / served.length
  }
}

export const measure = (options: Options) =>
  Effect.gen(function* () {
    const library = yield* loadIndex
    const cluster = yield* PostgresCluster.make({ nodes: 1 + READERS, replication: "asynchronous" })
    yield* Console.log(
      `${options.rounds} interleaved rounds of ${options.seconds} s for each way; medians of the turns' ratios`
    )
    const onServers = yield* statements(library, cluster, options)
    yield* show(onServers)
    yield* Console.log(`The same on sessions that answer at once, with ${READERS} readers`)
    const alone = yield* routing(library, options)
    yield* show(alone)
    yield* Console.log(
      `${READERS} readers, one of them ${TIMES_SLOWER} times as slow; medians of ${LOAD_ROUNDS} rounds of ${LOAD_SECONDS * options.seconds} s, in ms`
    )
    const underLoad = yield* load(library, cluster, options)
    yield* Report.table(
      ["utilisation", "selector", "p50", "p95", "p99", "on the slow one"],
      underLoad.map((_) => [_.utilisation, _.selector, _.p50, _.p95, _.p99, _.onSlow.toFixed(2)])
    )
    yield* Report.json(options.json, {
      readers: { statements: onServers, routing: alone, load: underLoad }
    })
  })
