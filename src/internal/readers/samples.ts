/**
 * Positions of the writer, and when it was known to have reached at least them: a reader that has replayed
 * one of them lacks nothing that was written before that moment.
 *
 * @internal
 */

/** @internal */
export interface Sample {
  /** Milliseconds of the Clock, from before the writer was asked. */
  readonly at: number
  readonly position: string
}

/** So many questions are asked of a reader within the time that counts. */
const KEPT = 32

/** Of one reign of a writer: positions of another one are on another timeline. @internal */
export class Samples {
  private samples: Array<Sample> = []
  private epoch = -1

  add(sample: Sample, epoch: number): void {
    // The answer of a writer that was replaced while it was asked.
    if (epoch < this.epoch) return
    if (epoch !== this.epoch) {
      this.samples = []
      this.epoch = epoch
    }
    this.samples.push(sample)
    if (this.samples.length > KEPT) this.samples.shift()
  }

  /** Oldest first. */
  since(moment: number): ReadonlyArray<Sample> {
    return this.samples.filter((_) => _.at > moment)
  }
}
