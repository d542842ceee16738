/**
 * What a host name tells about a cluster: what kind of endpoint it is, its region, how the instances
 * behind it are addressed, and a cluster id. The names are those of RDS and Aurora; whatever else a
 * host is called, it is an IP address or a name of one's own, and tells nothing.
 *
 * @example
 * ```ts
 * import { Either } from "effect"
 * import { ClusterEndpoint } from "effect-failover"
 *
 * const endpoint = Either.getOrThrow(
 *   ClusterEndpoint.parse("shop.cluster-ro-abc123.eu-west-1.rds.amazonaws.com", {
 *     defaultPort: 5432,
 *     field: "hosts"
 *   })
 * )
 *
 * endpoint.kind // "reader"
 * endpoint.region // "eu-west-1"
 * endpoint.identifier // "shop"
 * ClusterEndpoint.patternOf(endpoint) // some: "?.abc123.eu-west-1.rds.amazonaws.com"
 * ClusterEndpoint.clusterIdOf([endpoint]) // "shop.cluster-abc123.eu-west-1.rds.amazonaws.com:5432"
 * ClusterEndpoint.defaultFailoverMode([endpoint]) // "reader-or-writer"
 * ```
 *
 * @since 0.1.0
 */
export * as ClusterEndpoint from "./ClusterEndpoint.js"

/**
 * Finds out whether a transaction whose COMMIT was sent and not answered has been committed. Opt-in: it
 * costs one round trip before each COMMIT.
 *
 * | | `ledger` | `dialects/PgTransactionStatus` |
 * |---|---|---|
 * | exact | always | where position and timeline prove it; else the outcome stays `Unknown` |
 * | needs | a table | nothing |
 * | costs | a small row per transaction | a WAL record per writing transaction |
 * | works on | any SQL database | PostgreSQL with streaming replication, not Aurora |
 *
 * A resolved commit ends as the transaction's own success; a resolved loss as
 * `TransactionResolutionUnknown` with `outcome: "RolledBack"`, which is safe to run again.
 *
 * @since 0.1.0
 */
export * as CommitResolution from "./CommitResolution.js"

/**
 * The port to a database driver: open ONE physical connection to ONE host, run, destroy. Everything
 * else (pooling, generations, monitoring, failover, transactions) is written once on top of it.
 *
 * What a connector owes:
 *
 * - `connect` and `execute` fail with `SessionError` and never with a defect, and are interruptible at once.
 * - `SessionError.fate` says `NotSent` only if nothing of the statement has left this process, and
 *   `Answered` only if the server itself refused it and the session goes on. In doubt: `Unanswered`.
 * - A session that broke, by itself or by an interrupted statement, says so through `isOpen` and calls
 *   its `onClose` listener once. It is never used again.
 * - `destroy` takes effect at once, even on a hung host; a statement in flight then fails.
 *
 * @since 0.1.0
 */
export * as Connector from "./Connector.js"

/**
 * How one kind of cluster tells its topology, its roles and its epoch. A dialect is three small effects
 * over "run this query"; everything else is shared.
 *
 * @example
 * ```ts
 * import type { Dialect } from "effect-failover"
 * import { Host } from "effect-failover"
 * import * as PgStreaming from "effect-failover/dialects/PgStreaming"
 * import { Effect } from "effect"
 *
 * // PostgreSQL whose members are listed in a table: role, epoch and promotion as in any other.
 * const registry: Dialect.Dialect = {
 *   name: "registry",
 *   detect: (query) =>
 *     Effect.map(
 *       query("SELECT pg_catalog.to_regclass('ops.member') IS NOT NULL"),
 *       ([row]) => row?.[0] === true
 *     ),
 *   isWriter: PgStreaming.isWriter,
 *   observe: (query, context) =>
 *     Effect.gen(function* () {
 *       const seen = yield* PgStreaming.dialect.observe(query, context)
 *       const rows = yield* query("SELECT id, host, port FROM ops.member")
 *       const hosts = rows.map(([id, host, port]) =>
 *         Host.make({ id: String(id), host: String(host), port: Number(port) })
 *       )
 *       return { ...seen, isWhole: true, members: hosts.map((host) => ({ host, role: "unknown" })) }
 *     }),
 *   awaitPromotion: PgStreaming.awaitPromotion
 * }
 * ```
 *
 * @since 0.1.0
 */
export * as Dialect from "./Dialect.js"

/**
 * What a driver's error means for a connection and for a cluster. The knowledge is data: a list of
 * rules, tried in order, that users can put their own in front of.
 *
 * @since 0.1.0
 */
