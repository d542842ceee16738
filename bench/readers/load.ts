/** What choosing well gains: readers, one of which is slow, under arrivals that do not wait for answers. */
import type { SqlError } from "@effect/sql"
import type { Scope } from "effect"
import { Effect, Random } from "effect"
import { performance } from "node:perf_hooks"
import type { PgLayerError } from "../../src/layers/Pg.js"
import type * as PostgresCluster from "../../src/testing/PostgresCluster.js"
import type { Options } from "../options.js"
import * as Report from "../report.js"
import type { Index } from "./clients.js"
import { connectionOf, READERS, sqlOf } from "./clients.js"

/**
 * How much of the readers' capacity is asked for. By chance alone, the slow one gets a third of the reads, and has a
 * seventh of the capacity: it is overloaded from 43 % on.
 */
const LOADS = [0.3, 0.9]
export const LOAD_ROUNDS = 3
export const LOAD_SECONDS = 10

/** Statements that each reader works on at the same time. */
const CONNECTIONS = 8
/** Long beside the time that a busy machine takes to wake a process, which would be a load of its own. */
const SERVICE_SECONDS = 0.1
export const TIMES_SLOWER = 3

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

/** Each way of choosing gets the very same arrivals. */
export const load = (
  library: Index,
  cluster: PostgresCluster.PostgresCluster,
  { seconds }: Options
) =>
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
