/** Database sessions of the manager and of `query`: straight to one server, past its proxy, each with a bound. */
import * as Net from "node:net"
import { Duration, Effect, Exit } from "effect"
import Pg from "pg"
import { PostgresClusterError } from "./clusterError.js"
import { loopback } from "./ports.js"

export type Row = Readonly<Record<string, unknown>>

export interface Session {
  readonly query: (
    sql: string,
    params?: ReadonlyArray<unknown>
  ) => Effect.Effect<ReadonlyArray<Row>, PostgresClusterError>
}

export interface Sessions {
  /** Opens a session and keeps it for the next use: afterwards, one is open for whoever is in a hurry. */
  readonly connect: Effect.Effect<void, PostgresClusterError>
  /** Runs with an idle session, or a new one. It is kept for others on success, and destroyed on any other end. */
  readonly use: <A, E, R>(
    f: (session: Session) => Effect.Effect<A, E, R>
  ) => Effect.Effect<A, E | PostgresClusterError, R>
  readonly query: (
    sql: string,
    params?: ReadonlyArray<unknown>,
    bound?: Duration.DurationInput
  ) => Effect.Effect<ReadonlyArray<Row>, PostgresClusterError>
  /** Destroys all sessions, idle or not. */
  readonly close: Effect.Effect<void>
}

/** A local server answers in milliseconds; a busy machine may take a second. Ten mean that it hangs. */
export const defaultBound = Duration.seconds(10)
const connectBound = Duration.seconds(5)

/** So that a test can tell these sessions from its own in pg_stat_activity. */
const applicationName = "postgres-cluster-manager"

interface Connection {
  readonly client: Pg.Client
  readonly socket: Net.Socket
}

interface Rows {
  readonly rows?: ReadonlyArray<Row>
}

export const make = (options: {
  readonly node: string
  readonly port: number
  readonly username: string
  readonly password: string
  readonly database: string
}): Sessions => {
  const idle: Array<Connection> = []
  const all = new Set<Connection>()

  const failure = (message: string, hint: string) => (cause?: unknown) =>
    new PostgresClusterError({
      message: `${options.node}: ${message}${cause instanceof Error ? `: ${cause.message}` : ""}`,
      hint,
      node: options.node,
      ...(cause === undefined ? {} : { cause })
    })

  const destroy = (connection: Connection): void => {
    all.delete(connection)
    const at = idle.indexOf(connection)
    if (at >= 0) idle.splice(at, 1)
    connection.socket.destroy()
  }

  const open: Effect.Effect<Connection, PostgresClusterError> = Effect.suspend(() => {
    const socket = new Net.Socket()
    const client = new Pg.Client({
      host: loopback,
      port: options.port,
      user: options.username,
      password: options.password,
      database: options.database,
      application_name: applicationName,
      stream: () => socket
    })
    const connection: Connection = { client, socket }
    const cannotConnect = failure(
      `cannot connect to 127.0.0.1:${options.port}`,
      "look at `status`: the server may be stopped, frozen or starting"
    )
    return Effect.async<Connection, PostgresClusterError>((resume) => {
      all.add(connection)
      // Emitted when the server goes away while the session is idle: it is just not idle any more.
      client.on("error", () => destroy(connection))
      client.on("end", () => destroy(connection))
      client.connect((cause: Error | null | undefined) => {
        if (cause == null) return resume(Effect.succeed(connection))
        destroy(connection)
        resume(Effect.fail(cannotConnect(cause)))
      })
      return Effect.sync(() => destroy(connection))
    }).pipe(
      Effect.timeoutFail({
        duration: connectBound,
        onTimeout: () =>
          cannotConnect(new Error(`no answer within ${Duration.format(connectBound)}`))
      })
    )
  })

  const session = ({ client }: Connection): Session => ({
    query: (sql, params) =>
      Effect.async<ReadonlyArray<Row>, PostgresClusterError>((resume) => {
        const done = (
          cause: Error | null | undefined,
          result: Rows | ReadonlyArray<Rows>
        ): void => {
          if (cause != null) {
            const refused = failure("query failed", `the statement was: ${sql.slice(0, 200)}`)
            return resume(Effect.fail(refused(cause)))
          }
          // Several statements in one text give several results: the last one's rows are meant.
          const last: Rows | undefined =
            "rows" in result ? result : (result as ReadonlyArray<Rows>).at(-1)
          resume(Effect.succeed(last?.rows ?? []))
        }
        if (params === undefined || params.length === 0) client.query(sql, done)
        else client.query(sql, [...params], done)
      })
  })

  const use: Sessions["use"] = (f) =>
    Effect.acquireUseRelease(
      Effect.suspend(() => {
        const connection = idle.pop()
        return connection === undefined ? Effect.interruptible(open) : Effect.succeed(connection)
      }),
      (connection) => f(session(connection)),
      (connection, exit) =>
        Effect.sync(() => {
          // An interrupted query is still running in there; a failed one may have broken the session.
          if (Exit.isSuccess(exit) && all.has(connection) && connection.socket.writable) {
            idle.push(connection)
          } else destroy(connection)
        })
    )

  return {
    connect: use(() => Effect.void),
    use,
    query: (sql, params, bound = defaultBound) =>
      use((one) => one.query(sql, params)).pipe(
        Effect.timeoutFail({
          duration: bound,
          onTimeout: () =>
            failure(
              `no answer within ${Duration.format(Duration.decode(bound))}`,
              "the server is frozen, or a commit waits for a synchronous standby that is not there"
            )()
        })
      ),
    close: Effect.sync(() => {
      for (const connection of [...all]) destroy(connection)
    })
  }
}
