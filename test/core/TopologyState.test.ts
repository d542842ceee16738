import { assert, describe, it } from "@effect/vitest"
import { Duration, FastCheck as fc, Predicate, Schema } from "effect"
import { Errors, Host, TopologyState } from "effect-failover"
import { readdirSync, readFileSync } from "node:fs"
import { fileURLToPath } from "node:url"

const { Event } = TopologyState
const SPEC = fileURLToPath(new URL("../spec/topology/", import.meta.url))

/** A short name, and a port where it is not 5432. */
const host = (address: string) => {
  const [name = address, port = "5432"] = address.split(":")
  return Host.make({ id: address, host: name, port: Number(port) })
}

/** The short name again. */
const nameOf = ({ host, port }: Host.Host) => (port === 5432 ? host : `${host}:${port}`)

const rejection = (name: string, reason: Errors.RejectionReason) =>
  new Errors.ConnectionRejected({
    reason,
    field: "password",
    host: host(name),
    sqlState: "28P01",
    hint: "",
    cause: undefined
  })

// The format of test/spec/README.md.

const Reason = Schema.Literal("Credentials", "Database", "Privilege", "Tls", "Protocol")
const Said = Schema.Literal("writer", "reader")
const table = <A, I>(value: Schema.Schema<A, I>) =>
  Schema.optional(Schema.Record({ key: Schema.String, value }))
const nullable = <A, I>(value: Schema.Schema<A, I>) => Schema.optional(Schema.NullOr(value))

const SpecEvent = Schema.Union(
  Schema.Struct({ needed: Schema.Literal(true) }),
  Schema.Struct({ lost: Schema.Number }),
  Schema.Struct({
    says: Schema.String,
    as: Said,
    via: Schema.optional(Schema.String),
    epoch: Schema.optional(Schema.Number),
    start: Schema.optional(Schema.String),
    members: table(Schema.Union(Said, Schema.Tuple(Said, Schema.Number))),
    partial: Schema.optional(Schema.Literal(true)),
    asOf: Schema.optional(Schema.Number)
  }),
  Schema.Struct({
    fails: Schema.String,
    error: Schema.optional(Schema.String),
    rejected: Schema.optional(Reason)
  })
)

const Expected = Schema.Struct({
  phase: Schema.optional(Schema.Literal("Idle", "Searching", "Calm")),
  confirmed: nullable(Schema.String),
  writer: nullable(Schema.String),
  verified: nullable(Schema.Boolean),
  probed: Schema.optional(Schema.String),
  epoch: Schema.optional(Schema.Number),
  serverEpoch: nullable(Schema.Number),
  hosts: table(Schema.String),
  knows: table(Schema.String),
  lag: table(Schema.Number),
  failures: table(Schema.Number),
  lastError: table(Schema.NullOr(Schema.String)),
  claim: nullable(Schema.String),
  agreement: nullable(Schema.String),
  targets: Schema.optional(Schema.Array(Schema.String)),
  rejection: nullable(Reason),
  highRateUntil: Schema.optional(Schema.Number),
  unchanged: Schema.optional(Schema.Literal(true))
})

const SpecFile = Schema.Struct({
  about: Schema.String,
  cases: Schema.Array(
    Schema.Struct({
      name: Schema.String,
      seeds: Schema.Array(Schema.String),
      settings: Schema.optional(
        Schema.Struct({
          reelectionGrace: Schema.optional(Schema.Number),
          highRatePeriod: Schema.optional(Schema.Number),
          stableAgreement: Schema.optional(Schema.Number)
        })
      ),
      steps: Schema.Array(Schema.Struct({ at: Schema.Number, event: SpecEvent, expect: Expected }))
    })
  )
})

