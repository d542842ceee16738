/** The service on effect-failover. */
import { Effect, Layer, Stream } from "effect"
import { Failover, Topology } from "effect-failover"
import * as Pg from "effect-failover/layers/Pg"
import type { PostgresCluster } from "effect-failover/testing/PostgresCluster"
import type { Contender, Observer } from "./contender.js"
import type { Verdict } from "./ledger.js"
import { MAX_CONNECTIONS, RETRY, type Serve } from "./workload.js"

/** Retries what is known not to have happened. What is unknown is told as unknown, and not sent again. */
const serve: Serve = (write) =>
  write.pipe(
    Effect.retry({ while: Failover.isSafeToRetry, schedule: RETRY }),
    Failover.outcomes,
    Effect.match({
      onSuccess: (): Verdict => "acknowledged",
      onFailure: (error): Verdict =>
        "outcome" in error && error.outcome === "Unknown" ? "unknown" : "failed"
    }),
    Effect.catchAllDefect(() => Effect.succeed<Verdict>("died"))
  )

const layer = (cluster: PostgresCluster) =>
  Pg.layer({
    hosts: cluster.nodes.map((node) => `${node.host}:${node.port}`),
    database: cluster.database,
    username: cluster.username,
    password: cluster.password,
    maxConnections: MAX_CONNECTIONS,
    failoverTimeout: "30 seconds",
    // Aurora names its instances, and the emulation's names are in no DNS.
    ...(cluster.flavor === "aurora" && {
      instanceHostPattern: "?.cluster.test:5432",
      translateAddress: (host) => cluster.nodes.find((node) => node.id === host.id) ?? host
    })
  })

/** The node behind a host: by its name with Aurora, by its address otherwise. */
const nodeOf = (
  cluster: PostgresCluster,
  host: { readonly id: string; readonly port: number }
): string =>
  cluster.nodes.find((node) => node.id === host.id || node.port === host.port)?.id ?? host.id

const watch = (cluster: PostgresCluster, observer: Observer) =>
  Effect.gen(function* () {
    const failover = yield* Failover.Failover
    const topology = yield* Topology.Topology
    yield* failover.events.pipe(
      Stream.runForEach((event) => {
        switch (event._tag) {
          case "Noticed":
            return observer.stage({ _tag: "Noticed" })
          case "WriterConfirmed":
            return observer.stage({
              _tag: "Confirmed",
              node: nodeOf(cluster, event.writer.host)
            })
          case "Connected":
            return Effect.zipRight(
              observer.stage({ _tag: "Connected" }),
              event.recovered.from === undefined ? Effect.void : observer.failedOver
            )
          case "GaveUp":
            return observer.stage({ _tag: "GaveUp", message: event.error.message })
        }
      }),
      Effect.forkScoped
    )
    yield* topology.changes.pipe(
      Stream.runForEach((state) => {
        const isSearching = state.phase._tag === "Searching"
        const seen = state.hosts.map(
          ({ availability, host, role }) =>
            [
              nodeOf(cluster, host),
              availability === "unavailable"
                ? "unreachable"
                : role === "writer" && isSearching
                  ? "writer?"
                  : role === "unknown"
                    ? ""
                    : role
            ] as const
        )
        return Effect.zipRight(
          isSearching ? observer.stage({ _tag: "Searching" }) : Effect.void,
          observer.seen(new Map(seen))
        )
      }),
      Effect.forkScoped
    )
  })

export const contender: Contender = {
  name: "effect-failover",
  view: "client sees",
  configured: [
    "Pg.layer with the three hosts; retries while Failover.isSafeToRetry",
    "a write whose fate is unknown is counted as such, and not sent again"
  ],
  serve,
  noticesByErrors: false,
  prepare: (cluster, observer) =>
    Effect.succeed({
      client: Layer.provideMerge(Layer.scopedDiscard(watch(cluster, observer)), layer(cluster)),
      promoted: () => Effect.void
    })
}
