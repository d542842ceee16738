/** Where everybody reports what happened, and where the display looks. */
import { Context, Effect } from "effect"
import type { Flavor } from "effect-failover/testing/PostgresCluster"
import * as Model from "./model.js"
import * as Time from "./time.js"

export interface Change {
  readonly event: Model.Event
  readonly before: Model.Model
  readonly after: Model.Model
}

export interface Board {
  readonly model: Effect.Effect<Model.Model>
  /** `at` is when it happened, where that is known better than now. */
  readonly report: (event: Model.Event, at?: number) => Effect.Effect<void>
}

export const Board = Context.GenericTag<Board>("effect-failover/demo/Board")

export const make = (options: {
  readonly flavor: Flavor
  readonly onChange: (change: Change) => Effect.Effect<void>
}): Effect.Effect<Board> =>
  Effect.map(Time.now, (start) => {
    let model = Model.initial(options.flavor, start)
    return Board.of({
      model: Effect.map(Time.now, (now) => ({ ...model, now })),
      report: (event, at) =>
        Effect.flatMap(Time.now, (now) => {
          const before = model
          model = Model.reduce(before, event, at ?? now, now)
          return options.onChange({ event, before, after: model })
        })
    })
  })