export * as ErrorClassifier from "./ErrorClassifier.js"

/**
 * What callers are told. Four outcomes carry the truth about work that a failure cut off; the other
 * errors say what has to be changed before the work can be done.
 *
 * | error | SQLSTATE | what it says |
 * |---|---|---|
 * | `FailoverSuccess` | 08S02 | the connection is restored; the statement that was in flight may have been executed |
 * | `TransactionResolutionUnknown` | 08007 | the connection is restored; the transaction was rolled back, or its COMMIT is unknown |
 * | `FailoverFailed` | 08S01 | no host could be reached before the deadline; `outcome` says what became of the work |
 * | `RequestUnanswered` | - | over HTTP (ArangoDB): a request that had left completely got no answer, and may have been executed |
 *
 * They reach a caller as the `cause` of the `SqlError` that `SqlClient` fails with, or of the
 * `RequestError` that `HttpClient` fails with;
 * `Failover.outcomes` lifts them into the typed error channel.
 *
 * @since 0.1.0
 */
export * as Errors from "./Errors.js"

/**
 * The failover: from a lost connection to a usable one on the confirmed writer. One flight at a time,
 * whoever fails during it joins it.
 *
 * ```text
 *   recover(epoch lost) ──▶ report to the topology ──▶ writer confirmed ──▶ connect to it ──▶ Recovered
 *                              ▲                                              │ refused, or a reader after all
 *                              └──────────────────────────────────────────────┘
 * ```
 *
 * | when | what a caller gets |
 * |---|---|
 * | a flight for this epoch (or a newer one) is under way | the same flight's end |
 * | the epoch that was lost is over, the client is connected to the newer one | `Recovered`, at once |
 * | no writer, or none that takes us, before the deadline | `FailoverFailed`, reason `Timeout` |
 * | a host rejects us for good | the rejection, at once |
 * | the scope closes | `FailoverFailed`, reason `Closed` |
 *
 * @since 0.1.0
 */
export * as Failover from "./Failover.js"

/**
 * A database host: where it listens and what the cluster calls it.
 *
 * @since 0.1.0
 */
export * as Host from "./Host.js"

/**
 * The pooled connections of one host in one epoch of the topology: a free list with waiters. It is a
 * plain data structure because every statement passes through it.
 *
 * - A connection that broke is dropped where it lies: the next caller never gets it.
 * - The pool belongs to one epoch. When the writer moves, `cut` ends every connection at once, and with
 *   them the statements that would otherwise hang on a silent host.
 * - It grows as TCP does, by slow start: at most as many connections are being opened as there are. A
 *   server that was promoted just now answers statements on its first connections, instead of being busy
 *   with log-ins alone.
 * - A waiter is served by whichever comes first, a connection given back or one newly opened. If
 *   opening fails and no other connection can come back, everyone who waits is told why: nothing of
 *   theirs was sent.
 *
 * @since 0.1.0
 */
export * as HostPool from "./HostPool.js"

