/**
 * Connection URLs as libpq writes them, several hosts included:
 * `postgres://user:password@host-1:5432,host-2:5432/database?sslmode=require`.
 *
 * @internal
 */
import { Either, Redacted } from "effect"
import type { ConnectionOptions } from "node:tls"
import { ConfigurationError } from "../../Errors.js"

/** @internal */
export interface ParsedUrl {
  readonly hosts: ReadonlyArray<string>
  readonly username: string | undefined
  readonly password: Redacted.Redacted | undefined
  readonly database: string | undefined
  readonly ssl: boolean | ConnectionOptions | undefined
  readonly applicationName: string | undefined
}

/** Never shows the URL itself: it holds a password. */
const invalid = (problem: string, hint: string) =>
  Either.left(new ConfigurationError({ field: "url", problem, hint }))

const FORM = 'write "postgres://user:password@host-1:5432,host-2:5432/database"'

/** As node-postgres reads them: whatever asks for TLS verifies the server, unless told not to. */
const sslModes: Readonly<Record<string, boolean | ConnectionOptions>> = {
  disable: false,
  prefer: true,
  require: true,
  "verify-ca": true,
  "verify-full": true,
  "no-verify": { rejectUnauthorized: false }
}

const parts = /^(postgres(?:ql)?:\/\/)((?:[^@/?#]*@)?)([^/?#]*)(.*)$/s

const nonEmpty = (text: string | null): string | undefined =>
  text === null || text === "" ? undefined : text

/** @internal */
export const parseUrl = (url: Redacted.Redacted): Either.Either<ParsedUrl, ConfigurationError> => {
  const match = parts.exec(Redacted.value(url).trim())
  if (match === null) return invalid("is not a PostgreSQL URL", FORM)
  const [, scheme = "", credentials = "", hosts = "", rest = ""] = match
  // The hosts are read on their own, for a URL knows one host only.
  return Either.flatMap(
    Either.try({
      try: () => {
        const parsed = new URL(`${scheme}${credentials}host${rest}`)
        return {
          username: nonEmpty(decodeURIComponent(parsed.username)),
          password: nonEmpty(decodeURIComponent(parsed.password)),
          database: nonEmpty(decodeURIComponent(parsed.pathname.slice(1))),
          parameters: parsed.searchParams
        }
      },
      catch: () =>
        new ConfigurationError({
          field: "url",
          problem: "cannot be read",
          hint: `${FORM}, with special characters in user and password percent-encoded`
        })
    }),
    ({ database, parameters, password, username }) => {
      const sslmode = parameters.get("sslmode")
      const ssl =
        sslmode !== null && Object.hasOwn(sslModes, sslmode) ? sslModes[sslmode] : undefined
      return sslmode !== null && ssl === undefined
        ? invalid(
            `has the sslmode ${JSON.stringify(sslmode)}`,
            `use ${Object.keys(sslModes).join(", ")}, or the option \`ssl\``
          )
        : Either.right({
            hosts: hosts === "" ? [] : hosts.split(","),
            username,
            password: password === undefined ? undefined : Redacted.make(password),
            database,
            ssl,
            applicationName: nonEmpty(parameters.get("application_name"))
          })
    }
  )
}
