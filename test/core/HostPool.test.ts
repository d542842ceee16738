import { assert, describe, it } from "@effect/vitest"
import {
  Cause,
  Deferred,
  Duration,
  Effect,
  Exit,
  FastCheck as fc,
  Fiber,
  FiberId,
  Scope,
  TestClock
} from "effect"
import type { Connector } from "effect-failover"
import { HostPool } from "effect-failover"
import type { FakeSession } from "./fakes.js"
import { fakeSession, host, sessionError, settle } from "./fakes.js"

const settings: HostPool.Settings = {
  maxConnections: 3,
  minConnections: 0,
  acquireTimeout: Duration.seconds(30),
  idleTimeout: Duration.minutes(10),
  connectionTTL: Duration.minutes(30)
}

/** A pool whose connections open at once, unless the test holds or fails them. */
const setup = (change?: Partial<HostPool.Settings>) =>
  Effect.gen(function* () {
    const opened: Array<FakeSession> = []
    const script: { open: Effect.Effect<void, Connector.SessionError> } = { open: Effect.void }
    const pool = yield* HostPool.make({
      host: host("a"),
      epoch: 1,
      settings: { ...settings, ...change },
      open: Effect.map(
        Effect.suspend(() => script.open),
        () => {
          const session = fakeSession()
          opened.push(session)
          return session
        }
      )
    })
    const alive = () => opened.filter((_) => _.isOpen()).length
    return { pool, opened, script, alive }
  })

const tell = <A, E>(fiber: Fiber.RuntimeFiber<A, E>) =>
  Effect.map(Fiber.await(fiber), (exit) =>
    Exit.isSuccess(exit) ? "taken" : String(Cause.squash(exit.cause))
  )

describe("taking", () => {
  it.scoped("nothing is opened before somebody takes", () =>
    Effect.gen(function* () {
      const { opened, pool } = yield* setup()
      assert.isUndefined(pool.unsafeTake())
      yield* TestClock.adjust("1 hour")
      assert.lengthOf(opened, 0)
      assert.deepStrictEqual(pool.stats(), { open: 0, idle: 0, waiting: 0 })
    })
  )

  it.scoped("a connection that was given back is taken again", () =>
    Effect.gen(function* () {
      const { opened, pool } = yield* setup()
      const first = yield* pool.take
      pool.give(first)
      assert.strictEqual(yield* pool.take, first)
      assert.lengthOf(opened, 1)
    })
  )

  it.scoped("the one given back last is taken first", () =>
    Effect.gen(function* () {
      const { pool } = yield* setup()
      const [a, b, c] = yield* Effect.all([pool.take, pool.take, pool.take])
      for (const session of [b, c, a]) pool.give(session)
      assert.deepStrictEqual([pool.unsafeTake(), pool.unsafeTake(), pool.unsafeTake()], [a, c, b])
      assert.isUndefined(pool.unsafeTake())
    })
  )

  it.scoped("never more than the maximum is open, however many take", () =>
    Effect.gen(function* () {
      const { opened, pool } = yield* setup()
      let inUse = 0
      const use = Effect.acquireUseRelease(
        pool.take,
        () =>
          Effect.sync(() => assert.isAtMost(++inUse, 3)).pipe(
            Effect.zipRight(Effect.yieldNow()),
            Effect.zipRight(Effect.sync(() => inUse--))
          ),
        (session) => Effect.sync(() => pool.give(session))
      )
      yield* Effect.replicateEffect(use, 500, { concurrency: "unbounded", discard: true })
      assert.lengthOf(opened, 3)
      assert.deepStrictEqual(pool.stats(), { open: 3, idle: 3, waiting: 0 })
    })
  )

  it.scoped("it grows by slow start: as many are opened at a time as there are", () =>
    Effect.gen(function* () {
      const { opened, pool, script } = yield* setup({ maxConnections: 10 })
      script.open = Effect.sleep("1 second")
      yield* Effect.fork(Effect.replicateEffect(pool.take, 20, { concurrency: "unbounded" }))
      const counts: Array<number> = []
      for (let i = 0; i < 6; i++) {
        yield* TestClock.adjust("1 second")
        counts.push(opened.length)
      }
      assert.deepStrictEqual(counts, [1, 2, 4, 8, 10, 10])
    })
  )

  it.scoped("who waits is served in the order of arrival", () =>
    Effect.gen(function* () {
      const { pool } = yield* setup({ maxConnections: 1 })
      const session = yield* pool.take
      const served: Array<number> = []
      yield* Effect.forEach([1, 2, 3, 4], (n) =>
        Effect.fork(Effect.map(pool.take, (_) => (served.push(n), pool.give(_))))
      )
      yield* settle
      assert.strictEqual(pool.stats().waiting, 4)
      pool.give(session)
      yield* settle
      assert.deepStrictEqual(served, [1, 2, 3, 4])
    })
  )

  it.scopedLive("ten thousand waiters are served by three connections", () =>
    Effect.gen(function* () {
      const { opened, pool } = yield* setup()
      const use = Effect.flatMap(pool.take, (session) =>
        Effect.zipRight(
          Effect.yieldNow(),
          Effect.sync(() => pool.give(session))
        )
      )
      yield* Effect.forEach(Array.from({ length: 10_000 }), () => use, {
        concurrency: "unbounded",
        discard: true
      })
      assert.lengthOf(opened, 3)
      assert.deepStrictEqual(pool.stats(), { open: 3, idle: 3, waiting: 0 })
    })
  )
})

