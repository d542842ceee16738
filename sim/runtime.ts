/**
 * Virtual time. An Effect runs in one synchronous loop: all that can run at this instant is run, in the
 * order in which it was scheduled, and then the clock jumps to the next sleeper. No timer, no promise:
 * an hour takes as long as its work, and the same seed does the same things in the same order.
 */
import type { Context, Exit, Fiber, Random } from "effect"
import {
  Clock,
  Duration,
  Effect,
  Option,
  RuntimeFlags,
  RuntimeFlagsPatch,
  Scheduler,
  Supervisor
} from "effect"

/** Some Sunday: what a client makes of the time must not depend on when it is run. */
export const START = Date.UTC(2024, 0, 7)

/** More tasks at one instant than any honest work makes: somebody runs in circles. */
const TASKS_AT_ONE_INSTANT = 200_000

interface Sleeper {
  readonly at: number
  /** Sleepers of one instant wake in the order in which they fell asleep. */
  readonly order: number
  readonly wake: () => void
  awake: boolean
}

const isBefore = (a: Sleeper, b: Sleeper): boolean =>
  a.at < b.at || (a.at === b.at && a.order < b.order)

/** A binary heap; who woke early stays in it until its time comes. */
class Sleepers {
  private readonly heap: Array<Sleeper> = []
  private order = 0
  /** Those who still sleep. */
  count = 0

  add(at: number, wake: () => void): Sleeper {
    const sleeper: Sleeper = { at, order: this.order++, wake, awake: false }
    this.count++
    this.heap.push(sleeper)
    this.rise(this.heap.length - 1, sleeper)
    return sleeper
  }

  drop(sleeper: Sleeper): void {
    if (sleeper.awake) return
    sleeper.awake = true
    this.count--
  }

  next(): Sleeper | undefined {
    for (let first = this.heap[0]; first?.awake === true; first = this.heap[0]) this.pop()
    return this.heap[0]
  }

  pop(): void {
    const last = this.heap.pop()
    if (last !== undefined && this.heap.length > 0) this.sink(last)
  }

  private rise(start: number, sleeper: Sleeper): void {
    let i = start
    while (i > 0) {
      const parent = (i - 1) >> 1
      const above = this.heap[parent]
      if (above === undefined || !isBefore(sleeper, above)) break
      this.heap[i] = above
      i = parent
    }
    this.heap[i] = sleeper
  }

  private sink(sleeper: Sleeper): void {
    let i = 0
    for (;;) {
      const left = this.heap[2 * i + 1]
      const right = this.heap[2 * i + 2]
      const isRight = left !== undefined && right !== undefined && isBefore(right, left)
      const child = isRight ? right : left
      if (child === undefined || !isBefore(child, sleeper)) break
      this.heap[i] = child
      i = 2 * i + (isRight ? 2 : 1)
    }
    this.heap[i] = sleeper
  }
}

class VirtualClock implements Clock.Clock {
  readonly [Clock.ClockTypeId]: Clock.ClockTypeId = Clock.ClockTypeId
  readonly sleepers = new Sleepers()
  now = START

  readonly currentTimeMillis = Effect.sync(() => this.now)
  readonly currentTimeNanos = Effect.sync(() => this.unsafeCurrentTimeNanos())

  unsafeCurrentTimeMillis(): number {
    return this.now
  }

  unsafeCurrentTimeNanos(): bigint {
    return BigInt(Math.round(this.now * 1_000_000))
  }

  sleep(duration: Duration.Duration): Effect.Effect<void> {
    const millis = Duration.toMillis(duration)
    return millis === Infinity
      ? Effect.never
      : Effect.async((resume) => {
          const sleeper = this.sleepers.add(this.now + millis, () => resume(Effect.void))
          return Effect.sync(() => this.sleepers.drop(sleeper))
        })
  }
}

/** First come, first served, whatever the priority. */
class Queue implements Scheduler.Scheduler {
  private tasks: Array<Scheduler.Task> = []
  private running: Array<Scheduler.Task> = []
  readonly shouldYield = Scheduler.defaultShouldYield
  executed = 0

  scheduleTask(task: Scheduler.Task): void {
    this.tasks.push(task)
  }

  get isEmpty(): boolean {
    return this.tasks.length === 0
  }

