/**
 * Puts the cluster together, and does to it what the test asks for.
 *
 * @internal
 */
import type { Scope } from "effect"
import { Duration, Effect, Random, Utils } from "effect"
import * as Host from "../../../Host.js"
import type { Fault, Options, SimulatedCluster, Statement } from "../../SimulatedCluster.js"
import * as Connector from "./connector.js"
import type { JournalEntry } from "./journal.js"
import type { Replication } from "./replication.js"
import { Server } from "./server.js"
import type { Session } from "./session.js"
import * as SharedStorage from "./sharedStorage.js"
import * as Streaming from "./streaming.js"
import { isInternal } from "./systemQueries.js"
import * as Timers from "./timers.js"
import type { World } from "./world.js"

const DEFAULT_HOSTS = ["db-1", "db-2", "db-3"]

/** PostgreSQL's registered port. */
const PORT = 5432

let clusters = 0

const millisOf = (duration: Duration.DurationInput | undefined): number =>
  Duration.toMillis(duration ?? Duration.zero)

const counter = (): (() => number) => {
  let last = 0
  return () => ++last
}

/** One way: half of the latency. */
const delayOf = (latency: Options["latency"], random: Utils.PCGRandom): (() => number) => {
  if (typeof latency === "object" && "least" in latency) {
    const least = millisOf(latency.least)
    const most = millisOf(latency.most)
    return () => (least + random.number() * (most - least)) / 2
  }
  const delay = millisOf(latency) / 2
  return () => delay
}

