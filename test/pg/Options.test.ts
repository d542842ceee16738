/** What a user can get wrong: each mistake is told at once, by its name, with the remedy, and without a failover. */
import { SqlClient } from "@effect/sql"
import { assert, describe, it as plain, layer } from "@effect/vitest"
import {
  Cause,
  Config,
  ConfigProvider,
  Context,
  Duration,
  Effect,
  Equal,
  Exit,
  Layer,
  Option,
  Redacted
} from "effect"
import { Failover, Topology } from "effect-failover"
import * as Pg from "effect-failover/layers/Pg"
import {
  addressOf,
  causeOf,
  clusterLayer,
  heal,
  open,
  optionsFor,
  TestCluster,
  unique
} from "../support/database.js"
import { impostor, impostors } from "../support/impostor.js"
import { expectNothingUnhandled } from "../support/unhandled.js"
import { AT_ONCE, within } from "../support/waiting.js"

expectNothingUnhandled()

const SECRET = "s3cr3t-p4ssw0rd"
const host = { hosts: ["127.0.0.1:1"] }
const url = (text: string) => ({ url: Redacted.make(text) })

/** The option, the options, and a word of the remedy. */
const mistakes: Record<string, readonly [string, object, string]> = {
  "no host": ["hosts", {}, "name one host"],
  "an empty list of hosts": ["hosts", { hosts: [] }, "name one host"],
  "an empty host": ["hosts", { hosts: [" "] }, "name:port"],
  "a host that is a URL": ["hosts", { hosts: ["postgres://db-1"] }, "name:port"],
  "a port in the host that is none": ["hosts", { hosts: ["db-1:99999"] }, "65535"],
  "a port that is none": ["port", { ...host, port: 0 }, "65535"],
  "a port that is no whole number": ["port", { ...host, port: 5432.5 }, "65535"],
  "a pattern without ?": [
    "instanceHostPattern",
    { ...host, instanceHostPattern: "db.test" },
    "one ?"
  ],
  "a pattern with two ?": [
    "instanceHostPattern",
    { ...host, instanceHostPattern: "?.?.test" },
    "one ?"
  ],
  "an empty pattern": ["instanceHostPattern", { ...host, instanceHostPattern: "" }, "one ?"],
  "an unknown failover mode": ["failoverMode", { ...host, failoverMode: "any" }, "strict-writer"],
  "an unknown dialect": ["dialect", { ...host, dialect: "mysql" }, "aurora-pg"],
  "an empty cluster id": ["clusterId", { ...host, clusterId: " " }, "leave the option out"],
  "no connection at most": ["maxConnections", { ...host, maxConnections: 0 }, "whole number"],
  "a negative number of connections": [
    "minConnections",
    { ...host, minConnections: -1 },
    "whole number"
  ],
  "more connections at least than at most": [
    "minConnections",
    { ...host, minConnections: 3, maxConnections: 2 },
    "2 at most"
  ],
  "a high rate that is the lower one": [
    "topologyHighRefreshRate",
    { ...host, topologyHighRefreshRate: "1 minute" },
    "shorter"
  ],
  "hosts and a url": ["hosts", { ...host, ...url(`postgres://app:${SECRET}@db-1/shop`) }, "once"],
  "a url of something else": ["url", url(`mysql://app:${SECRET}@db-1/shop`), "postgres://"],
  "a url that cannot be read": [
    "url",
    url(`postgres://app:${SECRET}%zz@db-1/shop`),
    "percent-encoded"
  ],
  "a url without a host": ["url", url(`postgres://app:${SECRET}@/shop`), "name one host"],
  "a url with a bad port": ["url", url(`postgres://app:${SECRET}@db-1:0/shop`), "65535"],
  "an unknown sslmode": [
    "url",
    url(`postgres://app:${SECRET}@db-1/shop?sslmode=yes`),
    "verify-full"
  ]
}

const durations = [
  "failoverTimeout",
  "topologyRefreshRate",
  "topologyHighRefreshRate",
  "waitForTopology",
  "connectTimeout",
  "queryTimeout",
  "acquireTimeout",
  "idleTimeout",
  "connectionTTL"
]
for (const field of durations) {
  for (const [name, value] of [
    ["zero", 0],
    ["negative", -1],
    ["unreadable", "soon"],
    ["infinite", Infinity]
  ] as const) {
    mistakes[`${field}: ${name}`] = [field, { ...host, [field]: value }, "30 seconds"]
  }
}

