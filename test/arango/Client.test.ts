import { NodeHttpClient } from "@effect/platform-node"
import { assert, describe, it } from "@effect/vitest"
import { Chunk, Effect, Fiber, Layer, Option, Redacted, Schema, Stream } from "effect"
import * as ArangoDouble from "effect-failover/testing/ArangoDouble"
import { Failover } from "effect-failover"
import type * as Arango from "effect-failover/layers/Arango"
import * as ArangoClient from "effect-failover/layers/ArangoClient"
import { eventually } from "../support/waiting.js"
import { collection } from "./support.js"

const { Fault } = ArangoDouble
const { aql } = ArangoClient

const Item = Schema.Struct({
  _key: Schema.String,
  n: Schema.Number,
  at: Schema.optional(Schema.Date)
})

const open = (double: ArangoDouble.ArangoDouble, options: Partial<Arango.ArangoOptions> = {}) =>
  Effect.gen(function* () {
    const layer = ArangoClient.layer({
      endpoints: double.endpoints,
      synchronize: false,
      ...options
    }).pipe(Layer.provide(NodeHttpClient.layer))
    const context = yield* Layer.build(layer)
    return yield* Effect.provide(ArangoClient.ArangoClient, context)
  })

const pair = Effect.gen(function* () {
  const double = yield* ArangoDouble.make({ nodes: 2 })
  yield* collection(double)
  const [leader, follower] = double.nodes
  if (follower === undefined) return yield* Effect.dieMessage("two nodes were asked for")
  const client = yield* open(double)
  return { double, leader, follower, client, items: client.collection("items", Item) }
})

describe("documents", () => {
  it.scopedLive("are created, read, changed and removed through the schema", () =>
    Effect.gen(function* () {
      const { double, items, leader } = yield* pair
      const at = new Date(0)
      const created = yield* items.create({ _key: "a", n: 1, at })
      assert.strictEqual(created._id, "items/a")
      const [stored] = yield* double.documents(leader, "items")
      assert.strictEqual(stored?.["at"], at.toISOString())
      assert.deepStrictEqual(yield* items.get("a"), Option.some({ _key: "a", n: 1, at }))
      const updated = yield* items.update("a", { n: 2 })
      assert.notStrictEqual(updated._rev, created._rev)
      yield* items.replace("a", { _key: "a", n: 3 })
      assert.deepStrictEqual(yield* items.get("a"), Option.some({ _key: "a", n: 3 }))
      yield* items.remove("a")
      assert.deepStrictEqual(yield* items.get("a"), Option.none())
    })
  )

  it.scopedLive("the server's errors are errors, with their numbers", () =>
    Effect.gen(function* () {
      const { client, items } = yield* pair
      const first = yield* items.create({ _key: "a", n: 1 })
      const twice = yield* Effect.flip(items.create({ _key: "a", n: 1 }))
      assert.isTrue(twice._tag === "ArangoError" && twice.errorNum === 1210)
      yield* items.update("a", { n: 2 }, { ifRev: first._rev })
      const stale = yield* Effect.flip(items.update("a", { n: 3 }, { ifRev: first._rev }))
      assert.isTrue(stale._tag === "ArangoError" && stale.isConflict)
      const missing = yield* Effect.flip(client.collection("none", Item).get("a"))
      assert.isTrue(missing._tag === "ArangoError" && missing.errorNum === 1203)
      const other = client.collection("items", Schema.Struct({ m: Schema.Number }))
      assert.strictEqual((yield* Effect.flip(other.get("a")))._tag, "ParseError")
    })
  )

  it.scopedLive("outcomes are in the typed channel", () =>
    Effect.gen(function* () {
      for (const fault of [Fault.DropReply(), Fault.HalfReply()]) {
        const { double, items, leader } = yield* pair
        yield* double.setFault(leader, fault, { times: 1 })
        const error = yield* Effect.flip(items.create({ _key: "a", n: 1 }))
        assert.isTrue(error._tag === "RequestUnanswered" && error.outcome === "Unknown")
      }
    })
  )

  it.scopedLive("it logs in with the layer's credentials", () =>
    Effect.gen(function* () {
      const auth = { username: "root", password: "secret" }
      const double = yield* ArangoDouble.make({ nodes: 2, auth })
      const client = yield* open(double, {
        database: "shop",
        auth: { password: Redacted.make("secret") }
      })
      const error = yield* Effect.flip(client.collection("items", Item).get("a"))
      assert.isTrue(error._tag === "ArangoError" && error.errorNum === 1203)
      const last = (yield* double.log).at(-1)
      assert.strictEqual(last?.database, "shop")
      assert.match(last?.headers.authorization ?? "", /^bearer /)
    })
  )
})

