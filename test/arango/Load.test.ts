/** Failures under load, and what everybody was told: against the double's log, which knows. */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber, Random } from "effect"
import * as ArangoDouble from "effect-failover/testing/ArangoDouble"
import { collection, connect, transports } from "./support.js"
import { load } from "./history.js"

const { Fault } = ArangoDouble

const isWrite = (_: { readonly method: string }) => _.method === "POST"

const two = (double: ArangoDouble.ArangoDouble) => {
  const [a, b] = double.nodes
  if (b === undefined) throw new Error("two nodes were asked for")
  return [a, b] as const
}

for (const [name, transport] of Object.entries(transports)) {
  for (const synchronize of [true, false]) {
    const how = synchronize ? "watching the servers" : "by their answers alone"
    describe(`over ${name}, ${how}`, () => {
      it.scopedLive("leader killed, follower promoted after 600 ms: nothing unwritten fails", () =>
        Effect.gen(function* () {
          const double = yield* ArangoDouble.make({ nodes: 2 })
          yield* collection(double)
          const [leader] = two(double)
          const { client } = yield* connect(double.endpoints, { synchronize }, transport)
          const { end, history } = yield* load(double, client, 32)
          // Some are under way, executed or not, when it dies.
          yield* double.setFault(leader, Fault.Slow({ duration: "5 millis" }), { when: isWrite })
          yield* history.acknowledged(50)
          yield* double.kill(leader)
          yield* double.elect({ after: "600 millis", challenge: "300 millis" })
          yield* history.acknowledged(100)
          yield* double.setFault(leader, Fault.None())
          yield* double.restart(leader)
          yield* history.acknowledged(100)
          yield* end
          assert.strictEqual(history.count("NotExecuted"), 0)
          assert.strictEqual(history.count("untyped"), 0)
          assert.isAtMost(history.count("Unknown"), 32)
        })
      )

      it.scopedLive("leader hung, follower promoted after 600 ms: the same", () =>
        Effect.gen(function* () {
          const double = yield* ArangoDouble.make({ nodes: 2 })
          yield* collection(double)
          const [leader, follower] = two(double)
          const { client } = yield* connect(
            double.endpoints,
            { synchronize, timeout: "2 seconds" },
            transport
          )
          const { end, history } = yield* load(double, client, 16)
          yield* double.setFault(leader, Fault.HangInsteadOfReply())
          yield* Effect.delay(double.promote(follower), "600 millis")
          yield* double.setMode(leader, "follower")
          yield* history.acknowledged(100)
          yield* end
          assert.strictEqual(history.count("NotExecuted"), 0)
          assert.isAtMost(history.count("Unknown"), 16)
        })
      )
    })
  }
}

describe("one thing after the other", () => {
  const faults = [
    Fault.ResetOnConnect(),
    Fault.ResetBeforeBody(),
    Fault.ResetBeforeExecution(),
    Fault.DropReply(),
    Fault.CloseInsteadOfReply(),
    Fault.HalfReply(),
    Fault.HangBeforeExecution(),
    Fault.HangInsteadOfReply(),
    Fault.Answer({ status: 503, errorNum: 21003 })
  ]

  for (const seed of ["1", "2", "3"]) {
    it.scopedLive(`seed ${seed}: faults and changes of the leader in any order`, () =>
      Effect.gen(function* () {
        const double = yield* ArangoDouble.make({ nodes: 3 })
        yield* collection(double)
        const { client } = yield* connect(double.endpoints, {
          timeout: "2 seconds",
          failoverTimeout: "2 seconds"
        })
        const { end, history } = yield* load(double, client, 12)
        for (let i = 0; i < 25; i++) {
          const leader = (yield* double.leader) ?? double.nodes[0]
          const choice = yield* Random.nextIntBetween(0, faults.length + 3)
          const fault = faults[choice]
          if (fault !== undefined) {
            yield* double.setFault(leader, fault, { times: 3, when: isWrite })
          } else {
            yield* double.kill(leader)
            const elected = yield* Effect.fork(double.elect({ after: "40 millis" }))
            yield* Effect.sleep("20 millis")
            yield* Fiber.join(elected)
            yield* double.setFault(leader, Fault.None())
            yield* double.restart(leader)
          }
          yield* Effect.sleep("20 millis")
        }
        yield* Effect.forEach(double.nodes, (node) => double.setFault(node, Fault.None()))
        yield* history.acknowledged(50)
        yield* end
        assert.strictEqual(history.count("untyped"), 0)
      }).pipe(Effect.withRandom(Random.make(seed)))
    )
  }
})
