/** What a dashboard sees when an endpoint goes: counters, and a span with its attempts. */
import type { HttpClient } from "@effect/platform"
import { assert, describe, it } from "@effect/vitest"
import { Duration, Effect, Metric, Tracer } from "effect"
import * as Arango from "effect-failover/layers/Arango"
import * as ArangoDouble from "effect-failover/testing/ArangoDouble"
import { collection, connect, create, failure, status } from "./support.js"

const { Fault } = ArangoDouble

const counter = (name: string) =>
  Metric.tagged(Metric.counter(name, { incremental: true }), "db.system.name", "arangodb")
const count = (metric: Metric.Metric.Counter<number>) =>
  Effect.map(Metric.value(metric), (_) => _.count)

const ended = (outcome: string) =>
  count(Metric.tagged(counter("db.failover.requests"), "outcome", outcome))

const read = Effect.all({
  started: count(counter("db.failover.started")),
  completed: count(counter("db.failover.completed")),
  failed: count(counter("db.failover.failed")),
  Answered: ended("Answered"),
  RequestUnanswered: ended("RequestUnanswered"),
  FailoverFailed: ended("FailoverFailed"),
  Refused: ended("Refused")
})
type Counts = Effect.Effect.Success<typeof read>

const none: Counts = {
  started: 0,
  completed: 0,
  failed: 0,
  Answered: 0,
  RequestUnanswered: 0,
  FailoverFailed: 0,
  Refused: 0
}

/** The counters are the process's: what was counted since. */
const counting = Effect.map(read, (before) =>
  Effect.map(read, (now): Counts => ({
    started: now.started - before.started,
    completed: now.completed - before.completed,
    failed: now.failed - before.failed,
    Answered: now.Answered - before.Answered,
    RequestUnanswered: now.RequestUnanswered - before.RequestUnanswered,
    FailoverFailed: now.FailoverFailed - before.FailoverFailed,
    Refused: now.Refused - before.Refused
  }))
)

const pair = Effect.tap(ArangoDouble.make({ nodes: 2 }), (double) => collection(double))
const second = (double: ArangoDouble.ArangoDouble) => {
  const node = double.nodes[1]
  if (node === undefined) throw new Error("two nodes were asked for")
  return node
}
const version = (client: HttpClient.HttpClient) => status(client.get("/_api/version"))

/** Counters are the process's: one test after the other. */
describe.sequential("counters of endpoint failovers", () => {
  it.scopedLive(
    "nothing is counted while all is well, or when a server answers with an error",
    () =>
      Effect.gen(function* () {
        const { client } = yield* connect((yield* pair).endpoints)
        const since = yield* counting
        yield* create(client, "a")
        assert.strictEqual(yield* status(client.get("/_api/document/items/none")), 404)
        assert.deepStrictEqual(yield* since, none)
      })
  )

  it.scopedLive("50 requests that lose their endpoint at once are one failover", () =>
    Effect.gen(function* () {
      const double = yield* pair
      const { client } = yield* connect(double.endpoints)
      yield* version(client)
      const since = yield* counting
      yield* double.kill(double.nodes[0])
      yield* double.promote(second(double))
      yield* Effect.all(
        Array.from({ length: 50 }, () => version(client)),
        { concurrency: "unbounded" }
      )
      assert.deepStrictEqual(yield* since, { ...none, started: 1, completed: 1, Answered: 50 })
      yield* version(client)
      assert.deepStrictEqual(yield* since, { ...none, started: 1, completed: 1, Answered: 50 })
    })
  )

  it.scopedLive("a written request is told, and the next answer ends the failover", () =>
    Effect.gen(function* () {
      const double = yield* pair
      const { client } = yield* connect(double.endpoints)
      yield* version(client)
      const since = yield* counting
      yield* double.setFault(double.nodes[0], Fault.DropReply(), { times: 1 })
      assert.strictEqual((yield* failure(create(client, "a")))._tag, "RequestUnanswered")
      assert.deepStrictEqual(yield* since, { ...none, started: 1, RequestUnanswered: 1 })
      yield* double.promote(second(double))
      yield* version(client)
      assert.deepStrictEqual(yield* since, {
        ...none,
        started: 1,
        completed: 1,
        RequestUnanswered: 1
      })
    })
  )

  it.scopedLive("nobody serves: the failover has failed, and the next outage is another one", () =>
    Effect.gen(function* () {
      const double = yield* pair
      const { client } = yield* connect(double.endpoints)
      yield* version(client)
      const since = yield* counting
      yield* Effect.all(double.nodes.map(double.kill))
      for (const times of [1, 2]) {
        assert.strictEqual((yield* failure(version(client)))._tag, "FailoverFailed")
        assert.deepStrictEqual(yield* since, {
          ...none,
          started: times,
          failed: times,
          FailoverFailed: times
        })
      }
    })
  )

  it.scopedLive("a pinned request and a dirty read say nothing of the client's endpoint", () =>
    Effect.gen(function* () {
      const double = yield* pair
      const { client, endpoints } = yield* connect(double.endpoints)
      yield* version(client)
      const since = yield* counting
      yield* double.kill(second(double))
      assert.strictEqual(yield* Arango.withDirtyReads(version(client)), 200)
      assert.deepStrictEqual(yield* since, { ...none, Answered: 1 })
      const [, follower] = yield* endpoints
      if (follower === undefined) throw new Error("two endpoints were given")
      yield* failure(Arango.withHost(version(client), follower))
      assert.deepStrictEqual(yield* since, { ...none, Answered: 1, RequestUnanswered: 1 })
    })
  )
})