const eventOf = (event: typeof SpecEvent.Type): TopologyState.Event => {
  if ("needed" in event) return Event.Needed()
  if ("lost" in event) return Event.WriterLost({ epoch: event.lost })
  if ("fails" in event) {
    return Event.ProbeFailed({
      probed: host(event.fails),
      error: event.error ?? "ECONNREFUSED",
      rejection: event.rejected && rejection(event.fails, event.rejected)
    })
  }
  return Event.Observed({
    observation: {
      probed: host(event.via ?? event.says),
      host: host(event.says),
      role: event.as,
      serverEpoch: event.epoch === undefined ? undefined : BigInt(event.epoch),
      incarnation: event.start,
      members:
        event.members &&
        Object.entries(event.members).map(([name, member]) =>
          typeof member === "string"
            ? { host: host(name), role: member }
            : { host: host(name), role: member[0], lagMillis: member[1] }
        ),
      isWhole: event.partial === undefined,
      asOf: event.asOf
    }
  })
}

/** Everything that an expectation can name, of those that this one names. */
const outline = (
  state: TopologyState.TopologyState,
  before: TopologyState.TopologyState,
  expected: typeof Expected.Type
): unknown => {
  const { phase } = state
  const search = phase._tag === "Searching" ? phase : undefined
  const name = (found: { readonly host: Host.Host } | undefined) =>
    found === undefined ? null : nameOf(found.host)
  const of = <A>(hosts: Readonly<Record<string, unknown>>, f: (_: TopologyState.HostState) => A) =>
    Object.fromEntries(
      state.hosts.flatMap((_) => (nameOf(_.host) in hosts ? [[nameOf(_.host), f(_)]] : []))
    )
  const shown = (_: TopologyState.HostState) => `${_.role} ${_.availability}`
  const all = {
    phase: phase._tag,
    confirmed: name(TopologyState.confirmedWriter(state)),
    writer: name(state.writer),
    verified: state.writer?.isVerified ?? null,
    probed: state.writer && nameOf(state.writer.probed),
    epoch: state.epoch,
    serverEpoch: state.serverEpoch === undefined ? null : Number(state.serverEpoch),
    hosts: Object.fromEntries(state.hosts.map((_) => [nameOf(_.host), shown(_)])),
    knows: of(expected.knows ?? {}, shown),
    lag: of(expected.lag ?? {}, (_) => _.lagMillis),
    failures: of(expected.failures ?? {}, (_) => _.failures),
    lastError: of(expected.lastError ?? {}, (_) => _.lastError ?? null),
    claim: name(search?.claim),
    agreement: search?.agreement === undefined ? null : nameOf(search.agreement.writer),
    targets: TopologyState.targets(state).map(nameOf),
    rejection:
      phase._tag === "Idle" && phase.rejection?._tag === "ConnectionRejected"
        ? phase.rejection.reason
        : null,
    highRateUntil: phase._tag === "Calm" ? phase.highRateUntil : null,
    unchanged: state === before
  }
  return Object.fromEntries(Object.entries(all).filter(([field]) => field in expected))
}

for (const file of readdirSync(SPEC)) {
  const { about, cases } = Schema.decodeUnknownSync(SpecFile, { onExcessProperty: "error" })(
    JSON.parse(readFileSync(SPEC + file, "utf8"))
  )
  describe(`${file}: ${about}`, () => {
    for (const { name, seeds, settings, steps } of cases) {
      it(name, () => {
        let state = TopologyState.initial({ clusterId: "spec", seeds: seeds.map(host) })
        for (const [i, { at, event, expect }] of steps.entries()) {
          const before = state
          state = TopologyState.reduce(before, eventOf(event), at, {
            reelectionGrace: Duration.millis(settings?.reelectionGrace ?? 1000),
            highRatePeriod: Duration.millis(settings?.highRatePeriod ?? 30_000),
            stableAgreement: Duration.millis(settings?.stableAgreement ?? 15_000)
          })
          const step = `step ${i + 1}, ${JSON.stringify(event)}`
          assert.deepStrictEqual(outline(state, before, expect), expect, step)
        }
      })
    }
  })
}

// Whatever happens, in whatever order.

