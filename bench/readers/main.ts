/**
 * What reading from readers costs, and what choosing well among them gains.
 *
 * - `statements`: one client against real servers, on the writer and on a reader.
 * - `routing`: the same on sessions that answer at once, so that nothing but our own code is left. What a statement
 *   costs more than one on the writer is what routing adds: 2 us are the bar.
 * - `load`: three readers, one of which takes three times as long, under arrivals that do not wait for answers. Each way
 *   of choosing gets the very same arrivals.
 */
import { Console, Effect } from "effect"
import * as PostgresCluster from "../../src/testing/PostgresCluster.js"
import type { Options } from "../options.js"
import * as Report from "../report.js"
import { loadIndex, READERS } from "./clients.js"
import { load, LOAD_ROUNDS, LOAD_SECONDS, TIMES_SLOWER } from "./load.js"
import { routing, show, statements } from "./routing.js"

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
