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
import { Duration, Deferred, Effect, FiberId, Option } from "effect"
import type { Connector, Session, SessionError } from "./Connector.js"
import type { Context, Dialect, Naming, Query } from "./Dialect.js"
import type { ConfigurationError } from "./Errors.js"
import type { ErrorClassifier } from "./ErrorClassifier.js"
import * as Classifier from "./ErrorClassifier.js"
import type * as Host from "./Host.js"
import type { TopologySource, Watch } from "./TopologySource.js"
import { SourceError } from "./TopologySource.js"

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

const INSUFFICIENT_PRIVILEGE = "42501"

/** Syntax error or access rule violation, invalid schema name, feature not supported. */
const isRefusedForGood = (sqlState: string): boolean => /^(?:42|3F|0A)/.test(sqlState)

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

  const recognise = (session: Session): Effect.Effect<Dialect, SessionError> =>
    Effect.gen(function* () {
      if (known !== undefined) return known
      let isDecided = true
      for (const dialect of dialects) {
        const speaks = yield* Effect.catchAll(dialect.detect(query(session)), (error) => {
          const state = Classifier.sqlState(error.cause) ?? ""
          if (!session.isOpen() || !isRefusedForGood(state)) return Effect.fail(error)
          isDecided = isDecided && state !== INSUFFICIENT_PRIVILEGE
          return Effect.succeed(false)
        })
        if (!speaks) continue
        // Of two lines that ask at the same time, the first one decides for both.
        if (isDecided) known ??= dialect
        return known ?? dialect
      }
      return fallback
    })

  const watchOf = (session: Session, dialect: Dialect, probed: Host.Host): Watch => {
    const run = query(session)
    const closed = Deferred.unsafeMake<void>(FiberId.none)
    session.onClose(() => Deferred.unsafeDone(closed, Effect.void))
    let parks = dialect.awaitPromotion
    let isReader = false
    // The wait ended before its time and the host says still that it is a reader: its list of members lags
    // behind its role. It is left alone for one pause, or it would be asked without any.
    let endedEarly = false
    const park = (
      wait: NonNullable<typeof parks>,
      atMost: Duration.Duration
    ): Effect.Effect<void, SessionError> =>
      Effect.flatMap(Effect.timed(wait(run, atMost)), ([elapsed]) =>
        Effect.sync(() => {
          endedEarly = Duration.lessThan(elapsed, Duration.times(atMost, 0.5))
        })
      )
    const context: Context = {
      probed,
      hostOf: options.hostOf,
      hostAt: options.hostAt ?? Option.some,
      seeds: options.seeds ?? []
    }
    return {
      ask: Effect.suspend(() => dialect.observe(run, { ...context, wasReader: isReader })).pipe(
        Effect.tap((observation) => Effect.sync(() => (isReader = observation.role === "reader"))),
        Effect.mapError(sourceError(probed))
      ),
      pause: (atMost) =>
        Effect.suspend(() => {
          if (parks === undefined || !isReader || endedEarly) {
            endedEarly = false
            return Effect.sleep(atMost)
          }
          return Effect.catchAll(park(parks, atMost), () => {
            // Refused (no plpgsql, a pooler in between): from now on it is polled.
            parks = undefined
            return session.isOpen() ? Effect.sleep(atMost) : Effect.void
          })
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
