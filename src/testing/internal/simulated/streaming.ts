/**
 * PostgreSQL's own replication: each server has a log, and standbys copy that of the newest writer.
 *
 * @internal
 */
import type { LogRecord, Replication } from "./replication.js"
import type { Server } from "./server.js"
import type { Timers } from "./timers.js"

interface Waiting {
  readonly server: Server
  readonly record: LogRecord
  /** Of the record in the server's log. */
  readonly at: number
  readonly done: () => void
}

const isWriting = (server: Server): boolean =>
  server.isRunning() && server.role === "writer" && server.hasPeers()

/** @internal */
export const make = (options: {
  readonly timers: Timers
  readonly servers: ReadonlyMap<string, Server>
  readonly isSynchronous: boolean
  readonly first: Server
}): Replication => {
  const { servers, timers } = options
  const isSynchronous = options.isSynchronous && servers.size > 1
  const waiting = new Set<Waiting>()
  const hidden = new Set<LogRecord>()
  /** Standbys for which the next record is on its way. */
  const lagging = new Set<Server>()
  let newest = options.first
  let acknowledged: { readonly record: LogRecord; readonly at: number } | undefined

  const follows = (standby: Server): boolean =>
    standby !== newest &&
    standby.isRunning() &&
    standby.role === "reader" &&
    standby.hasPeers() &&
    isWriting(newest)

  /** What the writer never had is dropped first, as by pg_rewind. */
  const rewind = (log: Array<LogRecord>, source: ReadonlyArray<LogRecord>): void => {
    if (log.length <= source.length && log[log.length - 1] === source[log.length - 1]) return
    let common = Math.min(log.length, source.length)
    while (common > 0 && log[common - 1] !== source[common - 1]) common--
    log.length = common
  }

  const receive = (standby: Server): void => {
    const log = standby.log
    const source = newest.log
    standby.timeline = newest.timeline
    if (log.length > 0) rewind(log, source)
    for (let next = source[log.length]; next !== undefined; next = source[log.length]) {
      const wait = timers.until(next.at + standby.lagBy)
      if (wait > 0) {
        if (lagging.has(standby)) return
        lagging.add(standby)
        timers.later(wait, () => {
          lagging.delete(standby)
          sync()
        })
        return
      }
      log.push(next)
    }
  }

  const isReceived = ({ at, record, server }: Waiting): boolean =>
    server === newest && [...servers.values()].some((_) => follows(_) && _.log[at] === record)

  const acknowledge = (one: Waiting): void => {
    waiting.delete(one)
    hidden.delete(one.record)
    if (acknowledged === undefined || one.at >= acknowledged.at) acknowledged = one
    one.done()
  }

  const sync = (): void => {
    for (const server of servers.values()) if (follows(server)) receive(server)
    // Whoever is told may commit something else at once.
    for (const one of [...waiting]) {
      if (waiting.has(one) && isReceived(one)) acknowledge(one)
    }
  }

  const isComplete = (server: Server): boolean =>
    acknowledged === undefined || server.log[acknowledged.at] === acknowledged.record

  return {
    newest: () => newest,
    commit: (server, record, done) => {
      const one: Waiting = { server, record, at: server.log.length, done }
      server.log.push(record)
      if (isSynchronous) {
        waiting.add(one)
        hidden.add(record)
      }
      sync()
      if (!isSynchronous) done()
      return () => {
        // Given up, by the end of the session: it stays committed here, and whoever comes sees it.
        if (waiting.delete(one)) hidden.delete(record)
      }
    },
    mark: (server, record) => {
      server.log.push(record)
      sync()
    },
    isVisible: (server, record) => server.role === "reader" || !hidden.has(record),
    isComplete,
    handOver: (from, to) => {
      rewind(to.log, from.log)
      to.log.push(...from.log.slice(to.log.length))
    },
    promotionBegins: (server) => {
      // By force: what is lost cannot be asked of anybody any more.
      if (!isComplete(server)) acknowledged = undefined
      newest = server
    },
    promotionEnds: sync,
    isBack: sync,
    sync,
    followers: (server) => (server === newest ? [...servers.values()].filter(follows) : []),
    members: undefined
  }
}
