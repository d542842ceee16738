/** Points 10 to 20 of the conformance list, and 37 to 40: what is sent again, and what is told. */
import { HttpClient, HttpClientRequest } from "@effect/platform"
import { NodeHttpClient } from "@effect/platform-node"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber, Layer, Stream } from "effect"
import * as Net from "node:net"
import * as ArangoDouble from "effect-failover/testing/ArangoDouble"
import { Failover } from "effect-failover"
import * as Arango from "effect-failover/layers/Arango"
import { eventually } from "../support/waiting.js"
import { cert, key } from "./certificate.js"
import { asked, collection, connect, create, failure, transports } from "./support.js"

const { Fault } = ArangoDouble

const cluster = (nodes = 2) =>
  Effect.tap(ArangoDouble.make({ deployment: "cluster", nodes }), (double) => collection(double))

const executed = (double: ArangoDouble.ArangoDouble) =>
  Effect.map(double.log, (log) => log.filter((_) => _.operations.length > 0).length)

/** Far more than the kernel's buffers hold. */
const huge = new Uint8Array(64 * 1024 * 1024)

/** Accepts connections and does this with them. */
const listener = (onConnection: (socket: Net.Socket) => void) =>
  Effect.acquireRelease(
    Effect.async<Net.Server>((resume) => {
      const server = Net.createServer({ pauseOnConnect: true }, (socket) => {
        socket.on("error", () => {})
        onConnection(socket)
      })
      server.listen(0, "127.0.0.1", () => resume(Effect.succeed(server)))
    }),
    (server) => Effect.sync(() => server.close())
  ).pipe(Effect.map((server) => `http://127.0.0.1:${(server.address() as Net.AddressInfo).port}`))

