/** The table in `dialects/PgTransactionStatus`, row by row, from what the servers say. */
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import * as PgTransactionStatus from "effect-failover/dialects/PgTransactionStatus"

/** What the new writer says. */
interface Says {
  readonly timeline: number
  readonly sameStart?: boolean
  readonly forgotten?: boolean
  readonly reached?: boolean | null
  /** It has been running since before the mark was written. */
  readonly older?: boolean | null
  readonly status?: string | null
}

const hex = (timeline: number) => timeline.toString(16).toUpperCase().padStart(8, "0")

/** A transaction on timeline 9 (the next one is `0000000A`), which wrote something. */
const resolve = (says: Says) =>
  Effect.gen(function* () {
    const asked = yield* PgTransactionStatus.resolution.mark(() =>
      Effect.succeed([
        ["750", "0/3000148", hex(9), "2026-01-01 00:00:00+00", "2026-01-02 00:00:00+00"]
      ])
    )
    return yield* asked(() =>
      Effect.succeed([
        [
          hex(says.timeline),
          says.sameStart ?? false,
          says.forgotten ?? false,
          says.reached ?? null,
          says.older ?? true,
          says.status ?? null
        ]
      ])
    )
  })

const table: ReadonlyArray<readonly [name: string, says: Says, answer: string]> = [
  ["same server: committed", { timeline: 9, sameStart: true, status: "committed" }, "Committed"],
  ["same server: aborted", { timeline: 9, sameStart: true, status: "aborted" }, "RolledBack"],
  [
    "same server: still at it",
    { timeline: 9, sameStart: true, status: "in progress" },
    "InProgress"
  ],
  ["same server: too old to be known", { timeline: 9, sameStart: true, status: null }, "Unknown"],
  ["restarted, mark there", { timeline: 9, reached: true, status: "committed" }, "Committed"],
  [
    "restarted, mark there, no COMMIT",
    { timeline: 9, reached: true, status: "aborted" },
    "RolledBack"
  ],
  ["restarted, mark lost", { timeline: 9, reached: false }, "RolledBack"],
  [
    "restarted after a clean stop",
    { timeline: 9, forgotten: true, status: "committed" },
    "Committed"
  ],
  ["promoted, mark there", { timeline: 10, reached: true, status: "committed" }, "Committed"],
  [
    "promoted, mark there, no COMMIT",
    { timeline: 10, reached: true, status: "aborted" },
    "RolledBack"
  ],
  ["promoted, mark lost", { timeline: 10, reached: false }, "RolledBack"],
  [
    "promoted, and has forgotten: the status is not believed",
    { timeline: 10, forgotten: true, status: "committed" },
    "Unknown"
  ],
  [
    "promoted and restarted since: its position is not believed",
    { timeline: 10, reached: true, older: false, status: "committed" },
    "Unknown"
  ],
  [
    "promoted and restarted since, mark lost",
    { timeline: 10, reached: false, older: false },
    "RolledBack"
  ],
  ["two promotions: not believed", { timeline: 11, reached: true, status: "committed" }, "Unknown"],
  ["two promotions, mark lost", { timeline: 11, reached: false }, "Unknown"],
  [
    "an older timeline: not believed",
    { timeline: 8, reached: true, status: "committed" },
    "Unknown"
  ]
]

describe("the transaction's status", () => {
  for (const [name, says, answer] of table) {
    it.effect(`${name}: ${answer}`, () =>
      Effect.map(resolve(says), (resolution) => assert.strictEqual(resolution, answer))
    )
  }

  it.effect("of a transaction that wrote nothing: nothing is lost, and nobody is asked", () =>
    Effect.gen(function* () {
      const asked = yield* PgTransactionStatus.resolution.mark(() =>
        Effect.succeed([[null, null, hex(1), "2026-01-01 00:00:00+00", "2026-01-02 00:00:00+00"]])
      )
      const resolution = yield* asked(() => Effect.die("asked"))
      assert.strictEqual(resolution, "Committed")
    })
  )

  it.effect("is unknown where the server answers with no row", () =>
    Effect.gen(function* () {
      const asked = yield* PgTransactionStatus.resolution.mark(() =>
        Effect.succeed([
          ["750", "0/3000148", hex(1), "2026-01-01 00:00:00+00", "2026-01-02 00:00:00+00"]
        ])
      )
      assert.strictEqual(yield* asked(() => Effect.succeed([])), "Unknown")
    })
  )
})
