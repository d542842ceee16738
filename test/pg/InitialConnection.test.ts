/**
 * A client that knows one name, which does not lead where it says: names are changed later than writers are. The
 * instances are Aurora's, and reached by their own names.
 */
import { assert, describe, layer } from "@effect/vitest"
import { Duration, Effect, Fiber } from "effect"
import { Failover } from "effect-failover"
import * as Pg from "effect-failover/layers/Pg"
import * as FaultProxy from "effect-failover/testing/FaultProxy"
import type { Node } from "../support/database.js"
import {
  causeOf,
  clusterLayer,
  Fault,
  heal,
  nodeAt,
  optionsFor,
  sessions,
  TestCluster,
  unique
} from "../support/database.js"
import * as Names from "../support/names.js"
import * as Reading from "../support/readers.js"
import { expectNothingUnhandled } from "../support/unhandled.js"
import { AT_ONCE, eventually, within } from "../support/waiting.js"

expectNothingUnhandled()

const REGION = "eu-west-1.rds.amazonaws.com"

const healthy = Effect.tap(TestCluster, heal)

/** An endpoint of the cluster whose name leads to this node, whatever the node is. */
const endpoint = (kind: "cluster" | "cluster-ro", node: Node) =>
  Effect.gen(function* () {
    yield* Names.areHere(REGION)
    const proxy = yield* FaultProxy.make({ target: { host: node.host, port: node.serverPort } })
    const name = unique("shop").replaceAll("_", "-")
    return { proxy, hosts: `${name}.${kind}-abc123.${REGION}:${proxy.port}` }
  })

const connect = (hosts: string, overrides: Pg.PgOptions = {}) =>
  Effect.gen(function* () {
    const cluster = yield* TestCluster
    const app = unique("app")
    const made = yield* Pg.make(
      optionsFor(cluster, { hosts, applicationName: app, clusterId: app, ...overrides })
    )
    return { ...made, cluster, app }
  })

/** It was the writer, and is a reader now. */
const demoted = Effect.gen(function* () {
  const cluster = yield* healthy
  const old = yield* cluster.primary
  const writer = yield* cluster.switchover()
  assert.notStrictEqual(writer, old)
  return { cluster, old, writer }
})

const readersDead = Effect.gen(function* () {
  const cluster = yield* healthy
  const readers = yield* cluster.standbys
  yield* Effect.forEach(readers, cluster.kill)
  return { cluster, readers, writer: yield* cluster.primary }
})

