/**
 * Connections to the hosts that may become the writer, opened while the writer is being searched. Most
 * of a failover's last stage is TCP, TLS and log-in; a spare has that behind it when the verdict comes.
 *
 * A spare asks at once which life of which server it leads to. If it is the very one that is confirmed as the
 * writer, that is proof enough, and nobody waits for another answer; it lasts as long as the connection.
 *
 * @internal
 */
import type { Scope } from "effect"
import { Effect } from "effect"
import type { Session, SessionError } from "../Connector.js"
import * as Host from "../Host.js"

/** @internal */
export interface Spares {
  /** Starts to connect, and does not wait for it. What nobody took is given up with the scope. */
  readonly prepare: (hosts: ReadonlyArray<Host.Host>) => Effect.Effect<void, never, Scope.Scope>
  /** The host's spare, or else a connection that is opened now, and of which nothing is known. */
  readonly takeOr: <E>(host: Host.Host, open: Effect.Effect<Session, E>) => Effect.Effect<Spare, E>
}

/** @internal */
export interface Spare {
  readonly session: Session
  /** The present life of the server that it leads to. */
  readonly incarnation: unknown
}

/** @internal */
export const make = (
  connect: (host: Host.Host) => Effect.Effect<Session, SessionError>,
  incarnationOf: (session: Session) => Effect.Effect<unknown, SessionError>
): Spares => {
  const spares = new Map<string, Spare>()

  const take = (host: Host.Host): Spare | undefined => {
    const spare = spares.get(Host.address(host))
    spares.delete(Host.address(host))
    return spare?.session.isOpen() === true ? spare : undefined
  }

  const prepareOne = (host: Host.Host) =>
    Effect.uninterruptibleMask((restore) =>
      Effect.flatMap(restore(connect(host)), (session) =>
        // Until it has its answer nobody may have it.
        Effect.flatMap(
          Effect.onError(restore(incarnationOf(session)), () =>
            Effect.sync(() => session.destroy())
          ),
          (incarnation) => {
            spares.set(Host.address(host), { session, incarnation })
            return Effect.addFinalizer(() => Effect.sync(() => take(host)?.session.destroy()))
          }
        )
      )
    ).pipe(Effect.ignore, Effect.forkScoped)

  return {
    prepare: (hosts) => Effect.forEach(hosts, prepareOne, { discard: true }),
    takeOr: (host, open) =>
      Effect.suspend(() => {
        const spare = take(host)
        return spare === undefined
          ? Effect.map(open, (session) => ({ session, incarnation: undefined }))
          : Effect.succeed(spare)
      })
  }
}
