import { assert, describe, it } from "@effect/vitest"
import { Either, Equal, FastCheck as fc, Option, Schema } from "effect"
import type { Errors } from "effect-failover"
import { ClusterEndpoint, Failover, Host } from "effect-failover"
import { readFileSync } from "node:fs"
import { fileURLToPath } from "node:url"
import { check } from "../../src/layers/internal/pgOptions.js"

const fileOf = (path: string) =>
  readFileSync(fileURLToPath(new URL(`../../${path}`, import.meta.url)), "utf8")

const right = <A>(either: Either.Either<A, Errors.ConfigurationError>) =>
  Either.getOrThrowWith(either, (error) => error)

const left = <A>(either: Either.Either<A, Errors.ConfigurationError>) =>
  Either.getOrThrowWith(Either.flip(either), (_) => new Error(`accepted: ${JSON.stringify(_)}`))

const parse = (text: string) =>
  right(ClusterEndpoint.parse(text, { defaultPort: 5432, field: "hosts" }))

const patternOf = (endpoint: ClusterEndpoint.ClusterEndpoint) =>
  Option.getOrUndefined(ClusterEndpoint.patternOf(endpoint))?.pattern

// The format of test/spec/README.md.

const maybe = <A, I>(schema: Schema.Schema<A, I>) => Schema.optional(Schema.NullOr(schema))
const Mode = Schema.Literal("strict-writer", "reader-or-writer")

const fileWith = <A, I>(name: string, item: Schema.Schema<A, I>) =>
  Schema.decodeUnknownSync(
    Schema.Struct({ about: Schema.String, cases: Schema.NonEmptyArray(item) }),
    { onExcessProperty: "error" }
  )(JSON.parse(fileOf(`test/spec/endpoint/${name}.json`)))

const NameCase = Schema.Struct({
  name: Schema.String,
  host: Schema.String,
  expect: Schema.Struct({
    kind: Schema.optional(Schema.String),
    host: Schema.optional(Schema.String),
    port: Schema.optional(Schema.Number),
    region: maybe(Schema.String),
    identifier: maybe(Schema.String),
    domain: maybe(Schema.String),
    partition: maybe(Schema.String),
    isFips: Schema.optional(Schema.Boolean),
    blueGreen: maybe(Schema.String),
    pattern: maybe(Schema.String),
    clusterId: Schema.optional(Schema.String),
    failoverMode: Schema.optional(Mode)
  })
})

for (const name of ["kinds", "partitions", "blue-green", "near-misses", "addresses"]) {
  const { about, cases } = fileWith(name, NameCase)
  describe(`${name}.json: ${about}`, () => {
    for (const { expect, host, name } of cases) {
      it(name, () => {
        const endpoint = parse(host)
        const all = {
          ...endpoint,
          pattern: patternOf(endpoint),
          clusterId: ClusterEndpoint.clusterIdOf([endpoint]),
          failoverMode: ClusterEndpoint.defaultFailoverMode([endpoint])
        }
        const named = Object.entries(all).filter(([field]) => field in expect)
        const found = Object.fromEntries(named.map(([field, value]) => [field, value ?? null]))
        assert.deepStrictEqual<unknown>(found, expect, host)
      })
    }
  })
}

const PatternCase = Schema.Union(
  Schema.Struct({ name: Schema.String, pattern: Schema.String, refused: Schema.String }),
  Schema.Struct({
    name: Schema.String,
    pattern: Schema.String,
    expect: Schema.Struct({ pattern: Schema.String, port: Schema.NullOr(Schema.Number) }),
    instance: Schema.optional(Schema.String),
    address: Schema.optional(Schema.String)
  })
)

const patterns = fileWith("patterns", PatternCase)
describe(`patterns.json: ${patterns.about}`, () => {
  for (const given of patterns.cases) {
    it(given.name, () => {
      const found = ClusterEndpoint.parsePattern(given.pattern)
      if ("refused" in given) {
        const error = left(found)
        assert.strictEqual(error.field, "instanceHostPattern")
        assert.include(error.problem, given.refused)
        assert.isNotEmpty(error.hint)
        return
      }
      const { pattern, port } = right(found)
      assert.deepStrictEqual({ pattern, port: port ?? null }, given.expect)
      const host = ClusterEndpoint.instanceHost(right(found), given.instance ?? "i", 5432)
      assert.strictEqual(Host.address(host), given.address ?? Host.address(host))
      assert.strictEqual(host.id, given.instance ?? "i")
    })
  }
})

