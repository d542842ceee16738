/**
 * PostgreSQL under Patroni: two independent witnesses for every writer. The server itself says by SQL that
 * it is not in recovery, and Patroni says by its REST API (`GET /cluster`) that this server is the leader.
 * The epoch is the timeline. Patroni's list also tells who the members are, so that replicas which join
 * later are found, and one host of the cluster is enough to start with.
 *
 * Whoever speaks for Patroni is checked: its cluster's name (`scope`) has to be the server's own, which
 * Patroni keeps in PostgreSQL's `cluster_name`. No REST endpoint has to be configured where the API listens
 * on port 8008 of the database hosts; once a list is known, the other members' APIs are asked as well.
 *
 * | what fails | what happens |
 * |---|---|
 * | an old primary was resumed, or Patroni died on it: it says that it takes writes | the list names another leader, or a leader of a newer timeline: it is a reader |
 * | a replica has taken the leader's key and is not promoted yet | it says by SQL that it is in recovery: a reader |
 * | the API of this host does not answer, is another cluster's, or talks nonsense | the APIs of the other members (or the other `urls`) are asked |
 * | no API answers in time, or Patroni's own store is down | the server's word and its timeline decide, as with `PgStreaming` (see below); a warning is logged once |
 * | nobody is the leader: its key has run out, the election is under way | no writer, until there is a leader |
 * | ... because the cluster is paused, or `failsafe_mode` is active | the server's word and its timeline decide |
 * | the server cannot be found on the list: it has left, or is reached by an address that neither it nor Patroni knows | a leader of a newer timeline rules it out; else its own word decides. While it is no writer, the hosts on the list are asked as well |
 *
 * **Without Patroni's word**, a resumed old primary is kept out by its timeline alone: a client that has seen
 * the new one refuses anything older, and one that has just been started asks all hosts and believes the
 * newest timeline. What remains: a client that reaches the old primary only, and no REST API. It writes to the
 * old primary until that is fenced, as every client does that is led by PostgreSQL alone; with
 * `synchronous_mode` such writes wait for a standby that follows another leader.
 *
 * @example
 * ```ts
 * import { NodeHttpClient } from "@effect/platform-node"
 * import { Effect, Layer, Redacted } from "effect"
 * import * as Patroni from "effect-failover/dialects/Patroni"
 * import * as Pg from "effect-failover/layers/Pg"
 *
 * const Database = Layer.unwrapEffect(
 *   Effect.map(Patroni.make(), (dialect) =>
 *     Pg.layer({
 *       dialect,
 *       hosts: ["db-1.internal", "db-2.internal", "db-3.internal"],
 *       database: "shop",
 *       username: "app",
 *       password: Redacted.make("secret")
 *     })
 *   )
 * ).pipe(Layer.provide(NodeHttpClient.layer))
 * ```
 *
 * @since 0.1.0
 */
import { HttpClient } from "@effect/platform"
import { Clock, Duration, Effect } from "effect"
import type { Context, Dialect, Query } from "../Dialect.js"
import type { ConfigurationError } from "../Errors.js"
import * as Host from "../Host.js"
import * as Api from "./internal/patroniApi.js"
import * as Inquiry from "./internal/patroniInquiry.js"
import { check } from "./internal/patroniOptions.js"
import { incarnation, ROLE, textOf, timelineOf, unusable } from "./internal/pgCatalog.js"
import * as PgStreaming from "./PgStreaming.js"

/**
 * The port of Patroni's REST API: the one in Patroni's own examples.
 *
 * @since 0.1.0
 * @category defaults
 */
export const DEFAULT_PORT = 8008

/**
 * How long Patroni may take to answer. An answer is a read of its store, which takes milliseconds; in its
 * defaults Patroni itself gives a store 10 s, which is too long for a client that can do without.
 *
 * @since 0.1.0
 * @category defaults
 */
export const DEFAULT_TIMEOUT = Duration.seconds(1)

/**
 * A yes of Patroni holds for this long on one connection; a no is asked about every time. Every answer costs
 * Patroni a read of its store, and after a failover the writer is asked ten times a second by every client.
 * Patroni itself looks at its cluster once in `loop_wait`, 10 s by default. In nanoseconds.
 */
const REFRESH = 1_000_000_000n

/**
 * TLS and authentication belong to the `HttpClient`: `HttpClient.mapRequest` with
 * `HttpClientRequest.basicAuth`, `NodeHttpClient.makeAgentLayer({ ca })`.
 *
 * @since 0.1.0
 * @category models
 */
