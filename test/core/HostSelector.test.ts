import { assert, describe, expectTypeOf, it } from "@effect/vitest"
import { Cause, Effect, Either, Exit, FastCheck as fc, Random, Schema } from "effect"
import { Errors, Host, HostSelector } from "effect-failover"
import { readdirSync, readFileSync } from "node:fs"
import { fileURLToPath } from "node:url"
import * as Load from "../../src/internal/selector/load.js"
import { Rotation } from "../../src/internal/selector/roundRobin.js"
import * as Weights from "../../src/internal/selector/weights.js"

type Candidate = HostSelector.Candidate

const hostOf = (name: string) => Host.make({ host: name, port: 5432, id: name })

const candidate = (name: string, more: Partial<Candidate> = {}): Candidate => ({
  host: hostOf(name),
  role: "reader",
  availability: "available",
  outstanding: 0,
  connections: 0,
  ...more
})

/** The same numbers in every run. */
const chanceOf = (seed: number) =>
  Effect.runSync(Effect.withRandom(HostSelector.makeChance, Random.make(seed)))

const zero: HostSelector.Chance = () => 0

const names = [
  "twoChoices",
  "random",
  "roundRobin",
  "weightedRandom",
  "highestWeight",
  "lowestLoad",
  "leastConnections",
  "fastestResponse"
] as const

type Name = (typeof names)[number]

const strategy = (name: string) =>
  Effect.runSync(HostSelector.parse(name, { field: "hostSelector" }))

const idOf = (either: Either.Either<Candidate, Errors.NoMatchingHost>) =>
  Either.getOrThrowWith(either, (error) => error).host.id

/** How often each is chosen, as a part of 1. */
const frequencies = (
  selector: HostSelector.HostSelector,
  candidates: ReadonlyArray<Candidate>,
  options?: HostSelector.SelectOptions & { readonly times?: number }
) => {
  const chance = chanceOf(7)
  const times = options?.times ?? 2000
  const counts = new Map(candidates.map((_) => [_.host.id, 0]))
  for (let i = 0; i < times; i++) {
    const id = idOf(HostSelector.selectWith(candidates, selector, chance, options))
    counts.set(id, (counts.get(id) ?? 0) + 1)
  }
  return Object.fromEntries([...counts].map(([id, count]) => [id, count / times]))
}

/** MongoDB's tolerance for 2000 selections; never and always are exact. */
const assertFrequencies = (
  found: Record<string, number>,
  expected: Readonly<Record<string, number>>
) => {
  assert.sameMembers(Object.keys(found), Object.keys(expected))
  for (const [id, frequency] of Object.entries(expected)) {
    const tolerance = frequency === 0 || frequency === 1 ? 0 : 0.05
    assert.closeTo(
      found[id] ?? Number.NaN,
      frequency,
      tolerance,
      `${id} of ${JSON.stringify(found)}`
    )
  }
}

// The format of test/spec/README.md.

const optional = <A, I>(schema: Schema.Schema<A, I>) => Schema.optionalWith(schema, { exact: true })
const Frequencies = Schema.Record({ key: Schema.String, value: Schema.Number })
const WeightsByName = Schema.Record({ key: Schema.String, value: Schema.Number })

const HostInSpec = Schema.Struct({
  role: optional(Schema.Literal("writer", "reader", "unknown")),
  availability: optional(Schema.Literal("available", "unavailable", "unknown")),
  weight: optional(Schema.Number),
  lag: optional(Schema.Number),
  cpu: optional(Schema.Number),
  outstanding: optional(Schema.Number),
  connections: optional(Schema.Number),
  latency: optional(Schema.Number)
})

const hosts = Schema.Record({ key: Schema.String, value: HostInSpec })

const ChoiceCase = Schema.Struct({
  name: Schema.String,
  strategy: Schema.Literal(...names),
  settings: optional(
    Schema.Struct({
      latencyWindow: optional(Schema.Number),
      lagWeight: optional(Schema.Number),
      weights: optional(WeightsByName),
      defaultWeight: optional(Schema.Number)
    })
  ),
  hosts,
  expect: Frequencies
})

const MatchCase = Schema.Struct({
  name: Schema.String,
  role: optional(Schema.Literal("writer", "reader")),
  hosts,
  expect: optional(Frequencies),
  none: optional(
    Schema.Record({
      key: Schema.String,
      value: Schema.Literal("Role", "Unavailable", "PassedOver")
    })
  )
})

const RotationCase = Schema.Struct({
  name: Schema.String,
  weights: optional(WeightsByName),
  defaultWeight: optional(Schema.Number),
  steps: Schema.NonEmptyArray(
    Schema.Struct({
      hosts: Schema.NonEmptyArray(Schema.String),
      expect: Schema.NonEmptyArray(Schema.String)
    })
  )
})

const directory = fileURLToPath(new URL("../spec/selector/", import.meta.url))

