/**
 * A database host: where it listens and what the cluster calls it.
 *
 * @since 0.1.0
 */
import { Data, Either } from "effect"
import { ConfigurationError } from "./Errors.js"

/**
 * What a host is to its cluster. `unknown` until the host itself has been asked.
 *
 * @since 0.1.0
 * @category models
 */
export type Role = "writer" | "reader" | "unknown"

/**
 * Whether the last attempt to talk to a host succeeded. `unknown` before the first one.
 *
 * @since 0.1.0
 * @category models
 */
export type Availability = "available" | "unavailable" | "unknown"

/**
 * One host. Two hosts are the same when address and port are: `id` is the name that the cluster
 * gives it (an Aurora instance identifier) or, where the cluster gives none, its address.
 *
 * @since 0.1.0
 * @category models
 */
export interface Host {
  readonly id: string
  readonly host: string
  readonly port: number
}

/**
 * @since 0.1.0
 * @category constructors
 */
export const make = (options: {
  readonly host: string
  readonly port: number
  readonly id?: string | undefined
}): Host =>
  Data.struct({
    id: options.id ?? address(options),
    host: options.host,
    port: options.port
  })

/**
 * `host:port`, with IPv6 addresses in brackets. The identity of a host within a topology.
 *
 * @since 0.1.0
 * @category getters
 */
export const address = (self: { readonly host: string; readonly port: number }): string =>
  self.host.includes(":") ? `[${self.host}]:${self.port}` : `${self.host}:${self.port}`

/**
 * @since 0.1.0
 * @category guards
 */
export const isSame = (self: Host, that: Host): boolean =>
  self.port === that.port && self.host === that.host

/** A bracketed IPv6 address or a bare name, then an optional port. */
const hostAndPort =
  /^(?:\[(?=[0-9a-fA-F.]*:)([0-9a-fA-F:.]+(?:%[^\]\s]+)?)\]|([^\s:/?#@[\]]+))(?::([^:]*))?$/

/** A bare IPv6 address: two colons or more, hexadecimal digits, and perhaps a zone. */
const bareIpv6 = /^(?=[0-9a-fA-F.]*:[0-9a-fA-F.]*:)[0-9a-fA-F:.]+(?:%\S+)?$/

/**
 * Reads `name`, `name:port`, `1.2.3.4:port`, `[::1]:port` or a bare IPv6 address. Names are
 * lower-cased and lose the trailing dot of a fully qualified name, so that one host has one identity.
 *
 * @since 0.1.0
 * @category constructors
 */
export const parse = (
  input: string,
  options: { readonly defaultPort: number; readonly field: string }
): Either.Either<Host, ConfigurationError> => {
  const text = input.trim()
  if (bareIpv6.test(text)) {
    return Either.right(make({ host: text.toLowerCase(), port: options.defaultPort }))
  }
  if (text.includes("://")) {
    // Without its value: a URL may hold a password.
    return Either.left(
      new ConfigurationError({
        field: options.field,
        problem: "holds a URL where a host is expected",
        hint: `write "name", "name:port" or "[ipv6]:port", or give the URL as \`url\``
      })
    )
  }
  const match = hostAndPort.exec(text)
  const name = match?.[1] ?? match?.[2]
  if (match === null || name === undefined) {
    return Either.left(
      new ConfigurationError({
        field: options.field,
        value: input,
        problem: text === "" ? "is empty" : "is not a host name",
        hint: `write "name", "name:port" or "[ipv6]:port", for example "db-1.internal:${options.defaultPort}"`
      })
    )
  }
  return Either.map(
    match[3] === undefined
      ? Either.right(options.defaultPort)
      : parsePort(match[3], options.field, input),
    (port) => make({ host: name.toLowerCase().replace(/\.$/, ""), port })
  )
}

/**
 * A TCP port: a whole number from 1 to 65535.
 *
 * @since 0.1.0
 * @category constructors
 */
export const parsePort = (
  port: string | number,
  field: string,
  value: unknown = port
): Either.Either<number, ConfigurationError> => {
  const number =
    typeof port === "number" ? port : /^\d{1,5}$/.test(port) ? Number(port) : Number.NaN
  return Number.isInteger(number) && number >= 1 && number <= 65_535
    ? Either.right(number)
    : Either.left(
        new ConfigurationError({
          field,
          value,
          problem: `has the port ${JSON.stringify(port)}`,
          hint: "a port is a whole number from 1 to 65535"
        })
      )
}
