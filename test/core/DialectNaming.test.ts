/** How hosts get their names: patterns by region, addresses, and answers that no server here can be made to give. */
import { assert, describe, it } from "@effect/vitest"
import { Config, ConfigProvider, Effect, Either, Option } from "effect"
import type { Dialect } from "effect-failover"
import { Host } from "effect-failover"
import * as AuroraGlobalPg from "effect-failover/dialects/AuroraGlobalPg"
import * as AuroraPg from "effect-failover/dialects/AuroraPg"
import * as MultiAzPg from "effect-failover/dialects/MultiAzPg"
import * as PgStreaming from "effect-failover/dialects/PgStreaming"
import * as Pg from "effect-failover/layers/Pg"
import { check } from "../../src/layers/internal/pgOptions.js"

const checked = (options: Pg.PgOptions) => Either.getOrThrowWith(check(options), (error) => error)

/** What a dialect makes of rows, in the eyes of a client with these options. */
const observe = (
  dialect: Dialect.Dialect,
  options: Pg.PgOptions,
  rows: ReadonlyArray<ReadonlyArray<unknown>>,
  probed?: string
) => {
  const { hostAt, hostOf, seeds } = checked(options)
  const host =
    probed === undefined
      ? seeds[0]
      : Either.getOrThrow(Host.parse(probed, { defaultPort: 5432, field: "hosts" }))
  return dialect.observe(() => Effect.succeed(rows), { hostAt, hostOf, seeds, probed: host })
}

const addresses = ({ members = [] }: { readonly members?: ReadonlyArray<any> | undefined }) =>
  members.map((_) => Host.address(_.host))

describe("globalInstanceHostPatterns", () => {
  const bad: ReadonlyArray<readonly [string, Record<string, string>, RegExp]> = [
    ["names no region", {}, /names no region/],
    ["has no region", { " ": "?.db.internal" }, /without a region/],
    ["has a region without a pattern", { "eu-west-1": "" }, /for eu-west-1 that has no \?/],
    ["has a pattern without ?", { "eu-west-1": "db.internal" }, /for eu-west-1 that has no \?/],
    [
      "has the pattern of another region",
      { "eu-west-1": "?.abc.us-east-1.rds.amazonaws.com" },
      /for eu-west-1 that lies in us-east-1/
    ]
  ]
  for (const [problem, globalInstanceHostPatterns, message] of bad) {
    it(`one that ${problem} is refused`, () => {
      const error = Either.getOrThrow(
        Either.flip(check({ hosts: "db", globalInstanceHostPatterns }))
      )
      assert.strictEqual(error.field, "globalInstanceHostPatterns")
      assert.match(error.message, message)
      assert.isNotEmpty(error.hint)
    })
  }

  it("a global database by name needs the patterns, unless the hosts tell them", () => {
    const error = Either.getOrThrow(
      Either.flip(check({ hosts: "db", dialect: "aurora-global-pg" }))
    )
    assert.strictEqual(error.field, "globalInstanceHostPatterns")
    const hosts = "shop.cluster-abc.eu-west-1.rds.amazonaws.com"
    assert.isTrue(Either.isRight(check({ hosts, dialect: "aurora-global-pg" })))
  })

  it("the region of an RDS name is known, and what is given comes before it", () => {
    const { hostOf } = checked({
      hosts: [
        "shop.cluster-abc.eu-west-1.rds.amazonaws.com:6432",
        "shop.cluster-def.us-east-1.rds.amazonaws.com"
      ],
      globalInstanceHostPatterns: { "US-EAST-1": "?.us.db.internal:7432" }
    })
    const address = (region: string) =>
      Either.map(hostOf("Instance-1", region), (_) => [_.id, Host.address(_)])
    assert.deepStrictEqual(Either.getOrThrow(address("eu-west-1")), [
      "Instance-1",
      "instance-1.abc.eu-west-1.rds.amazonaws.com:6432"
    ])
    assert.deepStrictEqual(Either.getOrThrow(address("us-east-1")), [
      "Instance-1",
      "instance-1.us.db.internal:7432"
    ])
    const error = Either.getOrThrow(Either.flip(address("ap-south-1")))
    assert.include(error.message, '"ap-south-1"')
    assert.include(error.message, '"Instance-1"')
  })

  it("two clusters that differ in them only are told apart", () => {
    const of = (pattern: string) =>
      checked({ hosts: "db", globalInstanceHostPatterns: { "eu-west-1": pattern } }).description
    assert.notStrictEqual(of("?.a.internal"), of("?.b.internal"))
  })

  it.effect("is read from text", () =>
    Effect.gen(function* () {
      const text = "eu-west-1=?.eu.db.internal, us-east-1 = ?.us.db.internal:7432"
      const provider = ConfigProvider.fromMap(new Map([["DB.GLOBAL_INSTANCE_HOST_PATTERNS", text]]))
      const { globalInstanceHostPatterns } = yield* Effect.withConfigProvider(
        Config.nested(Pg.config, "DB"),
        provider
      )
      assert.deepStrictEqual(globalInstanceHostPatterns, {
        "eu-west-1": "?.eu.db.internal",
        "us-east-1": "?.us.db.internal:7432"
      })
    })
  )
})

