import { type ChildProcess, spawn } from "node:child_process"
import * as Fs from "node:fs"
import * as Net from "node:net"
import * as Path from "node:path"
import { createInterface } from "node:readline"
import { assert, describe, it, layer } from "@effect/vitest"
import { Context, Effect, Exit, Fiber, Layer, Redacted, Scope } from "effect"
import * as FaultProxy from "effect-failover/testing/FaultProxy"
import * as PostgresCluster from "effect-failover/testing/PostgresCluster"
import Pg from "pg"
import { childrenOf, isAlive } from "../../src/testing/internal/processes.js"

type Cluster = PostgresCluster.PostgresCluster

class Template extends Context.Tag("test/Template")<Template, PostgresCluster.Template>() {}

// Through JSON, as a vitest globalSetup would hand it to its workers.
const templateLayer = Layer.scoped(
  Template,
  Effect.map(PostgresCluster.makeTemplate, (template): PostgresCluster.Template =>
    JSON.parse(JSON.stringify(template))
  )
)

const make = (options: PostgresCluster.Options = {}) =>
  Effect.flatMap(Template, (template) => PostgresCluster.make({ template, ...options }))

const eventually = <E>(what: string, ready: Effect.Effect<boolean, E>) =>
  ready.pipe(
    Effect.orElseSucceed(() => false),
    Effect.delay("5 millis"),
    Effect.repeat({ until: (done) => done }),
    Effect.timeoutFail({ duration: "20 seconds", onTimeout: () => new Error(`never: ${what}`) }),
    Effect.orDie
  )

const value = (cluster: Cluster, node: PostgresCluster.Node, sql: string) =>
  Effect.map(cluster.query(node, sql), ([row]) => Object.values(row ?? {})[0])

const ids = (cluster: Cluster, node: PostgresCluster.Node) =>
  Effect.map(cluster.query(node, "select id from t order by id"), (rows) =>
    rows.map((row) => row["id"])
  )

const createTable = (cluster: Cluster) =>
  Effect.flatMap(cluster.primary, (node) =>
    cluster.query(node, "create table t (id integer primary key)")
  )

const insert = (cluster: Cluster, id: number) =>
  Effect.flatMap(cluster.primary, (node) => cluster.query(node, "insert into t values ($1)", [id]))

const roles = (cluster: Cluster) =>
  Effect.map(cluster.status, (all) => all.map(({ process, role }) => `${process} ${role}`))

/** How a client connects: through the proxy. Succeeds with the answer, or with the error's code. */
const connect = (cluster: Cluster, node: PostgresCluster.Node, password?: string) =>
  Effect.acquireUseRelease(
    Effect.sync(() => {
      const client = new Pg.Client({
        host: node.host,
        port: node.port,
        user: cluster.username,
        password: password ?? Redacted.value(cluster.password),
        database: cluster.database
      })
      client.on("error", () => {})
      return client
    }),
    (client) =>
      Effect.promise(() =>
        client
          .connect()
          .then(() => client.query<{ cluster_name: string }>("show cluster_name"))
          .then(
            ({ rows }) => rows[0]?.cluster_name,
            (error: NodeJS.ErrnoException) => error.code ?? error.message
          )
      ),
    (client) => Effect.promise(() => client.end().catch(() => {}))
  )

const connectRaw = (port: number) =>
  Effect.async<string>((resume) => {
    const socket = Net.connect({ host: "127.0.0.1", port })
    const done = (result: string) => {
      socket.destroy()
      resume(Effect.succeed(result))
    }
    socket.once("connect", () => done("connected"))
    socket.once("error", (error: NodeJS.ErrnoException) => done(error.code ?? error.message))
  })

const serverOf = (cluster: Cluster, node: PostgresCluster.Node) =>
  Effect.map(value(cluster, node, "show data_directory"), (directory) => {
    const path = String(directory)
    const file = Fs.readFileSync(Path.join(path, "postmaster.pid"), "utf8")
    const pid = Number(file.split("\n")[0])
    return { root: Path.dirname(path), pids: [pid, ...childrenOf(pid)] }
  })