const required = fileWith(
  "required",
  Schema.Struct({
    name: Schema.String,
    host: Schema.String,
    says: Schema.NonEmptyArray(Schema.String)
  })
)
describe(`required.json: ${required.about}`, () => {
  for (const { host, name, says } of required.cases) {
    it(name, () => {
      const error = ClusterEndpoint.patternRequired(parse(host))
      for (const part of ["`instanceHostPattern` is required", ...says]) {
        assert.include(error.message, part)
      }
    })
  }
})

const Lists = Schema.NonEmptyArray(Schema.Array(Schema.String))
const clusters = fileWith(
  "clusters",
  Schema.Union(
    Schema.Struct({ name: Schema.String, hosts: Lists, same: Schema.Boolean }),
    Schema.Struct({ name: Schema.String, hosts: Lists, failoverMode: Mode })
  )
)
describe(`clusters.json: ${clusters.about}`, () => {
  for (const given of clusters.cases) {
    it(given.name, () => {
      const lists = given.hosts.map((list) => list.map(parse))
      if ("failoverMode" in given) {
        for (const list of lists) {
          assert.strictEqual(ClusterEndpoint.defaultFailoverMode(list), given.failoverMode)
        }
        return
      }
      const ids = lists.map(ClusterEndpoint.clusterIdOf)
      assert.strictEqual(new Set(ids).size, given.same ? 1 : ids.length, ids.join("\n"))
    })
  }
})

// Whatever the name is.

const anyOf = (letters: string, minLength: number, maxLength: number) =>
  fc.stringOf(fc.constantFrom(...letters), { minLength, maxLength })
const letters = "abcdefghijklmnopqrstuvwxyz"
const anyId = anyOf(`${letters}0123456789`, 1, 12)
const anyIdentifier = fc
  .tuple(anyOf(letters, 1, 1), anyOf(`${letters}0123456789-`, 0, 20))
  .map((_) => _.join(""))
const anyRegion = fc
  .tuple(anyOf(letters, 2, 4), anyOf(letters, 3, 8), fc.integer({ min: 1, max: 9 }))
  .map((_) => _.join("-"))
const anyDomain = fc
  .tuple(
    anyId,
    anyRegion,
    fc.constantFrom(
      ["R", "rds", "amazonaws.com"],
      ["R", "rds-fips", "amazonaws.com"],
      ["R", "rds", "amazonaws.eu"],
      ["R", "rds-fips", "amazonaws.au"],
      ["R", "rds", "amazonaws.uk"],
      ["R", "rds", "amazonaws.com.cn"],
      ["rds", "R", "amazonaws.com.cn"],
      ["rds-fips", "R", "amazonaws.com"],
      ["rds", "R", "c2s.ic.gov"],
      ["rds", "R", "sc2s.sgov.gov"]
    )
  )
  .map(([id, region, form]) => ({
    id,
    region,
    rest: form.map((_) => (_ === "R" ? region : _)).join(".")
  }))
const kinds = [
  ["cluster-", "writer"],
  ["cluster-ro-", "reader"],
  ["cluster-custom-", "custom-cluster"],
  ["shardgrp-", "shard-group"],
  ["proxy-", "proxy"],
  ["", "instance"]
] as const
const anyName = fc
  .tuple(anyIdentifier, fc.constantFrom(...kinds), anyDomain)
  .map(([identifier, [prefix, kind], { id, region, rest }]) => ({
    name: `${identifier}.${prefix}${id}.${rest}`,
    expected: { identifier, kind, region, domain: `${id}.${rest}` }
  }))
const anyHost = fc.oneof(
  anyName.map((_) => _.name),
  fc.domain(),
  fc.ipV4(),
  fc.ipV6(),
  fc.constant("world.global-abc.global.rds.amazonaws.com")
)