export interface Options {
  /** Of the REST API on the database hosts. Default 8008. */
  readonly port?: number | undefined
  /** Default `"http"`. */
  readonly scheme?: "http" | "https" | undefined
  /**
   * Where the REST API is, if not on the database hosts: `"https://patroni.internal:8008"`. Any node's API
   * speaks for the whole cluster; name several, so that one may be down. In place of `port` and `scheme`.
   */
  readonly urls?: ReadonlyArray<string> | undefined
  /**
   * For one question, however many endpoints have to be asked; then the answer goes without. A probe may ask
   * two, so keep it below half of `connectTimeout`. Default 1 second.
   */
  readonly timeout?: Duration.DurationInput | undefined
}

const OBSERVE = `SELECT ${ROLE},
  pg_catalog.host(pg_catalog.inet_server_addr()),
  pg_catalog.inet_server_port()::pg_catalog.text,
  pg_catalog.current_setting('cluster_name', true),
  pg_catalog.floor(EXTRACT(EPOCH FROM pg_catalog.pg_postmaster_start_time()) OPERATOR(pg_catalog.*) 1000)::pg_catalog.text`

interface Told extends Inquiry.Server {
  readonly incarnation: string | undefined
}

const parse = (row: ReadonlyArray<unknown>): Told => {
  const [isInRecovery, segment, incarnation, host, port, cluster, startedAt] = row
  const timeline = timelineOf(segment)
  const address = textOf(host)
  return {
    isWritable: isInRecovery === false && timeline !== undefined,
    timeline,
    incarnation: textOf(incarnation),
    ownAddress:
      address === undefined ? undefined : Host.address({ host: address, port: Number(port) }),
    cluster: textOf(cluster) ?? "",
    startedAt: Number(startedAt)
  }
}

/** What was found out last about the server at the end of one line. */
interface Found {
  /** Nanoseconds of the Clock. */
  readonly askedAt: bigint
  readonly told: Told
  readonly finding: Inquiry.Finding
}

const saysTheSame = (a: Told, b: Told): boolean =>
  a.isWritable === b.isWritable && a.timeline === b.timeline && a.incarnation === b.incarnation

/** Probes make no spans, and Patroni is not told about the traces of those who wait for them. */
const unobtrusive = (client: HttpClient.HttpClient): HttpClient.HttpClient =>
  client.pipe(
    HttpClient.withTracerDisabledWhen(() => true),
    HttpClient.withTracerPropagation(false)
  )

/**
 * A dialect for `Pg.layer`. Nothing is asked before a server is probed. One dialect may serve several layers.
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = (
  options: Options = {}
): Effect.Effect<Dialect, ConfigurationError, HttpClient.HttpClient> =>
  Effect.gen(function* () {
    const settings = yield* check(options, { port: DEFAULT_PORT, timeout: DEFAULT_TIMEOUT })
    const api = Api.make(unobtrusive(yield* HttpClient.HttpClient))
    const inquire = Inquiry.make({ ...settings, api })
    const lines = new WeakMap<Query, Found>()

    const findingOf = (
      query: Query,
      told: Told,
      context: Context
    ): Effect.Effect<Inquiry.Finding> =>
      Effect.gen(function* () {
        const askedAt = yield* Clock.currentTimeNanos
        const before = lines.get(query)
        if (
          before !== undefined &&
          askedAt - before.askedAt < REFRESH &&
          saysTheSame(before.told, told)
        ) {
          return before.finding
        }
        const finding = yield* inquire(told, context)
        // A server that is kept from being the writer may become it at any moment.
        if (finding.mayWrite || !told.isWritable) lines.set(query, { askedAt, told, finding })
        return finding
      })

    const observe: Dialect["observe"] = (query, context) =>
      Effect.gen(function* () {
        const [row] = yield* query(OBSERVE)
        if (typeof row?.[0] !== "boolean")
          return yield* unusable("the role query answered with no row")
        const told = parse(row)
        const { host, isWhole, mayWrite, members } = yield* findingOf(query, told, context)
        return {
          probed: context.probed,
          host,
          role: told.isWritable && mayWrite ? "writer" : "reader",
          serverEpoch: told.timeline,
          incarnation: told.incarnation,
          members,
          isWhole
        }
      })

    return {
      name: "patroni",
      detect: PgStreaming.dialect.detect,
      isWriter: PgStreaming.isWriter,
      incarnation,
      observe,
      awaitPromotion: PgStreaming.awaitPromotion,
      freshness: PgStreaming.freshness,
      readOnly: PgStreaming.readOnly
    }
  })
