/** A connector that tells what passes through it. */
import { Effect, Stream } from "effect"
import type { Connector, Host } from "effect-failover"

/** What is known of a session from outside. */
export interface Observed {
  readonly host: Host.Host
  readonly openedAt: number
  isOpen: boolean
}

export interface Observer<S extends Observed> {
  readonly opened: (host: Host.Host) => S
  readonly closed: (session: S) => void
  /** Right before the statement is handed over. */
  readonly sending: (session: S, request: Connector.Request) => void
  /** It was answered, or it failed. Not called if its caller gave it up. */
  readonly ended: (
    session: S,
    request: Connector.Request,
    error: Connector.SessionError | undefined,
    result: Connector.Row
  ) => void
}

const observeSession = <S extends Observed>(
  inner: Connector.Session,
  observer: Observer<S>
): Connector.Session => {
  const observed = observer.opened(inner.host)
  const { submit } = inner
  inner.onClose(() => {
    observed.isOpen = false
    observer.closed(observed)
  })
  return {
    host: inner.host,
    openedAt: inner.openedAt,
    isOpen: () => inner.isOpen(),
    onClose: (listener) => inner.onClose(listener),
    execute: (request) =>
      Effect.suspend(() => {
        observer.sending(observed, request)
        return Effect.tapBoth(inner.execute(request), {
          onFailure: (error) =>
            Effect.sync(() => observer.ended(observed, request, error, undefined)),
          onSuccess: (result) =>
            Effect.sync(() => observer.ended(observed, request, undefined, result))
        })
      }),
    ...(submit === undefined
      ? {}
      : {
          submit: (request, done) => {
            observer.sending(observed, request)
            return submit.call(inner, request, (error, result) => {
              observer.ended(observed, request, error, result)
              done(error, result)
            })
          }
        }),
    stream: (request) =>
      Stream.suspend(() => {
        observer.sending(observed, request)
        return inner.stream(request)
      }),
    notifications: inner.notifications,
    destroy: () => inner.destroy()
  }
}

export const observe = <S extends Observed>(
  connector: Connector.Connector,
  observer: Observer<S>
): Connector.Connector => ({
  system: connector.system,
  connect: (host, options) =>
    Effect.map(connector.connect(host, options), (session) => observeSession(session, observer))
})
