/** What the demo knows at a moment, and the pure function that moves it. */
import { Data } from "effect"
import type { Flavor } from "effect-failover/testing/PostgresCluster"
import type { Figures } from "./figures.js"
import type { Totals } from "./ledger.js"

/** How often the counters are read. */
export const SAMPLE_MILLIS = 200

export type Stage = Data.TaggedEnum<{
  /** SIGKILL is about to be sent. */
  Killed: { readonly node: string }
  Noticed: {}
  Searching: {}
  /** The database's own moment: the first at which the new primary was known to accept writes. */
  Promoted: { readonly node: string }
  EndpointMoved: { readonly node: string }
  Confirmed: { readonly node: string }
  Connected: {}
  FirstWrite: {}
  GaveUp: { readonly message: string }
}>
export const Stage = Data.taggedEnum<Stage>()

export interface Staged {
  readonly stage: Stage
  readonly at: number
}

export interface NodeView {
  readonly id: string
  readonly address: string
  readonly state: "primary" | "standby" | "killed" | "no answer"
}

export type PartPhase =
  "starting the cluster" | "running" | "finishing" | "counting" | "removing the cluster"

export interface Part {
  readonly number: number
  readonly name: string
  readonly view: string
  readonly configured: ReadonlyArray<string>
  readonly startedAt: number
  readonly phase: PartPhase
  readonly nodes: ReadonlyArray<NodeView>
  /** What the client takes each node for. */
  readonly seen: ReadonlyMap<string, string>
  /** Acknowledged writes in each sample. */
  readonly samples: ReadonlyArray<number>
  readonly totals: Totals
  /** In the order in which they happened, since the kill. */
  readonly stages: ReadonlyArray<Staged>
  readonly figures: Figures | undefined
}

export interface Model {
  readonly flavor: Flavor
  readonly startedAt: number
  readonly now: number
  readonly parts: ReadonlyArray<Part>
}

export type Event = Data.TaggedEnum<{
  PartStarted: {
    readonly name: string
    readonly view: string
    readonly configured: ReadonlyArray<string>
  }
  PhaseChanged: { readonly phase: PartPhase }
  NodesSeen: { readonly nodes: ReadonlyArray<NodeView> }
  ClientSees: { readonly seen: ReadonlyMap<string, string> }
  Sampled: { readonly totals: Totals }
  StageReached: { readonly stage: Stage }
  PartDone: { readonly figures: Figures }
}>
export const Event = Data.taggedEnum<Event>()

const nothing: Totals = { acknowledged: 0, unknown: 0, died: 0, failed: 0, retries: 0, reads: 0 }

export const initial = (flavor: Flavor, now: number): Model => ({
  flavor,
  startedAt: now,
  now,
  parts: []
})

export const current = (model: Model): Part | undefined => model.parts.at(-1)

export const stageAt = (part: Part, tag: Stage["_tag"]): number | undefined =>
  part.stages.find(({ stage }) => stage._tag === tag)?.at

/** Only the first of each kind counts, and none before the kill: the client's first connect is no failover. */
const addStage = (part: Part, stage: Stage, at: number): Part => {
  const isFirst = stageAt(part, stage._tag) === undefined
  const isDue = stage._tag === "Killed" || stageAt(part, "Killed") !== undefined
  if (!isFirst || !isDue) return part
  const stages = [...part.stages, { stage, at }].sort((a, b) => a.at - b.at)
  return { ...part, stages }
}

const reducePart = (part: Part, event: Event, at: number): Part => {
  switch (event._tag) {
    case "PartStarted":
      return part
    case "PhaseChanged":
      return { ...part, phase: event.phase }
    case "NodesSeen":
      return { ...part, nodes: event.nodes }
    case "ClientSees":
      return { ...part, seen: event.seen }
    case "Sampled":
      return {
        ...part,
        totals: event.totals,
        samples: [...part.samples, event.totals.acknowledged - part.totals.acknowledged]
      }
    case "StageReached":
      return addStage(part, event.stage, at)
    case "PartDone":
      return { ...part, phase: "removing the cluster", figures: event.figures }
  }
}

/** `at` is when it happened, `now` when it became known. */
export const reduce = (model: Model, event: Event, at: number, now: number): Model => {
  if (event._tag === "PartStarted") {
    const { configured, name, view } = event
    const part: Part = {
      number: model.parts.length + 1,
      name,
      view,
      configured,
      startedAt: at,
      phase: "starting the cluster",
      nodes: [],
      seen: new Map(),
      samples: [],
      totals: nothing,
      stages: [],
      figures: undefined
    }
    return { ...model, now, parts: [...model.parts, part] }
  }
  const part = current(model)
  return part === undefined
    ? model
    : { ...model, now, parts: [...model.parts.slice(0, -1), reducePart(part, event, at)] }
}

/** Acknowledged writes per second over the last second. */
export const rate = (part: Part): number => {
  const window = part.samples.slice(-Math.round(1000 / SAMPLE_MILLIS))
  const total = window.reduce((sum, n) => sum + n, 0)
  return window.length === 0 ? 0 : (total * 1000) / (window.length * SAMPLE_MILLIS)
}
