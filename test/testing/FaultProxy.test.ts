import * as Net from "node:net"
import { assert, describe, it } from "@effect/vitest"
import { Duration, Effect, Exit, Scope } from "effect"
import * as FaultProxy from "effect-failover/testing/FaultProxy"

const { BlackHole, DropReplies, Latency, Pass, Refuse } = FaultProxy.Fault

/** A socket that remembers what it got and how it ended. */
const wrap = (socket: Net.Socket) => {
  let text = ""
  let end: string | undefined
  let wake = () => {}
  const changed = () => wake()
  socket.on("data", (chunk) => {
    text += String(chunk)
    changed()
  })
  socket.on("end", () => {
    end ??= "FIN"
    changed()
  })
  socket.on("error", (error: NodeJS.ErrnoException) => {
    end = error.code ?? error.message
    changed()
  })
  socket.on("close", () => {
    end ??= "closed"
    changed()
  })
  const until = (what: string, ready: () => boolean) =>
    Effect.async<void>((resume) => {
      const look = () => {
        if (ready()) resume(Effect.void)
      }
      wake = look
      look()
    }).pipe(
      Effect.timeoutFail({
        duration: "10 seconds",
        onTimeout: () => new Error(`never saw ${what}: got ${JSON.stringify(text)}, end ${end}`)
      }),
      Effect.orDie
    )
  return {
    socket,
    send: (data: string) => Effect.sync(() => void socket.write(data)),
    received: (expected: string) => until(JSON.stringify(expected), () => text === expected),
    ended: Effect.map(
      until("an end", () => end !== undefined),
      () => end
    ),
    text: () => text,
    end: () => end
  }
}

const connect = (port: number) =>
  Effect.acquireRelease(
    Effect.sync(() => wrap(Net.connect({ host: "127.0.0.1", port, allowHalfOpen: true }))),
    ({ socket }) => Effect.sync(() => socket.destroy())
  )

const listen = (port: number) =>
  Effect.acquireRelease(
    Effect.async<{
      readonly server: Net.Server
      readonly sockets: Array<ReturnType<typeof wrap>>
    }>((resume) => {
      const sockets: Array<ReturnType<typeof wrap>> = []
      const server = Net.createServer({ allowHalfOpen: true }, (socket) => {
        sockets.push(wrap(socket))
        socket.on("data", (chunk) => socket.write(`<${String(chunk)}>`))
      })
      server.listen(port, "127.0.0.1", () => resume(Effect.succeed({ server, sockets })))
    }),
    ({ server, sockets }) =>
      Effect.sync(() => {
        server.close()
        for (const { socket } of sockets) socket.destroy()
      })
  )

/** A server that answers "x" with "<x>", and a proxy before it. */
const setup = Effect.gen(function* () {
  const { server, sockets } = yield* listen(0)
  const { port } = server.address() as Net.AddressInfo
  const proxy = yield* FaultProxy.make({ target: { host: "127.0.0.1", port } })
  return { proxy, server, sockets, targetPort: port }
})

const eventually = (what: string, ready: Effect.Effect<boolean>) =>
  ready.pipe(
    Effect.delay("2 millis"),
    Effect.repeat({ until: (done) => done }),
    Effect.timeoutFail({ duration: "10 seconds", onTimeout: () => new Error(`never: ${what}`) }),
    Effect.orDie
  )

const roundTrip = (client: ReturnType<typeof wrap>, data: string) =>
  Effect.gen(function* () {
    const before = client.text()
    yield* client.send(data)
    yield* client.received(`${before}<${data}>`)
  })