describe("a connection that breaks", () => {
  it.scoped("while idle it is gone, and the next caller never gets it", () =>
    Effect.gen(function* () {
      const { opened, pool } = yield* setup()
      pool.give(yield* pool.take)
      opened[0]?.break()
      assert.deepStrictEqual(pool.stats(), { open: 0, idle: 0, waiting: 0 })
      assert.strictEqual(yield* pool.take, opened[1])
    })
  )

  it.scoped("while in use it is dropped when it is given back", () =>
    Effect.gen(function* () {
      const { opened, pool } = yield* setup()
      const session = yield* pool.take
      opened[0]?.break()
      pool.give(session)
      assert.deepStrictEqual(pool.stats(), { open: 0, idle: 0, waiting: 0 })
      assert.isTrue(opened[0]?.isDestroyed())
    })
  )

  it.scoped("a new one is opened for whoever waits", () =>
    Effect.gen(function* () {
      const { opened, pool } = yield* setup({ maxConnections: 1 })
      yield* pool.take
      const waiting = yield* Effect.fork(pool.take)
      yield* settle
      opened[0]?.break()
      assert.strictEqual(yield* Fiber.join(waiting), opened[1])
    })
  )

  it.scoped("a foreign connection that is given is ended", () =>
    Effect.gen(function* () {
      const { pool } = yield* setup()
      const foreign = fakeSession()
      pool.give(foreign)
      assert.isTrue(foreign.isDestroyed())
      assert.strictEqual(pool.stats().open, 0)
    })
  )

  it.scoped("many that break one after the other serve every waiter", () =>
    Effect.gen(function* () {
      const { opened, pool } = yield* setup({ maxConnections: 2 })
      yield* Effect.all([pool.take, pool.take])
      const waiting = yield* Effect.forEach(Array.from({ length: 6 }), () => Effect.fork(pool.take))
      for (let i = 0; i < 6; i++) {
        yield* settle
        opened[i]?.break()
      }
      yield* settle
      assert.deepStrictEqual(
        yield* Effect.forEach(waiting, tell),
        Array.from({ length: 6 }, () => "taken")
      )
      assert.deepStrictEqual(pool.stats(), { open: 2, idle: 0, waiting: 0 })
    })
  )
})

