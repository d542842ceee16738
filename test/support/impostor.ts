/** Hosts that are no database: they answer every client with something else. */
import type { Scope } from "effect"
import { Effect } from "effect"
import * as Net from "node:net"

/** What they say, and whether they wait for the client to speak first. */
export const impostors = {
  "HTTP server": {
    after: true,
    says: "HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
  },
  "SSH server": { after: false, says: "SSH-2.0-OpenSSH_9.6\r\n" },
  "MySQL server": {
    after: false,
    says: "\x4a\x00\x00\x00\x0a8.0.36\x00\x0b\x00\x00\x00abcdefgh\x00\xff\xff\xff\x02\x00\xff\xdf\x15"
  },
  "SMTP server": { after: false, says: "220 mail.test ESMTP Postfix\r\n" },
  "Redis server": { after: true, says: "-ERR unknown command\r\n" },
  "server of noise": { after: true, says: "\x00\x01\x02\xff\xfe\xfd\x00\x00\x00\x00" },
  "server whose noise begins like PostgreSQL's": { after: true, says: "R\xff\xff\xff\xff garbage" }
} as const

/** The port that it listens on. */
export const impostor = (kind: keyof typeof impostors): Effect.Effect<number, never, Scope.Scope> =>
  Effect.map(
    Effect.acquireRelease(
      Effect.async<{ readonly port: number; readonly close: () => void }>((resume) => {
        const { after, says } = impostors[kind]
        const sockets = new Set<Net.Socket>()
        const server = Net.createServer((socket) => {
          sockets.add(socket)
          socket.on("error", () => {})
          const speak = () => socket.write(Buffer.from(says, "latin1"))
          if (after) socket.once("data", speak)
          else speak()
        })
        server.listen(0, "127.0.0.1", () => {
          const address = server.address()
          const port = address !== null && typeof address === "object" ? address.port : 0
          const close = () => {
            server.close()
            for (const socket of sockets) socket.destroy()
          }
          resume(Effect.succeed({ port, close }))
        })
      }),
      ({ close }) => Effect.sync(close)
    ),
    ({ port }) => port
  )
