/**
 * The client over real servers, in containers: opt-in, by the image's name in the environment.
 *
 *   EFFECT_FAILOVER_ARANGO_311_IMAGE=arangodb:3.11   Active Failover (removed in 3.12)
 *   EFFECT_FAILOVER_ARANGO_312_IMAGE=arangodb:3.12   the coordinators of a cluster
 *
 * The servers name each other by names of their own network: the client translates them.
 */
import { HttpBody, type HttpClient } from "@effect/platform"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Either, type Scope } from "effect"
import { it as plain } from "vitest"
import { outcomeOf } from "../../../src/internal/outcomes.js"
import { eventually } from "../../support/waiting.js"
import { connect } from "../support.js"
import * as Docker from "./docker.js"

/** Images are loaded, servers start, agencies elect. */
const TIMEOUT = 300_000

/** The reason of a skipped test is heard only outside of an Effect. */
const withImage = (
  title: string,
  variable: string,
  test: (image: string) => Effect.Effect<void, unknown, Scope.Scope>
) => {
  const image = process.env[variable]
  if (image === undefined) plain(title, (ctx) => ctx.skip(`not run: ${variable} names no image`))
  else it.scopedLive(title, () => test(image), TIMEOUT)
}

const agencyArgs = (name: string) => [
  ...["--agency.activate", "true", "--agency.size", "1", "--agency.supervision", "true"],
  ...["--agency.supervision-frequency", "0.5", "--agency.supervision-grace-period", "2.5"],
  ...["--agency.my-address", `tcp://${name}:8529`, "--agency.endpoint", `tcp://${name}:8529`]
]

const memberArgs = (role: string, name: string) => [
  ...["--cluster.my-role", role, "--cluster.my-address", `tcp://${name}:8529`],
  ...["--cluster.agency-endpoint", "tcp://agent:8529"]
]

const translator =
  (containers: ReadonlyArray<readonly [string, Docker.Container]>) => (endpoint: string) =>
    containers.find(([name]) => endpoint.includes(`//${name}:`))?.[1].url ?? endpoint

const collection = (client: HttpClient.HttpClient) =>
  client.post("/_api/collection", { body: HttpBody.unsafeJson({ name: "items" }) })

/** Writes until it is ended, and gives each id with what was told of it. */
const load = (client: HttpClient.HttpClient) =>
  Effect.gen(function* () {
    const told = new Map<number, string>()
    let next = 1
    let stopped = false
    const write = Effect.suspend(() => {
      const id = next++
      return client.post("/_api/document/items", { body: HttpBody.unsafeJson({ id }) }).pipe(
        Effect.either,
        Effect.map((result) =>
          told.set(
            id,
            Either.match(result, {
              onLeft: (error) => outcomeOf(error) ?? error.message,
              onRight: ({ status }) => (status < 300 ? "acknowledged" : `status ${status}`)
            })
          )
        )
      )
    })
    const writer = Effect.whileLoop({ while: () => !stopped, body: () => write, step: () => {} })
    const fiber = yield* Effect.forkScoped(
      Effect.all(
        Array.from({ length: 8 }, () => writer),
        { concurrency: "unbounded" }
      )
    )
    const acknowledged = () => [...told.values()].filter((_) => _ === "acknowledged").length
    const more = (n: number) =>
      Effect.suspend(() => {
        const goal = acknowledged() + n
        return eventually(
          `${n} more writes`,
          Effect.sync(() => acknowledged() >= goal)
        )
      })
    const end = Effect.suspend(() => {
      stopped = true
      return Effect.as(fiber.await, told)
    })
    return { more, end }
  })

const counts = (client: HttpClient.HttpClient) =>
  Effect.gen(function* () {
    const response = yield* client.post("/_api/cursor", {
      body: HttpBody.unsafeJson({
        query: "FOR i IN items COLLECT id = i.id WITH COUNT INTO n RETURN [id, n]",
        batchSize: 1_000_000
      })
    })
    const { result }: any = yield* response.json
    return new Map<number, number>(result)
  })

describe("real servers", () => {
  withImage(
    "Active Failover (3.11): the leader is killed under load",
    "EFFECT_FAILOVER_ARANGO_311_IMAGE",
    (image) =>
      Effect.gen(function* () {
        const network = yield* Docker.network
        const server = (name: string, args: ReadonlyArray<string>) =>
          Docker.arangod({ image, network, name, args })
        const agent = yield* server("agent", agencyArgs("agent"))
        yield* Docker.available(agent.url, "/_api/version")
        const single = (name: string) =>
          server(name, [
            ...memberArgs("SINGLE", name),
            ...["--replication.active-failover", "true"]
          ])
        const one = yield* single("one")
        yield* Docker.available(one.url)
        const two = yield* single("two")
        yield* Docker.available(two.url, "/_api/version")
        const { client } = yield* connect([two.url, one.url], {
          synchronize: true,
          translateEndpoint: translator([
            ["one", one],
            ["two", two]
          ])
        })
        assert.strictEqual((yield* collection(client)).status, 200)
        const { end, more } = yield* load(client)
        yield* more(100)
        yield* Docker.kill(one)
        yield* Docker.available(two.url)
        yield* more(100)
        const told = yield* end
        const found = yield* counts(client)
        // Replication is asynchronous: what was acknowledged last may be lost. Nothing may be there twice.
        for (const [id, fate] of told) {
          const n = found.get(id) ?? 0
          assert.isAtMost(n, fate === "NotExecuted" ? 0 : 1, `${id} was ${fate}`)
          assert.include(["acknowledged", "Unknown"], fate)
        }
      })
  )

  withImage(
    "a cluster (3.12): a coordinator is killed under load",
    "EFFECT_FAILOVER_ARANGO_312_IMAGE",
    (image) =>
      Effect.gen(function* () {
        const network = yield* Docker.network
        const server = (name: string, args: ReadonlyArray<string>) =>
          Docker.arangod({ image, network, name, args })
        const agent = yield* server("agent", agencyArgs("agent"))
        yield* Docker.available(agent.url, "/_api/version")
        yield* server("data", memberArgs("DBSERVER", "data"))
        const one = yield* server("one", memberArgs("COORDINATOR", "one"))
        const two = yield* server("two", memberArgs("COORDINATOR", "two"))
        yield* Docker.available(one.url)
        yield* Docker.available(two.url)
        const { client } = yield* connect([one.url, two.url], {
          synchronize: true,
          translateEndpoint: translator([
            ["one", one],
            ["two", two]
          ])
        })
        assert.strictEqual((yield* collection(client)).status, 200)
        const { end, more } = yield* load(client)
        yield* more(100)
        yield* Docker.kill(one)
        yield* more(100)
        const told = yield* end
        const found = yield* counts(client)
        for (const [id, fate] of told) {
          const n = found.get(id) ?? 0
          if (fate === "acknowledged") assert.strictEqual(n, 1, `${id}`)
          else assert.isTrue(fate === "Unknown" && n <= 1, `${id} was ${fate}`)
        }
      })
  )
})
