/**
 * What a request costs more over `layers/Arango` than over the HttpClient below it, for each of the three. The two take
 * turns in short slots, each round gives two ratios, of the throughputs and of the CPU time of a request, and the medians
 * of the rounds' ratios count. On a busy machine only the latter means something.
 *
 * What the layer listens to stays while the bare client runs, and costs that less than 0.1 us for a request.
 *
 * The server is another process, so that the CPU time of this one is the clients' alone. It answers every request with
 * the same small document.
 */
import { FetchHttpClient, HttpBody, HttpClient } from "@effect/platform"
import { NodeHttpClient } from "@effect/platform-node"
import { Console, Effect, Layer } from "effect"
import { spawn } from "node:child_process"
import { performance } from "node:perf_hooks"
import * as Library from "./library.js"
import type { Options } from "./options.js"
import * as Report from "./report.js"

const FIBERS = [1, 16]
const WARM_UP_SECONDS = 1

/** A round is cut into so many turns of each client: what disturbs for a moment does not hit one alone. */
const TURNS = 20

const transports = {
  "node:http": NodeHttpClient.layer,
  undici: NodeHttpClient.layerUndici,
  fetch: FetchHttpClient.layer
}

const program = `
  const body = JSON.stringify({ _key: "1", _id: "items/1", _rev: "_1", name: "item 1" })
  const headers = { "content-type": "application/json", "content-length": body.length }
  require("node:http")
    .createServer((request, response) => {
      request.resume()
      request.on("end", () => response.writeHead(200, headers).end(body))
    })
    .listen(0, "127.0.0.1", function () { console.log(this.address().port) })
`

const server = Effect.acquireRelease(
  Effect.async<{ readonly port: number; readonly stop: () => void }>((resume) => {
    const child = spawn(process.execPath, ["-e", program], { stdio: ["ignore", "pipe", "inherit"] })
    child.stdout.once("data", (line: Buffer) =>
      resume(Effect.succeed({ port: Number(line.toString()), stop: () => child.kill() }))
    )
  }),
  ({ stop }) => Effect.sync(stop)
)

interface Contender {
  readonly client: HttpClient.HttpClient
  readonly url: string
}

interface Measured {
  readonly ops: number
  readonly cpuMicros: number
}

const run = ({ client, url }: Contender, fibers: number, seconds: number) =>
  Effect.suspend(() => {
    const before = process.cpuUsage()
    const until = performance.now() + seconds * 1000
    let ops = 0
    const request = Effect.flatMap(
      client.post(url, { body: HttpBody.unsafeJson({ n: 1 }) }),
      (response) => response.text
    )
    const loop = Effect.whileLoop({
      while: () => performance.now() < until,
      body: () => request,
      step: () => ops++
    })
    return Effect.map(
      Effect.forEach(Array.from({ length: fibers }), () => loop, {
        concurrency: "unbounded",
        discard: true
      }),
      (): Measured => {
        const { system, user } = process.cpuUsage(before)
        return { ops, cpuMicros: system + user }
      }
    )
  })

const sum = (all: ReadonlyArray<Measured>): Measured => ({
  ops: all.reduce((total, { ops }) => total + ops, 0),
  cpuMicros: all.reduce((total, { cpuMicros }) => total + cpuMicros, 0)
})

const compare = (
  transport: string,
  bare: Contender,
  ours: Contender,
  fibers: number,
  { rounds, seconds }: Options
) =>
  Effect.gen(function* () {
    yield* run(bare, fibers, WARM_UP_SECONDS)
    yield* run(ours, fibers, WARM_UP_SECONDS)
    const all: Array<{ readonly bare: Measured; readonly ours: Measured }> = []
    for (let i = 0; i < rounds; i++) {
      const turns: { bare: Array<Measured>; ours: Array<Measured> } = { bare: [], ours: [] }
      for (let turn = 0; turn < TURNS; turn++) {
        // Every other turn in reverse: nobody always comes after the same neighbour.
        const order = turn % 2 === 0 ? (["bare", "ours"] as const) : (["ours", "bare"] as const)
        for (const who of order) {
          turns[who].push(yield* run(who === "bare" ? bare : ours, fibers, seconds / TURNS))
        }
      }
      all.push({ bare: sum(turns.bare), ours: sum(turns.ours) })
    }
    const ratios = all.map((_) => _.ours.ops / _.bare.ops)
    const micros = (_: Measured) => _.cpuMicros / _.ops
    return {
      transport,
      fibers,
      bareOpsPerSecond: Math.round(Report.median(all.map((_) => _.bare.ops / seconds))),
      opsPerSecond: Math.round(Report.median(all.map((_) => _.ours.ops / seconds))),
      ratio: Report.round(Report.median(ratios), 3),
      range: [Report.round(Math.min(...ratios), 3), Report.round(Math.max(...ratios), 3)] as const,
      cpuRatio: Report.round(Report.median(all.map((_) => micros(_.bare) / micros(_.ours))), 3),
      bareCpuMicros: Report.round(Report.median(all.map((_) => micros(_.bare))), 1),
      cpuMicros: Report.round(Report.median(all.map((_) => micros(_.ours))), 1)
    }
  })

export const measure = (options: Options) =>
  Effect.gen(function* () {
    const Arango = yield* Library.loadArango
    const { port } = yield* server
    const origin = `http://127.0.0.1:${port}`
    const path = "/_api/document/items"
    yield* Console.log(
      `${options.rounds} interleaved rounds of ${options.seconds} s for each client; medians of the rounds' ratios`
    )
    const rows = yield* Effect.forEach(Object.entries(transports), ([name, transport]) =>
      Effect.gen(function* () {
        const bare = yield* Effect.provide(HttpClient.HttpClient, yield* Layer.build(transport))
        // Two endpoints: the rules for several are in force. Nobody watches the second.
        const ours = yield* Arango.transform(bare, {
          endpoints: [origin, "http://127.0.0.1:9"],
          synchronize: false
        })
        return yield* Effect.forEach(FIBERS, (fibers) =>
          compare(
            name,
            { client: bare, url: origin + path },
            { client: ours, url: path },
            fibers,
            options
          )
        )
      }).pipe(Effect.scoped)
    ).pipe(Effect.map((_) => _.flat()))
    yield* Report.table(
      [
        "client",
        "fibers",
        "bare ops/s",
        "ops/s",
        "ratio",
        "(rounds)",
        "CPU ratio",
        "bare CPU us/op",
        "CPU us/op"
      ],
      rows.map((_) => [
        _.transport,
        _.fibers,
        _.bareOpsPerSecond,
        _.opsPerSecond,
        _.ratio.toFixed(3),
        `${_.range[0].toFixed(2)}-${_.range[1].toFixed(2)}`,
        _.cpuRatio.toFixed(3),
        _.bareCpuMicros,
        _.cpuMicros
      ])
    )
    yield* Report.json(options.json, { arango: rows.map(({ range: _, ...row }) => row) })
  })
