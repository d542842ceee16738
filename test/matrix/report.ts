/** The findings of a run as the table of docs/fault-matrix.md. */
import type { Finding } from "./runCell.js"
import type { Cell, Context, Fault, Point } from "./vocabulary.js"
import {
  allContexts,
  allFaults,
  allPoints,
  contexts,
  faultNotes,
  faults,
  points,
  ruleAgainst,
  rules
} from "./vocabulary.js"

const ROWS: Readonly<Record<string, string>> = { "0": "0 rows", "1": "1 row", "-": "" }

const cellText = ({ rows, signal, violations }: Finding): string => {
  const found = ROWS[rows] ?? `${rows} rows`
  const text = found === "" ? signal : `${signal}, ${found}`
  return violations.length === 0 ? text : `**VIOLATION** ${text}`
}

const line = (columns: ReadonlyArray<string>): string => `| ${columns.join(" | ")} |`

const sameCell = (a: Cell, b: Cell): boolean =>
  a.point === b.point && a.fault === b.fault && a.context === b.context

const rowOf = (
  findings: ReadonlyArray<Finding>,
  point: Point,
  context: Context
): ReadonlyArray<string> => {
  const made = (fault: Fault): Cell => ({ point, fault, context })
  if (allFaults.every((fault) => ruleAgainst(made(fault)) !== undefined)) return []
  const columns = allFaults.map((fault) => {
    const finding = findings.find((_) => sameCell(_.cell, made(fault)))
    if (finding !== undefined) return cellText(finding)
    return ruleAgainst(made(fault)) === undefined ? "not run" : ""
  })
  return [line([points[point], contexts[context], ...columns])]
}

export const render = (findings: ReadonlyArray<Finding>): string =>
  [
    "# Fault matrix",
    "",
    "What a caller is told when the writer or its connection fails at a certain point of the work, and what the database really holds afterwards.",
    `Each of the ${findings.length} cells was run on a real PostgreSQL cluster; this page is written by the run:`,
    "",
    "```sh",
    "npm run matrix",
    "```",
    "",
    "The same cells are tests (`test/matrix/Matrix.test.ts`), which check each signal against the rows: a success is there exactly once, what was",
    "rolled back or not executed is not there, what is unknown is there once or not at all, a transaction is there as a whole or not at all, no failure is a defect, and",
    "the client works on.",
    "",
    "## Signals",
    "",
    "| signal | the caller |",
    "|---|---|",
    "| success | gets the work's result: the failover happened behind it, or the commit was resolved |",
    "| FailoverSuccess Unknown | is told that a statement outside a transaction was sent and not answered |",
    "| RolledBack, Unknown | gets `TransactionResolutionUnknown` with this outcome |",
    "| StatementTimeout ... | gets `StatementTimeout` with this outcome |",
    "| FailoverFailed ... | is told that there is no writer, and what became of the work |",
    "| the caller's own failure | gets the failure that made it roll back |",
    "",
    "A standby that was started less than a second before the mark cannot tell `transaction-status` for sure, and the outcome stays Unknown: in these cells it is older.",
    "",
    "## Faults",
    "",
    "| fault | what is done |",
    "|---|---|",
    ...allFaults.map((fault) => line([faults[fault], faultNotes[fault]])),
    "",
    "## Cells",
    "",
    line(["point", "context", ...allFaults.map((fault) => faults[fault])]),
    line(["---", "---", ...allFaults.map(() => "---")]),
    ...allPoints.flatMap((point) =>
      allContexts.flatMap((context) => rowOf(findings, point, context))
    ),
    "",
    "## Empty cells",
    "",
    "They are left out by rule:",
    "",
    ...rules.map(({ rule }) => `- ${rule}`),
    ""
  ].join("\n")
