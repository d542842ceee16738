/**
 * Opens sessions on the simulated servers.
 *
 * @internal
 */
import { Duration, Effect } from "effect"
import type { Connector } from "../../../Connector.js"
import { SessionError } from "../../../Connector.js"
import * as Host from "../../../Host.js"
import { Backend } from "./backend.js"
import type { Server } from "./server.js"
import * as Errors from "./serverError.js"
import { Session } from "./session.js"
import type { World } from "./world.js"

const nothing = (): void => undefined

/** One attempt: there, in, and back, each step as soon as host and network let it. */
class Attempt {
  private isOver = false
  /** Calls off what the attempt waits for. */
  private stop: () => void = nothing
  private stopClock: () => void = nothing
  private backend: Backend | undefined
  private session: Session | undefined
  private readonly openedAt: number

  constructor(
    private readonly world: World,
    private readonly server: Server,
    private readonly host: Host.Host,
    private readonly queryTimeout: Duration.Duration | undefined,
    private readonly done: (result: Effect.Effect<Session, SessionError>) => void
  ) {
    this.openedAt = world.timers.now()
  }

  begin(timeout: Duration.Duration): void {
    const { delay, timers } = this.world
    this.stopClock = timers.later(Duration.toMillis(timeout), () =>
      this.fail(Errors.connectTimeout())
    )
    this.wait(delay(), () => this.arrive())
  }

  /** Also if the session is open and nobody took note of it. */
  abandon(): void {
    this.session?.destroy()
    if (this.isOver) return
    this.close()
    this.backend?.end()
  }

  private arrive(): void {
    const { server } = this
    if (!server.hearsClients()) return this.again(() => this.arrive())
    if (!server.isUp) return this.backWith(Errors.refused(Host.address(this.host)))
    // The kernel of a stopped server takes connections; nobody speaks on them.
    if (server.isFrozen) return this.again(() => this.arrive())
    if (server.refusal !== undefined) {
      return this.backWith(Errors.serverError(server.refusal, { isFatal: true }))
    }
    this.wait(server.slowBy, () => this.logIn())
  }

  private logIn(): void {
    const { server, world } = this
    if (!server.isUp) return this.backWith(new Error("Connection terminated unexpectedly"))
    if (server.isFrozen) return this.again(() => this.logIn())
    const backend = new Backend(world, server)
    this.backend = backend
    this.wait(world.delay(), () => this.open(backend))
  }

  private open(backend: Backend): void {
    const { server } = this
    if (!server.hearsClients()) return this.again(() => this.open(backend))
    if (backend.isEnded) return this.fail(new Error("Connection terminated unexpectedly"))
    this.close()
    this.session = new Session(this.world, this.host, this.openedAt, backend, this.queryTimeout)
    this.done(Effect.succeed(this.session))
  }

  private backWith(cause: unknown): void {
    this.wait(this.world.delay(), () => this.deliver(cause))
  }

  private deliver(cause: unknown): void {
    if (this.server.hearsClients()) this.fail(cause)
    else this.again(() => this.deliver(cause))
  }

  private wait(millis: number, then: () => void): void {
    const stop = this.world.timers.after(millis, () => {
      if (!this.isOver) then()
    })
    if (millis > 0 && !this.isOver) this.stop = stop
  }

  private again(then: () => void): void {
    this.stop = this.server.knock(then)
  }

  private fail(cause: unknown): void {
    if (this.isOver) return
    this.abandon()
    this.done(Effect.fail(new SessionError({ cause, fate: "NotSent" })))
  }

  private close(): void {
    this.isOver = true
    this.stop()
    this.stopClock()
  }
}

/** @internal */
export const make = (
  world: World,
  options: { readonly queryTimeout?: Duration.Duration | undefined }
): Connector => ({
  system: "postgresql",
  connect: (host, { timeout }) =>
    Effect.async((resume) => {
      // By its address, which a client writes in lower case.
      const server = [...world.servers.values()].find((_) => _.host.host === host.host)
      if (server === undefined) {
        const cause = Errors.notFound(host.host)
        return resume(Effect.fail(new SessionError({ cause, fate: "NotSent" })))
      }
      const attempt = new Attempt(world, server, host, options.queryTimeout, resume)
      attempt.begin(timeout)
      return Effect.sync(() => attempt.abandon())
    })
})
