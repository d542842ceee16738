/** A new writer that never received what the old one committed. */
import { Effect } from "effect"
import * as FaultProxy from "effect-failover/testing/FaultProxy"
import { eventually } from "../support/waiting.js"
import type { Stage } from "./stage.js"
import type { Cell } from "./vocabulary.js"

/** The standby has all that was written until now, and nothing of what comes. */
export const endReplication = ({ db: { cluster }, writer }: Stage) =>
  Effect.gen(function* () {
    // A commit of its own, so that everything before it is flushed and sent.
    const [row] = yield* cluster.query(
      writer,
      "select pg_logical_emit_message(false, 'flush', '', true)::text as lsn"
    )
    for (const standby of yield* cluster.standbys) {
      yield* eventually(
        "the standby to have received what was written",
        Effect.map(
          cluster.query(standby, "select pg_last_wal_replay_lsn() >= $1::pg_lsn as has", [
            row?.["lsn"]
          ]),
          ([row]) => row?.["has"] === true
        )
      )
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

/** On the new writer, transactions of others take the ids that the lost ones had. */
const giveIdsOutAgain = (stage: Stage, lost: bigint) =>
  Effect.gen(function* () {
    const { cluster } = stage.db
    const writer = yield* cluster.primary
    const next = Effect.map(
      cluster.query(writer, "select pg_current_xact_id()::text as id"),
      ([row]) => BigInt(String(row?.["id"]))
    )
    const first = yield* next
    if (first > lost) return yield* Effect.die(`the id ${lost} is not given out again: ${first}`)
    yield* Effect.repeat(next, { until: (given) => given > lost })
  })

export const killUnreplicated = (cell: Cell, stage: Stage) =>
  Effect.gen(function* () {
    const { db, writer } = stage
    const { cluster } = db
    const [row] = yield* cluster.query(
      writer,
      `select xmin::text as id from ${db.table} where id = 1`
    )
    // Nobody gets through before the ids are out again.
    for (const { proxy } of cluster.nodes) yield* proxy.set(FaultProxy.Fault.Refuse())
    yield* cluster.kill(writer)
    yield* writer.proxy.reset
    const { node } = yield* cluster.promote()
    yield* cluster.query(node, "alter system reset primary_conninfo")
    yield* cluster.query(node, "select pg_reload_conf()")
    if (cell.point === "commitReused") yield* giveIdsOutAgain(stage, BigInt(String(row?.["id"])))
    for (const { proxy } of cluster.nodes) yield* proxy.set(FaultProxy.Fault.Pass())
  })

/** By positions and times, only a standby that was up a second before the mark can tell for sure. */
export const standbysAreOldEnough = ({ db: { cluster } }: Stage) =>
  Effect.gen(function* () {
    for (const standby of yield* cluster.standbys) {
      yield* eventually(
        "the standby to be old enough to tell",
        Effect.map(
          cluster.query(
            standby,
            "select clock_timestamp() - pg_postmaster_start_time() > '1.1 seconds' as is_old"
          ),
          ([row]) => row?.["is_old"] === true
        )
      )
    }
  })