const names = ["a", "b", "c", "cluster"] as const
const anyHost = fc.constantFrom(...names).map(host)
const anyInstance = fc.constantFrom("a", "b", "c").map(host)
const anyRole = fc.constantFrom("writer" as const, "reader" as const)
const maybe = <A>(arbitrary: fc.Arbitrary<A>) => fc.option(arbitrary, { nil: undefined })

const anyObservation: fc.Arbitrary<TopologyState.Observation> = fc.record({
  probed: anyHost,
  host: anyInstance,
  role: anyRole,
  serverEpoch: maybe(fc.bigInt(1n, 4n)),
  incarnation: maybe(fc.constantFrom("x", "y")),
  members: maybe(
    fc.uniqueArray(fc.record({ host: anyInstance, role: anyRole }), {
      selector: (_) => _.host.host,
      maxLength: 3
    })
  ),
  isWhole: maybe(fc.boolean()),
  // Within the margin of the first, and beyond it.
  asOf: maybe(fc.constantFrom(100_000, 100_900, 102_000))
})

const anyEvent: fc.Arbitrary<TopologyState.Event> = fc.oneof(
  { arbitrary: fc.constant(Event.Needed()), weight: 2 },
  {
    arbitrary: fc.integer({ min: 0, max: 4 }).map((epoch) => Event.WriterLost({ epoch })),
    weight: 2
  },
  {
    arbitrary: anyObservation.map((observation) => Event.Observed({ observation })),
    weight: 8
  },
  {
    arbitrary: fc.tuple(anyHost, fc.boolean()).map(([probed, isRejected]) =>
      Event.ProbeFailed({
        probed,
        error: "down",
        rejection: isRejected ? rejection(probed.host, "Credentials") : undefined
      })
    ),
    weight: 3
  }
)

/** What leads to an agreement: readers that name `a`, which is silent; and what may break it. */
const word: fc.Arbitrary<TopologyState.Event> = fc.oneof(
  {
    arbitrary: fc.constantFrom("b", "c").map((name) =>
      Event.Observed({
        observation: {
          probed: host(name),
          host: host(name),
          role: "reader",
          members: ["a", "b", "c"].map((_) => ({
            host: host(_),
            role: _ === "a" ? "writer" : "reader"
          }))
        }
      })
    ),
    weight: 8
  },
  {
    arbitrary: fc.constant(
      Event.ProbeFailed({ probed: host("a"), error: "down", rejection: undefined })
    ),
    weight: 4
  },
  { arbitrary: anyEvent, weight: 2 }
)

const eventsOf = (event: fc.Arbitrary<TopologyState.Event>) =>
  fc.array(fc.tuple(fc.nat(400), event), { minLength: 1, maxLength: 40, size: "max" })

const seedsOf = (...among: ReadonlyArray<string>) =>
  fc.uniqueArray(fc.constantFrom(...among), { minLength: 1 })

const histories = fc.oneof(
  fc.tuple(seedsOf(...names), eventsOf(anyEvent)),
  fc.tuple(seedsOf("a", "b", "c"), eventsOf(word))
)

/** The times are short enough to pass within a history. */
const quick: TopologyState.Settings = {
  reelectionGrace: Duration.millis(1000),
  highRatePeriod: Duration.seconds(30),
  stableAgreement: Duration.millis(600)
}

interface Step {
  readonly before: TopologyState.TopologyState
  readonly event: TopologyState.Event
  readonly now: number
  readonly after: TopologyState.TopologyState
}

const run = ([seeds, events]: typeof histories extends fc.Arbitrary<infer A> ? A : never) => {
  let state = TopologyState.initial({ clusterId: "spec", seeds: seeds.map(host) })
  let now = 0
  return events.map(([delay, event]): Step => {
    const before = state
    now += delay
    state = TopologyState.reduce(before, event, now, quick)
    return { before, event, now, after: state }
  })
}

