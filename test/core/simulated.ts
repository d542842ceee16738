/**
 * A small cluster in memory: hosts with a role and a timeline, sessions that run statements against one
 * table, and faults at the moment that the test names.
 */
import { Reactivity } from "@effect/experimental"
import { Statement } from "@effect/sql"
import { Deferred, Duration, Effect, FiberId, Stream } from "effect"
import {
  Connector,
  ErrorClassifier,
  SqlFailover,
  SqlTopologySource,
  Topology
} from "effect-failover"
import type { Dialect, Host } from "effect-failover"
import { host } from "./fakes.js"

type Request = Connector.Request

/**
 * What happens to the next statement that matches: it is lost before it leaves, executed and lost before
 * its answer, sent and never answered (for the connection's or the caller's time), refused by the server.
 */
export type Fault =
  | {
      readonly kind:
        "beforeSend" | "beforeExecute" | "beforeReply" | "hang" | "hangAfter" | "timeout"
    }
  | { readonly kind: "refuse"; readonly code: string; readonly severity?: string }

export interface SimulatedHost {
  role: "writer" | "reader"
  timeline: number
  start: number
  state: "up" | "down" | "hung"
  /** What a new connection is refused with. */
  refusal: { readonly code: string } | undefined
  readonly log: Array<string>
  readonly sessions: Set<SimulatedSession>
}

export interface SimulatedSession extends Connector.Session {
  readonly crash: () => void
}

const serverError = (code: string, message = `server error ${code}`, severity = "ERROR") =>
  Object.assign(new Error(message), { code, severity })

const reset = () => Object.assign(new Error("read ECONNRESET"), { code: "ECONNRESET" })

