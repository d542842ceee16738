/** A client that reads from readers, on a simulated cluster whose SELECTs tell where they ran and what they saw. */
import { Reactivity } from "@effect/experimental"
import { assert, it } from "@effect/vitest"
import type { Scope } from "effect"
import { Array, Cause, Duration, Effect, Exit, Option, Random } from "effect"
import { Failover } from "effect-failover"
import type { ReadOptions } from "effect-failover/Failover"
import * as Test from "effect-failover/layers/Test"
import { run } from "../../sim/runtime.js"

export interface Seen {
  readonly host: string
  readonly role: "writer" | "reader"
  /** How many writes are there. */
  readonly count: number
  /** Whether what was asked for is among them. */
  readonly isThere: boolean
}

const NOTHING: Seen = { host: "nobody", role: "reader", count: -1, isThere: false }

interface Given extends Omit<Test.Options, "answer"> {
  /** That a SELECT answers with. Default 1. */
  readonly rows?: number
}

export const make = ({ rows = 1, ...options }: Given = {}) =>
  Effect.gen(function* () {
    const made = yield* Test.make({
      ...options,
      answer: ({ params, sql }, { host, role, writes }) => {
        if (!sql.startsWith("SELECT")) return undefined
        const [id] = params
        const isThere = id !== undefined && writes().some((_) => _.params[0] === id)
        return Array.makeBy(rows, () => ({ host, role, count: writes().length, isThere }))
      }
    })
    const { client: sql, cluster } = made
    const look = sql<Seen>`SELECT count(*) FROM item`
    const first = Effect.map(look, ([row]): Seen => row ?? NOTHING)
    return {
      ...made,
      sql,
      cluster,
      /** Reads by the client's own mode. */
      look: first,
      /** Reads from a reader. */
      read: (options?: ReadOptions) => Failover.onReader(first, options),
      find: (id: number) =>
        Effect.map(
          sql<Seen>`SELECT count(*) FROM item WHERE id = ${id}`,
          ([row]): Seen => row ?? NOTHING
        ),
      write: (id = 0) => sql`INSERT INTO item (id) VALUES (${id})`,
      /** The caller's own statements that a host has executed or refused. */
      ran: (host: string) =>
        cluster.log
          .filter((_) => _.host === host && !_.isInternal && _.outcome !== "Dropped")
          .map((_) => _.sql)
    }
  })

export type World = Effect.Effect.Success<ReturnType<typeof make>>

/** More than any of these tests takes. */
const LIMIT = Duration.toMillis("2 hours")

/**
 * A test in virtual time that goes on by itself: whoever sleeps sleeps, and nobody waits. In the end nothing may
 * be left of it.
 */
export const inVirtualTime = <E>(name: string, body: () => Effect.Effect<unknown, E>): void =>
  it(name, () => {
    const { exit, fibers, sleepers, stuck } = run(body, {
      random: Random.make(name),
      limit: LIMIT
    })
    assert.isUndefined(stuck)
    if (exit !== undefined && Exit.isFailure(exit)) throw Cause.squash(exit.cause)
    assert.deepStrictEqual({ fibers, sleepers }, { fibers: 0, sleepers: 0 })
  })

/** A test with a world of its own. */
export const test = <E>(
  name: string,
  options: Given,
  body: (world: World) => Effect.Effect<unknown, E, Scope.Scope>
): void =>
  inVirtualTime(name, () =>
    Effect.gen(function* () {
      let cluster: World["cluster"] | undefined
      yield* make(options).pipe(
        Effect.tap((_) => Effect.sync(() => (cluster = _.cluster))),
        Effect.flatMap(body),
        Effect.scoped,
        Effect.provide(Reactivity.layer)
      )
      assert.strictEqual(cluster?.sessions(), 0)
    })
  )

/** All that can happen at this instant has happened. */
export const settle = Effect.sleep(0)

/** Some seconds at most, unless said otherwise. */
export const soon = <A, E, R>(
  effect: Effect.Effect<A, E, R>,
  atMost: Duration.DurationInput = "1 minute"
): Effect.Effect<A, E, R> =>
  Effect.timeoutFailCause(effect, {
    duration: atMost,
    onTimeout: () => Cause.die(new Error(`no end within ${Duration.format(atMost)}`))
  })

/** How long it took, in virtual milliseconds. */
export const timed = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.gen(function* () {
    const clock = yield* Effect.clock
    const since = clock.unsafeCurrentTimeMillis()
    const exit = yield* Effect.exit(effect)
    return { exit, millis: clock.unsafeCurrentTimeMillis() - since }
  })

/** The cause of the `SqlError` that it fails with. */
export const failure = <A, E, R>(
  effect: Effect.Effect<A, E, R>
): Effect.Effect<unknown, never, R> => Effect.map(Effect.exit(effect), (exit) => causeOf(exit))

export const causeOf = (exit: Exit.Exit<unknown, unknown>): unknown => {
  assert.isTrue(Exit.isFailure(exit), "it succeeded")
  const error = Exit.isFailure(exit)
    ? Option.getOrUndefined(Cause.failureOption(exit.cause))
    : undefined
  return typeof error === "object" && error !== null && "cause" in error ? error.cause : error
}

/** The hosts of so many reads. */
export const hostsOf = <E, R>(read: Effect.Effect<Seen, E, R>, n = 30) =>
  Effect.map(Effect.replicateEffect(read, n), (seen) =>
    Array.dedupe(seen.map((_) => _.host)).sort()
  )
