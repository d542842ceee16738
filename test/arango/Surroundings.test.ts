/** Points 32 to 36 of the conformance list: the endpoints' list, credentials, dirty reads; and the topology. */
import { assert, describe, it } from "@effect/vitest"
import { Chunk, ConfigProvider, Effect, Fiber, Layer, Redacted, Stream } from "effect"
import { HttpBody, HttpClient } from "@effect/platform"
import { NodeHttpClient } from "@effect/platform-node"
import * as ArangoDouble from "effect-failover/testing/ArangoDouble"
import { Failover, Host, Topology } from "effect-failover"
import * as Arango from "effect-failover/layers/Arango"
import { eventually } from "../support/waiting.js"
import { asked, collection, connect, create, failure } from "./support.js"

const { Fault } = ArangoDouble
const auth = { username: "root", password: "secret" }
const password = Redacted.make("secret")

const deployment = (options: ArangoDouble.Options = {}) =>
  Effect.tap(ArangoDouble.make(options), (double) => collection(double))

const two = (double: ArangoDouble.ArangoDouble) => {
  const [a, b] = double.nodes
  if (b === undefined) throw new Error("two nodes were asked for")
  return [a, b] as const
}

const logins = (double: ArangoDouble.ArangoDouble) =>
  Effect.map(double.log, (log) =>
    log.filter((_) => _.path === "/_open/auth").map((_) => `${_.node} ${_.status}`)
  )

describe("the endpoints' list", () => {
  it.scopedLive("point 32: endpoints are learnt, leader first, and the leader is gone to", () =>
    Effect.gen(function* () {
      const double = yield* deployment({ nodes: 3 })
      const [leader] = double.nodes
      const [, , third] = double.nodes
      if (third === undefined) return
      const { client, current, endpoints } = yield* connect([third.url], { synchronize: true })
      assert.strictEqual((yield* create(client, "a")).status, 202)
      yield* eventually(
        "three endpoints",
        Effect.map(endpoints, (_) => _.length === 3)
      )
      assert.strictEqual((yield* endpoints)[0]?.port, leader.port)
      assert.strictEqual((yield* current).port, leader.port)
    })
  )

  for (const [status, errorNum] of [
    [501, 9],
    [403, 11],
    [404, 404]
  ] as const) {
    it.scopedLive(`point 32: ${status}/${errorNum} instead of a list changes nothing`, () =>
      Effect.gen(function* () {
        const double = yield* deployment({ nodes: 2 })
        const [leader] = two(double)
        yield* double.setFault(leader, Fault.Answer({ status, errorNum }), {
          when: (_) => _.path === "/_api/cluster/endpoints"
        })
        const { client, endpoints, topology } = yield* connect(double.endpoints, {
          synchronize: true
        })
        assert.strictEqual((yield* create(client, "a")).status, 202)
        yield* topology.awaitWriter({ timeout: "10 seconds" })
        assert.strictEqual((yield* create(client, "b")).status, 202)
        assert.lengthOf(yield* endpoints, 2)
      })
    )
  }

  it.scopedLive("point 32: a single server has no list, and works", () =>
    Effect.gen(function* () {
      const double = yield* deployment({ deployment: "single" })
      const { client, topology } = yield* connect(double.endpoints, { synchronize: true })
      yield* create(client, "a")
      const writer = yield* topology.awaitWriter({ timeout: "10 seconds" })
      assert.strictEqual(writer.host.port, double.nodes[0].port)
    })
  )

  it.scopedLive("point 32: a request under way survives that its server leaves the list", () =>
    Effect.gen(function* () {
      const double = yield* deployment({ nodes: 2 })
      const [leader, follower] = two(double)
      const { client } = yield* connect([leader.url], {
        synchronize: true,
        topologyRefreshRate: "20 millis",
        topologyHighRefreshRate: "20 millis"
      })
      yield* client.get("/_api/version")
      yield* double.setFault(leader, Fault.Slow({ duration: "300 millis" }), {
        when: (_) => _.method === "POST"
      })
      const fiber = yield* Effect.fork(create(client, "slow"))
      yield* eventually(
        "the request to arrive",
        Effect.map(double.log, (_) => _.some((_) => _.method === "POST"))
      )
      yield* double.promote(follower)
      assert.strictEqual((yield* Fiber.join(fiber)).status, 202)
    })
  )

  it.scopedLive("point 33: it is asked for through the user's database", () =>
    Effect.gen(function* () {
      const double = yield* deployment({ nodes: 2 })
      const { client, topology } = yield* connect(double.endpoints, {
        synchronize: true,
        database: "shop"
      })
      yield* client.get("/_api/version")
      yield* topology.awaitWriter({ timeout: "10 seconds" })
      const lists = (yield* double.log).filter((_) => _.path === "/_api/cluster/endpoints")
      assert.deepStrictEqual([...new Set(lists.map((_) => _.database))], ["shop"])
    })
  )

  it.scopedLive("nothing is asked before the first request", () =>
    Effect.gen(function* () {
      const double = yield* deployment({ nodes: 2 })
      const { current } = yield* connect(double.endpoints, { synchronize: true })
      yield* current
      assert.lengthOf(yield* double.log, 0)
    })
  )

  it.scopedLive("the topology says who leads, and tells when that changes", () =>
    Effect.gen(function* () {
      const double = yield* deployment({ nodes: 2 })
      const [leader, follower] = two(double)
      const { client, topology } = yield* connect(double.endpoints, {
        synchronize: true,
        topologyHighRefreshRate: "20 millis"
      })
      yield* create(client, "a")
      const first = yield* topology.awaitWriter({ timeout: "10 seconds" })
      assert.strictEqual(first.host.port, leader.port)
      const roles = (yield* topology.current).hosts.map((_) => [_.host.port, _.role])
      assert.deepInclude(roles, [leader.port, "writer"])
      assert.deepInclude(roles, [follower.port, "reader"])
      const seen = yield* topology.changes.pipe(
        Stream.filter((_) => _.writer?.host.port === follower.port),
        Stream.take(1),
        Stream.runCollect,
        Effect.fork
      )
      yield* double.kill(leader)
      const elected = yield* Effect.fork(double.elect({ after: "100 millis" }))
      assert.strictEqual((yield* create(client, "b")).status, 202)
      yield* Fiber.join(elected)
      const [state] = Chunk.toReadonlyArray(yield* Fiber.join(seen))
      assert.isAbove(state?.epoch ?? 0, first.epoch)
    })
  )
})

