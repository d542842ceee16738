/**
 * One direction of a proxied connection: what one socket sends and when the other socket gets it.
 *
 * Bytes, FIN and RST are events in one queue, so that they stay in order whatever is done to the lane in between. With
 * nothing to delay and nothing queued, an event is passed on at once, without the queue.
 */
import type * as Net from "node:net"

/**
 * A reset. Where the end of the stream is just being sent Node can do none, and would never close the
 * socket after the attempt.
 *
 * @internal
 */
export const cutOff = (socket: Net.Socket): void => {
  if (socket.writableEnded && !socket.writableFinished) socket.destroy()
  else socket.resetAndDestroy()
}

/** What a fault does to a lane: events are delayed by `delay` milliseconds, held back, or (bytes only) thrown away. */
export interface Rules {
  readonly gate: "open" | "held" | "dropped"
  readonly delay: number
}

export interface Lane {
  /** To be called when the rules have changed. */
  readonly update: () => void
  readonly close: () => void
}

type Event =
  | { readonly _tag: "Bytes"; readonly bytes: Uint8Array }
  | { readonly _tag: "End" }
  | { readonly _tag: "Reset" }

interface Queued {
  readonly due: number
  readonly event: Event
}

const end: Event = { _tag: "End" }
const reset: Event = { _tag: "Reset" }

/** A slow lane must not grow without limit: beyond this, the sender feels backpressure, as on a real slow network. */
const maxQueuedBytes = 1 << 20

export const make = (source: Net.Socket, sink: Net.Socket, rules: () => Rules): Lane => {
  const queue: Array<Queued> = []
  let queuedBytes = 0
  let sinkIsFull = false
  let sourceIsOver = false
  let timer: NodeJS.Timeout | undefined

  const perform = (event: Event): void => {
    if (sink.destroyed) return
    switch (event._tag) {
      case "Bytes": {
        if (sink.writable && !sink.write(event.bytes)) {
          sinkIsFull = true
          source.pause()
        }
        return
      }
      case "End": {
        sink.end()
        return
      }
      case "Reset": {
        cutOff(sink)
        return
      }
    }
  }

  const flow = (): void => {
    if (source.destroyed) return
    const { gate } = rules()
    if (gate === "dropped" || (gate === "open" && !sinkIsFull && queuedBytes < maxQueuedBytes)) {
      source.resume()
    } else {
      source.pause()
    }
  }

  const pump = (): void => {
    clearTimeout(timer)
    timer = undefined
    for (let head = queue[0]; head !== undefined; head = queue[0]) {
      const { gate } = rules()
      if (gate === "held" || (gate === "dropped" && head.event._tag !== "Bytes")) return
      const wait = head.due - performance.now()
      if (gate === "open" && wait > 0) {
        timer = setTimeout(pump, wait)
        return
      }
      queue.shift()
      if (head.event._tag === "Bytes") queuedBytes -= head.event.bytes.length
      if (gate === "open") perform(head.event)
    }
    flow()
  }

  const arrive = (event: Event): void => {
    const { delay, gate } = rules()
    if (gate === "open" && delay === 0 && queue.length === 0) return perform(event)
    if (gate === "dropped" && event._tag === "Bytes") return
    queue.push({ due: performance.now() + delay, event })
    if (event._tag === "Bytes") {
      queuedBytes += event.bytes.length
      if (queuedBytes >= maxQueuedBytes) source.pause()
    }
    if (timer === undefined) pump()
  }

  const over = (event: Event): void => {
    if (sourceIsOver && event._tag === "End") return
    sourceIsOver = true
    arrive(event)
  }

  source.on("data", (bytes: Uint8Array) => arrive({ _tag: "Bytes", bytes }))
  source.on("end", () => over(end))
  source.on("error", () => over(reset))
  // A socket that ended both ways closes without an error: its FIN has been passed on already.
  source.on("close", () => {
    if (!sourceIsOver) over(reset)
  })
  sink.on("drain", () => {
    sinkIsFull = false
    flow()
  })
  flow()

  return {
    update: () => {
      pump()
      flow()
    },
    close: () => {
      clearTimeout(timer)
      queue.length = 0
    }
  }
}
