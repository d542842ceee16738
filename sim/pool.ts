/** Batches on several processes. */
import { Data, Effect, Queue, Ref } from "effect"
import type { ChildProcess } from "node:child_process"
import { fork } from "node:child_process"
import { bundle } from "../scripts/bundle.js"
import type { Batch, Failure } from "./batch.js"
import type { Tally } from "./tally.js"
import { add, noTally } from "./tally.js"
import type { Range } from "./worker.js"

const WORKER = "sim/worker.ts"

/** Small enough that the processes end together. */
const BATCH = 25

/**
 * Much of what a run makes is garbage at once: with room for it, it is never moved. Every core has a process
 * of ours, so that helpers of the collector would only be in each other's way.
 */
const NODE_OPTIONS = ["--max-semi-space-size=128", "--single-threaded-gc"]

/** A run that is caught in a loop of its own never comes back to the clock that would notice. */
const BATCH_TIMEOUT = "2 minutes"

export class WorkerFailed extends Data.TaggedError("WorkerFailed")<{
  readonly range: Range
  readonly why: string
}> {
  override get message(): string {
    const { from, to } = this.range
    return `seeds ${from} to ${to - 1}: ${this.why}`
  }
}

const spawn = (worker: string) =>
  Effect.acquireRelease(
    Effect.sync(() => fork(worker, { execArgv: NODE_OPTIONS })),
    (child) => Effect.sync(() => child.kill("SIGKILL"))
  )

const ask = (child: ChildProcess, range: Range): Effect.Effect<Batch, WorkerFailed> =>
  Effect.async<Batch, WorkerFailed>((resume) => {
    const onMessage = (batch: Batch) => resume(Effect.succeed(batch))
    const onExit = (code: number | null, signal: string | null) =>
      resume(new WorkerFailed({ range, why: `the process ended with ${code ?? signal}` }))
    child.once("message", onMessage)
    child.once("exit", onExit)
    child.send(range)
    return Effect.sync(() => {
      child.off("message", onMessage)
      child.off("exit", onExit)
    })
  }).pipe(
    Effect.timeoutFail({
      duration: BATCH_TIMEOUT,
      onTimeout: () => new WorkerFailed({ range, why: `no end within ${BATCH_TIMEOUT}` })
    }),
    Effect.tap(() => Effect.sync(() => child.removeAllListeners("exit")))
  )

export interface Outcome {
  readonly tally: Tally
  /** Sorted by seed. No batch is begun after the first one that failed. */
  readonly failures: ReadonlyArray<Failure>
}

export const runSeeds = (options: {
  readonly from: number
  readonly seeds: number
  readonly jobs: number
  readonly onProgress: (tally: Tally) => void
}): Effect.Effect<Outcome, WorkerFailed> =>
  Effect.gen(function* () {
    const worker = yield* bundle(WORKER)
    const end = options.from + options.seeds
    const ranges = yield* Queue.unbounded<Range>()
    for (let from = options.from; from < end; from += BATCH) {
      yield* Queue.offer(ranges, { from, to: Math.min(from + BATCH, end) })
    }
    const tally = noTally()
    const failures = yield* Ref.make<ReadonlyArray<Failure>>([])
    const work = (child: ChildProcess): Effect.Effect<void, WorkerFailed> =>
      Effect.gen(function* () {
        for (;;) {
          const next = yield* Queue.poll(ranges)
          if (next._tag === "None" || (yield* Ref.get(failures)).length > 0) return
          const batch = yield* ask(child, next.value)
          add(tally, batch.tally)
          yield* Ref.update(failures, (_) => [..._, ...batch.failures])
          options.onProgress(tally)
        }
      })
    const job = Effect.scoped(Effect.flatMap(spawn(worker), work))
    yield* Effect.all(
      Array.from({ length: options.jobs }, () => job),
      {
        concurrency: "unbounded",
        discard: true
      }
    )
    const all = yield* Ref.get(failures)
    return { tally, failures: [...all].sort((a, b) => a.seed - b.seed) }
  }).pipe(Effect.scoped)