describe("credentials", () => {
  it.scopedLive("point 34: basic credentials are sent to every endpoint", () =>
    Effect.gen(function* () {
      const double = yield* ArangoDouble.make({ nodes: 2, auth })
      const { client } = yield* connect([...double.endpoints].reverse(), {
        auth: { method: "basic", password }
      })
      assert.strictEqual((yield* client.get("/_api/database")).status, 200)
      assert.deepStrictEqual(
        (yield* double.log).map((_) => _.headers.authorization),
        Array.from({ length: 2 }, () => `basic ${btoa("root:secret")}`)
      )
    })
  )

  it.scopedLive("point 34: it logs in through the leader, once, and shares the token", () =>
    Effect.gen(function* () {
      const double = yield* ArangoDouble.make({ nodes: 2, auth })
      const { client } = yield* connect([...double.endpoints].reverse(), { auth: { password } })
      const results = yield* Effect.forEach(
        Array.from({ length: 20 }),
        () => client.get("/_api/database"),
        { concurrency: "unbounded" }
      )
      assert.isTrue(results.every((_) => _.status === 200))
      assert.deepStrictEqual(yield* logins(double), ["SNGL-2 503", "SNGL-1 200"])
    })
  )

  it.scopedLive("point 34: where servers share no secret, it logs in at each", () =>
    Effect.gen(function* () {
      const double = yield* ArangoDouble.make({
        deployment: "cluster",
        nodes: 2,
        auth: { ...auth, sharedSecret: false }
      })
      const { client } = yield* connect(double.endpoints, {
        auth: { password, sharedSecret: false },
        loadBalancing: "round-robin"
      })
      for (let i = 0; i < 4; i++) {
        assert.strictEqual((yield* client.get("/_api/database")).status, 200)
      }
      assert.deepStrictEqual((yield* logins(double)).sort(), ["CRDN-1 200", "CRDN-2 200"])
    })
  )

  it.scopedLive(
    "point 34: a token that a server refuses is replaced, and the request repeated",
    () =>
      Effect.gen(function* () {
        const double = yield* ArangoDouble.make({
          deployment: "cluster",
          nodes: 2,
          auth: { ...auth, sharedSecret: false }
        })
        // It is told that they share a secret, which they do not.
        const { client } = yield* connect(double.endpoints, { auth: { password } })
        assert.strictEqual((yield* client.get("/_api/database")).status, 200)
        yield* double.kill(double.nodes[0])
        assert.strictEqual((yield* client.get("/_api/database")).status, 200)
        assert.deepStrictEqual(yield* logins(double), ["CRDN-1 200", "CRDN-2 200"])
      })
  )

  it.scopedLive("point 34: a token is renewed before it expires", () =>
    Effect.gen(function* () {
      const double = yield* ArangoDouble.make({
        deployment: "single",
        auth: { ...auth, tokenLifetime: "3 seconds" }
      })
      const { client } = yield* connect(double.endpoints, { auth: { password } })
      const statuses = yield* Effect.repeat(
        Effect.delay(
          Effect.map(client.get("/_api/database"), (_) => _.status),
          "50 millis"
        ),
        { until: () => Effect.map(logins(double), (_) => _.length >= 2) }
      )
      assert.strictEqual(statuses, 200)
      const refused = (yield* double.log).filter((_) => _.status === 401)
      assert.lengthOf(refused, 0)
    })
  )

  it.scopedLive("point 34: a log-in without an answer leaves the request unsent, and goes on", () =>
    Effect.gen(function* () {
      const double = yield* ArangoDouble.make({ deployment: "cluster", nodes: 2, auth })
      yield* double.setFault(double.nodes[0], Fault.ResetBeforeExecution())
      const { client } = yield* connect(double.endpoints, { auth: { password } })
      const response = yield* client.post("/_api/collection", {
        body: HttpBody.unsafeJson({ name: "items" })
      })
      assert.strictEqual(response.status, 200)
    })
  )

  it.scopedLive("a wrong password is tried at one server, and told", () =>
    Effect.gen(function* () {
      const double = yield* ArangoDouble.make({ deployment: "cluster", nodes: 2, auth })
      const { client } = yield* connect(double.endpoints, {
        auth: { password: Redacted.make("wrong") }
      })
      const error = yield* client.get("/_api/database").pipe(Failover.outcomes, Effect.flip)
      assert.strictEqual(error._tag, "ConnectionRejected")
      assert.isFalse(Failover.isSafeToRetry(error))
      assert.deepStrictEqual(yield* logins(double), ["CRDN-1 401"])
      assert.notInclude(error.message, "wrong")
    })
  )

  it.scopedLive("a header of the request's own is kept", () =>
    Effect.gen(function* () {
      const double = yield* ArangoDouble.make({ deployment: "single", auth })
      const { client } = yield* connect(double.endpoints, { auth: { password } })
      const authorization = `basic ${btoa("root:secret")}`
      const response = yield* client.get("/_api/database", { headers: { authorization } })
      assert.strictEqual(response.status, 200)
      assert.lengthOf(yield* logins(double), 0)
    })
  )
})