const fileWith = <A, I>(name: string, item: Schema.Schema<A, I>) =>
  Schema.decodeUnknownSync(
    Schema.Struct({ about: Schema.String, cases: Schema.NonEmptyArray(item) }),
    { onExcessProperty: "error" }
  )(JSON.parse(readFileSync(`${directory}${name}.json`, "utf8")))

const candidatesOf = (hosts: Readonly<Record<string, typeof HostInSpec.Type>>) =>
  Object.entries(hosts).map(([name, { cpu, lag, latency, ...rest }]) =>
    candidate(name, { ...rest, cpuPercent: cpu, lagMillis: lag, latencyMillis: latency })
  )

const strategyOf = ({ settings = {}, strategy: name }: typeof ChoiceCase.Type) => {
  switch (name) {
    case "twoChoices":
      return HostSelector.twoChoices(settings)
    case "lowestLoad":
      return Either.getOrThrow(HostSelector.lowestLoad(settings))
    case "weightedRandom":
      return Either.getOrThrow(HostSelector.weightedRandom(settings))
    default:
      return strategy(name)
  }
}

for (const name of ["two-choices", "chance", "best"]) {
  const { about, cases } = fileWith(name, ChoiceCase)
  describe(`${name}.json: ${about}`, () => {
    for (const given of cases) {
      it(given.name, () =>
        assertFrequencies(frequencies(strategyOf(given), candidatesOf(given.hosts)), given.expect)
      )
    }
  })
}

const matches = fileWith("no-match", MatchCase)
describe(`no-match.json: ${matches.about}`, () => {
  for (const { expect, hosts, name, none, role } of matches.cases) {
    it(name, () => {
      for (const selector of names.map(strategy)) {
        const candidates = candidatesOf(hosts)
        if (expect !== undefined) {
          assertFrequencies(frequencies(selector, candidates, { role, times: 50 }), expect)
        }
        if (none !== undefined) {
          const error = Either.getOrThrow(
            Either.flip(HostSelector.selectWith(candidates, selector, zero, { role }))
          )
          assert.instanceOf(error, Errors.NoMatchingHost)
          assert.strictEqual(error.role, role)
          assert.deepStrictEqual(
            Object.fromEntries(error.excluded.map((_) => [_.host.id, _.reason])),
            none
          )
        }
      }
    })
  }
})

const rotations = fileWith("rotation", RotationCase)
describe(`rotation.json: ${rotations.about}`, () => {
  for (const { name, steps, ...options } of rotations.cases) {
    it.effect(name, () =>
      Effect.gen(function* () {
        const selector = yield* HostSelector.roundRobin(options)
        for (const { expect, hosts } of steps) {
          const candidates = hosts.map((_) => candidate(_))
          const found = expect.map(() => idOf(HostSelector.selectWith(candidates, selector, zero)))
          assert.deepStrictEqual(found, [...expect], `with ${hosts.join(", ")}`)
        }
      })
    )
  }
})

it("every file of the specification is run", () =>
  assert.sameMembers(
    readdirSync(directory),
    ["two-choices", "chance", "best", "no-match", "rotation"].map((_) => `${_}.json`)
  ))

