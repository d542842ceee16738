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

  /** Storage takes nothing from a writer that was replaced: its engine stops, and starts as a reader. */
  const write = (one: Waiting): void => {
    if (one.server !== owner) return one.server.restart("reader", "57P02")
    if (!one.server.hasPeers()) {
      waiting.add(one)
      return
    }
    waiting.delete(one)
    log.push(one.record)
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
      if (server === owner) log.push(record)
    },
    isVisible: () => true,
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
    sync,
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
        lagMillis: one.lagBy,
        updatedAt: Math.min(asOf, one.heardAt())
      }))
    }
  }
}
