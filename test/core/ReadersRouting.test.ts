/** A statement takes the word of `onReader` and `onWriter` with it; it means the same as a scope around it. */
import { Statement } from "@effect/sql"
import { assert, describe } from "@effect/vitest"
import { Effect, Stream } from "effect"
import { Failover } from "effect-failover"
import type { Seen } from "./readersWorld.js"
import { test } from "./readersWorld.js"

const READER = ["db-2"]
const WRITER = ["db-1"]
const hosts = ["db-1", "db-2"]

const hostOf = <E, R>(rows: Effect.Effect<ReadonlyArray<Seen>, E, R>) =>
  Effect.map(rows, (_) => _.map(({ host }) => host))

describe("a single statement", () => {
  test("goes where it says, and only it", { hosts }, ({ sql }) =>
    Effect.gen(function* () {
      const statement = sql<Seen>`SELECT ${1}`
      assert.deepStrictEqual(yield* hostOf(Failover.onReader(statement)), READER)
      assert.deepStrictEqual(yield* hostOf(statement.pipe(Failover.onReader())), READER)
      assert.deepStrictEqual(yield* hostOf(statement), WRITER)
      assert.deepStrictEqual(yield* hostOf(Failover.onWriter(statement)), WRITER)
      assert.deepStrictEqual(
        yield* hostOf(sql.unsafe<Seen>("SELECT 1").pipe(Failover.onReader())),
        [...READER]
      )
    })
  )

  test("the innermost word counts, as with scopes", { hosts }, ({ sql }) =>
    Effect.gen(function* () {
      const statement = sql<Seen>`SELECT 1`
      const onReader = Failover.onReader(statement)
      const onWriter = Failover.onWriter(statement)
      assert.deepStrictEqual(yield* hostOf(Failover.onWriter(onReader)), READER)
      assert.deepStrictEqual(yield* hostOf(Failover.onReader(onWriter)), WRITER)
      const scoped = Failover.onReader(Effect.suspend(() => onWriter))
      assert.deepStrictEqual(yield* hostOf(scoped), WRITER)
      const inScope = Failover.onReader(Effect.suspend(() => statement))
      assert.deepStrictEqual(yield* hostOf(inScope), READER)
    })
  )

  test("stays in its transaction", { hosts }, ({ sql }) =>
    Effect.gen(function* () {
      const inside = sql.withTransaction(hostOf(Failover.onReader(sql<Seen>`SELECT 1`)))
      assert.deepStrictEqual(yield* inside, WRITER)
      assert.deepStrictEqual(
        yield* Failover.onReader(
          sql.withTransaction(hostOf(Failover.onWriter(sql<Seen>`SELECT 1`)))
        ),
        READER
      )
    })
  )

  test("goes there with a transformer in place, too", { hosts }, ({ sql }) =>
    Effect.gen(function* () {
      const seen = yield* hostOf(Failover.onReader(sql<Seen>`SELECT 1`)).pipe(
        Statement.withTransformer((self) => Effect.succeed(self))
      )
      assert.deepStrictEqual(seen, READER)
    })
  )

  test("its values and its stream go there in a scope", { hosts }, ({ sql }) =>
    Effect.gen(function* () {
      const statement = sql<Seen>`SELECT 1`
      const values = yield* Failover.onReader(statement.values)
      assert.include<unknown>(values[0], "db-2")
      const streamed = yield* Stream.runCollect(statement.stream).pipe(Failover.onReader())
      assert.deepStrictEqual(
        [...streamed].map(({ host }) => host),
        READER
      )
      const raw = yield* hostOf(Failover.onReader(statement.withoutTransform))
      assert.deepStrictEqual(raw, READER)
    })
  )
})
