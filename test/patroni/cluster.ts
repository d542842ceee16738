/**
 * A real Patroni cluster as a scoped Effect: etcd and three nodes, each on a loopback address of its own, with
 * the same two ports on all of them, as on three machines. Nothing is left behind, also when the
 * test run is killed.
 */
import * as Fs from "node:fs"
import * as Net from "node:net"
import * as Path from "node:path"
import { Duration, Effect, Schedule, type Scope } from "effect"
import Pg from "pg"
import * as Account from "../../src/testing/internal/account.js"
import * as Command from "../../src/testing/internal/command.js"
import * as Ports from "../../src/testing/internal/ports.js"
import * as Watchdog from "../../src/testing/internal/watchdog.js"
import { configurationOf, PASSWORD, USERNAME } from "./configuration.js"
import type { PatroniClusterError } from "./processes.js"
import * as Processes from "./processes.js"
import { failure, freeze, kill, resume, terminate } from "./processes.js"
import type { Programs } from "./programs.js"

export interface Node {
  readonly name: string
  /** Of PostgreSQL and of the REST API. */
  readonly host: string
  readonly port: number
  readonly api: string
  readonly directory: string
}

export interface Member {
  readonly name: string
  readonly role: string
  readonly state: string
  readonly timeline: number | undefined
}

type Row = Readonly<Record<string, unknown>>
type Do<A = void> = Effect.Effect<A, PatroniClusterError>

export interface PatroniCluster {
  readonly nodes: ReadonlyArray<Node>
  readonly apiPort: number
  readonly username: string
  readonly database: string
  /** `GET /cluster`, from whoever answers. */
  readonly members: Do<ReadonlyArray<Member>>
  readonly leader: Do<Node>
  /** Continues what is frozen, starts what is dead, and ends a pause. */
  readonly repair: Do
  /** Waits until there is a leader that two others follow, one of them synchronously. */
  readonly healthy: Do
  /** Asks the server itself, past everybody. */
  readonly query: (
    node: Node,
    sql: string,
    params?: ReadonlyArray<unknown>
  ) => Do<ReadonlyArray<Row>>
  readonly switchover: (from: Node, to: Node) => Do
  /** PATCH /config. */
  readonly configure: (patch: Readonly<Record<string, unknown>>) => Do
  readonly startPatroni: (node: Node) => Do
  /** SIGTERM: PostgreSQL is shut down, and the member leaves the list. */
  readonly stopPatroni: (node: Node) => Do
  /** SIGKILL; PostgreSQL lives on. */
  readonly killPatroni: (node: Node) => Do
  /** SIGKILL for the postmaster and all its processes. */
  readonly killPostgres: (node: Node) => Do
  readonly freezePatroni: (node: Node) => Do
  readonly resumePatroni: (node: Node) => Do
  /** SIGSTOP and SIGCONT for the postmaster and all its processes. */
  readonly freezePostgres: (node: Node) => Do
  readonly resumePostgres: (node: Node) => Do
  readonly freezeEtcd: Do
  readonly resumeEtcd: Do
  /** What the node's Patroni and PostgreSQL have logged. */
  readonly log: (node: Node) => string
}

/** A failover takes `ttl` and a bit; a node that comes back may have to be copied. */
const BOUND = Duration.seconds(60)

const isListening = (host: string, port: number): Effect.Effect<boolean> =>
  Effect.async<boolean>((resume) => {
    const socket = Net.connect({ host, port })
    const done = (answer: boolean) => {
      socket.destroy()
      resume(Effect.succeed(answer))
    }
    socket.once("connect", () => done(true))
    socket.once("error", () => done(false))
  })

/** Waits for what takes Patroni its time. */
export const until = <E>(what: string, ready: Effect.Effect<boolean, E>): Do =>
  ready.pipe(
    Effect.orElseSucceed(() => false),
    Effect.repeat({ until: (done) => done, schedule: Schedule.spaced("50 millis") }),
    Effect.timeoutFail({
      duration: BOUND,
      onTimeout: () => failure(`waited ${Duration.format(BOUND)} in vain for: ${what}`)
    }),
    Effect.asVoid
  )

