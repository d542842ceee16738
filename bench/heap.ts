/**
 * Does the library keep anything? The heap after many statements and after many failovers, against the heap once it is
 * warm; and what the process still holds open.
 */
import { SqlClient } from "@effect/sql"
import { Console, Effect, Exit, Fiber } from "effect"
import { setFlagsFromString } from "node:v8"
import { runInNewContext } from "node:vm"
import * as PostgresCluster from "../src/testing/PostgresCluster.js"
import { layerOf } from "./database.js"
import * as Drill from "./drill.js"
import type { Options } from "./options.js"
import * as Report from "./report.js"

const FIBERS = 16
const ROWS = 1_000

/** Code is compiled, shapes and caches are there. */
const WARM_UP_STATEMENTS = 20_000
const WARM_UP_FAILOVERS = 2

/** Growth up to the larger of these is the noise of a garbage-collected heap. */
const NOISE_RATIO = 0.1
const NOISE_MB = 5

/** What a failover leaves behind is gone by then: closed sockets, finished fibers, timers of a few hundred ms. */
const SETTLE = "2 seconds"

// The flag can be set in a running process: no second process that a Ctrl-C would have to reach.
setFlagsFromString("--expose-gc")
const collectGarbage = runInNewContext("gc") as () => void

interface Snapshot {
  readonly name: string
  readonly heapMb: number
  /** Sockets, timers and the like by their type. */
  readonly resources: ReadonlyMap<string, number>
}

const snapshot = (name: string): Effect.Effect<Snapshot> =>
  Effect.gen(function* () {
    yield* Effect.sleep(SETTLE)
    // Twice, with a turn of the event loop between: finalizers free what the first one found.
    collectGarbage()
    yield* Effect.sleep("50 millis")
    collectGarbage()
    const resources = new Map<string, number>()
    for (const type of process.getActiveResourcesInfo()) {
      resources.set(type, (resources.get(type) ?? 0) + 1)
    }
    return { name, heapMb: process.memoryUsage().heapUsed / 2 ** 20, resources }
  })

/** A lookup each; every tenth one writes, in a transaction. */
const statement = (sql: SqlClient.SqlClient, n: number) =>
  n % 10 === 0
    ? sql.withTransaction(sql`UPDATE item SET name = ${`item ${n}`} WHERE id = ${n % ROWS}`)
    : sql`SELECT id, name FROM item WHERE id = ${n % ROWS}`

const runStatements = (sql: SqlClient.SqlClient, count: number) => {
  let done = 0
  const loop = Effect.whileLoop({
    while: () => done < count,
    body: () => statement(sql, ++done),
    step: () => {}
  })
  return Effect.forEach(Array.from({ length: FIBERS }), () => loop, {
    concurrency: "unbounded",
    discard: true
  })
}

/** Under load, since it is the statements cut off that might be kept. */
const runFailovers = (
  cluster: PostgresCluster.PostgresCluster,
  sql: SqlClient.SqlClient,
  count: number
) =>
  Effect.gen(function* () {
    let stopped = false
    let n = 0
    const loop = Effect.whileLoop({
      while: () => !stopped,
      body: () => Effect.exit(statement(sql, n++)),
      step: (exit) => void Exit.isSuccess(exit)
    })
    const load = yield* Effect.forEach(Array.from({ length: FIBERS }), () => Effect.fork(loop))
    for (let i = 0; i < count; i++) {
      const { node } = yield* Drill.kill(cluster)
      yield* cluster.promote()
      yield* sql`SELECT 1`.pipe(Effect.retry({ times: 3 }))
      yield* cluster.rejoin(node)
    }
    stopped = true
    yield* Fiber.joinAll(load)
  })

const show = (snapshots: ReadonlyArray<Snapshot>) => {
  const first = snapshots[0]?.heapMb ?? NaN
  return Report.table(
    ["", "heap MB", "growth MB", "ratio", "open"],
    snapshots.map(({ heapMb, name, resources }) => [
      name,
      heapMb.toFixed(1),
      (heapMb - first).toFixed(1),
      (heapMb / first).toFixed(3),
      [...resources].map(([type, count]) => `${count} ${type}`).join(", ")
    ])
  )
}

export const run = (options: Options) =>
  Effect.gen(function* () {
    const cluster = yield* PostgresCluster.make({ nodes: 3, flavor: options.flavor })
    yield* cluster.query(
      yield* cluster.primary,
      `create table item (id integer primary key, name text not null);
       insert into item select n, 'item ' || n from generate_series(0, ${ROWS - 1}) n`
    )
    yield* Effect.provide(measured(cluster, options), yield* layerOf(cluster, FIBERS))
  })

const measured = (cluster: PostgresCluster.PostgresCluster, options: Options) =>
  Effect.gen(function* () {
    const sql = yield* SqlClient.SqlClient
    yield* runStatements(sql, WARM_UP_STATEMENTS)
    yield* runFailovers(cluster, sql, WARM_UP_FAILOVERS)
    const before = yield* snapshot("warm")
    yield* runStatements(sql, options.statements)
    const statements = yield* snapshot(`after ${options.statements} statements`)
    yield* runFailovers(cluster, sql, options.failovers)
    const failovers = yield* snapshot(`after ${options.failovers} failovers`)

    yield* show([before, statements, failovers])
    const allowed = Math.max(before.heapMb * NOISE_RATIO, NOISE_MB)
    const growth = Math.max(statements.heapMb, failovers.heapMb) - before.heapMb
    yield* Console.log(`growth ${growth.toFixed(1)} MB; up to ${allowed.toFixed(1)} MB is noise`)
    const mb = (snapshot: Snapshot) => Report.round(snapshot.heapMb, 2)
    const resources = (snapshot: Snapshot) => Object.fromEntries(snapshot.resources)
    yield* Report.json(options.json, {
      heap: {
        statements: options.statements,
        failovers: options.failovers,
        beforeMb: mb(before),
        afterStatementsMb: mb(statements),
        afterFailoversMb: mb(failovers),
        resources: {
          before: resources(before),
          afterStatements: resources(statements),
          afterFailovers: resources(failovers)
        }
      }
    })
    if (growth > allowed) yield* Report.fail("the heap grew")
  })
