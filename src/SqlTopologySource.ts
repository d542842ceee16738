/**
 * Asks SQL hosts for the topology: a connector opens the line, a dialect knows the questions.
 *
 * The dialect is found out once, on the first host that answers, and remembered.
 *
 * @since 0.1.0
 */
import type { Duration } from "effect"
import { Deferred, Effect, FiberId } from "effect"
import type { Connector, Session, SessionError } from "./Connector.js"
import type { Dialect, Naming, Query } from "./Dialect.js"
import type { ConfigurationError } from "./Errors.js"
import type { ErrorClassifier } from "./ErrorClassifier.js"
import * as Classifier from "./ErrorClassifier.js"
import type * as Host from "./Host.js"
import type { TopologySource, Watch } from "./Topology.js"
import { SourceError } from "./Topology.js"

/**
 * @since 0.1.0
 * @category models
 */
export interface Options extends Naming {
  readonly connector: Connector
  /** In the order in which they are tried; the last one is taken if no other recognises the server. */
  readonly dialects: readonly [Dialect, ...ReadonlyArray<Dialect>]
  readonly classifier: ErrorClassifier
  readonly connectTimeout: Duration.Duration
}

/**
 * @since 0.1.0
 * @category models
 */
export interface SqlTopologySource extends TopologySource {
  /** The dialect in use: the one recognised, the last of the list before. */
  readonly dialect: () => Dialect
}

/**
 * A `Query` on this session.
 *
 * @since 0.1.0
 * @category constructors
 */
export const query =
  (session: Session): Query =>
  (sql) =>
    session.execute({ sql, params: [], shape: "values" })

/**
 * @since 0.1.0
 * @category constructors
 */
export const make = (options: Options): SqlTopologySource => {
  const { classifier, connector, dialects } = options
  const fallback = dialects[dialects.length - 1] ?? dialects[0]
  let known: Dialect | undefined = dialects.length === 1 ? fallback : undefined

  const sourceError =
    (host: Host.Host) =>
    (error: SessionError | ConfigurationError): SourceError =>
      error._tag === "ConfigurationError"
        ? new SourceError({ description: error.message, rejection: error, cause: error })
        : new SourceError({
            description: Classifier.describe(error.cause),
            rejection: Classifier.rejection(classifier, host, error.cause),
            cause: error.cause
          })

  /** A dialect whose question the server refuses is not the one; a lost connection is another matter. */
  const recognise = (session: Session): Effect.Effect<Dialect, SessionError> =>
    Effect.gen(function* () {
      if (known !== undefined) return known
      for (const dialect of dialects) {
        const speaks = yield* Effect.catchAll(dialect.detect(query(session)), (error) =>
          session.isOpen() ? Effect.succeed(false) : Effect.fail(error)
        )
        if (speaks) return (known = dialect)
      }
      return fallback
    })

  const watchOf = (session: Session, dialect: Dialect, probed: Host.Host): Watch => {
    const run = query(session)
    const closed = Deferred.unsafeMake<void>(FiberId.none)
    session.onClose(() => Deferred.unsafeDone(closed, Effect.void))
    let parks = dialect.awaitPromotion
    let isReader = false
    return {
      ask: dialect.observe(run, { probed, hostOf: options.hostOf }).pipe(
        Effect.tap((observation) => Effect.sync(() => (isReader = observation.role === "reader"))),
        Effect.mapError(sourceError(probed))
      ),
      pause: (atMost) =>
        parks === undefined || !isReader
          ? Effect.sleep(atMost)
          : Effect.catchAll(parks(run, atMost), () => {
              // Refused (no plpgsql, a pooler in between): from now on it is polled.
              parks = undefined
              return session.isOpen() ? Effect.sleep(atMost) : Effect.void
            }),
      closed: Deferred.await(closed)
    }
  }

  return {
    dialect: () => known ?? fallback,
    watch: (host) =>
      Effect.uninterruptibleMask((restore) =>
        Effect.tap(
          restore(connector.connect(host, { timeout: options.connectTimeout })),
          (session) => Effect.addFinalizer(() => Effect.sync(() => session.destroy()))
        )
      ).pipe(
        Effect.flatMap((session) =>
          Effect.map(recognise(session), (dialect) => watchOf(session, dialect, host))
        ),
        Effect.mapError(sourceError(host))
      )
  }
}
