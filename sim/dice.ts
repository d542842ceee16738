/** Chance without an Effect around it: scenarios are drawn before anything runs. */
import { Hash, Utils } from "effect"

export class Dice {
  private readonly random: Utils.PCGRandom

  /** Streams of different names are independent of each other. */
  constructor(seed: number, stream: string) {
    this.random = new Utils.PCGRandom(seed, Hash.string(stream))
  }

  /** From `least` up to, and without, `most`. */
  between(least: number, most: number): number {
    return least + this.random.number() * (most - least)
  }

  /** A whole number, both ends included. */
  whole(least: number, most: number): number {
    return least + this.random.integer(most - least + 1)
  }

  chance(probability: number): boolean {
    return this.random.number() < probability
  }

  pick<A>(from: readonly [A, ...ReadonlyArray<A>]): A {
    return from[this.random.integer(from.length)] ?? from[0]
  }

  /** Small values as likely as large ones, by orders of magnitude; whole numbers. */
  magnitude(least: number, most: number): number {
    return Math.round(Math.exp(this.between(Math.log(least), Math.log(most))))
  }
}
