/**
 * How long after a new writer takes writes is the first write acknowledged, and does every writer learn the truth?
 */
import { SqlClient } from "@effect/sql"
import { Console, Effect, Option, Stream } from "effect"
import { Failover } from "../src/Failover.js"
import type { FailoverEvent } from "../src/Failover.js"
import * as PostgresCluster from "../src/testing/PostgresCluster.js"
import { layerOf } from "./database.js"
import * as Drill from "./drill.js"
import * as Ledger from "./ledger.js"
import * as Observer from "./observer.js"
import type { Options } from "./options.js"
import * as Report from "./report.js"

const WRITERS = 8

/** The cluster is whole again and the writers are at work: the next run begins like the first one. */
const CALM = "500 millis"

/** Without an acknowledged write for this long, the library is not recovering. */
const PATIENCE = "30 seconds"

/** Milliseconds. */
interface Run {
  /** From "accepts writes" to the first acknowledged write. */
  readonly recovery: number
  /** ... to "writer confirmed". */
  readonly find: number
  /** ... from there to "connected". */
  readonly connect: number
  /** ... from there to the first acknowledged write. */
  readonly write: number
  /** From "accepts writes" to the first commits of the observer, if there is one. */
  readonly local: number | undefined
  readonly durable: number | undefined
  readonly attempts: number
}

const millis = (nanos: bigint) => Number(nanos) / 1e6

/** The Clock's milliseconds of a moment of `process.hrtime`; the Clock's are whole ones. */
const clockMillis = (nanos: bigint) =>
  performance.timeOrigin + performance.now() - millis(process.hrtime.bigint() - nanos)

/** The stages of the failover that ended with a connection after the kill. */
const stagesOf = (events: ReadonlyArray<FailoverEvent>, killedAt: number) => {
  const since = events.filter(({ at }) => at >= killedAt)
  const end = since.findIndex(({ _tag }) => _tag === "Connected")
  const connected = since[end]
  const confirmed = since.slice(0, end).findLast(({ _tag }) => _tag === "WriterConfirmed")
  return connected?._tag === "Connected" && confirmed !== undefined
    ? { confirmed: confirmed.at, connected: connected.at, attempts: connected.recovered.attempts }
    : undefined
}

const oneRun = (
  cluster: PostgresCluster.PostgresCluster,
  ledger: Ledger.Ledger,
  events: ReadonlyArray<FailoverEvent>,
  { observe, synchronous }: Options
) =>
  Effect.gen(function* () {
    const observer = observe ? Option.some(yield* Observer.make(cluster)) : Option.none()
    const killed = yield* Drill.kill(cluster)
    const observed = yield* Effect.fork(
      Effect.transposeOption(Option.map(observer, (_) => _.firstCommit))
    )
    // The old primary has been gone for a while: whatever is acknowledged from here on, the new one did.
    const nextAck = yield* ledger.nextAck
    const { acceptsWritesAt } = yield* cluster.promote(undefined, { alone: !synchronous })
    const ack = yield* nextAck.pipe(
      Effect.timeoutFail({
        duration: PATIENCE,
        onTimeout: () => new Error(`no write was acknowledged within ${PATIENCE} of the promotion`)
      })
    )
    const commits = Option.getOrUndefined(yield* observed.await.pipe(Effect.flatten))
    yield* cluster.rejoin(killed.node)
    yield* Effect.sleep(CALM)
    const stages = stagesOf(events, killed.at)
    const accepts = clockMillis(acceptsWritesAt)
    const sinceAccepts = (at: bigint | undefined) =>
      at === undefined ? undefined : millis(at - acceptsWritesAt)
    return {
      recovery: millis(ack - acceptsWritesAt),
      find: (stages?.confirmed ?? NaN) - accepts,
      connect: (stages?.connected ?? NaN) - (stages?.confirmed ?? NaN),
      write: clockMillis(ack) - (stages?.connected ?? NaN),
      local: sinceAccepts(commits?.local),
      durable: sinceAccepts(commits?.durable),
      attempts: stages?.attempts ?? 0
    } satisfies Run
  }).pipe(Effect.scoped)

const cell = (value: number | undefined) => (value === undefined ? "-" : value.toFixed(1))

