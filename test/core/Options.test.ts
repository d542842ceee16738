import { assert, describe, expectTypeOf, it } from "@effect/vitest"
import type { SqlClient } from "@effect/sql"
import type { PgClient } from "@effect/sql-pg"
import { Config, ConfigProvider, Duration, Effect, Either, Layer, Option, Redacted } from "effect"
import type { ConfigError } from "effect"
import { ClusterEndpoint, Errors, Host } from "effect-failover"
import type { Failover, Topology } from "effect-failover"
import * as Pg from "effect-failover/layers/Pg"
import { check } from "../../src/layers/internal/pgOptions.js"
import { parseUrl } from "../../src/layers/internal/pgUrl.js"

const left = <A>(either: Either.Either<A, Errors.ConfigurationError>) =>
  Either.getOrThrowWith(Either.flip(either), (_) => new Error(`accepted: ${JSON.stringify(_)}`))

const right = <A>(either: Either.Either<A, Errors.ConfigurationError>) =>
  Either.getOrThrowWith(either, (error) => error)

const parse = (text: string) => Host.parse(text, { defaultPort: 5432, field: "hosts" })

describe("Host.parse", () => {
  const good: ReadonlyArray<readonly [string, string, number]> = [
    ["db", "db", 5432],
    ["db-1.internal", "db-1.internal", 5432],
    ["db:5433", "db", 5433],
    ["  db:1  ", "db", 1],
    ["DB.Example.COM:65535", "db.example.com", 65_535],
    ["db.example.com.", "db.example.com", 5432],
    ["db.example.com.:5433", "db.example.com", 5433],
    ["127.0.0.1:5433", "127.0.0.1", 5433],
    ["::1", "::1", 5432],
    ["[::1]", "::1", 5432],
    ["[::1]:5433", "::1", 5433],
    ["2001:DB8::1", "2001:db8::1", 5432],
    ["[fe80::1%eth0]:1", "fe80::1%eth0", 1],
    ["::ffff:10.0.0.1", "::ffff:10.0.0.1", 5432],
    ["under_score", "under_score", 5432]
  ]
  for (const [text, name, port] of good) {
    it(`${JSON.stringify(text)} is ${name}, port ${port}`, () => {
      const { host, port: found } = right(parse(text))
      assert.deepStrictEqual([host, found], [name, port])
    })
  }

  const bad: ReadonlyArray<readonly [string, RegExp]> = [
    ["", /is empty/],
    ["   ", /is empty/],
    [":5432", /is not a host name/],
    ["db:", /has the port ""/],
    ["db:0", /has the port "0"/],
    ["db:65536", /has the port/],
    ["db:-1", /has the port/],
    ["db:5432x", /has the port/],
    ["db:5 4", /has the port/],
    ["db:1e3", /has the port/],
    ["a b", /is not a host name/],
    ["a/b", /is not a host name/],
    ["user@db", /is not a host name/],
    ["postgres://db", /URL/],
    ["[::1", /is not a host name/],
    ["[db]:1", /is not a host name/],
    ["db?x", /is not a host name/],
    ["db#x", /is not a host name/]
  ]
  for (const [text, problem] of bad) {
    it(`${JSON.stringify(text)} is refused, with the option and a remedy`, () => {
      const error = left(parse(text))
      assert.match(error.problem, problem)
      assert.strictEqual(error.field, "hosts")
      // A URL may hold a password: it is never shown.
      assert.strictEqual(error.value, text.includes("://") ? undefined : text)
      assert.isNotEmpty(error.hint)
    })
  }

  it("one host has one identity", () => {
    assert.deepStrictEqual(right(parse("DB.x.")), right(parse("db.x:5432")))
    assert.isTrue(Host.isSame(right(parse("[::1]:5432")), right(parse("::1"))))
    assert.isFalse(Host.isSame(right(parse("db:1")), right(parse("db:2"))))
  })

  it("an address can be read back", () => {
    for (const [text] of good) {
      const host = right(parse(text))
      assert.deepStrictEqual(right(parse(Host.address(host))), host)
    }
  })
})

