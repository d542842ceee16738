/** Clients of a Patroni cluster, and writers that write through whatever happens to it. */
import type { Reactivity } from "@effect/experimental"
import { NodeHttpClient } from "@effect/platform-node"
import { assert } from "@effect/vitest"
import type { Scope } from "effect"
import { Chunk, Clock, Context, Effect, Fiber, Ref, Stream } from "effect"
import { CommitResolution } from "effect-failover"
import type { Failover } from "effect-failover"
import * as Patroni from "effect-failover/dialects/Patroni"
import * as Pg from "effect-failover/layers/Pg"
import { History } from "../../chaos/history.js"
import { KEYED, TABLE, worker } from "../../chaos/workload.js"
import { eventually, within } from "../support/waiting.js"
import type { Node, PatroniCluster } from "./cluster.js"
import { until } from "./cluster.js"

/** The cluster of the test file. */
export class Cluster extends Context.Tag("test/patroni/Cluster")<Cluster, PatroniCluster>() {}

export type Services = Cluster | Reactivity.Reactivity | Scope.Scope

const WRITERS = 6

let clusterIds = 0

export interface ClientOptions extends Pg.PgOptions {
  readonly patroni?: Patroni.Options
}

/** Knows nothing of what other clients have learned, unless it is given their `clusterId`. */
export const connect = ({ patroni, ...options }: ClientOptions = {}): Effect.Effect<
  Pg.PgFailover,
  unknown,
  Services
> =>
  Effect.gen(function* () {
    const cluster = yield* Cluster
    const dialect = yield* Patroni.make({ port: cluster.apiPort, ...patroni })
    return yield* Pg.make({
      hosts: cluster.nodes.map(({ host, port }) => `${host}:${port}`),
      clusterId: `client-${clusterIds++}`,
      database: cluster.database,
      username: cluster.username,
      connectTimeout: "3 seconds",
      topologyRefreshRate: "1 second",
      dialect,
      ...options
    })
  }).pipe(Effect.provide(NodeHttpClient.layer))

/** Patroni's name of the confirmed writer; `undefined` while it is in doubt. */
export const writerOf = ({ topology }: Pg.PgFailover): string | undefined => {
  const { phase, writer } = topology.unsafeCurrent()
  return phase._tag === "Calm" ? writer?.host.id : undefined
}

export const writesTo = (client: Pg.PgFailover, node: Node) =>
  eventually(
    `${node.name} to be the writer`,
    Effect.sync(() => writerOf(client) === node.name)
  )

export const leaves = (client: Pg.PgFailover, node: Node) =>
  until(
    `another writer than ${node.name}`,
    Effect.sync(() => ![undefined, node.name].includes(writerOf(client)))
  )

export const membersOf = ({ topology }: Pg.PgFailover): ReadonlyArray<string> =>
  topology
    .unsafeCurrent()
    .hosts.map(({ host }) => host.id)
    .sort()

/** How often the client has moved, or come back to its host, from now on. */
const countRecoveries = (failover: Failover.Failover) =>
  Effect.gen(function* () {
    const since = yield* Clock.currentTimeMillis
    const events = yield* Ref.make(Chunk.empty<Failover.FailoverEvent>())
    yield* failover.events.pipe(
      Stream.runForEach((event) => Ref.update(events, Chunk.append(event))),
      Effect.forkScoped
    )
    return Effect.map(Ref.get(events), (all) =>
      Chunk.size(Chunk.filter(all, (_) => _._tag === "Connected" && _.at > since))
    )
  })

const createTables = `drop table if exists ${TABLE}, ${KEYED};
  create table ${TABLE} (id bigint);
  create table ${KEYED} (id bigint primary key);
  ${CommitResolution.ledgerTable()}`

const countRows = `select id::int as id, count(*)::int as n
  from (select id from ${TABLE} union all select id from ${KEYED}) as written group by id`

export interface Load {
  readonly cluster: PatroniCluster
  /** When the load began. */
  readonly leader: Node
  readonly client: Pg.PgFailover
  readonly history: History
  readonly recoveries: Effect.Effect<number>
  /** Waits until this much more work is acknowledged. */
  readonly acknowledged: (more: number) => Effect.Effect<void>
  /** Lets everybody finish, waits until the cluster is whole, and checks all that was told. */
  readonly end: Effect.Effect<void, unknown>
}

/** On a whole cluster. */
export const load: Effect.Effect<Load, unknown, Services> = Effect.gen(function* () {
  const cluster = yield* Cluster
  yield* cluster.repair
  yield* cluster.healthy
  const leader = yield* cluster.leader
  yield* cluster.query(leader, createTables)
  const clusterId = `load-${clusterIds++}`
  const plain = yield* connect({ clusterId })
  const ledger = yield* connect({ clusterId, commitResolution: CommitResolution.ledger() })
  const status = yield* connect({ clusterId, commitResolution: "transaction-status" })
  yield* Effect.forEach([plain, ledger, status], ({ client }) => client`SELECT 1`)
  yield* eventually(
    "calm",
    Effect.sync(() => writerOf(plain) === leader.name)
  )
  const recoveries = yield* countRecoveries(plain.failover)
  const history = new History()
  let over = false
  const writers = yield* Effect.forkScoped(
    Effect.forEach(
      Array.from({ length: WRITERS }, (_, i) => i),
      (i) =>
        worker({ plain, ledger, status }, history, { seed: `patroni/${i}`, isOver: () => over }),
      { concurrency: "unbounded", discard: true }
    )
  )
  const successes = () =>
    Object.values(history.counts()).reduce((sum, signals) => sum + (signals["success"] ?? 0), 0)
  const acknowledged = (more: number) =>
    Effect.suspend(() => {
      const goal = successes() + more
      return eventually(
        `${more} more acknowledged writes`,
        Effect.sync(() => successes() >= goal)
      )
    })
  yield* acknowledged(30)
  const end = Effect.gen(function* () {
    yield* acknowledged(30)
    over = true
    yield* Fiber.join(writers).pipe(within("the writers to finish"))
    yield* cluster.healthy
    const rows = yield* cluster.query(yield* cluster.leader, countRows)
    const counts = new Map(rows.map(({ id, n }) => [Number(id), Number(n)]))
    assert.deepStrictEqual(history.violations(counts), [])
  })
  return { cluster, leader, client: plain, history, recoveries, acknowledged, end }
})
