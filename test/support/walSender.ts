/** Clients of the replication protocol that are no standbys. */
import { Effect, Redacted } from "effect"
import Pg from "pg"
import type { Cluster, Node } from "./database.js"
import { eventually } from "./waiting.js"

/** Microseconds since 2000, which the server does not look at. */
const NOW = 0n

/** A standby status update: written, flushed, applied up to a position. */
const status = (written: bigint, applied: bigint): Buffer => {
  const message = Buffer.alloc(34)
  message.write("r", 0)
  message.writeBigUInt64BE(written, 1)
  message.writeBigUInt64BE(written, 9)
  message.writeBigUInt64BE(applied, 17)
  message.writeBigUInt64BE(NOW, 25)
  return message
}

const positionOf = (lsn: string): bigint => {
  const [high, low] = lsn.split("/")
  return (BigInt(`0x${high}`) << 32n) | BigInt(`0x${low}`)
}

/**
 * Streams from the node until the scope closes, and says that it is there when the server shows it as streaming, with
 * what it answered.
 */
export const stream = (
  cluster: Cluster,
  node: Node,
  options: {
    readonly name: string
    readonly kind: "physical" | "logical"
    /** Whether it says that it has applied what it received, as those that replay do. */
    readonly applies: boolean
  }
) =>
  Effect.gen(function* () {
    const client = yield* Effect.acquireRelease(
      Effect.promise(async () => {
        const client = new Pg.Client({
          host: node.host,
          port: node.serverPort,
          user: cluster.username,
          password: Redacted.value(cluster.password),
          database: cluster.database,
          application_name: options.name,
          ...{ replication: options.kind === "physical" ? "true" : "database" }
        })
        client.on("error", () => {})
        await client.connect()
        return client
      }),
      (client) => Effect.sync(() => (client as any).connection.stream.destroy())
    )
    const { rows } = yield* Effect.promise(() => client.query("IDENTIFY_SYSTEM"))
    const at: string = rows[0].xlogpos
    let command = `START_REPLICATION PHYSICAL ${at}`
    if (options.kind === "logical") {
      const slot = options.name.replaceAll("-", "_")
      yield* Effect.promise(() =>
        client.query(`CREATE_REPLICATION_SLOT ${slot} TEMPORARY LOGICAL test_decoding`)
      )
      command = `START_REPLICATION SLOT ${slot} LOGICAL ${at}`
    }
    // It never ends by itself.
    client.query(command).catch(() => {})
    const position = positionOf(at)
    yield* eventually(
      `${options.name} to stream`,
      Effect.gen(function* () {
        yield* Effect.sync(() =>
          (client as any).connection.sendCopyFromChunk(
            status(position, options.applies ? position : 0n)
          )
        )
        const [row] = yield* cluster.query(
          node,
          "select write_lsn is not null as written, replay_lsn is not null as applied from pg_stat_replication where application_name = $1 and state = 'streaming'",
          [options.name]
        )
        return row?.["written"] === true && row["applied"] === options.applies
      })
    )
  })
