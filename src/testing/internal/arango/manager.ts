/**
 * Servers that belong together: replication, the agency's elections, and what tests do to them.
 *
 * @internal
 */
import { Clock, Duration, Effect } from "effect"
import * as Agency from "./agency.js"
import type { Credentials } from "./credentials.js"
import type { Armed } from "./fault.js"
import type { Mode } from "./gate.js"
import type { Listener, Tls } from "./listener.js"
import * as Listeners from "./listener.js"
import * as Logs from "./log.js"
import type { Deployment, Server } from "./server.js"
import { serve } from "./server.js"
import type { Operation } from "./store.js"
import * as Store from "./store.js"

/** @internal */
export interface Options {
  readonly deployment: Deployment
  readonly nodes: number
  readonly hosts: ReadonlyArray<string>
  readonly tls: Tls | undefined
  readonly auth:
    | {
        readonly username: string
        readonly password: string
        readonly tokenLifetime: number
        readonly sharedSecret: boolean
      }
    | undefined
}

/** @internal */
export interface Member {
  readonly server: Server
  readonly listener: Listener
}

/** The agency tells servers from tests by real time, also under TestClock. */
const clock = Clock.make()

const modeAtStart = (options: Options, index: number): Mode =>
  options.deployment === "active-failover" && index > 0 ? "follower" : "default"

const urlOf = (options: Options, host: string, port: number): string =>
  `${options.tls === undefined ? "http" : "https"}://${host.includes(":") ? `[${host}]` : host}:${port}`

/** As servers write endpoints in lists: by their protocol's old names. */
const listed = (url: string): string => url.replace(/^http:/, "tcp:").replace(/^https:/, "ssl:")

/** @internal */
export const make = (options: Options) =>
  Effect.gen(function* () {
    const log = Logs.make()
    const members: Array<Member> = []
    let ids = 0
    let isReplicating = true
    const isFailover = options.deployment === "active-failover"

    const leaderNow = (): Server | undefined =>
      members.find(({ server }) => server.alive && server.mode === "default")?.server

    const endpoints = (): ReadonlyArray<string> | undefined => {
      const alive = members.map((_) => _.server).filter((_) => _.alive)
      if (!isFailover) return alive.map((_) => listed(_.url))
      const leader = leaderNow()
      return leader === undefined
        ? undefined
        : [leader, ...alive.filter((_) => _ !== leader)].map((_) => listed(_.url))
    }

    const committed = (origin: Server, operation: Operation): void => {
      if (!isReplicating) return
      for (const { server } of members) {
        if (server !== origin && server.alive && server.follows === origin) {
          server.store.apply(operation)
        }
      }
    }

    const credentialsOf = (index: number): Credentials | undefined =>
      options.auth === undefined
        ? undefined
        : {
            users: new Map([[options.auth.username, options.auth.password]]),
            secret: options.auth.sharedSecret ? "shared" : `secret of ${index}`,
            lifetime: options.auth.tokenLifetime,
            now: () => clock.unsafeCurrentTimeMillis()
          }

    // The coordinators of a cluster work on one set of data.
    const common = Store.make()
    for (let index = 0; index < options.nodes; index++) {
      const host = options.hosts[index % options.hosts.length] ?? "127.0.0.1"
      const server: Server = {
        id: `${isFailover ? "SNGL" : "CRDN"}-${index + 1}`,
        url: "",
        mode: modeAtStart(options, index),
        store: options.deployment === "cluster" ? common : Store.make(),
        alive: true,
        follows: isFailover ? members[0]?.server : undefined,
        leaderHeader: undefined,
        credentials: credentialsOf(index),
        cursors: new Map(),
        transactions: new Map()
      }
      const surroundings = {
        deployment: options.deployment,
        endpoints,
        committed,
        nextId: () => String(++ids)
      }
      const listener = yield* Effect.acquireRelease(
        Listeners.make({
          id: server.id,
          host,
          tls: options.tls,
          log,
          serve: serve(server, surroundings)
        }),
        (listener) => listener.shut
      )
      server.url = urlOf(options, host, listener.port)
      members.push({ server, listener })
    }

    const follow = (server: Server, leader: Server): void => {
      server.mode = "follower"
      server.follows = leader
      // What the leader does not have, its followers lose.
      server.store = leader.store.copy()
    }

    /** The others follow it from now on. */
    const promote = (leader: Server): void => {
      leader.mode = "default"
      leader.follows = undefined
      for (const { server } of members) {
        if (server !== leader && server.alive && server.mode !== "default") follow(server, leader)
      }
    }

    const kill = ({ listener, server }: Member) =>
      Effect.zipRight(
        Effect.sync(() => {
          server.alive = false
          server.cursors.clear()
          server.transactions.clear()
        }),
        listener.shut
      )

    /** A leader that was replaced while it was down comes back as a follower. */
    const restart = ({ listener, server }: Member) =>
      Effect.zipRight(
        Effect.sync(() => {
          const leader = leaderNow()
          server.alive = true
          if (isFailover && leader !== undefined && leader !== server) follow(server, leader)
        }),
        listener.open
      )

    const mostRecent = (): Server | undefined =>
      members
        .map((_) => _.server)
        .filter((_) => _.alive && _.mode !== "default")
        .sort((a, b) => b.store.tick() - a.store.tick())[0]

    const elect = (after: Duration.Duration, challenge: Duration.Duration, chosen?: Server) =>
      Effect.gen(function* () {
        yield* Effect.sleep(Duration.subtract(after, challenge))
        for (const { server } of members) {
          if (server.alive && server.mode === "follower") server.mode = "election"
        }
        yield* Effect.sleep(challenge)
        const leader = chosen ?? mostRecent()
        if (leader !== undefined) promote(leader)
      }).pipe(Effect.withClock(clock))

    const agency = isFailover
      ? yield* Agency.make({
          leader: () => leaderNow()?.id,
          health: () =>
            members.map(({ server }) => ({ id: server.id, url: server.url, alive: server.alive }))
        })
      : []

    return {
      log,
      members,
      agency,
      leader: leaderNow,
      kill,
      restart,
      promote: (server: Server) => Effect.sync(() => promote(server)),
      elect,
      arm: ({ listener }: Member, armed: Armed | undefined) =>
        Effect.sync(() => listener.arm(armed)),
      setReplicating: (on: boolean) =>
        Effect.sync(() => {
          isReplicating = on
        })
    }
  })

/** @internal */
export type Manager = Effect.Effect.Success<ReturnType<typeof make>>