describe("opening fails", () => {
  it.scoped("whoever waits is told why when nothing can come back", () =>
    Effect.gen(function* () {
      const { pool, script } = yield* setup()
      script.open = Effect.fail(sessionError())
      const error = yield* Effect.flip(pool.take)
      assert.strictEqual(error._tag, "SessionError")
      assert.deepStrictEqual(pool.stats(), { open: 0, idle: 0, waiting: 0 })
    })
  )

  it.scoped("whoever waits goes on waiting while a connection is in use", () =>
    Effect.gen(function* () {
      const { pool, script } = yield* setup()
      const session = yield* pool.take
      script.open = Effect.fail(sessionError())
      const waiting = yield* Effect.fork(pool.take)
      yield* settle
      assert.strictEqual(pool.stats().waiting, 1)
      pool.give(session)
      assert.strictEqual(yield* Fiber.join(waiting), session)
    })
  )

  it.scoped("the last connection that breaks does not leave a waiter behind", () =>
    Effect.gen(function* () {
      const { opened, pool, script } = yield* setup()
      yield* pool.take
      script.open = Effect.fail(sessionError())
      const waiting = yield* Effect.fork(pool.take)
      yield* settle
      opened[0]?.break()
      assert.match(yield* tell(waiting), /SessionError/)
    })
  )

  it.scoped("a failure of one of two openings fails nobody if the other succeeds", () =>
    Effect.gen(function* () {
      const { pool, script } = yield* setup()
      const slow = yield* Deferred.make<void>()
      script.open = Deferred.await(slow)
      const first = yield* Effect.fork(pool.take)
      yield* settle
      script.open = Effect.fail(sessionError())
      const second = yield* Effect.fork(pool.take)
      yield* settle
      yield* Deferred.succeed(slow, void 0)
      pool.give(yield* Fiber.join(first))
      assert.strictEqual(yield* tell(second), "taken")
    })
  )

  it.scoped("a defect while opening fails whoever waits", () =>
    Effect.gen(function* () {
      const { pool, script } = yield* setup()
      script.open = Effect.die(new Error("a bug"))
      assert.strictEqual((yield* Effect.flip(pool.take))._tag, "SessionError")
      script.open = Effect.void
      assert.isTrue((yield* pool.take).isOpen())
    })
  )
})

describe("the time to wait", () => {
  it.scoped("each waiter has its own", () =>
    Effect.gen(function* () {
      const { pool } = yield* setup({ maxConnections: 1 })
      yield* pool.take
      const first = yield* Effect.fork(pool.take)
      yield* TestClock.adjust("10 seconds")
      const second = yield* Effect.fork(pool.take)
      yield* TestClock.adjust("20 seconds")
      assert.match(
        yield* tell(first),
        /no connection to a .*came free within 30000 ms \(1 in use\)/
      )
      assert.strictEqual(pool.stats().waiting, 1)
      yield* TestClock.adjust("10 seconds")
      assert.match(yield* tell(second), /within 30000 ms/)
    })
  )

  it.scoped("it begins anew after a pause without waiters", () =>
    Effect.gen(function* () {
      const { pool } = yield* setup({ maxConnections: 1 })
      const session = yield* pool.take
      const first = yield* Effect.fork(pool.take)
      yield* TestClock.adjust("20 seconds")
      pool.give(session)
      yield* Fiber.join(first)
      yield* TestClock.adjust("30 seconds")
      const second = yield* Effect.fork(pool.take)
      yield* TestClock.adjust("29 seconds")
      assert.strictEqual(pool.stats().waiting, 1)
      yield* TestClock.adjust("1 second")
      assert.match(yield* tell(second), /within 30000 ms/)
    })
  )

  it.scoped("a connection that comes after the last waiter gave up is kept", () =>
    Effect.gen(function* () {
      const { pool, script } = yield* setup()
      const slow = yield* Deferred.make<void>()
      script.open = Deferred.await(slow)
      const waiting = yield* Effect.fork(pool.take)
      yield* TestClock.adjust("30 seconds")
      assert.match(yield* tell(waiting), /came free/)
      yield* Deferred.succeed(slow, void 0)
      yield* settle
      assert.deepStrictEqual(pool.stats(), { open: 1, idle: 1, waiting: 0 })
    })
  )
})

