/**
 * Which candidates may be used at all, and why the others may not.
 *
 * @internal
 */
import { Array, Either } from "effect"
import type { Exclusion } from "../../Errors.js"
import { NoMatchingHost } from "../../Errors.js"
import type { Candidate, Candidates, SelectOptions } from "../../HostSelector.js"

type Wanted = SelectOptions["role"]

const exclusionOf = (candidate: Candidate, role: Wanted): Exclusion | undefined =>
  role !== undefined && candidate.role !== role
    ? "Role"
    : candidate.availability === "unavailable"
      ? "Unavailable"
      : undefined

/** @internal */
export const noMatch = (candidates: ReadonlyArray<Candidate>, role: Wanted): NoMatchingHost =>
  new NoMatchingHost({
    role,
    excluded: candidates.map((candidate) => ({
      host: candidate.host,
      role: candidate.role,
      // What may be used and was not chosen was passed over by the selector.
      reason: exclusionOf(candidate, role) ?? "PassedOver"
    }))
  })

/** The list itself where nobody is excluded, as is the rule. @internal */
export const matching = <C extends Candidate>(
  candidates: ReadonlyArray<C>,
  role: Wanted
): Either.Either<Candidates<C>, NoMatchingHost> => {
  const isUsable = (candidate: C) => exclusionOf(candidate, role) === undefined
  const usable = candidates.every(isUsable) ? candidates : candidates.filter(isUsable)
  return Array.isNonEmptyReadonlyArray(usable)
    ? Either.right(usable)
    : Either.left(noMatch(candidates, role))
}
