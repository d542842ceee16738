/** One chaos run: the cluster, the clients, the work under faults, and the check. */
import { Reactivity } from "@effect/experimental"
import { Clock, Duration, Effect, Fiber, Random, Schedule } from "effect"
import { CommitResolution } from "effect-failover"
import * as Pg from "effect-failover/layers/Pg"
import * as PostgresCluster from "effect-failover/testing/PostgresCluster"
import * as Faults from "./faults.js"
import { History } from "./history.js"
import type { Options } from "./options.js"
import { KEYED, TABLE, worker } from "./workload.js"
import type { Clients } from "./workload.js"

export interface Result {
  readonly seed: number
  readonly flavor: PostgresCluster.Flavor
  readonly seconds: number
  readonly kills: number
  readonly replyDrops: number
  readonly faults: Readonly<Record<string, number>>
  readonly work: number
  /** By kind of work, then by signal. */
  readonly outcomes: Readonly<Record<string, Readonly<Record<string, number>>>>
  readonly violations: ReadonlyArray<string>
}

const WORKERS = 12

const APP = "effect-failover-chaos"

/** The work that is under way when the last fault is over needs a failover or two, not a minute. */
const END_BOUND = Duration.minutes(1)

const clientsOf = (cluster: PostgresCluster.PostgresCluster) =>
  Effect.gen(function* () {
    const options: Pg.PgOptions = {
      hosts: cluster.nodes.map(({ host, port }) => `${host}:${port}`),
      database: cluster.database,
      username: cluster.username,
      password: cluster.password,
      applicationName: APP,
      topologyRefreshRate: "300 millis",
      connectTimeout: "1 second",
      ...(cluster.flavor === "aurora"
        ? {
            instanceHostPattern: "?.cluster.test:5432",
            translateAddress: ({ id, host, port }) =>
              cluster.nodes.find((_) => _.id === id) ?? { host, port }
          }
        : {})
    }
    const clients: Clients = {
      plain: yield* Pg.make(options),
      ledger: yield* Pg.make({ ...options, commitResolution: CommitResolution.ledger() }),
      status:
        cluster.flavor === "aurora"
          ? undefined
          : yield* Pg.make({ ...options, commitResolution: "transaction-status" })
    }
    return clients
  })

/** What nobody handled is a defect that no Effect shows. */
const unhandled = Effect.acquireRelease(
  Effect.sync(() => {
    const seen: Array<string> = []
    const note = (cause: unknown) => {
      seen.push(
        `unhandled: ${cause instanceof Error ? (cause.stack ?? cause.message) : String(cause)}`
      )
    }
    process.on("unhandledRejection", note)
    process.on("uncaughtException", note)
    return { seen, note }
  }),
  ({ note }) =>
    Effect.sync(() => {
      process.off("unhandledRejection", note)
      process.off("uncaughtException", note)
    })
)

/** Every row of both tables, once nothing of the clients is under way any more. */
const rows = (cluster: PostgresCluster.PostgresCluster) =>
  Effect.gen(function* () {
    const primary = yield* cluster.primary
    yield* cluster
      .query(
        primary,
        "select 1 from pg_stat_activity where application_name = $1 and xact_start is not null",
        [APP]
      )
      .pipe(
        Effect.filterOrFail(
          (busy) => busy.length === 0,
          () => new Error("work of the clients is still under way at the server")
        ),
        Effect.retry(Schedule.spaced("20 millis").pipe(Schedule.upTo(END_BOUND)))
      )
    const found = yield* cluster.query(
      primary,
      `select id::int as id, count(*)::int as n
       from (select id from ${TABLE} union all select id from ${KEYED}) as written group by id`
    )
    return new Map(found.map(({ id, n }) => [Number(id), Number(n)]))
  })

export const run = ({ flavor, seconds, seed }: Options): Effect.Effect<Result, unknown> =>
  Effect.gen(function* () {
    const { seen } = yield* unhandled
    const cluster = yield* PostgresCluster.make({ nodes: 3, flavor })
    yield* cluster.query(
      yield* cluster.primary,
      `create table ${TABLE} (id bigint); create table ${KEYED} (id bigint primary key);
       ${CommitResolution.ledgerTable()}`
    )
    const clients = yield* clientsOf(cluster)
    const history = new History()
    const tally = Faults.noTally()
    const end = (yield* Clock.currentTimeMillis) + seconds * 1000
    const clock = yield* Effect.clock
    let storming = true
    const workers = yield* Effect.fork(
      Effect.forEach(
        Array.from({ length: WORKERS }, (_, i) => i),
        (i) => worker(clients, history, { seed: `${seed}/${i}`, isOver: () => !storming }),
        { concurrency: "unbounded", discard: true }
      )
    )
    yield* Faults.storm(cluster, {
      app: APP,
      random: Random.make(`${seed}/faults`),
      tally,
      isOver: () => clock.unsafeCurrentTimeMillis() >= end
    }).pipe(Effect.ensuring(Effect.sync(() => (storming = false))))
    const ended = yield* Effect.timeoutOption(Effect.disconnect(Fiber.join(workers)), END_BOUND)
    const violations = history.violations(yield* rows(cluster))
    return {
      seed,
      flavor,
      seconds,
      kills: tally.kills,
      replyDrops: tally.replyDrops,
      faults: tally.faults,
      work: history.size,
      outcomes: history.counts(),
      violations: [
        ...(ended._tag === "None"
          ? [`work was not told anything ${Duration.format(END_BOUND)} after the last fault`]
          : []),
        ...violations,
        ...seen
      ]
    }
  }).pipe(Effect.scoped, Effect.provide(Reactivity.layer))