/** A secret has no business in any form of an error. */
const keepsSecrets = (cause: Cause.Cause<unknown>) => {
  const error: any = Cause.squash(cause)
  const forms = [
    Cause.pretty(cause),
    String(error?.message),
    JSON.stringify(error),
    JSON.stringify(cause),
    String(error?.cause),
    JSON.stringify(error?.cause ?? null)
  ]
  assert.deepStrictEqual(
    forms.filter((_) => _.includes(SECRET)),
    []
  )
}

describe("Options, checked while the layer is built", () => {
  for (const [name, [field, options, remedy]] of Object.entries(mistakes)) {
    plain.live(name, () =>
      Effect.gen(function* () {
        const built = Layer.build(Pg.layer(options as Pg.PgOptions))
        const exit = yield* Effect.exit(Effect.scoped(built)).pipe(within("the error", AT_ONCE))
        assert.isTrue(Exit.isFailure(exit))
        if (Exit.isSuccess(exit)) return
        const error: any = Option.getOrUndefined(Cause.failureOption(exit.cause))
        assert.deepStrictEqual(
          [error?._tag, error?.field],
          ["ConfigurationError", field],
          Cause.pretty(exit.cause)
        )
        assert.include(error.message, field)
        assert.include(error.message, remedy)
        assert.strictEqual(error.outcome, "NotExecuted")
        keepsSecrets(exit.cause)
      })
    )
  }
})

/** The first statement fails at once with this error, the next ones too, and no failover was announced as done. */
const rejected = (options: Pg.PgOptions, expected: Record<string, unknown>, remedy: string) =>
  Effect.gen(function* () {
    const db = yield* Pg.make(options)
    const statements = [
      db.client`SELECT 1`,
      db.client.withTransaction(db.client`SELECT 1`),
      Effect.scoped(db.client.reserve)
    ]
    for (const statement of statements) {
      const exit = yield* Effect.exit<unknown, unknown, never>(statement).pipe(
        within("the rejection", AT_ONCE)
      )
      const error = causeOf(exit)
      const found = Object.keys(expected).map((key) => [key, error?.[key]])
      assert.deepStrictEqual(Object.fromEntries(found), expected, String(error?.message ?? error))
      assert.include(error.message, remedy)
      assert.include(error.message, `\`${error.field}\``)
      if (Exit.isFailure(exit)) keepsSecrets(exit.cause)
    }
    assert.strictEqual(db.topology.unsafeCurrent().epoch, 0)
    assert.isUndefined(db.stats().host)
    return db
  })

