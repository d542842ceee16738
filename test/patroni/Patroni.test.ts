/**
 * A real Patroni cluster: etcd and three nodes, with synchronous replication, and writers that write through
 * whatever happens to them. In the end of each case the cluster is whole again, and what every caller was
 * told is checked against what the database holds.
 */
import { Reactivity } from "@effect/experimental"
import * as Fs from "node:fs"
import { afterAll, assert, it as plain, layer } from "@effect/vitest"
import { Effect, Either, Layer } from "effect"
import * as FaultProxy from "effect-failover/testing/FaultProxy"
import { expectNothingUnhandled } from "../support/unhandled.js"
import { eventually } from "../support/waiting.js"
import type { ClientOptions, Services } from "./clients.js"
import { Cluster, connect, leaves, load, membersOf, writerOf, writesTo } from "./clients.js"
import type { Node, PatroniCluster } from "./cluster.js"
import { make, until } from "./cluster.js"
import * as Programs from "./programs.js"

expectNothingUnhandled()

const withRole = (cluster: PatroniCluster, role: string) =>
  Effect.map(cluster.members, (members) => {
    const name = members.find((_) => _.role === role)?.name
    const node = cluster.nodes.find((_) => _.name === name)
    assert.isDefined(node, `a ${role}`)
    return node
  })

const isPrimary = (cluster: PatroniCluster, node: Node) =>
  Effect.map(
    cluster.query(node, "select not pg_is_in_recovery() as yes"),
    ([row]) => row?.["yes"] === true
  )

const json = (url: string): Effect.Effect<any, unknown> =>
  Effect.tryPromise((signal) => fetch(url, { signal }).then((response) => response.json()))

/** Whatever a server was asked to write, by its own log, with or without success. */
const idsIn = (log: string): ReadonlyArray<number> =>
  [...log.matchAll(/parameters: \$1 = '(\d+)'/g)].map(([, id]) => Number(id))

const names = ["pg-1", "pg-2", "pg-3"]