export const cluster = (...names: ReadonlyArray<string>) => {
  const table: Array<string> = []
  const hosts = new Map<string, SimulatedHost>()
  const faults: Array<{ readonly match: RegExp; readonly fault: Fault }> = []
  let connects = 0
  for (const [i, name] of names.entries()) {
    hosts.set(name, {
      role: i === 0 ? "writer" : "reader",
      timeline: 1,
      start: 1,
      state: "up",
      refusal: undefined,
      log: [],
      sessions: new Set()
    })
  }
  const get = (name: string): SimulatedHost => {
    const found = hosts.get(name)
    if (found === undefined) throw new Error(`no host ${name}`)
    return found
  }

  const session = (on: Host.Host): SimulatedSession => {
    const server = get(on.host)
    const listeners: Array<(cause: unknown) => void> = []
    const running = new Set<Deferred.Deferred<never, Connector.SessionError>>()
    let open = true
    let pending: Array<string> | undefined
    let failed = false
    const end = (cause: unknown) => {
      if (!open) return
      open = false
      server.sessions.delete(self)
      for (const listener of listeners.splice(0)) listener(cause)
      for (const statement of running) {
        Deferred.unsafeDone(statement, fail(cause, "Unanswered"))
      }
    }
    const fail = (cause: unknown, fate: Connector.Fate) =>
      Effect.fail(new Connector.SessionError({ cause, fate }))

    const execute = ({ params, sql }: Request): string | Array<Array<unknown>> => {
      if (sql === "ROLE") {
        return [[server.role, server.role === "writer" ? server.timeline : null, server.start]]
      }
      server.log.push(sql)
      const word = sql.split(" ")[0] ?? ""
      if (word === "BEGIN") pending = []
      if (word === "COMMIT") {
        const answer = failed ? "ROLLBACK" : "COMMIT"
        if (!failed) table.push(...(pending ?? []))
        pending = undefined
        failed = false
        return answer
      }
      if (word === "ROLLBACK" && !sql.includes("SAVEPOINT")) {
        pending = undefined
        failed = false
      }
      if (sql.startsWith("ROLLBACK TO")) failed = false
      if (word === "INSERT") {
        const into = pending ?? table
        into.push(String(params[0] ?? sql.slice("INSERT ".length)))
      }
      return word === "SELECT" ? [[on.host]] : word
    }

    const run = (request: Request) =>
      Effect.suspend(() => {
        if (!open) return fail(reset(), "NotSent")
        if (server.state === "hung") return wait
        const isWrite = /^(INSERT|CREATE)/.test(request.sql)
        if (isWrite && server.role === "reader") {
          server.log.push(`refused ${request.sql}`)
          return fail(serverError("25006"), "Answered")
        }
        const at = faults.findIndex((_) => _.match.test(request.sql))
        const fault = at < 0 ? undefined : faults.splice(at, 1)[0]?.fault
        switch (fault?.kind) {
          case "beforeSend":
            end(reset())
            return fail(reset(), "NotSent")
          case "beforeExecute":
            end(reset())
            return fail(reset(), "Unanswered")
          case "beforeReply":
            execute(request)
            end(reset())
            return fail(reset(), "Unanswered")
          case "hang":
            return wait
          case "hangAfter":
            execute(request)
            return wait
          case "timeout":
            end(new Error("given up"))
            return fail(new Connector.NoAnswer({ timeout: Duration.seconds(1) }), "Unanswered")
          case "refuse": {
            failed = pending !== undefined
            const fatal = fault.severity === "FATAL"
            if (fatal) end(serverError(fault.code, "fatal", "FATAL"))
            return fail(
              serverError(fault.code, `refused ${request.sql}`, fault.severity),
              fatal ? "Unanswered" : "Answered"
            )
          }
          case undefined:
            return failed && !/^(ROLLBACK|COMMIT)/.test(request.sql)
              ? fail(serverError("25P02"), "Answered")
              : Effect.succeed(execute(request))
        }
      })
    /** Sent and not answered; an interrupt gives the connection up, as a connector must. */
    const wait = Effect.suspend(() => {
      const statement = Deferred.unsafeMake<never, Connector.SessionError>(FiberId.none)
      running.add(statement)
      return Deferred.await(statement).pipe(
        Effect.onInterrupt(() => Effect.sync(() => end(new Error("interrupted"))))
      )
    })

    const self: SimulatedSession = {
      host: on,
      openedAt: 0,
      isOpen: () => open,
      onClose: (listener) => {
        if (open) listeners.push(listener)
        else listener(reset())
      },
      execute: (request) =>
        Effect.map(run(request), (rows) =>
          request.shape === "objects" && Array.isArray(rows)
            ? rows.map((row) => ({ host: row[0] }))
            : typeof rows === "string" && request.shape !== "command"
              ? []
              : rows
        ),
      stream: (request) => Stream.fromEffect(run(request)),
      notifications: Stream.never,
      destroy: () => end(new Error("Connection terminated by this client")),
      crash: () => end(reset())
    }
    server.sessions.add(self)
    return self
  }

  const connector: Connector.Connector = {
    system: "simulated",
    connect: (on, { timeout }) =>
      Effect.suspend(() => {
        connects++
        const server = get(on.host)
        const refused = (cause: unknown) =>
          Effect.fail(new Connector.SessionError({ cause, fate: "NotSent" }))
        if (server.state === "hung") {
          return Effect.zipRight(
            Effect.sleep(timeout),
            refused(Object.assign(new Error("timeout expired"), { code: "ETIMEDOUT" }))
          )
        }
        if (server.state === "down") {
          return refused(Object.assign(new Error("ECONNREFUSED"), { code: "ECONNREFUSED" }))
        }
        return server.refusal === undefined
          ? Effect.sync(() => session(on))
          : refused(serverError(server.refusal.code, "refused", "FATAL"))
      })
  }

  const dialect: Dialect.Dialect = {
    name: "simulated",
    detect: () => Effect.succeed(true),
    isWriter: (query) => Effect.map(query("ROLE"), (rows) => rows[0]?.[0] === "writer"),
    observe: (query, { probed }) =>
      Effect.map(query("ROLE"), ([row]) => ({
        probed,
        host: probed,
        role: row?.[0] === "writer" ? ("writer" as const) : ("reader" as const),
        serverEpoch: typeof row?.[1] === "number" ? BigInt(row[1]) : undefined,
        incarnation: String(row?.[2])
      }))
  }

  const down = (name: string) =>
    Effect.sync(() => {
      const server = get(name)
      server.state = "down"
      for (const one of [...server.sessions]) one.crash()
    })
  const promote = (name: string) =>
    Effect.sync(() => {
      const newest = Math.max(...[...hosts.values()].map((_) => _.timeline))
      Object.assign(get(name), { role: "writer", timeline: newest + 1 })
    })

  return {
    table,
    get,
    connector,
    dialect,
    hosts: names.map(host),
    connects: () => connects,
    openSessions: () => [...hosts.values()].reduce((sum, _) => sum + _.sessions.size, 0),
    /** The next statement that matches suffers this. */
    next: (match: RegExp, fault: Fault | Fault["kind"]) =>
      Effect.sync(() =>
        faults.push({
          match,
          fault: typeof fault === "object" ? fault : ({ kind: fault } as Fault)
        })
      ),
    down,
    promote,
    up: (name: string, role: "writer" | "reader") =>
      Effect.sync(() => {
        const server = get(name)
        Object.assign(server, { state: "up", role, start: server.start + 1 })
      }),
    hang: (name: string) => Effect.sync(() => void (get(name).state = "hung")),
    demote: (name: string) => Effect.sync(() => void (get(name).role = "reader")),
    /** One host dies, another takes over. */
    failover: (from: string, to: string) => Effect.zipRight(down(from), promote(to))
  }
}

export type Cluster = ReturnType<typeof cluster>

const classifier = ErrorClassifier.make([...ErrorClassifier.postgres, ...ErrorClassifier.transport])

/** The whole client over the cluster. */
export const client = (sim: Cluster, change?: Partial<SqlFailover.Options>) =>
  Effect.gen(function* () {
    const connectTimeout = Duration.seconds(5)
    const source = SqlTopologySource.make({
      connector: sim.connector,
      dialects: [sim.dialect],
      classifier,
      connectTimeout,
      hostOf: () => {
        throw new Error("not used")
      }
    })
    const topology = yield* Topology.make({ clusterId: "sim", seeds: sim.hosts, source })
    const made = yield* SqlFailover.make({
      topology,
      connector: sim.connector,
      classifier,
      dialect: source.dialect,
      compiler: Statement.makeCompiler({
        dialect: "pg",
        placeholder: (_) => `$${_}`,
        onIdentifier: (_) => _,
        onCustom: () => ["", []],
        onRecordUpdate: () => ["", []]
      }),
      spanAttributes: [],
      pool: {
        maxConnections: 10,
        minConnections: 0,
        acquireTimeout: Duration.seconds(30),
        idleTimeout: Duration.minutes(10),
        connectionTTL: Duration.minutes(30)
      },
      connectTimeout,
      failoverTimeout: Duration.seconds(60),
      ...change
    })
    return { ...made, topology, sql: made.client }
  }).pipe(Effect.provide(Reactivity.layer))
