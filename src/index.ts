/**
 * What a host name tells about a cluster: the pattern that its instances' names follow, and a cluster id.
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
 * import { Dialect } from "effect-failover"
 * import { Effect } from "effect"
 *
 * // A cluster whose members keep a table of themselves.
 * const registry: Dialect.Dialect = {
 *   name: "registry",
 *   detect: (query) =>
 *     Effect.map(query("SELECT to_regclass('ops.members') IS NOT NULL"), (rows) => rows[0]?.[0] === true),
 *   isWriter: (query) =>
 *     Effect.map(query("SELECT NOT pg_catalog.pg_is_in_recovery()"), (rows) => rows[0]?.[0] === true),
 *   observe: (query, { probed }) =>
 *     Effect.map(query("SELECT NOT pg_catalog.pg_is_in_recovery()"), (rows) => ({
 *       probed,
 *       host: probed,
 *       role: rows[0]?.[0] === true ? "writer" : "reader"
 *     }))
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
 * What callers are told. Three outcomes carry the truth about work that a failure cut off; the other
 * errors say what has to be changed before the work can be done.
 *
 * | error | SQLSTATE | what it says |
 * |---|---|---|
 * | `FailoverSuccess` | 08S02 | the connection is restored; the statement that was in flight may have been executed |
 * | `TransactionResolutionUnknown` | 08007 | the connection is restored; the transaction was rolled back, or its COMMIT is unknown |
 * | `FailoverFailed` | 08S01 | no host could be reached before the deadline; `outcome` says what became of the work |
 *
 * They reach a caller as the `cause` of the `SqlError` that `SqlClient` fails with;
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
 * - A waiter is served by whichever comes first, a connection given back or one newly opened. If
 *   opening fails and no other connection can come back, everyone who waits is told why: nothing of
 *   theirs was sent.
 *
 * @since 0.1.0
 */
export * as HostPool from "./HostPool.js"

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
 * The dialect is found out once, on the first host that answers, and remembered.
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
 * | the scope closes | whoever waits gets `TopologyClosed` |
 *
 * @since 0.1.0
 */
export * as Topology from "./Topology.js"

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
 * | its server epoch is older than one already seen | refused | refused |
 * | another host than the one lost, and a newer server epoch (or the system has none) | at once | at once if newer, else never |
 * | the lost host again, or the first writer ever | when every other host has answered or failed, or after `reelectionGrace` | it is the writer |
 *
 * The last line is what keeps a resumed old primary out: it says "I am the primary" until somebody
 * stops it, so it is believed only after the hosts that may have replaced it had their say.
 *
 * The epoch grows when the writer is another host, or the same host after a restart. A connection
 * carries the epoch that it was opened in: what it reports later changes nothing in a newer epoch.
 *
 * @since 0.1.0
 */
export * as TopologyState from "./TopologyState.js"
