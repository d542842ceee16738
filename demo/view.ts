/** The live view: a pure function from the model to the lines of a terminal. */
import * as Model from "./model.js"
import * as Text from "./text.js"
import * as Words from "./words.js"

export interface Size {
  readonly columns: number
  readonly rows: number
}

/** Lines of a higher rank go first when the terminal is too low for all. */
interface Ranked {
  readonly line: Text.Line
  readonly rank: 0 | 1 | 2
}

const must = (...parts: ReadonlyArray<Text.Span | string>): Ranked => ({
  line: Text.line(...parts),
  rank: 0
})
const may = (...parts: ReadonlyArray<Text.Span | string>): Ranked => ({
  line: Text.line(...parts),
  rank: 1
})
const blank: Ranked = { line: Text.blank, rank: 2 }

const stateStyle: Record<Model.NodeView["state"], Text.Style> = {
  primary: "good",
  standby: "plain",
  killed: "bad",
  "no answer": "warn"
}

const node = (part: Model.Part, { address, id, state }: Model.NodeView): Ranked =>
  must(
    `  ${id.padEnd(12)}`,
    Text.dim(address.padEnd(17)),
    Text.span(state.padEnd(11), stateStyle[state]),
    part.seen.get(id) ?? ""
  )

const nodes = (part: Model.Part): ReadonlyArray<Ranked> =>
  part.nodes.length === 0
    ? []
    : [
        must(
          Text.dim(
            `  ${"node".padEnd(12)}${"address".padEnd(17)}${"server".padEnd(11)}${part.view}`
          )
        ),
        ...part.nodes.map((_) => node(part, _)),
        blank
      ]

/** As many counters as fit, the weighty ones first. */
const totals = ({ totals }: Model.Part, { columns }: Size): Ranked => {
  const counters: ReadonlyArray<readonly [label: string, n: number, style: Text.Style]> = [
    ["acknowledged", totals.acknowledged, "good"],
    ["unknown", totals.unknown, "warn"],
    ["defects", totals.died, "bad"],
    ["failed", totals.failed, "bad"],
    ["repeated", totals.retries, "plain"]
  ]
  let room = columns - 1
  return must(
    ...counters.flatMap(([label, n, style]) => {
      room -= label.length + Text.count(n).length + 3
      return room < 0
        ? []
        : [Text.dim(`  ${label} `), Text.span(Text.count(n), n === 0 ? "plain" : style)]
    })
  )
}

/** Before the first write there is no throughput to show. */
const sinceFirst = (samples: ReadonlyArray<number>): ReadonlyArray<number> =>
  samples.slice(
    Math.max(
      samples.findIndex((n) => n > 0),
      0
    )
  )

const work = (part: Model.Part, size: Size, palette: Text.Palette): ReadonlyArray<Ranked> => {
  if (part.samples.length === 0) return []
  const room = Math.max(size.columns - 22, 8)
  return [
    must(
      Text.dim("  writes/s "),
      Text.bold(Text.count(Model.rate(part)).padStart(6)),
      "  ",
      ...Text.sparkline(sinceFirst(part.samples).slice(-room), palette)
    ),
    totals(part, size),
    blank
  ]
}

const stageStyle: Partial<Record<Model.Stage["_tag"], Text.Style>> = {
  Killed: "bad",
  Promoted: "warn",
  EndpointMoved: "warn",
  FirstWrite: "good",
  GaveUp: "bad"
}

const stages = (part: Model.Part): ReadonlyArray<Ranked> => {
  const killedAt = Model.stageAt(part, "Killed")
  return killedAt === undefined
    ? []
    : part.stages.map(({ at, stage }) =>
        must(
          "  ",
          Text.span(Words.staged({ at, stage }, killedAt), stageStyle[stage._tag] ?? "plain")
        )
      )
}

const done = (model: Model.Model, { columns }: Size): ReadonlyArray<Ranked> =>
  model.parts
    .slice(0, -1)
    .flatMap(({ figures, name }) =>
      figures === undefined
        ? []
        : Text.wrap(`${name}: ${Words.summary(figures)}`, columns - 1, "  ").map((text) =>
            must(text)
          )
    )

/** Dim prose, which goes when there is no room for it. */
const prose = (text: string, { columns }: Size, indent = ""): ReadonlyArray<Ranked> =>
  Text.wrap(text, columns - 1 - indent.length).map((part) => may(indent, Text.dim(part)))

const header = (model: Model.Model, size: Size): ReadonlyArray<Ranked> => [
  must(
    Text.bold("effect-failover demo"),
    Text.dim(`  ${Text.seconds(model.now - model.startedAt)}   Ctrl-C ends it`)
  ),
  ...prose(Words.cluster(model.flavor), size),
  ...prose(Words.work, size),
  blank
]

const body = (part: Model.Part, size: Size, palette: Text.Palette): ReadonlyArray<Ranked> => [
  must(Text.bold(`${part.number} of 2: ${part.name}`), Text.dim(`   ${part.phase}`)),
  ...part.configured.flatMap((text) => prose(text, size, "  ")),
  blank,
  ...nodes(part),
  ...work(part, size, palette),
  ...stages(part)
]

/** The bottom row stays free: writing into its last column scrolls some terminals. */
export const render = (
  model: Model.Model,
  size: Size,
  palette: Text.Palette
): ReadonlyArray<Text.Line> => {
  const part = Model.current(model)
  const running = part === undefined ? [] : body(part, size, palette)
  const all = [...header(model, size), ...done(model, size), ...running]
  const height = Math.max(size.rows - 1, 1)
  const fitting = [2, 1]
    .reduce(
      (lines, rank) => (lines.length <= height ? lines : lines.filter((_) => _.rank < rank)),
      all
    )
    .slice(0, height)
  return fitting.map(({ line }) => line)
}