describe("dirty reads", () => {
  it.scopedLive("point 36: they are spread over the followers, and say that they may be old", () =>
    Effect.gen(function* () {
      const double = yield* deployment({ nodes: 3 })
      const { client } = yield* connect(double.endpoints)
      yield* create(client, "a")
      yield* double.clearLog
      const read = Arango.withDirtyReads(client.get("/_api/document/items/a"))
      for (let i = 0; i < 4; i++) {
        const response = yield* read
        assert.strictEqual(response.status, 200)
        assert.isTrue(Arango.isPotentiallyDirty(response))
      }
      const turns = yield* asked(double)
      assert.deepStrictEqual([...new Set(turns)].sort(), ["SNGL-2", "SNGL-3"])
      const clean = yield* client.get("/_api/document/items/a")
      assert.isFalse(Arango.isPotentiallyDirty(clean))
      assert.isUndefined((yield* double.log).at(-1)?.headers["x-arango-allow-dirty-read"])
    })
  )

  it.scopedLive("point 36: a write among them goes to the leader, without the header", () =>
    Effect.gen(function* () {
      const double = yield* deployment({ nodes: 2 })
      const { client } = yield* connect(double.endpoints)
      const response = yield* Arango.withDirtyReads(create(client, "a"))
      assert.strictEqual(response.status, 202)
      const [record] = yield* double.log
      assert.strictEqual(record?.node, "SNGL-1")
      assert.isUndefined(record?.headers["x-arango-allow-dirty-read"])
    })
  )

  it.scopedLive("point 36: without a follower that answers, the leader does", () =>
    Effect.gen(function* () {
      const double = yield* deployment({ nodes: 2 })
      const [, follower] = two(double)
      const { client, current } = yield* connect(double.endpoints)
      yield* create(client, "a")
      yield* double.kill(follower)
      const response = yield* Arango.withDirtyReads(client.get("/_api/document/items/a"))
      assert.strictEqual(response.status, 200)
      assert.strictEqual((yield* current).port, double.nodes[0].port)
    })
  )
})

