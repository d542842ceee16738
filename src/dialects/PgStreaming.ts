/**
 * Plain PostgreSQL with streaming replication: every host of the configuration is asked what it is. The
 * primary names the standbys that stream from it, to roles that may see them (`pg_monitor`, or
 * `pg_read_all_stats`); to others it names none.
 *
 * The epoch is the timeline: a promotion begins a new one, so a resumed old primary is on an older one.
 *
 * How a standby that the primary names becomes a host:
 *
 * | | its host |
 * |---|---|
 * | there is an instance host pattern | its `application_name` (by default its `cluster_name`) in the pattern |
 * | else | the address that it streams from, with the port of the primary |
 *
 * The second is a guess, made only where it can be right and useful. Not for an address of a loopback
 * interface, nor behind a tunnel (a primary reached on one): it means nothing to this client. Not for the
 * primary's own address, nor for that of a seed: another server there has another port. Not where
 * certificates are verified by name. And not while there are no more such standbys than seeds named by DNS
 * besides the primary: those are the standbys then.
 *
 * A server that is known by a name and listed by an address all the same is there twice. That costs one
 * more question in a search. It makes no second writer, for both answer with one timeline, and the first
 * to answer is the writer; and it removes no seed, for the list is never taken as the whole.
 *
 * @since 0.1.0
 */
import { Duration, Effect, Either, Option } from "effect"
import * as ClusterEndpoint from "../ClusterEndpoint.js"
import type { SessionError } from "../Connector.js"
import type { Context, Dialect, Freshness, Query } from "../Dialect.js"
import * as Host from "../Host.js"
import type { Member } from "../TopologyState.js"
import { incarnation, numberOf, ROLE, textOf, timelineOf, unusable } from "./internal/pgCatalog.js"
import * as WalFreshness from "./internal/walFreshness.js"

/**
 * A standby replays and says how far; `pg_receivewal` and `pg_basebackup` do not. A logical subscriber
 * does, and always has a slot. Whoever may not see them gets nothing but their pids.
 */
const STANDBYS = `SELECT pg_catalog.json_agg(pg_catalog.json_build_array(
    r.application_name,
    pg_catalog.host(r.client_addr),
    r.client_addr OPERATOR(pg_catalog.=) pg_catalog.inet_server_addr(),
    CASE WHEN r.replay_lsn OPERATOR(pg_catalog.>=) pg_catalog.pg_current_wal_lsn() THEN 0
      ELSE EXTRACT(EPOCH FROM r.replay_lag) OPERATOR(pg_catalog.*) 1000 END
  ))::pg_catalog.text
  FROM pg_catalog.pg_stat_replication AS r
  WHERE r.state OPERATOR(pg_catalog.=) 'streaming' AND r.replay_lsn IS NOT NULL
    AND NOT EXISTS (SELECT 1 FROM pg_catalog.pg_replication_slots AS s
      WHERE s.active_pid OPERATOR(pg_catalog.=) r.pid AND s.slot_type OPERATOR(pg_catalog.=) 'logical')`

/** Half of the time that a new primary takes to answer would go into planning the list of its standbys. */
const OBSERVE_ROLE = `SELECT ${ROLE}`

/**
 * Role, epoch and standbys in one round trip. A server writes WAL only if it is not in recovery: its
 * timeline is the second question.
 */
const OBSERVE_ALL = `SELECT ${ROLE},
  CASE WHEN pg_catalog.pg_is_in_recovery() THEN NULL ELSE (${STANDBYS}) END`

/**
 * Whether the server takes writes, as every PostgreSQL can tell.
 *
 * @since 0.1.0
 * @category queries
 */
export const isWriter = (query: Query): Effect.Effect<boolean, SessionError> =>
  Effect.map(query("SELECT pg_catalog.pg_is_in_recovery()"), (rows) => rows[0]?.[0] === false)

/** Promotion is looked for this often on the server: 2 ms cost a standby well under a percent of a core. */
const WATCH_INTERVAL_SECONDS = 0.002

/**
 * Parks a wait on a standby: it ends with the promotion, or after `atMost`. It holds no snapshot
 * between its looks, so it holds back neither vacuum nor recovery.
 *
 * @since 0.1.0
 * @category queries
 */
export const awaitPromotion = (
  query: Query,
  atMost: Duration.Duration
): Effect.Effect<void, SessionError> =>
  Effect.asVoid(
    query(`DO $$
DECLARE deadline pg_catalog.timestamptz := pg_catalog.clock_timestamp()
  OPERATOR(pg_catalog.+) '${Math.round(Duration.toMillis(atMost))} milliseconds'::pg_catalog.interval;
BEGIN
  WHILE pg_catalog.pg_is_in_recovery() AND pg_catalog.clock_timestamp() OPERATOR(pg_catalog.<) deadline LOOP
    PERFORM pg_catalog.pg_sleep(${WATCH_INTERVAL_SECONDS});
  END LOOP;
END $$`)
  )

