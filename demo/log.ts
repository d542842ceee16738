/** The demo without a terminal: one line for each event, and nothing that moves. */
import type { Change } from "./board.js"
import * as Model from "./model.js"
import * as Text from "./text.js"
import * as Words from "./words.js"

const SAMPLES_PER_SECOND = Math.round(1000 / Model.SAMPLE_MILLIS)

const nodes = (part: Model.Part): string =>
  part.nodes.map(({ id, state }) => `${id} ${state}`).join(", ")

const isKnown = (part: Model.Part): boolean =>
  part.nodes.every(({ state }) => state !== "no answer")

const title = (part: Model.Part): ReadonlyArray<string> => [
  `${part.number} of 2: ${part.name}`,
  ...part.configured.map((text) => `         ${text}`)
]

/** What is to be told of a change, if anything. */
export const lines = ({ after, before, event }: Change): ReadonlyArray<string> => {
  const part = Model.current(after)
  const previous = Model.current(before)
  if (part === undefined) return []
  const at = (text: string) => `${Text.seconds(after.now - after.startedAt).padStart(7)}  ${text}`
  switch (event._tag) {
    case "PartStarted":
      return ["", ...title(part)]
    case "NodesSeen":
      return previous !== undefined && nodes(previous) === nodes(part)
        ? []
        : isKnown(part)
          ? [at(`nodes: ${nodes(part)}`)]
          : []
    case "PhaseChanged":
      return part.phase === "running" ? [at("the service is at work")] : []
    case "Sampled":
      return part.samples.length % SAMPLES_PER_SECOND === 0
        ? [at(`${Text.count(Model.rate(part)).padStart(6)} writes/s`)]
        : []
    case "StageReached": {
      const killedAt = Model.stageAt(part, "Killed")
      const reached = part.stages.find((_) => !previous?.stages.includes(_))
      return killedAt === undefined || reached === undefined
        ? []
        : [at(Words.staged(reached, killedAt))]
    }
    case "PartDone":
      return [at(`done: ${Words.summary(event.figures)}`)]
    case "ClientSees":
      return []
  }
}

export const opening = (model: Model.Model): ReadonlyArray<string> => [
  "effect-failover demo",
  Words.cluster(model.flavor),
  Words.work
]

/** What happened, for those who saw it in a view that is gone. */
export const record = (model: Model.Model): ReadonlyArray<string> =>
  model.parts.flatMap((part) => {
    const killedAt = Model.stageAt(part, "Killed")
    return [
      "",
      ...title(part),
      ...(killedAt === undefined ? [] : part.stages.map((_) => Words.staged(_, killedAt)))
    ]
  })