/**
 * Which of several hosts gets the next statement. `twoChoices` is the one to take unless there is a reason
 * for another.
 *
 * | strategy | takes | unknown, or new | when to use it |
 * |---|---|---|---|
 * | `twoChoices` | of two hosts by chance, out of those within 15 ms of the nearest, the one with less outstanding | inside the window | **recommended**: follows the load that this client causes, with no figures of the cluster |
 * | `random` | any | any | hosts and statements are all alike |
 * | `roundRobin` | one after the other, by weights | default weight; begins within its first stride | even shares, also with few statements |
 * | `weightedRandom` | any, by weights | weight 1 | hosts of different sizes, many statements |
 * | `highestWeight` | the highest weight | weight 1 | one preferred host and others in reserve |
 * | `lowestLoad` | the lowest CPU and lag | like the best that is known | long statements, and figures that are fresh |
 * | `leastConnections` | the fewest connections of this client | as counted | connections that stay open long |
 * | `fastestResponse` | the lowest latency | one statement at a time, until it answered | hosts far apart, one of them clearly nearest |
 *
 * Equals are told apart by chance, never by their order. What the AWS drivers call by the same names
 * differs:
 *
 * | name | theirs | ours |
 * |---|---|---|
 * | `highestWeight` | the weight is lag · 100 + CPU, so the **most loaded** host is taken | the weight is what an operator gave; load is never part of it. For the load, take `lowestLoad` |
 * | `lowestLoad` | lag counts 100 times as much as CPU, so that CPU hardly matters; unknown is 40 % and 50 ms | one millisecond weighs as one percent, unless said otherwise |
 * | `roundRobin` | as many in a row as the weight says; a change of the list may begin anew | spread out, and undisturbed by who joins or leaves |
 * | `leastConnections` | with some, the first of several with equally many | any of them, by chance |
 * | `fastestResponse` | an average kept for 30 s; no samples at all: by chance | the latency as it is now; see above for a host without one |
 *
 * **Who may be chosen.** Hosts of the role that is asked for, unless they are `unavailable`. A host of
 * unknown availability may: somebody has to be the first to try it. If nobody is left, the selection fails
 * closed, with `NoMatchingHost`, and the caller decides whether to wait, to ask for another role, or to
 * try a host all the same.
 *
 * **Gotchas**
 *
 * - A host that fails fast looks idle. Mark it unavailable when it fails, or strategies that look at
 *   outstanding work or latency will prefer it.
 * - Count work as outstanding, and a connection as open, when the host is chosen, not when it has answered:
 *   of a thousand fibers that choose in one tick, each has to see the others.
 * - `lowestLoad`, `highestWeight` and `fastestResponse` take the best host by figures that all clients
 *   share, so all of them take the same one until the figures change. `twoChoices` does not.
 *
 * @example
 * ```ts
 * import { Effect, Either } from "effect"
 * import { Host, HostSelector } from "effect-failover"
 *
 * const reader = (host: string, outstanding: number): HostSelector.Candidate => ({
 *   host: Host.make({ host, port: 5432 }),
 *   role: "reader",
 *   availability: "available",
 *   outstanding,
 *   connections: outstanding
 * })
 *
 * const program = Effect.gen(function* () {
 *   const readers = [reader("db-1", 3), reader("db-2", 6), reader("db-3", 20)]
 *   const chosen = yield* HostSelector.select(readers, HostSelector.twoChoices(), { role: "reader" })
 *
 *   // On a hot path: chance is made once, and each selection is a plain call.
 *   const chance = yield* HostSelector.makeChance
 *   const next = HostSelector.selectWith(readers, HostSelector.twoChoices(), chance)
 *   return [chosen.host.id, Either.getOrThrow(next).host.id]
 * })
 *
 * // One's own is a function.
 * const sameZone: HostSelector.HostSelector = (candidates, chance) =>
 *   candidates.find((_) => _.host.id.endsWith("-a")) ?? HostSelector.random(candidates, chance)
 * ```
 *
 * @since 0.1.0
 */
export * as HostSelector from "./HostSelector.js"

/**
 * Reading from readers: what there is beyond `Failover.onReader` and `Failover.onWriter`.
 *
 * | | what it costs |
 * |---|---|
 * | `onReader` | nothing |
 * | `maxStaleness` | each host is asked four times as often as the bound is long |
 * | `readYourWrites` | one question to the writer for the first read after writes, and one to the reader for each read |
 * | `hedged` | a tenth of the reads at most is asked twice |
 *
 * What a reader may show: a state that the writer was in, some milliseconds ago. Two readers show different
 * ones, so two reads may go back in time; within one transaction they do not. `readYourWrites` and `after`
 * say which state a read must not be older than.
 *
 * @since 0.1.0
 */
export * as Readers from "./Readers.js"

/**
 * How much may be run again, shared by all clients of a cluster, so that an outage does not become a
 * storm. Finagle's numbers: a fifth of the traffic, and ten a second on top for services that have little
 * of it; what was earned is forgotten after ten seconds.
 *
 * @since 0.1.0
 */
export * as RetryBudget from "./RetryBudget.js"

/**
 * A `SqlClient` over a cluster. Each statement goes to the confirmed writer; what happens when its
 * connection fails:
 *
 * ```text
 *                 ┌──────────── not sent ◀──────────────┐
 *                 ▼                                      │
 *   statement ─▶ take a connection ─▶ send ─▶ answer ─▶ done (also with the server's own error)
 *                 │ cannot connect               │ sent, no answer
 *                 ▼                              ▼
 *              failover                        failover ─▶ FailoverSuccess / TransactionResolutionUnknown
 * ```
 *
 * | what fails | what happens |
 * |---|---|
 * | no connection, or nothing of the statement had left | failover if need be, then sent to the new writer; the caller notices nothing |
 * | the connection, after the statement was sent | failover, then `FailoverSuccess` |
 * | ... inside a transaction | failover, then `TransactionResolutionUnknown` |
 * | the server refuses to write, and is a reader | failover, then sent to the new writer: a refused statement was not executed |
 * | the server refuses to write, and is the writer | the server's error: the session or transaction is read-only |
 * | no answer within `queryTimeout` | `StatementTimeout`; the writer is looked at |
 * | the server answers with any other error | that error |
 * | the server has no connection slot left | tried again within `acquireTimeout`, without a failover |
 *
 * @since 0.1.0
 */
