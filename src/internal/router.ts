/**
 * Which pool statements go to. There is one pool per epoch: when a newer writer is confirmed its pool
 * takes over, and the old one is cut, so that nothing is ever sent to a host of an older epoch.
 *
 * @internal
 */
import { Effect, Exit, Scope } from "effect"
import type { Session } from "../Connector.js"
import { SessionError } from "../Connector.js"
import type { Rejection, Writer } from "../TopologyState.js"
import { confirmedWriter } from "../TopologyState.js"
import type { Host } from "../Host.js"
import * as HostPool from "../HostPool.js"
import type { Topology } from "../Topology.js"

/** @internal */
export interface Router {
  /** The pool of the confirmed writer, if there is one now. Asked by every statement. */
  readonly ready: () => HostPool.HostPool | undefined
  readonly current: () => HostPool.HostPool | undefined
  /** Makes the writer's pool the current one and opens a connection in it. */
  readonly connect: (writer: Writer) => Effect.Effect<void, SessionError | Rejection>
  /** Ends all that hangs on the present pool. */
  readonly abandon: Effect.Effect<void>
}

/** @internal */
export const make = (options: {
  readonly topology: Topology
  readonly settings: HostPool.Settings
  readonly open: (host: Host, incarnation?: string) => Effect.Effect<Session, SessionError>
  readonly rejectionOf: (host: Host, cause: unknown) => Rejection | undefined
}): Effect.Effect<Router, never, Scope.Scope> =>
  Effect.gen(function* () {
    const { topology } = options
    const parent = yield* Effect.scope
    let current:
      { readonly pool: HostPool.HostPool; readonly scope: Scope.CloseableScope } | undefined

    const ready = () => {
      const pool = current?.pool
      return pool !== undefined &&
        !pool.isCut() &&
        confirmedWriter(topology.unsafeCurrent())?.epoch === pool.epoch
        ? pool
        : undefined
    }

    /** The pool of this writer; a pool of an older epoch is cut the moment the newer one takes over. */
    const poolOf = (writer: Writer): Effect.Effect<HostPool.HostPool> =>
      Effect.uninterruptible(
        Effect.gen(function* () {
          const previous = current
          if (previous?.pool.epoch === writer.epoch && !previous.pool.isCut()) return previous.pool
          const scope = yield* Scope.fork(parent, parent.strategy)
          const pool = yield* HostPool.make({
            host: writer.host,
            epoch: writer.epoch,
            settings: options.settings,
            open: options.open(writer.host, writer.incarnation)
          }).pipe(Scope.extend(scope))
          current = { pool, scope }
          if (previous !== undefined) yield* Scope.close(previous.scope, Exit.void)
          return pool
        })
      )

    // In the step of the confirmation: whoever waits for the old pool, or holds a connection of it, must
    // not reach the old writer even once more.
    const ended = topology.unsafeOnChange((state) => {
      const writer = confirmedWriter(state)
      if (writer !== undefined && current !== undefined && current.pool.epoch < writer.epoch) {
        current.pool.cut()
      }
    })
    yield* Effect.addFinalizer(() => Effect.sync(ended))

    return {
      ready,
      current: () => current?.pool,
      connect: (writer) =>
        Effect.flatMap(poolOf(writer), (pool) =>
          Effect.mapError(
            pool.warm,
            (error) => options.rejectionOf(writer.host, error.cause) ?? error
          )
        ),
      abandon: Effect.sync(() => current?.pool.cut())
    } satisfies Router
  })

/** @internal */
export const notTheWriter = (host: Host): SessionError =>
  new SessionError({
    cause: new Error(
      `${host.id} was confirmed as the writer and is in recovery: it takes no writes`
    ),
    fate: "NotSent"
  })
