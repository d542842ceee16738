/** The checker of what callers were told finds every lie. */
import { SqlError } from "@effect/sql"
import { assert, describe, it } from "@effect/vitest"
import { Duration, Effect, Exit } from "effect"
import { Errors, Host } from "effect-failover"
import { History } from "../../chaos/history.js"

const host = Host.make({ host: "db-1", port: 5432 })

const sqlError = (cause: unknown) => new SqlError.SqlError({ cause, message: "" })

const failed = (outcome: Errors.Outcome) =>
  sqlError(new Errors.StatementTimeout({ host, timeout: Duration.zero, outcome }))

/** One caller who was told this of rows that are there so often. */
const lies = (
  told: Exit.Exit<unknown, unknown>,
  counts: ReadonlyArray<number>,
  never: ReadonlyArray<number> = []
): ReadonlyArray<string> => {
  const history = new History()
  const ids = counts.map(() => history.id())
  const undone = never.map(() => history.id())
  Effect.runSync(history.record({ kind: "work", ids, never: undone, run: told }))
  const rows = new Map([...ids, ...undone].map((id, i) => [id, [...counts, ...never][i] ?? 0]))
  return history.violations(rows)
}

const done = Exit.succeed("done")

describe("History", () => {
  it("believes the truth", () => {
    assert.deepStrictEqual(lies(done, [1]), [])
    assert.deepStrictEqual(lies(done, [1, 1, 1], [0]), [])
    assert.deepStrictEqual(lies(Exit.fail(failed("NotExecuted")), [0]), [])
    assert.deepStrictEqual(lies(Exit.fail(failed("RolledBack")), [0, 0]), [])
    for (const n of [0, 1]) assert.deepStrictEqual(lies(Exit.fail(failed("Unknown")), [n, n]), [])
  })

  it("finds an acknowledged write that is not there, or there twice", () => {
    assert.lengthOf(lies(done, [0]), 1)
    assert.lengthOf(lies(done, [2]), 1)
  })

  it("finds a write that is there although it was told not to have been executed", () => {
    assert.lengthOf(lies(Exit.fail(failed("NotExecuted")), [1]), 1)
    assert.lengthOf(lies(Exit.fail(failed("RolledBack")), [1, 1]), 1)
  })

  it("finds an unknown write that is there twice", () => {
    assert.lengthOf(lies(Exit.fail(failed("Unknown")), [2]), 1)
  })

  it("finds half of a transaction", () => {
    assert.lengthOf(lies(done, [1, 0]), 1)
    assert.lengthOf(lies(Exit.fail(failed("Unknown")), [1, 0]), 1)
  })

  it("finds a write that its caller undid", () => {
    assert.lengthOf(lies(done, [1], [1]), 1)
  })

  it("finds a defect, and an error that claims nothing", () => {
    assert.lengthOf(lies(Exit.die("a defect"), [0]), 1)
    assert.lengthOf(lies(Exit.fail("untyped"), [0]), 1)
    assert.lengthOf(lies(Exit.fail(sqlError(new Error("no SQLSTATE"))), [0]), 1)
  })

  it("finds a row that nobody wrote", () => {
    assert.lengthOf(new History().violations(new Map([[99, 1]])), 1)
  })
})