describe("ClusterEndpoint", () => {
  const patterns: ReadonlyArray<readonly [string, string | undefined]> = [
    ["mydb.cluster-abc123.eu-west-1.rds.amazonaws.com", "?.abc123.eu-west-1.rds.amazonaws.com"],
    ["mydb.cluster-ro-abc123.eu-west-1.rds.amazonaws.com", "?.abc123.eu-west-1.rds.amazonaws.com"],
    ["x.cluster-custom-abc123.eu-west-1.rds.amazonaws.com", "?.abc123.eu-west-1.rds.amazonaws.com"],
    ["p.proxy-abc123.eu-west-1.rds.amazonaws.com", "?.abc123.eu-west-1.rds.amazonaws.com"],
    ["inst-1.abc123.eu-west-1.rds.amazonaws.com", "?.abc123.eu-west-1.rds.amazonaws.com"],
    ["d.cluster-abc.cn-north-1.rds.amazonaws.com.cn", "?.abc.cn-north-1.rds.amazonaws.com.cn"],
    ["db.internal", undefined],
    ["10.0.0.1", undefined],
    ["::1", undefined],
    ["evil-rds.amazonaws.com.example.com", undefined]
  ]
  for (const [name, expected] of patterns) {
    it(`${name}: ${expected ?? "no pattern"}`, () => {
      const found = ClusterEndpoint.patternOf(Host.make({ host: name, port: 5432 }))
      assert.strictEqual(Option.getOrUndefined(found)?.pattern, expected)
    })
  }

  it("a pattern makes the instance's host, with its own port or the default", () => {
    const pattern = right(ClusterEndpoint.parsePattern("?.DB.internal:5433"))
    assert.deepStrictEqual(
      ClusterEndpoint.instanceHost(pattern, "Inst-1", 1),
      Host.make({ id: "Inst-1", host: "inst-1.db.internal", port: 5433 })
    )
    const plain = right(ClusterEndpoint.parsePattern("?.db"))
    assert.strictEqual(ClusterEndpoint.instanceHost(plain, "a", 7).port, 7)
  })

  it("an instance identifier is taken literally", () => {
    const pattern = right(ClusterEndpoint.parsePattern("?.db"))
    assert.strictEqual(ClusterEndpoint.instanceHost(pattern, "a$&b", 1).host, "a$&b.db")
  })

  const bad: ReadonlyArray<readonly [string, RegExp]> = [
    ["db.internal", /has no \?/],
    ["", /has no \?/],
    ["?.?.db", /more than one/],
    ["?.proxy-abc.rds.amazonaws.com", /proxy/],
    ["?.cluster-custom-abc.rds.amazonaws.com", /custom cluster endpoint/],
    ["? .db", /host name/],
    ["?.db:99999", /port/],
    ["http://?.db", /URL/]
  ]
  for (const [text, problem] of bad) {
    it(`the pattern ${JSON.stringify(text)} is refused`, () => {
      const error = left(ClusterEndpoint.parsePattern(text))
      assert.strictEqual(error.field, "instanceHostPattern")
      assert.match(error.problem, problem)
    })
  }

  it("the cluster id does not depend on the order of the seeds, and is never a constant", () => {
    const [a, b] = [Host.make({ host: "a", port: 1 }), Host.make({ host: "b", port: 1 })]
    assert.strictEqual(ClusterEndpoint.clusterIdOf([a, b]), ClusterEndpoint.clusterIdOf([b, a]))
    assert.notStrictEqual(ClusterEndpoint.clusterIdOf([a]), ClusterEndpoint.clusterIdOf([b]))
  })
})

const url = (text: string) => parseUrl(Redacted.make(text))