describe("a host name", () => {
  it.prop("of every kind, in every part of AWS, is read", [anyName], ([{ expected, name }]) => {
    const { domain, identifier, kind, region } = parse(name)
    assert.deepStrictEqual({ identifier, kind, region, domain }, expected)
  })

  it.prop(
    "means the same in any case and with a trailing dot",
    [anyHost, fc.infiniteStream(fc.boolean())],
    ([name, coins]) => {
      const mixed = [...name].map((c) => (coins.next().value === true ? c.toUpperCase() : c))
      const dot = name.includes(":") || /^[\d.]+$/.test(name) ? "" : "."
      const shouted = ClusterEndpoint.make({ host: mixed.join("") + dot, port: 5432 })
      assert.isTrue(Equal.equals(shouted, ClusterEndpoint.make({ host: name, port: 5432 })))
      assert.isTrue(Equal.equals(parse(mixed.join("") + dot), parse(name)))
    }
  )

  it.prop(
    "means the same on any port, but for the port",
    [anyHost, fc.integer({ min: 1, max: 65_535 })],
    ([host, port]) => {
      const endpoint = parse(Host.address({ host, port }))
      assert.deepStrictEqual({ ...endpoint, port: 5432 }, { ...parse(host) })
      assert.strictEqual(endpoint.port, port)
      assert.strictEqual(patternOf(endpoint), patternOf(parse(host)))
      assert.isTrue(ClusterEndpoint.clusterIdOf([endpoint]).endsWith(`:${port}`))
    }
  )

  it.prop("can be written and read back", [anyHost], ([name]) => {
    const endpoint = parse(name)
    assert.isTrue(Equal.equals(parse(Host.address(endpoint)), endpoint))
  })

  it.prop("never makes it fail, whatever it is", [fc.fullUnicodeString()], ([host]) => {
    assert.include(["other", "ip"], ClusterEndpoint.make({ host, port: 1 }).kind)
  })

  it.prop(
    "with a foreign letter is a name of one's own",
    [anyName, fc.nat(), fc.constantFrom("\u0430", "\u043e", "\u0455", "\uff52", "\u3002", "*")],
    ([{ name }, at, letter]) => {
      const i = at % name.length
      const host = name.slice(0, i) + letter + name.slice(i + 1)
      const endpoint = ClusterEndpoint.make({ host, port: 5432 })
      assert.deepStrictEqual([endpoint.kind, endpoint.region], ["other", undefined])
    }
  )
})

describe("an instance's host", () => {
  it.prop(
    "made by the pattern of a name is an instance of the same domain",
    [anyName, anyIdentifier],
    ([{ expected, name }, id]) => {
      const pattern = ClusterEndpoint.patternOf(parse(name))
      assert.strictEqual(Option.isNone(pattern), expected.kind === "proxy")
      if (Option.isNone(pattern)) return
      const host = ClusterEndpoint.instanceHost(pattern.value, id, 6000)
      const instance = ClusterEndpoint.make(host)
      assert.deepStrictEqual(
        [instance.kind, instance.identifier, instance.port, host.id],
        ["instance", id, 6000, id]
      )
      assert.strictEqual(patternOf(instance), pattern.value.pattern)
      assert.deepStrictEqual(
        right(ClusterEndpoint.parsePattern(pattern.value.pattern)),
        pattern.value
      )
    }
  )

  it("has the pattern's own port, or the default", () => {
    const own = right(ClusterEndpoint.parsePattern("?.DB.internal:5433"))
    assert.deepStrictEqual(
      ClusterEndpoint.instanceHost(own, "Inst-1", 1),
      Host.make({ id: "Inst-1", host: "inst-1.db.internal", port: 5433 })
    )
  })

  it("takes the identifier literally", () => {
    const pattern = right(ClusterEndpoint.parsePattern("?.db"))
    assert.strictEqual(ClusterEndpoint.instanceHost(pattern, "a$&b", 1).host, "a$&b.db")
  })
})

