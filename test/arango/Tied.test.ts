/** Requests that are aborted in the caller's own fiber: what Node's clients must do for it, and what is theirs otherwise. */
import { HttpClient, HttpClientRequest } from "@effect/platform"
import { assert, describe, it } from "@effect/vitest"
import { Deferred, Effect, Fiber, Layer, Stream } from "effect"
import * as Http from "node:http"
import type { AddressInfo } from "node:net"
import * as Arango from "effect-failover/layers/Arango"
import * as Tied from "../../src/internal/arango/tied.js"
import { within } from "../support/waiting.js"
import { connect, failure, transports } from "./support.js"

/** Answers `/whole` at once, the others with the beginning of a body or not at all. */
const server = Effect.gen(function* () {
  const asked = yield* Deferred.make<void>()
  const closed = yield* Deferred.make<void>()
  const { port } = yield* Effect.acquireRelease(
    Effect.async<{ readonly port: number; readonly stop: () => void }>((resume) => {
      const listener = Http.createServer((request, response) => {
        if (request.url === "/whole") {
          response.end("whole")
          return
        }
        response.on("close", () => Deferred.unsafeDone(closed, Effect.void))
        if (request.url === "/part") response.write("part")
        Deferred.unsafeDone(asked, Effect.void)
      })
      listener.listen(0, "127.0.0.1", () => {
        const { port } = listener.address() as AddressInfo
        resume(
          Effect.succeed({
            port,
            stop: () => {
              listener.close()
              listener.closeAllConnections()
            }
          })
        )
      })
    }),
    ({ stop }) => Effect.sync(stop)
  )
  return {
    url: `http://127.0.0.1:${port}`,
    asked: Deferred.await(asked),
    closed: within("the request to be given up")(Deferred.await(closed))
  }
})

for (const [name, transport] of Object.entries(transports)) {
  describe(`over ${name}`, () => {
    it.scopedLive("the client takes our controller for its own: aborted, the request ends", () =>
      Effect.gen(function* () {
        const { asked, closed, url } = yield* server
        const client = yield* Effect.provide(HttpClient.HttpClient, yield* Layer.build(transport))
        const tie = new Tied.Tie()
        const fiber = yield* Effect.fork(
          Effect.either(Tied.execute(client, HttpClientRequest.get(url), tie))
        )
        yield* asked
        assert.isTrue(tie.isUsed)
        tie.abort()
        assert.strictEqual((yield* Fiber.join(fiber))._tag, "Left")
        yield* closed
      })
    )

    const reads: Record<
      string,
      (
        client: HttpClient.HttpClient,
        began: Effect.Effect<unknown>
      ) => Effect.Effect<unknown, unknown>
    > = {
      text: (client, began) =>
        Effect.flatMap(client.get("/part"), (_) => Effect.zipRight(began, _.text)),
      stream: (client, began) =>
        Effect.flatMap(client.get("/part"), (_) =>
          Effect.zipRight(began, Stream.runDrain(_.stream))
        ),
      answer: (client, began) =>
        Effect.raceFirst(client.get("/nothing"), Effect.zipRight(began, Effect.never))
    }
    for (const [what, read] of Object.entries(reads)) {
      it.scopedLive(`interrupted while its ${what} is waited for, the request is given up`, () =>
        Effect.gen(function* () {
          const { asked, closed, url } = yield* server
          const { client } = yield* connect([url], {}, transport)
          // From the second request on, nobody needs a fiber.
          for (let i = 0; i < 2; i++) {
            const response = yield* client.get("/whole")
            assert.strictEqual(yield* response.text, "whole")
          }
          const began = yield* Deferred.make<void>()
          const fiber = yield* Effect.fork(read(client, Deferred.succeed(began, undefined)))
          yield* Effect.zipRight(asked, Deferred.await(began))
          yield* Fiber.interrupt(fiber)
          yield* closed
        })
      )
    }

    it.scopedLive("a client that changes requests keeps to their time, too", () =>
      Effect.gen(function* () {
        const { closed, url } = yield* server
        const client = yield* Effect.provide(HttpClient.HttpClient, yield* Layer.build(transport))
        const changing = HttpClient.mapRequest(client, HttpClientRequest.setHeader("x-app", "1"))
        const over = yield* Arango.transform(changing, { endpoints: url, synchronize: false })
        for (let i = 0; i < 2; i++) {
          const response = yield* over.get("/whole")
          assert.strictEqual(yield* response.text, "whole")
        }
        const error = yield* failure(Arango.withTimeout(over.get("/nothing"), "50 millis"))
        assert.deepInclude(error, { _tag: "RequestUnanswered", timedOut: true })
        yield* closed
      })
    )
  })
}
