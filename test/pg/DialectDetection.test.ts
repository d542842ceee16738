/** A dialect is found out once, and never remembered wrongly. */
import { assert, describe, layer } from "@effect/vitest"
import { Deferred, Effect, Fiber } from "effect"
import type { Dialect } from "effect-failover"
import * as PgStreaming from "effect-failover/dialects/PgStreaming"
import type { Cluster } from "../support/database.js"
import { clusterLayer, heal, TestCluster } from "../support/database.js"
import { ask } from "../support/dialects.js"
import { expectNothingUnhandled } from "../support/unhandled.js"

expectNothingUnhandled()

const healthy = Effect.tap(TestCluster, heal)

/** With no patterns, a global database is known by its regions: a function is called to recognise it. */
const ofOneRegion = {
  globalInstanceHostPatterns: undefined,
  instanceHostPattern: "?.eu.cluster.test:5432"
}

layer(clusterLayer({ flavor: "aurora-global" }), { excludeTestServices: true })(
  "Detection, refused",
  (it) => {
    /** The primary, whose count of regions is replaced by `body`, and then put back. */
    const whileRegionsAre = <A, E, R>(
      cluster: Cluster,
      body: string,
      use: Effect.Effect<A, E, R>
    ) => {
      const name = "pg_catalog.aurora_global_db_status"
      const change = (sql: string) =>
        Effect.flatMap(cluster.primary, (primary) =>
          cluster.query(primary, `set allow_system_table_mods = on; ${sql}`)
        )
      return Effect.acquireUseRelease(
        change(
          `alter function ${name} rename to kept;
           create function ${name}() returns setof integer language plpgsql as $$ begin ${body} end $$`
        ),
        () => use,
        () =>
          Effect.orDie(
            change(
              `drop function ${name}; alter function pg_catalog.kept rename to aurora_global_db_status`
            )
          )
      )
    }

    const raise = (state: string) => `raise exception 'not now' using errcode = '${state}';`

    for (const state of ["57014", "57P03", "53200", "40001", "55P03", "XX000"]) {
      it.scoped(`for a passing reason (${state}): nothing is decided, and it is asked again`, () =>
        Effect.gen(function* () {
          const cluster = yield* healthy
          const asked = ask(cluster, { options: ofOneRegion })
          const primary = yield* cluster.primary
          const error = yield* Effect.flip(
            whileRegionsAre(cluster, raise(state), asked.observe(primary))
          )
          assert.include(String(error), "SourceError")
          assert.deepInclude(error, { description: "not now", rejection: undefined })
          assert.strictEqual(asked.source.dialect().name, "pg")
          yield* asked.observe(primary)
          assert.strictEqual(asked.source.dialect().name, "aurora-global-pg")
        })
      )
    }

    it.scoped("by the user's own statement_timeout: likewise", () =>
      Effect.gen(function* () {
        const cluster = yield* healthy
        const primary = yield* cluster.primary
        yield* cluster.query(
          primary,
          "create role hasty login password 'hasty'; alter role hasty set statement_timeout = '200ms'"
        )
        const user = { username: "hasty", password: "hasty" }
        const asked = ask(cluster, { options: ofOneRegion, user })
        const slow = "perform pg_sleep(30);"
        const error = yield* Effect.flip(whileRegionsAre(cluster, slow, asked.observe(primary)))
        assert.include(String(error), "SourceError")
        assert.strictEqual(asked.source.dialect().name, "pg")
        yield* asked.observe(primary)
        assert.strictEqual(asked.source.dialect().name, "aurora-global-pg")
      })
    )

    for (const state of ["42883", "42P01", "3F000", "0A000"]) {
      it.scoped(`for what it is (${state}): the next dialect is taken, and remembered`, () =>
        Effect.gen(function* () {
          const cluster = yield* healthy
          const asked = ask(cluster, { options: ofOneRegion })
          const primary = yield* cluster.primary
          // Named by the pattern of the one region.
          yield* whileRegionsAre(cluster, raise(state), Effect.scoped(asked.open(primary)))
          assert.strictEqual(asked.source.dialect().name, "aurora-pg")
          yield* Effect.scoped(asked.open(primary))
          assert.strictEqual(asked.source.dialect().name, "aurora-pg")
        })
      )
    }

    it.scoped("an empty list for a moment makes no Aurora a plain PostgreSQL", () =>
      Effect.gen(function* () {
        const cluster = yield* healthy
        const asked = ask(cluster)
        const primary = yield* cluster.primary
        const list = "pg_catalog.aurora_global_db_instance_status"
        const change = (sql: string) =>
          cluster.query(primary, `set allow_system_table_mods = on; ${sql}`)
        yield* change(
          `alter function ${list} rename to kept;
           create function ${list}(out server_id text, out session_id text, out aws_region text,
             out visibility_lag_in_msec real) returns setof record
             language sql as $$ select null, null, null, null::real where false $$`
        )
        const error = yield* Effect.flip(asked.observe(primary))
        assert.include(error.description, "lists no instance yet")
        assert.strictEqual(asked.source.dialect().name, "aurora-global-pg")
        yield* change(
          `drop function ${list}; alter function pg_catalog.kept rename to aurora_global_db_instance_status`
        )
        assert.strictEqual((yield* asked.observe(primary)).role, "writer")
      })
    )
  }
)

