/**
 * The options of `dialects/Patroni`, checked.
 *
 * @internal
 */
import { Duration, Either, Option } from "effect"
import { ConfigurationError } from "../../Errors.js"
import * as Host from "../../Host.js"
import type { Options } from "../Patroni.js"
import type { Settings } from "./patroniInquiry.js"

const invalid = (field: string, value: unknown, problem: string, hint: string) =>
  Either.left(new ConfigurationError({ field, value, problem, hint }))

/** A base URL without the slash at its end. */
const urlOf = (url: string): Either.Either<string, ConfigurationError> => {
  const hint = 'write "http://db-1.internal:8008"'
  if (!URL.canParse(url)) return invalid("urls", url, "is not a URL", hint)
  const { hash, origin, password, pathname, protocol, search, username } = new URL(url)
  if (username !== "" || password !== "") {
    // Without its value: it holds a password.
    return invalid(
      "urls",
      undefined,
      "holds credentials",
      "give them to the HttpClient: HttpClient.mapRequest(HttpClientRequest.basicAuth(username, password))"
    )
  }
  return (protocol === "http:" || protocol === "https:") && search === "" && hash === ""
    ? Either.right(`${origin}${pathname.replace(/\/+$/, "")}`)
    : invalid("urls", url, "is not the base URL of a REST API", hint)
}

/** @internal */
export const check = (
  options: Options,
  defaults: { readonly port: number; readonly timeout: Duration.Duration }
): Either.Either<Omit<Settings, "api">, ConfigurationError> =>
  Either.gen(function* () {
    if (options.urls?.length === 0) {
      return yield* invalid(
        "urls",
        options.urls,
        "names no endpoint",
        "name one, or leave the option out if the REST API is on the database hosts"
      )
    }
    const scheme = options.scheme ?? "http"
    if (scheme !== "http" && scheme !== "https") {
      return yield* invalid("scheme", scheme, "is not known", 'use "http" or "https"')
    }
    const port = yield* Host.parsePort(options.port ?? defaults.port, "port")
    const timeout = Duration.decodeUnknown(options.timeout ?? defaults.timeout)
    if (
      Option.isNone(timeout) ||
      !Duration.isFinite(timeout.value) ||
      Duration.lessThanOrEqualTo(timeout.value, Duration.zero)
    ) {
      return yield* invalid(
        "timeout",
        options.timeout,
        "is not a positive duration",
        'write it as "1 second", or as milliseconds'
      )
    }
    return {
      urls: yield* Either.all((options.urls ?? []).map(urlOf)),
      endpointOf: ({ host }) => `${scheme}://${Host.address({ host, port })}`,
      timeout: timeout.value
    }
  })