describe("dialects", () => {
  it("are tried from the special to the general", () => {
    assert.deepStrictEqual(
      checked({ hosts: "db" }).dialects.map((_) => _.name),
      ["aurora-global-pg", "aurora-pg", "multi-az-pg", "pg"]
    )
  })

  for (const dialect of [PgStreaming.dialect, MultiAzPg.dialect]) {
    it(`${dialect.name} can be named`, () => {
      const found = checked({ hosts: "db", dialect: dialect.name as "pg" }).dialects
      assert.deepStrictEqual(found, [dialect])
    })
  }
})

describe("an address that the cluster gives", () => {
  const listed = Host.make({ id: "a", host: "10.0.0.1", port: 5432 })
  const reached = (options: Pg.PgOptions) =>
    Option.map(checked({ hosts: "db", ...options }).hostAt(listed), (_) => [_.id, Host.address(_)])

  it("is translated, and keeps its name", () => {
    const translateAddress = () => ({ host: "localhost", port: 15432 })
    assert.deepStrictEqual(reached({ translateAddress }), Option.some(["a", "localhost:15432"]))
    assert.deepStrictEqual(reached({}), Option.some(["a", "10.0.0.1:5432"]))
  })

  it("is of no use where a certificate is verified by name, if it is an IP address", () => {
    assert.isTrue(Option.isNone(reached({ ssl: true })))
    assert.isTrue(Option.isNone(reached({ ssl: { ca: "..." } })))
    assert.isTrue(Option.isSome(reached({ ssl: { rejectUnauthorized: false } })))
    assert.isTrue(Option.isSome(reached({ ssl: { checkServerIdentity: () => undefined } })))
    const translateAddress = () => ({ host: "db-1.internal", port: 5432 })
    assert.isTrue(Option.isSome(reached({ ssl: true, translateAddress })))
  })
})

describe("standbys by their addresses", () => {
  const found = (
    standbys: ReadonlyArray<readonly [string, string | null, boolean | null]>,
    options: Pg.PgOptions,
    probed?: string
  ) =>
    Effect.map(
      observe(
        PgStreaming.dialect,
        options,
        [
          [
            false,
            "000000020000000000000003",
            "2020-01-01",
            JSON.stringify(standbys.map((_) => [..._, null]))
          ]
        ],
        probed
      ),
      addresses
    )
  const two = [
    ["walreceiver", "10.0.0.2", false],
    ["walreceiver", "10.0.0.3", false]
  ] as const

  const cases: ReadonlyArray<
    readonly [string, typeof two | ReadonlyArray<any>, Pg.PgOptions, ReadonlyArray<string>]
  > = [
    [
      "have the primary's port",
      two,
      { hosts: "10.0.0.1:6432" },
      ["10.0.0.2:6432", "10.0.0.3:6432"]
    ],
    [
      "are found beside a single name",
      two,
      { hosts: "db.internal" },
      ["10.0.0.2:5432", "10.0.0.3:5432"]
    ],
    [
      "are the seeds, if those are addresses",
      two,
      { hosts: ["10.0.0.1", "10.0.0.2:7432"] },
      ["10.0.0.3:5432"]
    ],
    ["may be the seeds, if those are names", two, { hosts: ["a", "b", "c"] }, []],
    [
      "are more than the names: some of them are others",
      two,
      { hosts: ["a", "b"] },
      ["10.0.0.2:5432", "10.0.0.3:5432"]
    ],
    [
      "mean nothing on a loopback interface",
      [
        ["a", "127.0.0.1", false],
        ["b", "::1", null]
      ],
      { hosts: "10.0.0.1" },
      []
    ],
    ["mean nothing behind a tunnel", two, { hosts: "localhost:15432" }, []],
    ["mean nothing behind a mapped port", two, { hosts: "127.0.0.1:15432" }, []],
    ["are not the primary's own", [["a", "10.0.0.9", true]], { hosts: "10.0.0.1" }, []],
    [
      "are not the primary, which was asked at it",
      [["a", "10.0.0.1", false]],
      { hosts: "10.0.0.1" },
      []
    ],
    ["are hidden", [["a", null, null]], { hosts: "10.0.0.1" }, []],
    [
      "may be written as IPv6",
      [
        ["a", "::ffff:10.0.0.2", false],
        ["b", "fd00::2", false]
      ],
      { hosts: "10.0.0.1" },
      ["10.0.0.2:5432", "[fd00::2]:5432"]
    ],
    ["are not used where certificates are verified", two, { hosts: "10.0.0.1", ssl: true }, []],
    [
      "are not used where there is a pattern",
      two,
      { hosts: "10.0.0.1", instanceHostPattern: "?.db.internal" },
      []
    ]
  ]
  for (const [what, standbys, options, expected] of cases) {
    it.effect(`they ${what}`, () =>
      Effect.map(found(standbys, options), (seen) => assert.deepStrictEqual(seen, expected))
    )
  }

  it.effect("a name that is none is not put into the pattern", () =>
    Effect.map(
      found(
        [
          ["db-2", null, null],
          ["evil.example.com/x", null, null],
          ["walreceiver", "10.0.0.3", false],
          ["a b", null, null]
        ],
        { hosts: "db-1.internal", instanceHostPattern: "?.internal" }
      ),
      (seen) => assert.deepStrictEqual(seen, ["db-2.internal:5432"])
    )
  )

  it.effect("the primary is no standby of its own, whatever the list says", () =>
    Effect.map(
      found([["db-1", "10.0.0.1", false]], {
        hosts: "db-1.internal",
        instanceHostPattern: "?.internal"
      }),
      (seen) => assert.deepStrictEqual(seen, [])
    )
  )
})