for (const [name, transport] of Object.entries(transports)) {
  describe(`over ${name}`, () => {
    const clientOf = (double: ArangoDouble.ArangoDouble, options?: Partial<Arango.ArangoOptions>) =>
      connect(double.endpoints, options, transport)

    it.scopedLive("point 10: refused, a POST goes to the next endpoint", () =>
      Effect.gen(function* () {
        const double = yield* cluster()
        yield* double.kill(double.nodes[0])
        const { client } = yield* clientOf(double)
        assert.strictEqual((yield* create(client, "a")).status, 202)
      })
    )

    it.scopedLive(
      "point 10: a name that does not resolve, and one that resets, are passed over",
      () =>
        Effect.gen(function* () {
          const double = yield* cluster(1)
          const resets = yield* listener((socket) => socket.resetAndDestroy())
          const endpoints = ["http://arango.invalid:8529", resets, ...double.endpoints]
          const { client } = yield* connect(endpoints, {}, transport)
          assert.strictEqual((yield* create(client, "a")).status, 202)
          assert.strictEqual(yield* executed(double), 1)
        })
    )

    it.scopedLive("point 10: a TLS handshake that fails is passed over", () =>
      Effect.gen(function* () {
        const double = yield* cluster(1)
        const untrusted = yield* ArangoDouble.make({ deployment: "single", tls: { cert, key } })
        const endpoints = [...untrusted.endpoints, ...double.endpoints]
        const { client } = yield* connect(endpoints, {}, transport)
        assert.strictEqual((yield* create(client, "a")).status, 202)
        assert.lengthOf(yield* untrusted.log, 0)
      })
    )

    it.scopedLive(
      "point 10: a server that never finishes the handshake is passed over in time",
      () =>
        Effect.gen(function* () {
          const double = yield* cluster(1)
          const sockets: Array<Net.Socket> = []
          const hung = yield* listener((socket) => sockets.push(socket))
          const endpoints = [hung.replace("http:", "https:"), ...double.endpoints]
          const { client } = yield* connect(endpoints, { timeout: "1 second" }, transport)
          assert.strictEqual((yield* create(client, "a")).status, 202)
          sockets.forEach((_) => _.destroy())
        })
    )

    for (const fault of [
      Fault.ResetBeforeExecution(),
      Fault.DropReply(),
      Fault.CloseInsteadOfReply(),
      Fault.HangInsteadOfReply()
    ]) {
      const isHang = fault._tag === "HangInsteadOfReply"

      it.scopedLive(`point 12: ${fault._tag}, a POST that was written is not sent again`, () =>
        Effect.gen(function* () {
          const double = yield* cluster()
          const { client } = yield* clientOf(double, { timeout: "400 millis" })
          yield* double.setFault(double.nodes[0], fault)
          const error = yield* failure(create(client, "a"))
          assert.strictEqual(error._tag, "RequestUnanswered")
          assert.strictEqual(error.outcome, "Unknown")
          assert.strictEqual(error.timedOut, isHang)
          assert.isDefined(error.cause)
          assert.deepStrictEqual(yield* asked(double), ["CRDN-1"])
        })
      )

      it.scopedLive(`point 12: ${fault._tag}, a GET is sent again unless told otherwise`, () =>
        Effect.gen(function* () {
          const double = yield* cluster()
          yield* double.setFault(double.nodes[0], fault)
          const careful = yield* clientOf(double, { timeout: "400 millis", repeatReads: false })
          const error = yield* failure(careful.client.get("/_api/version"))
          assert.strictEqual(error._tag, "RequestUnanswered")
          yield* double.clearLog
          const { client } = yield* clientOf(double, { timeout: "400 millis" })
          assert.strictEqual((yield* client.get("/_api/version")).status, 200)
          assert.deepStrictEqual(yield* asked(double), ["CRDN-1", "CRDN-2"])
        })
      )
    }

    it.scopedLive("a POST that may run twice is sent again after it was written", () =>
      Effect.gen(function* () {
        const double = yield* cluster()
        const { client } = yield* clientOf(double)
        yield* double.setFault(double.nodes[0], Fault.ResetBeforeExecution())
        assert.strictEqual((yield* Arango.idempotent(create(client, "a"))).status, 202)
      })
    )

    it.scopedLive("point 13: a request that was written in part goes to the next endpoint", () =>
      Effect.gen(function* () {
        const double = yield* cluster()
        yield* double.setFault(double.nodes[0], Fault.ResetBeforeBody())
        const { client } = yield* clientOf(double)
        const request = HttpClientRequest.post("/_api/document/items").pipe(
          HttpClientRequest.bodyUint8Array(huge, "application/json")
        )
        const result = yield* Effect.either(client.execute(request))
        const log = yield* double.log
        assert.isFalse(log[0]?.complete)
        // undici says that it has sent what it has only buffered: there the caller is told, to be safe.
        if (name === "undici") {
          assert.deepStrictEqual(yield* asked(double), ["CRDN-1"])
          assert.strictEqual(
            result._tag === "Left" && (result.left.cause as any).outcome,
            "Unknown"
          )
        } else {
          assert.deepStrictEqual(yield* asked(double), ["CRDN-1", "CRDN-2"])
          assert.strictEqual(result._tag, "Right")
        }
      })
    )

    it.scopedLive("point 14: what was written to one endpoint does not count for the next", () =>
      Effect.gen(function* () {
        const double = yield* ArangoDouble.make({ nodes: 3 })
        yield* collection(double)
        const [leader, , third] = double.nodes
        assert.isDefined(third)
        if (third === undefined) return
        yield* double.promote(third)
        yield* double.setMode(leader, "follower")
        yield* double.setLeaderHeader(leader, "")
        const [, second] = double.nodes
        if (second !== undefined) yield* double.kill(second)
        // The first one answers 1496 to a complete request, the second refuses, the third serves.
        const { client } = yield* clientOf(double)
        assert.strictEqual((yield* create(client, "a")).status, 202)
      })
    )

    it.scopedLive("point 15: an interrupted request is not sent to anybody else", () =>
      Effect.gen(function* () {
        const double = yield* cluster()
        const { client } = yield* clientOf(double)
        yield* double.setFault(double.nodes[0], Fault.HangBeforeExecution())
        const before = yield* double.connections(double.nodes[0])
        const fiber = yield* Effect.fork(client.get("/_api/version"))
        yield* eventually(
          "the request to arrive",
          Effect.map(double.log, (_) => _.length === 1)
        )
        yield* Fiber.interrupt(fiber)
        yield* eventually(
          "its connection to be closed",
          Effect.map(double.connections(double.nodes[0]), (_) => _ <= before)
        )
        assert.deepStrictEqual(yield* asked(double), ["CRDN-1"])
      })
    )

    it.scopedLive("point 16: ArangoDB's own errors are answers, with their bodies", () =>
      Effect.gen(function* () {
        const double = yield* cluster()
        const { client } = yield* clientOf(double)
        for (const [status, errorNum] of [
          [404, 1202],
          [409, 1210],
          [412, 21004],
          [500, 1457],
          [503, 1457]
        ] as const) {
          yield* double.setFault(double.nodes[0], Fault.Answer({ status, errorNum }), { times: 1 })
          const response = yield* client.get("/_api/document/items/a")
          assert.strictEqual(response.status, status)
          const body: any = yield* response.json
          assert.strictEqual(body.errorNum, errorNum)
        }
        assert.deepStrictEqual([...new Set(yield* asked(double))], ["CRDN-1"])
      })
    )

    it.scopedLive("point 19: a proxy's 502 and 503 are answers, and can be read as streams", () =>
      Effect.gen(function* () {
        const double = yield* cluster()
        const { client } = yield* clientOf(double)
        for (const status of [502, 503]) {
          const fault = Fault.Answer({ status, body: "<h1>proxy</h1>" })
          yield* double.setFault(double.nodes[0], fault, { times: 1 })
          const response = yield* client.get("/_api/version")
          assert.strictEqual(response.status, status)
          const text = yield* response.stream.pipe(Stream.decodeText(), Stream.mkString)
          assert.strictEqual(text, "<h1>proxy</h1>")
        }
      })
    )

    it.scopedLive("point 20: after a written failure the next request goes elsewhere", () =>
      Effect.gen(function* () {
        const double = yield* cluster()
        const { client } = yield* clientOf(double)
        yield* double.setFault(double.nodes[0], Fault.DropReply())
        yield* failure(create(client, "a"))
        assert.strictEqual((yield* create(client, "b")).status, 202)
        assert.deepStrictEqual(yield* asked(double), ["CRDN-1", "CRDN-2"])
      })
    )

    it.scopedLive("point 38: of 200 requests at once with a dead first endpoint, none fails", () =>
      Effect.gen(function* () {
        const double = yield* cluster()
        yield* double.kill(double.nodes[0])
        const { client } = yield* clientOf(double)
        const results = yield* Effect.forEach(
          Array.from({ length: 200 }, (_, i) => i),
          (i) =>
            Effect.either(
              Effect.tap(
                i % 2 === 0 ? client.get("/_api/version") : create(client, `${i}`),
                (_) => _.text
              )
            ),
          { concurrency: "unbounded" }
        )
        assert.lengthOf(
          results.filter((_) => _._tag === "Left"),
          0
        )
        assert.strictEqual(yield* executed(double), 100)
      })
    )

    it.scopedLive("point 40: a stream is not sent twice, and the caller may do it", () =>
      Effect.gen(function* () {
        const double = yield* ArangoDouble.make({ nodes: 2 })
        yield* collection(double)
        const { client } = yield* connect([...double.endpoints].reverse(), {}, transport)
        const request = HttpClientRequest.post("/_api/document/items").pipe(
          HttpClientRequest.bodyStream(
            Stream.make(new TextEncoder().encode(JSON.stringify({ _key: "a" }))),
            { contentType: "application/json" }
          )
        )
        const error = yield* failure(client.execute(request))
        assert.strictEqual(error._tag, "RequestUnanswered")
        assert.strictEqual(error.outcome, "NotExecuted")
        assert.isTrue(Failover.isSafeToRetry(error))
        assert.deepStrictEqual(yield* asked(double), ["SNGL-2"])
      })
    )
  })
}

