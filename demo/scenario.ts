/** The drill: a cluster, a service that works, a writer that dies, a standby that takes over, an audit. */
import { Deferred, Duration, Effect, Option } from "effect"
import * as FaultProxy from "effect-failover/testing/FaultProxy"
import * as PostgresCluster from "effect-failover/testing/PostgresCluster"
import { Board } from "./board.js"
import type { Contender, Observer } from "./contender.js"
import * as Figures from "./figures.js"
import { Ledger } from "./ledger.js"
import { Event, type NodeView, SAMPLE_MILLIS, Stage } from "./model.js"
import * as Time from "./time.js"
import * as Workload from "./workload.js"

/** One way between the service and each node: another zone of the same region. */
const NETWORK = "2 millis"

/** Until the writer is killed. */
const CALM = "3 seconds"

/** From the kill to the promotion: an HA manager in a hurry. Patroni's and Aurora's take 5-30 s. */
const PROMOTE_AFTER = "700 millis"

/** How long the work goes on after the first write on the new writer. */
const AFTERWARDS = "3 seconds"

/** When there is no first write within this, there will be none. */
const RECOVERY_BOUND = "20 seconds"

const view = ({ node, process, role }: PostgresCluster.NodeStatus): NodeView => ({
  id: node.id,
  address: `${node.host}:${node.port}`,
  state: process === "stopped" ? "killed" : role === "unknown" ? "no answer" : role
})

/** The nodes as the servers themselves say. */
const observeNodes = (cluster: PostgresCluster.PostgresCluster) =>
  Effect.gen(function* () {
    const board = yield* Board
    const status = yield* cluster.status
    yield* board.report(Event.NodesSeen({ nodes: status.map(view) }))
  })

const audit = (cluster: PostgresCluster.PostgresCluster, node: PostgresCluster.Node) =>
  Effect.map(
    cluster.query(
      node,
      "SELECT id::integer AS id, leg, count(*)::integer AS rows FROM entry GROUP BY 1, 2"
    ),
    (rows): Figures.Stored => {
      const stored = new Map<number, Map<string, number>>()
      for (const row of rows) {
        const legs = stored.get(Number(row["id"])) ?? new Map<string, number>()
        stored.set(Number(row["id"]), legs.set(String(row["leg"]), Number(row["rows"])))
      }
      return stored
    }
  )

export const run = (
  contender: Contender,
  options: {
    readonly flavor: PostgresCluster.Flavor
    readonly template: PostgresCluster.Template
  }
): Effect.Effect<Figures.Figures, unknown, Board> =>
  Effect.gen(function* () {
    const board = yield* Board
    yield* board.report(Event.PartStarted(contender))
    const cluster = yield* PostgresCluster.make({ ...options, replication: "synchronous" })
    const primary = yield* cluster.primary
    yield* cluster.query(primary, Workload.SCHEMA)
    yield* Effect.forEach(cluster.nodes, ({ proxy }) =>
      proxy.set(FaultProxy.Fault.Latency({ duration: NETWORK }))
    )
    yield* observeNodes(cluster)
    yield* Effect.forkScoped(
      Effect.forever(Effect.delay(observeNodes(cluster), Duration.millis(SAMPLE_MILLIS)))
    )

    const ledger = new Ledger()
    const promotion = yield* Deferred.make<void>()
    let failovers = 0
    let noticedAt: number | undefined
    let endpointMovedAt: number | undefined

    const reach = (stage: Stage, at?: number) => board.report(Event.StageReached({ stage }), at)
    const killed = yield* Deferred.make<number>()

    const observer: Observer = {
      stage: (stage) =>
        Effect.gen(function* () {
          const at = yield* Time.now
          // Before the kill, there is nothing to tell but the first connect.
          if (!(yield* Deferred.isDone(killed))) return
          if (stage._tag === "Noticed") noticedAt ??= at
          if (stage._tag === "EndpointMoved") endpointMovedAt ??= at
          // Told in order: `promote` returns a moment after the database is promoted.
          if (stage._tag === "Confirmed" || stage._tag === "Connected") {
            yield* Deferred.await(promotion)
          }
          yield* reach(stage, at)
        }),
      seen: (seen) => board.report(Event.ClientSees({ seen })),
      failedOver: Effect.sync(() => {
        failovers++
      })
    }

    const { client, promoted } = yield* contender.prepare(cluster, observer)

    const times = yield* Effect.gen(function* () {
      const workload = yield* Workload.start(ledger, contender.serve)
      yield* board.report(Event.PhaseChanged({ phase: "running" }))
      yield* Effect.forkScoped(
        Effect.suspend(() => board.report(Event.Sampled({ totals: ledger.totals() }))).pipe(
          Effect.delay(Duration.millis(SAMPLE_MILLIS)),
          Effect.forever
        )
      )
      if (contender.noticesByErrors) {
        yield* Deferred.await(ledger.trouble).pipe(
          Effect.flatMap((at) => {
            noticedAt = at
            return reach(Stage.Noticed(), at)
          }),
          Effect.forkScoped
        )
      }
      yield* Effect.sleep(CALM)

      const killedAt = yield* Time.now
      ledger.expectTrouble()
      yield* Deferred.succeed(killed, killedAt)
      yield* reach(Stage.Killed({ node: primary.id }), killedAt)
      // A machine that dies takes with it the answers that it has not delivered.
      yield* primary.proxy.reset
      yield* cluster.kill(primary)
      yield* Effect.sleep(PROMOTE_AFTER)

      ledger.expectNewWriter()
      const { acceptsWritesAt, node } = yield* cluster.promote()
      const promotedAt = yield* Time.fromHrtime(acceptsWritesAt)
      yield* reach(Stage.Promoted({ node: node.id }), promotedAt)
      yield* Deferred.succeed(promotion, void 0)
      yield* Effect.forkScoped(promoted(node))

      const firstAfter = yield* Deferred.await(ledger.firstAfter).pipe(
        Effect.tap((at) => reach(Stage.FirstWrite(), at)),
        Effect.timeoutOption(RECOVERY_BOUND)
      )
      yield* Effect.sleep(AFTERWARDS)
      yield* board.report(Event.PhaseChanged({ phase: "finishing" }))
      yield* workload.stop
      return {
        killedAt,
        noticedAt,
        promotedAt,
        endpointMovedAt,
        lastBefore: ledger.lastBefore,
        firstAfter: Option.getOrUndefined(firstAfter)
      }
    }).pipe(Effect.scoped, Effect.provide(client))

    yield* board.report(Event.PhaseChanged({ phase: "counting" }))
    const stored = yield* audit(cluster, yield* cluster.primary)
    const { reads, retries } = ledger.totals()
    const figures = Figures.make({
      entries: ledger.entries,
      stored,
      times,
      retries,
      reads,
      failovers
    })
    yield* board.report(Event.PartDone({ figures }))
    return figures
  }).pipe(Effect.scoped)