describe("a URL", () => {
  it("with everything", () => {
    const found = right(
      url(
        "postgresql://us%40er:p%3Aa%2Fss@h1:1,h2,[::1]:3/my%20db?sslmode=require&application_name=x"
      )
    )
    assert.deepStrictEqual(
      [found.hosts, found.username, found.database, found.ssl, found.applicationName],
      [["h1:1", "h2", "[::1]:3"], "us@er", "my db", true, "x"]
    )
    assert.strictEqual(found.password && Redacted.value(found.password), "p:a/ss")
  })

  it("with next to nothing", () => {
    const found = right(url("postgres://"))
    assert.deepStrictEqual(
      [found.hosts, found.username, found.password, found.database, found.ssl],
      [[], undefined, undefined, undefined, undefined]
    )
  })

  for (const [mode, ssl] of [
    ["disable", false],
    ["prefer", true],
    ["require", true],
    ["verify-ca", true],
    ["verify-full", true],
    ["no-verify", { rejectUnauthorized: false }]
  ] as const) {
    it(`sslmode=${mode}`, () => {
      assert.deepStrictEqual(right(url(`postgres://h/d?sslmode=${mode}`)).ssl, ssl)
    })
  }

  for (const text of [
    "",
    "h1,h2",
    "mysql://h/d",
    "postgres:/h",
    "postgres://h/d?sslmode=maybe",
    "postgres://h/d?sslmode=constructor",
    "postgres://%zz@h/d",
    "postgres://h/%zz"
  ]) {
    it(`${JSON.stringify(text)} is refused`, () => {
      assert.strictEqual(left(url(text)).field, "url")
    })
  }

  for (const text of [
    "mysql://u:secret@h/d",
    "postgres://u:secret%zz@h/d",
    "postgres://u:secret@h:99999/d",
    "postgres://u:sec@ret@h/d",
    "postgres://u:secret@h/d?sslmode=x"
  ]) {
    it(`the error shows no password: ${text.replace(/sec@?ret/, "...")}`, () => {
      const error = left(check({ url: Redacted.make(text) }))
      assert.notMatch(
        `${error.message} ${JSON.stringify(error)} ${String(error)}`,
        /secret|sec@ret/
      )
    })
  }

  it("with other user names and passwords in the options: the options win", () => {
    const found = right(
      check({ url: Redacted.make("postgres://u@h/d"), username: "me", database: "x" })
    )
    assert.deepStrictEqual([found.username, found.database], ["me", "x"])
  })
})