/** @internal */
export const make = (options: Options): Effect.Effect<SimulatedCluster, never, Scope.Scope> =>
  Effect.gen(function* () {
    const timers = yield* Timers.make
    const random = new Utils.PCGRandom(yield* Random.nextIntBetween(0, 2 ** 31))
    const names = options.hosts ?? DEFAULT_HOSTS
    const servers = new Map<string, Server>()
    for (const name of names) {
      const host = Host.make({ id: name, host: name.toLowerCase(), port: PORT })
      const role = servers.size === 0 ? "writer" : "reader"
      servers.set(name, new Server(() => world, name, host, role, timers.now()))
    }

    const get = (name: string): Server => {
      const found = servers.get(name)
      if (found !== undefined) return found
      throw new Error(`there is no host ${name} in the simulated cluster of ${names.join(", ")}`)
    }
    const first = get(names[0] ?? "(none)")
    let staleness = millisOf(options.staleLists)
    const replication: Replication =
      options.flavor === "aurora"
        ? SharedStorage.make({ timers, servers, first, staleness: () => staleness })
        : Streaming.make({
            timers,
            servers,
            first,
            isSynchronous: options.replication === "synchronous"
          })

    const faults: Array<{ readonly match: RegExp; readonly fault: Fault }> = []
    const faultOf = (statement: Statement): Fault | undefined => {
      if (faults.length === 0 || isInternal(statement.sql)) return undefined
      const at = faults.findIndex((_) => statement.sql.search(_.match) >= 0)
      return at < 0 ? undefined : faults.splice(at, 1)[0]?.fault
    }
    const journal: Array<JournalEntry> = []
    const sessions = new Set<Session>()
    const world: World = {
      timers,
      servers,
      replication,
      answer: options.answer ?? (() => undefined),
      questions: new Map(),
      journal,
      sessions,
      delay: delayOf(options.latency, random),
      faultOf,
      nextSession: counter(),
      nextTransaction: counter(),
      nextStart: counter()
    }
    yield* Effect.addFinalizer(() =>
      Effect.sync(() => {
        for (const server of servers.values()) server.kill()
      })
    )

    let timeline = first.timeline
    const promotionMillis = millisOf(options.promotionTime)

    const whyNot = (server: Server, force: boolean): string | undefined => {
      if (!server.isUp) return "it is down"
      if (server.isFrozen) return "it is frozen"
      if (server.isBeingPromoted()) return "it is being promoted"
      if (server.role === "writer") {
        return replication.newest() === server
          ? "it is the writer"
          : "it takes itself for the writer: start it as a standby first"
      }
      return force || replication.isComplete(server)
        ? undefined
        : "it has not received all that was acknowledged, and no cluster manager would lose that"
    }

    const promote = (server: Server, force: boolean): void => {
      const reason = whyNot(server, force)
      if (reason !== undefined) throw new Error(`${server.name} cannot be promoted: ${reason}`)
      server.promote(++timeline, promotionMillis)
    }

    const start = (server: Server, as: "standby" | "itself" | undefined): void => {
      const isReplaced = replication.newest() !== server
      const role = as === "standby" || (as === undefined && isReplaced) ? "reader" : server.role
      if (server.isUp) server.restart(role, "57P01")
      else server.boot(role, false)
    }

    const currentWriter = (): Server | undefined => {
      const newest = replication.newest()
      return newest.isUp && newest.role === "writer" ? newest : undefined
    }

    const switchover = (to: Server): void => {
      const from = currentWriter()
      if (from === undefined || from.isFrozen) {
        throw new Error("there is no writer to switch over from: use failover")
      }
      const reason =
        whyNot(to, true) ??
        (from.hasPeers() && to.hasPeers() ? undefined : "it cannot reach the writer")
      if (reason !== undefined) throw new Error(`${to.name} cannot take over: ${reason}`)
      from.terminate("57P01")
      replication.handOver(from, to)
      from.kill()
      promote(to, false)
      from.boot("reader", true)
    }

    const failover = (promoteAfter: number, startAfter: number | undefined): void => {
      const from = replication.newest()
      from.kill()
      timers.after(promoteAfter, () => {
        const candidates = [...servers.values()].filter(
          (_) => _ !== from && whyNot(_, false) === undefined && _.hasPeers()
        )
        const best = candidates.reduce<Server | undefined>(
          (best, one) => (best === undefined || one.log.length > best.log.length ? one : best),
          undefined
        )
        if (best !== undefined && currentWriter() === undefined) promote(best, false)
      })
      if (startAfter !== undefined) {
        timers.after(startAfter, () => {
          if (!from.isUp) start(from, undefined)
        })
      }
    }

    /** On one host, at once. */
    const on = (name: string, act: (server: Server) => void): Effect.Effect<void> =>
      Effect.sync(() => act(get(name)))

    const connectorWith: SimulatedCluster["connectorWith"] = (options) =>
      Connector.make(world, options)

    return {
      id: `simulated-${++clusters}`,
      flavor: options.flavor ?? "streaming",
      hosts: [...servers.values()].map((_) => _.host),
      connector: connectorWith({}),
      connectorWith,
      kill: (name) => on(name, (_) => _.kill()),
      start: (name, options) => on(name, (_) => start(_, options?.as)),
      restart: (name, options) =>
        on(name, (_) => {
          const { role } = _
          if (_.isRunning()) _.terminate("57P01")
          _.kill()
          timers.after(millisOf(options?.downFor), () => {
            if (!_.isUp) _.boot(role, true)
          })
        }),
      freeze: (name) => on(name, (_) => _.freeze()),
      resume: (name) => on(name, (_) => _.resume()),
      partition: (name, cut = "clients") => on(name, (_) => _.partition(cut)),
      heal: (name) => on(name, (_) => _.heal()),
      promote: (name, options) => on(name, (_) => promote(_, options?.force === true)),
      isPromotable: (name) => whyNot(get(name), false) === undefined,
      demote: (name) => on(name, (_) => _.whenRunning(() => _.demote())),
      switchover: (to) => on(to, switchover),
      failover: (options) =>
        Effect.sync(() =>
          failover(
            millisOf(options?.promoteAfter),
            options?.startAfter === undefined ? undefined : millisOf(options.startAfter)
          )
        ),
      slow: (name, by) => on(name, (_) => (_.slowBy = millisOf(by))),
      lag: (name, by) =>
        on(name, (_) => {
          // What it has by now, it has.
          replication.sync()
          _.lagBy = millisOf(by)
          replication.sync()
        }),
      staleLists: (by) => Effect.sync(() => (staleness = millisOf(by))),
      refuse: (name, sqlState) => on(name, (_) => (_.refusal = sqlState)),
      accept: (name) => on(name, (_) => (_.refusal = undefined)),
      terminate: (name) => on(name, (_) => _.whenRunning(() => _.terminate("57P01"))),
      next: (match, fault) => Effect.sync(() => void faults.push({ match, fault })),
      writer: Effect.sync(() => currentWriter()?.name),
      committed: (name) =>
        (name === undefined ? replication.newest() : get(name)).log.flatMap((_) => _.writes),
      log: journal,
      sessions: (name) =>
        name === undefined
          ? sessions.size
          : [...sessions].filter((_) => _.host.host === get(name).host.host).length
    } satisfies SimulatedCluster
  })