describe("lifetimes", () => {
  it.scoped("a connection past its lifetime is replaced", () =>
    Effect.gen(function* () {
      const { opened, pool } = yield* setup({ idleTimeout: Duration.hours(2) })
      pool.give(yield* pool.take)
      yield* TestClock.adjust("31 minutes")
      assert.isFalse(opened[0]?.isOpen())
      assert.strictEqual(yield* pool.take, opened[1])
    })
  )

  it.scoped("a connection in use past its lifetime ends when it is given back", () =>
    Effect.gen(function* () {
      const { opened, pool } = yield* setup()
      const session = yield* pool.take
      yield* TestClock.adjust("31 minutes")
      assert.isTrue(session.isOpen())
      pool.give(session)
      assert.isFalse(opened[0]?.isOpen())
    })
  )

  it.scoped("idle connections beyond the minimum end, the minimum stays", () =>
    Effect.gen(function* () {
      const { alive, pool } = yield* setup({ minConnections: 1 })
      const sessions = yield* Effect.all([pool.take, pool.take, pool.take])
      for (const session of sessions) pool.give(session)
      yield* TestClock.adjust("9 minutes")
      assert.strictEqual(alive(), 3)
      yield* TestClock.adjust("7 minutes")
      assert.strictEqual(alive(), 1)
      assert.deepStrictEqual(pool.stats(), { open: 1, idle: 1, waiting: 0 })
    })
  )

  it.scoped("the minimum is replaced when it comes of age", () =>
    Effect.gen(function* () {
      const { alive, opened, pool } = yield* setup({ minConnections: 2 })
      const sessions = yield* Effect.all([pool.take, pool.take])
      for (const session of sessions) pool.give(session)
      yield* TestClock.adjust("40 minutes")
      assert.isAbove(opened.length, 2)
      assert.strictEqual(alive(), 2)
    })
  )

  it.scoped("a connection that is used now and then does not grow idle", () =>
    Effect.gen(function* () {
      const { opened, pool } = yield* setup()
      pool.give(yield* pool.take)
      for (let minute = 0; minute < 24; minute += 6) {
        yield* TestClock.adjust("6 minutes")
        pool.give(yield* pool.take)
      }
      assert.lengthOf(opened, 1)
    })
  )
})

describe("the cut", () => {
  it.scoped("ends what is idle and what is in use", () =>
    Effect.gen(function* () {
      const { alive, pool } = yield* setup()
      const [a] = yield* Effect.all([pool.take, pool.take])
      pool.give(a)
      pool.cut()
      assert.strictEqual(alive(), 0)
      assert.isTrue(pool.isCut())
      assert.deepStrictEqual(pool.stats(), { open: 0, idle: 0, waiting: 0 })
    })
  )

  it.scoped("fails whoever waits, and whoever comes after", () =>
    Effect.gen(function* () {
      const { pool } = yield* setup({ maxConnections: 1 })
      yield* pool.take
      const waiting = yield* Effect.fork(Effect.flip(pool.take))
      yield* settle
      pool.cut()
      const errors = [yield* Fiber.join(waiting), yield* Effect.flip(pool.take)]
      for (const error of errors) {
        assert(error._tag === "SessionError")
        assert.strictEqual(error.fate, "NotSent")
        assert.instanceOf(error.cause, HostPool.PoolCut)
      }
    })
  )

  it.scoped("a connection that arrives after the cut is ended", () =>
    Effect.gen(function* () {
      const { alive, opened, pool, script } = yield* setup()
      const slow = yield* Deferred.make<void>()
      script.open = Deferred.await(slow)
      yield* Effect.fork(pool.take)
      yield* settle
      pool.cut()
      yield* Deferred.succeed(slow, void 0)
      yield* settle
      assert.isAtMost(opened.length, 1)
      assert.strictEqual(alive(), 0)
    })
  )

  it.scoped("a connection that is given back after the cut is ended", () =>
    Effect.gen(function* () {
      const { pool } = yield* setup()
      const session = yield* pool.take
      pool.cut()
      pool.give(session)
      assert.isFalse(session.isOpen())
      assert.deepStrictEqual(pool.stats(), { open: 0, idle: 0, waiting: 0 })
    })
  )

  it.effect("comes with the end of the scope, also of one that is opening", () =>
    Effect.gen(function* () {
      const scope = yield* Scope.make()
      const { alive, opened, pool, script } = yield* setup().pipe(Scope.extend(scope))
      yield* pool.take
      script.open = Effect.never
      const waiting = yield* Effect.fork(pool.take)
      yield* settle
      yield* Scope.close(scope, Exit.void)
      assert.match(yield* tell(waiting), /SessionError/)
      assert.lengthOf(opened, 1)
      assert.strictEqual(alive(), 0)
    })
  )
})

