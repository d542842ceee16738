/**
 * Finds a connection to the confirmed writer for work that has not been sent yet, however often the
 * client must move for it. Bounded by `failoverTimeout` from the first trouble.
 *
 * @internal
 */
import { SqlError } from "@effect/sql"
import type { Scope } from "effect"
import { Clock, Duration, Effect, Random } from "effect"
import type { SessionError } from "../Connector.js"
import type { ErrorClassifier } from "../ErrorClassifier.js"
import * as Classifier from "../ErrorClassifier.js"
import { FailoverFailed } from "../Errors.js"
import type { Failover } from "../Failover.js"
import type { Host } from "../Host.js"
import type { HostPool } from "../HostPool.js"
import { PoolCut } from "../HostPool.js"
import type { Topology } from "../Topology.js"
import { tried } from "../Topology.js"
import { INITIAL_EPOCH } from "../TopologyState.js"
import type { Router } from "./router.js"
import type { Lease } from "./tell.js"
import { sqlError } from "./tell.js"

/** @internal */
export type Restore = <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R>

/** What one piece of work has been through before it was sent. @internal */
export interface Trouble {
  since: number | undefined
  rounds: number
}

/** @internal */
export const noTrouble = (): Trouble => ({ since: undefined, rounds: 0 })

/** @internal */
export interface Leases {
  /** To be called where it cannot be interrupted: the caller owes a `give`. */
  readonly acquire: (restore: Restore, trouble: Trouble) => Effect.Effect<Lease, SqlError.SqlError>
  /** Given back with the scope. */
  readonly scoped: Effect.Effect<Lease, SqlError.SqlError, Scope.Scope>
  /** Before work is tried again: fails when its time is over, else waits a little longer each time. */
  readonly again: (
    trouble: Trouble,
    from: Host | undefined,
    cause: unknown
  ) => Effect.Effect<void, SqlError.SqlError>
  /** Moves the client for work that has not been sent: nothing of it is lost. */
  readonly move: (epoch: number, cause: unknown) => Effect.Effect<void, SqlError.SqlError>
  /** Moves the client until it has a writer. */
  readonly writer: Effect.Effect<HostPool, SqlError.SqlError>
  /** A connection was refused: returns if it is worth another try. */
  readonly refused: (
    pool: HostPool,
    error: SessionError,
    trouble: Trouble
  ) => Effect.Effect<void, SqlError.SqlError>
}

/** A saturated server is asked again after about this long: a connection slot lives as long as a session. */
const SATURATED_PAUSE = Duration.millis(50)

/** The first repetition is at once, later ones back off from 10 ms to a second. */
const pauseAfter = (rounds: number): Effect.Effect<void> =>
  rounds <= 1
    ? Effect.void
    : Effect.flatMap(Random.nextRange(0.5, 1), (factor) =>
        Effect.sleep(Duration.millis(Math.min(10 * 2 ** (rounds - 2), 1000) * factor))
      )

/** @internal */
export const make = (options: {
  readonly topology: Topology
  readonly router: Router
  readonly failover: Failover
  readonly classifier: ErrorClassifier
  readonly acquireTimeout: Duration.Duration
}): Leases => {
  const { classifier, failover, router, topology } = options

  const again: Leases["again"] = (trouble, from, cause) =>
    Effect.flatMap(Clock.currentTimeMillis, (now) => {
      const since = (trouble.since ??= now)
      trouble.rounds++
      return now - since <= Duration.toMillis(failover.timeout)
        ? pauseAfter(trouble.rounds)
        : Effect.fail(
            sqlError(
              new FailoverFailed({
                reason: "Timeout",
                outcome: "NotExecuted",
                from,
                tried: tried(topology.unsafeCurrent()),
                elapsed: Duration.millis(now - since),
                attempts: trouble.rounds,
                cause
              })
            )
          )
    })

  const move: Leases["move"] = (epoch, cause) =>
    Effect.asVoid(Effect.mapError(failover.recover({ epoch, cause }), sqlError))

  const saturated = (trouble: Trouble, cause: unknown) =>
    Effect.flatMap(Clock.currentTimeMillis, (now) =>
      now - (trouble.since ?? now) > Duration.toMillis(options.acquireTimeout)
        ? Effect.fail(new SqlError.SqlError({ cause, message: Classifier.describe(cause) }))
        : Effect.sleep(SATURATED_PAUSE)
    )

  const refused: Leases["refused"] = (pool, error, trouble) =>
    Effect.gen(function* () {
      const { cause } = error
      const rejection = Classifier.rejection(classifier, pool.host, cause)
      if (rejection !== undefined) return yield* Effect.fail(sqlError(rejection))
      yield* again(trouble, pool.host, cause)
      if (cause instanceof PoolCut) return
      return yield* Classifier.classify(classifier, cause)._tag === "Saturated"
        ? saturated(trouble, cause)
        : move(pool.epoch, cause)
    })

  const writer: Leases["writer"] = Effect.suspend(() => {
    const pool = router.ready()
    if (pool !== undefined) return Effect.succeed(pool)
    // Who had no connection has lost none: others that share the topology may be connected in this epoch.
    const epoch = router.current()?.epoch ?? INITIAL_EPOCH
    return Effect.zipRight(move(epoch, undefined), Effect.yieldNow()).pipe(Effect.zipRight(writer))
  })

  const acquire: Leases["acquire"] = (restore, trouble) =>
    Effect.flatMap(restore(writer), (pool) =>
      Effect.matchEffect(restore(pool.take), {
        onSuccess: (session) => Effect.succeed({ pool, session }),
        onFailure: (error) => {
          if (error._tag === "SessionError") {
            return Effect.zipRight(
              restore(refused(pool, error, trouble)),
              acquire(restore, trouble)
            )
          }
          // While the writer is in doubt it is the failover that one waits for, not a connection.
          return router.ready() === pool
            ? Effect.fail(sqlError(error))
            : Effect.zipRight(restore(again(trouble, pool.host, error)), acquire(restore, trouble))
        }
      })
    )

  return {
    acquire,
    again,
    move,
    writer,
    refused,
    scoped: Effect.uninterruptibleMask((restore) =>
      Effect.tap(acquire(restore, noTrouble()), ({ pool, session }) =>
        Effect.addFinalizer(() => Effect.sync(() => pool.give(session)))
      )
    )
  }
}
