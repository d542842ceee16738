/** The closing table and what it means, in words that follow from its figures. */
import type { Figures } from "./figures.js"
import * as Text from "./text.js"
import { NOT_HERE } from "./words.js"

const LABEL_WIDTH = 30
const COLUMN_WIDTH = 15

interface Results {
  readonly library: Figures
  readonly plain: Figures
}

type Cell = readonly [text: string, style: Text.Style]

const row = (label: string, library: Cell, plain: Cell): Text.Line =>
  Text.line(
    label.padEnd(LABEL_WIDTH),
    ...[library, plain].map(([text, style]) => Text.span(text.padStart(COLUMN_WIDTH), style))
  )

const plainCell = (text: string): Cell => [text, "plain"]

/** Anything but zero is bad. */
const harm = (n: number): Cell => [Text.count(n), n === 0 ? "plain" : "bad"]

const time = (n: number | undefined): Cell =>
  n === undefined ? [NOT_HERE, "plain"] : [Text.millis(n), "plain"]

const outage = (n: number | undefined): Cell =>
  n === undefined ? ["never back", "bad"] : [Text.millis(n), "bold"]

/** What the client itself took: the endpoint's delay is not its fault. */
const clientMs = ({ endpointMs, recoveryMs }: Figures): number | undefined =>
  recoveryMs === undefined ? undefined : Math.max(recoveryMs - (endpointMs ?? 0), 0)

const table = ({ library, plain }: Results): ReadonlyArray<Text.Line> => {
  const of = (label: string, cell: (figures: Figures) => Cell) =>
    row(label, cell(library), cell(plain))
  const n = (pick: (figures: Figures) => number) => (figures: Figures) =>
    plainCell(Text.count(pick(figures)))
  return [
    row("", ["effect-failover", "bold"], ["@effect/sql-pg", "bold"]),
    of(
      "writes acknowledged",
      n((_) => _.acknowledged)
    ),
    of(
      "  found in the database",
      n((_) => _.found)
    ),
    of("  lost", (_) => harm(_.lost)),
    of("duplicated", (_) => harm(_.duplicated)),
    ...(library.torn + plain.torn === 0 ? [] : [of("transactions half done", (_) => harm(_.torn))]),
    row("reported unknown", plainCell(Text.count(library.unknown)), plainCell("cannot tell")),
    row("  in fact in the database", plainCell(Text.count(library.unknownFound)), [
      NOT_HERE,
      "plain"
    ]),
    of("died with a defect", (_) => harm(_.died)),
    of("  in fact in the database", (_) =>
      plainCell(_.died === 0 ? NOT_HERE : Text.count(_.diedFound))
    ),
    of("failed otherwise", (_) => harm(_.failed)),
    Text.blank,
    of("time without service", (_) => outage(_.outageMs)),
    of("  kill to noticed", (_) => time(_.noticedMs)),
    of("  database: kill to promoted", (_) => time(_.databaseMs)),
    of("  endpoint: to the new writer", (_) => time(_.endpointMs)),
    of("  client: to the first write", (_) => time(clientMs(_)))
  ]
}

/** One line each at 80 columns: what differs, and why. */
const notes = ({ library, plain }: Results): ReadonlyArray<readonly [string, string]> => [
  ["Writes", "no measure of speed: the second part runs longer, and warm"],
  ...(library.lost + plain.lost === 0
    ? []
    : [["Lost", "acknowledged, and not in the database that has taken over"] as const]),
  [
    "Duplicated",
    plain.duplicated === 0
      ? "a SqlError does not say if the write was done; retry had luck here"
      : `a SqlError does not say if the write was done; retry did ${Text.count(plain.duplicated)} twice`
  ],
  [
    "Unknown",
    `${Text.plural(library.unknown, "caller")} of the library can look; plain ones cannot know`
  ],
  ["Defects", "@effect/sql-pg dies when COMMIT or ROLLBACK fails; no retry sees it"],
  ...(library.died === 0
    ? []
    : [["", "none may come from effect-failover: please report this"] as const]),
  ["Time", "the library asks every node; plain waits for the endpoint to move"]
]

const NOTE_INDENT = 11

const note = ([label, text]: readonly [string, string], columns: number) =>
  Text.wrap(text, columns - 1 - NOTE_INDENT, "").map((part, i) =>
    Text.line(Text.dim((i === 0 ? label : "").padEnd(NOTE_INDENT)), part)
  )

/** Whether the library kept its promise. */
export const isKept = ({ duplicated, lost }: Figures): boolean => lost === 0 && duplicated === 0

const verdict = ({ library }: Results): Text.Line =>
  isKept(library)
    ? Text.line(Text.span("effect-failover lost nothing and did nothing twice.", "good"))
    : Text.line(
        Text.span(
          `effect-failover broke its promise: ${Text.count(library.lost)} lost, ${Text.count(library.duplicated)} duplicated.`,
          "bad"
        )
      )

export const render = (results: Results, columns: number): ReadonlyArray<Text.Line> => [
  Text.blank,
  ...table(results),
  Text.blank,
  ...notes(results).flatMap((each) => note(each, columns)),
  verdict(results)
]
