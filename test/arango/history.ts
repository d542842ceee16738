/**
 * Writers with unique ids, and the checker of what they were told, over the double's log: every acknowledged write was
 * executed exactly once, one that was not executed not at all, an unknown one at most once.
 */
import { HttpBody, type HttpClient } from "@effect/platform"
import { assert } from "@effect/vitest"
import { Effect, Exit } from "effect"
import type { ArangoDouble } from "effect-failover/testing/ArangoDouble"
import { eventually } from "../support/waiting.js"
import { fateOf, type Fate } from "../support/workload.js"

interface Entry {
  readonly id: number
  readonly exit: Exit.Exit<unknown, unknown>
}

export class History {
  readonly entries: Array<Entry> = []
  private next = 1

  constructor(
    private readonly double: ArangoDouble,
    private readonly client: HttpClient.HttpClient
  ) {}

  count(fate: Fate): number {
    return this.entries.filter(({ exit }) => fateOf(exit) === fate).length
  }

  /** Without a key of its own, so that the server would take it twice. */
  readonly write: Effect.Effect<void> = Effect.suspend(() => {
    const id = this.next++
    return this.client.post("/_api/document/items", { body: HttpBody.unsafeJson({ id }) }).pipe(
      Effect.flatMap((response) =>
        response.status < 300
          ? // Its head says that it was done, also where the rest breaks off.
            Effect.ignore(response.text)
          : Effect.flatMap(response.text, (text) => Effect.fail(new Error(text)))
      ),
      Effect.exit,
      Effect.map((exit) => void this.entries.push({ id, exit }))
    )
  })

  readonly acknowledged = (more: number) =>
    Effect.suspend(() => {
      const goal = this.count("acknowledged") + more
      return eventually(
        `${more} more acknowledged writes`,
        Effect.sync(() => this.count("acknowledged") >= goal)
      )
    })

  readonly verify = Effect.gen(this, function* () {
    const executions = new Map<number, number>()
    for (const { operations } of yield* this.double.log) {
      for (const operation of operations) {
        if (operation.kind !== "put") continue
        const id = Number(operation.document["id"])
        executions.set(id, (executions.get(id) ?? 0) + 1)
      }
    }
    const violations = this.entries.flatMap(({ exit, id }) => {
      const fate = fateOf(exit)
      const times = executions.get(id) ?? 0
      const isRight =
        fate === "acknowledged"
          ? times === 1
          : fate === "Unknown"
            ? times <= 1
            : fate === "NotExecuted" && times === 0
      const told = Exit.isFailure(exit) ? `: ${String(exit.cause)}` : ""
      return isRight ? [] : [`${id} was ${fate}, and was executed ${times} times${told}`]
    })
    assert.deepStrictEqual(violations.slice(0, 5), [])
  })
}

/** So many fibers write until it is ended. */
export const load = (double: ArangoDouble, client: HttpClient.HttpClient, fibers: number) =>
  Effect.gen(function* () {
    const history = new History(double, client)
    let stopped = false
    const writer = Effect.whileLoop({
      while: () => !stopped,
      body: () => Effect.zipRight(history.write, Effect.yieldNow()),
      step: () => {}
    })
    const running = yield* Effect.forkScoped(
      Effect.all(
        Array.from({ length: fibers }, () => writer),
        { concurrency: "unbounded", discard: true }
      )
    )
    yield* history.acknowledged(100)
    return {
      history,
      end: Effect.suspend(() => {
        stopped = true
        return Effect.zipRight(running.await, history.verify)
      })
    }
  })
