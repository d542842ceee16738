/**
 * One of several, all alike or by the lowest figure. Every choice between equals is made by chance: a
 * fixed order would send the clients of a whole fleet to the same host.
 *
 * @internal
 */
import type { Candidate, Candidates, Chance } from "../../HostSelector.js"

/** An index below `count`; a source of chance that can say 1 is not trusted to stay below it. @internal */
export const below = (count: number, chance: Chance): number =>
  Math.min(count - 1, Math.floor(chance() * count))

/** @internal */
export const uniform = <C extends Candidate>(candidates: Candidates<C>, chance: Chance): C =>
  candidates[below(candidates.length, chance)] ?? candidates[0]

/** The candidate of the lowest figure. Ties are rare, and cost a second pass. @internal */
export const lowest = <C extends Candidate>(
  candidates: Candidates<C>,
  figureOf: (candidate: C) => number,
  chance: Chance
): C => {
  let least = candidates[0]
  let leastFigure = figureOf(least)
  let tied = 1
  for (let i = 1; i < candidates.length; i++) {
    const candidate = candidates[i] ?? least
    const figure = figureOf(candidate)
    if (figure < leastFigure) {
      least = candidate
      leastFigure = figure
      tied = 1
    } else if (figure === leastFigure) {
      tied++
    }
  }
  if (tied === 1) return least
  let skip = below(tied, chance)
  return (
    candidates.find((candidate) => figureOf(candidate) === leastFigure && skip-- === 0) ?? least
  )
}

/** Whether a figure was measured: a number from 0 on. @internal */
export const isKnown = (figure: number | undefined): figure is number =>
  figure !== undefined && figure >= 0

/** The lowest of the figures that are known. @internal */
export const leastKnown = <C extends Candidate>(
  candidates: Candidates<C>,
  figureOf: (candidate: C) => number | undefined
): number | undefined => {
  let least: number | undefined
  for (const candidate of candidates) {
    const figure = figureOf(candidate)
    if (isKnown(figure) && (least === undefined || figure < least)) least = figure
  }
  return least
}
