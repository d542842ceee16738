/**
 * Two hosts of the latency window by chance, and of these the one with less outstanding: MongoDB's
 * selection.
 *
 * Two choices rather than the minimum of all: the fullest of n hosts is then about `log log n` above the
 * average, where one choice leaves it at `log n / log log n` (Mitzenmacher 2001), and clients that see
 * the same figures do not all take the same host.
 *
 * @internal
 */
import { Array } from "effect"
import type { Candidate, Candidates, Chance, HostSelector } from "../../HostSelector.js"
import { below, isKnown, leastKnown } from "./pick.js"

/**
 * "[min, min + localThresholdMS]". A host without a sample is inside: choosing by what is outstanding
 * keeps it from getting more than the others before its first answer.
 */
const withinWindow = <C extends Candidate>(
  candidates: Candidates<C>,
  windowMillis: number
): Candidates<C> => {
  const least = leastKnown(candidates, (_) => _.latencyMillis)
  if (least === undefined) return candidates
  const limit = least + windowMillis
  const isWithin = ({ latencyMillis }: C) => !isKnown(latencyMillis) || latencyMillis <= limit
  if (candidates.every(isWithin)) return candidates
  const within = candidates.filter(isWithin)
  return Array.isNonEmptyReadonlyArray(within) ? within : candidates
}

/** Without replacement: the second is one of the others. Of two alike, the one drawn first. */
const lesserOfTwo = <C extends Candidate>(candidates: Candidates<C>, chance: Chance): C => {
  if (candidates.length === 1) return candidates[0]
  const i = below(candidates.length, chance)
  const j = below(candidates.length - 1, chance)
  const first = candidates[i] ?? candidates[0]
  const second = candidates[j < i ? j : j + 1] ?? first
  return second.outstanding < first.outstanding ? second : first
}

/** @internal */
export const twoChoices =
  (windowMillis: number): HostSelector =>
  (candidates, chance) =>
    lesserOfTwo(withinWindow(candidates, windowMillis), chance)
