/**
 * A stand-in for a cluster endpoint, the one name that a plain client is given: a TCP port on loopback
 * that leads to one server and can be made to lead to another. Like a changed DNS entry, it concerns
 * new connections only.
 */
import * as Net from "node:net"
import { Data, Effect, type Scope } from "effect"

const LOOPBACK = "127.0.0.1"

export class EndpointError extends Data.TaggedError("EndpointError")<{
  readonly message: string
  readonly cause: unknown
}> {}

export interface Endpoint {
  readonly host: string
  readonly port: number
  readonly pointTo: (to: number) => Effect.Effect<void>
}

export const make = (to: number): Effect.Effect<Endpoint, EndpointError, Scope.Scope> =>
  Effect.gen(function* () {
    let target = to
    const sockets = new Set<Net.Socket>()

    const track = (socket: Net.Socket, peer: Net.Socket): void => {
      sockets.add(socket)
      socket.on("error", () => peer.destroy())
      socket.on("close", () => {
        sockets.delete(socket)
        peer.destroy()
      })
      socket.pipe(peer)
    }

    const server = yield* Effect.acquireRelease(
      Effect.async<Net.Server, EndpointError>((resume) => {
        const server = Net.createServer({ noDelay: true }, (client) => {
          const upstream = Net.connect({ host: LOOPBACK, port: target, noDelay: true })
          track(client, upstream)
          track(upstream, client)
        })
        server.once("error", (cause) =>
          resume(
            Effect.fail(
              new EndpointError({
                message: `cannot listen on ${LOOPBACK}: ${cause.message}`,
                cause
              })
            )
          )
        )
        server.listen({ host: LOOPBACK, port: 0 }, () => resume(Effect.succeed(server)))
      }),
      (server) =>
        Effect.sync(() => {
          server.close()
          for (const socket of sockets) socket.destroy()
        })
    )
    const address = server.address()
    return {
      host: LOOPBACK,
      port: typeof address === "object" && address !== null ? address.port : 0,
      pointTo: (to) =>
        Effect.sync(() => {
          target = to
        })
    }
  })
