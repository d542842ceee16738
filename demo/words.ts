/** What the display and the log say in the same words. */
import type { Flavor } from "effect-failover/testing/PostgresCluster"
import type { Figures } from "./figures.js"
import type { Stage, Staged } from "./model.js"
import * as Text from "./text.js"
import { FIBERS } from "./workload.js"

export const stage = (stage: Stage): string => {
  switch (stage._tag) {
    case "Killed":
      return `${stage.node} dies: SIGKILL, connections cut`
    case "Noticed":
      return "noticed, by a failed connection"
    case "Searching":
      return "searching for the new writer"
    case "Promoted":
      return `${stage.node} promoted by the database`
    case "EndpointMoved":
      return `the endpoint leads to ${stage.node}`
    case "Confirmed":
      return `${stage.node} confirmed as the writer`
    case "Connected":
      return "connected"
    case "FirstWrite":
      return "first write acknowledged"
    case "GaveUp":
      return `gave up: ${stage.message}`
  }
}

export const cluster = (flavor: Flavor): string =>
  flavor === "aurora"
    ? "3 PostgreSQL nodes that speak as Aurora does; commits wait for a standby"
    : "3 PostgreSQL nodes with streaming replication; commits wait for a standby"

export const summary = ({ died, duplicated, lost, outageMs, unknown }: Figures): string =>
  [
    outageMs === undefined ? "never back" : `down ${Text.millis(outageMs)}`,
    `${Text.count(lost)} lost`,
    `${Text.count(duplicated)} duplicated`,
    `${Text.count(unknown)} unknown`,
    `${Text.count(died)} defects`
  ].join(", ")

/** `+712 ms  connected` */
export const staged = ({ at, stage: reached }: Staged, killedAt: number): string =>
  `${`+${Text.millis(at - killedAt)}`.padStart(9)}  ${stage(reached)}`

export const NOT_HERE = "-"

export const work = `${FIBERS.singles} fibers of single writes, ${FIBERS.transactions} of transactions of two rows, ${FIBERS.reads} of reads`
