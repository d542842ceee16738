/**
 * A TCP proxy that breaks the network between a client and a server, without any privilege: it listens on 127.0.0.1,
 * passes bytes on, and does on command what networks do at the worst moment.
 *
 * | fault | new connections | present connections |
 * |---|---|---|
 * | `Pass` | connected to the target | bytes flow |
 * | `Latency` | connected | every byte, FIN and RST arrives `duration` later, in both directions |
 * | `BlackHole` | accepted, then silence | nothing flows, nothing is closed: a hung host |
 * | `Refuse` | ECONNREFUSED | untouched |
 * | `DropReplies` | connected | the server gets everything, the client gets nothing: the COMMIT that was never answered |
 *
 * `reset` cuts all present connections with a RST, whatever the fault is.
 *
 * @since 0.1.0
 */
import * as Net from "node:net"
import { Clock, Data, Duration, Effect, Schedule, type Scope } from "effect"
import * as Lane from "./internal/lane.js"
import * as Ports from "./internal/ports.js"

/**
 * What a proxy does to its connections.
 *
 * @since 0.1.0
 * @category models
 */
export type Fault = Data.TaggedEnum<{
  Pass: {}
  /** `duration` is one way: a round trip grows by twice as much. */
  Latency: { readonly duration: Duration.DurationInput }
  BlackHole: {}
  Refuse: {}
  DropReplies: {}
}>

/**
 * The constructors of `Fault`, with `$is` and `$match`.
 *
 * @since 0.1.0
 * @category constructors
 */
export const Fault = Data.taggedEnum<Fault>()

/**
 * The proxy's port could not be bound.
 *
 * @since 0.1.0
 * @category errors
 */
export class FaultProxyError extends Data.TaggedError("FaultProxyError")<{
  readonly message: string
  /** What to do about it. */
  readonly hint: string
  readonly cause?: unknown
}> {}

/**
 * A running proxy.
 *
 * @since 0.1.0
 * @category models
 */
export interface FaultProxy {
  /** Always 127.0.0.1. */
  readonly host: string
  /** Stays the same for the proxy's whole life, also through `Refuse`. */
  readonly port: number
  /**
   * Replaces the present fault, for new and for present connections. Bytes that were held back by `BlackHole` flow
   * again afterwards; bytes that `DropReplies` swallowed are lost. Fails only when, after `Refuse`, another process has
   * taken the port for more than 5 seconds.
   */
  readonly set: (fault: Fault) => Effect.Effect<void, FaultProxyError>
  /** The present fault. */
  readonly fault: Effect.Effect<Fault>
  /** Cuts all present connections with a RST to both sides. The fault stays what it is. */
  readonly reset: Effect.Effect<void>
  /** How many clients are connected. A client that went away during `BlackHole` counts until the hole is closed. */
  readonly connections: Effect.Effect<number>
}

interface Link {
  readonly client: Net.Socket
  server: Net.Socket | undefined
  up: Lane.Lane | undefined
  down: Lane.Lane | undefined
}

const open: Lane.Rules = { gate: "open", delay: 0 }
const held: Lane.Rules = { gate: "held", delay: 0 }
const dropped: Lane.Rules = { gate: "dropped", delay: 0 }

const rulesOf = (fault: Fault): { readonly up: Lane.Rules; readonly down: Lane.Rules } => {
  switch (fault._tag) {
    case "Pass":
    case "Refuse":
      return { up: open, down: open }
    case "BlackHole":
      return { up: held, down: held }
    case "DropReplies":
      return { up: open, down: dropped }
    case "Latency": {
      const delayed: Lane.Rules = { gate: "open", delay: Duration.toMillis(fault.duration) }
      return { up: delayed, down: delayed }
    }
  }
}

/** How long a port that `Refuse` gave up is waited for, should another process hold it for a moment. */
const relistenBound = Duration.seconds(5)