describe("FaultProxy", () => {
  it.scopedLive("passes bytes in both directions", () =>
    Effect.gen(function* () {
      const { proxy } = yield* setup
      assert.strictEqual(proxy.host, "127.0.0.1")
      assert.deepStrictEqual(yield* proxy.fault, Pass())
      const client = yield* connect(proxy.port)
      yield* roundTrip(client, "a")
      yield* roundTrip(client, "b")
      assert.strictEqual(yield* proxy.connections, 1)
    })
  )

  it.scopedLive("passes megabytes unharmed, through backpressure", () =>
    Effect.gen(function* () {
      const { server } = yield* listen(0)
      server.removeAllListeners("connection")
      server.on("connection", (socket: Net.Socket) => {
        // The client leaves by a RST when the test ends.
        socket.on("error", () => {})
        socket.pipe(socket)
      })
      const { port } = server.address() as Net.AddressInfo
      const proxy = yield* FaultProxy.make({ target: { host: "127.0.0.1", port } })
      const client = yield* connect(proxy.port)
      const data = Array.from({ length: 400_000 }, (_, i) => `line ${i}\n`).join("")
      yield* client.send(data)
      yield* client.received(data)
    })
  )

  it.scopedLive("passes on a client's FIN, and the answer that follows it", () =>
    Effect.gen(function* () {
      const { proxy, sockets } = yield* setup
      const client = yield* connect(proxy.port)
      yield* roundTrip(client, "a")
      client.socket.end("last")
      yield* client.received("<a><last>")
      const [server] = sockets
      assert.isDefined(server)
      if (server === undefined) return
      assert.strictEqual(yield* server.ended, "FIN")
      server.socket.end()
      assert.strictEqual(yield* client.ended, "FIN")
      yield* eventually(
        "no connection",
        Effect.map(proxy.connections, (n) => n === 0)
      )
    })
  )

  it.scopedLive("shows a client at once that the server closed, after all of its bytes", () =>
    Effect.gen(function* () {
      const { proxy, sockets } = yield* setup
      const client = yield* connect(proxy.port)
      yield* roundTrip(client, "a")
      sockets[0]?.socket.end("bye")
      assert.strictEqual(yield* client.ended, "FIN")
      assert.strictEqual(client.text(), "<a>bye")
    })
  )

  it.scopedLive("shows a client at once that the server reset the connection", () =>
    Effect.gen(function* () {
      const { proxy, sockets } = yield* setup
      const client = yield* connect(proxy.port)
      yield* roundTrip(client, "a")
      sockets[0]?.socket.resetAndDestroy()
      assert.strictEqual(yield* client.ended, "ECONNRESET")
    })
  )

  it.scopedLive("shows a server that its client is gone", () =>
    Effect.gen(function* () {
      const { proxy, sockets } = yield* setup
      const client = yield* connect(proxy.port)
      yield* roundTrip(client, "a")
      client.socket.resetAndDestroy()
      const [server] = sockets
      assert.strictEqual(yield* server?.ended ?? Effect.succeed("no server"), "ECONNRESET")
    })
  )

  it.scopedLive("resets a client whose target refuses, and serves it when the target is back", () =>
    Effect.gen(function* () {
      const inner = yield* Scope.make()
      const { server } = yield* Scope.extend(listen(0), inner)
      const { port } = server.address() as Net.AddressInfo
      const proxy = yield* FaultProxy.make({ target: { host: "127.0.0.1", port } })
      yield* Scope.close(inner, Exit.void)
      const early = yield* connect(proxy.port)
      assert.strictEqual(yield* early.ended, "ECONNRESET")
      yield* listen(port)
      yield* roundTrip(yield* connect(proxy.port), "a")
    })
  )

  it.scopedLive("Latency delays both directions, and keeps the order", () =>
    Effect.gen(function* () {
      const { proxy } = yield* setup
      const client = yield* connect(proxy.port)
      yield* roundTrip(client, "a")
      yield* proxy.set(Latency({ duration: "30 millis" }))
      const [elapsed] = yield* Effect.timed(roundTrip(client, "b"))
      assert.isAtLeast(Duration.toMillis(elapsed), 55)
      yield* client.send("c")
      yield* proxy.set(Pass())
      yield* client.send("d")
      yield* eventually(
        "both answers",
        Effect.sync(() => client.text().length >= "<a><b><cd>".length)
      )
      assert.match(client.text(), /^<a><b>(<c><d>|<cd>)$/)
    })
  )

  it.scopedLive("BlackHole holds present connections, and Pass delivers what they sent", () =>
    Effect.gen(function* () {
      const { proxy, sockets } = yield* setup
      const client = yield* connect(proxy.port)
      const witness = yield* connect(proxy.port)
      yield* roundTrip(client, "a")
      yield* roundTrip(witness, "a")
      yield* proxy.set(BlackHole())
      yield* client.send("b")
      // The server's end of another connection is closed: not even that gets through.
      sockets[1]?.socket.end("bye")
      const late = yield* connect(proxy.port)
      yield* late.send("c")
      yield* eventually(
        "the late client is accepted",
        Effect.map(proxy.connections, (n) => n === 3)
      )
      assert.deepStrictEqual([client.text(), witness.text(), late.text()], ["<a>", "<a>", ""])
      assert.deepStrictEqual(
        [client.end(), witness.end(), late.end()],
        [undefined, undefined, undefined]
      )
      yield* proxy.set(Pass())
      yield* client.received("<a><b>")
      yield* late.received("<c>")
      assert.strictEqual(yield* witness.ended, "FIN")
      assert.strictEqual(witness.text(), "<a>bye")
    })
  )

  it.scopedLive("a connection that the server resets during BlackHole ends only afterwards", () =>
    Effect.gen(function* () {
      const { proxy, sockets } = yield* setup
      const client = yield* connect(proxy.port)
      yield* roundTrip(client, "a")
      yield* proxy.set(BlackHole())
      sockets[0]?.socket.resetAndDestroy()
      const probe = yield* connect(proxy.port)
      yield* eventually(
        "the probe is accepted",
        Effect.map(proxy.connections, (n) => n === 2)
      )
      assert.isUndefined(client.end())
      yield* proxy.set(Pass())
      assert.strictEqual(yield* client.ended, "ECONNRESET")
      yield* roundTrip(probe, "b")
    })
  )

  it.scopedLive("Refuse refuses new connections, leaves present ones, and keeps its port", () =>
    Effect.gen(function* () {
      const { proxy } = yield* setup
      const client = yield* connect(proxy.port)
      yield* roundTrip(client, "a")
      yield* proxy.set(Refuse())
      assert.strictEqual(yield* (yield* connect(proxy.port)).ended, "ECONNREFUSED")
      yield* roundTrip(client, "b")
      yield* proxy.set(Pass())
      yield* roundTrip(yield* connect(proxy.port), "c")
      yield* roundTrip(client, "d")
    })
  )

  it.scopedLive("DropReplies lets statements through and swallows the answers", () =>
    Effect.gen(function* () {
      const { proxy, sockets, targetPort } = yield* setup
      const client = yield* connect(proxy.port)
      yield* roundTrip(client, "a")
      yield* proxy.set(DropReplies())
      yield* client.send("b")
      yield* sockets[0]?.received("ab") ?? Effect.die("no server")
      sockets[0]?.socket.end()
      // All sockets are in this process: when later bytes have gone there and back, the proxy has seen the earlier ones.
      yield* roundTrip(yield* connect(targetPort), "c")
      yield* proxy.set(Pass())
      assert.strictEqual(yield* client.ended, "FIN")
      assert.strictEqual(client.text(), "<a>")
    })
  )

  it.scopedLive("reset cuts all present connections on both sides", () =>
    Effect.gen(function* () {
      const { proxy, sockets } = yield* setup
      const clients = [yield* connect(proxy.port), yield* connect(proxy.port)]
      for (const client of clients) yield* roundTrip(client, "a")
      yield* proxy.reset
      for (const each of [...clients, ...sockets]) {
        assert.strictEqual(yield* each.ended, "ECONNRESET")
      }
      assert.strictEqual(yield* proxy.connections, 0)
      yield* roundTrip(yield* connect(proxy.port), "b")
    })
  )

  it.scopedLive("is gone with its connections when the scope closes, whatever its fault is", () =>
    Effect.gen(function* () {
      const { server } = yield* listen(0)
      const { port } = server.address() as Net.AddressInfo
      for (const fault of [Pass(), BlackHole(), Refuse(), Latency({ duration: "1 hours" })]) {
        const inner = yield* Scope.make()
        const proxy = yield* Scope.extend(
          FaultProxy.make({ target: { host: "127.0.0.1", port } }),
          inner
        )
        const client = yield* connect(proxy.port)
        yield* roundTrip(client, "a")
        yield* proxy.set(fault)
        yield* client.send("b")
        yield* Scope.close(inner, Exit.void)
        assert.strictEqual(yield* client.ended, "ECONNRESET")
        assert.strictEqual(yield* (yield* connect(proxy.port)).ended, "ECONNREFUSED")
      }
    })
  )

  it.scopedLive("fails with a hint when its port is taken", () =>
    Effect.gen(function* () {
      const { proxy, targetPort } = yield* setup
      const error = yield* Effect.flip(
        FaultProxy.make({ target: { host: "127.0.0.1", port: targetPort }, port: proxy.port })
      )
      assert.strictEqual(error._tag, "FaultProxyError")
      assert.include(error.message, String(proxy.port))
    })
  )
})