  /** Returns whether they came to an end. */
  runAll(atMost: number, afterTask: () => void): boolean {
    let left = atMost
    while (this.tasks.length > 0) {
      const tasks = this.tasks
      this.tasks = this.running
      this.running = tasks
      for (let i = 0; i < tasks.length; i++) {
        tasks[i]?.()
        afterTask()
      }
      this.executed += tasks.length
      left -= tasks.length
      tasks.length = 0
      if (left < 0) return false
    }
    return true
  }
}

class Living extends Supervisor.AbstractSupervisor<number> {
  readonly fibers = new Set<Fiber.RuntimeFiber<unknown, unknown>>()
  readonly value = Effect.sync(() => this.fibers.size)

  override onStart<A, E, R>(
    _context: Context.Context<R>,
    _effect: Effect.Effect<A, E, R>,
    _parent: Option.Option<Fiber.RuntimeFiber<unknown, unknown>>,
    fiber: Fiber.RuntimeFiber<A, E>
  ): void {
    this.fibers.add(fiber)
  }

  override onEnd<A, E>(_exit: Exit.Exit<A, E>, fiber: Fiber.RuntimeFiber<A, E>): void {
    this.fibers.delete(fiber)
  }
}

/** What a run may look at from outside. */
export interface Instruments {
  /** Milliseconds since the start. */
  readonly elapsed: () => number
  readonly sleepers: () => number
  readonly fibers: () => number
}

/** How a run ended. */
export interface Ended<A, E> {
  /** Undefined if the run did not come to an end. */
  readonly exit: Exit.Exit<A, E> | undefined
  /** Why it did not. */
  readonly stuck: string | undefined
  /** Virtual milliseconds. */
  readonly elapsed: number
  /** Tasks that were run. */
  readonly tasks: number
  /** Who sleeps, and who lives, after the end. */
  readonly sleepers: number
  readonly fibers: number
}

/** Runs until the effect has ended and nothing can run any more at that instant. */
export const run = <A, E>(
  effect: (instruments: Instruments) => Effect.Effect<A, E>,
  options: {
    /** What the fibers draw from; whoever needs numbers of his own brings them. */
    readonly random: Random.Random
    /** Virtual milliseconds after which the run is called endless. */
    readonly limit: number
    /** Looks at the world after each task. */
    readonly afterTask?: (() => void) | undefined
  }
): Ended<A, E> => {
  const clock = new VirtualClock()
  const queue = new Queue()
  const living = new Living()
  const afterTask = options.afterTask ?? (() => {})
  const instruments: Instruments = {
    elapsed: () => clock.now - START,
    sleepers: () => clock.sleepers.count,
    fibers: () => living.fibers.size
  }
  let exit: Exit.Exit<A, E> | undefined

  const fiber = Effect.suspend(() => effect(instruments)).pipe(
    Effect.supervised(living),
    Effect.withClock(clock),
    Effect.withRandom(options.random),
    Effect.withTracerEnabled(false),
    // Counters of the process: they cost time and tell nothing of a run.
    Effect.withRuntimeFlagsPatch(RuntimeFlagsPatch.disable(RuntimeFlags.RuntimeMetrics)),
    Effect.withUnhandledErrorLogLevel(Option.none()),
    (_) => Effect.runFork(_, { scheduler: queue })
  )
  fiber.addObserver((_) => (exit = _))

  const end = (stuck: string | undefined): Ended<A, E> => ({
    exit,
    stuck,
    elapsed: clock.now - START,
    tasks: queue.executed,
    sleepers: clock.sleepers.count,
    fibers: living.fibers.size
  })
  const at = () => `${((clock.now - START) / 1000).toFixed(3)} s`

  for (;;) {
    if (!queue.runAll(TASKS_AT_ONE_INSTANT, afterTask)) {
      return end(`runs in circles at ${at()}: ${TASKS_AT_ONE_INSTANT} tasks and no end`)
    }
    if (exit !== undefined) return end(undefined)
    const sleeper = clock.sleepers.next()
    if (sleeper === undefined) return end(`nobody runs and nobody sleeps at ${at()}`)
    if (sleeper.at - START > options.limit) {
      return end(`goes on after ${options.limit / 1000} s`)
    }
    clock.sleepers.pop()
    clock.sleepers.drop(sleeper)
    clock.now = Math.max(clock.now, sleeper.at)
    sleeper.wake()
  }
}