describe("a selection", () => {
  const readers = [candidate("a", { outstanding: 3 }), candidate("b", { outstanding: 6 })]

  it.effect("is an Effect, with the fiber's Random", () =>
    Effect.gen(function* () {
      const choose = (seed: string) =>
        HostSelector.select(readers, HostSelector.random).pipe(
          Effect.replicateEffect(20),
          Effect.map((chosen) => chosen.map((_) => _.host.id)),
          Effect.withRandom(Random.make(seed))
        )
      assert.deepStrictEqual(yield* choose("one"), yield* choose("one"))
      assert.notDeepEqual(yield* choose("one"), yield* choose("two"))
      assert.strictEqual(
        (yield* HostSelector.select(readers, HostSelector.twoChoices())).host.id,
        "a"
      )
    })
  )

  it.effect("by Effect is as fair as one by a chance that is kept", () =>
    Effect.gen(function* () {
      const three = [...readers, candidate("c", { outstanding: 20 })]
      const chosen = yield* HostSelector.select(three, HostSelector.twoChoices()).pipe(
        Effect.replicateEffect(2000),
        Effect.withRandom(Random.make("fair"))
      )
      const part = (id: string) => chosen.filter((_) => _.host.id === id).length / 2000
      assertFrequencies({ a: part("a"), b: part("b"), c: part("c") }, { a: 2 / 3, b: 1 / 3, c: 0 })
    })
  )

  it("gives back the very object, with the caller's own fields", () => {
    const mine = [{ ...candidate("a"), pool: "of a" }]
    const chosen = Either.getOrThrow(HostSelector.selectWith(mine, HostSelector.random, zero))
    expectTypeOf(chosen.pool).toEqualTypeOf<string>()
    assert.strictEqual(chosen, mine[0])
  })

  it("with a function of one's own", () => {
    const last: HostSelector.HostSelector = (candidates) => candidates.at(-1)
    const two = [...readers, candidate("c", { availability: "unavailable" })]
    assert.strictEqual(idOf(HostSelector.selectWith(two, last, zero)), "b")
  })

  it("that one's own function declines is a typed error, which says so", () => {
    const nobody: HostSelector.HostSelector = () => undefined
    const three = [...readers, candidate("c", { availability: "unavailable" })]
    const error = Either.getOrThrow(Either.flip(HostSelector.selectWith(three, nobody, zero)))
    assert.deepStrictEqual(
      error.excluded.map((_) => _.reason),
      ["PassedOver", "PassedOver", "Unavailable"]
    )
    assert.include(error.message, "the selector chose none")
  })

  it.effect("with a function that throws is a defect, not a missing host", () =>
    Effect.gen(function* () {
      const broken: HostSelector.HostSelector = () => {
        throw new Error("a bug")
      }
      const exit = yield* Effect.exit(HostSelector.select(readers, broken))
      assert.isTrue(Exit.isFailure(exit) && Cause.isDie(exit.cause))
    })
  )

  it.effect("without a match is told apart by its tag", () =>
    Effect.gen(function* () {
      const down = [candidate("a", { availability: "unavailable" })]
      const said = yield* HostSelector.select(down, HostSelector.random).pipe(
        Effect.catchTag("NoMatchingHost", (error) => Effect.succeed(error.outcome))
      )
      assert.strictEqual(said, "NotExecuted")
    })
  )

  it("without a match says which hosts there were and why none will do", () => {
    const message = (candidates: ReadonlyArray<Candidate>, role?: "reader" | "writer") =>
      Either.getOrThrow(
        Either.flip(HostSelector.selectWith(candidates, HostSelector.random, zero, { role }))
      ).message
    const writer = candidate("a", { role: "writer" })
    const down = candidate("b", { availability: "unavailable" })
    const unknown = candidate("c", { role: "unknown" })
    assert.strictEqual(
      message([writer, down, unknown], "reader"),
      "no reader can be chosen; there is a (a:5432): it is a writer; b (b:5432): it is unavailable; " +
        "c (c:5432): its role is not known; wait until a host is available again"
    )
    assert.strictEqual(
      message([writer], "reader"),
      "no reader can be chosen; there is a (a:5432): it is a writer; " +
        "ask for another role, or wait until the topology knows a host of this one"
    )
    assert.strictEqual(
      message([]),
      "no host can be chosen; there is no host at all; wait until a host of the cluster has answered"
    )
  })
})

describe("a strategy by name", () => {
  it("is the same in every spelling of text", () => {
    for (const name of ["highestWeight", "HIGHEST_WEIGHT", "highest-weight", " highestweight "]) {
      assert.strictEqual(strategy(name), HostSelector.highestWeight)
    }
  })

  it.effect("that is none is a typed error with all the names", () =>
    Effect.gen(function* () {
      const error = yield* Effect.flip(HostSelector.parse("fastest", { field: "hostSelector" }))
      assert.include(error.message, '`hostSelector` "fastest" is not a strategy')
      for (const name of names) assert.include(error.hint, name)
    })
  )

  it("makes a rotation of its own each time", () =>
    assert.notStrictEqual(strategy("roundRobin"), strategy("roundRobin")))
})

describe("settings that cannot be used are found before the first statement", () => {
  const problemOf = <A>(made: Effect.Effect<A, Errors.ConfigurationError>) =>
    Effect.runSync(Effect.flip(made)).message

  it("weights", () => {
    for (const weight of [-1, 1e-7, 1e7, Number.NaN, Number.POSITIVE_INFINITY]) {
      for (const made of [
        HostSelector.roundRobin({ weights: { a: 1, b: weight } }),
        HostSelector.weightedRandom({ weights: { a: 1, b: weight } })
      ]) {
        assert.include(problemOf(made), `\`weights\` gives b the weight ${weight}`)
      }
    }
    assert.include(problemOf(HostSelector.roundRobin({ weights: { " ": 1 } })), "names no host")
  })

  it("a default weight, which has to be above 0", () => {
    for (const defaultWeight of [0, -1, 1e-7, 1e7, Number.NaN, Number.POSITIVE_INFINITY]) {
      const problem = `\`defaultWeight\` is ${defaultWeight}`
      assert.include(problemOf(HostSelector.roundRobin({ defaultWeight })), problem)
      assert.include(problemOf(HostSelector.weightedRandom({ defaultWeight })), problem)
    }
  })

  it("the weight of lag", () => {
    for (const lagWeight of [-1, Number.NaN, Number.POSITIVE_INFINITY]) {
      const problem = `\`lagWeight\` is ${lagWeight}`
      assert.include(problemOf(HostSelector.lowestLoad({ lagWeight })), problem)
    }
  })
})

