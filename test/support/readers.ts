/**
 * Reading from readers on real servers: a heart that beats on the writer, fibers that read it, and what they saw.
 *
 * A read that began at some moment must see every beat that was acknowledged before that moment less the bound: the
 * host was chosen after it began.
 */
import { assert } from "@effect/vitest"
import type { SqlClient } from "@effect/sql"
import type { Exit, Scope } from "effect"
import { Chunk, Clock, Duration, Effect, Fiber, Stream } from "effect"
import type { Readers } from "effect-failover"
import { Failover } from "effect-failover"
import type * as Pg from "effect-failover/layers/Pg"
import type { PostgresClusterError } from "effect-failover/testing/PostgresCluster"
import type { Cluster, Node } from "./database.js"
import { openWarm, unique } from "./database.js"
import { eventually, within } from "./waiting.js"

/** Replay stands still on this node, until the scope closes or `resumeReplay`. */
export const pauseReplay = (
  cluster: Cluster,
  node: Node
): Effect.Effect<void, PostgresClusterError, Scope.Scope> =>
  Effect.acquireRelease(cluster.query(node, "select pg_wal_replay_pause()"), () =>
    Effect.ignore(resumeReplay(cluster, node))
  ).pipe(
    Effect.zipRight(
      eventually(
        `replay to be paused on ${node.id}`,
        Effect.map(
          cluster.query(node, "select pg_get_wal_replay_pause_state() as state"),
          ([row]) => row?.["state"] === "paused"
        )
      )
    )
  )

export const resumeReplay = (cluster: Cluster, node: Node) =>
  cluster.query(node, "select pg_wal_replay_resume()")

/** All that is written by now is replayed on every standby that runs. */
export const replayed = (cluster: Cluster) =>
  Effect.gen(function* () {
    const [row] = yield* cluster.query(
      yield* cluster.primary,
      "select pg_current_wal_flush_lsn()::text as lsn"
    )
    for (const node of yield* cluster.standbys) {
      yield* eventually(
        `${node.id} to have replayed everything`,
        Effect.map(
          cluster.query(node, "select pg_last_wal_replay_lsn() >= $1::pg_lsn as there", [
            row?.["lsn"]
          ]),
          ([row]) => row?.["there"] === true
        )
      )
    }
  })

/** Which server answered, and whether it is a standby. */
export const whoSql = "SELECT inet_server_port()::int AS port, pg_is_in_recovery() AS is_standby"

export interface Who {
  readonly port: number
  readonly is_standby: boolean
}

/** The node whose server answered: the server knows nothing of its proxy. */
export const serverAt = (cluster: Cluster, port: number): Node => {
  const node = cluster.nodes.find((_) => _.serverPort === port)
  assert.isDefined(node, `a server of the cluster: ${port}`)
  return node
}

export const who = (sql: SqlClient.SqlClient) =>
  Effect.map(sql.unsafe<Who>(whoSql), ([row]) => {
    assert.isDefined(row)
    return row
  })

export const collect = <A, E, R>(stream: Stream.Stream<A, E, R>) =>
  Effect.map(Stream.runCollect(stream), Chunk.toReadonlyArray)

/** The client knows so many readers that may be read from. */
export const knows = (readers: Readers.Readers, count: number) =>
  eventually(
    `${count} readers to be known`,
    Effect.map(
      readers.hosts,
      (hosts) =>
        hosts.filter((_) => _.role === "reader" && _.availability === "available").length === count
    )
  )

/** A client that knows every reader, and reads from one. */
export const openReading = (overrides: Pg.PgOptions = {}) =>
  Effect.tap(openWarm(overrides), (db) =>
    Effect.gen(function* () {
      yield* eventually(
        "a read from a reader",
        Effect.map(Failover.onReader(who(db.client)), (_) => _.is_standby)
      )
      yield* knows(db.readers, (yield* db.cluster.standbys).length)
    })
  )

export interface Heart {
  readonly table: string
  /** The last beat that was acknowledged before this moment. */
  readonly beatAt: (millis: number) => number
  readonly beats: () => number
}

