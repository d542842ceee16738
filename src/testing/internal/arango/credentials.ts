/**
 * Basic and JWT authentication, `/_open/auth` and its renewal.
 *
 * @internal
 */
import { createHmac } from "node:crypto"
import type { Call, Reply } from "./protocol.js"
import { failure, fields, text } from "./protocol.js"

/** @internal */
export interface Credentials {
  /** The users that this server knows: they come to a follower by replication, like everything else. */
  readonly users: Map<string, string>
  readonly secret: string
  /** How long a token is good, in seconds. */
  readonly lifetime: number
  readonly now: () => number
}

const encode = (value: unknown): string =>
  Buffer.from(typeof value === "string" ? value : JSON.stringify(value)).toString("base64url")

const signature = (content: string, secret: string): string =>
  createHmac("sha256", secret).update(content).digest("base64url")

/** @internal */
export const sign = (self: Credentials, username: string): string => {
  const iat = Math.floor(self.now() / 1000)
  const content = `${encode({ alg: "HS256", typ: "JWT" })}.${encode({
    iss: "arangodb",
    preferred_username: username,
    iat,
    exp: iat + self.lifetime
  })}`
  return `${content}.${signature(content, self.secret)}`
}

const userOfToken = (self: Credentials, token: string): string | undefined => {
  const [header = "", payload = "", signed = ""] = token.split(".")
  if (signature(`${header}.${payload}`, self.secret) !== signed) return undefined
  const claims = fields(JSON.parse(Buffer.from(payload, "base64url").toString()))
  return Number(claims["exp"]) * 1000 > self.now() ? text(claims["preferred_username"]) : undefined
}

const userOf = (self: Credentials, header: string | undefined): string | undefined => {
  const [, scheme = "", value = ""] = /^(\S+)\s+(.*)$/.exec(header ?? "") ?? []
  switch (scheme.toLowerCase()) {
    case "basic": {
      const [, name = "", password = ""] =
        /^([^:]*):(.*)$/s.exec(Buffer.from(value, "base64").toString()) ?? []
      return self.users.get(name) === password ? name : undefined
    }
    case "bearer":
      return userOfToken(self, value)
    default:
      return undefined
  }
}

/** Whoever may know whether a server leads needs no password for it. */
const open = /^\/(_open\/auth|_admin\/server\/availability)$/

/** @internal */
export const refusal = (self: Credentials | undefined, call: Call): Reply | undefined => {
  if (self === undefined || open.test(call.path)) return undefined
  const user = userOf(self, call.headers.authorization)
  return user !== undefined && self.users.has(user)
    ? undefined
    : {
        ...failure(401, 11, "not authorized to execute this request"),
        headers: { "www-authenticate": 'Bearer token_type="JWT", realm="ArangoDB"' }
      }
}

/** @internal */
export const login = (self: Credentials | undefined, call: Call): Reply | undefined => {
  if (call.method !== "POST") return undefined
  if (call.path === "/_open/auth") {
    const { password, username } = fields(call.body)
    const name = text(username)
    if (self === undefined) return { status: 200, body: { jwt: "", must_change_password: false } }
    return self.users.get(name) === text(password)
      ? { status: 200, body: { jwt: sign(self, name), must_change_password: false } }
      : failure(401, 401, "Wrong credentials")
  }
  if (call.path === "/_open/auth/renew") {
    const user = self === undefined ? undefined : userOf(self, call.headers.authorization)
    return self === undefined || user === undefined
      ? { status: 200, body: {} }
      : { status: 200, body: { jwt: sign(self, user) } }
  }
  return undefined
}
