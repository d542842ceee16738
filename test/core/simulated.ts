/** The client on a simulated cluster, with the options that only tests of the core vary. */
import { Reactivity } from "@effect/experimental"
import { Statement } from "@effect/sql"
import { Duration, Effect, Either } from "effect"
import type { Connector } from "effect-failover"
import { ErrorClassifier, Errors, SqlFailover, SqlTopologySource, Topology } from "effect-failover"
import * as PgStreaming from "effect-failover/dialects/PgStreaming"
import * as SimulatedCluster from "effect-failover/testing/SimulatedCluster"

/** Its SELECTs tell where they ran. */
export const cluster = (...hosts: ReadonlyArray<string>) =>
  Effect.map(
    SimulatedCluster.make({ hosts, answer: (_, { host }) => [{ host }] }),
    ({ connectorWith, ...sim }) => {
      let connects = 0
      let forgotten = 0
      return {
        ...sim,
        connectorWith: (options: Parameters<typeof connectorWith>[0]): Connector.Connector => {
          const { connect, system } = connectorWith(options)
          return {
            system,
            connect: (...to) => Effect.suspend(() => (connects++, connect(...to)))
          }
        },
        /** Attempts to connect. */
        connects: () => connects,
        /** What the writer holds. */
        table: () => sim.committed().map((_) => String(_.params[0])),
        /** What this host was sent, and has executed or refused because it is a reader. */
        executed: (name: string) =>
          sim.log
            .slice(forgotten)
            .filter((_) => _.host === name && !_.isInternal)
            .filter((_) => _.outcome === "Executed" || _.sqlState === "25006")
            .map((_) => (_.outcome === "Refused" ? `refused ${_.sql}` : _.sql)),
        /** `executed` begins anew. */
        forget: Effect.sync(() => void (forgotten = sim.log.length)),
        /** One host dies, another takes over. */
        failover: (from: string, to: string) => Effect.zipRight(sim.kill(from), sim.promote(to))
      }
    }
  )

export type Cluster = Effect.Effect.Success<ReturnType<typeof cluster>>

const classifier = ErrorClassifier.make([...ErrorClassifier.postgres, ...ErrorClassifier.transport])

/** The whole client over the cluster. */
export const client = (
  sim: Cluster,
  {
    queryTimeout,
    ...change
  }: Partial<SqlFailover.Options> & { readonly queryTimeout?: Duration.Duration } = {}
) =>
  Effect.gen(function* () {
    const connectTimeout = Duration.seconds(5)
    const connector = sim.connectorWith({ queryTimeout })
    const source = SqlTopologySource.make({
      connector,
      dialects: [PgStreaming.dialect],
      classifier,
      connectTimeout,
      hostOf: (value) =>
        Either.left(new Errors.ConfigurationError({ field: "", value, problem: "", hint: "" }))
    })
    const topology = yield* Topology.make({ clusterId: "sim", seeds: sim.hosts, source })
    const made = yield* SqlFailover.make({
      topology,
      connector,
      classifier,
      dialect: source.dialect,
      compiler: Statement.makeCompiler({
        dialect: "pg",
        placeholder: (_) => `$${_}`,
        onIdentifier: (_) => _,
        onCustom: () => ["", []],
        onRecordUpdate: () => ["", []]
      }),
      spanAttributes: [],
      pool: {
        maxConnections: 10,
        minConnections: 0,
        acquireTimeout: Duration.seconds(30),
        idleTimeout: Duration.minutes(10),
        connectionTTL: Duration.minutes(30)
      },
      connectTimeout,
      failoverTimeout: Duration.seconds(60),
      ...change
    })
    return { ...made, topology, sql: made.client }
  }).pipe(Effect.provide(Reactivity.layer))
