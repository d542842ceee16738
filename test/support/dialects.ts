/** Dialects over real clusters of every flavor: how to ask them, and what to ask them with. */
import { assert } from "@effect/vitest"
import { Duration, Effect, Either, Redacted } from "effect"
import type { Connector, Dialect, TopologyState } from "effect-failover"
import { ErrorClassifier, Host, SqlTopologySource } from "effect-failover"
import type * as Pg from "effect-failover/layers/Pg"
import type * as PostgresCluster from "effect-failover/testing/PostgresCluster"
import * as PgConnector from "../../src/internal/pg/connector.js"
import { check } from "../../src/layers/internal/pgOptions.js"
import type { Cluster, Node } from "./database.js"
import { addressOf, unique } from "./database.js"

export const dialectOf = {
  streaming: "pg",
  aurora: "aurora-pg",
  "aurora-global": "aurora-global-pg",
  "multi-az": "multi-az-pg"
} as const satisfies Record<PostgresCluster.Flavor, string>

export const flavors = Object.keys(dialectOf) as ReadonlyArray<PostgresCluster.Flavor>

export const patterns = {
  "eu-west-1": "?.eu.cluster.test:5432",
  "us-east-1": "?.us.cluster.test:5432"
}

/** The names that the patterns and endpoints of a cluster give, and the nodes behind them. */
export const translateTo =
  (cluster: Cluster): NonNullable<Pg.PgOptions["translateAddress"]> =>
  ({ host, id }) => {
    const node = cluster.nodes.find((_) => _.id === id)
    assert.isDefined(node, `an instance of the cluster: ${id}`)
    const zone =
      node.region === undefined ? "" : `.${patterns[node.region as "eu-west-1"].slice(2, 4)}`
    assert.strictEqual(host, `${id}${zone}.cluster.test`)
    return { host: node.host, port: node.port }
  }

/** What a user of such a cluster configures. */
export const configured = (cluster: Cluster, overrides: Pg.PgOptions = {}): Pg.PgOptions => ({
  hosts: cluster.nodes.map(addressOf),
  clusterId: unique("cluster"),
  database: cluster.database,
  username: cluster.username,
  password: cluster.password,
  ...(cluster.flavor === "streaming" ? {} : { translateAddress: translateTo(cluster) }),
  ...(cluster.flavor === "aurora" ? { instanceHostPattern: "?.cluster.test:5432" } : {}),
  ...(cluster.flavor === "aurora-global" ? { globalInstanceHostPatterns: patterns } : {}),
  ...overrides
})

export interface Asked {
  readonly source: SqlTopologySource.SqlTopologySource
  /** Everything that was sent, in order. */
  readonly sent: ReadonlyArray<string>
  readonly open: (node: Node) => ReturnType<SqlTopologySource.SqlTopologySource["watch"]>
  /** Opens a line, asks once, and closes it. */
  readonly observe: (
    node: Node
  ) => Effect.Effect<TopologyState.Observation, Effect.Effect.Error<ReturnType<Asked["open"]>>>
}

const classifier = ErrorClassifier.make([...ErrorClassifier.postgres, ...ErrorClassifier.transport])

export const connectorFor = (
  cluster: Cluster,
  user?: { readonly username: string; readonly password: string }
): Connector.Connector =>
  PgConnector.make({
    username: user?.username ?? cluster.username,
    database: cluster.database,
    password: Effect.succeed(user === undefined ? cluster.password : Redacted.make(user.password)),
    ssl: false,
    applicationName: unique("dialect"),
    queryTimeout: undefined,
    prepareStatements: false,
    types: undefined
  })

/** A topology source as the layer makes it. `before` runs before each statement that is sent. */
export const ask = (
  cluster: Cluster,
  options: {
    readonly options?: Pg.PgOptions
    readonly user?: { readonly username: string; readonly password: string }
    readonly dialects?: readonly [Dialect.Dialect, ...ReadonlyArray<Dialect.Dialect>]
    readonly before?: (sql: string) => Effect.Effect<void>
  } = {}
): Asked => {
  const checked = Either.getOrThrowWith(
    check(configured(cluster, options.options)),
    (error) => error
  )
  const sent: Array<string> = []
  const inner = connectorFor(cluster, options.user)
  const connector: Connector.Connector = {
    ...inner,
    connect: (host, settings) =>
      Effect.map(inner.connect(host, settings), (session) => ({
        host: session.host,
        openedAt: session.openedAt,
        isOpen: () => session.isOpen(),
        onClose: (listener) => session.onClose(listener),
        stream: (request) => session.stream(request),
        notifications: session.notifications,
        destroy: () => session.destroy(),
        execute: (request) =>
          Effect.suspend(() => {
            sent.push(request.sql)
            return Effect.zipRight(
              options.before?.(request.sql) ?? Effect.void,
              session.execute(request)
            )
          })
      }))
  }
  const source = SqlTopologySource.make({
    connector,
    dialects: options.dialects ?? checked.dialects,
    classifier,
    connectTimeout: Duration.seconds(5),
    hostOf: checked.hostOf,
    hostAt: checked.hostAt,
    seeds: checked.seeds
  })
  const open: Asked["open"] = (node) =>
    source.watch(Host.make({ host: node.host, port: node.port }))
  return {
    source,
    sent,
    open,
    observe: (node) => Effect.scoped(Effect.flatMap(open(node), (watch) => watch.ask))
  }
}

/** `instance-1 writer`, `instance-2 reader`, ...: the members, in order. */
export const membersOf = (
  cluster: Cluster,
  { members }: TopologyState.Observation
): ReadonlyArray<string> =>
  (members ?? [])
    .map(({ host, role }) => {
      const node = cluster.nodes.find((_) => _.port === host.port)
      assert.isDefined(node, `a node of the cluster: ${Host.address(host)}`)
      return `${node.id} ${role}`
    })
    .sort()