/**
 * Positions are LSNs. They are compared without the timeline: after a failover that lost commits, a position
 * of the lost end says nothing any more, and is reached when the new writer has written as much.
 *
 * @since 0.1.0
 * @category queries
 */
export const freshness: Freshness = WalFreshness.freshness

/**
 * The session refuses to write (25006), also after its host was promoted. A statement that asks for more, as
 * `BEGIN READ WRITE` or `SET`, gets it.
 *
 * @since 0.1.0
 * @category queries
 */
export const readOnly = (query: Query): Effect.Effect<void, SessionError> =>
  Effect.asVoid(query("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY"))

interface Standby {
  readonly name: string | undefined
  readonly address: string | undefined
  /** Whether it streams from the primary's own address: it is on the same machine. */
  readonly isBeside: boolean
  readonly lagMillis: number | undefined
}

const standbysOf = (json: unknown): ReadonlyArray<Standby> => {
  if (typeof json !== "string") return []
  const rows: ReadonlyArray<ReadonlyArray<unknown>> = JSON.parse(json)
  return rows.map(([name, address, isBeside, lag]) => ({
    name: textOf(name),
    // An IPv4 address, as a socket for both families gives it.
    address: textOf(address)?.replace(/^::ffff:(?=\d+\.)/, ""),
    isBeside: isBeside === true,
    lagMillis: numberOf(lag)
  }))
}

/** What a standby calls itself if nobody has given it a name. */
const NAMELESS = "walreceiver"

/** Whatever else a standby calls itself is no part of a host name. */
const isHostName = (name: string) => /^[a-z0-9][a-z0-9._-]*$/i.test(name)

const byName = (
  { name }: Standby,
  { hostOf }: Context
): Either.Either<Host.Host | undefined, unknown> =>
  // Whether there is a pattern does not depend on the name.
  name === undefined || name === NAMELESS || !isHostName(name)
    ? Either.map(hostOf(NAMELESS), () => undefined)
    : hostOf(name)

const isIp = (host: Host.Host) => ClusterEndpoint.make(host).kind === "ip"

const isLoopback = (host: string) =>
  host === "localhost" || host === "::1" || /^127\.\d+\.\d+\.\d+$/.test(host)

/** The standbys that are at addresses which no host of the configuration can be known by. */
const byAddress = (
  standbys: ReadonlyArray<Standby>,
  { hostAt, probed, seeds }: Context
): ReadonlyArray<Member> => {
  if (isLoopback(probed.host)) return []
  const others = seeds.filter((_) => !Host.isSame(_, probed))
  const members = standbys.flatMap(({ address, isBeside, lagMillis }): ReadonlyArray<Member> => {
    if (address === undefined || isBeside || isLoopback(address)) return []
    if ([probed, ...others].some((_) => _.host === address)) return []
    const host = hostAt(Host.make({ host: address, port: probed.port }))
    return Option.isNone(host) ? [] : [{ host: host.value, role: "reader", lagMillis }]
  })
  return members.length > others.filter((_) => !isIp(_)).length ? members : []
}

const membersOf = (
  standbys: ReadonlyArray<Standby>,
  context: Context
): ReadonlyArray<Member> | undefined => {
  const named = Either.all(
    standbys.map((standby) =>
      Either.map(byName(standby, context), (host): ReadonlyArray<Member> =>
        host === undefined ? [] : [{ host, role: "reader", lagMillis: standby.lagMillis }]
      )
    )
  )
  const members = Either.match(named, {
    onLeft: () => byAddress(standbys, context),
    onRight: (lists) => lists.flat()
  }).filter((_) => !Host.isSame(_.host, context.probed))
  return members.length === 0 ? undefined : members
}

/**
 * PostgreSQL with streaming replication. Needs no privilege; with `pg_monitor` it finds standbys that
 * the configuration does not name.
 *
 * @since 0.1.0
 * @category dialects
 */
export const dialect: Dialect = {
  name: "pg",
  detect: (query) =>
    Effect.map(query("SELECT 1 FROM pg_catalog.pg_proc LIMIT 1"), (rows) => rows.length === 1),
  isWriter,
  incarnation,
  observe: (query, context) =>
    Effect.flatMap(query(context.wasReader === true ? OBSERVE_ROLE : OBSERVE_ALL), ([row]) => {
      const [isInRecovery, segment, started, standbys] = row ?? []
      if (typeof isInRecovery !== "boolean") {
        return Effect.fail(unusable("the role query answered with no row"))
      }
      const serverEpoch = timelineOf(segment)
      return Effect.succeed({
        probed: context.probed,
        host: context.probed,
        role: !isInRecovery && serverEpoch !== undefined ? "writer" : "reader",
        serverEpoch,
        incarnation: textOf(started),
        members: membersOf(standbysOf(standbys), context),
        isWhole: false
      })
    }),
  awaitPromotion,
  freshness,
  readOnly
}