describe("what is told", () => {
  it.scopedLive("point 11: all addresses of a name refuse, and the next endpoint serves", () =>
    Effect.gen(function* () {
      const double = yield* cluster()
      yield* double.kill(double.nodes[0])
      // Two addresses where `localhost` has both families: node then fails with an AggregateError.
      const endpoints = [`http://localhost:${double.nodes[0].port}`, double.endpoints[1] ?? ""]
      const { client } = yield* connect(endpoints)
      assert.strictEqual((yield* create(client, "a")).status, 202)
    })
  )

  it.scopedLive(
    "point 17: the error keeps its cause, and tells a timeout from a broken connection",
    () =>
      Effect.gen(function* () {
        const double = yield* cluster()
        const { client } = yield* connect(double.endpoints, { timeout: "400 millis" })
        yield* double.setFault(double.nodes[0], Fault.DropReply(), { times: 1 })
        const broken = yield* create(client, "a").pipe(Failover.outcomes, Effect.flip)
        assert.strictEqual(broken._tag, "RequestUnanswered")
        if (broken._tag !== "RequestUnanswered") return
        assert.isFalse(broken.timedOut)
        assert.strictEqual((broken.cause as any).cause.code, "ECONNRESET")
        assert.strictEqual(broken.from.port, double.nodes[0].port)
        assert.isFalse(Failover.isSafeToRetry(broken))
        const second = double.nodes[1]
        if (second !== undefined) yield* double.setFault(second, Fault.HangInsteadOfReply())
        const silent = yield* create(client, "b").pipe(Failover.outcomes, Effect.flip)
        assert.isTrue(silent._tag === "RequestUnanswered" && silent.timedOut)
      })
  )

  it.scopedLive("point 18: when nobody can be reached, each endpoint's last word is told", () =>
    Effect.gen(function* () {
      const double = yield* cluster(3)
      yield* Effect.forEach(double.nodes, double.kill)
      const { client } = yield* connect(double.endpoints)
      const error = yield* create(client, "a").pipe(Failover.outcomes, Effect.flip)
      assert.strictEqual(error._tag, "FailoverFailed")
      if (error._tag !== "FailoverFailed") return
      assert.strictEqual(error.reason, "Unreachable")
      assert.strictEqual(error.outcome, "NotExecuted")
      assert.isTrue(Failover.isSafeToRetry(error))
      assert.lengthOf(error.tried, 3)
      for (const node of double.nodes) {
        assert.include(error.message, `127.0.0.1:${node.port}: connect ECONNREFUSED`)
      }
    })
  )

  it.scopedLive("without a tracker, only the connect phase counts as not written", () =>
    Effect.gen(function* () {
      const double = yield* cluster()
      const context = yield* Layer.build(NodeHttpClient.layer)
      const bare = yield* HttpClient.HttpClient.pipe(Effect.provide(context))
      // A client below that drops the header hides its requests from the tracker.
      const hidden = HttpClient.mapRequest(bare, (request) => {
        const { ["x-effect-failover-attempt"]: _, ...headers } = request.headers
        return Object.assign(Object.create(Object.getPrototypeOf(request)), request, { headers })
      })
      const client = yield* Arango.transform(hidden, {
        endpoints: double.endpoints,
        synchronize: false
      })
      yield* double.setFault(double.nodes[0], Fault.ResetBeforeBody())
      const request = HttpClientRequest.post("/_api/document/items").pipe(
        HttpClientRequest.bodyUint8Array(huge, "application/json")
      )
      assert.strictEqual((yield* failure(client.execute(request))).outcome, "Unknown")
      yield* double.kill(double.nodes[0])
      const again = yield* Arango.transform(hidden, {
        endpoints: double.endpoints,
        synchronize: false
      })
      assert.strictEqual((yield* create(again, "a")).status, 202)
    })
  )

  it.scopedLive("point 37: 50 requests that fail on one endpoint move the client by one", () =>
    Effect.gen(function* () {
      const double = yield* cluster(3)
      const { client, current } = yield* connect(double.endpoints)
      yield* double.setFault(double.nodes[0], Fault.DropReply())
      yield* Effect.forEach(
        Array.from({ length: 50 }),
        (_, i) => Effect.either(create(client, `${i}`)),
        { concurrency: "unbounded" }
      )
      assert.strictEqual((yield* current).port, double.nodes[1]?.port)
    })
  )

  it.scopedLive("point 39: the body of a refusal is read, and its connection used again", () =>
    Effect.gen(function* () {
      const double = yield* ArangoDouble.make({ nodes: 2 })
      yield* collection(double)
      const [, follower] = double.nodes
      assert.isDefined(follower)
      if (follower === undefined) return
      for (let i = 0; i < 5; i++) {
        const { client } = yield* connect([...double.endpoints].reverse())
        yield* Effect.flatMap(create(client, `${i}`), (_) => _.text)
        yield* Effect.flatMap(
          client.get("/_admin/server/availability", { urlParams: { i } }),
          (_) => _.text
        )
      }
      const { client } = yield* connect([follower.url], { failoverTimeout: "300 millis" })
      yield* failure(create(client, "z"))
      assert.isAbove((yield* asked(double)).filter((_) => _ === follower.id).length, 6)
      assert.isBelow(yield* double.connections(follower), 7)
    })
  )

  it.scopedLive("self-signed certificates are the business of the client below", () =>
    Effect.gen(function* () {
      const double = yield* ArangoDouble.make({ nodes: 2, tls: { cert, key } })
      const transport = NodeHttpClient.layerWithoutAgent.pipe(
        Layer.provide(NodeHttpClient.makeAgentLayer({ ca: cert }))
      )
      const endpoints = [...double.endpoints].reverse().map((_) => _.replace("https:", "ssl:"))
      const { client } = yield* connect(endpoints, {}, transport)
      const response = yield* client.get("/_api/database/current")
      assert.strictEqual(response.status, 200)
      assert.deepStrictEqual(yield* asked(double), ["SNGL-2", "SNGL-1"])
    })
  )
})
