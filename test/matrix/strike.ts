/** The faults: what is done to the writer and its network when the work has come to the point. */
import { Effect } from "effect"
import * as FaultProxy from "effect-failover/testing/FaultProxy"
import { terminateSessions } from "../support/database.js"
import { killUnreplicated } from "./replication.js"
import type { Stage } from "./stage.js"
import type { Cell } from "./vocabulary.js"
import { isReplication } from "./vocabulary.js"

export const QUERY_TIMEOUT = "700 millis"
export const FAILOVER_TIMEOUT = "500 millis"

const { BlackHole, Pass, Refuse } = FaultProxy.Fault

/** The points at which no reply can come any more, or the server holds it back. */
const isSilent = ({ point }: Cell): boolean => point !== "beforeSend" && point !== "between"

export const strike = (cell: Cell, stage: Stage): Effect.Effect<void, unknown> => {
  const { db, writer } = stage
  const { cluster } = db
  const { proxy } = writer
  const { kill, promote, start, stop } = cluster
  const inOrder = (...steps: ReadonlyArray<Effect.Effect<unknown, unknown>>) =>
    Effect.all(steps, { discard: true })
  switch (cell.fault) {
    case "kill":
      return isReplication(cell.point)
        ? killUnreplicated(cell, stage)
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
