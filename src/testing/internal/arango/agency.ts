/**
 * The agency's face, as far as clients look at it: who leads, and who is healthy. The first agent leads the
 * agency; the others send there.
 *
 * @internal
 */
import { Effect } from "effect"
import * as Http from "node:http"
import type { AddressInfo } from "node:net"

interface View {
  readonly leader: () => string | undefined
  readonly health: () => ReadonlyArray<{
    readonly id: string
    readonly url: string
    readonly alive: boolean
  }>
}

const AGENTS = 2

const tree = (view: View) => ({
  arango: {
    Plan: {
      AsyncReplication: { Leader: view.leader() ?? "" },
      Singles: Object.fromEntries(view.health().map(({ id }) => [id, "none"]))
    },
    Supervision: {
      Health: Object.fromEntries(
        view
          .health()
          .map(({ alive, id, url }) => [
            id,
            { Endpoint: url.replace(/^http:/, "tcp:"), Status: alive ? "GOOD" : "FAILED" }
          ])
      )
    }
  }
})

const listen = (handle: Http.RequestListener) =>
  Effect.acquireRelease(
    Effect.async<Http.Server>((resume) => {
      const server = Http.createServer(handle)
      server.listen({ host: "127.0.0.1", port: 0 }, () => resume(Effect.succeed(server)))
    }),
    (server) =>
      Effect.sync(() => {
        server.close()
        server.closeAllConnections()
      })
  ).pipe(Effect.map((server) => `http://127.0.0.1:${(server.address() as AddressInfo).port}`))

/** @internal */
export const make = (view: View) =>
  Effect.gen(function* () {
    const leading = yield* listen((request, response) => {
      request.resume()
      const isRead = request.method === "POST" && request.url === "/_api/agency/read"
      response.writeHead(isRead ? 200 : 404, { "content-type": "application/json" })
      response.end(JSON.stringify(isRead ? [tree(view)] : { error: true, code: 404 }))
    })
    const others = yield* Effect.all(
      Array.from({ length: AGENTS - 1 }, () =>
        listen((request, response) => {
          request.resume()
          response.writeHead(307, { location: `${leading}${request.url ?? "/"}` })
          response.end()
        })
      )
    )
    return [leading, ...others]
  })
