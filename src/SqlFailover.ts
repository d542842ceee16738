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
import { Effect, Stream } from "effect"
import type { Connector, ListenEvent, Session, SessionError } from "./Connector.js"
import type { Dialect } from "./Dialect.js"
import type { ErrorClassifier } from "./ErrorClassifier.js"
import * as Classifier from "./ErrorClassifier.js"
import * as Failover from "./Failover.js"
import type { Host } from "./Host.js"
import type { Settings as PoolSettings, Stats } from "./HostPool.js"
import type { TransformRows } from "./internal/connection.js"
import * as Leases from "./internal/leases.js"
import * as Router from "./internal/router.js"
import * as Runner from "./internal/runner.js"
import * as SqlClientInternal from "./internal/sqlClient.js"
import * as Spares from "./internal/spares.js"
import * as Tell from "./internal/tell.js"
import { query } from "./SqlTopologySource.js"
import type { Topology } from "./Topology.js"
import type { SqlError } from "@effect/sql/SqlError"
import type { Duration } from "effect"

/**
 * @since 0.1.0
 * @category models
 */
export interface Options {
  readonly topology: Topology
  readonly connector: Connector
  readonly classifier: ErrorClassifier
  /** The dialect in use, asked anew for each connection: it is found out on the first one. */
  readonly dialect: () => Dialect
  readonly compiler: Statement.Compiler
  readonly transformRows?: TransformRows | undefined
  readonly spanAttributes: ReadonlyArray<readonly [string, unknown]>
  readonly pool: PoolSettings
  readonly connectTimeout: Duration.Duration
  readonly failoverMode?: Failover.FailoverMode | undefined
  readonly failoverTimeout?: Duration.Duration | undefined
  /** Run on every new physical connection, before its first statement. */
  readonly sessionSetup?:
    ((sql: Statement.Constructor) => Effect.Effect<unknown, SqlError>) | undefined
}

/**
 * @since 0.1.0
 * @category models
 */
export interface SqlFailover {
  readonly client: SqlClient.SqlClient
  readonly failover: Failover.Failover
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
    const spares = Spares.make(connect)

    /** A connection whose host has just said that it is the writer, and whose session is set up. */
    const open = (host: Host): Effect.Effect<Session, SessionError> =>
      Effect.uninterruptibleMask((restore) =>
        Effect.flatMap(
          Effect.suspend(() => {
            const spare = spares.take(host)
            return spare === undefined ? restore(connect(host)) : Effect.succeed(spare)
          }),
          (session) =>
            restore(
              Effect.flatMap(options.dialect().isWriter(query(session)), (isWriter) =>
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
        )
      )

    const router = yield* Router.make({
      topology,
      settings: options.pool,
      open,
      rejectionOf: (host, cause) => Classifier.rejection(classifier, host, cause)
    })

    const failover = yield* Failover.make({
      topology,
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
          return pool === undefined || router.ready() !== undefined
            ? Effect.void
            : Effect.ignore(failover.recover({ epoch: pool.epoch, cause: undefined }))
        })
      ),
      Effect.interruptible,
      Effect.forkScoped
    )

    const runner = Runner.make({
      topology,
      router,
      leases: Leases.make({
        topology,
        router,
        failover,
        classifier,
        acquireTimeout: options.pool.acquireTimeout
      }),
      tell: Tell.make({ topology, failover, classifier }),
      isWriter: (session) => options.dialect().isWriter(query(session))
    })

    const client = yield* SqlClientInternal.make({
      runner,
      compiler: options.compiler,
      transformRows: options.transformRows,
      spanAttributes: options.spanAttributes
    })

    return {
      client,
      failover,
      notifications: (listen) => runner.notifications(listen, open),
      stats: () => ({
        host: router.current()?.host,
        ...(router.current()?.stats() ?? { open: 0, idle: 0, waiting: 0 })
      })
    } satisfies SqlFailover
  })
