/** The faults: what is done to the writer and its network when the work has come to the point. */
import { Effect } from "effect"
import * as FaultProxy from "effect-failover/testing/FaultProxy"
import { terminateSessions } from "../support/database.js"
import { eventually } from "../support/waiting.js"
import type { Stage } from "./stage.js"
import type { Cell } from "./vocabulary.js"

export const QUERY_TIMEOUT = "700 millis"
export const FAILOVER_TIMEOUT = "500 millis"

const { BlackHole, Pass, Refuse } = FaultProxy.Fault

/** The points at which no reply can come any more, or the server holds it back. */
const isSilent = ({ point }: Cell): boolean => point !== "beforeSend" && point !== "between"

const noLongerReceived = ({ db: { cluster } }: Stage) =>
  Effect.gen(function* () {
    for (const standby of yield* cluster.standbys) {
      yield* cluster.query(standby, "alter system set primary_conninfo = ''")
      yield* cluster.query(standby, "select pg_reload_conf()")
      yield* eventually(
        "the end of the replication",
        Effect.map(
          cluster.query(standby, "select 1 from pg_stat_wal_receiver"),
          (rows) => rows.length === 0
        )
      )
    }
  })

/** Cuts the replication off, if the cell is about that, before anything of the work is written. */
export const beforeWork = (cell: Cell, stage: Stage): Effect.Effect<void, unknown> =>
  cell.point === "commitLost" || cell.point === "commitReused"
    ? noLongerReceived(stage)
    : Effect.void

/** On the new writer, transactions of others take the ids that the lost ones had. */
const giveIdsOutAgain = (stage: Stage, lost: bigint) =>
  Effect.gen(function* () {
    const { cluster } = stage.db
    const writer = yield* cluster.primary
    const next = Effect.map(
      cluster.query(writer, "select pg_current_xact_id()::text as id"),
      ([row]) => BigInt(String(row?.["id"]))
    )
    let given = 0n
    while (given <= lost + 1n) given = yield* next
  })

const killAndPromoteUnreceived = (cell: Cell, stage: Stage) =>
  Effect.gen(function* () {
    const { db, writer } = stage
    const { cluster } = db
    const [row] = yield* cluster.query(
      writer,
      `select xmin::text as id from ${db.table} where id = 1`
    )
    // Nobody gets through before the ids are out again.
    for (const { proxy } of cluster.nodes) yield* proxy.set(Refuse())
    yield* cluster.kill(writer)
    yield* writer.proxy.reset
    const { node } = yield* cluster.promote()
    yield* cluster.query(node, "alter system reset primary_conninfo")
    yield* cluster.query(node, "select pg_reload_conf()")
    if (cell.point === "commitReused") yield* giveIdsOutAgain(stage, BigInt(String(row?.["id"])))
    for (const { proxy } of cluster.nodes) yield* proxy.set(Pass())
  })

export const strike = (cell: Cell, stage: Stage): Effect.Effect<void, unknown> => {
  const { db, writer } = stage
  const { cluster } = db
  const { proxy } = writer
  const { kill, promote, start, stop } = cluster
  const inOrder = (...steps: ReadonlyArray<Effect.Effect<unknown, unknown>>) =>
    Effect.all(steps, { discard: true })
  switch (cell.fault) {
    case "kill":
      return cell.point === "commitLost" || cell.point === "commitReused"
        ? killAndPromoteUnreceived(cell, stage)
        : inOrder(kill(writer), proxy.reset, promote())
    case "stop":
      return inOrder(proxy.set(Pass()), stop(writer, "fast"), promote())
    case "reset":
      return inOrder(proxy.reset, proxy.set(Pass()))
    case "dropped":
      return inOrder(stage.dropReplies, kill(writer), promote())
    case "blackHole":
      return inOrder(proxy.set(BlackHole()), kill(writer), promote())
    case "terminated":
      return inOrder(proxy.set(Pass()), terminateSessions(db, writer))
    case "refused":
      return inOrder(
        proxy.set(Refuse()),
        kill(writer),
        proxy.reset,
        Effect.all([start(writer), proxy.set(Pass())], { concurrency: "unbounded" })
      )
    case "timeout":
      return isSilent(cell) ? Effect.void : proxy.set(BlackHole())
    case "noWriter":
      return inOrder(kill(writer), proxy.reset)
  }
}