/** One client over virtual milliseconds: a statement each `every`, answered after the host's latency. */
interface World {
  readonly now: () => number
  readonly load: (name: string) => Load.Load
  /** Runs for so long and gives back who was chosen. */
  readonly run: (
    millis: number,
    every: number,
    hosts: Readonly<Record<string, { readonly latency: number } & Partial<Candidate>>>
  ) => ReadonlyArray<string>
}

const world = (selector: HostSelector.HostSelector): World => {
  const chance = chanceOf(11)
  const loads = new Map<string, Load.Load>()
  const load = (name: string) => loads.get(name) ?? Load.empty
  let pending: Array<{ readonly name: string; readonly sent: number; readonly due: number }> = []
  let now = 0
  const answer = () => {
    for (const { due, name, sent } of pending.filter((_) => _.due <= now)) {
      loads.set(name, Load.answered(Load.end(load(name)), due - sent, due))
    }
    pending = pending.filter((_) => _.due > now)
  }
  return {
    now: () => now,
    load,
    run: (millis, every, hosts) => {
      const chosen: Array<string> = []
      for (const end = now + millis; now < end; now += every) {
        answer()
        const candidates = Object.entries(hosts).map(([name, { latency: _, ...more }]) =>
          candidate(name, {
            outstanding: load(name).outstanding,
            connections: load(name).outstanding,
            latencyMillis: Load.latencyMillis(load(name), now),
            ...more
          })
        )
        const name = idOf(HostSelector.selectWith(candidates, selector, chance))
        chosen.push(name)
        loads.set(name, Load.begin(load(name)))
        pending.push({ name, sent: now, due: now + (hosts[name]?.latency ?? 0) })
      }
      return chosen
    }
  }
}

const part = (chosen: ReadonlyArray<string>, name: string) =>
  chosen.filter((_) => _ === name).length / chosen.length

describe("under removal, addition and unavailability", () => {
  const known = { latency: 5, lagMillis: 10, cpuPercent: 20 }
  const unknown = { latency: 5, availability: "unknown" } as const

  const assertEven = (chosen: ReadonlyArray<string>, expected: ReadonlyArray<string>) => {
    assert.sameMembers([...new Set(chosen)], [...expected])
    for (const name of expected) {
      // Half of its fair share at least, and once and a half at most.
      const fair = 1 / expected.length
      assert.closeTo(part(chosen, name), fair, fair / 2, `${name} of ${expected.join(", ")}`)
    }
  }

  for (const name of names) {
    it(`${name}: equal hosts share evenly, whoever they are at the time`, () => {
      const { run } = world(strategy(name))
      assertEven(run(1000, 1, { a: known, b: known, c: known }), ["a", "b", "c"])
      assertEven(run(1000, 1, { a: known, c: known }), ["a", "c"])
      assertEven(run(1000, 1, { d: known, c: known, a: known }), ["a", "c", "d"])
      const down = { ...known, availability: "unavailable" } as const
      assertEven(run(1000, 1, { a: down, c: known, d: known }), ["c", "d"])
      assertEven(run(1000, 1, { a: known, c: known, d: known }), ["a", "c", "d"])
      assertEven(run(1000, 1, { x: known, y: known }), ["x", "y"])
      assertEven(run(1000, 1, { y: known }), ["y"])
    })

    it(`${name}: a new host, of which nothing is known, is neither starved nor flooded`, () => {
      const { run } = world(strategy(name))
      run(1000, 1, { a: known, b: known, c: known })
      const hosts = { a: known, b: known, c: known, new: unknown }
      const soon = run(100, 1, hosts)
      assert.isAtLeast(part(soon, "new"), 1 / 16)
      assert.isAtMost(part(soon, "new"), 1 / 2)
      assertEven(run(1000, 1, { ...hosts, new: known }), ["a", "b", "c", "new"])
    })
  }
})

