/** The same service on plain @effect/sql-pg, as its user would write it today. */
import { PgClient } from "@effect/sql-pg"
import { Cause, Effect } from "effect"
import type { Contender } from "./contender.js"
import * as Endpoint from "./endpoint.js"
import type { Verdict } from "./ledger.js"
import { MAX_CONNECTIONS, RETRY, type Serve } from "./workload.js"

/** From the promotion until the endpoint leads to the new writer; shorter than any DNS in the world. */
export const ENDPOINT_DELAY_MILLIS = 3000

/** Retries a SqlError, as most services do: it does not say whether the write was executed. */
const serve: Serve = (write) =>
  write.pipe(
    Effect.retry(RETRY),
    Effect.matchCause({
      onSuccess: (): Verdict => "acknowledged",
      onFailure: (cause): Verdict => (Cause.isDie(cause) ? "died" : "failed")
    })
  )

export const contender: Contender = {
  name: "@effect/sql-pg",
  view: "endpoint",
  configured: [
    "PgClient.layer with one host, a cluster endpoint; retries any SqlError",
    `the endpoint moves ${ENDPOINT_DELAY_MILLIS / 1000} s after the promotion (real DNS: some 15-30 s)`
  ],
  serve,
  noticesByErrors: true,
  prepare: (cluster, observer) =>
    Effect.gen(function* () {
      const primary = yield* cluster.primary
      const endpoint = yield* Endpoint.make(primary.port)
      yield* observer.seen(new Map([[primary.id, "leads here"]]))
      return {
        client: PgClient.layer({
          host: endpoint.host,
          port: endpoint.port,
          database: cluster.database,
          username: cluster.username,
          password: cluster.password,
          maxConnections: MAX_CONNECTIONS,
          connectTimeout: "5 seconds"
        }),
        promoted: (node) =>
          endpoint
            .pointTo(node.port)
            .pipe(
              Effect.zipRight(observer.seen(new Map([[node.id, "leads here"]]))),
              Effect.zipRight(observer.stage({ _tag: "EndpointMoved", node: node.id })),
              Effect.delay(ENDPOINT_DELAY_MILLIS)
            )
      }
    })
}