describe("warming", () => {
  it.scoped("has one idle connection afterwards", () =>
    Effect.gen(function* () {
      const { pool } = yield* setup()
      yield* pool.warm
      assert.deepStrictEqual(pool.stats(), { open: 1, idle: 1, waiting: 0 })
    })
  )

  it.scoped("serves whoever waits", () =>
    Effect.gen(function* () {
      const { pool, script } = yield* setup()
      script.open = Effect.never
      const waiting = yield* Effect.fork(pool.take)
      yield* settle
      script.open = Effect.void
      yield* pool.warm
      assert.strictEqual(yield* tell(waiting), "taken")
    })
  )

  it.scoped("fails with what the host said", () =>
    Effect.gen(function* () {
      const { pool, script } = yield* setup()
      script.open = Effect.fail(sessionError("no"))
      assert.strictEqual((yield* Effect.flip(pool.warm)).cause, "no")
    })
  )

  it.scoped("never opens more than the maximum", () =>
    Effect.gen(function* () {
      const { alive, pool } = yield* setup({ maxConnections: 2 })
      yield* Effect.all([pool.take, pool.take])
      yield* Effect.ignore(pool.warm)
      assert.strictEqual(alive(), 2)
    })
  )

  it.effect("interrupted at any moment it leaks nothing", () =>
    Effect.gen(function* () {
      for (let moment = 0; moment < 60; moment++) {
        yield* Effect.scoped(
          Effect.gen(function* () {
            const { alive, pool, script } = yield* setup({ maxConnections: 1 })
            script.open = Effect.yieldNow()
            const warming = yield* Effect.fork(pool.warm)
            yield* Effect.yieldNow().pipe(Effect.repeatN(moment))
            yield* Fiber.interrupt(warming)
            const { idle, open } = pool.stats()
            assert.deepStrictEqual(
              [open, alive()],
              [idle, idle],
              `interrupted after ${moment} steps`
            )
          })
        )
      }
    })
  )
})