export * as SqlFailover from "./SqlFailover.js"

/**
 * Asks SQL hosts for the topology: a connector opens the line, a dialect knows the questions.
 *
 * The dialect is found out once, on the first host that answers, and remembered:
 *
 * | a dialect's question is | what follows |
 * |---|---|
 * | answered with yes | this dialect is used, and remembered |
 * | answered with no, or refused for what it is (no such function, ...) | the next dialect is tried |
 * | refused for want of a privilege (42501) | likewise, but what is found then holds for this line only: the privilege may be granted |
 * | not answered, or refused for another reason (shutting down, a timeout, ...) | nothing is decided: the host counts as failed, and is asked again |
 *
 * @since 0.1.0
 */
export * as SqlTopologySource from "./SqlTopologySource.js"

/**
 * Watches a cluster: one scoped fiber, a cache that everybody reads, and two rates.
 *
 * In calm, one connection to the writer and one question per `refreshRate`. In a search, one fiber
 * and one connection per host, each asking at `highRefreshRate`; where the source can park a
 * question on the server (`Watch.pause`), a promotion is heard within milliseconds.
 *
 * | what fails | what happens |
 * |---|---|
 * | nothing was asked yet, every host is down | nothing: the first `settled` starts the search |
 * | the watched writer's connection ends | it is asked again at once on a new connection; if that fails too, a search starts |
 * | the writer does not answer within `probeTimeout` | likewise |
 * | a client reports a lost connection of the present epoch | a search starts |
 * | ... of an older epoch, or during a search | nothing: one outage is one search |
 * | no host lets us in, at least one rejects us for good | whoever waits gets the rejection; the next one to ask searches again |
 * | no host claims to be the writer, and all readers name one that is silent | after `stableAgreement` it is the writer, on their word; it is asked at each turn until it speaks for itself |
 * | a host falls silent while a wait is parked on it | the wait is given up `probeTimeout` after its end, and the host asked on a new connection |
 * | a source or dialect dies (a defect) | logged, and taken as a host that could not be asked |
 * | the monitor itself dies | logged, and started again in the phase that it died in |
 * | the scope closes | whoever waits gets `TopologyClosed` |
 *
 * @since 0.1.0
 */
export * as Topology from "./Topology.js"

/**
 * How hosts are asked: everything that the topology needs to know of a database. `SqlTopologySource` is the
 * one for SQL; another protocol brings its own.
 *
 * @since 0.1.0
 */
export * as TopologySource from "./TopologySource.js"

/**
 * The topology of a cluster as a value, and the pure function that moves it. No time, no chance and
 * no network in here: the service in `Topology` feeds it with what hosts answered.
 *
 * ```text
 *            Needed                      a claim is accepted
 *   Idle ──────────────▶ Searching ───────────────────────────▶ Calm
 *    ▲                    │     ▲                                │
 *    └────────────────────┘     └────────────────────────────────┘
 *    every host answered,        WriterLost of this epoch, or the
 *    none let us in              writer says that it is a reader
 * ```
 *
 * When is a host that says "I am the writer" believed?
 *
 * | the claim | in a search | in calm |
 * |---|---|---|
 * | its server epoch is older than one already seen, or its list of members is | refused | refused |
 * | another host than the one lost, and a newer server epoch (or the system has none) | at once | at once if newer, else never |
 * | the lost host again, or the first writer ever | when every other host has answered or failed, or after `reelectionGrace` | it is the writer |
 *
 * | nobody claims it, every reader names the same host, for `stableAgreement` | it is the writer, on the readers' word | - |
 *
 * The last line but one is what keeps a resumed old primary out: it says "I am the primary" until somebody
 * stops it, so it is believed only after the hosts that may have replaced it had their say. The last one
 * ends a search whose writer cannot be reached from here; its clients verify it when they connect.
 *
 * The epoch grows when the writer is another host, or the same host after a restart. A connection
 * carries the epoch that it was opened in: what it reports later changes nothing in a newer epoch.
 *
 * @since 0.1.0
 */
export * as TopologyState from "./TopologyState.js"