describe("unequal hosts under removal, addition and unavailability", () => {
  /** By rank, 1 the most preferred: by every figure that a strategy looks at. */
  const ranked = (name: string, rank: number, more: Partial<Candidate> = {}) =>
    candidate(name, {
      weight: 8 / 2 ** rank,
      lagMillis: rank,
      cpuPercent: rank,
      latencyMillis: rank,
      connections: rank,
      outstanding: rank,
      ...more
    })

  type Shares = (ranks: ReadonlyArray<number>) => ReadonlyArray<number>

  const bestAlone: Shares = (ranks) => ranks.map((_) => (_ === Math.min(...ranks) ? 1 : 0))
  const alike: Shares = (ranks) => ranks.map(() => 1 / ranks.length)
  const byWeight: Shares = (ranks) => {
    const weights = ranks.map((rank) => 2 ** -rank)
    const total = weights.reduce((sum, weight) => sum + weight, 0)
    return weights.map((weight) => weight / total)
  }
  /** Of all pairs, those in which it is the lesser one. */
  const lesserOfTwo: Shares = (ranks) =>
    ranks.map((rank) =>
      ranks.length === 1
        ? 1
        : ranks.filter((_) => _ > rank).length / ((ranks.length * (ranks.length - 1)) / 2)
    )

  const shares: Readonly<Record<Name, Shares>> = {
    twoChoices: lesserOfTwo,
    random: alike,
    roundRobin: byWeight,
    weightedRandom: byWeight,
    highestWeight: bestAlone,
    lowestLoad: bestAlone,
    leastConnections: bestAlone,
    fastestResponse: bestAlone
  }

  for (const name of names) {
    it(`${name}: whoever may be used has the share that it is due among those who may be`, () => {
      const selector = strategy(name)
      const assertShares = (
        usable: Readonly<Record<string, number>>,
        others: ReadonlyArray<Candidate> = []
      ) => {
        const due = shares[name](Object.values(usable))
        assertFrequencies(
          frequencies(
            selector,
            [...others, ...Object.entries(usable).map(([host, rank]) => ranked(host, rank))],
            { role: "reader" }
          ),
          Object.fromEntries([
            ...others.map((_) => [_.host.id, 0]),
            ...Object.keys(usable).map((host, i) => [host, due[i] ?? Number.NaN])
          ])
        )
      }
      assertShares({ a: 2, b: 3, c: 4 })
      assertShares({ b: 3, c: 4 }, [ranked("a", 2, { availability: "unavailable" })])
      assertShares({ a: 2, b: 3, c: 4 })
      // Promoted: it is no reader any more.
      assertShares({ b: 3, c: 4 }, [ranked("a", 2, { role: "writer" })])
      assertShares({ c: 4 })
      assertShares({ c: 4, better: 1, b: 3 })
      assertShares({ x: 1, y: 2 })
    })
  }
})

describe("a host without a latency", () => {
  const near = { latency: 5 }

  it("fastestResponse: has one statement until it answers, and none when it proves slow", () => {
    const { load, run } = world(HostSelector.fastestResponse)
    run(1000, 1, { a: near, b: near })
    const hosts = { a: near, b: near, far: { latency: 200 } }
    const first = run(150, 1, hosts)
    assert.strictEqual(first.filter((_) => _ === "far").length, 1)
    assert.strictEqual(load("far").outstanding, 1)
    assert.strictEqual(part(run(1000, 1, hosts).slice(200), "far"), 0)
  })

  it("twoChoices: has no more outstanding than the others until it answers", () => {
    const { load, run } = world(HostSelector.twoChoices())
    const wide = { latency: 20 }
    run(1000, 1, { a: wide, b: wide })
    const hosts = { a: wide, b: wide, far: { latency: 200 } }
    let most = 0
    for (let i = 0; i < 150; i++) {
      const [chosen] = run(1, 1, hosts)
      if (chosen !== "far") continue
      // What it had before it was chosen.
      most = load("far").outstanding - 1
      assert.isAtMost(most, Math.max(load("a").outstanding, load("b").outstanding))
    }
    assert.isAbove(most, 0)
    assert.strictEqual(part(run(1000, 1, hosts).slice(500), "far"), 0)
  })

  it("that was slow once is tried again, when its latency is forgotten", () => {
    for (const name of ["twoChoices", "fastestResponse"] as const) {
      const { run } = world(strategy(name))
      run(2000, 10, { a: { latency: 3 }, b: { latency: 500 } })
      const mended = { a: { latency: 3 }, b: { latency: 2 } }
      assert.strictEqual(part(run(Load.FORGET_MILLIS - 2000, 10, mended).slice(100), "b"), 0, name)
      run(2000, 10, mended)
      assert.isAbove(part(run(1000, 10, mended), "b"), 0.4, name)
    }
  })

  it("that fails at once, and so never has one, does not take every statement", () => {
    const failing = [candidate("a", { latencyMillis: 5, outstanding: 1 }), candidate("broken")]
    assertFrequencies(frequencies(HostSelector.fastestResponse, failing), { a: 0.5, broken: 0.5 })
  })
})

it("twoChoices gives less to a host that answers more slowly within the window", () => {
  const { run } = world(HostSelector.twoChoices())
  const chosen = run(5000, 0.5, { a: { latency: 2 }, b: { latency: 2 }, slow: { latency: 14 } })
  assert.isBelow(part(chosen, "slow"), 0.2)
  assert.isAbove(part(chosen, "slow"), 0.02)
})

const millis = fc.option(fc.double({ min: -1, max: 100, noNaN: false }), { nil: undefined })

const anyCandidate = fc.record({
  name: fc.constantFrom("a", "b", "c", "d", "e", "f"),
  role: fc.constantFrom<Host.Role>("writer", "reader", "unknown"),
  availability: fc.constantFrom<Host.Availability>("available", "unavailable", "unknown"),
  weight: fc.option(fc.double({ min: -1, max: 10, noNaN: false }), { nil: undefined }),
  lagMillis: millis,
  cpuPercent: millis,
  latencyMillis: millis,
  outstanding: fc.nat(20),
  connections: fc.nat(20)
})