describe("interruption", () => {
  it.effect("of a waiter at any moment leaks nothing", () =>
    Effect.gen(function* () {
      for (let moment = 0; moment < 60; moment++) {
        yield* Effect.scoped(
          Effect.gen(function* () {
            const { pool } = yield* setup({ maxConnections: 1 })
            const session = yield* pool.take
            const use = Effect.acquireUseRelease(
              Effect.interruptible(pool.take),
              () => Effect.never,
              (_) => Effect.sync(() => pool.give(_))
            )
            const waiting = yield* Effect.fork(use)
            yield* settle
            pool.give(session)
            yield* Effect.yieldNow().pipe(Effect.repeatN(moment))
            yield* Fiber.interrupt(waiting)
            assert.deepStrictEqual(
              pool.stats(),
              { open: 1, idle: 1, waiting: 0 },
              `interrupted after ${moment} steps`
            )
          })
        )
      }
    })
  )

  const index = fc.nat(5)
  const anyStep = fc.oneof(
    { weight: 5, arbitrary: fc.constant({ do: "take" as const, at: 0 }) },
    { weight: 4, arbitrary: index.map((at) => ({ do: "interrupt" as const, at })) },
    { weight: 4, arbitrary: index.map((at) => ({ do: "release" as const, at })) },
    { weight: 4, arbitrary: index.map((at) => ({ do: "opened" as const, at })) },
    { weight: 2, arbitrary: index.map((at) => ({ do: "refused" as const, at })) },
    { weight: 2, arbitrary: index.map((at) => ({ do: "break" as const, at })) },
    { weight: 1, arbitrary: fc.constant({ do: "warm" as const, at: 0 }) },
    { weight: 4, arbitrary: fc.nat(6).map((at) => ({ do: "turn" as const, at })) }
  )

  it.scopedLive.prop(
    "whatever the schedule: what is open is pooled, and nobody waits in the end",
    [fc.array(anyStep, { minLength: 5, maxLength: 60 })],
    ([steps]) =>
      Effect.scoped(
        Effect.gen(function* () {
          const sessions: Array<FakeSession> = []
          const openings: Array<Deferred.Deferred<void, Connector.SessionError>> = []
          const pool = yield* HostPool.make({
            host: host("a"),
            epoch: 1,
            settings,
            open: Effect.suspend(() => {
              const opening = Deferred.unsafeMake<void, Connector.SessionError>(FiberId.none)
              openings.push(opening)
              return Effect.map(Deferred.await(opening), () => {
                const session = fakeSession()
                sessions.push(session)
                return session
              })
            })
          })
          const fibers: Array<Fiber.RuntimeFiber<unknown, unknown>> = []
          const releases: Array<Deferred.Deferred<void>> = []
          const user = Effect.suspend(() => {
            const release = Deferred.unsafeMake<void>(FiberId.none)
            releases.push(release)
            return Effect.acquireUseRelease(
              Effect.interruptible(pool.take),
              () => Deferred.await(release),
              (session) => Effect.sync(() => pool.give(session))
            )
          })
          for (const step of steps) {
            const { at } = step
            switch (step.do) {
              case "take":
                fibers.push(yield* Effect.fork(user))
                break
              case "warm":
                fibers.push(yield* Effect.fork(Effect.ignore(pool.warm)))
                break
              case "interrupt":
                fibers.splice(at, 1)[0]?.unsafeInterruptAsFork(FiberId.none)
                break
              case "release":
                releases.splice(at, 1).forEach((_) => Deferred.unsafeDone(_, Effect.void))
                break
              case "opened":
                openings.splice(at, 1).forEach((_) => Deferred.unsafeDone(_, Effect.void))
                break
              case "refused":
                openings
                  .splice(at, 1)
                  .forEach((_) => Deferred.unsafeDone(_, Effect.fail(sessionError())))
                break
              case "break":
                sessions[at]?.break()
                break
              case "turn":
                yield* Effect.yieldNow().pipe(Effect.repeatN(at))
                break
            }
            assert.isAtMost(sessions.filter((_) => _.isOpen()).length, settings.maxConnections)
          }
          for (let quiet = 0; quiet < 3; quiet++) {
            if (releases.length + openings.length > 0) quiet = 0
            releases.splice(0).forEach((_) => Deferred.unsafeDone(_, Effect.void))
            openings.splice(0).forEach((_) => Deferred.unsafeDone(_, Effect.void))
            yield* Effect.yieldNow().pipe(Effect.repeatN(20))
          }
          const open = sessions.filter((_) => _.isOpen()).length
          assert.deepStrictEqual(pool.stats(), { open, idle: open, waiting: 0 })
        })
      ),
    { fastCheck: { numRuns: 300 } }
  )
})
