/** One run of a scenario, from an empty cluster to a closed client, and all that it violated. */
import { Cause, Effect, Exit, Fiber, Random, Scope } from "effect"
import * as SimulatedCluster from "effect-failover/testing/SimulatedCluster"

import { History } from "../chaos/history.js"
import * as Client from "./client.js"
import type { Violation } from "./invariants.js"
import { Watch } from "./invariants.js"
import * as Operator from "./operator.js"
import type { Instruments } from "./runtime.js"
import { run } from "./runtime.js"
import type { Scenario } from "./scenario.js"
import type { Tally } from "./tally.js"
import { count } from "./tally.js"
import * as Workload from "./workload.js"

export interface Result {
  readonly violations: ReadonlyArray<Violation>
  readonly tally: Tally
  readonly log: ReadonlyArray<string>
}

/** Before the end: when the last piece of work of each client must succeed. */
const LAST_WORK = 10_000

/** How often each row is there. A write with a key comes twice and is there once. */
const rowsOf = (cluster: SimulatedCluster.SimulatedCluster): ReadonlyMap<number, number> => {
  const rows = new Map<number, number>()
  for (const { params, sql } of cluster.committed()) {
    const [id] = params
    if (typeof id !== "number" || !/work \(id\)/.test(sql)) continue
    rows.set(id, sql.includes("keyed_work") ? 1 : (rows.get(id) ?? 0) + 1)
  }
  return rows
}

const program = (scenario: Scenario, watch: Watch, instruments: Instruments) =>
  Effect.gen(function* () {
    const { elapsed } = instruments
    const history = new History()
    const cluster = yield* SimulatedCluster.make({
      hosts: Array.from({ length: scenario.hosts }, (_, i) => `db-${i + 1}`),
      flavor: scenario.flavor,
      replication: "synchronous",
      latency: { least: scenario.latency[0], most: scenario.latency[1] },
      promotionTime: scenario.promotionTime,
      answer: Workload.answer
    }).pipe(Effect.withRandom(Random.make(`${scenario.seed}/network`)))
    const operator = Operator.make(cluster, {
      flavor: scenario.flavor,
      promotionTime: scenario.promotionTime,
      elapsed,
      note: watch.note,
      happened: (kind) => count(watch.tally.faults, kind)
    })
    watch.begin({ elapsed, cluster, operator })

    const scope = yield* Scope.make()
    const clients = yield* Effect.forEach(
      Array.from({ length: scenario.clients }, (_, i) => i),
      (i) => Client.make(cluster, watch, i)
    ).pipe(Scope.extend(scope))

    const until = (at: number) => Effect.sleep(Math.max(0, at - elapsed()))
    const perform = Workload.make({ watch, history, clients })
    /** Each item at its time, whatever became of the others. */
    const all = <A extends { readonly at: number }>(
      items: ReadonlyArray<A>,
      run: (item: A) => Effect.Effect<void>
    ) =>
      Effect.fork(
        Effect.gen(function* () {
          const fibers: Array<Fiber.RuntimeFiber<void>> = []
          for (const item of items) {
            yield* until(item.at)
            fibers.push(yield* Effect.fork(run(item)))
          }
          yield* Fiber.awaitAll(fibers)
        })
      )
    const faults = yield* all(scenario.faults, operator.make)
    const work = yield* all(scenario.work, perform)

    yield* until(scenario.healedAt)
    yield* Fiber.interrupt(faults)
    watch.note("operator: heal everything")
    yield* operator.heal

    yield* until(scenario.endsAt - LAST_WORK)
    if (work.unsafePoll() === null) {
      watch.violate("deadlines", "work was not told anything until the end")
      yield* Fiber.interrupt(work)
    }
    for (const client of clients) yield* perform(lastWork(client.index))
    yield* until(scenario.endsAt)
    watch.checkMonitors()

    for (const { index, stats } of clients) {
      const { idle, open, waiting } = stats()
      if (open > idle || waiting > 0) {
        watch.violate(
          "nothing leaks",
          `client ${index}: nobody works, and ${open - idle} connections are in use, ${waiting} waited for`
        )
      }
    }
    for (const { index, readers } of clients) {
      for (const { host, outstanding } of yield* readers.hosts) {
        if (outstanding > 0) {
          watch.violate(
            "nothing leaks",
            `client ${index}: nobody works, and ${outstanding} statements are outstanding on ${host.id}`
          )
        }
      }
    }
    const before = elapsed()
    yield* Scope.close(scope, Exit.void)
    if (elapsed() > before) {
      watch.violate("nothing leaks", `the clients took ${elapsed() - before} ms to close`)
    }
    for (const { index, stats } of clients) {
      const { open, waiting } = stats()
      if (open > 0 || waiting > 0) {
        watch.violate("nothing leaks", `client ${index}'s pool: ${open} open, ${waiting} waiting`)
      }
    }
    const sessions = cluster.sessions()
    if (sessions > 0) watch.violate("nothing leaks", `${sessions} sessions are still open`)

    watch.checkServerLog()
    for (const text of history.violations(rowsOf(cluster))) watch.violate("history", text)
  }).pipe(Effect.scoped)

const lastWork = (client: number) => ({ at: 0, client, kind: "last", writes: 1, think: 0 }) as const

export const simulate = (
  scenario: Scenario,
  options: { readonly log?: boolean | undefined } = {}
): Result => {
  const watch = new Watch(scenario, options.log ?? false)
  const ended = run((instruments) => program(scenario, watch, instruments), {
    random: Random.make(`${scenario.seed}/client`),
    limit: scenario.endsAt + Workload.END_BOUND,
    afterTask: watch.afterTask
  })
  if (ended.stuck !== undefined) {
    watch.violate("virtual time goes on", ended.stuck)
  } else {
    if (ended.exit !== undefined && Exit.isFailure(ended.exit)) {
      watch.violate("virtual time goes on", Cause.pretty(ended.exit.cause))
    }
    if (ended.sleepers > 0) watch.violate("nothing leaks", `${ended.sleepers} still sleep`)
    if (ended.fibers > 0) watch.violate("nothing leaks", `${ended.fibers} fibers still live`)
  }
  watch.tally.seeds = 1
  watch.tally.elapsed = ended.elapsed
  watch.tally.tasks = ended.tasks
  return { violations: watch.violations, tally: watch.tally, log: watch.log }
}
