/** The one code path that runs a cell: for the test suite, and for the table in docs/fault-matrix.md. */
import type { Reactivity } from "@effect/experimental"
import { Effect, Fiber } from "effect"
import { CommitResolution } from "effect-failover"
import type * as Pg from "effect-failover/layers/Pg"
import type { Cluster, Database } from "../support/database.js"
import { heal, openWarm, TestCluster } from "../support/database.js"
import { eventually, within } from "../support/waiting.js"
import { expected } from "./expected.js"
import { listening } from "./listen.js"
import { plan } from "./points.js"
import { endReplication, standbysAreOldEnough } from "./replication.js"
import type { Signal } from "./signal.js"
import { signalOf, violationOf } from "./signal.js"
import type { Stage } from "./stage.js"
import * as Stages from "./stage.js"
import { FAILOVER_TIMEOUT, QUERY_TIMEOUT, strike } from "./strike.js"
import type { Cell } from "./vocabulary.js"

export interface Finding {
  readonly cell: Cell
  readonly signal: string
  /** `-` where the work writes nothing. */
  readonly rows: string
  readonly violations: ReadonlyArray<string>
}

const resolutionOf = ({ context }: Cell): Pg.PgOptions["commitResolution"] =>
  context === "status"
    ? "transaction-status"
    : context === "ledger"
      ? CommitResolution.ledger()
      : "none"

/** A hung host is noticed by the monitor: after the pause between its questions, and its patience. */
const optionsOf = (cell: Cell): Pg.PgOptions => ({
  topologyRefreshRate: "300 millis",
  connectTimeout: "1 second",
  commitResolution: resolutionOf(cell),
  ...(cell.fault === "timeout" ? { queryTimeout: QUERY_TIMEOUT } : {}),
  ...(cell.fault === "noWriter" ? { failoverTimeout: FAILOVER_TIMEOUT } : {})
})

const holdsCommits = ({ point }: Cell): boolean => point.startsWith("commit")

/** The client knows that its connection ended, or that its writer is in doubt. */
const noticed = ({ stats, topology }: Database, epoch: number) =>
  eventually(
    "the fault to be noticed",
    Effect.sync(() => {
      const state = topology.unsafeCurrent()
      return stats().idle === 0 || state.epoch > epoch || state.phase._tag !== "Calm"
    })
  )

const hit = (cell: Cell, stage: Stage): Effect.Effect<Signal, unknown> =>
  Effect.gen(function* () {
    const { db } = stage
    const { arrived, work } = plan(cell, stage)
    const { epoch } = db.topology.unsafeCurrent()
    const fiber = yield* Effect.forkDaemon(work)
    yield* arrived
    yield* strike(cell, stage)
    if (cell.point === "beforeSend") yield* noticed(db, epoch)
    yield* stage.goOn
    if (cell.fault === "timeout") {
      yield* Effect.sleep(QUERY_TIMEOUT)
      yield* Effect.sleep("100 millis")
      yield* heal(db.cluster)
    }
    // What is held goes on after the fault, where its server lives.
    yield* stage.openGate
    return signalOf(yield* Fiber.await(fiber).pipe(within("the caller to be told")))
  })

/** Nothing of the client's work is under way any more at the present primary. */
const settled = ({ app, cluster }: Database) =>
  eventually(
    "the end of what is still under way",
    Effect.gen(function* () {
      const busy = yield* cluster.query(
        yield* cluster.primary,
        "select 1 from pg_stat_activity where application_name = $1 and state <> 'idle' and (xact_start is not null)",
        [app]
      )
      return busy.length === 0
    })
  )

/** No state sticks to the client: it works, and writes once. */
const worksAfterwards = ({ db: { client: sql, table }, ...stage }: Stage) =>
  Effect.gen(function* () {
    const exit = yield* Effect.exit(
      sql.unsafe(`INSERT INTO ${table} VALUES (99)`).pipe(within("a statement afterwards"))
    )
    const { text } = signalOf(exit)
    const rows = yield* stage.countOf(99)
    return text === "success" && rows === 1
      ? []
      : [`a statement afterwards: ${text}, and its row is there ${rows} times`]
  })

/** Afterwards the cluster is whole again. */
export const runCell = (
  cell: Cell,
  cluster: Cluster
): Effect.Effect<Finding, unknown, Reactivity.Reactivity> =>
  Effect.gen(function* () {
    yield* heal(cluster)
    if (cell.context === "ledger") {
      yield* cluster.query(yield* cluster.primary, CommitResolution.ledgerTable())
    }
    const db = yield* openWarm(optionsOf(cell))
    const stage = yield* Stages.make(db, { holdsCommits: holdsCommits(cell) })
    if (cell.context === "status") yield* standbysAreOldEnough(stage)
    if (cell.point === "commitLost" || cell.point === "commitReused") yield* endReplication(stage)
    const signal = yield* cell.point === "listen"
      ? listening(stage, strike(cell, stage))
      : hit(cell, stage)
    yield* heal(cluster)
    yield* settled(db)
    const { ids } = plan(cell, stage)
    const counts = yield* Effect.forEach(ids, stage.countOf)
    const violation = violationOf(signal, counts)
    const wanted = expected(cell, counts)
    const afterwards = yield* worksAfterwards(stage)
    return {
      cell,
      signal: signal.text,
      rows: counts.length === 0 ? "-" : [...new Set(counts)].join("/"),
      violations: [
        ...(violation === undefined ? [] : [violation]),
        ...(wanted.includes(signal.text)
          ? []
          : [`${signal.text} instead of ${wanted.join(" or ")}`]),
        ...afterwards
      ]
    }
  }).pipe(Effect.scoped, Effect.provideService(TestCluster, cluster))
