/**
 * Makes a scenario smaller for as long as it still fails: items are left out, in halves and then one by
 * one, what is left is made simpler, and times are halved. What remains is what the failure needs.
 */
import { endOf } from "./draw.js"
import type { ClientOptions, Fault, Scenario, Work } from "./scenario.js"

/** Runs; a scenario of an hour takes some 50 ms. */
const ATTEMPTS = 1500

/** What a service would set that has no wish of its own. */
const PLAIN: ClientOptions = {
  refreshRate: 30_000,
  highRefreshRate: 100,
  highRatePeriod: 2000,
  connectTimeout: 5000,
  queryTimeout: 10_000,
  failoverTimeout: 60_000,
  acquireTimeout: 30_000,
  idleTimeout: 600_000,
  connectionTTL: 1_800_000,
  maxConnections: 10,
  minConnections: 0,
  push: "search",
  resolution: "none",
  heartbeat: 1000
}

/** All that is left when a run of `size` items from each place is taken out, the largest runs first. */
const without = <A>(items: ReadonlyArray<A>): ReadonlyArray<ReadonlyArray<A>> => {
  const left: Array<ReadonlyArray<A>> = []
  for (let size = items.length; size >= 1; size = Math.floor(size / 2)) {
    for (let from = 0; from < items.length; from += size) {
      left.push([...items.slice(0, from), ...items.slice(from + size)])
    }
  }
  return left
}

const half = (millis: number): number => Math.floor(millis / 2)

const simplerFault = (fault: Fault): ReadonlyArray<Fault> => {
  switch (fault.kind) {
    case "crash":
      return [
        { ...fault, lasts: half(fault.lasts) },
        { ...fault, promoteAfter: half(fault.promoteAfter) }
      ]
    case "demotion":
      return [{ ...fault, promoteAfter: half(fault.promoteAfter) }]
    case "usurped":
    case "isolated":
    case "returned":
      return [
        { ...fault, fencedAfter: half(fault.fencedAfter) },
        {
          ...fault,
          lasts: half(fault.lasts),
          promoteAfter: Math.min(fault.promoteAfter, half(fault.lasts))
        }
      ]
    case "slow":
    case "lag":
    case "stale":
      return [
        { ...fault, lasts: half(fault.lasts) },
        { ...fault, by: half(fault.by) }
      ]
    case "switchover":
    case "terminate":
    case "statement":
      return []
    default:
      return [{ ...fault, lasts: half(fault.lasts) }]
  }
}

const simplerWork = (work: Work): ReadonlyArray<Work> => {
  const { leaves, ...stays } = work
  return [
    ...(leaves === undefined
      ? []
      : [stays, { ...work, leaves: { ...leaves, after: half(leaves.after) } }]),
    ...(work.kind === "write" ? [] : [{ ...work, kind: "write" as const }]),
    ...(work.kind === "write" || work.kind === "transaction"
      ? []
      : [{ ...work, kind: "transaction" as const }]),
    ...(work.reading === undefined ? [] : [{ ...work, reading: { mode: work.reading.mode } }]),
    { ...work, writes: 1 },
    { ...work, think: 0 },
    { ...work, think: half(work.think) },
    { ...work, client: 0 }
  ]
}

/** The same with one item replaced. */
const replaced = <A>(
  items: ReadonlyArray<A>,
  simpler: (item: A) => ReadonlyArray<A>
): ReadonlyArray<ReadonlyArray<A>> =>
  items.flatMap((item, i) =>
    simpler(item)
      .filter((_) => JSON.stringify(_) !== JSON.stringify(item))
      .map((_) => [...items.slice(0, i), _, ...items.slice(i + 1)])
  )

const calmAtTheEnd = ({ endsAt, healedAt }: Scenario): number => endsAt - healedAt

/** Ends as soon as all of it is over. */
const trimmed = (scenario: Scenario): Scenario => {
  const last = Math.max(0, ...scenario.faults.map(endOf), ...scenario.work.map((_) => _.at))
  const healedAt = Math.min(scenario.healedAt, last + 1000)
  return { ...scenario, healedAt, endsAt: healedAt + calmAtTheEnd(scenario) }
}

/** Everything from a moment on happens earlier. */
const earlier = (scenario: Scenario, from: number, by: number): Scenario => {
  const move = <A extends { readonly at: number }>(items: ReadonlyArray<A>): ReadonlyArray<A> =>
    items.map((_) => (_.at >= from ? { ..._, at: Math.max(0, Math.round(_.at - by)) } : _))
  return trimmed({ ...scenario, work: move(scenario.work), faults: move(scenario.faults) })
}

const pauses = (scenario: Scenario): ReadonlyArray<Scenario> => {
  const times = [...scenario.work, ...scenario.faults].map((_) => _.at).sort((a, b) => a - b)
  return times.flatMap((at, i) => {
    const pause = at - (times[i - 1] ?? 0)
    return pause < 2 ? [] : [earlier(scenario, at, pause), earlier(scenario, at, pause / 2)]
  })
}

const candidates = function* (scenario: Scenario): Generator<Scenario> {
  for (const faults of without(scenario.faults)) yield { ...scenario, faults }
  for (const work of without(scenario.work)) yield { ...scenario, work }
  if (scenario.clients > 1) {
    yield { ...scenario, clients: 1, work: scenario.work.map((_) => ({ ..._, client: 0 })) }
  }
  for (let hosts = 1; hosts < scenario.hosts; hosts++) yield { ...scenario, hosts }
  yield { ...scenario, latency: [0.5, 0.5] }
  yield { ...scenario, promotionTime: 0 }
  yield { ...scenario, options: PLAIN }
  for (const key of Object.keys(PLAIN) as ReadonlyArray<keyof ClientOptions>) {
    yield { ...scenario, options: { ...scenario.options, [key]: PLAIN[key] } }
  }
  yield trimmed(scenario)
  yield* pauses(scenario)
  for (const faults of replaced(scenario.faults, simplerFault)) yield { ...scenario, faults }
  for (const work of replaced(scenario.work, simplerWork)) yield { ...scenario, work }
}

/** The smallest scenario found that fails. Each change that is kept begins the search anew. */
export const shrink = (
  scenario: Scenario,
  fails: (scenario: Scenario) => boolean,
  attempts: number = ATTEMPTS
): Scenario => {
  let smallest = scenario
  const seen = new Set([JSON.stringify(scenario)])
  for (let left = attempts; left > 0;) {
    let found: Scenario | undefined
    for (const candidate of candidates(smallest)) {
      const text = JSON.stringify(candidate)
      if (seen.has(text)) continue
      seen.add(text)
      if (left-- <= 0) break
      if (!fails(candidate)) continue
      found = candidate
      break
    }
    if (found === undefined) break
    smallest = found
  }
  return smallest
}
