import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { aql, Database } from "arangojs"
import * as ArangoDouble from "effect-failover/testing/ArangoDouble"

const arangojs = (url: string | Array<string>) =>
  Effect.acquireRelease(
    Effect.sync(
      () => new Database({ url, auth: { username: "root", password: "secret" }, maxRetries: false })
    ),
    (database) => Effect.sync(() => database.close())
  )

const run = <A>(f: () => Promise<A>) => Effect.tryPromise(f)

const post = (url: string, body: unknown, headers: Record<string, string> = {}) =>
  run(() =>
    fetch(url, {
      method: "POST",
      body: JSON.stringify(body),
      headers: { "content-type": "application/json", ...headers }
    })
  )

describe("the double, through arangojs", () => {
  it.scopedLive("documents are created, read, changed and removed", () =>
    Effect.gen(function* () {
      const double = yield* ArangoDouble.make({ deployment: "single" })
      const database = yield* arangojs([...double.endpoints])
      const items = yield* run(() => database.createCollection("items"))
      yield* run(() => items.save({ _key: "a", n: 1 }))
      yield* run(() => items.update("a", { m: 2 }))
      const changed: any = yield* run(() => items.document("a"))
      assert.deepStrictEqual([changed.n, changed.m], [1, 2])
      yield* run(() => items.replace("a", { n: 3 }))
      const replaced: any = yield* run(() => items.document("a"))
      assert.isUndefined(replaced.m)
      const twice = yield* Effect.flip(run(() => items.save({ _key: "a" })))
      assert.strictEqual((twice.error as any).errorNum, 1210)
      yield* run(() => items.remove("a"))
      assert.isFalse(yield* run(() => items.documentExists("a")))
      assert.strictEqual((yield* run(() => items.count())).count, 0)
      assert.isTrue(yield* run(() => items.exists()))
      assert.isFalse(yield* run(() => database.collection("others").exists()))
    })
  )

  it.scopedLive("AQL comes in batches", () =>
    Effect.gen(function* () {
      const double = yield* ArangoDouble.make({ deployment: "single" })
      const database = yield* arangojs([...double.endpoints])
      const items = yield* run(() => database.createCollection("items"))
      yield* run(() => items.saveAll([{ n: 1 }, { n: 2 }, { n: 2 }]))
      const found = yield* run(() =>
        database
          .query(aql`FOR d IN ${items} FILTER d.n == ${2} RETURN d.n`)
          .then((cursor) => cursor.all())
      )
      assert.deepStrictEqual(found, [2, 2])
      const numbers = yield* run(() =>
        database
          .query("FOR i IN 1..7 RETURN i", {}, { batchSize: 2, allowRetry: true })
          .then((cursor) => cursor.all())
      )
      assert.deepStrictEqual(numbers, [1, 2, 3, 4, 5, 6, 7])
      const wrong = yield* Effect.flip(run(() => database.query("SORT of")))
      assert.strictEqual((wrong.error as any).errorNum, 1501)
    })
  )

  it.scopedLive("a stream transaction is seen by others when it commits", () =>
    Effect.gen(function* () {
      const double = yield* ArangoDouble.make({ deployment: "single" })
      const [node] = double.nodes
      const database = yield* arangojs([...double.endpoints])
      const items = yield* run(() => database.createCollection("items"))
      const begun = yield* run(() => database.beginTransaction({ write: [items] }))
      yield* run(() => begun.step(() => items.save({ _key: "a" })))
      assert.lengthOf(yield* double.documents(node, "items"), 0)
      assert.isTrue(yield* run(() => begun.step(() => items.documentExists("a"))))
      yield* run(() => begun.commit())
      assert.lengthOf(yield* double.documents(node, "items"), 1)
      const aborted = yield* run(() => database.beginTransaction({ write: [items] }))
      yield* run(() => aborted.step(() => items.save({ _key: "b" })))
      yield* run(() => aborted.abort())
      assert.lengthOf(yield* double.documents(node, "items"), 1)
    })
  )

  it.scopedLive("it logs in with a password and works with the token", () =>
    Effect.gen(function* () {
      const auth = { username: "root", password: "secret" }
      const double = yield* ArangoDouble.make({ deployment: "single", auth })
      const database = yield* arangojs([...double.endpoints])
      yield* run(() => database.login("root", "secret"))
      yield* run(() => database.createCollection("items"))
      assert.match((yield* double.log).at(-1)?.headers.authorization ?? "", /^bearer /i)
      const stranger = new Database({ url: [...double.endpoints] })
      const refused = yield* Effect.flip(run(() => stranger.collections()))
      assert.strictEqual((refused.error as any).code, 401)
      stranger.close()
    })
  )

  it.scopedLive("a follower redirects to its leader, on IPv4 and IPv6", () =>
    Effect.gen(function* () {
      const double = yield* ArangoDouble.make({ hosts: ["::1", "127.0.0.1"] })
      const [leader, follower] = double.nodes
      assert.isDefined(follower)
      if (follower === undefined) return
      const database = yield* arangojs(follower.url)
      yield* run(() => database.createCollection("items"))
      const log = yield* double.log
      assert.deepStrictEqual(
        log.map((_) => [_.node, _.status, _.executed]),
        [
          [follower.id, 503, false],
          [leader.id, 200, true]
        ]
      )
    })
  )

  it.scopedLive("arangojs finds the hosts, and reads from followers when it may", () =>
    Effect.gen(function* () {
      const double = yield* ArangoDouble.make({ nodes: 2 })
      const database = yield* arangojs([double.endpoints[0] ?? ""])
      yield* run(() => database.acquireHostList())
      const items = yield* run(() => database.createCollection("items"))
      yield* run(() => items.save({ _key: "a" }))
      yield* double.clearLog
      for (let i = 0; i < 4; i++) {
        yield* run(() => items.document("a", { allowDirtyRead: true }))
      }
      assert.deepStrictEqual([...new Set((yield* double.log).map((_) => _.node))].sort(), [
        "SNGL-1",
        "SNGL-2"
      ])
    })
  )

  it.scopedLive("a cluster's coordinators work on one set of data", () =>
    Effect.gen(function* () {
      const double = yield* ArangoDouble.make({ deployment: "cluster", nodes: 3 })
      const first = yield* arangojs(double.endpoints[0] ?? "")
      const third = yield* arangojs(double.endpoints[2] ?? "")
      yield* run(() => first.createCollection("items").then((items) => items.save({ _key: "a" })))
      assert.isTrue(yield* run(() => third.collection("items").documentExists("a")))
    })
  )
})