describe("queries", () => {
  it.scopedLive("rows come in batches, and values are bound", () =>
    Effect.gen(function* () {
      const { client, double, items } = yield* pair
      yield* Effect.forEach([1, 2, 2], (n, i) => items.create({ _key: `${i}`, n }))
      const rows = yield* Stream.runCollect(
        client.query(Item, aql`FOR i IN items FILTER i.n == ${2} RETURN i`)
      )
      assert.lengthOf(rows, 2)
      const numbers = yield* Stream.runCollect(
        client.query(Schema.Number, "FOR i IN 1..7 RETURN i", { batchSize: 3 })
      )
      assert.deepStrictEqual(Chunk.toReadonlyArray(numbers), [1, 2, 3, 4, 5, 6, 7])
      const paths = (yield* double.log).map((_) => _.path).filter((_) => /cursor\/./.test(_))
      assert.lengthOf(paths, 2)
      assert.deepStrictEqual(aql`RETURN ${"'; REMOVE"}`, {
        query: "RETURN @value0",
        bindVars: { value0: "'; REMOVE" }
      })
    })
  )

  it.scopedLive("a query that is not read to its end is closed on its server", () =>
    Effect.gen(function* () {
      const { client, double } = yield* pair
      yield* client
        .query(Schema.Number, "FOR i IN 1..100 RETURN i", { batchSize: 2 })
        .pipe(Stream.take(3), Stream.runDrain)
      const last = (yield* double.log).at(-1)
      assert.deepStrictEqual([last?.method, last?.status], ["DELETE", 202])
    })
  )

  it.scopedLive("point 35: batches come from the cursor's server, whoever leads meanwhile", () =>
    Effect.gen(function* () {
      const double = yield* ArangoDouble.make({ deployment: "cluster", nodes: 3 })
      const client = yield* open(double, { loadBalancing: "round-robin" })
      yield* client
        .query(Schema.Number, "FOR i IN 1..10 RETURN i", { batchSize: 2 })
        .pipe(Stream.runDrain)
      assert.strictEqual(new Set((yield* double.log).map((_) => _.node)).size, 1)
    })
  )

  it.scopedLive("point 35: a cursor whose server is gone fails, after the rows that came", () =>
    Effect.gen(function* () {
      const { client, double, leader } = yield* pair
      const seen: Array<number> = []
      const error = yield* client
        .query(Schema.Number, "FOR i IN 1..10 RETURN i", { batchSize: 2 })
        .pipe(
          Stream.runForEach((n) =>
            Effect.zipRight(
              Effect.sync(() => seen.push(n)),
              n === 4 ? double.kill(leader) : Effect.void
            )
          ),
          Effect.flip
        )
      assert.strictEqual(error._tag, "CursorLost")
      assert.deepStrictEqual(seen, [1, 2, 3, 4])
      assert.include(error.message, "after 2 batches")
    })
  )

  it.scopedLive("point 35: so does one whose server restarted, or leads no more", () =>
    Effect.gen(function* () {
      const { client, double, follower, leader } = yield* pair
      const breakAt4 = (how: Effect.Effect<unknown>) =>
        client.query(Schema.Number, "FOR i IN 1..10 RETURN i", { batchSize: 2 }).pipe(
          Stream.runForEach((n) => (n === 4 ? how : Effect.void)),
          Effect.flip
        )
      const restart = Effect.zipRight(double.kill(leader), double.restart(leader))
      assert.strictEqual((yield* breakAt4(restart))._tag, "CursorLost")
      const demote = Effect.zipRight(double.setMode(leader, "follower"), double.promote(follower))
      assert.strictEqual((yield* breakAt4(demote))._tag, "CursorLost")
    })
  )

  it.scopedLive("a batch that was lost on its way is asked for again", () =>
    Effect.gen(function* () {
      const { client, double, leader } = yield* pair
      yield* double.setFault(leader, Fault.DropReply(), {
        times: 1,
        when: (_) => /cursor\/./.test(_.path)
      })
      const numbers = yield* Stream.runCollect(
        client.query(Schema.Number, "FOR i IN 1..6 RETURN i", { batchSize: 2 })
      )
      assert.deepStrictEqual(Chunk.toReadonlyArray(numbers), [1, 2, 3, 4, 5, 6])
    })
  )
})

