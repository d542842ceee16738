import { assert, describe, expectTypeOf, it } from "@effect/vitest"
import type { SqlClient } from "@effect/sql"
import type { PgClient } from "@effect/sql-pg"
import { Config, ConfigProvider, Context, Duration, Effect, Either, Layer, Redacted } from "effect"
import type { ConfigError } from "effect"
import type { Readers } from "effect-failover"
import { ClusterEndpoint, Errors, Failover, Host, Topology } from "effect-failover"
import * as Pg from "effect-failover/layers/Pg"
import { check } from "../../src/layers/internal/pgOptions.js"
import { parseUrl } from "../../src/layers/internal/pgUrl.js"

const left = <A>(either: Either.Either<A, Errors.ConfigurationError>) =>
  Either.getOrThrowWith(Either.flip(either), (_) => new Error(`accepted: ${JSON.stringify(_)}`))

const right = <A>(either: Either.Either<A, Errors.ConfigurationError>) =>
  Either.getOrThrowWith(either, (error) => error)

const parse = (text: string) => Host.parse(text, { defaultPort: 5432, field: "hosts" })

describe("Host.parse", () => {
  it("a hostile name is refused as fast as any other", () => {
    for (const name of [":".repeat(20_000) + "x", `[${":".repeat(20_000)}x`]) {
      assert.isTrue(Either.isLeft(parse(name)))
    }
  })

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

describe("the endpoint", () => {
  const domain = "abc123.eu-west-1.rds.amazonaws.com"
  const writer = `shop.cluster-${domain}`
  const reader = `shop.cluster-ro-${domain}`

  it("tells how instances are addressed, on the port of the first host", () => {
    const { hostOf } = right(check({ hosts: ["10.0.0.1:6000", reader] }))
    assert.strictEqual(Host.address(right(hostOf("Shop-2"))), `shop-2.${domain}:6000`)
  })

  it("yields to a pattern of one's own", () => {
    const { hostOf } = right(check({ hosts: writer, instanceHostPattern: "?.internal:6000" }))
    assert.strictEqual(Host.address(right(hostOf("shop-2"))), "shop-2.internal:6000")
  })

  it("names the cluster: the same one for the writer, the reader, and both", () => {
    const all = [writer, reader, `${writer.toUpperCase()}.`, [reader, writer]].map((hosts) =>
      right(check({ hosts }))
    )
    assert.deepStrictEqual([...new Set(all.map((_) => _.clusterId))], [`${writer}:5432`])
    assert.strictEqual(new Set(all.map((_) => _.description)).size, 1)
  })

  it("chooses the failover mode, of those that there are", () => {
    const wanted = ClusterEndpoint.defaultFailoverMode([Host.make({ host: reader, port: 5432 })])
    const isKnown = Failover.modes.some((_: string) => _ === wanted)
    const modeOf = (options: Pg.PgOptions): string => right(check(options)).failoverMode
    assert.strictEqual(modeOf({ hosts: reader }), isKnown ? wanted : "strict-writer")
    assert.strictEqual(modeOf({ hosts: writer }), "strict-writer")
    assert.strictEqual(modeOf({ hosts: reader, failoverMode: "strict-writer" }), "strict-writer")
  })

  it.scoped("shares the topology of its cluster", () =>
    Effect.gen(function* () {
      const [one, other] = yield* Effect.forEach([writer, reader], (hosts) =>
        Layer.build(Pg.layer({ hosts }))
      )
      assert.isDefined(one)
      assert.isDefined(other)
      const [a, b] = [one, other].map(Context.get(Topology.Topology))
      assert.strictEqual(a, b)
    })
  )

  const aurora = "aurora-pg"
  const needed: Record<string, readonly [Pg.PgOptions, ReadonlyArray<string>]> = {
    "an IP address": [
      { hosts: "10.0.0.1", dialect: aurora },
      ['"10.0.0.1" is an IP address', '"?.db.internal"']
    ],
    "an IPv6 address": [{ hosts: "[::1]:6000", dialect: aurora }, ['"::1" is an IP address']],
    "a name of one's own": [
      { hosts: "db.example.com", dialect: aurora },
      ['"db.example.com" is not an RDS name', `"?.${domain}:5432"`]
    ],
    "a name of one's own in a URL": [
      { url: Redacted.make("postgres://u:secret@db.example.com/d"), dialect: aurora },
      ['"db.example.com" is not an RDS name']
    ],
    "a proxy": [
      { hosts: `front.proxy-${domain}`, dialect: aurora },
      ["is an RDS Proxy", "does its own failover", `"mydb.cluster-${domain}"`]
    ],
    "a global writer endpoint": [
      { hosts: "world.global-abc123.global.rds.amazonaws.com", dialect: aurora },
      ["global writer endpoint", "cluster endpoint of one region"]
    ],
    "a pattern that is a proxy": [
      { hosts: "10.0.0.1", instanceHostPattern: `?.proxy-${domain}` },
      [`"?.proxy-${domain}" is the name of a proxy`, 'leave out "proxy-"', '"?.db.internal"']
    ],
    "a pattern that is a custom cluster endpoint": [
      { hosts: "10.0.0.1", instanceHostPattern: `?.cluster-custom-${domain}` },
      ["is the name of a custom cluster endpoint", 'leave out "cluster-custom-"']
    ],
    "a pattern that is a cluster endpoint": [
      { hosts: "10.0.0.1", instanceHostPattern: `?.cluster-${domain}` },
      ["is the name of an endpoint", 'leave out "cluster-"']
    ],
    "a pattern without a place for the identifier": [
      { hosts: "10.0.0.1", instanceHostPattern: "db.internal" },
      ["has no ?", '"?.db.internal"']
    ]
  }
  for (const [what, [options, parts]] of Object.entries(needed)) {
    it.scoped(`${what}: the layer fails, and says what to write`, () =>
      Effect.gen(function* () {
        const error = yield* Effect.flip(Layer.build(Pg.layer(options)))
        assert.instanceOf(error, Errors.ConfigurationError)
        for (const part of ["`instanceHostPattern`", ...parts]) assert.include(error.message, part)
        assert.notInclude(error.message, "secret")
      })
    )
  }

  it("without a pattern is refused as late as the cluster lists its instances", () => {
    const { hostOf } = right(check({ hosts: "10.0.0.1" }))
    assert.include(left(hostOf("shop-1")).message, '"10.0.0.1" is an IP address')
  })

  it("needs no pattern for plain PostgreSQL", () => {
    assert.isTrue(Either.isRight(check({ hosts: "10.0.0.1", dialect: "pg" })))
  })
})

describe("the types", () => {
  it("the layer provides the clients, the topology and the failover, and needs nothing", () => {
    expectTypeOf(Pg.layer).returns.toEqualTypeOf<
      Layer.Layer<
        | PgClient.PgClient
        | SqlClient.SqlClient
        | Topology.Topology
        | Failover.Failover
        | Readers.Readers,
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