describe("the double's failover", () => {
  it.scopedLive("leader killed: a stale header, then an election, then the follower leads", () =>
    Effect.gen(function* () {
      const double = yield* ArangoDouble.make({ nodes: 2 })
      const [leader, follower] = double.nodes
      assert.isDefined(follower)
      if (follower === undefined) return
      yield* post(`${leader.url}/_api/collection`, { name: "items" })
      yield* double.kill(leader)
      const refused = yield* Effect.either(post(`${leader.url}/_api/version`, {}))
      assert.strictEqual(refused._tag, "Left")
      const stale = yield* post(`${follower.url}/_api/document/items`, {})
      assert.strictEqual(stale.status, 503)
      assert.strictEqual(stale.headers.get("x-arango-endpoint"), leader.url)
      const body: any = yield* run(() => stale.json())
      assert.deepStrictEqual(body, {
        error: true,
        code: 503,
        errorNum: 1496,
        errorMessage: "not a leader"
      })
      yield* double.setMode(follower, "election")
      const election = yield* post(`${follower.url}/_api/document/items`, {})
      assert.strictEqual(election.headers.get("x-arango-endpoint"), "")
      assert.strictEqual(((yield* run(() => election.json())) as any).errorNum, 1495)
      yield* double.elect({ after: "20 millis" })
      assert.strictEqual((yield* double.leader)?.id, follower.id)
      assert.strictEqual((yield* post(`${follower.url}/_api/document/items`, {})).status, 202)
      yield* double.restart(leader)
      const back = yield* post(`${leader.url}/_api/document/items`, {})
      assert.strictEqual(back.headers.get("x-arango-endpoint"), follower.url)
      assert.lengthOf(yield* double.documents(leader, "items"), 1)
    })
  )

  it.scopedLive("what was not replicated is lost on a promotion", () =>
    Effect.gen(function* () {
      const double = yield* ArangoDouble.make({ nodes: 2 })
      const [leader, follower] = double.nodes
      assert.isDefined(follower)
      if (follower === undefined) return
      yield* post(`${leader.url}/_api/collection`, { name: "items" })
      yield* post(`${leader.url}/_api/document/items`, { _key: "kept" })
      yield* double.setReplicating(false)
      yield* post(`${leader.url}/_api/document/items`, { _key: "lost" })
      yield* double.kill(leader)
      yield* double.promote(follower)
      assert.deepStrictEqual(
        (yield* double.documents(follower, "items")).map((_) => _._key),
        ["kept"]
      )
    })
  )

  it.scopedLive("the agency tells the leader, and its other agents send to the first", () =>
    Effect.gen(function* () {
      const double = yield* ArangoDouble.make({ nodes: 2 })
      const [first, second] = double.agency
      const plan = yield* post(`${first}/_api/agency/read`, [["/arango/Plan"]])
      const [tree]: any = yield* run(() => plan.json())
      assert.strictEqual(tree.arango.Plan.AsyncReplication.Leader, "SNGL-1")
      const redirected = yield* run(() =>
        fetch(`${second}/_api/agency/read`, { method: "POST", redirect: "manual" })
      )
      assert.strictEqual(redirected.headers.get("location"), `${first}/_api/agency/read`)
    })
  )

  it.scopedLive("endpoints are listed leader first, with their old scheme", () =>
    Effect.gen(function* () {
      const double = yield* ArangoDouble.make({ nodes: 3, hosts: ["127.0.0.1", "::1"] })
      const [, second] = double.nodes
      assert.isDefined(second)
      if (second === undefined) return
      yield* double.setMode(double.nodes[0], "follower")
      yield* double.promote(second)
      const response = yield* run(() => fetch(`${second.url}/_db/shop/_api/cluster/endpoints`))
      const body: any = yield* run(() => response.json())
      assert.strictEqual(body.endpoints[0].endpoint, `tcp://[::1]:${second.port}`)
      assert.lengthOf(body.endpoints, 3)
    })
  )
})