const node = (cluster: Cluster, index: number): PostgresCluster.Node => {
  const found = cluster.nodes[index]
  if (found === undefined) throw new Error(`no node ${index}`)
  return found
}

/** The exact statements of the AWS drivers. */
const aws = {
  topology:
    "SELECT SERVER_ID, CASE WHEN SESSION_ID OPERATOR(pg_catalog.=) 'MASTER_SESSION_ID' THEN TRUE ELSE FALSE END, CPU, COALESCE(REPLICA_LAG_IN_MSEC, 0), LAST_UPDATE_TIMESTAMP FROM pg_catalog.aurora_replica_status() WHERE EXTRACT(EPOCH FROM(pg_catalog.NOW() OPERATOR(pg_catalog.-) LAST_UPDATE_TIMESTAMP)) OPERATOR(pg_catalog.<=) 300 OR SESSION_ID OPERATOR(pg_catalog.=) 'MASTER_SESSION_ID' OR LAST_UPDATE_TIMESTAMP IS NULL",
  instanceId: "SELECT pg_catalog.aurora_db_instance_identifier()",
  writerId:
    "SELECT SERVER_ID FROM pg_catalog.aurora_replica_status() WHERE SESSION_ID OPERATOR(pg_catalog.=) 'MASTER_SESSION_ID' AND SERVER_ID OPERATOR(pg_catalog.=) pg_catalog.aurora_db_instance_identifier()",
  isReader: "SELECT pg_catalog.pg_is_in_recovery()",
  extensions:
    "SELECT (setting OPERATOR(pg_catalog.~~) '%aurora_stat_utils%') AS aurora_stat_utils FROM pg_catalog.pg_settings WHERE name OPERATOR(pg_catalog.=) 'rds.extensions'",
  hasTopology: "SELECT 1 FROM pg_catalog.aurora_replica_status() LIMIT 1"
}

/** `["instance-1 writer", "instance-2", ...]`, as the node sees it. */
const topology = (cluster: Cluster, from: PostgresCluster.Node) =>
  Effect.map(cluster.query(from, aws.topology), (rows) =>
    rows.map((row) => `${String(row["server_id"])}${row["case"] === true ? " writer" : ""}`).sort()
  )

const synchronous = (cluster: Cluster) =>
  Effect.flatMap(cluster.primary, (primary) =>
    Effect.map(
      value(cluster, primary, "show synchronous_standby_names"),
      (names) => names === "ANY 1 (*)"
    )
  )