/** What must hold of every history of events, each with its delay. */
const always = (name: string, holds: (history: ReadonlyArray<Step>) => void) =>
  it(name, () =>
    fc.assert(
      fc.property(histories, (history) => holds(run(history))),
      { numRuns: 1000 }
    )
  )

/** The claim that this step is about. */
const claimOf = (event: TopologyState.Event) =>
  event._tag === "Observed" && event.observation.role === "writer" ? event.observation : undefined

const isOnReadersWord = ({ phase, writer }: TopologyState.TopologyState) =>
  phase._tag === "Calm" && writer?.isVerified === false

const addresses = (state: TopologyState.TopologyState) => state.hosts.map((_) => _.host.host)

describe("in every history", () => {
  always("the epoch never decreases, and grows by one at most", (history) => {
    for (const { after, before } of history) {
      assert.include([before.epoch, before.epoch + 1], after.epoch)
    }
  })

  always("the server's epoch never decreases", (history) => {
    for (const { after, before } of history) {
      if (before.serverEpoch === undefined) continue
      assert.isTrue(after.serverEpoch !== undefined && after.serverEpoch >= before.serverEpoch)
    }
  })

  always("no writer is confirmed with an older epoch than one that a writer claimed", (history) => {
    let newest = 0n
    for (const { after, event } of history) {
      const claimed = claimOf(event)?.serverEpoch
      if (claimed !== undefined && claimed > newest) newest = claimed
      const epoch = TopologyState.confirmedWriter(after)?.serverEpoch
      if (epoch !== undefined) assert.isTrue(epoch >= newest, `${epoch} after ${newest}`)
    }
  })

  always("calm has a writer, who is a member and the only one with that role", (history) => {
    for (const { after } of history) {
      if (after.phase._tag !== "Calm") continue
      const writers = after.hosts.filter((_) => _.role === "writer").map((_) => _.host.host)
      assert.deepStrictEqual(writers, [after.writer?.host.host])
    }
  })

  always("no host is listed twice", (history) => {
    for (const { after } of history) {
      assert.strictEqual(new Set(addresses(after)).size, after.hosts.length)
    }
  })

  always("a change of the writer is a change of the epoch", (history) => {
    for (const { after, before } of history) {
      if (after.writer?.host.host !== before.writer?.host.host) {
        assert.strictEqual(after.epoch, before.epoch + 1)
        assert.strictEqual(after.writer?.epoch, after.epoch)
      }
    }
  })

  const arrows: Record<string, ReadonlyArray<TopologyState.Event["_tag"]>> = {
    "Idle > Searching": ["Needed"],
    "Searching > Calm": ["Observed", "ProbeFailed"],
    "Searching > Idle": ["ProbeFailed"],
    "Calm > Searching": ["WriterLost", "Observed"]
  }
  const arrow = ({ after, before }: Step) =>
    before.phase._tag === after.phase._tag
      ? undefined
      : `${before.phase._tag} > ${after.phase._tag}`

  always("the phase changes along the documented arrows only", (history) => {
    for (const step of history) {
      const taken = arrow(step)
      if (taken !== undefined) assert.include(arrows[taken] ?? [], step.event._tag, taken)
    }
  })

  it("the histories are rich: they take every arrow, and their readers agree", () => {
    const seen = new Set<string>()
    for (const history of fc.sample(histories, { seed: 1, numRuns: 1000 })) {
      for (const step of run(history)) {
        const { after, before } = step
        const isAgreed = isOnReadersWord(after)
        seen.add(arrow(step) ?? "")
        if (before.phase._tag === "Searching" && isAgreed) seen.add("agreed")
        if (isOnReadersWord(before) && after.phase._tag === "Calm" && !isAgreed) {
          seen.add("verified")
        }
      }
    }
    assert.includeMembers([...seen], [...Object.keys(arrows), "agreed", "verified"])
  })

  always("an outdated claim makes nobody the writer", (history) => {
    for (const { after, before, event } of history) {
      const claim = claimOf(event)
      if (claim === undefined || after.writer === before.writer) continue
      const { asOf, serverEpoch } = claim
      const isConfirmed =
        before.phase._tag === "Calm" &&
        before.writer?.isVerified === true &&
        Host.isSame(before.writer.host, claim.host)
      // The confirmed writer's clock may have been set; its epoch may not go back.
      const isOutdated =
        serverEpoch === undefined
          ? !isConfirmed &&
            asOf !== undefined &&
            before.asOf !== undefined &&
            asOf < before.asOf - 1000
          : before.serverEpoch !== undefined && serverEpoch < before.serverEpoch
      const isClaimants = after.writer?.isVerified && Host.isSame(after.writer.host, claim.host)
      assert.isFalse(isOutdated && isClaimants)
    }
  })

  always("the age of the newest claim never decreases", (history) => {
    for (const { after, before } of history) {
      if (before.asOf !== undefined) assert.isAtLeast(after.asOf ?? 0, before.asOf)
    }
  })

  always("while a claim stands, readers agree on nobody and end no search", (history) => {
    for (const { after, before } of history) {
      if (after.phase._tag === "Searching" && after.phase.claim !== undefined) {
        assert.isUndefined(after.phase.agreement)
      }
      if (before.phase._tag === "Searching" && isOnReadersWord(after)) {
        assert.isUndefined(before.phase.claim)
      }
    }
  })

  always("readers end a search only after they agreed for the time", (history) => {
    for (const { after, before, now } of history) {
      if (before.phase._tag !== "Searching" || !isOnReadersWord(after)) continue
      const { agreement } = before.phase
      assert.isAtLeast(now - (agreement?.since ?? now), 600)
      assert.deepStrictEqual(agreement?.writer, after.writer?.host)
      assert.strictEqual(after.epoch, before.epoch + 1)
    }
  })

  always("who was the writer on the readers' word keeps its epoch when it speaks", (history) => {
    for (const { after, before, event } of history) {
      if (!isOnReadersWord(before) || after.phase._tag !== "Calm" || isOnReadersWord(after))
        continue
      if (after.writer?.host.host !== before.writer?.host.host) continue
      assert.strictEqual(after.epoch, before.epoch)
      assert.deepStrictEqual(claimOf(event)?.host, after.writer?.host)
    }
  })

  always(
    "a search of calm begins with a report of its epoch or with the writer's own word",
    (history) => {
      for (const { after, before, event } of history) {
        if (before.phase._tag !== "Calm" || after.phase._tag !== "Searching") continue
        if (event._tag === "WriterLost") assert.strictEqual(event.epoch, before.epoch)
        else assert.isTrue(Predicate.isTagged(event, "Observed"))
      }
    }
  )

  always("by a list that may lack members no seed leaves, and nobody who answers", (history) => {
    for (const { after, before, event } of history) {
      if (event._tag !== "Observed" || event.observation.isWhole !== false) continue
      // A claim that stood before may be confirmed by this answer, with a whole list of its own.
      if (before.phase._tag === "Searching") continue
      const known = before.hosts.filter(
        (_) =>
          _.availability === "available" || before.seeds.some((seed) => Host.isSame(seed, _.host))
      )
      const gone = known.filter((_) => !after.hosts.some((now) => Host.isSame(now.host, _.host)))
      assert.isEmpty(gone.filter((_) => !Host.isSame(_.host, event.observation.probed)))
    }
  })

  always("somebody is asked in every search", (history) => {
    for (const { after } of history) assert.isNotEmpty(TopologyState.targets(after))
  })

  always(
    "a host that is a member leaves only by the writer's list, or as another's name",
    (history) => {
      for (const { after, before, event } of history) {
        const gone = addresses(before).filter((name) => !addresses(after).includes(name))
        if (gone.length === 0) continue
        const isAlias =
          event._tag === "Observed" && gone.every((_) => _ === event.observation.probed.host)
        assert.isTrue(isAlias || after.phase._tag === "Calm")
      }
    }
  )
})
