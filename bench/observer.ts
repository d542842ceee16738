/**
 * When does the new writer really take writes? Sessions of the plain driver, past proxies and library, try to write on
 * the standbys from before the promotion on. `local` is done when the server itself has committed; `durable` when the
 * standby that a synchronous commit waits for has it too: no client can be acknowledged a write before that.
 */
import { Effect, Redacted, Schedule } from "effect"
import PgDriver from "pg"
import type { Node, PostgresCluster } from "../src/testing/PostgresCluster.js"

export const createTable = "create table observer (at bigint)"

export interface Observer {
  /** Nanoseconds of `process.hrtime`. */
  readonly firstCommit: Effect.Effect<{ readonly local: bigint; readonly durable: bigint }>
}

const PAUSE = "1 millis"

const session = (cluster: PostgresCluster, node: Node, commit: "local" | "on") =>
  Effect.acquireRelease(
    Effect.promise(async () => {
      const client = new PgDriver.Client({
        host: "127.0.0.1",
        port: node.serverPort,
        database: cluster.database,
        user: cluster.username,
        password: Redacted.value(cluster.password)
      })
      client.on("error", () => {})
      await client.connect()
      await client.query(`set synchronous_commit = ${commit}`)
      return client
    }),
    (client) => Effect.ignore(Effect.tryPromise(() => client.end()))
  )

const tryUntilCommitted = (client: PgDriver.Client): Effect.Effect<bigint> =>
  Effect.tryPromise(() => client.query("insert into observer values (1)")).pipe(
    Effect.map(() => process.hrtime.bigint()),
    Effect.retry(Schedule.spaced(PAUSE)),
    Effect.orDie
  )

/** Connects to the standbys; `firstCommit` begins to try. */
export const make = (cluster: PostgresCluster) =>
  Effect.gen(function* () {
    const standbys = yield* cluster.standbys
    const sessions = (commit: "local" | "on") =>
      Effect.forEach(standbys, (node) => session(cluster, node, commit))
    const local = yield* sessions("local")
    const durable = yield* sessions("on")
    return {
      firstCommit: Effect.all(
        {
          local: Effect.raceAll(local.map(tryUntilCommitted)),
          durable: Effect.raceAll(durable.map(tryUntilCommitted))
        },
        { concurrency: 2 }
      )
    } satisfies Observer
  })