layer(clusterLayer({ flavor: "aurora" }), { excludeTestServices: true })(
  "The first connection",
  (it) => {
    describe("by a cluster endpoint that still leads to the old writer", () => {
      it.scoped("with connectFailover: the client is built on the true one", () =>
        Effect.gen(function* () {
          const { old, writer } = yield* demoted
          const { hosts } = yield* endpoint("cluster", old)
          const db = yield* connect(hosts, { connectFailover: true }).pipe(
            within("the client to be built", AT_ONCE)
          )
          assert.strictEqual(db.failover.mode, "strict-writer")
          assert.strictEqual(nodeAt(db.cluster, db.stats().host), writer)
          assert.strictEqual(db.stats().open, 1)
        })
      )

      it.scoped("without: the first statement runs on the true one", () =>
        Effect.gen(function* () {
          const { cluster, old, writer } = yield* demoted
          const { hosts } = yield* endpoint("cluster", old)
          const db = yield* connect(hosts)
          const table = unique("t")
          yield* db.client`CREATE TABLE ${db.client(table)} (id int)`.pipe(
            within("the first statement", AT_ONCE)
          )
          assert.strictEqual(nodeAt(cluster, db.stats().host), writer)
          const [row] = yield* cluster.query(writer, `select count(*)::int as n from ${table}`)
          assert.strictEqual(row?.["n"], 0)
        })
      )

      it.scoped(
        "every first statement of many at once, and none of them is sent to the old one",
        () =>
          Effect.gen(function* () {
            const { cluster, old, writer } = yield* demoted
            const { hosts } = yield* endpoint("cluster", old)
            const db = yield* connect(hosts)
            const all = yield* Effect.all(
              Array.from({ length: 50 }, () => Reading.who(db.client)),
              { concurrency: "unbounded" }
            ).pipe(within("50 statements"))
            for (const each of all) {
              assert.deepStrictEqual(each, { port: writer.serverPort, is_standby: false })
            }
            assert.isFalse(
              (yield* sessions(db, old)).some((_) => _.query.includes("inet_server_port"))
            )
            assert.strictEqual(nodeAt(cluster, db.stats().host), writer)
          })
      )

      it.scoped("a transaction as the first thing", () =>
        Effect.gen(function* () {
          const { old, writer } = yield* demoted
          const { hosts } = yield* endpoint("cluster", old)
          const db = yield* connect(hosts)
          const { port } = yield* db.client.withTransaction(Reading.who(db.client))
          assert.strictEqual(port, writer.serverPort)
        })
      )

      it.scoped("a name that leads nowhere for a while is tried until it leads somewhere", () =>
        Effect.gen(function* () {
          const { cluster, old, writer } = yield* demoted
          const { hosts, proxy } = yield* endpoint("cluster", old)
          yield* proxy.set(Fault.Refuse())
          const db = yield* connect(hosts)
          const first = yield* Effect.fork(Reading.who(db.client))
          yield* eventually(
            "the name to have been tried",
            Effect.sync(() => db.topology.unsafeCurrent().hosts.some((_) => _.failures > 0))
          )
          yield* proxy.set(Fault.Pass())
          yield* Fiber.join(first).pipe(within("the first statement"))
          assert.strictEqual(nodeAt(cluster, db.stats().host), writer)
        })
      )

      it.scoped("a name that leads nowhere: connectFailover fails in time, and names it", () =>
        Effect.gen(function* () {
          const { old } = yield* demoted
          const { hosts, proxy } = yield* endpoint("cluster", old)
          yield* proxy.set(Fault.Refuse())
          const error = yield* connect(hosts, {
            connectFailover: true,
            failoverTimeout: "300 millis"
          }).pipe(Effect.scoped, Effect.flip, within("the client to fail", AT_ONCE))
          assert.strictEqual(error._tag, "FailoverFailed")
          assert.include(error.message, hosts.split(":")[0] ?? "")
        })
      )

      it.scoped("reads of a reader go to a reader, by its own name", () =>
        Effect.gen(function* () {
          const { cluster, old } = yield* demoted
          const { hosts } = yield* endpoint("cluster", old)
          const db = yield* connect(hosts)
          const read = yield* Failover.onReader(Reading.who(db.client), { mode: "strict-reader" })
          assert.isTrue(read.is_standby)
          yield* Reading.knows(db.readers, 2)
          yield* eventually(
            "the hosts to be the instances",
            Effect.map(db.readers.hosts, (all) =>
              all.every(({ host }) => cluster.nodes.some((_) => _.port === host.port))
            )
          )
        })
      )
    })

    describe("by a reader endpoint", () => {
      it.scoped("reads from the readers, and not from the writer", () =>
        Effect.gen(function* () {
          const cluster = yield* healthy
          const [reader] = yield* cluster.standbys
          assert.isDefined(reader)
          const { hosts } = yield* endpoint("cluster-ro", reader)
          const db = yield* connect(hosts)
          assert.strictEqual(db.failover.mode, "reader-or-writer")
          for (let i = 0; i < 20; i++) {
            assert.isTrue((yield* Reading.who(db.client)).is_standby)
          }
        })
      )

      it.scoped("that leads to the writer, for there is no reader: the writer is accepted", () =>
        Effect.gen(function* () {
          const { cluster, readers, writer } = yield* readersDead
          const { hosts } = yield* endpoint("cluster-ro", writer)
          const db = yield* connect(hosts, {
            connectFailover: true,
            topologyRefreshRate: "500 millis"
          }).pipe(within("the client to be built"))
          const read = yield* Reading.who(db.client)
          assert.deepStrictEqual(read, { port: writer.serverPort, is_standby: false })
          // As soon as there is one, it is what the endpoint stands for.
          yield* Effect.forEach(readers, cluster.start)
          yield* eventually(
            "a read from a reader",
            Effect.map(Reading.who(db.client), (_) => _.is_standby)
          )
        })
      )

      it.scoped("that leads to one who became the writer: the readers are read from", () =>
        Effect.gen(function* () {
          const { writer } = yield* demoted
          const { hosts } = yield* endpoint("cluster-ro", writer)
          const db = yield* connect(hosts)
          yield* eventually(
            "a read from a reader",
            Effect.map(Reading.who(db.client), (_) => _.is_standby)
          )
          for (let i = 0; i < 20; i++) {
            assert.isTrue((yield* Reading.who(db.client)).is_standby)
          }
        })
      )

      it.scoped("that leads nowhere: connectFailover fails in time", () =>
        Effect.gen(function* () {
          const { writer } = yield* readersDead
          const { hosts, proxy } = yield* endpoint("cluster-ro", writer)
          yield* proxy.set(Fault.Refuse())
          const error = yield* connect(hosts, {
            connectFailover: true,
            failoverTimeout: "300 millis"
          }).pipe(Effect.scoped, Effect.flip, within("the client to fail", AT_ONCE))
          assert.strictEqual(error._tag, "FailoverFailed")
        })
      )

      it.scoped("writes are refused, and onWriter finds the writer", () =>
        Effect.gen(function* () {
          const cluster = yield* healthy
          const [reader] = yield* cluster.standbys
          assert.isDefined(reader)
          const { hosts } = yield* endpoint("cluster-ro", reader)
          const db = yield* connect(hosts)
          const table = unique("t")
          const create = db.client`CREATE TABLE ${db.client(table)} (id int)`
          assert.strictEqual(causeOf(yield* Effect.exit(create))._tag, "WriteOnReader")
          yield* Failover.onWriter(create)
          assert.strictEqual(nodeAt(cluster, db.stats().host), yield* cluster.primary)
        })
      )
    })

    it.scoped("the only host of a cluster serves strict-reader, too", () =>
      Effect.gen(function* () {
        const { writer } = yield* readersDead
        const { hosts } = yield* endpoint("cluster-ro", writer)
        const db = yield* connect(hosts, { failoverMode: "strict-reader" })
        const read = yield* Reading.who(db.client).pipe(within("the read", Duration.seconds(10)))
        assert.strictEqual(read.port, writer.serverPort)
      })
    )
  }
)
