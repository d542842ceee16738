import { assert, describe, it } from "@effect/vitest"
import { Duration } from "effect"
import { Connector, ErrorClassifier, Errors } from "effect-failover"
import { host } from "./fakes.js"

const classifier = ErrorClassifier.make([...ErrorClassifier.postgres, ...ErrorClassifier.transport])

const error = (code: string, severity = "ERROR", message = "said the server") =>
  Object.assign(new Error(message), { code, severity })

const says = (message: string) => new Error(message)

type Expected = ErrorClassifier.Verdict["_tag"] | Errors.RejectionReason

const shown = (verdict: ErrorClassifier.Verdict): Expected =>
  verdict._tag === "Rejected" ? verdict.reason : verdict._tag

const vectors: ReadonlyArray<readonly [string, unknown, Expected]> = [
  ["25006 read only", error("25006"), "ReadOnly"],
  ["28P01 password", error("28P01", "FATAL"), "Credentials"],
  ["28000 pg_hba", error("28000", "FATAL"), "Credentials"],
  ["3D000 database", error("3D000", "FATAL"), "Database"],
  ["57P04 database dropped", error("57P04", "FATAL"), "Database"],
  ["42501 at log-in", error("42501", "FATAL"), "Privilege"],
  ["42501 of a statement", error("42501"), "Statement"],
  ["08004 rejected connection", error("08004", "FATAL"), "Privilege"],
  ["53300 too many connections", error("53300", "FATAL"), "Saturated"],
  ["57P03 starting up", error("57P03", "FATAL"), "HostUnavailable"],
  ["57P01 admin shutdown", error("57P01", "FATAL"), "ConnectionLost"],
  ["57P02 crash shutdown", error("57P02", "FATAL"), "ConnectionLost"],
  ["57P05 idle session", error("57P05", "FATAL"), "ConnectionLost"],
  ["25P03 idle in transaction, FATAL", error("25P03", "FATAL"), "ConnectionLost"],
  ["XX000, FATAL", error("XX000", "FATAL"), "ConnectionLost"],
  ["any PANIC", error("58030", "PANIC"), "ConnectionLost"],
  ["08006 of a foreign table", error("08006"), "Statement"],
  ["58030 of a disk", error("58030"), "Statement"],
  ["57014 cancelled", error("57014"), "Statement"],
  ["23505 unique", error("23505"), "Statement"],
  ["40001 serialization", error("40001"), "Statement"],
  ["40P01 deadlock", error("40P01"), "Statement"],
  ["42601 syntax", error("42601"), "Statement"],
  ["53200 out of memory", error("53200"), "Statement"],
  ["no TLS", says("The server does not support SSL connections"), "Tls"],
  ["TLS to no database", says("There was an error establishing an SSL connection"), "Protocol"],
  ["no database", says("Not a PostgreSQL server: it answered something else"), "Protocol"],
  ["terminated", says("Connection terminated unexpectedly"), "ConnectionLost"],
  ["terminated by us", says("Connection terminated by this client"), "ConnectionLost"],
  ["closed", says("Client was closed and is not queryable"), "ConnectionLost"],
  [
    "broken",
    says("Client has encountered a connection error and is not queryable"),
    "ConnectionLost"
  ],
  ["connect timeout", says("timeout expired"), "ConnectionLost"],
  ["query timeout", says("Query read timeout"), "Timeout"],
  ["no answer", new Connector.NoAnswer({ timeout: Duration.seconds(1) }), "Timeout"],
  ["a message of the same words inside", says("user: Connection terminated"), "Statement"],
  ...[
    "ECONNREFUSED",
    "ECONNRESET",
    "ECONNABORTED",
    "EPIPE",
    "ETIMEDOUT",
    "EHOSTUNREACH",
    "EHOSTDOWN",
    "ENETUNREACH",
    "ENETDOWN",
    "ENETRESET",
    "EADDRNOTAVAIL",
    "ENOTFOUND",
    "EAI_AGAIN",
    "ERR_STREAM_DESTROYED",
    "ERR_STREAM_WRITE_AFTER_END"
  ].map((code) => [code, Object.assign(new Error(code), { code }), "ConnectionLost"] as const),
  ...[
    "SELF_SIGNED_CERT_IN_CHAIN",
    "DEPTH_ZERO_SELF_SIGNED_CERT",
    "UNABLE_TO_VERIFY_LEAF_SIGNATURE",
    "UNABLE_TO_GET_ISSUER_CERT_LOCALLY",
    "CERT_HAS_EXPIRED",
    "ERR_TLS_CERT_ALTNAME_INVALID",
    "HOSTNAME_MISMATCH"
  ].map((code) => [code, Object.assign(new Error(code), { code }), "Tls"] as const),
  ["a driver's refusal to encode", new TypeError("cannot serialise a bigint"), "Statement"],
  ["nothing", undefined, "Statement"],
  ["null", null, "Statement"],
  ["a text", "ECONNREFUSED", "Statement"],
  ["a plain object", { code: "ECONNRESET" }, "ConnectionLost"],
  ["a numeric code", { code: 57 }, "Statement"],
  ["a cause", new Error("outer", { cause: error("57P01", "FATAL") }), "ConnectionLost"],
  ["a cause of a cause", { cause: { cause: { code: "EPIPE" } } }, "ConnectionLost"],
  [
    "happy eyeballs",
    new AggregateError([Object.assign(new Error("v6"), { code: "ENETUNREACH" })]),
    "ConnectionLost"
  ]
]

