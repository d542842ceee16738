/**
 * Connections to the hosts that may become the writer, opened while the writer is being searched. Most
 * of a failover's last stage is TCP, TLS and log-in; a spare has that behind it when the verdict comes.
 *
 * A spare is checked and set up like any new connection before it is used. The check is made once before,
 * and its answer thrown away: a session's first query is its slowest, and nobody waits for this one.
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
  readonly take: (host: Host.Host) => Session | undefined
}

/** @internal */
export const make = (
  connect: (host: Host.Host) => Effect.Effect<Session, SessionError>,
  check: (session: Session) => Effect.Effect<unknown, SessionError>
): Spares => {
  const spares = new Map<string, Session>()

  const take = (host: Host.Host): Session | undefined => {
    const session = spares.get(Host.address(host))
    spares.delete(Host.address(host))
    return session?.isOpen() === true ? session : undefined
  }

  const prepareOne = (host: Host.Host) =>
    Effect.uninterruptibleMask((restore) =>
      Effect.flatMap(restore(connect(host)), (session) =>
        // Until its check is over nobody may have it.
        Effect.zipRight(
          Effect.onError(restore(check(session)), () => Effect.sync(() => session.destroy())),
          Effect.suspend(() => {
            spares.set(Host.address(host), session)
            return Effect.addFinalizer(() => Effect.sync(() => take(host)?.destroy()))
          })
        )
      )
    ).pipe(Effect.ignore, Effect.forkScoped)

  return {
    prepare: (hosts) => Effect.forEach(hosts, prepareOne, { discard: true }),
    take
  }
}