describe("the cluster id", () => {
  it.prop(
    "is the same through the writer and the reader endpoint",
    [anyIdentifier, anyDomain],
    ([identifier, { id, rest }]) => {
      const [writer, reader] = ["cluster-", "cluster-ro-"].map((prefix) =>
        parse(`${identifier}.${prefix}${id}.${rest}`)
      )
      assert.isDefined(writer)
      assert.isDefined(reader)
      assert.strictEqual(
        ClusterEndpoint.clusterIdOf([writer]),
        ClusterEndpoint.clusterIdOf([reader])
      )
    }
  )

  it.prop(
    "depends on neither the order of the hosts nor on who is listed twice",
    [fc.array(anyHost.map(parse), { minLength: 1, maxLength: 4 })],
    ([hosts]) => {
      const again = [...hosts, ...hosts].reverse()
      assert.strictEqual(ClusterEndpoint.clusterIdOf(again), ClusterEndpoint.clusterIdOf(hosts))
      assert.isNotEmpty(ClusterEndpoint.clusterIdOf(hosts))
    }
  )

  it.prop("is another one for another name", [anyHost, anyHost], ([a, b]) => {
    fc.pre(a !== b && parse(a).kind !== "reader" && parse(b).kind !== "reader")
    const [one, other] = [parse(a), parse(b)].map((_) => ClusterEndpoint.clusterIdOf([_]))
    assert.notStrictEqual(one, other)
  })
})

describe("a hostile name", () => {
  // A pattern that backtracks would not come to an end within the test's timeout.
  const long: Record<string, string> = {
    letters: "a".repeat(10_000),
    dots: ".".repeat(10_000),
    labels: "a.".repeat(10_000),
    colons: `${":".repeat(10_000)}x`,
    hyphens: `${"-".repeat(10_000)}!`,
    prefixes: `x${".cluster-".repeat(10_000)}abc.eu-west-1.rds.amazonaws.com`,
    "a region": `x.abc.eu${"-a".repeat(10_000)}.rds.amazonaws.com`,
    "green marks": `${"-green-".repeat(10_000)}.cluster-abc.eu-west-1.rds.amazonaws.com`
  }
  for (const [of, host] of Object.entries(long)) {
    it(`of 10 000 ${of} is a name of one's own, and no pattern`, () => {
      assert.strictEqual(ClusterEndpoint.make({ host, port: 1 }).kind, "other")
      assert.isTrue(Either.isLeft(ClusterEndpoint.parsePattern(`?${host}`)))
    })
  }

  it("leaves no password in the error of a pattern", () => {
    const error = left(ClusterEndpoint.parsePattern("postgres://u:secret@?.db"))
    assert.notInclude(`${error.message} ${JSON.stringify(error)}`, "secret")
  })
})

const page = fileOf("docs/endpoints.md")

describe("docs/endpoints.md", () => {
  const rows = page
    .split("\n")
    .filter((line) => line.startsWith("| `"))
    .map((line) => line.split("|").map((cell) => cell.trim().replace(/^`(.*)`$/, "$1")))

  it("has a row for every kind", () => {
    const all: Record<ClusterEndpoint.Kind, true> = {
      writer: true,
      reader: true,
      "custom-cluster": true,
      instance: true,
      "shard-group": true,
      "global-writer": true,
      proxy: true,
      "proxy-endpoint": true,
      ip: true,
      other: true
    }
    assert.sameMembers(
      rows.map((_) => _[1]),
      Object.keys(all)
    )
  })

  for (const [, kind = "", example = "", region = "", instances = "", mode = ""] of rows) {
    it(`${kind}: ${example}`, () => {
      const endpoint = parse(example)
      assert.deepStrictEqual(
        [endpoint.kind, endpoint.region ?? "none", ClusterEndpoint.defaultFailoverMode([endpoint])],
        [kind, region, mode]
      )
      const options = check({ hosts: example, dialect: "aurora-pg" })
      if (instances.startsWith("?")) {
        const host = right(right(options).hostOf("shop-2"))
        assert.strictEqual(Host.address(host), `${instances.replace("?", "shop-2")}:5432`)
      } else {
        assert.include(["hidden", "needs a pattern"], instances)
        assert.strictEqual(left(options).message.includes("RDS Proxy"), instances === "hidden")
        assert.isTrue(Either.isLeft(right(check({ hosts: example })).hostOf("shop-2")))
      }
    })
  }

  it("shows the error as it is", () => {
    const { message } = ClusterEndpoint.patternRequired(parse("db.example.com"))
    assert.include(page.replaceAll("\n", " "), message)
  })

  it("names no failover mode that there is not", () => {
    for (const [, mode] of page.matchAll(/`(strict-\w+|\w+-or-\w+)`/g)) {
      assert.include<string | undefined>([...Failover.modes], mode)
    }
  })
})