layer(clusterLayer({ nodes: 2 }), { excludeTestServices: true })(
  "Options, told by the server",
  (it) => {
    const rejections: Record<string, readonly [Pg.PgOptions, Record<string, unknown>, string]> = {
      "a wrong password": [
        { password: Redacted.make(SECRET) },
        { _tag: "ConnectionRejected", reason: "Credentials", field: "password", sqlState: "28P01" },
        "password"
      ],
      "an unknown user": [
        { username: "nobody_here", password: Redacted.make(SECRET) },
        { _tag: "ConnectionRejected", reason: "Credentials", field: "password" },
        "user"
      ],
      "no password": [
        { password: Effect.succeed(undefined) },
        { _tag: "ConnectionRejected", reason: "Credentials", field: "password" },
        "password"
      ],
      "an unknown database": [
        { database: "no_such_database" },
        { _tag: "ConnectionRejected", reason: "Database", field: "database", sqlState: "3D000" },
        "no_such_database"
      ],
      "TLS against a server without it": [
        { ssl: true },
        { _tag: "ConnectionRejected", reason: "Tls", field: "ssl" },
        "set `ssl` to false"
      ],
      "a password effect that fails": [
        { password: Effect.fail(new Error("the vault is sealed")) },
        { _tag: "ConnectionRejected", reason: "Credentials", field: "password" },
        "the vault is sealed"
      ],
      "a session set-up that the server refuses": [
        { sessionSetup: "SET no_such_setting = 1" },
        { _tag: "ConfigurationError", field: "sessionSetup" },
        "no_such_setting"
      ]
    }

    for (const [name, [overrides, expected, remedy]] of Object.entries(rejections)) {
      it.scoped(name, () =>
        Effect.gen(function* () {
          const cluster = yield* TestCluster
          const options = optionsFor(cluster, { clusterId: unique("cluster"), ...overrides })
          // Its SQL can be tried on a writer only: that one is found, and there the epoch counts.
          if (overrides.sessionSetup === undefined) {
            yield* rejected(options, expected, remedy)
            return
          }
          const db = yield* Pg.make(options)
          const exit = yield* Effect.exit(db.client`SELECT 1`).pipe(within("the error", AT_ONCE))
          const error = causeOf(exit)
          assert.deepStrictEqual([error._tag, error.field], ["ConfigurationError", "sessionSetup"])
          assert.include(error.message, remedy)
        })
      )
    }

    it.scoped(
      "one host with the right answer is enough: a stranger among the hosts is passed over",
      () =>
        Effect.gen(function* () {
          const cluster = yield* TestCluster
          yield* heal(cluster)
          const port = yield* impostor("HTTP server")
          const hosts = [`127.0.0.1:${port}`, ...cluster.nodes.map(addressOf)]
          const { client } = yield* Pg.make(optionsFor(cluster, { hosts }))
          assert.strictEqual((yield* client`SELECT 1`.pipe(within("the answer"))).length, 1)
        })
    )

    it.scoped("a password that was wrong and is put right needs no new layer", () =>
      Effect.gen(function* () {
        const cluster = yield* TestCluster
        let password = Redacted.make(SECRET)
        const db = yield* Pg.make(
          optionsFor(cluster, {
            clusterId: unique("cluster"),
            password: Effect.sync(() => password)
          })
        )
        assert.strictEqual(
          causeOf(yield* Effect.exit(db.client`SELECT 1`))._tag,
          "ConnectionRejected"
        )
        password = cluster.password
        assert.strictEqual((yield* db.client`SELECT 1`).length, 1)
      })
    )

    it.scoped("a password that is changed while connected: present connections go on", () =>
      Effect.gen(function* () {
        const cluster = yield* TestCluster
        let password = cluster.password
        const db = yield* open({
          clusterId: unique("cluster"),
          password: Effect.sync(() => password)
        })
        yield* db.client`SELECT 1`
        password = Redacted.make(SECRET)
        assert.strictEqual((yield* db.client`SELECT 1`).length, 1)
        const both = yield* Effect.exit(
          Effect.all([db.client`SELECT pg_sleep(0.2)`, db.client`SELECT pg_sleep(0.2)`], {
            concurrency: 2
          })
        ).pipe(within("both statements"))
        if (Exit.isFailure(both)) assert.strictEqual(causeOf(both)._tag, "ConnectionRejected")
        assert.deepStrictEqual(yield* db.failovers, { noticed: 0, connected: 0 })
      })
    )

    for (const kind of Object.keys(impostors) as Array<keyof typeof impostors>) {
      it.scoped(`a ${kind} is no database`, () =>
        Effect.gen(function* () {
          const port = yield* impostor(kind)
          yield* rejected(
            { hosts: [`127.0.0.1:${port}`], username: "app", password: Redacted.make(SECRET) },
            {
              _tag: "ConnectionRejected",
              reason: "Protocol",
              field: "hosts",
              outcome: "NotExecuted"
            },
            "check the host's name and port"
          )
        })
      )
    }

    it.scoped("TLS to a host that is no database", () =>
      Effect.gen(function* () {
        const port = yield* impostor("HTTP server")
        yield* rejected(
          { hosts: [`127.0.0.1:${port}`], ssl: true },
          { _tag: "ConnectionRejected", reason: "Protocol", field: "hosts" },
          "check the host's name and port"
        )
      })
    )

    it.scoped("connectFailover tells a rejection while the layer is built", () =>
      Effect.gen(function* () {
        const cluster = yield* TestCluster
        const error = yield* Layer.build(
          Pg.layer(
            optionsFor(cluster, {
              clusterId: unique("cluster"),
              password: Redacted.make(SECRET),
              connectFailover: true
            })
          )
        ).pipe(Effect.scoped, Effect.flip, within("the rejection", AT_ONCE))
        assert.strictEqual(error._tag, "ConnectionRejected")
      })
    )

    it.scoped("errors after a failover keep the secret too", () =>
      Effect.gen(function* () {
        const cluster = yield* TestCluster
        yield* heal(cluster)
        yield* cluster.query(
          yield* cluster.primary,
          `alter user ${cluster.username} password '${SECRET}'`
        )
        const options = optionsFor(cluster, {
          password: Redacted.make(SECRET),
          failoverTimeout: "300 millis"
        })
        const db = yield* Pg.make(options)
        yield* db.client`SELECT 1`
        yield* cluster.query(
          yield* cluster.primary,
          `alter user ${cluster.username} password '${Redacted.value(cluster.password)}'`
        )
        yield* Effect.forEach(cluster.nodes, cluster.kill)
        const exit = yield* Effect.exit(db.client`SELECT 1`).pipe(within("the failure"))
        assert.strictEqual(causeOf(exit)._tag, "FailoverFailed")
        if (Exit.isFailure(exit)) keepsSecrets(exit.cause)
        assert.notInclude(JSON.stringify(db.client.config), SECRET)
        yield* heal(cluster)
      })
    )

    it.scoped("layerConfig reads every option that can be written as text", () =>
      Effect.gen(function* () {
        const cluster = yield* TestCluster
        yield* heal(cluster)
        const app = unique("app")
        const text = {
          HOSTS: cluster.nodes.map(addressOf).join(", "),
          PORT: "5433",
          DATABASE: cluster.database,
          USERNAME: cluster.username,
          PASSWORD: Redacted.value(cluster.password),
          SSL: "false",
          INSTANCE_HOST_PATTERN: "?.cluster.test",
          GLOBAL_INSTANCE_HOST_PATTERNS: "eu-west-1=?.eu.cluster.test",
          CLUSTER_ID: app,
          DIALECT: "pg",
          FAILOVER_MODE: "strict-writer",
          READER_HOST_SELECTOR: "round-robin",
          MAX_STALENESS: "11 seconds",
          READER_HEARTBEAT: "2 seconds",
          FAILOVER_TIMEOUT: "7 seconds",
          TOPOLOGY_REFRESH_RATE: "9 seconds",
          TOPOLOGY_HIGH_REFRESH_RATE: "50 millis",
          TOPOLOGY_PUSH: "always",
          IGNORE_TOPOLOGY_REFRESH: "10 seconds",
          MONITORING_USERNAME: cluster.username,
          MONITORING_DATABASE: cluster.database,
          MONITORING_APPLICATION_NAME: `${app} watch`,
          MONITORING_CONNECT_TIMEOUT: "2 seconds",
          MONITORING_QUERY_TIMEOUT: "1 second",
          CONNECT_FAILOVER: "true",
          WAIT_FOR_TOPOLOGY: "5 seconds",
          CONNECT_TIMEOUT: "4 seconds",
          QUERY_TIMEOUT: "6 seconds",
          ACQUIRE_TIMEOUT: "8 seconds",
          MAX_CONNECTIONS: "3",
          MIN_CONNECTIONS: "1",
          IDLE_TIMEOUT: "2 minutes",
          CONNECTION_TTL: "3 minutes",
          PREPARE_STATEMENTS: "false",
          COMMIT_RESOLUTION: "transaction-status",
          SESSION_SETUP: "SET statement_timeout = 12345",
          APPLICATION_NAME: app
        }
        const provider = ConfigProvider.fromMap(
          new Map(
            Object.entries(text).map(([key, value]) => [
              `DB.${key.replace(/^MONITORING_/, "MONITORING.")}`,
              value
            ])
          )
        )
        const config = Config.nested(Pg.config, "DB")
        const { password, url: noUrl, ...read } = yield* Effect.withConfigProvider(config, provider)
        assert.isUndefined(noUrl)
        assert.strictEqual(Redacted.isRedacted(password) && Redacted.value(password), text.PASSWORD)
        assert.deepStrictEqual(read, {
          prepareStatements: false,
          commitResolution: "transaction-status",
          hosts: cluster.nodes.map(addressOf),
          port: 5433,
          database: cluster.database,
          username: cluster.username,
          ssl: false,
          instanceHostPattern: "?.cluster.test",
          globalInstanceHostPatterns: { "eu-west-1": "?.eu.cluster.test" },
          clusterId: app,
          dialect: "pg",
          failoverMode: "strict-writer",
          readerHostSelector: "round-robin",
          maxStaleness: Duration.seconds(11),
          readerHeartbeat: Duration.seconds(2),
          failoverTimeout: Duration.seconds(7),
          topologyRefreshRate: Duration.seconds(9),
          topologyHighRefreshRate: Duration.millis(50),
          topologyPush: "always",
          ignoreTopologyRefresh: Duration.seconds(10),
          monitoring: {
            username: cluster.username,
            password: undefined,
            database: cluster.database,
            applicationName: `${app} watch`,
            connectTimeout: Duration.seconds(2),
            queryTimeout: Duration.seconds(1)
          },
          connectFailover: true,
          waitForTopology: Duration.seconds(5),
          connectTimeout: Duration.seconds(4),
          queryTimeout: Duration.seconds(6),
          acquireTimeout: Duration.seconds(8),
          maxConnections: 3,
          minConnections: 1,
          idleTimeout: Duration.minutes(2),
          connectionTTL: Duration.minutes(3),
          sessionSetup: "SET statement_timeout = 12345",
          applicationName: app
        })
        const context = yield* Layer.build(Pg.layerConfig(config)).pipe(
          Effect.withConfigProvider(provider)
        )
        const sql = Context.get(context, SqlClient.SqlClient)
        const [row] = yield* sql`SELECT current_setting('application_name') AS app,
        current_setting('statement_timeout') AS timeout`
        assert.deepStrictEqual({ ...row }, { app, timeout: "12345ms" })
        assert.isTrue(
          Equal.equals(Context.get(context, Failover.Failover).timeout, Duration.seconds(7))
        )
        assert.strictEqual(Context.get(context, Topology.Topology).clusterId, app)
      })
    )

    it.scoped("layerConfig reads a url, and keeps its password", () =>
      Effect.gen(function* () {
        const cluster = yield* TestCluster
        yield* heal(cluster)
        const app = unique("app")
        const hosts = cluster.nodes.map(addressOf).join(",")
        const secret = encodeURIComponent(Redacted.value(cluster.password))
        const text = `postgres://${cluster.username}:${secret}@${hosts}/${cluster.database}?application_name=${app}&sslmode=disable`
        const sql = yield* Layer.build(Pg.layerConfig(Pg.config)).pipe(
          Effect.withConfigProvider(ConfigProvider.fromMap(new Map([["URL", text]]))),
          Effect.map(Context.get(SqlClient.SqlClient))
        )
        const [row] = yield* sql`SELECT current_setting('application_name') AS app`
        assert.deepStrictEqual({ ...row }, { app })
      })
    )

    it.scoped("layerConfig tells which variable cannot be read", () =>
      Effect.gen(function* () {
        const provider = ConfigProvider.fromMap(new Map([["FAILOVER_TIMEOUT", "soon"]]))
        const error = yield* Layer.build(Pg.layerConfig(Pg.config)).pipe(
          Effect.withConfigProvider(provider),
          Effect.scoped,
          Effect.flip
        )
        assert.include(String(error), "FAILOVER_TIMEOUT")
      })
    )
  }
)