const suite = (test: (name: string, run: Effect.Effect<void, unknown, Services>) => void): void => {
  test(
    "one seed is enough: Patroni names the other hosts",
    Effect.gen(function* () {
      const cluster = yield* Cluster
      const replica = yield* withRole(cluster, "replica")
      const client = yield* connect({ hosts: [`${replica.host}:${replica.port}`] })
      yield* client.client`SELECT 1`
      assert.deepStrictEqual(membersOf(client), names)
      assert.strictEqual(writerOf(client), (yield* cluster.leader).name)
    })
  )

  test(
    "seeds that are other names of the members become the members",
    Effect.gen(function* () {
      const cluster = yield* Cluster
      const proxies = yield* Effect.forEach(cluster.nodes, ({ host, port }) =>
        FaultProxy.make({ target: { host, port } })
      )
      const client = yield* connect({
        hosts: proxies.map(({ host, port }) => `${host}:${port}`),
        patroni: { urls: cluster.nodes.map(({ api }) => api) }
      })
      yield* client.client`SELECT 1`
      assert.deepStrictEqual(membersOf(client), names)
      assert.strictEqual(writerOf(client), (yield* cluster.leader).name)
      assert.strictEqual(client.topology.unsafeCurrent().epoch, 1)
    })
  )

  test(
    "switchover: every caller is told the truth, and the client moves once",
    Effect.gen(function* () {
      const { acknowledged, client, cluster, end, leader, recoveries } = yield* load
      const next = yield* withRole(cluster, "sync_standby")
      yield* cluster.switchover(leader, next)
      yield* writesTo(client, next)
      yield* acknowledged(30)
      yield* end
      assert.strictEqual(yield* recoveries, 1)
    })
  )

  test(
    "failover, the leader's machine dies: every caller is told the truth, and the client moves once",
    Effect.gen(function* () {
      const { acknowledged, client, cluster, end, leader, recoveries } = yield* load
      yield* cluster.killPatroni(leader)
      yield* cluster.killPostgres(leader)
      yield* leaves(client, leader)
      yield* acknowledged(30)
      yield* cluster.startPatroni(leader)
      yield* end
      assert.strictEqual(yield* recoveries, 1)
    })
  )

  test(
    "the leader crashes and Patroni starts it again: every caller is told the truth",
    Effect.gen(function* () {
      const { acknowledged, client, cluster, end, leader } = yield* load
      const { epoch } = client.topology.unsafeCurrent()
      yield* cluster.killPostgres(leader)
      yield* eventually(
        "a later epoch",
        Effect.sync(() => client.topology.unsafeCurrent().epoch > epoch)
      )
      yield* acknowledged(30)
      yield* end
    })
  )

  test(
    "split brain: a resumed old primary that calls itself primary gets no new write, and nobody flaps",
    Effect.gen(function* () {
      const { acknowledged, client, cluster, end, history, leader, recoveries } = yield* load
      yield* cluster.freezePatroni(leader)
      yield* cluster.freezePostgres(leader)
      yield* leaves(client, leader)
      yield* acknowledged(30)
      const confirmed = client.topology.unsafeCurrent()
      // What was sent before the new writer was confirmed may still lie in the old one's buffers.
      const lastBefore = history.id()
      const begin = cluster.log(leader).length

      yield* cluster.resumePostgres(leader)
      assert.isTrue(yield* isPrimary(cluster, leader))
      yield* acknowledged(100)
      const starting: ReadonlyArray<ClientOptions> = [
        // One that asks all hosts, with Patroni's word and without it; and one that knows the old primary only.
        {},
        { patroni: { port: 1 } },
        {
          hosts: [`${leader.host}:${leader.port}`],
          patroni: { urls: cluster.nodes.map(({ api }) => api) }
        }
      ]
      for (const options of starting) {
        const fresh = yield* connect(options)
        yield* fresh.client`SELECT 1`
        assert.strictEqual(
          fresh.topology.unsafeCurrent().writer?.host.host,
          confirmed.writer?.host.host
        )
      }
      yield* client.topology.refresh
      yield* acknowledged(100)
      assert.isTrue(
        yield* isPrimary(cluster, leader),
        "it was the primary by its own word all along"
      )

      yield* cluster.resumePatroni(leader)
      yield* end
      const { epoch, writer } = client.topology.unsafeCurrent()
      assert.deepStrictEqual(
        { epoch, writer },
        { epoch: confirmed.epoch, writer: confirmed.writer }
      )
      assert.strictEqual(yield* recoveries, 1)
      const onOld = idsIn(cluster.log(leader).slice(begin))
      assert.deepStrictEqual(
        onOld.filter((id) => id > lastBefore),
        []
      )
      const winner = cluster.nodes.find(({ name }) => name === writer?.host.id)
      assert.isDefined(winner)
      assert.isTrue(idsIn(cluster.log(winner)).some((id) => id > lastBefore))
    })
  )

  test(
    "every Patroni is dead and PostgreSQL lives: clients work on, and new ones get in",
    Effect.gen(function* () {
      const { acknowledged, client, cluster, end, leader, recoveries } = yield* load
      const { epoch } = client.topology.unsafeCurrent()
      yield* Effect.forEach(cluster.nodes, cluster.killPatroni)
      yield* acknowledged(100)
      const fresh = yield* connect()
      yield* fresh.client`SELECT 1`
      assert.strictEqual(fresh.topology.unsafeCurrent().writer?.host.host, leader.host)
      yield* client.topology.refresh
      yield* acknowledged(100)
      yield* Effect.forEach(cluster.nodes, cluster.startPatroni)
      yield* end
      assert.strictEqual(client.topology.unsafeCurrent().epoch, epoch)
      assert.strictEqual(yield* recoveries, 0)
    })
  )

  test(
    "etcd is frozen and failsafe_mode keeps the leader: clients work on, and new ones get in",
    Effect.gen(function* () {
      const { acknowledged, client, cluster, end, leader, recoveries } = yield* load
      const { epoch } = client.topology.unsafeCurrent()
      yield* cluster.freezeEtcd
      yield* eventually(
        "failsafe mode",
        Effect.map(json(`${leader.api}/patroni`), (_) => _.failsafe_mode_is_active === true)
      )
      const fresh = yield* connect()
      yield* fresh.client`SELECT 1`
      assert.strictEqual(fresh.topology.unsafeCurrent().writer?.host.host, leader.host)
      yield* acknowledged(100)
      yield* cluster.resumeEtcd
      yield* end
      assert.strictEqual(client.topology.unsafeCurrent().epoch, epoch)
      assert.strictEqual(yield* recoveries, 0)
    })
  )

  test(
    "a paused cluster whose leader's key has run out: clients work on, and new ones get in",
    Effect.gen(function* () {
      const { acknowledged, client, cluster, end, leader, recoveries } = yield* load
      const { epoch } = client.topology.unsafeCurrent()
      yield* cluster.configure({ pause: true })
      yield* eventually(
        "every node to know of the pause",
        Effect.map(
          Effect.forEach(cluster.nodes, ({ api }) => json(`${api}/patroni`)),
          (all) => all.every((_) => _.pause === true)
        )
      )
      yield* cluster.killPatroni(leader)
      yield* until(
        "no leader",
        Effect.map(cluster.members, (members) => members.every(({ role }) => role !== "leader"))
      )
      const fresh = yield* connect()
      yield* fresh.client`SELECT 1`
      assert.strictEqual(fresh.topology.unsafeCurrent().writer?.host.host, leader.host)
      yield* client.topology.refresh
      yield* acknowledged(100)
      yield* cluster.startPatroni(leader)
      yield* eventually("a leader", Effect.isSuccess(cluster.leader))
      yield* cluster.configure({ pause: null })
      yield* end
      assert.strictEqual(client.topology.unsafeCurrent().epoch, epoch)
      assert.strictEqual(yield* recoveries, 0)
    })
  )

  test(
    "a replica leaves and joins: the members follow, and nobody moves",
    Effect.gen(function* () {
      const { client, cluster, end, recoveries } = yield* load
      const replica = yield* withRole(cluster, "replica")
      const follow = (expected: ReadonlyArray<string>) =>
        until(
          `the members ${expected.join()}`,
          Effect.sync(() => membersOf(client).join() === expected.join())
        )
      yield* cluster.stopPatroni(replica)
      yield* follow(names.filter((name) => name !== replica.name))
      yield* cluster.startPatroni(replica)
      yield* follow(names)
      yield* end
      assert.strictEqual(yield* recoveries, 0)
    })
  )
}

const programs = await Effect.runPromise(Programs.find)

Either.match(programs, {
  onLeft: (reason) => suite((name) => plain(name, (ctx) => ctx.skip(reason))),
  onRight: (programs) => {
    const { temporary } = programs
    // Before the layer's own, which therefore comes first: the programs run until then.
    if (temporary !== undefined) {
      afterAll(() => Fs.rmSync(temporary, { recursive: true, force: true }))
    }
    const cluster = Layer.scoped(Cluster, make(programs))
    layer(Layer.merge(cluster, Reactivity.layer), {
      excludeTestServices: true,
      timeout: "90 seconds"
    })("Patroni", (it) => suite((name, run) => it.scoped(name, () => run, 90_000)))
  }
})
