/** What the caller got, and what it may claim. */
import { Cause, Exit, Option } from "effect"
import type { Outcome } from "effect-failover/Errors"
import * as ErrorClassifier from "effect-failover/ErrorClassifier"

/** What is claimed of the work's rows; `undefined` claims nothing, and may not be. */
type Claim = "Done" | Outcome

export interface Signal {
  readonly text: string
  readonly claim: Claim | undefined
}

const outcomes: ReadonlyArray<string> = ["NotExecuted", "RolledBack", "Unknown"]

const isTagged = (u: unknown): u is { readonly _tag: string; readonly outcome?: unknown } =>
  typeof u === "object" && u !== null && "_tag" in u && typeof u._tag === "string"

const isOutcome = (u: unknown): u is Outcome => typeof u === "string" && outcomes.includes(u)

const ofFailure = (failure: unknown): Signal => {
  if (failure === "its own") return { text: "the caller's own failure", claim: "RolledBack" }
  if (!isTagged(failure) || failure._tag !== "SqlError" || !("cause" in failure)) {
    return { text: `an untyped failure: ${String(failure)}`, claim: undefined }
  }
  const { cause } = failure
  if (isTagged(cause) && isOutcome(cause.outcome)) {
    const isTransaction = cause._tag === "TransactionResolutionUnknown"
    return {
      text: isTransaction ? cause.outcome : `${cause._tag} ${cause.outcome}`,
      claim: cause.outcome
    }
  }
  const code = ErrorClassifier.sqlState(cause)
  return code === undefined
    ? { text: `SqlError: ${String(cause)}`, claim: undefined }
    : { text: `SqlError ${code}`, claim: "RolledBack" }
}

export const signalOf = (exit: Exit.Exit<unknown, unknown>): Signal =>
  Exit.match(exit, {
    onSuccess: () => ({ text: "success", claim: "Done" }),
    onFailure: (cause) => {
      const failure = Cause.failureOption(cause)
      return Cause.isDie(cause) || Option.isNone(failure)
        ? { text: `a defect: ${Cause.pretty(cause)}`, claim: undefined }
        : ofFailure(failure.value)
    }
  })

/** What is wrong with a signal in the face of what the database holds. */
export const violationOf = (
  { claim, text }: Signal,
  counts: ReadonlyArray<number>
): string | undefined => {
  const found = `${text}, and the rows are there ${counts.join(", ")} times`
  const [first = 0] = counts
  if (claim === undefined) return found
  if (counts.some((n) => n !== first)) return `torn: ${found}`
  switch (claim) {
    case "Done":
      return counts.every((n) => n === 1) ? undefined : found
    case "NotExecuted":
    case "RolledBack":
      return counts.every((n) => n === 0) ? undefined : found
    case "Unknown":
      return counts.every((n) => n <= 1) ? undefined : found
  }
}
