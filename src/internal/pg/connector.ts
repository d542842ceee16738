/**
 * Opens one PostgreSQL connection with node-postgres.
 *
 * @internal
 */
import { Clock, Duration, Effect, Redacted } from "effect"
import type { ConnectionOptions } from "node:tls"
import * as Pg from "pg"
import type { Connector } from "../../Connector.js"
import { SessionError } from "../../Connector.js"
import { ConnectionRejected } from "../../Errors.js"
import type { Host } from "../../Host.js"
import { PreparedStatements } from "./preparedStatements.js"
import { internals, PgSession } from "./session.js"

/** @internal */
export interface PgConnectorOptions {
  readonly username: string | undefined
  readonly database: string | undefined
  /** Evaluated for each physical connection. */
  readonly password: Effect.Effect<Redacted.Redacted | undefined, unknown>
  readonly ssl: boolean | ConnectionOptions
  readonly applicationName: string
  readonly queryTimeout: Duration.Duration | undefined
  readonly prepareStatements: boolean
  readonly types: Pg.CustomTypesConfig | undefined
}

/** The first byte of what a PostgreSQL server may say before a session begins: R, E, N, v; S follows R. */
const FIRST_BYTES = new Set([0x52, 0x45, 0x4e, 0x76])

/** No message before ReadyForQuery is nearly as long; a foreign protocol read as a length is longer. */
const LONGEST_FIRST_MESSAGE = 30_000

const looksLikePostgres = (chunk: Buffer): boolean =>
  FIRST_BYTES.has(chunk[0] ?? 0) &&
  (chunk.length < 5 ||
    (chunk.readUInt32BE(1) >= 4 && chunk.readUInt32BE(1) <= LONGEST_FIRST_MESSAGE))

const notSent = (cause: unknown) => new SessionError({ cause, fate: "NotSent" })

/** @internal */
export const make = (options: PgConnectorOptions): Connector => {
  const password = (host: Host, timeout: Duration.Duration) => {
    const rejected = (hint: string, cause: unknown) =>
      notSent(
        new ConnectionRejected({
          reason: "Credentials",
          field: "password",
          host,
          sqlState: undefined,
          hint,
          cause
        })
      )
    return options.password.pipe(
      Effect.mapError((cause) => rejected("the effect that provides the password failed", cause)),
      Effect.timeoutFail({
        duration: timeout,
        onTimeout: () => {
          const cause = new Error(`no password within ${Duration.toMillis(timeout)} ms`)
          return rejected("the effect that provides the password took too long", cause)
        }
      })
    )
  }

  const open = (
    host: Host,
    secret: Redacted.Redacted | undefined,
    timeout: Duration.Duration,
    openedAt: number
  ): Effect.Effect<PgSession, SessionError> =>
    Effect.async((resume) => {
      const client = new Pg.Client({
        host: host.host,
        port: host.port,
        user: options.username,
        database: options.database,
        password: secret === undefined ? undefined : Redacted.value(secret),
        ssl: options.ssl,
        application_name: options.applicationName,
        connectionTimeoutMillis: Duration.toMillis(timeout),
        keepAlive: true,
        ...(options.types === undefined ? undefined : { types: options.types })
      })
      const { connection } = internals(client)
      const session = new PgSession(
        host,
        openedAt,
        client,
        options.queryTimeout,
        options.prepareStatements ? new PreparedStatements() : undefined
      )
      const abandon = () => {
        connection._ending = true
        connection.stream.destroy()
      }
      let done = false
      const finish = (result: Effect.Effect<PgSession, SessionError>) => {
        if (done) return
        done = true
        resume(result)
      }
      if (options.ssl === false) {
        connection.stream.once("data", (chunk: Buffer) => {
          if (looksLikePostgres(chunk)) return
          finish(
            Effect.fail(notSent(new Error("Not a PostgreSQL server: it answered something else")))
          )
          abandon()
        })
      }
      client.connect((cause: Error | undefined) => {
        // node-postgres says null where its types say undefined.
        if (!cause) return finish(Effect.succeed(session))
        finish(Effect.fail(notSent(cause)))
        abandon()
      })
      return Effect.sync(abandon)
    })

  return {
    system: "postgresql",
    connect: (host, { timeout }) =>
      Effect.flatMap(Clock.currentTimeMillis, (openedAt) =>
        Effect.flatMap(password(host, timeout), (secret) => open(host, secret, timeout, openedAt))
      )
  }
}
