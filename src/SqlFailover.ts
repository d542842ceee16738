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
import type { Reactivity } from "@effect/experimental"
import type { SqlClient } from "@effect/sql"
import type { Statement } from "@effect/sql"
import type { Scope } from "effect"
import { Duration, Effect, Stream } from "effect"
import { dual } from "effect/Function"
import type { CommitResolution } from "./CommitResolution.js"
import type { Connector, ListenEvent, Session, SessionError } from "./Connector.js"
import type { Dialect } from "./Dialect.js"
import type { ErrorClassifier } from "./ErrorClassifier.js"
import * as Classifier from "./ErrorClassifier.js"
import * as Failover from "./Failover.js"
import type { Host } from "./Host.js"
import type { Settings as PoolSettings, Stats } from "./HostPool.js"
import * as HostSelector from "./HostSelector.js"
import type { TransformRows } from "./internal/connection.js"
import * as Leases from "./internal/leases.js"
import * as ReadersInternal from "./internal/readers/make.js"
import * as Router from "./internal/router.js"
import * as Routes from "./internal/routes.js"
import * as Runner from "./internal/runner.js"
import * as SqlClientInternal from "./internal/sqlClient.js"
import * as Spares from "./internal/spares.js"
import * as Tell from "./internal/tell.js"
import { currentBegin } from "./internal/transaction.js"
import type { RetryBudget } from "./RetryBudget.js"
import type { FailoverFailed } from "./Errors.js"
import type { Readers } from "./Readers.js"
import { query } from "./SqlTopologySource.js"
import type { Topology } from "./Topology.js"
import type { Rejection } from "./TopologyState.js"
import { INITIAL_EPOCH } from "./TopologyState.js"
import type { SqlError } from "@effect/sql/SqlError"

/**
 * @since 0.1.0
 * @category models
 */
export interface Options {
  readonly topology: Topology
  /** Shared by the clients of the cluster. Default: one of its own. */
  readonly budget?: RetryBudget | undefined
  readonly connector: Connector
  readonly classifier: ErrorClassifier
  /** The dialect in use, asked anew for each connection: it is found out on the first one. */
  readonly dialect: () => Dialect
  readonly compiler: Statement.Compiler
  readonly transformRows?: TransformRows | undefined
  readonly spanAttributes: ReadonlyArray<readonly [string, unknown]>
  readonly pool: PoolSettings
  readonly connectTimeout: Duration.Duration
  /** Where statements go that ask for nothing else. Default `"strict-writer"`. */
  readonly failoverMode?: Failover.FailoverMode | undefined
  readonly readers?: ReaderOptions | undefined
  readonly failoverTimeout?: Duration.Duration | undefined
  /** How to find out about a COMMIT that was not answered. Default: not at all. */
  readonly commitResolution?: CommitResolution | undefined
  /** Run on every new physical connection, before its first statement. */
  readonly sessionSetup?:
    ((sql: Statement.Constructor) => Effect.Effect<unknown, SqlError>) | undefined
}

/**
 * How readers are read from.
 *
 * @since 0.1.0
 * @category models
 */
export interface ReaderOptions {
  /** Default `HostSelector.twoChoices()`. */
  readonly selector?: HostSelector.HostSelector | undefined
  /** How far behind the writer a reader may be. Default: as far as it is. */
  readonly maxStaleness?: Duration.Duration | undefined
  /** How often a host that is read from is asked how it is. Default 1 second. */
  readonly heartbeat?: Duration.Duration | undefined
  /**
   * Whether connections to readers are set to read only. Not behind a pooler that hands them to others: a read
   * that is cut off is then not run again. Default `true`.
   */
  readonly keepSessionsReadOnly?: boolean | undefined
}

/**
 * A reader that froze is noticed within this and `connectTimeout`.
 *
 * @since 0.1.0
 * @category defaults
 */
export const DEFAULT_READER_HEARTBEAT = Duration.seconds(1)

/**
 * @since 0.1.0
 * @category models
 */
export interface SqlFailover {
  readonly client: SqlClient.SqlClient
  readonly failover: Failover.Failover
  readonly readers: Readers
  /** Has a host that statements may go to, by the client's mode; fails over if need be. */
  readonly ready: Effect.Effect<void, FailoverFailed | Rejection>
  /** Notifications of a connection of its own; `listen` is run on it first, on each new writer. */
  readonly notifications: (listen: string) => Stream.Stream<ListenEvent, SqlError>
  /** The pool of the present writer. */
  readonly stats: () => Stats & { readonly host: Host | undefined }
}