layer(clusterLayer({ nodes: 2, flavor: "aurora" }), { excludeTestServices: true })(
  "Options, told by Aurora",
  (it) => {
    it.scoped("instances that have no address without a pattern", () =>
      Effect.gen(function* () {
        const cluster = yield* TestCluster
        const { instanceHostPattern: _, ...options } = optionsFor(cluster)
        yield* rejected(
          { ...options, clusterId: unique("cluster") },
          { _tag: "ConfigurationError", field: "instanceHostPattern", outcome: "NotExecuted" },
          "?.db.internal"
        )
      })
    )

    it.scoped("Aurora is recognised, and its instances are named as it names them", () =>
      Effect.gen(function* () {
        const db = yield* open()
        yield* db.client`SELECT 1`
        const { hosts, writer } = db.topology.unsafeCurrent()
        assert.strictEqual(writer?.host.id, (yield* db.cluster.primary).id)
        assert.deepStrictEqual(
          hosts.map((_) => _.host.id).sort(),
          db.cluster.nodes.map((_) => _.id).sort()
        )
      })
    )

    it.scoped("one reader as the only host is enough to find the writer", () =>
      Effect.gen(function* () {
        const cluster = yield* TestCluster
        yield* heal(cluster)
        const hosts = (yield* cluster.standbys).map(addressOf)
        const db = yield* open({ clusterId: unique("cluster"), hosts })
        yield* db.client`SELECT 1`
        assert.strictEqual(db.stats().host?.port, (yield* cluster.primary).port)
      })
    )

    it.scoped("dialect pg over Aurora asks host by host", () =>
      Effect.gen(function* () {
        const db = yield* open({ clusterId: unique("cluster"), dialect: "pg" })
        yield* db.client`SELECT 1`
        assert.strictEqual(db.stats().host?.port, (yield* db.cluster.primary).port)
      })
    )
  }
)