/**
 * Starts a proxy in front of `target`; it is gone, with all its connections, when the scope closes. Without `port` it
 * takes a free one.
 *
 * A target that refuses makes the client's connection end with ECONNRESET; a target that closes or resets closes or
 * resets the client's side at once.
 *
 * @example
 * ```ts
 * import { Effect } from "effect"
 * import * as FaultProxy from "effect-failover/testing/FaultProxy"
 *
 * const program = Effect.gen(function* () {
 *   const proxy = yield* FaultProxy.make({ target: { host: "127.0.0.1", port: 5432 } })
 *   yield* Effect.log(`clients connect to ${proxy.host}:${proxy.port}`)
 *   yield* proxy.set(FaultProxy.Fault.Latency({ duration: "20 millis" }))
 *   yield* proxy.set(FaultProxy.Fault.BlackHole())
 *   yield* proxy.set(FaultProxy.Fault.Pass())
 *   yield* proxy.reset
 * }).pipe(Effect.scoped)
 * ```
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = (options: {
  readonly target: { readonly host: string; readonly port: number }
  readonly port?: number
}): Effect.Effect<FaultProxy, FaultProxyError, Scope.Scope> =>
  Effect.gen(function* () {
    const links = new Set<Link>()
    let fault: Fault = Fault.Pass()
    let rules = rulesOf(fault)
    let listener: Net.Server | undefined
    let closed = false

    const forget = (link: Link): void => {
      if (!link.client.destroyed || link.server?.destroyed === false) return
      link.up?.close()
      link.down?.close()
      links.delete(link)
    }

    const dial = (link: Link): void => {
      const server = Net.connect({ ...options.target, allowHalfOpen: true, noDelay: true })
      link.server = server
      link.up = Lane.make(link.client, server, () => rules.up)
      link.down = Lane.make(server, link.client, () => rules.down)
      server.on("close", () => forget(link))
    }

    const accept = (client: Net.Socket): void => {
      const link: Link = { client, server: undefined, up: undefined, down: undefined }
      links.add(link)
      client.on("error", () => {})
      client.on("close", () => forget(link))
      if (fault._tag !== "BlackHole") dial(link)
    }

    const listen = (port: number): Effect.Effect<number, Error> =>
      Effect.async<number, Error>((resume) => {
        const server = Net.createServer(
          { allowHalfOpen: true, noDelay: true, pauseOnConnect: true },
          accept
        )
        server.once("error", (cause) => resume(Effect.fail(cause)))
        server.listen({ host: Ports.loopback, port, exclusive: true }, () => {
          listener = server
          // Such as EMFILE on accept: one client is not served, the proxy lives on.
          server.on("error", () => {})
          resume(Effect.succeed(port))
        })
      }).pipe(Effect.uninterruptible)

    const notListening = (port: number) => (cause: unknown) =>
      new FaultProxyError({
        message: `the fault proxy cannot listen on ${Ports.loopback}:${port}`,
        hint: "another process holds the port: leave `port` out to get a free one",
        cause
      })

    const shut = Effect.sync(() => {
      // Presently open sockets are not the listener's: they stay until they end themselves.
      listener?.close()
      listener = undefined
    })

    const resetAll = Effect.sync(() => {
      for (const link of [...links]) {
        Lane.cutOff(link.client)
        if (link.server !== undefined) Lane.cutOff(link.server)
        link.up?.close()
        link.down?.close()
        links.delete(link)
      }
    })

    const port = yield* Effect.acquireRelease(
      options.port === undefined
        ? Effect.suspend(() => listen(Ports.candidate())).pipe(
            Effect.retry({ times: Ports.attempts }),
            Effect.mapError(notListening(0))
          )
        : listen(options.port).pipe(Effect.mapError(notListening(options.port))),
      () =>
        Effect.sync(() => {
          closed = true
        }).pipe(Effect.zipRight(shut), Effect.zipRight(resetAll))
    )

    const relisten = listen(port).pipe(
      Effect.retry(Schedule.spaced("20 millis").pipe(Schedule.upTo(relistenBound))),
      Effect.mapError(notListening(port)),
      // The port is a real one, so is the time it is waited for, also under TestClock.
      Effect.withClock(Clock.make())
    )

    const one = yield* Effect.makeSemaphore(1)
    const set = (next: Fault): Effect.Effect<void, FaultProxyError> =>
      Effect.gen(function* () {
        if (next._tag === "Refuse") yield* shut
        else if (listener === undefined && !closed) yield* relisten
        fault = next
        rules = rulesOf(next)
        for (const link of [...links]) {
          if (link.server === undefined && next._tag !== "BlackHole") dial(link)
          link.up?.update()
          link.down?.update()
        }
      }).pipe(one.withPermits(1))

    return {
      host: Ports.loopback,
      port,
      set,
      fault: Effect.sync(() => fault),
      reset: resetAll,
      connections: Effect.sync(() => links.size)
    }
  })