describe("the double's faults and its log", () => {
  const faulted = (fault: ArangoDouble.Fault) =>
    Effect.gen(function* () {
      const double = yield* ArangoDouble.make({ deployment: "single" })
      const [node] = double.nodes
      yield* post(`${node.url}/_api/collection`, { name: "items" })
      yield* double.clearLog
      yield* double.setFault(node, fault, { times: 1, when: (_) => _.method === "POST" })
      const result = yield* post(`${node.url}/_api/document/items`, { _key: "a" }).pipe(
        Effect.flatMap((response) => run(() => response.text())),
        Effect.timeoutOption("200 millis"),
        Effect.either
      )
      const [record] = yield* double.log
      const again = yield* post(`${node.url}/_api/document/items`, { _key: "b" })
      assert.strictEqual(again.status, 202)
      return { result, record, stored: (yield* double.documents(node, "items")).length - 1 }
    })
  const { Fault } = ArangoDouble

  for (const [fault, executed] of [
    [Fault.ResetBeforeBody(), 0],
    [Fault.ResetBeforeExecution(), 0],
    [Fault.DropReply(), 1],
    [Fault.CloseInsteadOfReply(), 1],
    [Fault.HalfReply(), 1]
  ] as const) {
    it.scopedLive(`${fault._tag}: the client fails, ${executed} documents are stored`, () =>
      Effect.gen(function* () {
        const { record, result, stored } = yield* faulted(fault)
        assert.strictEqual(result._tag, "Left")
        assert.strictEqual(stored, executed)
        assert.strictEqual(record?.operations.length ?? 0, executed)
      })
    )
  }

  for (const [fault, executed] of [
    [Fault.HangBeforeExecution(), 0],
    [Fault.HangInsteadOfReply(), 1]
  ] as const) {
    it.scopedLive(`${fault._tag}: the client waits, ${executed} documents are stored`, () =>
      Effect.gen(function* () {
        const { record, result, stored } = yield* faulted(fault)
        assert.deepStrictEqual(
          [result._tag, result._tag === "Right" && result.right._tag],
          ["Right", "None"]
        )
        assert.strictEqual(stored, executed)
        assert.isUndefined(record?.status)
      })
    )
  }

  it.scopedLive("ResetOnConnect: nothing is received", () =>
    Effect.gen(function* () {
      const double = yield* ArangoDouble.make({ deployment: "single" })
      const [node] = double.nodes
      yield* double.setFault(node, Fault.ResetOnConnect())
      assert.strictEqual((yield* Effect.either(post(node.url, {})))._tag, "Left")
      assert.lengthOf(yield* double.log, 0)
    })
  )
})
