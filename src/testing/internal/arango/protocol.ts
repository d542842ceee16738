/**
 * What goes over the wire: ArangoDB's replies and its errors, which have four fields always.
 *
 * @internal
 */
import type { IncomingHttpHeaders } from "node:http"

/** @internal */
export interface Call {
  readonly method: string
  /** Without `/_db/<database>`. */
  readonly path: string
  readonly database: string
  readonly query: URLSearchParams
  readonly headers: IncomingHttpHeaders
  readonly body: unknown
}

/** @internal */
export interface Reply {
  readonly status: number
  readonly body?: unknown
  readonly headers?: Readonly<Record<string, string>>
}

/** @internal */
export const ok = (body: Readonly<Record<string, unknown>>, status = 200): Reply => ({
  status,
  body: { error: false, code: status, ...body }
})

/** @internal */
export const failure = (status: number, errorNum: number, errorMessage: string): Reply => ({
  status,
  body: { error: true, code: status, errorNum, errorMessage }
})

/** @internal */
export const notFound = (call: Call): Reply =>
  failure(404, 404, `unknown path '${call.path}' for ${call.method}`)

/** @internal */
export const fields = (body: unknown): Readonly<Record<string, unknown>> =>
  typeof body === "object" && body !== null && !Array.isArray(body)
    ? Object.fromEntries(Object.entries(body))
    : {}

/** @internal */
export const text = (value: unknown, fallback = ""): string =>
  typeof value === "string" ? value : fallback

const databasePrefix = /^\/_db\/([^/]+)(\/.*)?$/

/** @internal */
export const target = (url: string) => {
  const { pathname, searchParams } = new URL(url, "http://double")
  const match = databasePrefix.exec(pathname)
  return {
    database: decodeURIComponent(match?.[1] ?? "_system"),
    path: match === null ? pathname : (match[2] ?? "/"),
    query: searchParams
  }
}

/**
 * The decoded parts of a path behind a prefix, or undefined if it has another one.
 *
 * @internal
 */
export const below = (prefix: string, path: string): ReadonlyArray<string> | undefined =>
  path === prefix
    ? []
    : path.startsWith(`${prefix}/`)
      ? path
          .slice(prefix.length + 1)
          .split("/")
          .filter((part) => part !== "")
          .map(decodeURIComponent)
      : undefined
