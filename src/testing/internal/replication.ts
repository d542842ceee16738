/** What the servers say about their replication: positions in the WAL, and whether a standby really follows. */
import type { Option } from "effect"
import { Duration, Effect } from "effect"
import type { PostgresClusterError } from "./clusterError.js"
import type { Member } from "./members.js"

/** Positions are two hexadecimal numbers, `16/B374D848`. */
const parse = (lsn: unknown): bigint => {
  const [high, low] = String(lsn).split("/")
  return (BigInt(`0x${high ?? 0}`) << 32n) | BigInt(`0x${low ?? 0}`)
}

/** A healthy server answers in a millisecond; one that does not is no candidate. */
const positionBound = Duration.seconds(2)

/** How far a standby's WAL reaches, by what it has on disk; `None` when it does not answer. */
export const position = (member: Member): Effect.Effect<Option.Option<bigint>> =>
  member.sessions
    .query(
      "select greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn())::text as lsn",
      [],
      positionBound
    )
    .pipe(
      Effect.map((rows) => parse(rows[0]?.["lsn"])),
      Effect.option
    )

interface Target {
  readonly lsn: string
  readonly timeline: number
}

/**
 * The flushed position and not the inserted one: at the start of a segment, that is past the segment's header, which
 * nothing replays before the first record arrives (up to 15 s later on an idle primary).
 */
const target = (primary: Member): Effect.Effect<Target, PostgresClusterError> =>
  primary.sessions
    .query(
      `select lsn::text, ('x' || substr(pg_walfile_name(lsn), 1, 8))::bit(32)::integer as timeline
        from pg_current_wal_flush_lsn() as lsn`
    )
    .pipe(
      Effect.map(([row]) => ({ lsn: String(row?.["lsn"]), timeline: Number(row?.["timeline"]) }))
    )

/**
 * Ends when the standby has replayed all that the primary had written when this began, on the primary's timeline. The
 * state "streaming" alone proves nothing: a diverged standby shows it for moments too.
 */
export const caughtUp = (
  member: Member,
  primary: Member,
  bound: Duration.DurationInput
): Effect.Effect<void, PostgresClusterError> =>
  Effect.flatMap(target(primary), ({ lsn, timeline }) => {
    const look = member.sessions.query(
      `select pg_is_in_recovery() and pg_last_wal_replay_lsn() >= $1::pg_lsn and exists (
         select from pg_stat_wal_receiver
         where status = 'streaming' and received_tli = $2 and sender_port = $3
       ) as there`,
      [lsn, timeline, primary.node.serverPort]
    )
    return look.pipe(
      Effect.delay("5 millis"),
      Effect.repeat({ until: ([row]) => row?.["there"] === true }),
      Effect.timeoutFail({
        duration: bound,
        onTimeout: () =>
          member.server.failure(
            `does not replay what ${primary.node.id} writes (waited ${Duration.format(bound)} for ${lsn} on timeline ${timeline})`,
            "its history may have diverged: rejoin it"
          )
      }),
      Effect.asVoid
    )
  })
