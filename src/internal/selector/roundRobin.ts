/**
 * One after the other, in proportion to the weights. Each host is due at a virtual time; the host that
 * is due first is taken, and is due again one stride, `1 / weight`, later. Time advances to what was
 * taken last (stride scheduling, Waldspurger and Weihl 1995).
 *
 * A host of weight 3 is due three times while one of weight 1 is due once, spread out and not in a row.
 * What others do, and in which order the hosts are listed, changes nothing in when a host is due. So
 * while two hosts stay on the list, their picks in proportion to their weights differ by at most one
 * pick of each, whatever joins, leaves or returns meanwhile.
 *
 * @internal
 */
import * as Host from "../../Host.js"
import type { Candidate, Chance, HostSelector } from "../../HostSelector.js"
import { uniform } from "./pick.js"
import type { WeightOf } from "./weights.js"

/** @internal */
export class Rotation {
  private now = 0
  /** By address: a refreshed topology names the same hosts by new objects, in another order. */
  private readonly due = new Map<string, number>()
  /** Putting an address together, for each host and statement, would cost more than all the rest. */
  private readonly addresses = new WeakMap<Host.Host, string>()

  constructor(private readonly weightOf: WeightOf) {}

  /** How many hosts are remembered. */
  get size(): number {
    return this.due.size
  }

  readonly select: HostSelector = (candidates, chance) => {
    let chosen = candidates[0]
    let chosenAddress = ""
    let chosenDue = Number.POSITIVE_INFINITY
    let turning = 0
    for (const candidate of candidates) {
      const weight = this.weightOf(candidate)
      if (weight === 0) continue
      turning++
      const address = this.addressOf(candidate.host)
      const due = this.dueOf(address, 1 / weight, chance)
      // Hosts that are due together are taken by address, so that the order of the list says nothing.
      if (due < chosenDue || (due === chosenDue && address < chosenAddress)) {
        chosen = candidate
        chosenAddress = address
        chosenDue = due
      }
    }
    // Nobody is to get work, and somebody must.
    if (turning === 0) return uniform(candidates, chance)
    this.now = chosenDue
    this.due.set(chosenAddress, chosenDue + this.strideOf(chosen))
    if (this.due.size > turning) this.forget()
    return chosen
  }

  private strideOf(candidate: Candidate): number {
    return 1 / this.weightOf(candidate)
  }

  private addressOf(host: Host.Host): string {
    const known = this.addresses.get(host)
    if (known !== undefined) return known
    const address = Host.address(host)
    this.addresses.set(host, address)
    return address
  }

  private dueOf(address: string, stride: number, chance: Chance): number {
    const known = this.due.get(address)
    // A host that is new, or was away for its turn, begins somewhere within its first stride. Were it due
    // at once, every client of a fleet would send its next statement to the host that just came up.
    if (known === undefined) {
      const due = this.now + chance() * stride
      this.due.set(address, due)
      return due
    }
    // Its weight may have grown: it is never due later than the stride that it has now.
    return Math.min(known, this.now + stride)
  }

  /**
   * Who is overdue has left: those on the list never are. When it returns it begins anew, or it would
   * catch up on all that it missed. A host that left is overdue after one stride, which is one round.
   */
  private forget(): void {
    for (const [address, due] of this.due) {
      if (due < this.now) this.due.delete(address)
    }
  }
}
