/** TCP ports on the loopback address that nobody else is likely to take, also while nobody listens on them. */
import { randomInt } from "node:crypto"
import * as Net from "node:net"
import { Effect } from "effect"

/** Every listener of this package is reachable from this machine only. */
export const loopback = "127.0.0.1"

/**
 * Below the ephemeral ranges (Linux 32768-60999, macOS and IANA 49152-65535): a port of those can be given to any
 * outgoing connection while its server is down, even to the very client that polls it (a TCP self-connect).
 */
const firstPort = 15_000
const lastPort = 32_000

/** Twenty draws from 17000 ports fail only on a machine that has none left. */
export const attempts = 20

/** Real chance and not `Random`: test processes that run side by side may share a seed, but must not share ports. */
export const candidate = (): number => randomInt(firstPort, lastPort)

const canBind = (port: number): Effect.Effect<boolean> =>
  Effect.async<boolean>((resume) => {
    const server = Net.createServer()
    server.once("error", () => resume(Effect.succeed(false)))
    server.listen({ host: loopback, port, exclusive: true }, () =>
      server.close(() => resume(Effect.succeed(true)))
    )
  })

/**
 * A port that was free a moment ago. Another process may take it before its user binds it: whoever binds has to try
 * again with another one on EADDRINUSE.
 */
export const free = (taken: ReadonlySet<number>): Effect.Effect<number> =>
  Effect.gen(function* () {
    for (let attempt = 0; attempt < attempts; attempt++) {
      const port = candidate()
      if (!taken.has(port) && (yield* canBind(port))) return port
    }
    return candidate()
  })
