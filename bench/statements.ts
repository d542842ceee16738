/**
 * How many statements per second, as ratios: the clients take turns in short slots, each round gives a ratio, and the
 * median of the rounds' ratios counts. What else the machine does meanwhile hits all of them.
 *
 * The CPU time of this process for one statement is what is left of a client when nothing else is on the machine: it
 * hardly depends on the neighbours, and tells where a ratio comes from.
 */
import { Console, Effect } from "effect"
import * as PostgresCluster from "../src/testing/PostgresCluster.js"
import * as Clients from "./clients.js"
import type { Options } from "./options.js"
import * as Report from "./report.js"

export interface Row {
  readonly work: Clients.Work
  readonly fibers: number
  readonly client: Clients.Name
  readonly opsPerSecond: number
  readonly vsSqlPg: number
  readonly vsPg: number
  readonly cpuMicros: number
  /** The lowest and highest of the rounds' ratios to sql-pg. */
  readonly range: readonly [number, number]
}

const WARM_UP_SECONDS = 1

/** A round is cut into so many turns of each client: what disturbs for a moment does not hit one alone. */
const TURNS = 8

interface Measured {
  readonly ops: number
  readonly cpuMicros: number
}

const measure = (
  client: Clients.Client,
  work: Clients.Work,
  fibers: number,
  seconds: number
): Effect.Effect<Measured> =>
  Effect.suspend(() => {
    const before = process.cpuUsage()
    return Effect.map(client.run(work, fibers, seconds), (ops) => {
      const { system, user } = process.cpuUsage(before)
      return { ops, cpuMicros: user + system }
    })
  })

const sum = (all: ReadonlyArray<Measured>): Measured => ({
  ops: all.reduce((total, { ops }) => total + ops, 0),
  cpuMicros: all.reduce((total, { cpuMicros }) => total + cpuMicros, 0)
})

const server = Effect.gen(function* () {
  const cluster = yield* PostgresCluster.make({ nodes: 1, replication: "asynchronous" })
  const node = yield* cluster.primary
  yield* cluster.query(
    node,
    `create table item (id integer primary key, name text not null);
     insert into item select n, 'item ' || n from generate_series(1, ${Clients.ITEMS}) n;
     analyze item`
  )
  return {
    host: "127.0.0.1",
    port: node.serverPort,
    database: cluster.database,
    username: cluster.username,
    password: cluster.password
  }
})

const compare = (
  clients: ReadonlyArray<Clients.Client>,
  work: Clients.Work,
  fibers: number,
  { rounds, seconds }: Options
): Effect.Effect<ReadonlyArray<Row>> =>
  Effect.gen(function* () {
    for (const client of clients) yield* client.run(work, fibers, WARM_UP_SECONDS)
    const measured = new Map(clients.map(({ name }) => [name, [] as Array<Measured>]))
    for (let i = 0; i < rounds; i++) {
      const round = new Map(clients.map(({ name }) => [name, [] as Array<Measured>]))
      for (let turn = 0; turn < TURNS; turn++) {
        // Every other turn in reverse: nobody always comes after the same neighbour.
        for (const client of turn % 2 === 0 ? clients : clients.toReversed()) {
          round.get(client.name)?.push(yield* measure(client, work, fibers, seconds / TURNS))
        }
      }
      for (const [name, turns] of round) measured.get(name)?.push(sum(turns))
    }
    const of = (name: Clients.Name) => measured.get(name) ?? []
    const ratios = (name: Clients.Name, to: Clients.Name) =>
      of(name).map(({ ops }, i) => ops / (of(to)[i]?.ops ?? NaN))
    return clients.map(({ name }) => ({
      work,
      fibers,
      client: name,
      opsPerSecond: Math.round(Report.median(of(name).map(({ ops }) => ops / seconds))),
      vsSqlPg: Report.round(Report.median(ratios(name, "sql-pg")), 3),
      vsPg: Report.round(Report.median(ratios(name, "pg")), 3),
      cpuMicros: Report.round(
        Report.median(of(name).map(({ cpuMicros, ops }) => cpuMicros / ops)),
        1
      ),
      range: [
        Report.round(Math.min(...ratios(name, "sql-pg")), 3),
        Report.round(Math.max(...ratios(name, "sql-pg")), 3)
      ]
    }))
  })

const show = (rows: ReadonlyArray<Row>) =>
  Report.table(
    ["work", "fibers", "client", "ops/s", "vs sql-pg", "(rounds)", "vs pg", "CPU us/op"],
    rows.map((_) => [
      _.work,
      _.fibers,
      _.client,
      _.opsPerSecond,
      _.vsSqlPg.toFixed(2),
      `${_.range[0].toFixed(2)}-${_.range[1].toFixed(2)}`,
      _.vsPg.toFixed(2),
      _.cpuMicros.toFixed(1)
    ])
  )

const published = ({ range: _, ...row }: Row) => row

export const run = (options: Options) =>
  Effect.gen(function* () {
    const clients = yield* Clients.make(yield* server)
    yield* Console.log(
      `${options.rounds} interleaved rounds of ${options.seconds} s for each client; medians of the rounds' ratios`
    )
    const measureBoth = (work: Clients.Work) =>
      Effect.map(
        Effect.forEach([1, 16], (fibers) => compare(clients, work, fibers, options)),
        (_) => _.flat()
      )
    const statements = [...(yield* measureBoth("select-1")), ...(yield* measureBoth("lookup"))]
    const transactions = yield* measureBoth("transaction")
    yield* show([...statements, ...transactions])
    yield* Report.json(options.json, {
      statements: statements.map(published),
      transactions: transactions.map(published)
    })
  })
