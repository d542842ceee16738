/**
 * Aurora's: all instances have one log, to which only the newest writer may write. Each lists the members
 * as it knows them, which may be old.
 *
 * @internal
 */
import type { LogRecord, Member, Replication } from "./replication.js"
import type { Server } from "./server.js"
import type { Timers } from "./timers.js"

/** Who the writer is, as it is made known. */
interface News {
  readonly writer: Server
  readonly at: number
  readonly version: number
}

interface Waiting {
  readonly server: Server
  readonly record: LogRecord
  readonly done: () => void
}

/** @internal */
export const make = (options: {
  readonly timers: Timers
  readonly servers: ReadonlyMap<string, Server>
  readonly first: Server
  /** Milliseconds. */
  readonly staleness: () => number
}): Replication => {
  const { servers, timers } = options
  const log = options.first.log
  for (const server of servers.values()) server.log = log
  const waiting = new Set<Waiting>()
  /** Clock milliseconds at which storage took a record: one that waited was begun earlier. */
  const storedAt = new WeakMap<LogRecord, number>()
  /** Up to when an instance shows what is stored: never less than it once did. */
  const shownTo = new Map<Server, number>()
  let owner = options.first
  let news: News = { writer: options.first, at: timers.now(), version: 1 }
  const known = new Map<Server, News>()
  /** As of which news a server is the writer: older ones do not make it step down. */
  const leadsSince = new Map<Server, number>()

  const isHeard = (server: Server) => server.isRunning() && server.hasPeers()

  const learn = (server: Server, latest: News): void => {
    const before = known.get(server) ?? news
    if (!isHeard(server) || latest.version <= before.version) return
    known.set(server, latest)
    const isReplaced = latest.version > (leadsSince.get(server) ?? 0) && server !== latest.writer
    if (server.role === "writer" && isReplaced) server.restart("reader", "57P01")
  }

  const inform = (server: Server): void => {
    const latest = news
    timers.after(options.staleness(), () => learn(server, latest))
  }

  /** It lags behind what it hears of the writer, and hears nothing while it is cut off from its peers. */
  const showsTo = (server: Server): number => {
    const before = shownTo.get(server) ?? -Infinity
    const now = server.heardAt() - (server.role === "writer" ? 0 : server.lagBy)
    if (now > before) shownTo.set(server, now)
    return Math.max(now, before)
  }

  const store = (server: Server, record: LogRecord): void => {
    storedAt.set(record, timers.now())
    log.push(record)
    // It has what it has written, whatever becomes of it.
    showsTo(server)
  }

  /** Storage takes nothing from a writer that was replaced: its engine stops, and starts as a reader. */
  const write = (one: Waiting): void => {
    if (one.server !== owner) return one.server.restart("reader", "57P02")
    if (!one.server.hasPeers()) {
      waiting.add(one)
      return
    }
    waiting.delete(one)
    store(one.server, one.record)
    one.done()
  }

  const sync = (): void => {
    for (const one of [...waiting]) if (waiting.has(one) && one.server.isRunning()) write(one)
  }

  return {
    newest: () => news.writer,
    commit: (server, record, done) => {
      const one: Waiting = { server, record, done }
      write(one)
      return () => waiting.delete(one)
    },
    mark: (server, record) => {
      if (server === owner) store(server, record)
    },
    isVisible: (server, record) =>
      server.role === "writer" || (storedAt.get(record) ?? 0) <= showsTo(server),
    isComplete: () => true,
    handOver: () => undefined,
    promotionBegins: (server) => {
      for (const one of servers.values()) if (!known.has(one)) known.set(one, news)
      news = { writer: server, at: timers.now(), version: news.version + 1 }
      leadsSince.set(server, news.version)
      for (const one of servers.values()) inform(one)
    },
    promotionEnds: (server) => {
      owner = server
      sync()
    },
    isBack: (server) => {
      inform(server)
      sync()
    },
    sync: () => {
      for (const server of servers.values()) showsTo(server)
      sync()
    },
    followers: () => [],
    members: (server) => {
      const seen = known.get(server) ?? news
      // An old list is from before the promotion that it does not show.
      const asOf = Math.min(
        seen.version === news.version ? timers.now() : news.at,
        server.hasPeers() ? timers.now() : server.heardAt()
      )
      return [...servers.values()].map((one): Member => ({
        name: one.name,
        isWriter: one === seen.writer,
        // What it says of itself is true; the others go by what it reported.
        lagMillis: one === server ? Math.max(timers.now() - showsTo(one), 0) : one.lagBy,
        updatedAt: Math.min(asOf, one.heardAt())
      }))
    }
  }
}