interface Recorded {
  readonly name: string
  readonly attributes: Map<string, unknown>
  readonly events: Array<readonly [string, Record<string, unknown>]>
  readonly parent: string | undefined
}

const recorder = () => {
  const spans: Array<Recorded> = []
  const tracer = Tracer.make({
    context: (f) => f(),
    span: (name, parent, context, links, startTime, kind, options) => {
      const attributes = new Map<string, unknown>(Object.entries(options?.attributes ?? {}))
      const events: Array<readonly [string, Record<string, unknown>]> = []
      spans.push({
        name,
        attributes,
        events,
        parent: parent._tag === "Some" ? parent.value.spanId : undefined
      })
      return {
        _tag: "Span",
        name,
        spanId: `${spans.length} ${name}`,
        traceId: "trace",
        parent,
        context,
        status: { _tag: "Started", startTime },
        attributes,
        links,
        sampled: true,
        kind,
        end: () => {},
        attribute: (key, value) => void attributes.set(key, value),
        event: (event, _, attributes) => void events.push([event, attributes ?? {}]),
        addLinks: () => {}
      }
    }
  })
  return { spans, tracer }
}

describe("the span of an endpoint failover", () => {
  it.scopedLive(
    "names where it came from, every attempt, and who served; the new attempts are its own",
    () =>
      Effect.gen(function* () {
        const double = yield* pair
        const { client } = yield* connect(double.endpoints)
        const { spans, tracer } = recorder()
        yield* Effect.withTracer(version(client), tracer)
        assert.deepStrictEqual(
          spans.map((_) => _.name),
          ["http.client GET"]
        )
        yield* double.kill(double.nodes[0])
        yield* double.promote(second(double))
        spans.length = 0
        yield* Effect.withTracer(version(client), tracer)
        assert.deepStrictEqual(
          spans.map((_) => [_.name, _.parent]),
          [
            ["http.client GET", undefined],
            ["db.failover", undefined],
            ["http.client GET", "2 db.failover"]
          ]
        )
        const [first] = double.nodes
        const { port } = second(double)
        const span = spans[1]
        assert.deepInclude(Object.fromEntries(span?.attributes ?? []), {
          "db.system.name": "arangodb",
          "db.failover.from": `${first.host}:${first.port}`,
          "db.failover.to": `${second(double).host}:${port}`,
          "db.failover.attempts": 2,
          "db.failover.outcome": "Answered",
          "server.port": port
        })
        assert.deepStrictEqual(
          span?.events.map(([name, attributes]) => [name, attributes["server.port"]]),
          [["db.failover.attempt", first.port]]
        )
        assert.match(String(span?.events[0]?.[1]["db.failover.reason"]), /ECONNREFUSED/)
      })
  )

  it.scopedLive("says how a request ended that nobody served", () =>
    Effect.gen(function* () {
      const double = yield* pair
      const { client } = yield* connect(double.endpoints, { failoverTimeout: Duration.millis(200) })
      const { spans, tracer } = recorder()
      yield* Effect.all(double.nodes.map(double.kill))
      yield* Effect.withTracer(failure(version(client)), tracer)
      const span = spans.find((_) => _.name === "db.failover")
      assert.strictEqual(span?.attributes.get("db.failover.outcome"), "FailoverFailed")
      assert.lengthOf(span?.events ?? [], 2)
    })
  )
})