layer(clusterLayer({ flavor: "multi-az" }), { excludeTestServices: true })(
  "Detection, not allowed",
  (it) => {
    it.scoped("what is found instead holds until the privilege is granted", () =>
      Effect.gen(function* () {
        const cluster = yield* healthy
        const primary = yield* cluster.primary
        yield* cluster.query(primary, "create role app login password 'app'")
        const asked = ask(cluster, { user: { username: "app", password: "app" } })
        // A client of such a user works, host by host.
        const before = yield* asked.observe(primary)
        assert.deepStrictEqual([before.role, before.members], ["writer", undefined])
        yield* cluster.query(
          primary,
          `grant usage on schema rds_tools to app;
           grant execute on all functions in schema rds_tools to app`
        )
        const after = yield* asked.observe(primary)
        assert.strictEqual(after.members?.length, 3)
        assert.strictEqual(asked.source.dialect().name, "multi-az-pg")
      })
    )
  }
)

layer(clusterLayer(), { excludeTestServices: true })("Detection, remembered", (it) => {
  it.scoped("once, on the first host that answers", () =>
    Effect.gen(function* () {
      const cluster = yield* healthy
      const asked = ask(cluster)
      for (const node of cluster.nodes) yield* asked.observe(node)
      const questions = asked.sent.length - cluster.nodes.length
      // Global, Aurora, Multi-AZ: no. PostgreSQL: yes. After that, one statement for each observation.
      assert.strictEqual(questions, 4)
    })
  )

  it.scoped("of two hosts that are asked at the same time, the first answer holds for both", () =>
    Effect.gen(function* () {
      const cluster = yield* healthy
      const primary = yield* cluster.primary
      const asking = yield* Deferred.make<void>()
      const gate = yield* Deferred.make<boolean>()
      const used: Array<string> = []
      const named = (name: string, detect: Effect.Effect<boolean>): Dialect.Dialect => ({
        ...PgStreaming.dialect,
        name,
        detect: () => detect,
        observe: (query, context) => {
          used.push(name)
          return PgStreaming.dialect.observe(query, context)
        }
      })
      let questions = 0
      const slow = Effect.suspend(() =>
        questions++ === 0
          ? Effect.zipRight(Deferred.succeed(asking, void 0), Deferred.await(gate))
          : Effect.succeed(false)
      )
      const asked = ask(cluster, {
        dialects: [named("slow", slow), named("quick", Effect.succeed(true))]
      })
      const first = yield* Effect.fork(asked.observe(primary))
      yield* Deferred.await(asking)
      yield* asked.observe(primary)
      yield* Deferred.succeed(gate, true)
      yield* Fiber.join(first)
      assert.deepStrictEqual(used, ["quick", "quick"])
    })
  )

  describe("in a failing cluster", () => {
    for (const which of [1, 2, 3, 4]) {
      it.scoped(`the server is killed at question ${which}: nothing is remembered`, () =>
        Effect.gen(function* () {
          const cluster = yield* healthy
          const old = yield* cluster.primary
          let questions = 0
          const asked = ask(cluster, {
            before: () =>
              Effect.suspend(() =>
                ++questions === which ? Effect.orDie(cluster.kill(old)) : Effect.void
              )
          })
          yield* Effect.flip(asked.observe(old))
          // Whatever comes next is asked from the beginning.
          const before = asked.sent.length
          const { node } = yield* cluster.promote()
          const seen = yield* asked.observe(node)
          assert.strictEqual(seen.role, "writer")
          assert.strictEqual(asked.sent.length - before, 5)
          assert.strictEqual(asked.source.dialect().name, "pg")
        })
      )
    }
  })
})
