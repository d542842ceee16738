/**
 * Where a server listens: its host, and the origin of its URLs.
 *
 * @internal
 */
import { Either } from "effect"
import { ConfigurationError } from "../../Errors.js"
import * as Host from "../../Host.js"

/** @internal */
export interface Endpoint {
  readonly host: Host.Host
  /** `http://name:port`, canonical: two endpoints are the same when their origins are. */
  readonly origin: string
}

/** ArangoDB's own port, for endpoints that are written without a scheme. */
const DEFAULT_PORT = 8529

/** ArangoDB names transports where URLs name protocols. `URL` knows no origin of the former. */
const schemes: Readonly<Record<string, string>> = {
  "tcp:": "http:",
  "http+tcp:": "http:",
  "http:": "http:",
  "ssl:": "https:",
  "tls:": "https:",
  "http+ssl:": "https:",
  "https:": "https:"
}

const FORM =
  'write "http://name:8529" or "https://name:8529" (or ArangoDB\'s own "tcp://" and "ssl://")'

const invalid = (field: string, value: unknown, problem: string, hint = FORM) =>
  Either.left(new ConfigurationError({ field, value, problem, hint }))

const ports: Readonly<Record<string, number>> = { "http:": 80, "https:": 443 }

const withoutScheme = (text: string, field: string): Either.Either<Endpoint, ConfigurationError> =>
  Either.flatMap(Host.parse(text, { defaultPort: DEFAULT_PORT, field }), (host) =>
    parse(`http://${Host.address(host)}`, field)
  )

/**
 * Reads `http://name:port`, `tcp://[::1]:8529`, `name:8529` and their like.
 *
 * @internal
 */
export const parse = (text: string, field: string): Either.Either<Endpoint, ConfigurationError> => {
  const trimmed = text.trim()
  const [, given, rest = ""] = /^([a-z+]+:)\/\/(.*)$/i.exec(trimmed) ?? []
  if (given === undefined) return withoutScheme(trimmed, field)
  const scheme = schemes[given.toLowerCase()]
  if (scheme === undefined) {
    return invalid(field, undefined, `has the scheme ${JSON.stringify(given)}`)
  }
  if (!URL.canParse(`${scheme}//${rest}`)) return invalid(field, undefined, "cannot be read")
  const url = new URL(`${scheme}//${rest}`)
  if (url.username !== "" || url.password !== "") {
    // Without its value: it holds a password.
    return invalid(field, undefined, "holds credentials", "give them as `auth`")
  }
  if (url.pathname !== "/" || url.search !== "" || url.hash !== "") {
    return invalid(field, text, "has a path", "name the server only: paths belong to requests")
  }
  const host = Host.make({
    host: url.hostname.replace(/^\[|\]$/g, ""),
    port: url.port === "" ? (ports[scheme] ?? DEFAULT_PORT) : Number(url.port)
  })
  return Either.right({ host, origin: url.origin })
}

/** @internal */
export const unique = (endpoints: ReadonlyArray<Endpoint>): ReadonlyArray<Endpoint> =>
  endpoints.filter((one, i) => endpoints.findIndex((_) => _.origin === one.origin) === i)

/**
 * What a request's URL asks for: a path on whichever server serves, or something elsewhere.
 *
 * @internal
 */
export const pathOf = (url: string, isKnown: (origin: string) => boolean): string | undefined => {
  if (url.startsWith("/")) return url
  if (!/^[a-z][a-z0-9+.-]*:/i.test(url)) return `/${url}`
  const [, scheme = "", authority = "", rest = ""] =
    /^([a-z][a-z0-9+.-]*:)\/\/([^/?#]*)(.*)$/i.exec(url) ?? []
  return Either.match(parse(`${scheme}//${authority}`, "url"), {
    onLeft: () => undefined,
    onRight: ({ origin }) =>
      isKnown(origin) ? (rest.startsWith("/") ? rest : `/${rest}`) : undefined
  })
}
