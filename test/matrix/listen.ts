/** A listener that is hit, and what it hears then. */
import { Effect, Fiber, Queue, Stream } from "effect"
import type { ListenEvent } from "effect-failover/Connector"
import { eventually } from "../support/waiting.js"
import type { Signal } from "./signal.js"
import { signalOf } from "./signal.js"
import type { Stage } from "./stage.js"

/** Notifies until it is heard: one that is sent before LISTEN is answered is nobody's. */
const heard = (stage: Stage, events: Queue.Dequeue<ListenEvent>, payload: string) =>
  Effect.gen(function* () {
    const seen: Array<ListenEvent> = []
    const isHeard = Effect.gen(function* () {
      const { cluster, table } = stage.db
      yield* cluster.query(yield* cluster.primary, `select pg_notify('${table}', '${payload}')`)
      seen.push(...(yield* Queue.takeUpTo(events, 1000)))
      return seen.some((_) => _._tag === "Notification" && _.payload === payload)
    })
    yield* eventually(`the notification ${payload}`, isHeard)
    return seen
  })

/** It must go over to the new writer, say so, and hear there; or fail with an outcome. */
export const listening = (
  stage: Stage,
  strike: Effect.Effect<void, unknown>
): Effect.Effect<Signal, unknown> =>
  Effect.gen(function* () {
    const events = yield* Queue.unbounded<ListenEvent>()
    const fiber = yield* stage.db.listen(stage.db.table).pipe(
      Stream.runForEach((event) => Queue.offer(events, event)),
      Effect.fork
    )
    yield* heard(stage, events, "before")
    yield* strike
    const again = yield* Effect.raceFirst(
      Effect.exit(heard(stage, events, "after")),
      Effect.exit(Fiber.join(fiber))
    ).pipe(Effect.ensuring(Fiber.interruptFork(fiber)))
    if (again._tag === "Failure") return signalOf(again)
    const signal: Signal =
      again.value === undefined
        ? { text: "ended as if complete", claim: undefined }
        : again.value.some((_) => _._tag === "Moved")
          ? { text: "Moved, hears again", claim: "Done" }
          : { text: "hears again, and was not told that it moved", claim: undefined }
    return signal
  }).pipe(Effect.scoped)