const anyCandidates = fc
  .uniqueArray(anyCandidate, { selector: (_) => _.name, maxLength: 6 })
  .map((all) => all.map(({ name, ...more }) => candidate(name, more)))

/** What `Random` says, its bounds included. */
const anyChance = fc
  .infiniteStream(fc.oneof(fc.constantFrom(0, 1), fc.double({ min: 0, max: 1, noNaN: true })))
  .map((stream) => (): number => stream.next().value ?? 0)

const anyRole = fc.constantFrom<"writer" | "reader" | undefined>("writer", "reader", undefined)

describe("whatever the candidates and whatever chance says", () => {
  for (const name of names) {
    it.prop(
      `${name}: takes a host that may be used, or says of every host why not`,
      [fc.array(anyCandidates, { maxLength: 5 }), anyChance, anyRole],
      ([lists, chance, role]) => {
        const selector = strategy(name)
        for (const candidates of lists) {
          const may = candidates.filter(
            (_) => _.availability !== "unavailable" && (role === undefined || _.role === role)
          )
          const result = HostSelector.selectWith(candidates, selector, chance, { role })
          if (Either.isRight(result)) {
            assert.include(may, result.right)
          } else {
            assert.deepStrictEqual(may, [])
            assert.deepStrictEqual(
              result.left.excluded.map((_) => _.host),
              candidates.map((_) => _.host)
            )
          }
        }
      }
    )
  }

  /** Every chance that there is, in steps: what is counted are the shares themselves, and not a sample of them. */
  const sharesOf = (
    selector: HostSelector.HostSelector,
    candidates: ReadonlyArray<Candidate>,
    draws: ReadonlyArray<ReadonlyArray<number>>
  ) => {
    const counts = new Map(candidates.map((_) => [_, 0]))
    for (const draw of draws) {
      const said = draw.values()
      const chosen = Either.getOrThrow(
        HostSelector.selectWith(candidates, selector, () => said.next().value ?? Number.NaN)
      )
      counts.set(chosen, (counts.get(chosen) ?? 0) + 1)
    }
    return candidates.map((_) => (counts.get(_) ?? 0) / draws.length)
  }

  const steps = (count: number) => Array.from({ length: count }, (_, i) => (i + 0.5) / count)

  const someHosts = <A>(figures: ReadonlyArray<A>, more: (figure: A) => Partial<Candidate>) =>
    figures.map((figure, i) => candidate(`db-${i}`, more(figure)))

  it.prop(
    "random, weightedRandom: the shares are the weights, whatever they are",
    [fc.array(fc.double({ min: 0.01, max: 100, noNaN: true }), { minLength: 1, maxLength: 6 })],
    ([weights]) => {
      const candidates = someHosts(weights, (weight) => ({ weight }))
      const draws = steps(500).map((_) => [_])
      const total = weights.reduce((sum, weight) => sum + weight, 0)
      sharesOf(strategy("weightedRandom"), candidates, draws).forEach((share, i) =>
        assert.closeTo(share, (weights[i] ?? Number.NaN) / total, 1 / draws.length + 1e-9)
      )
      for (const share of sharesOf(HostSelector.random, candidates, draws)) {
        assert.closeTo(share, 1 / weights.length, 1 / draws.length + 1e-9)
      }
    }
  )

  it.prop(
    "twoChoices: each has the part of all pairs in which it is the lesser one, wherever it stands on the list",
    [fc.uniqueArray(fc.nat(50), { minLength: 2, maxLength: 6 })],
    ([counts]) => {
      const candidates = someHosts(counts, (outstanding) => ({ outstanding }))
      const draws = steps(counts.length).flatMap((first) =>
        steps(counts.length - 1).map((second) => [first, second])
      )
      const pairs = (counts.length * (counts.length - 1)) / 2
      sharesOf(HostSelector.twoChoices(), candidates, draws).forEach((share, i) => {
        const fuller = counts.filter((_) => _ > (counts[i] ?? Number.NaN)).length
        assert.closeTo(share, fuller / pairs, 1e-9)
      })
    }
  )

  it("weightedRandom: weight 0 gets nothing, also where chance says 0 or 1", () => {
    const hosts = ["y", "a", "b", "z"].map((_, i) =>
      candidate(_, { weight: i % 3 === 0 ? 0 : 0.1 })
    )
    const choose = (said: number) =>
      idOf(HostSelector.selectWith(hosts, strategy("weightedRandom"), () => said))
    assert.deepStrictEqual([0, 1].map(choose), ["a", "b"])
  })

  const best: ReadonlyArray<readonly [Name, (candidate: Candidate) => number]> = [
    ["highestWeight", (_) => -(_.weight ?? 1)],
    ["leastConnections", (_) => _.connections],
    ["lowestLoad", (_) => (_.cpuPercent ?? 0) + (_.lagMillis ?? 0)],
    ["fastestResponse", (_) => _.latencyMillis ?? 0]
  ]
  const figure = fc.nat(5)
  const measured = fc
    .array(
      fc.record({
        weight: figure,
        lagMillis: figure,
        cpuPercent: figure,
        latencyMillis: figure,
        connections: figure
      }),
      { minLength: 1, maxLength: 6 }
    )
    .map((all) => all.map((more, i) => candidate(`db-${i}`, more)))

  for (const [name, figureOf] of best) {
    it.prop(`${name}: no other host is better`, [measured, anyChance], ([candidates, chance]) => {
      const chosen = Either.getOrThrow(HostSelector.selectWith(candidates, strategy(name), chance))
      assert.strictEqual(figureOf(chosen), Math.min(...candidates.map(figureOf)))
    })
  }

  it.prop(
    "twoChoices: never the fullest of several, never outside the window",
    [
      fc.uniqueArray(fc.nat(50), { minLength: 2, maxLength: 8 }),
      fc.array(fc.nat(40), { minLength: 8, maxLength: 8 }),
      anyChance
    ],
    ([counts, latencies, chance]) => {
      const candidates = counts.map((outstanding, i) =>
        candidate(`db-${i}`, { outstanding, latencyMillis: latencies[i] })
      )
      const limit = Math.min(...candidates.map((_) => _.latencyMillis ?? 0)) + 15
      const window = candidates.filter((_) => (_.latencyMillis ?? 0) <= limit)
      const chosen = Either.getOrThrow(
        HostSelector.selectWith(candidates, HostSelector.twoChoices(), chance)
      )
      assert.include(window, chosen)
      const fullest = Math.max(...window.map((_) => _.outstanding))
      assert.isTrue(window.length === 1 || chosen.outstanding < fullest)
    }
  )
})