/** Short against every bound, and long enough to leave the machine to the others. */
const BEAT = Duration.millis(5)

/** A row that counts up on whichever node is the primary, until the scope closes. */
export const heart = (cluster: Cluster) =>
  Effect.gen(function* () {
    const table = unique("heart")
    yield* cluster.query(
      yield* cluster.primary,
      `create table ${table} (beat integer); insert into ${table} values (0)`
    )
    const acknowledged: Array<{ readonly at: number; readonly beat: number }> = []
    let next = 1
    yield* Effect.gen(function* () {
      const primary = yield* cluster.primary
      const beat = next++
      yield* cluster.query(primary, `update ${table} set beat = $1`, [beat])
      acknowledged.push({ at: yield* Clock.currentTimeMillis, beat })
    }).pipe(
      // Without a primary there is no beat.
      Effect.ignore,
      Effect.delay(BEAT),
      Effect.forever,
      Effect.forkScoped
    )
    const made: Heart = {
      table,
      beatAt: (millis) => acknowledged.findLast(({ at }) => at < millis)?.beat ?? 0,
      beats: () => acknowledged.length
    }
    yield* eventually(
      "the first beats",
      Effect.sync(() => made.beats() > 3)
    )
    yield* replayed(cluster)
    return made
  })

interface Seen extends Who {
  readonly beat: number
}

export interface Read {
  readonly beganAt: number
  readonly exit: Exit.Exit<Seen, unknown>
}

export interface Reading {
  readonly reads: ReadonlyArray<Read>
  /**
   * How many of the last `count` reads each server answered, by its port; none if fewer than that were begun since
   * the moment.
   */
  readonly shares: (count: number, since?: number) => ReadonlyMap<number, number> | undefined
  readonly end: Effect.Effect<void>
}

/** Between two reads of a fiber: the servers and the readers share the machine. */
const PAUSE = Duration.millis(8)

/** Fibers that read the heart until they are ended, each in a way of its own. */
export const reading = (
  sql: SqlClient.SqlClient,
  { table }: Heart,
  ways: ReadonlyArray<
    (
      read: Effect.Effect<ReadonlyArray<Seen>, unknown>
    ) => Effect.Effect<ReadonlyArray<Seen>, unknown>
  >
) =>
  Effect.gen(function* () {
    const reads: Array<Read> = []
    let stopped = false
    const statement = sql.unsafe<Seen>(`${whoSql}, beat FROM ${table}`)
    const one = (way: (typeof ways)[number]) =>
      Effect.gen(function* () {
        const beganAt = yield* Clock.currentTimeMillis
        const exit = yield* Effect.exit(
          Effect.map(way(statement), ([row]) => {
            assert.isDefined(row)
            return row
          })
        )
        reads.push({ beganAt, exit })
        yield* Effect.sleep(PAUSE)
      })
    const fibers = yield* Effect.forkScoped(
      Effect.forEach(
        ways,
        (way) => Effect.whileLoop({ while: () => !stopped, body: () => one(way), step: () => {} }),
        { concurrency: "unbounded", discard: true }
      )
    )
    return {
      reads,
      shares: (count, since = -Infinity) => {
        const last = reads.slice(-count)
        if (last.length < count || last.some(({ beganAt }) => beganAt < since)) return undefined
        const shares = new Map<number, number>()
        for (const { exit } of last) {
          if (exit._tag === "Failure") continue
          shares.set(exit.value.port, (shares.get(exit.value.port) ?? 0) + 1)
        }
        return shares
      },
      end: Effect.suspend(() => {
        stopped = true
        return Fiber.join(fibers).pipe(within("the reads to end"))
      })
    } satisfies Reading
  })

/** The reads that did not see what was acknowledged longer than the bound before they began. */
export const tooOld = (heart: Heart, reads: ReadonlyArray<Read>, bound: Duration.Duration) =>
  reads.flatMap(({ beganAt, exit }) => {
    if (exit._tag === "Failure") return []
    const least = heart.beatAt(beganAt - Duration.toMillis(bound))
    return exit.value.beat < least ? [{ ...exit.value, least, beganAt }] : []
  })
