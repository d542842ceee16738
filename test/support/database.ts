/** A client over a real cluster, in both flavors, and what the servers say about it. */
import { Reactivity } from "@effect/experimental"
import type { SqlError } from "@effect/sql"
import { assert } from "@effect/vitest"
import type { Scope } from "effect"
import { Cause, Chunk, Context, Effect, Exit, Layer, Option, Ref, Stream } from "effect"
import type { Failover } from "effect-failover"
import * as Pg from "effect-failover/layers/Pg"
import * as FaultProxy from "effect-failover/testing/FaultProxy"
import * as PostgresCluster from "effect-failover/testing/PostgresCluster"
import { eventually } from "./waiting.js"

export type Cluster = PostgresCluster.PostgresCluster
export type Node = PostgresCluster.Node

export const flavors = ["streaming", "aurora"] as const

/** The cluster of a test file. */
export class TestCluster extends Context.Tag("test/support/TestCluster")<TestCluster, Cluster>() {}

export const clusterLayer = (
  options: PostgresCluster.Options = {}
): Layer.Layer<TestCluster | Reactivity.Reactivity, PostgresCluster.PostgresClusterError> =>
  Layer.merge(Layer.scoped(TestCluster, PostgresCluster.make(options)), Reactivity.layer)

export const addressOf = (node: Node): string => `${node.host}:${node.port}`

export const optionsFor = (cluster: Cluster, overrides: Pg.PgOptions = {}): Pg.PgOptions => ({
  hosts: cluster.nodes.map(addressOf),
  database: cluster.database,
  username: cluster.username,
  password: cluster.password,
  ...(cluster.flavor === "aurora"
    ? {
        instanceHostPattern: "?.cluster.test:5432",
        translateAddress: ({ id }) => {
          const node = cluster.nodes.find((_) => _.id === id)
          assert.isDefined(node, `an instance of the cluster: ${id}`)
          return { host: node.host, port: node.port }
        }
      }
    : {}),
  ...overrides
})

let names = 0
export const unique = (prefix: string): string => `${prefix}_${process.pid}_${names++}`

/** All proxies pass, and the nodes are what they were: one primary, and standbys that follow it. */
export const heal = (cluster: Cluster) =>
  Effect.gen(function* () {
    for (const { proxy } of cluster.nodes) yield* proxy.set(FaultProxy.Fault.Pass())
    const primary = yield* cluster.primary
    const status = yield* cluster.status
    const process = status.find(({ node }) => node.id === primary.id)?.process
    if (process === "frozen") yield* cluster.resume(primary)
    if (process === "stopped") yield* cluster.start(primary)
    for (const { node, process, role } of status) {
      if (node.id === primary.id || (process === "running" && role === "standby")) continue
      yield* cluster.rejoin(node)
    }
  })

export interface Database extends Pg.PgFailover {
  readonly cluster: Cluster
  /** The client's application name at the servers: no other test has it. */
  readonly app: string
  /** Empty, `(id bigint)`, without any constraint: a write that came twice is there twice. */
  readonly table: string
  /** What the failovers of this client came to so far; the first connect is none. */
  readonly failovers: Effect.Effect<{ readonly noticed: number; readonly connected: number }>
}

const countFailovers = (failover: Failover.Failover) =>
  Effect.gen(function* () {
    const events = yield* Ref.make(Chunk.empty<Failover.FailoverEvent>())
    yield* failover.events.pipe(
      Stream.runForEach((event) => Ref.update(events, Chunk.append(event))),
      Effect.forkScoped
    )
    return Effect.map(Ref.get(events), (all) => ({
      noticed: Chunk.size(Chunk.filter(all, (_) => _._tag === "Noticed" && _.from !== undefined)),
      connected: Chunk.size(
        Chunk.filter(all, (_) => _._tag === "Connected" && _.recovered.from !== undefined)
      )
    }))
  })

/** A client of a cluster that is as good as new. */
export const open = (
  overrides: Pg.PgOptions = {}
): Effect.Effect<Database, unknown, TestCluster | Reactivity.Reactivity | Scope.Scope> =>
  Effect.gen(function* () {
    const cluster = yield* TestCluster
    yield* heal(cluster)
    const table = unique("t")
    yield* cluster.query(yield* cluster.primary, `create table ${table} (id bigint)`)
    const app = overrides.applicationName ?? unique("app")
    const made = yield* Pg.make(optionsFor(cluster, { applicationName: app, ...overrides }))
    const failovers = yield* countFailovers(made.failover)
    return { ...made, cluster, app, table, failovers }
  })