describe("classify", () => {
  for (const [name, cause, expected] of vectors) {
    it(`${name}: ${expected}`, () => {
      assert.strictEqual(shown(ErrorClassifier.classify(classifier, cause)), expected)
    })
  }

  it("ends on a cycle of causes", () => {
    const cycle: { cause?: unknown } = {}
    cycle.cause = cycle
    assert.strictEqual(ErrorClassifier.classify(classifier, cycle)._tag, "Statement")
    const wide: { errors?: unknown } = {}
    wide.errors = [wide, wide, wide]
    assert.strictEqual(ErrorClassifier.classify(classifier, wide)._tag, "Statement")
  })

  it("the outer error counts before its cause", () => {
    const cause = Object.assign(new Error("x"), { code: "ECONNRESET" })
    const outer = Object.assign(new Error("y", { cause }), { code: "25006" })
    assert.strictEqual(ErrorClassifier.classify(classifier, outer)._tag, "ReadOnly")
  })

  it("the user's rules are tried first, and a rule without a condition matches nothing", () => {
    const mine = ErrorClassifier.prepend(classifier, [
      { verdict: { _tag: "Saturated" } },
      { code: "40001", verdict: { _tag: "ConnectionLost" } }
    ])
    assert.strictEqual(ErrorClassifier.classify(mine, error("40001"))._tag, "ConnectionLost")
    assert.strictEqual(ErrorClassifier.classify(mine, error("42601"))._tag, "Statement")
    assert.strictEqual(ErrorClassifier.prepend(classifier, []), classifier)
  })

  it("a rule with several conditions needs all of them", () => {
    const rule = { code: "42", severity: "FATAL", message: /now/ }
    const one = ErrorClassifier.make([{ ...rule, verdict: { _tag: "ReadOnly" } }])
    const tag = (u: unknown) => ErrorClassifier.classify(one, u)._tag
    assert.strictEqual(tag(error("42000", "FATAL", "right now")), "ReadOnly")
    assert.strictEqual(tag(error("42000", "FATAL", "later")), "Statement")
    assert.strictEqual(tag(error("42000", "ERROR", "right now")), "Statement")
    assert.strictEqual(tag(error("43000", "FATAL", "right now")), "Statement")
  })
})

describe("what an error tells", () => {
  it("its SQLSTATE, also of a cause, and no system error's code", () => {
    assert.strictEqual(ErrorClassifier.sqlState({ cause: error("23505") }), "23505")
    assert.isUndefined(ErrorClassifier.sqlState({ code: "ECONNRESET" }))
    assert.isUndefined(ErrorClassifier.sqlState({ code: "23505x" }))
    assert.isUndefined(ErrorClassifier.sqlState(undefined))
  })

  it("EPIPE is a system error and no SQLSTATE", () => {
    assert.isUndefined(ErrorClassifier.sqlState(Object.assign(new Error("x"), { code: "EPIPE" })))
  })

  it("its message, or that of the first cause that has one", () => {
    assert.strictEqual(ErrorClassifier.describe(new Error("a")), "a")
    assert.strictEqual(ErrorClassifier.describe(new Error("", { cause: new Error("b") })), "b")
    assert.strictEqual(ErrorClassifier.describe("text"), "text")
  })

  it("whether it is a rejection: with host, option, SQLSTATE and cause", () => {
    const cause = error("28P01", "FATAL", "password authentication failed")
    const found = ErrorClassifier.rejection(classifier, host("a"), cause)
    assert.instanceOf(found, Errors.ConnectionRejected)
    assert.deepStrictEqual(
      [found.reason, found.field, found.sqlState, found.host.host, found.cause],
      ["Credentials", "password", "28P01", "a", cause]
    )
    assert.match(found.message, /a:5432\) refused the connection: password authentication failed/)
    assert.isUndefined(ErrorClassifier.rejection(classifier, host("a"), error("57P01")))
  })

  it("a rejection that was found already stays as it is", () => {
    const wrong = new Errors.ConfigurationError({ field: "x", problem: "y", hint: "z" })
    assert.strictEqual(ErrorClassifier.rejection(classifier, host("a"), wrong), wrong)
  })
})