/**
 * Connects to nothing yet. Everything ends with the scope.
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = (
  options: Options
): Effect.Effect<SqlFailover, never, Scope.Scope | Reactivity.Reactivity> =>
  Effect.gen(function* () {
    const { classifier, connector, topology } = options

    const setUp = (session: Session): Effect.Effect<unknown, SessionError> =>
      options.sessionSetup === undefined
        ? Effect.void
        : SqlClientInternal.setUpSession(session, options.compiler, options.sessionSetup)

    const connect = (host: Host): Effect.Effect<Session, SessionError> =>
      connector.connect(host, { timeout: options.connectTimeout })
    const isWriter = (session: Session) => options.dialect().isWriter(query(session))
    const incarnationOf = (session: Session): Effect.Effect<unknown, SessionError> => {
      const dialect = options.dialect()
      return (dialect.incarnation ?? dialect.isWriter)(query(session))
    }
    const spares = Spares.make(connect, incarnationOf)

    /** A connection to the host, which is the writer in this life of its server, with its session set up. */
    const open = (host: Host, writers?: string): Effect.Effect<Session, SessionError> =>
      Effect.uninterruptibleMask((restore) =>
        Effect.flatMap(spares.takeOr(host, restore(connect(host))), ({ incarnation, session }) => {
          const isKnown = writers !== undefined && incarnation === writers
          return restore(
            Effect.flatMap(isKnown ? Effect.succeed(true) : isWriter(session), (isWriter) =>
              isWriter ? setUp(session) : Effect.fail(Router.notTheWriter(host))
            ).pipe(
              Effect.timeoutFail({
                duration: options.connectTimeout,
                onTimeout: () => Tell.silentSetUp(host, options.connectTimeout)
              })
            )
          ).pipe(
            Effect.onError(() => Effect.sync(() => session.destroy())),
            Effect.as(session)
          )
        })
      )

    const router = yield* Router.make({
      topology,
      settings: options.pool,
      open,
      rejectionOf: (host, cause) => Classifier.rejection(classifier, host, cause)
    })

    const failover = yield* Failover.make({
      topology,
      budget: options.budget,
      mode: options.failoverMode,
      timeout: options.failoverTimeout,
      prepare: spares.prepare,
      connect: router.connect,
      connectedEpoch: () => router.ready()?.epoch,
      abandon: router.abandon
    })

    // A search that nobody's statement began (the monitor's own finding) must also end what hangs on
    // the old writer, and warm the new one.
    yield* topology.changes.pipe(
      Stream.map((state) => ({ phase: state.phase._tag, epoch: state.epoch })),
      Stream.changesWith((a, b) => a.phase === b.phase && a.epoch === b.epoch),
      Stream.buffer({ capacity: 1, strategy: "sliding" }),
      Stream.runForEach(() =>
        Effect.suspend(() => {
          const pool = router.current()
          // Nobody lets us in: whoever asks next tries again, and until then nobody shall.
          const isIdle = topology.unsafeCurrent().phase._tag === "Idle"
          return pool === undefined || isIdle || router.ready() !== undefined
            ? Effect.void
            : Effect.ignore(failover.recover({ epoch: pool.epoch, cause: undefined }))
        })
      ),
      Effect.interruptible,
      Effect.forkScoped
    )

    const leases = Leases.make({
      topology,
      router,
      failover,
      classifier,
      acquireTimeout: options.pool.acquireTimeout
    })
    const tell = Tell.make({
      topology,
      classifier,
      mover: Tell.toWriter({ topology, failover })
    })
    const runner = Runner.make({
      topology,
      router,
      leases,
      tell,
      budget: failover.budget,
      resolution: options.commitResolution,
      isWriter
    })

    const { dialect } = options
    const { fleet, reads } = yield* ReadersInternal.make({
      topology,
      classifier,
      dialect,
      settings: {
        selector: options.readers?.selector ?? HostSelector.twoChoices(),
        heartbeat: options.readers?.heartbeat ?? DEFAULT_READER_HEARTBEAT,
        heartbeatTimeout: options.connectTimeout
      },
      pool: options.pool,
      connect,
      setUp,
      connectTimeout: options.connectTimeout,
      failoverTimeout: failover.timeout,
      mayKeepSessionsReadOnly: options.readers?.keepSessionsReadOnly ?? true
    })
    const position = ReadersInternal.positionOf({ leases, tell, dialect })
    const routes = Routes.make({
      runner,
      reads,
      mode: failover.mode,
      maxStaleness: options.readers?.maxStaleness,
      recover: failover.recover({ epoch: INITIAL_EPOCH, cause: undefined }),
      position
    })

    const client = yield* SqlClientInternal.make({
      routes,
      compiler: options.compiler,
      transformRows: options.transformRows,
      spanAttributes: options.spanAttributes
    })

    return {
      client,
      failover,
      readers: ReadersInternal.serviceOf(fleet, position),
      ready: routes.ready,
      notifications: (listen) => runner.notifications(listen, open),
      stats: () => ({
        host: router.current()?.host,
        ...(router.current()?.stats() ?? { open: 0, idle: 0, waiting: 0 })
      })
    } satisfies SqlFailover
  })

/**
 * How a transaction is isolated, in the standard's words.
 *
 * @since 0.1.0
 * @category models
 */
export interface Isolation {
  readonly level?: "read committed" | "repeatable read" | "serializable" | undefined
  readonly readOnly?: boolean | undefined
  /** A serializable read-only transaction that waits for a moment in which it cannot fail. */
  readonly deferrable?: boolean | undefined
}

const beginOf = ({ deferrable, level, readOnly }: Isolation): string =>
  [
    "BEGIN",
    level === undefined ? "" : ` ISOLATION LEVEL ${level.toUpperCase()}`,
    readOnly === true ? " READ ONLY" : "",
    deferrable === true ? " DEFERRABLE" : ""
  ].join("")

/**
 * The isolation of the transactions that begin inside this effect. Nested ones are savepoints, and have
 * that of the outermost.
 *
 * @example
 * ```ts
 * import { SqlClient } from "@effect/sql"
 * import { Effect } from "effect"
 * import { SqlFailover } from "effect-failover"
 *
 * const report = Effect.flatMap(SqlClient.SqlClient, (sql) =>
 *   sql.withTransaction(sql`SELECT sum(balance) FROM account`)
 * ).pipe(SqlFailover.withIsolation({ level: "serializable", readOnly: true }))
 * ```
 *
 * @since 0.1.0
 * @category combinators
 */
export const withIsolation: {
  (isolation: Isolation): <A, E, R>(self: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R>
  <A, E, R>(self: Effect.Effect<A, E, R>, isolation: Isolation): Effect.Effect<A, E, R>
} = dual(2, <A, E, R>(self: Effect.Effect<A, E, R>, isolation: Isolation): Effect.Effect<A, E, R> =>
  Effect.locally(self, currentBegin, beginOf(isolation))
)