describe("a rotation", () => {
  const weight = fc.constantFrom(0.5, 1, 2, 3, 5)
  const weights = fc.record({ a: weight, b: weight, c: weight, d: weight, e: weight })
  const state = fc.constantFrom<"away" | "unavailable" | "available">(
    "away",
    "unavailable",
    "available"
  )
  /** How each of c, d and e is at a pick; a and b are always there. */
  const presence = fc.array(fc.tuple(state, state, state), { minLength: 1, maxLength: 200 })

  const candidatesAt = (states: ReadonlyArray<"away" | "unavailable" | "available">) =>
    ["a", "b", "c", "d", "e"].flatMap((name, i) => {
      const availability = i < 2 ? "available" : (states[i - 2] ?? "away")
      return availability === "away" ? [] : [candidate(name, { availability })]
    })

  it.prop(
    "is fair to within one turn of each between hosts that stay, whoever joins, leaves, fails and returns",
    [weights, presence, anyChance],
    ([weights, presence, chance]) => {
      const selector = Effect.runSync(HostSelector.roundRobin({ weights }))
      const picks: Array<string> = []
      for (const states of presence) {
        picks.push(idOf(HostSelector.selectWith(candidatesAt(states), selector, chance)))
        const turns = (name: "a" | "b") => picks.filter((_) => _ === name).length / weights[name]
        assert.isAtMost(
          Math.abs(turns("a") - turns("b")),
          1 / weights.a + 1 / weights.b + 1e-9,
          picks.join(" ")
        )
      }
    }
  )

  it.prop(
    "does not depend on the order of the list",
    [presence, fc.array(fc.nat(4), { minLength: 1, maxLength: 20 })],
    ([presence, turns]) => {
      const one = Effect.runSync(HostSelector.roundRobin())
      const other = Effect.runSync(HostSelector.roundRobin())
      presence.forEach((states, i) => {
        const list = candidatesAt(states)
        const turn = (turns[i % turns.length] ?? 0) % list.length
        const turned = [...list.slice(turn), ...list.slice(0, turn)].reverse()
        const choose = (selector: HostSelector.HostSelector, list: ReadonlyArray<Candidate>) =>
          idOf(HostSelector.selectWith(list, selector, zero))
        assert.strictEqual(choose(one, list), choose(other, turned))
      })
    }
  )

  it("knows a host again by its address, whatever object and name it comes with", () => {
    const selector = strategy("roundRobin")
    const choose = (id: string) =>
      Either.getOrThrow(
        HostSelector.selectWith(
          ["a", "b"].map((host) => ({
            ...candidate(host),
            host: Host.make({ host, port: 5432, id: `${id}-${host}` })
          })),
          selector,
          zero
        )
      ).host.host
    assert.deepStrictEqual(["x", "y", "z", "x"].map(choose), ["a", "b", "a", "b"])
  })

  it("gives a host that joins its first turn within one round, not at once in every client", () => {
    const turns = Array.from({ length: 200 }, (_, seed) => {
      const selector = strategy("roundRobin")
      const chance = chanceOf(seed)
      const choose = (list: ReadonlyArray<string>) =>
        idOf(
          HostSelector.selectWith(
            list.map((_) => candidate(_)),
            selector,
            chance
          )
        )
      for (let i = 0; i < 10; i++) choose(["a", "b", "c"])
      return [1, 2, 3, 4].findIndex(() => choose(["a", "b", "c", "new"]) === "new")
    })
    // Three others: the first, second or third turn, and none of these for all clients.
    assert.sameMembers([...new Set(turns)], [0, 1, 2])
    for (const turn of [0, 1, 2]) {
      assert.isAbove(turns.filter((_) => _ === turn).length / 200, 0.15, `turn ${turn}`)
    }
  })

  it("uses a weight that has grown at once", () => {
    const selector = strategy("roundRobin")
    const choose = (weight: number) =>
      idOf(HostSelector.selectWith([candidate("a", { weight }), candidate("b")], selector, zero))
    assert.deepStrictEqual([0.001, 0.001, 0.001].map(choose), ["a", "b", "b"])
    assert.include([1, 1].map(choose), "a")
  })

  it("forgets hosts that left within one round", () => {
    const rotation = new Rotation(Either.getOrThrow(Weights.make({})))
    const chance = chanceOf(3)
    for (let generation = 0; generation < 1000; generation++) {
      const list = [0, 1, 2, 3].map((_) =>
        candidate(`${generation}-${_}`, { weight: Math.min(_, 1) })
      )
      for (let i = 0; i < 4; i++) HostSelector.selectWith(list, rotation.select, chance)
      // Its own three, and of earlier ones at most those whose turn has not passed yet.
      assert.isAtMost(rotation.size, 9)
    }
    // One that left makes no more hosts than there are on the list: it is forgotten all the same.
    const list = (...names: ReadonlyArray<string>) => [
      ...names.map((_) => candidate(_)),
      candidate("idle", { weight: 0 })
    ]
    for (let i = 0; i < 4; i++) HostSelector.selectWith(list("a", "b"), rotation.select, chance)
    for (let i = 0; i < 3; i++) HostSelector.selectWith(list("a"), rotation.select, chance)
    assert.strictEqual(rotation.size, 1)
  })
})