export const make = (programs: Programs): Effect.Effect<PatroniCluster, unknown, Scope.Scope> =>
  Effect.gen(function* () {
    const { account } = programs
    const guarded = yield* Watchdog.make("cluster", account)
    const taken = new Set<number>()
    const freePort = Effect.tap(
      Effect.suspend(() => Ports.free(taken)),
      (port) => taken.add(port)
    )
    const [port, apiPort, etcdPort, etcdPeerPort] = [
      yield* freePort,
      yield* freePort,
      yield* freePort,
      yield* freePort
    ]
    const nodes = ["pg-1", "pg-2", "pg-3"].map((name, i): Node => {
      const host = `127.0.0.${11 + i}`
      const directory = Path.join(guarded.directory, name)
      return { name, host, port, api: `http://${host}:${apiPort}`, directory }
    })

    const processes = yield* Processes.make({
      programs,
      guarded,
      directories: nodes.map((_) => _.directory)
    })
    const { start } = processes

    const etcd = `${Ports.loopback}:${etcdPort}`
    const client = `http://${etcd}`
    const peer = `http://${Ports.loopback}:${etcdPeerPort}`
    yield* start("etcd", [
      programs.etcd,
      "--name=etcd",
      ...(programs.store === "etcd" ? ["--enable-v2=true"] : []),
      `--data-dir=${guarded.directory}/etcd`,
      `--listen-client-urls=${client}`,
      `--advertise-client-urls=${client}`,
      `--listen-peer-urls=${peer}`,
      `--initial-advertise-peer-urls=${peer}`,
      `--initial-cluster=etcd=${peer}`
    ])

    const startPatroni = (node: Node): Do => {
      const file = `${node.directory}.yml`
      return Effect.zipRight(
        Effect.sync(() => {
          // JSON is YAML.
          Fs.writeFileSync(file, JSON.stringify(configurationOf(node, { apiPort, etcd, programs })))
          Account.own(file, account)
        }),
        start(node.name, [...programs.patroni, file])
      )
    }

    const request = (node: Node, path: string, init: RequestInit = {}) =>
      Effect.tryPromise({
        try: async (signal) => {
          const response = await fetch(`${node.api}${path}`, { ...init, signal })
          const text = await response.text()
          if (!response.ok) throw new Error(`${response.status}: ${text}`)
          return text
        },
        catch: (cause) => failure(`${path} on ${node.name} fails: ${String(cause)}`, cause)
      })

    const members: PatroniCluster["members"] = Effect.raceAll(
      nodes.map((node) => request(node, "/cluster"))
    ).pipe(
      Effect.map((text): ReadonlyArray<Member> => JSON.parse(text).members),
      Effect.timeoutFail({ duration: "3 seconds", onTimeout: () => failure("no /cluster") })
    )

    const leader = Effect.flatMap(members, (all) => {
      const name = all.find(({ role }) => role === "leader")?.name
      const node = nodes.find((_) => _.name === name)
      return node === undefined ? Effect.fail(failure("there is no leader")) : Effect.succeed(node)
    })

    const query: PatroniCluster["query"] = (node, sql, params = []) =>
      Effect.acquireUseRelease(
        Effect.sync(() => {
          const client = new Pg.Client({
            host: node.host,
            port,
            user: USERNAME,
            password: PASSWORD,
            database: "postgres",
            application_name: "test",
            connectionTimeoutMillis: 5000,
            query_timeout: 5000
          })
          client.on("error", () => {})
          return client
        }),
        (client) =>
          Effect.tryPromise({
            try: async () => {
              await client.connect()
              return (await client.query<Row>(sql, [...params])).rows
            },
            catch: (cause) => failure(`${sql} on ${node.name} fails: ${String(cause)}`, cause)
          }),
        (client) => Effect.promise(() => client.end().catch(() => {}))
      )

    const healthy = until(
      "a leader that two others follow",
      Effect.gen(function* () {
        const all = yield* members
        const node = yield* leader
        const timeline = all.find(({ name }) => name === node.name)?.timeline
        const isLevel = all.every((_) => _.timeline === timeline)
        const isRunning = all.every(({ state }) => state === "running" || state === "streaming")
        const isSynchronous = all.some(({ role }) => role === "sync_standby")
        const [row] = yield* query(
          node,
          "select count(*)::int as n from pg_stat_replication where state = 'streaming' and not pg_is_in_recovery()"
        )
        return all.length === 3 && isLevel && isRunning && isSynchronous && row?.["n"] === 2
      })
    )

    yield* until("etcd", isListening(Ports.loopback, etcdPort))
    yield* Effect.forEach(nodes, startPatroni, { discard: true })
    yield* Effect.mapError(healthy, (error) =>
      failure(
        `${error.message}\n${nodes.map(({ name }) => Command.tail(processes.log(name))).join("\n\n")}`
      )
    )

    const configure: PatroniCluster["configure"] = (patch) =>
      Effect.flatMap(leader, (node) =>
        Effect.asVoid(request(node, "/config", { method: "PATCH", body: JSON.stringify(patch) }))
      )

    const repair = Effect.gen(function* () {
      yield* processes.resumeAll
      for (const node of nodes) if (!processes.isRunning(node.name)) yield* startPatroni(node)
      yield* until("the end of a pause", Effect.isSuccess(configure({ pause: null })))
    })
    const onPatroni = (f: (pid: number) => Effect.Effect<void>) => (node: Node) =>
      Effect.flatMap(processes.pid(node.name), f)
    const onPostgres = (f: (pid: number) => Effect.Effect<void>) => (node: Node) =>
      Effect.flatMap(processes.postmaster(node.directory), f)

    return {
      nodes,
      apiPort,
      username: USERNAME,
      database: "postgres",
      members,
      leader,
      healthy,
      query,
      switchover: (from, to) =>
        Effect.asVoid(
          request(from, "/switchover", {
            method: "POST",
            body: JSON.stringify({ leader: from.name, candidate: to.name })
          })
        ),
      configure,
      repair,
      startPatroni,
      stopPatroni: (node) =>
        Effect.zipRight(
          onPatroni(terminate)(node),
          until(
            `${node.name} to stop`,
            Effect.sync(() => !processes.isRunning(node.name))
          )
        ),
      killPatroni: onPatroni(kill),
      killPostgres: onPostgres(kill),
      freezePatroni: onPatroni(freeze),
      resumePatroni: onPatroni(resume),
      freezePostgres: onPostgres(freeze),
      resumePostgres: onPostgres(resume),
      freezeEtcd: Effect.flatMap(processes.pid("etcd"), freeze),
      resumeEtcd: Effect.flatMap(processes.pid("etcd"), resume),
      log: ({ name }) => processes.log(name)
    }
  })