describe("the layer", () => {
  it.scopedLive("is built from Config, over any HttpClient, while every server is down", () =>
    Effect.gen(function* () {
      const double = yield* ArangoDouble.make({ nodes: 2, auth })
      yield* Effect.forEach(double.nodes, double.kill)
      const provider = ConfigProvider.fromMap(
        new Map([
          ["ENDPOINTS", double.endpoints.join(", ")],
          ["USERNAME", "root"],
          ["PASSWORD", "secret"],
          ["AUTH_METHOD", "basic"],
          ["TIMEOUT", "5 seconds"],
          ["SYNCHRONIZE", "false"]
        ])
      )
      const layer = Arango.layerConfig(Arango.config).pipe(
        Layer.provide(NodeHttpClient.layerUndici),
        Layer.provide(Layer.setConfigProvider(provider))
      )
      yield* Effect.gen(function* () {
        const client = yield* HttpClient.HttpClient
        const topology = yield* Topology.Topology
        assert.strictEqual((yield* topology.current).hosts.length, 2)
        assert.strictEqual((yield* failure(client.get("/_api/version"))).reason, "Unreachable")
        yield* Effect.forEach(double.nodes, double.restart)
        assert.strictEqual((yield* client.get("/_api/version")).status, 200)
      }).pipe(Effect.provide(layer))
    })
  )

  it.scopedLive("two clients of one deployment share a topology", () =>
    Effect.gen(function* () {
      const double = yield* deployment({ nodes: 2 })
      const a = yield* connect(double.endpoints, { synchronize: true })
      const b = yield* connect([...double.endpoints], { synchronize: true })
      assert.strictEqual(a.topology, b.topology)
      const conflict = yield* failure(
        connect(["http://other:1"], { clusterId: a.topology.clusterId })
      )
      assert.strictEqual(conflict._tag, "ClusterIdConflict")
    })
  )

  it.scopedLive("a host of the topology can be pinned to", () =>
    Effect.gen(function* () {
      const double = yield* deployment({ nodes: 2 })
      const { client, endpoints } = yield* connect(double.endpoints)
      const [, follower] = yield* endpoints
      assert.isDefined(follower)
      if (follower === undefined) return
      const response = yield* create(client, "a").pipe(Arango.withHost(follower))
      assert.strictEqual(response.status, 503)
      assert.strictEqual(Host.address(follower), new URL(double.endpoints[1] ?? "").host)
    })
  )
})