layer(templateLayer, { excludeTestServices: true, timeout: 60_000 })("PostgresCluster", (it) => {
  describe("bring-up", () => {
    it.scoped("has one primary, and standbys that replay what it commits", () =>
      Effect.gen(function* () {
        const cluster = yield* make()
        assert.deepStrictEqual(yield* roles(cluster), [
          "running primary",
          "running standby",
          "running standby"
        ])
        assert.deepStrictEqual(
          cluster.nodes.map(({ id }) => id),
          ["instance-1", "instance-2", "instance-3"]
        )
        yield* createTable(cluster)
        yield* insert(cluster, 1)
        for (const each of yield* cluster.standbys) {
          yield* eventually(
            `row on ${each.id}`,
            Effect.map(ids(cluster, each), (all) => all.length === 1)
          )
        }
      })
    )

    it.scoped("serves clients through the proxies, and refuses a wrong password", () =>
      Effect.gen(function* () {
        const cluster = yield* make({ nodes: 2 })
        for (const each of cluster.nodes) {
          assert.strictEqual(yield* connect(cluster, each), each.id)
          assert.strictEqual(yield* connect(cluster, each, "wrong"), "28P01")
        }
        const [first] = cluster.nodes
        yield* first?.proxy.set(FaultProxy.Fault.Refuse()) ?? Effect.void
        assert.strictEqual(yield* connect(cluster, node(cluster, 0)), "ECONNREFUSED")
        assert.strictEqual(yield* value(cluster, node(cluster, 0), "select 1"), 1)
      })
    )

    it.scoped("takes settings, one node, and asynchronous replication", () =>
      Effect.gen(function* () {
        const single = yield* make({ nodes: 1, settings: { work_mem: "7MB" } })
        assert.strictEqual(yield* value(single, node(single, 0), "show work_mem"), "7MB")
        assert.isFalse(yield* synchronous(single))
        const cluster = yield* make({ nodes: 2, replication: "asynchronous" })
        assert.isFalse(yield* synchronous(cluster))
      })
    )

    it.scoped("clusters live side by side", () =>
      Effect.gen(function* () {
        const [one, two] = yield* Effect.all([make({ nodes: 2 }), make({ nodes: 2 })], {
          concurrency: 2
        })
        assert.strictEqual(yield* connect(one, node(one, 1)), "instance-2")
        assert.strictEqual(yield* connect(two, node(two, 1)), "instance-2")
        const error = yield* Effect.flip(one.query(node(two, 0), "select 1"))
        assert.include(error.message, "no node of this cluster")
      })
    )

    it.scoped("says which setting the server did not accept", () =>
      Effect.gen(function* () {
        const error = yield* Effect.flip(make({ nodes: 1, settings: { no_such_setting: "1" } }))
        assert.strictEqual(error._tag, "PostgresClusterError")
        assert.strictEqual(error.node, "instance-1")
        assert.include(error.log ?? "", "no_such_setting")
      })
    )

    it.scoped("is a layer", () =>
      Effect.gen(function* () {
        const template = yield* Template
        const cluster = yield* PostgresCluster.PostgresCluster.pipe(
          Effect.map(({ flavor, nodes }) => ({ flavor, count: nodes.length })),
          Effect.provide(PostgresCluster.layer({ template, nodes: 1, flavor: "aurora" }))
        )
        assert.deepStrictEqual(cluster, { flavor: "aurora", count: 1 })
      })
    )
  })

  describe("failover", () => {
    it.scoped("a killed primary is gone at once, and refuses connections", () =>
      Effect.gen(function* () {
        const cluster = yield* make({ nodes: 2 })
        const primary = yield* cluster.primary
        const { pids } = yield* serverOf(cluster, primary)
        assert.isAtLeast(pids.length, 4)
        yield* cluster.kill(primary)
        assert.deepStrictEqual(pids.filter(isAlive), [])
        assert.strictEqual(yield* connectRaw(primary.serverPort), "ECONNREFUSED")
        assert.strictEqual(yield* connect(cluster, primary), "ECONNRESET")
        assert.deepStrictEqual(yield* roles(cluster), ["stopped unknown", "running standby"])
        yield* cluster.kill(primary)
      })
    )

    it.scoped("a promoted standby has every acknowledged row, and accepts writes on return", () =>
      Effect.gen(function* () {
        const cluster = yield* make()
        yield* createTable(cluster)
        let id = 0
        for (let round = 0; round < 5; round++) {
          for (let i = 0; i < 5; i++) yield* insert(cluster, id++)
          const old = yield* cluster.primary
          yield* cluster.kill(old)
          const before = process.hrtime.bigint()
          const promotion = yield* cluster.promote()
          assert.isTrue(promotion.acceptsWritesAt > before)
          assert.isTrue(promotion.acceptsWritesAt <= process.hrtime.bigint())
          assert.strictEqual(promotion.node, yield* cluster.primary)
          yield* insert(cluster, id++)
          assert.strictEqual((yield* ids(cluster, promotion.node)).length, id)
          assert.isTrue(yield* synchronous(cluster))
          yield* cluster.rejoin(old)
          assert.strictEqual((yield* ids(cluster, old)).length, id)
          assert.strictEqual(yield* connect(cluster, old), old.id)
        }
      })
    )

    it.scoped("one that is promoted alone waits for a standby once that follows", () =>
      Effect.gen(function* () {
        const cluster = yield* make({ nodes: 3 })
        yield* createTable(cluster)
        const [, , sibling] = cluster.nodes
        assert.isDefined(sibling)
        yield* cluster.freeze(sibling)
        yield* cluster.kill(yield* cluster.primary)
        yield* cluster.promote(undefined, { alone: true })
        yield* insert(cluster, 1)
        assert.isFalse(yield* synchronous(cluster))
        yield* cluster.resume(sibling)
        yield* eventually("commits to wait for the sibling", synchronous(cluster))
        yield* insert(cluster, 2)
        assert.deepStrictEqual(yield* ids(cluster, sibling), [1, 2])
      })
    )

    it.scoped("the siblings follow the new primary", () =>
      Effect.gen(function* () {
        const cluster = yield* make({ nodes: 4 })
        yield* createTable(cluster)
        yield* cluster.kill(yield* cluster.primary)
        yield* cluster.promote(node(cluster, 2))
        yield* insert(cluster, 1)
        for (const index of [1, 3]) {
          yield* eventually(
            "the row",
            Effect.map(ids(cluster, node(cluster, index)), (all) => all.length === 1)
          )
        }
        assert.deepStrictEqual(yield* roles(cluster), [
          "stopped unknown",
          "running standby",
          "running primary",
          "running standby"
        ])
      })
    )

    it.scoped(
      "a frozen primary accepts connections and says nothing; resumed, it is a second primary",
      () =>
        Effect.gen(function* () {
          const cluster = yield* make()
          yield* createTable(cluster)
          const old = yield* cluster.primary
          yield* cluster.freeze(old)
          assert.strictEqual(yield* connectRaw(old.serverPort), "connected")
          const silent = yield* Effect.fork(connect(cluster, old))
          const error = yield* Effect.flip(cluster.query(old, "select 1"))
          assert.include(error.message, "frozen")
          yield* cluster.promote()
          yield* insert(cluster, 1)
          assert.isNull(
            yield* Fiber.poll(silent).pipe(
              Effect.map((exit) => (exit._tag === "None" ? null : exit))
            )
          )
          yield* cluster.resume(old)
          assert.strictEqual(yield* Fiber.join(silent), old.id)
          const primaries = (yield* roles(cluster)).filter((role) => role === "running primary")
          assert.strictEqual(primaries.length, 2)
          assert.notStrictEqual(yield* cluster.primary, old)
          assert.notInclude(yield* cluster.standbys, old)
          yield* cluster.rejoin(old)
          assert.deepStrictEqual(yield* ids(cluster, old), [1])
        })
    )

    it.scoped("a sibling with more than the promoted standby is cloned from it", () =>
      Effect.gen(function* () {
        const cluster = yield* make()
        yield* createTable(cluster)
        const [, behind, ahead] = [node(cluster, 0), node(cluster, 1), node(cluster, 2)]
        yield* insert(cluster, 1)
        yield* eventually(
          "the row on the one that will be behind",
          Effect.map(ids(cluster, behind), (all) => all.length === 1)
        )
        yield* cluster.stop(behind, "fast")
        yield* insert(cluster, 2)
        yield* cluster.kill(node(cluster, 0))
        yield* cluster.start(behind)
        yield* cluster.promote(behind)
        yield* insert(cluster, 3)
        yield* eventually(
          "the same rows on both",
          Effect.map(ids(cluster, ahead), (all) => all.join() === "1,3")
        )
      })
    )

    it.scoped(
      "a standby that was frozen during a failover follows the new primary when resumed",
      () =>
        Effect.gen(function* () {
          const cluster = yield* make()
          yield* createTable(cluster)
          yield* cluster.freeze(node(cluster, 2))
          yield* cluster.kill(node(cluster, 0))
          const promotion = yield* cluster.promote()
          assert.strictEqual(promotion.node.id, "instance-2")
          yield* insert(cluster, 1)
          yield* cluster.resume(node(cluster, 2))
          assert.deepStrictEqual(yield* ids(cluster, node(cluster, 2)), [1])
          assert.isTrue(yield* synchronous(cluster))
        })
    )

    it.scoped("a switchover loses nothing and swaps the roles", () =>
      Effect.gen(function* () {
        const cluster = yield* make()
        yield* createTable(cluster)
        for (let id = 1; id <= 3; id++) {
          yield* insert(cluster, id)
          const old = yield* cluster.primary
          const to = id === 2 ? node(cluster, 2) : undefined
          const target = to === old ? undefined : to
          const next = yield* cluster.switchover(target)
          assert.notStrictEqual(next, old)
          if (target !== undefined) assert.strictEqual(next, target)
          assert.strictEqual(yield* cluster.primary, next)
          assert.include(yield* cluster.standbys, old)
          assert.strictEqual((yield* ids(cluster, old)).length, id)
        }
        assert.isTrue(yield* synchronous(cluster))
      })
    )

    it.scoped("a killed or stopped primary comes back as the primary", () =>
      Effect.gen(function* () {
        const cluster = yield* make()
        yield* createTable(cluster)
        const primary = yield* cluster.primary
        yield* cluster.kill(primary)
        yield* cluster.start(primary)
        yield* insert(cluster, 1)
        yield* cluster.stop(primary, "immediate")
        yield* cluster.start(primary)
        yield* insert(cluster, 2)
        yield* cluster.restart(primary)
        yield* insert(cluster, 3)
        assert.deepStrictEqual(yield* ids(cluster, primary), [1, 2, 3])
        assert.deepStrictEqual(yield* roles(cluster), [
          "running primary",
          "running standby",
          "running standby"
        ])
      })
    )

    it.scoped("a replaced primary that is started is a second primary, until it re-joins", () =>
      Effect.gen(function* () {
        const cluster = yield* make({ nodes: 2 })
        yield* createTable(cluster)
        const old = yield* cluster.primary
        yield* cluster.stop(old, "fast")
        yield* cluster.promote()
        yield* cluster.start(old)
        assert.deepStrictEqual(yield* roles(cluster), ["running primary", "running primary"])
        yield* cluster.rejoin(old)
        assert.deepStrictEqual(yield* roles(cluster), ["running standby", "running primary"])
      })
    )
  })

  describe("commits wait for a standby exactly as long as there is one", () => {
    const lose = {
      kill: (cluster: Cluster, standby: PostgresCluster.Node) => cluster.kill(standby),
      stop: (cluster: Cluster, standby: PostgresCluster.Node) => cluster.stop(standby, "fast"),
      freeze: (cluster: Cluster, standby: PostgresCluster.Node) => cluster.freeze(standby)
    }
    const regain = {
      kill: (cluster: Cluster, standby: PostgresCluster.Node) => cluster.rejoin(standby),
      stop: (cluster: Cluster, standby: PostgresCluster.Node) => cluster.start(standby),
      freeze: (cluster: Cluster, standby: PostgresCluster.Node) => cluster.resume(standby)
    }
    for (const how of ["kill", "stop", "freeze"] as const) {
      it.scoped(`${how} of the last standby`, () =>
        Effect.gen(function* () {
          const cluster = yield* make()
          yield* createTable(cluster)
          const [, one, two] = [node(cluster, 0), node(cluster, 1), node(cluster, 2)]
          yield* lose[how](cluster, one)
          yield* insert(cluster, 1)
          assert.isTrue(yield* synchronous(cluster))
          yield* lose[how](cluster, two)
          yield* insert(cluster, 2)
          yield* eventually(
            "no waiting",
            Effect.map(synchronous(cluster), (on) => !on)
          )
          yield* regain[how](cluster, one)
          assert.isTrue(yield* synchronous(cluster))
          yield* insert(cluster, 3)
          yield* eventually(
            "the rows",
            Effect.map(ids(cluster, one), (all) => all.length === 3)
          )
        })
      )
    }

    it.scoped("a promotion with nobody left to follow", () =>
      Effect.gen(function* () {
        const cluster = yield* make({ nodes: 2 })
        yield* createTable(cluster)
        const old = yield* cluster.primary
        yield* cluster.kill(old)
        yield* cluster.promote()
        yield* insert(cluster, 1)
        yield* cluster.rejoin(old)
        assert.isTrue(yield* synchronous(cluster))
        yield* insert(cluster, 2)
      })
    )

    it.scoped("a standby that somebody else kills", () =>
      Effect.gen(function* () {
        const cluster = yield* make({ nodes: 2 })
        yield* createTable(cluster)
        const { pids } = yield* serverOf(cluster, node(cluster, 1))
        process.kill(pids[0] ?? 0, "SIGKILL")
        yield* insert(cluster, 1)
        yield* eventually(
          "its end is seen",
          Effect.map(roles(cluster), (all) => all[1] === "stopped unknown")
        )
        yield* cluster.start(node(cluster, 1))
        assert.deepStrictEqual(yield* ids(cluster, node(cluster, 1)), [1])
      })
    )
  })

  describe("what cannot be done fails with a hint", () => {
    it.scoped("and leaves the cluster as it was", () =>
      Effect.gen(function* () {
        const cluster = yield* make({ nodes: 2 })
        const [primary, standby] = [node(cluster, 0), node(cluster, 1)]
        const failures = [
          cluster.rejoin(primary),
          cluster.promote(primary),
          cluster.switchover(primary),
          cluster.resume(standby).pipe(Effect.zipRight(Effect.fail({ hint: "was running" }))),
          cluster.query(primary, "select no_such_column"),
          cluster.kill(standby).pipe(Effect.zipRight(cluster.promote())),
          cluster.switchover(),
          cluster.query(standby, "select 1"),
          cluster.freeze(standby),
          cluster.resume(standby)
        ]
        for (const failure of failures) {
          const error = yield* Effect.flip(failure)
          assert.isNotEmpty(error.hint)
        }
        assert.strictEqual(yield* cluster.primary, primary)
        yield* cluster.start(standby)
        yield* cluster.freeze(standby)
        const hints = [cluster.start(standby), cluster.stop(standby, "fast")]
        for (const failure of hints) assert.include((yield* Effect.flip(failure)).hint, "resume")
        yield* cluster.resume(standby)
        assert.deepStrictEqual(yield* roles(cluster), ["running primary", "running standby"])
      })
    )
  })

  describe("flavor aurora", () => {
    const all = (cluster: Cluster, expected: ReadonlyArray<string>) =>
      Effect.forEach(
        cluster.nodes,
        (each) =>
          eventually(
            `${each.id} sees ${expected.join(", ")}`,
            Effect.map(topology(cluster, each), (seen) => seen.join() === expected.join())
          ),
        { discard: true }
      )

    it.scoped("answers every statement of the AWS drivers on every node", () =>
      Effect.gen(function* () {
        const cluster = yield* make({ flavor: "aurora" })
        for (const [index, each] of cluster.nodes.entries()) {
          const isReader = index > 0
          assert.strictEqual(yield* value(cluster, each, aws.instanceId), each.id)
          assert.strictEqual(yield* value(cluster, each, aws.isReader), isReader)
          assert.strictEqual(yield* value(cluster, each, aws.extensions), true)
          assert.strictEqual(yield* value(cluster, each, aws.hasTopology), 1)
          assert.strictEqual(
            yield* value(cluster, each, aws.writerId),
            isReader ? undefined : each.id
          )
          assert.match(String(yield* value(cluster, each, "select aurora_version()")), /^\d+\.\d+/)
          assert.include(String(yield* value(cluster, each, "show rds.extensions")), "aurora")
          const [own] = yield* cluster.query(
            each,
            "select last_update_timestamp as at, pg_typeof(replica_lag_in_msec) as lag, pg_typeof(cpu) as cpu from aurora_replica_status() where server_id = aurora_db_instance_identifier()"
          )
          assert.deepStrictEqual(own, { at: null, lag: "real", cpu: "real" })
        }
        yield* all(cluster, ["instance-1 writer", "instance-2", "instance-3"])
      })
    )

    it.scoped("answers users without privileges", () =>
      Effect.gen(function* () {
        const cluster = yield* make({ flavor: "aurora", nodes: 2 })
        const rows = yield* cluster.query(
          node(cluster, 0),
          "create role app; set role app; select * from pg_catalog.aurora_replica_status(); "
        )
        assert.strictEqual(rows.length, 2)
      })
    )

    it.scoped("shows a failover as Aurora does", () =>
      Effect.gen(function* () {
        const cluster = yield* make({ flavor: "aurora" })
        const old = node(cluster, 0)
        yield* cluster.kill(old)
        // In the outage, readers know what they have been told last.
        assert.include(yield* topology(cluster, node(cluster, 1)), "instance-1 writer")
        const promotion = yield* cluster.promote(node(cluster, 1))
        assert.strictEqual(yield* value(cluster, promotion.node, aws.writerId), "instance-2")
        const seen = yield* topology(cluster, promotion.node)
        assert.include(seen, "instance-2 writer")
        assert.notInclude(seen.join(), "instance-1")
        yield* eventually(
          "the sibling sees the new writer, and the old one no more",
          Effect.map(
            topology(cluster, node(cluster, 2)),
            (seen) => seen.join() === "instance-2 writer,instance-3"
          )
        )
        yield* cluster.rejoin(old)
        yield* all(cluster, ["instance-1", "instance-2 writer", "instance-3"])
        yield* cluster.switchover(node(cluster, 2))
        yield* all(cluster, ["instance-1", "instance-2", "instance-3 writer"])
      })
    )

    it.scoped("a resumed old writer claims to be the writer", () =>
      Effect.gen(function* () {
        const cluster = yield* make({ flavor: "aurora" })
        const old = node(cluster, 0)
        yield* cluster.freeze(old)
        const { node: next } = yield* cluster.promote()
        yield* cluster.resume(old)
        assert.strictEqual(yield* value(cluster, old, aws.writerId), old.id)
        assert.strictEqual(yield* value(cluster, next, aws.writerId), next.id)
      })
    )

    it.scoped("a stopped reader vanishes for all, and returns", () =>
      Effect.gen(function* () {
        const cluster = yield* make({ flavor: "aurora" })
        yield* cluster.stop(node(cluster, 2), "fast")
        for (const each of [node(cluster, 0), node(cluster, 1)]) {
          yield* eventually(
            `gone for ${each.id}`,
            Effect.map(
              topology(cluster, each),
              (seen) => seen.join() === "instance-1 writer,instance-2"
            )
          )
        }
        yield* cluster.start(node(cluster, 2))
        yield* all(cluster, ["instance-1 writer", "instance-2", "instance-3"])
      })
    )
  })

  describe("leaves nothing behind", () => {
    const noTrace = (what: {
      readonly pids: ReadonlyArray<number>
      readonly directories: ReadonlyArray<string>
    }) =>
      eventually(
        "all processes and directories gone",
        Effect.sync(
          () => !what.pids.some(isAlive) && !what.directories.some((path) => Fs.existsSync(path))
        )
      )

    it.scoped("when the scope closes, with running, frozen, killed and re-cloned nodes", () =>
      Effect.gen(function* () {
        const scope = yield* Scope.make()
        const watchdogs = new Set(childrenOf(process.pid))
        const cluster = yield* Scope.extend(make({ nodes: 4 }), scope)
        yield* cluster.kill(node(cluster, 3))
        yield* cluster.rejoin(node(cluster, 3))
        const servers = yield* Effect.forEach(cluster.nodes, (each) => serverOf(cluster, each))
        const own = childrenOf(process.pid).filter((pid) => !watchdogs.has(pid))
        assert.isAtLeast(own.length, 5)
        yield* cluster.freeze(node(cluster, 0))
        yield* cluster.freeze(node(cluster, 1))
        yield* cluster.kill(node(cluster, 2))
        yield* Scope.close(scope, Exit.void)
        // At once, not eventually.
        assert.deepStrictEqual([...own, ...servers.flatMap(({ pids }) => pids)].filter(isAlive), [])
        assert.deepStrictEqual(
          servers.filter(({ root }) => Fs.existsSync(root)),
          []
        )
        for (const each of cluster.nodes) {
          assert.strictEqual(yield* connectRaw(each.port), "ECONNREFUSED")
          assert.strictEqual(yield* connectRaw(each.serverPort), "ECONNREFUSED")
        }
      })
    )

    for (const millis of [1, 20, 60, 120, 250]) {
      it.scoped(`when the bring-up is interrupted after ${millis} ms`, () =>
        Effect.gen(function* () {
          const before = new Set(childrenOf(process.pid))
          yield* Effect.scoped(
            Effect.zipRight(PostgresCluster.makeTemplate, make({ nodes: 3, flavor: "aurora" }))
          ).pipe(Effect.timeoutOption(millis * 3))
          yield* Effect.scoped(make({ nodes: 3, flavor: "aurora" })).pipe(
            Effect.timeoutOption(millis)
          )
          assert.deepStrictEqual(
            childrenOf(process.pid).filter((pid) => !before.has(pid) && isAlive(pid)),
            []
          )
        })
      )
    }

    it.scoped("when an operation is interrupted", () =>
      Effect.gen(function* () {
        const scope = yield* Scope.make()
        const cluster = yield* Scope.extend(make(), scope)
        const { root } = yield* serverOf(cluster, node(cluster, 0))
        yield* cluster.rejoin(node(cluster, 1)).pipe(Effect.timeoutOption("30 millis"))
        yield* cluster.rejoin(node(cluster, 1))
        const fiber = yield* Effect.fork(cluster.rejoin(node(cluster, 2)))
        yield* Scope.close(scope, Exit.void)
        assert.isTrue(Exit.isFailure(yield* Fiber.await(fiber)))
        assert.isFalse(Fs.existsSync(root))
        const error = yield* Effect.flip(cluster.start(node(cluster, 0)))
        assert.include(error.message, "closed")
      })
    )

    interface Started {
      readonly pids: ReadonlyArray<number>
      readonly watchdogs: ReadonlyArray<number>
      readonly directories: ReadonlyArray<string>
    }

    const abandoned = (...args: ReadonlyArray<string>) =>
      Effect.acquireRelease(
        Effect.sync(() =>
          spawn(
            process.execPath,
            ["--import", "tsx", Path.join(import.meta.dirname, "fixtures/abandoned.ts"), ...args],
            { stdio: ["ignore", "pipe", "ignore"] }
          )
        ),
        (child) => Effect.sync(() => child.kill("SIGKILL"))
      )

    const started = (child: ChildProcess) =>
      Effect.async<Started>((resume) => {
        if (child.stdout === null) return
        createInterface({ input: child.stdout }).once("line", (line) =>
          resume(Effect.succeed(JSON.parse(line) as Started))
        )
      }).pipe(Effect.timeout("50 seconds"))

    for (const signal of ["SIGKILL", "SIGTERM", "SIGINT"] as const) {
      it.scoped(`when the process gets ${signal}`, () =>
        Effect.gen(function* () {
          const child = yield* abandoned()
          const { directories, pids, watchdogs } = yield* started(child)
          assert.isAbove(pids.filter(isAlive).length, 5)
          assert.deepStrictEqual(
            directories.map((path) => Fs.existsSync(path)),
            [true, true, true, true]
          )
          child.kill(signal)
          yield* noTrace({ pids: [...pids, ...watchdogs], directories })
        })
      )
    }

    it.scoped("when the process crashes", () =>
      Effect.gen(function* () {
        const child = yield* abandoned("--throw")
        const { directories, pids, watchdogs } = yield* started(child)
        yield* noTrace({ pids: [...pids, ...watchdogs], directories })
      })
    )
  })
})

it.scoped("PostgresCluster lives in real time, also under TestClock", () =>
  Effect.gen(function* () {
    const cluster = yield* PostgresCluster.make({ nodes: 2 })
    yield* cluster.kill(yield* cluster.primary)
    const { node: primary } = yield* cluster.promote()
    assert.strictEqual(yield* value(cluster, primary, "select 1"), 1)
  })
)