describe("the load of a host", () => {
  const after = (...answers: ReadonlyArray<readonly [millis: number, at: number]>) =>
    answers.reduce((load, [millis, at]) => Load.answered(load, millis, at), Load.empty)

  it("counts what is outstanding, and never below nothing", () => {
    const two = Load.begin(Load.begin(Load.empty))
    assert.strictEqual(two.outstanding, 2)
    assert.strictEqual(Load.end(two).outstanding, 1)
    assert.strictEqual(Load.end(Load.end(Load.end(two))).outstanding, 0)
    assert.strictEqual(Load.latencyMillis(Load.end(two), 0), undefined)
  })

  it("believes a slower answer at once", () =>
    assert.strictEqual(Load.latencyMillis(after([5, 0], [80, 1]), 1), 80))

  it("believes a faster one as time goes by", () => {
    assert.strictEqual(Load.latencyMillis(after([80, 0], [5, 0]), 0), 80)
    const average = Load.latencyMillis(after([80, 0], [5, Load.DECAY_MILLIS]), Load.DECAY_MILLIS)
    assert.closeTo(average ?? Number.NaN, 5 + 75 / Math.E, 1e-9)
  })

  it("comes to the same however many answers the time held", () => {
    const answers = (count: number) =>
      Array.from({ length: count }, (_, i) => [5, ((i + 1) * 5000) / count] as const)
    const few = Load.latencyMillis(after([80, 0], ...answers(1)), 5000)
    const many = Load.latencyMillis(after([80, 0], ...answers(1000)), 5000)
    assert.closeTo(few ?? Number.NaN, many ?? 0, 1e-9)
  })

  it("is forgotten when no answer came for long", () => {
    const load = after([80, 1000])
    assert.strictEqual(Load.latencyMillis(load, 1000 + Load.FORGET_MILLIS), 80)
    assert.strictEqual(Load.latencyMillis(load, 1001 + Load.FORGET_MILLIS), undefined)
    const again = Load.answered(load, 2, 1001 + Load.FORGET_MILLIS)
    assert.strictEqual(Load.latencyMillis(again, 1001 + Load.FORGET_MILLIS), 2)
  })

  it("is not disturbed by a clock that was set back", () => {
    assert.deepStrictEqual(after([5, 0], [-3, 10]), after([5, 0]))
    assert.deepStrictEqual(after([5, 0], [Number.NaN, 10]), after([5, 0]))
    assert.strictEqual(Load.latencyMillis(after([5, 1000], [3, 500]), 500), 5)
  })

  it.prop(
    "lies between the fastest and the slowest answer",
    [
      fc.array(fc.tuple(fc.double({ min: 0, max: 1e6, noNaN: true }), fc.nat(60_000)), {
        minLength: 1
      })
    ],
    ([answers]) => {
      const average = after(...answers).averageMillis ?? Number.NaN
      const all = answers.map(([millis]) => millis)
      assert.isAtLeast(average, Math.min(...all) * (1 - 1e-9))
      assert.isAtMost(average, Math.max(...all))
    }
  )
})