describe("a global database in which two regions have an instance of one name", () => {
  const options: Pg.PgOptions = {
    hosts: "shop.cluster-abc.eu-west-1.rds.amazonaws.com",
    globalInstanceHostPatterns: { "eu-west-1": "?.eu.internal", "us-east-1": "?.us.internal" }
  }
  const rows = (isInRecovery: boolean, self = "same") =>
    [
      ["same", true, null, "eu-west-1"],
      ["same", false, 80, "us-east-1"],
      ["other", false, 20, "us-east-1"]
    ].map((row) => [...row, self, isInRecovery, "2020-01-01"])

  for (const [isInRecovery, address, role] of [
    [false, "same.eu.internal:5432", "writer"],
    [true, "same.us.internal:5432", "reader"]
  ] as const) {
    it.effect(`the ${role} is told from the other by its role`, () =>
      Effect.map(observe(AuroraGlobalPg.dialect, options, rows(isInRecovery)), (seen) => {
        assert.deepStrictEqual([Host.address(seen.host), seen.role], [address, role])
        assert.deepStrictEqual(addresses(seen), [
          "same.eu.internal:5432",
          "same.us.internal:5432",
          "other.us.internal:5432"
        ])
      })
    )
  }

  const readers = rows(true).map((row) => [row[0], false, ...row.slice(2)])
  it.effect("of two readers, the one that was asked by its address answers", () =>
    Effect.map(observe(AuroraGlobalPg.dialect, options, readers, "same.us.internal"), (seen) =>
      assert.strictEqual(Host.address(seen.host), "same.us.internal:5432")
    )
  )

  it.effect(
    "of two readers that cannot be told apart, the one that was asked keeps its address",
    () =>
      Effect.map(observe(AuroraGlobalPg.dialect, options, readers), (seen) =>
        assert.strictEqual(seen.host.host, options.hosts)
      )
  )

  it.effect("of two writers in the list, only the one that answers is one", () =>
    Effect.map(
      observe(
        AuroraGlobalPg.dialect,
        options,
        rows(false, "other").map((row, i) => (i === 2 ? ["other", true, ...row.slice(2)] : row))
      ),
      (seen) => {
        assert.strictEqual(seen.role, "writer")
        assert.deepStrictEqual(
          seen.members?.map((_) => _.role),
          ["unknown", "reader", "writer"]
        )
      }
    )
  )
})

describe("the age of Aurora's list", () => {
  const options: Pg.PgOptions = { hosts: "db", instanceHostPattern: "?.internal" }
  const row = (id: string, isWriter: boolean, updated: string | null) => [
    id,
    isWriter,
    0,
    updated,
    "a",
    true,
    "2020-01-01"
  ]
  const asOf = (rows: ReadonlyArray<ReadonlyArray<unknown>>) =>
    Effect.map(observe(AuroraPg.dialect, options, rows), (_) => _.asOf)

  it.effect("is that of the writer's row, in milliseconds", () =>
    Effect.map(
      asOf([row("a", false, "1700000009.5"), row("b", true, "1700000000.123456")]),
      (found) => assert.strictEqual(found, 1_700_000_000_123)
    )
  )

  it.effect("of two writers, that of the later one", () =>
    Effect.map(asOf([row("b", true, "2"), row("c", true, "1")]), (found) =>
      assert.strictEqual(found, 2000)
    )
  )

  it.effect("is not known without a writer, or from the writer itself", () =>
    Effect.gen(function* () {
      assert.isUndefined(yield* asOf([row("a", false, "1")]))
      assert.isUndefined(yield* asOf([row("a", true, null)]))
    })
  )
})
