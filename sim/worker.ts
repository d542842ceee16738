/** A process of its own that runs the batches that it is sent. */
import { runBatch } from "./batch.js"

/** Seeds from the first up to, and without, the last. */
export interface Range {
  readonly from: number
  readonly to: number
}

process.on("message", ({ from, to }: Range) => {
  process.send?.(runBatch(Array.from({ length: to - from }, (_, i) => from + i)))
})
// The parent decides what an interrupt means; without it, there is nothing to do.
process.on("SIGINT", () => {})
process.on("disconnect", () => process.exit())