const show = (runs: ReadonlyArray<Run>) => {
  const row = (name: string | number, of: (pick: (run: Run) => number | undefined) => string) => [
    name,
    of((_) => _.recovery),
    of((_) => _.find),
    of((_) => _.connect),
    of((_) => _.write),
    of((_) => _.attempts),
    of((_) => _.local),
    of((_) => _.durable)
  ]
  const overall =
    (f: (values: ReadonlyArray<number>) => number) => (pick: (run: Run) => number | undefined) => {
      const values = runs.map(pick).filter((_) => _ !== undefined)
      return cell(values.length === 0 ? undefined : f(values))
    }
  return Report.table(
    ["run", "recovery", "= find", "+ connect", "+ write", "attempts", "local", "durable"],
    [
      ...runs.map((run, index) => row(index + 1, (pick) => cell(pick(run)))),
      row("median", overall(Report.median)),
      row(
        "p95",
        overall((_) => Report.percentile(_, 0.95))
      ),
      row(
        "max",
        overall((_) => Math.max(..._))
      )
    ]
  )
}

export const run = (options: Options) =>
  Effect.gen(function* () {
    const cluster = yield* PostgresCluster.make({ nodes: 3, flavor: options.flavor })
    yield* cluster.query(yield* cluster.primary, `${Ledger.createTable}; ${Observer.createTable}`)
    const layer = yield* layerOf(cluster, WRITERS, options.push)
    yield* Effect.provide(Effect.scoped(measured(cluster, options)), layer)
  })

const measured = (cluster: PostgresCluster.PostgresCluster, options: Options) =>
  Effect.gen(function* () {
    const sql = yield* SqlClient.SqlClient
    const failover = yield* Failover
    const events: Array<FailoverEvent> = []
    yield* Effect.fork(Stream.runForEach(failover.events, (_) => Effect.sync(() => events.push(_))))
    const ledger = yield* Ledger.start(sql, WRITERS)
    yield* Effect.sleep(CALM)

    const runs: Array<Run> = []
    for (let i = 0; i < options.runs; i++) {
      runs.push(yield* oneRun(cluster, ledger, events, options))
    }
    yield* ledger.stop
    const { acknowledged, defects, notExecuted, others, unknown } = ledger.told
    const verdict = yield* Ledger.verify(cluster, ledger.told)

    yield* Console.log(
      `${options.flavor}, push ${options.push}: ${options.runs} times SIGKILL to the primary under ${WRITERS} writers; milliseconds since the new writer accepts writes${options.synchronous ? ", whose commits wait for a standby from the first one on" : ""}`
    )
    yield* show(runs)
    yield* Report.table(
      ["writes", "", "in the database"],
      [
        [
          "acknowledged",
          acknowledged.length,
          `${verdict.lost} lost, ${verdict.duplicated} duplicated`
        ],
        ["fate unknown", unknown.length, "at most once"],
        ["not executed", notExecuted.length, `${verdict.ghosts} are there`],
        ["defects", defects.length, ""]
      ]
    )
    for (const [text, times] of others) yield* Console.log(`other errors: ${times} x ${text}`)
    for (const defect of defects.slice(0, 3)) yield* Console.error("defect:", defect)

    const recovery = runs.map((_) => _.recovery)
    const stage = (pick: (run: Run) => number) => Report.round(Report.median(runs.map(pick)), 1)
    yield* Report.json(options.json, {
      failover: {
        runs: runs.length,
        recoveryMs: {
          median: Report.round(Report.median(recovery), 1),
          p95: Report.round(Report.percentile(recovery, 0.95), 1),
          max: Report.round(Math.max(...recovery), 1)
        },
        stagesMs: {
          find: stage((_) => _.find),
          connect: stage((_) => _.connect),
          write: stage((_) => _.write)
        },
        acknowledged: acknowledged.length,
        lost: verdict.lost,
        duplicated: verdict.duplicated,
        ghosts: verdict.ghosts,
        unknown: unknown.length,
        defects: defects.length
      }
    })
    if (verdict.lost + verdict.duplicated + verdict.ghosts > 0) {
      yield* Report.fail("the database has not what the writers were told")
    }
  })
