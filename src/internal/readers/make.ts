/**
 * What a client reads with: the fleet, and what runs statements on it.
 *
 * @internal
 */
import type { SqlError } from "@effect/sql/SqlError"
import type { Scope } from "effect"
import type { Duration } from "effect"
import { Clock, Effect, Either } from "effect"
import type { Session } from "../../Connector.js"
import { SessionError } from "../../Connector.js"
import type { Dialect } from "../../Dialect.js"
import type { ErrorClassifier } from "../../ErrorClassifier.js"
import { ConfigurationError } from "../../Errors.js"
import type { Host } from "../../Host.js"
import type * as HostPool from "../../HostPool.js"
import type { Readers } from "../../Readers.js"
import { query } from "../../SqlTopologySource.js"
import type { Topology } from "../../Topology.js"
import type { Leases } from "../leases.js"
import type { Lease, Tell } from "../tell.js"
import { answered, silentSetUp, sqlError } from "../tell.js"
import * as Fleet from "./fleet.js"
import * as Hedging from "./hedging.js"
import type { Member } from "./member.js"
import * as Reads from "./reads.js"

/** A reader that has not replayed a position is asked again after this long, then more and more seldom. */
const SHORTEST_LOOK_MILLIS = 1
const LONGEST_LOOK_MILLIS = 20

/** @internal */
export interface Options {
  readonly topology: Topology
  readonly classifier: ErrorClassifier
  readonly dialect: () => Dialect
  readonly settings: Fleet.Settings
  readonly pool: HostPool.Settings
  readonly connect: (host: Host) => Effect.Effect<Session, SessionError>
  readonly setUp: (session: Session) => Effect.Effect<unknown, SessionError>
  readonly connectTimeout: Duration.Duration
  readonly failoverTimeout: Duration.Duration
  /** Not behind a pooler: what is set on a session there is set for others. */
  readonly mayKeepSessionsReadOnly: boolean
}

const notAReader = (host: Host): SessionError =>
  new SessionError({
    cause: new Error(`${host.id} is not a reader any more`),
    fate: "NotSent"
  })

const isReached =
  (dialect: () => Dialect) =>
  (session: Session, positions: ReadonlyArray<string>, within: number) =>
    Effect.gen(function* () {
      const { freshness } = dialect()
      if (freshness === undefined) return false
      const since = yield* Clock.currentTimeMillis
      for (let pause = SHORTEST_LOOK_MILLIS; ; pause = Math.min(2 * pause, LONGEST_LOOK_MILLIS)) {
        const reached = yield* freshness.reached(query(session), positions)
        if (reached === positions.length) return true
        if ((yield* Clock.currentTimeMillis) + pause - since > within) return false
        yield* Effect.sleep(pause)
      }
    })

/** @internal */
export const make = (
  options: Options
): Effect.Effect<
  { readonly fleet: Fleet.Fleet; readonly reads: Reads.Reads },
  never,
  Scope.Scope
> =>
  Effect.gen(function* () {
    const { connectTimeout, dialect } = options

    /** A connection that can only read, where the member is what it is taken for. */
    const prepare = (session: Session, member: Member): Effect.Effect<unknown, SessionError> =>
      Effect.gen(function* () {
        const { isWriter, readOnly } = dialect()
        if (readOnly !== undefined && options.mayKeepSessionsReadOnly) {
          yield* readOnly(query(session))
        }
        const takesWrites = yield* isWriter(query(session))
        if (takesWrites && member.role !== "writer") {
          member.wake()
          return yield* notAReader(member.host)
        }
        return yield* options.setUp(session)
      }).pipe(
        Effect.timeoutFail({
          duration: connectTimeout,
          onTimeout: () => silentSetUp(member.host, connectTimeout)
        })
      )

    const fleet = yield* Fleet.make({
      topology: options.topology,
      settings: options.settings,
      pool: options.pool,
      dialect,
      classifier: options.classifier,
      connect: options.connect,
      open: (member) =>
        Effect.uninterruptibleMask((restore) =>
          Effect.flatMap(restore(options.connect(member.host)), (session) =>
            restore(prepare(session, member)).pipe(
              Effect.onError(() => Effect.sync(() => session.destroy())),
              Effect.as(session)
            )
          )
        )
    })

    const reads = Reads.make({
      topology: options.topology,
      fleet,
      classifier: options.classifier,
      failoverTimeout: options.failoverTimeout,
      hedge: yield* Hedging.make(fleet),
      cannotWrite: () => options.mayKeepSessionsReadOnly && dialect().readOnly !== undefined,
      isReached: isReached(dialect)
    })
    return { fleet, reads }
  })

/** The writer's position; none if readers cannot tell what they have. @internal */
export const positionOf = (options: {
  readonly leases: Leases
  readonly tell: Tell
  readonly dialect: () => Dialect
}): Effect.Effect<string | undefined, SqlError> => {
  const { dialect, leases, tell } = options
  type Position = string | undefined
  /** Moved: a question can be asked again. */
  const askOnce = (lease: Lease): Effect.Effect<Either.Either<Position, "Moved">, SqlError> => {
    const { freshness } = dialect()
    if (freshness === undefined) return Effect.succeed(Either.right(undefined))
    return Effect.matchEffect(freshness.position(query(lease.session)), {
      onSuccess: (position) => Effect.succeed(Either.right(position)),
      onFailure: (error) => {
        const moved = Effect.as(
          tell.move(lease, error.cause, "NotExecuted"),
          Either.left("Moved" as const)
        )
        if (error.fate !== "Answered" || tell.verdict(error) === "ConnectionLost") return moved
        // A writer that was demoted refuses: it has no position of its own any more.
        return Effect.flatMap(
          Effect.orElseSucceed(dialect().isWriter(query(lease.session)), () => false),
          (isWriter) => (isWriter ? Effect.fail(answered(error.cause)) : moved)
        )
      }
    })
  }
  const ask: Effect.Effect<Position, SqlError> = Effect.flatMap(
    Effect.scoped(Effect.flatMap(leases.scoped, askOnce)),
    Either.match({ onLeft: () => ask, onRight: Effect.succeed })
  )
  return ask
}

/** @internal */
export const serviceOf = (
  fleet: Fleet.Fleet,
  position: Effect.Effect<string | undefined, SqlError>
): Readers => ({
  position: Effect.filterOrElse(
    position,
    (_) => _ !== undefined,
    () =>
      Effect.fail(
        sqlError(
          new ConfigurationError({
            field: "dialect",
            problem: "has readers that cannot tell what they have replayed",
            hint: "read from the writer after a write: `Readers.readYourWrites` does"
          })
        )
      )
  ),
  hosts: Effect.sync(() =>
    fleet
      .members()
      .map(
        ({
          availability,
          connections,
          cpuPercent,
          host,
          lagMillis,
          lastError,
          latencyMillis,
          outstanding,
          role
        }) => ({
          host,
          role,
          availability,
          outstanding,
          connections,
          latencyMillis,
          lagMillis,
          cpuPercent,
          lastError
        })
      )
  )
})
