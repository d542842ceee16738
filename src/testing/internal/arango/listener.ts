/**
 * A server's socket: HTTP on a port that stays its own, and the faults of the transport.
 *
 * @internal
 */
import { Duration, Effect, Schedule, Clock } from "effect"
import * as Http from "node:http"
import * as Https from "node:https"
import type { AddressInfo, Socket } from "node:net"
import type { Armed } from "./fault.js"
import { Fault } from "./fault.js"
import type { Log, MutableRecord } from "./log.js"
import type { Call, Reply } from "./protocol.js"
import { failure, target } from "./protocol.js"

/** @internal */
export interface Tls {
  readonly key: string
  readonly cert: string
}

/** @internal */
export interface Listener {
  readonly port: number
  readonly open: Effect.Effect<void>
  /** Refuses connections, and resets those that there are. */
  readonly shut: Effect.Effect<void>
  readonly reset: Effect.Effect<void>
  readonly arm: (armed: Armed | undefined) => void
  readonly connections: () => number
}

interface Options {
  readonly id: string
  readonly host: string
  readonly tls: Tls | undefined
  readonly log: Log
  readonly serve: (call: Call, record: MutableRecord) => Reply
}

/** Another process may hold the port for a moment while the server is down. */
const REOPEN = Schedule.spaced("20 millis").pipe(Schedule.upTo("5 seconds"))

const parse = (text: string): unknown => {
  try {
    return text === "" ? undefined : JSON.parse(text)
  } catch {
    return undefined
  }
}

const send = (response: Http.ServerResponse, reply: Reply, isHalf: boolean): void => {
  const isText = typeof reply.body === "string"
  const body = isText
    ? String(reply.body)
    : reply.body === undefined
      ? ""
      : JSON.stringify(reply.body)
  response.writeHead(reply.status, {
    server: "ArangoDB",
    "content-type": isText ? "text/html" : "application/json; charset=utf-8",
    "content-length": Buffer.byteLength(body),
    ...reply.headers
  })
  if (!isHalf) {
    response.end(body)
    return
  }
  response.write(body.slice(0, Math.floor(body.length / 2)), () => {
    response.socket?.resetAndDestroy()
  })
}

const answerOf = (fault: Extract<Fault, { readonly _tag: "Answer" }>): Reply =>
  fault.errorNum === undefined
    ? { status: fault.status, body: fault.body ?? "<html>proxy</html>" }
    : failure(fault.status, fault.errorNum, "as the fault says")

/** @internal */
export const make = ({ host, id, log, serve, tls }: Options): Effect.Effect<Listener> =>
  Effect.gen(function* () {
    const sockets = new Set<Socket>()
    let armed: Armed | undefined
    let server: Http.Server | undefined
    let port = 0

    const faultFor = (request: { readonly method: string; readonly path: string }): Fault => {
      if (armed === undefined || armed.times <= 0 || !armed.when(request)) return Fault.None()
      armed.times--
      return armed.fault
    }

    const handle = (request: Http.IncomingMessage, response: Http.ServerResponse): void => {
      const cut = () => void request.socket.resetAndDestroy()
      const { database, path, query } = target(request.url ?? "/")
      const method = request.method ?? "GET"
      const { headers } = request
      const record = log.begin({ node: id, method, path, database, headers })
      const fault = faultFor({ method, path })
      if (fault._tag === "ResetBeforeBody") return cut()
      if (fault._tag === "HangBeforeBody") return
      const execute = (): Reply | undefined => {
        // Its server was killed meanwhile.
        if (request.socket.destroyed) return undefined
        const call = { method, path, database, query, headers, body: parse(record.body) }
        return serve(call, record)
      }
      const reply = (fault: Fault): void => {
        const answer = fault._tag === "Answer" ? answerOf(fault) : execute()
        if (answer === undefined || fault._tag === "HangInsteadOfReply") return
        if (fault._tag === "DropReply") return cut()
        if (fault._tag === "CloseInsteadOfReply") return void request.socket.end()
        record.status = answer.status
        send(response, answer, fault._tag === "HalfReply")
      }
      const chunks: Array<Buffer> = []
      request.on("data", (chunk: Buffer) => chunks.push(chunk))
      request.on("error", () => {})
      request.on("end", () => {
        record.body = Buffer.concat(chunks).toString()
        record.complete = true
        switch (fault._tag) {
          case "ResetBeforeExecution":
            return cut()
          case "HangBeforeExecution":
            return
          case "Slow":
            setTimeout(() => reply(fault), Duration.toMillis(fault.duration))
            return
          default:
            return reply(fault)
        }
      })
    }

    const accept = (socket: Socket): void => {
      socket.on("error", () => {})
      if (armed?.fault._tag === "ResetOnConnect" && armed.times > 0) {
        armed.times--
        socket.resetAndDestroy()
        return
      }
      sockets.add(socket)
      socket.on("close", () => sockets.delete(socket))
    }

    const listen = Effect.async<void, Error>((resume) => {
      const created =
        tls === undefined ? Http.createServer(handle) : Https.createServer(tls, handle)
      created.keepAliveTimeout = 60_000
      created.on("connection", accept)
      created.once("error", (cause) => resume(Effect.fail(cause)))
      created.listen({ host, port, exclusive: true }, () => {
        port = (created.address() as AddressInfo).port
        server = created
        created.on("error", () => {})
        resume(Effect.void)
      })
    })
    const open = Effect.suspend(() => (server === undefined ? listen : Effect.void)).pipe(
      Effect.retry(REOPEN),
      // The port is a real one, and so is the time it is waited for, also under TestClock.
      Effect.withClock(Clock.make()),
      Effect.orDie,
      Effect.uninterruptible
    )
    yield* open

    const reset = Effect.sync(() => sockets.forEach((socket) => socket.resetAndDestroy()))
    return {
      port,
      open,
      reset,
      shut: Effect.zipRight(
        Effect.sync(() => {
          server?.close()
          server = undefined
        }),
        reset
      ),
      arm: (next) => {
        armed = next
      },
      connections: () => sockets.size
    }
  })
