/** The nodes of a cluster: each a server, its sessions, and the proxy that clients go through. */
import { Duration, Effect, ExecutionStrategy, Exit, Schedule, Scope } from "effect"
import * as FaultProxy from "../FaultProxy.js"
import type { Node, Template } from "../PostgresCluster.js"
import type * as Account from "./account.js"
import * as Clone from "./clone.js"
import type { PostgresClusterError } from "./clusterError.js"
import * as Ports from "./ports.js"
import * as Server from "./server.js"
import * as Sessions from "./sessions.js"
import type { Guarded } from "./watchdog.js"

export interface Member {
  readonly node: Node
  readonly place: {
    readonly directory: string
    readonly account: Account.Account
    readonly guarded: Guarded
  }
  readonly server: Server.Server
  readonly sessions: Sessions.Sessions
  /** What the manager means it to be; `former`: a primary that another one has replaced. */
  kind: "primary" | "standby" | "former"
  /** Whether it is known to replay what the primary writes: only then may commits wait for it. */
  follows: boolean
}

export const database = "postgres"

/** Clusters on one busy machine start dozens of processes at once. */
const readyBound = Duration.seconds(60)

/** A new standby streams within 100 ms of its start. */
export const catchUpBound = Duration.seconds(30)

/** Starts the server of a configured member, and ends when it accepts connections. */
export const start = (member: Member): Effect.Effect<void, PostgresClusterError> => {
  const { server, sessions } = member
  const died = Effect.flatMap(server.exited, () =>
    Effect.fail(server.failure("ended while it was starting", "the log says why"))
  )
  return Effect.zipRight(
    server.start,
    sessions.connect.pipe(
      Effect.retry({
        schedule: Schedule.spaced("10 millis"),
        while: () => server.process() !== "stopped"
      }),
      Effect.raceFirst(died),
      Effect.timeoutFail({
        duration: readyBound,
        onTimeout: () =>
          server.failure(
            `accepts no connections ${Duration.format(readyBound)} after its start`,
            "a standby needs its primary to become consistent: is that one running?"
          )
      })
    )
  )
}

/** PostgreSQL's words when another process was faster than the server to bind the port. */
const portTaken = (error: PostgresClusterError): boolean =>
  error.log?.includes("Address already in use") === true

/**
 * The members, configured and started all at once. A port that was taken in the meantime is drawn again, and with it
 * all the others: the standbys' configuration names the primary's.
 */
export const bringUp = (options: {
  readonly count: number
  readonly template: Template
  readonly account: Account.Account
  readonly guarded: Guarded
  readonly regionOf: ((index: number) => string) | undefined
  readonly configure: (
    member: Member,
    members: ReadonlyArray<Member>
  ) => Effect.Effect<void, PostgresClusterError>
  readonly onExit: (member: Member) => void
}): Effect.Effect<ReadonlyArray<Member>, PostgresClusterError, Scope.Scope> => {
  const { account, guarded, template } = options

  const make = (index: number, port: number) =>
    Effect.gen(function* () {
      const id = `instance-${index + 1}`
      const server: Server.Server = yield* Server.make({
        id,
        programs: template.programs,
        account,
        guarded,
        onExit: () => options.onExit(member)
      })
      const sessions = Sessions.make({
        node: id,
        port,
        username: template.username,
        password: template.password,
        database
      })
      yield* Effect.addFinalizer(() => sessions.close)
      const proxy = yield* FaultProxy.make({ target: { host: Ports.loopback, port } }).pipe(
        Effect.mapError((cause) => server.failure("its proxy has no port", cause.hint, cause))
      )
      const region = options.regionOf?.(index)
      const node: Node = {
        id,
        host: proxy.host,
        port: proxy.port,
        serverPort: port,
        proxy,
        ...(region === undefined ? {} : { region })
      }
      const member: Member = {
        node,
        place: { directory: server.directory, account, guarded },
        server,
        sessions,
        kind: index === 0 ? "primary" : "standby",
        follows: index > 0
      }
      return member
    })

  const attempt = Effect.gen(function* () {
    const ports = new Set<number>()
    while (ports.size < options.count) ports.add(yield* Ports.free(ports))
    const members = yield* Effect.forEach([...ports], (port, index) => make(index, port))
    yield* Effect.forEach(
      members,
      (member) =>
        Effect.gen(function* () {
          yield* Clone.fromTemplate(template.directory, member.place)
          if (member.kind === "standby") yield* Clone.markStandby(member.place)
          yield* options.configure(member, members)
          yield* start(member)
        }),
      { concurrency: "unbounded", discard: true }
    )
    return members
  })

  // Each attempt in a scope of its own: what a failed one has started is gone before the next one.
  return Effect.uninterruptibleMask((restore) =>
    Effect.gen(function* () {
      const parent = yield* Effect.scope
      const scope = yield* Scope.fork(parent, ExecutionStrategy.parallel)
      return yield* restore(attempt).pipe(
        Effect.provideService(Scope.Scope, scope),
        Effect.onError((cause) => Scope.close(scope, Exit.failCause(cause)))
      )
    })
  ).pipe(Effect.retry({ times: Ports.attempts, while: portTaken }))
}