describe("the options", () => {
  it("are all optional but the hosts; the defaults are documented", () => {
    const { pool, ...found } = right(check({ hosts: "db" }))
    assert.deepStrictEqual(
      [found.applicationName, found.ssl, found.failoverMode, found.queryTimeout, found.clusterId],
      ["effect-failover", false, "strict-writer", undefined, "db:5432"]
    )
    assert.deepStrictEqual(
      [found.failoverTimeout, found.topologyRefreshRate, found.topologyHighRefreshRate].map(
        Duration.toMillis
      ),
      [300_000, 30_000, 100]
    )
    assert.deepStrictEqual([pool.maxConnections, pool.minConnections], [10, 0])
  })

  it("hosts that are one host are one seed", () => {
    const { seeds } = right(check({ hosts: ["db", "DB:5432", "db.", "other"] }))
    assert.deepStrictEqual(
      seeds.map((_) => _.host),
      ["db", "other"]
    )
  })

  const hosts = "db"
  const never = "1 fortnight" as Duration.DurationInput
  const durations = [
    "failoverTimeout",
    "topologyRefreshRate",
    "topologyHighRefreshRate",
    "connectTimeout",
    "queryTimeout",
    "waitForTopology",
    "acquireTimeout",
    "idleTimeout",
    "connectionTTL"
  ] as const
  const bad: ReadonlyArray<readonly [string, Pg.PgOptions]> = [
    ["hosts", {}],
    ["hosts", { hosts: [] }],
    ["hosts", { hosts: "" }],
    ["hosts", { hosts: ["db", ""] }],
    ["hosts", { hosts: ["a b"] }],
    ["hosts", { hosts: [{ id: "a", host: "a", port: 0 }] }],
    ["hosts", { hosts, url: Redacted.make("postgres://h/d") }],
    ["url", { url: Redacted.make("postgres:///d") }],
    ["url", { url: Redacted.make("nonsense") }],
    ["port", { hosts, port: 0 }],
    ["port", { hosts, port: 1.5 }],
    ["port", { hosts, port: 70_000 }],
    ["port", { hosts, port: Number.NaN }],
    ["clusterId", { hosts, clusterId: " " }],
    ["instanceHostPattern", { hosts, instanceHostPattern: "db" }],
    ["dialect", { hosts, dialect: "mysql" as "pg" }],
    ["dialect", { hosts, dialect: "toString" as "pg" }],
    ["failoverMode", { hosts, failoverMode: "any" as "strict-writer" }],
    ["topologyHighRefreshRate", { hosts, topologyRefreshRate: 10, topologyHighRefreshRate: 20 }],
    ["maxConnections", { hosts, maxConnections: 0 }],
    ["maxConnections", { hosts, maxConnections: 1.5 }],
    ["maxConnections", { hosts, maxConnections: Number.NaN }],
    ["maxConnections", { hosts, maxConnections: Number.POSITIVE_INFINITY }],
    ["minConnections", { hosts, minConnections: -1 }],
    ["minConnections", { hosts, minConnections: 11 }],
    ...durations.flatMap((field) =>
      [0, -1, Number.NaN, "forever" as Duration.DurationInput, never, Duration.infinity].map(
        (value) => [field, { hosts, [field]: value }] as const
      )
    )
  ]
  for (const [field, options] of bad) {
    const given = (options as Readonly<Record<string, unknown>>)[field]
    it(`${field}: ${String(JSON.stringify(given))} is refused, with a remedy`, () => {
      const error = left(check(options))
      assert.strictEqual(error.field, field)
      assert.isNotEmpty(error.hint)
      assert.include(error.message, `\`${field}\``)
    })
  }

  it.effect("a bad option fails the layer, with the typed error", () =>
    Effect.gen(function* () {
      const error = yield* Effect.flip(Effect.scoped(Layer.build(Pg.layer({ hosts, port: 0 }))))
      assert.instanceOf(error, Errors.ConfigurationError)
    })
  )

  it.effect("the layer is built without a server", () =>
    Effect.scoped(Layer.build(Pg.layer({ hosts: ["203.0.113.1"] })))
  )

  it.effect("two clusters under one id are refused", () =>
    Effect.gen(function* () {
      yield* Layer.build(Pg.layer({ hosts: "a", clusterId: "shared" }))
      yield* Layer.build(Pg.layer({ hosts: "a", clusterId: "shared" }))
      const error = yield* Effect.flip(Layer.build(Pg.layer({ hosts: "b", clusterId: "shared" })))
      assert.instanceOf(error, Errors.ClusterIdConflict)
      assert.match(error.message, /a:5432.*b:5432/)
    }).pipe(Effect.scoped)
  )

  it.effect("a cluster id is free again when its last layer is closed", () =>
    Effect.gen(function* () {
      yield* Effect.scoped(Layer.build(Pg.layer({ hosts: "a", clusterId: "freed" })))
      yield* Effect.scoped(Layer.build(Pg.layer({ hosts: "b", clusterId: "freed" })))
    })
  )

  it.effect("are read from Config by their names", () =>
    Effect.gen(function* () {
      const options = yield* Config.nested(Pg.config, "DB").pipe(
        Effect.withConfigProvider(
          ConfigProvider.fromMap(
            new Map([
              ["DB.HOSTS", "a, b:5433"],
              ["DB.PASSWORD", "secret"],
              ["DB.FAILOVER_TIMEOUT", "10 seconds"],
              ["DB.MAX_CONNECTIONS", "3"],
              ["DB.SSL", "true"]
            ])
          )
        )
      )
      const found = right(check(options))
      assert.deepStrictEqual(found.seeds.map(Host.address), ["a:5432", "b:5433"])
      assert.deepStrictEqual(
        [found.pool.maxConnections, found.ssl, Duration.toMillis(found.failoverTimeout)],
        [3, true, 10_000]
      )
      assert.notInclude(JSON.stringify(options), "secret")
    })
  )
})

describe("the types", () => {
  it("the layer provides the clients, the topology and the failover, and needs nothing", () => {
    expectTypeOf(Pg.layer).returns.toEqualTypeOf<
      Layer.Layer<
        PgClient.PgClient | SqlClient.SqlClient | Topology.Topology | Failover.Failover,
        | Errors.ConfigurationError
        | Errors.ClusterIdConflict
        | Errors.FailoverFailed
        | Errors.ConnectionRejected
      >
    >()
    expectTypeOf(Pg.layerConfig).returns.toEqualTypeOf<
      Layer.Layer<Pg.Provided, Pg.PgLayerError | ConfigError.ConfigError>
    >()
  })

  it("a program over SqlClient needs nothing more", () => {
    const program = {} as Effect.Effect<number, never, SqlClient.SqlClient>
    const run = () => program.pipe(Effect.provide(Pg.layer({ hosts: "db" })))
    expectTypeOf(run).returns.toEqualTypeOf<Effect.Effect<number, Pg.PgLayerError>>()
  })

  it("an option that does not exist is no option", () => {
    // @ts-expect-error -- misspelt
    const options: Pg.PgOptions = { hosts: "db", failoverTimout: "1 second" }
    assert.isDefined(options)
  })
})