describe("stream transactions", () => {
  const write = { write: ["items"] }

  it.scopedLive("commit when the effect succeeds, abort when it fails or is interrupted", () =>
    Effect.gen(function* () {
      const { client, double, items, leader } = yield* pair
      const stored = Effect.map(double.documents(leader, "items"), (_) => _.map((_) => _._key))
      yield* items.create({ _key: "a", n: 1 }).pipe(
        Effect.zipRight(Effect.flatMap(stored, (_) => Effect.sync(() => assert.lengthOf(_, 0)))),
        Effect.zipRight(items.get("a")),
        Effect.tap((_) => Effect.sync(() => assert.isTrue(Option.isSome(_)))),
        client.withTransaction(write)
      )
      assert.deepStrictEqual(yield* stored, ["a"])
      const failed = items
        .create({ _key: "b", n: 1 })
        .pipe(Effect.zipRight(Effect.fail("no")), client.withTransaction(write))
      assert.strictEqual(yield* Effect.flip(failed), "no")
      const fiber = yield* items
        .create({ _key: "c", n: 1 })
        .pipe(Effect.zipRight(Effect.never), client.withTransaction(write), Effect.fork)
      yield* eventually(
        "the write",
        Effect.map(double.log, (_) => _.some((_) => _.body.includes('"c"')))
      )
      yield* Fiber.interrupt(fiber)
      assert.deepStrictEqual(yield* stored, ["a"])
      assert.strictEqual((yield* double.log).filter((_) => _.method === "DELETE").length, 2)
    })
  )

  it.scopedLive("point 35: one whose server is lost before its commit is rolled back", () =>
    Effect.gen(function* () {
      const { client, double, follower, items, leader } = yield* pair
      const run = (key: string, lose: Effect.Effect<unknown>) =>
        items
          .create({ _key: key, n: 1 })
          .pipe(
            Effect.zipRight(lose),
            Effect.zipRight(items.create({ _key: `${key}2`, n: 1 })),
            client.withTransaction(write)
          )
      const lose = Effect.zipRight(double.kill(leader), double.promote(follower))
      const error = yield* Effect.flip(run("a", lose))
      assert.isTrue(error._tag === "TransactionLost" && error.outcome === "RolledBack")
      assert.isTrue(Failover.isSafeToRetry(error))
      yield* run("a", Effect.void)
      assert.deepStrictEqual(
        (yield* double.documents(follower, "items")).map((_) => _._key),
        ["a", "a2"]
      )
    })
  )

  it.scopedLive("point 35: one whose server leads no more is rolled back", () =>
    Effect.gen(function* () {
      const { client, double, follower, items, leader } = yield* pair
      const error = yield* items
        .create({ _key: "a", n: 1 })
        .pipe(
          Effect.zipRight(double.setMode(leader, "follower")),
          Effect.zipRight(double.promote(follower)),
          Effect.zipRight(items.create({ _key: "b", n: 1 })),
          client.withTransaction(write),
          Effect.flip
        )
      assert.isTrue(error._tag === "TransactionLost" && error.outcome === "RolledBack")
      assert.lengthOf(yield* double.documents(follower, "items"), 0)
    })
  )

  const isCommit = (_: { readonly method: string; readonly path: string }) =>
    _.method === "PUT" && _.path.startsWith("/_api/transaction/")

  it.scopedLive("a commit that got no answer is asked for again, and is one", () =>
    Effect.gen(function* () {
      for (const fault of [Fault.DropReply(), Fault.ResetBeforeExecution()]) {
        const { client, double, items, leader } = yield* pair
        yield* double.setFault(leader, fault, { times: 1, when: isCommit })
        yield* items.create({ _key: "a", n: 1 }).pipe(client.withTransaction(write))
        assert.lengthOf(yield* double.documents(leader, "items"), 1)
      }
    })
  )

  it.scopedLive("a commit whose server is gone with the answer is unknown", () =>
    Effect.gen(function* () {
      const { client, double, items, leader } = yield* pair
      yield* double.setFault(leader, Fault.DropReply(), { when: isCommit })
      const error = yield* items
        .create({ _key: "a", n: 1 })
        .pipe(client.withTransaction(write), Effect.flip)
      assert.isTrue(error._tag === "TransactionLost" && error.outcome === "Unknown")
      assert.isFalse(Failover.isSafeToRetry(error))
    })
  )

  it.scopedLive("two that write one document: the later is a conflict", () =>
    Effect.gen(function* () {
      const { client, items } = yield* pair
      yield* items.create({ _key: "a", n: 1 })
      const error = yield* items
        .update("a", { n: 2 })
        .pipe(
          Effect.zipRight(items.update("a", { n: 3 }).pipe(client.withTransaction(write))),
          client.withTransaction(write),
          Effect.flip
        )
      assert.isTrue(error._tag === "ArangoError" && error.isConflict)
    })
  )
})