/** ... which is connected already. */
export const openWarm = (overrides: Pg.PgOptions = {}) =>
  Effect.tap(open(overrides), ({ client }) => client`SELECT 1`)

export const nodeAt = (cluster: Cluster, host: { readonly port: number } | undefined): Node => {
  const node = cluster.nodes.find(({ port }) => port === host?.port)
  assert.isDefined(node, "a node of the cluster")
  return node
}

export const sessions = (
  { app, cluster }: Pick<Database, "app" | "cluster">,
  node: Node
): Effect.Effect<
  ReadonlyArray<{ readonly pid: number; readonly state: string | null; readonly query: string }>,
  PostgresCluster.PostgresClusterError
> =>
  Effect.map(
    cluster.query(
      node,
      "select pid, state, query from pg_stat_activity where application_name = $1",
      [app]
    ),
    (rows) =>
      rows.map(({ pid, query, state }) => ({
        pid: Number(pid),
        state: state === null ? null : String(state),
        query: String(query)
      }))
  )

/** Waits until the server has a statement like this in hand. */
export const running = (db: Pick<Database, "app" | "cluster">, node: Node, like: string) =>
  eventually(
    `the statement ${like} to run on ${node.id}`,
    Effect.map(sessions(db, node), (all) =>
      all.some(({ query, state }) => state === "active" && query.includes(like))
    )
  )

/** Every server that runs says that the client has no session any more. */
export const noSessionLeft = (db: Pick<Database, "app" | "cluster">) =>
  Effect.forEach(
    db.cluster.nodes,
    (node) =>
      eventually(
        `no session of ${db.app} on ${node.id}`,
        Effect.map(sessions(db, node), (all) => all.length === 0)
      ),
    { discard: true }
  )

export const terminateSessions = ({ app, cluster }: Database, node: Node) =>
  cluster.query(
    node,
    "select pg_terminate_backend(pid, 5000) from pg_stat_activity where application_name = $1",
    [app]
  )

/** Everything that the pool opened is idle in it. */
export const allGivenBack = (db: Database) =>
  eventually(
    "every connection to be given back",
    Effect.sync(() => db.stats().idle === db.stats().open && db.stats().open > 0)
  )

/**
 * Waits until the client knows that its idle connections ended: a statement written before that was
 * sent, and may fail with `FailoverSuccess`. `reopened` is how many may be open again by then.
 */
export const idleIsGone = (db: Database, reopened = 0) =>
  eventually(
    "the end of the idle connections to arrive",
    Effect.sync(() => db.stats().idle <= reopened)
  )

/** How often the id is in the table, asked past the client. */
export const countOf = ({ cluster, table }: Database, id: number) =>
  Effect.flatMap(cluster.primary, (primary) =>
    Effect.map(
      cluster.query(primary, `select count(*)::int as n from ${table} where id = $1`, [id]),
      ([row]) => Number(row?.["n"])
    )
  )

/** The typed error behind a SqlError; anything else, success and defects included, fails the test. */
export const causeOf = (exit: Exit.Exit<unknown, unknown>): any => {
  if (Exit.isSuccess(exit)) return assert.fail(`a success: ${JSON.stringify(exit.value)}`)
  if (Cause.isDie(exit.cause)) return assert.fail(`a defect: ${Cause.pretty(exit.cause)}`)
  const failure = Option.getOrUndefined(Cause.failureOption(exit.cause))
  assert.isDefined(failure, `no failure: ${Cause.pretty(exit.cause)}`)
  assert.strictEqual((failure as SqlError.SqlError)._tag, "SqlError", Cause.pretty(exit.cause))
  return (failure as SqlError.SqlError).cause
}

export const assertOutcome = (
  exit: Exit.Exit<unknown, unknown>,
  expected: { readonly _tag: string; readonly outcome: string }
) => {
  const cause = causeOf(exit)
  assert.deepStrictEqual(
    { _tag: cause?._tag, outcome: cause?.outcome },
    { ...expected },
    String(cause)
  )
  return cause
}

export const Fault = FaultProxy.Fault
