/** Draws a scenario from a seed. */
import { Dice } from "./dice.js"
import type {
  ClientOptions,
  Fault,
  FaultKind,
  Flavor,
  Scenario,
  Work,
  WorkKind
} from "./scenario.js"
import { fates, statements } from "./scenario.js"

const MINUTE = 60_000

/** Longer than the longest `failoverTimeout` and `refreshRate`: whatever was under way has ended. */
const CALM_AT_THE_END = 12 * MINUTE

const SHARE_OF_READERS = 0.03

const optionsOf = (dice: Dice, readers: Dice, flavor: Flavor): ClientOptions => {
  const maxConnections = dice.pick([1, 2, 3, 5, 10])
  return {
    // By default 30 s, which in hours of calm is most of what happens.
    refreshRate: dice.chance(0.1) ? 30_000 : dice.pick([2 * MINUTE, 5 * MINUTE, 10 * MINUTE]),
    // By default 100 ms, and for 30 s: most of a run would be questions that are all answered alike.
    highRefreshRate: dice.chance(0.05) ? 100 : dice.pick([500, 1000]),
    highRatePeriod: dice.chance(0.1) ? 30_000 : dice.pick([500, 1000, 3000]),
    connectTimeout: dice.magnitude(500, 10_000),
    queryTimeout: dice.magnitude(1000, 60_000),
    failoverTimeout: dice.magnitude(2000, 300_000),
    acquireTimeout: dice.magnitude(500, 30_000),
    idleTimeout: dice.pick([MINUTE, 10 * MINUTE]),
    connectionTTL: dice.pick([5 * MINUTE, 30 * MINUTE]),
    maxConnections,
    minConnections: dice.chance(0.3) ? dice.whole(0, maxConnections) : 0,
    push: dice.chance(0.02) ? "always" : dice.pick(["search", "search", "never"]),
    heartbeat: readers.pick([1000, 10_000, 60_000, 60_000]),
    resolution: dice.pick([
      "none",
      "ledger",
      ...(flavor === "aurora" ? [] : (["transaction-status"] as const))
    ])
  }
}

const workKind = (dice: Dice): WorkKind =>
  dice.pick([
    "write",
    "write",
    "write",
    "read",
    "idempotent",
    "transaction",
    "transaction",
    "transaction",
    "nested",
    "undone",
    "failing",
    "retried",
    "retried",
    "parallel",
    "reserved"
  ])

const workAt = (dice: Dice, at: number, clients: number): Work => {
  const leaves = dice.chance(0.12)
    ? {
        by: dice.pick(["interrupt", "timeout"] as const),
        after: dice.magnitude(1, 5000)
      }
    : undefined
  return {
    at: Math.round(at),
    client: dice.whole(0, clients - 1),
    kind: workKind(dice),
    writes: dice.whole(1, 3),
    think: dice.chance(0.4) ? dice.magnitude(1, 3000) : 0,
    ...(leaves === undefined ? {} : { leaves })
  }
}

/** Each reads what was written so long before that the bound says it must be there, and a reader that lags lacks it. */
const boundedReads = (
  dice: Dice,
  { at, by, lasts }: { readonly at: number; readonly by: number; readonly lasts: number },
  clients: number
): ReadonlyArray<Work> =>
  Array.from({ length: 4 }).flatMap(() => {
    const maxStaleness = Math.max(20, Math.round(by / 3))
    const written = Math.round(at + dice.between(0, lasts))
    const work = { client: dice.whole(0, clients - 1), writes: 1, think: 0 }
    return [
      { ...work, at: written, kind: "write" as const },
      {
        ...work,
        at: Math.round(written + maxStaleness * dice.between(1.2, 2)),
        kind: "reader statement" as const,
        reading: { mode: "reader-or-writer" as const, maxStaleness }
      }
    ]
  })

/** Work for readers, close to a fault and while it lasts. */
const readerWork = (
  dice: Dice,
  { at, end }: { readonly at: number; readonly end: number },
  clients: number
): ReadonlyArray<Work> => {
  const close = dice.whole(1, 4)
  const long = dice.whole(0, 4)
  const times = [
    ...Array.from({ length: close }, () => at + dice.between(-50, 50)),
    ...Array.from({ length: long }, () => at + dice.between(0, Math.max(end - at, 1000) * 1.2))
  ]
  return times.map((time) => ({
    ...workAt(dice, Math.max(0, time), clients),
    kind: dice.pick([
      "reader statement",
      "reader statement",
      "reader transaction",
      "reader stream",
      "reader write",
      "own writes",
      "own writes"
    ]),
    reading: {
      mode: dice.pick(["reader-or-writer", "reader-or-writer", "strict-reader"]),
      ...(dice.chance(0.2) ? { maxStaleness: dice.magnitude(300, 10_000) } : {})
    }
  }))
}

const faultKind = (dice: Dice, flavor: Flavor): FaultKind => {
  const kinds = [
    "crash",
    "crash",
    "crash",
    "restart",
    "freeze",
    "usurped",
    "usurped",
    "partition",
    "isolated",
    "isolated",
    "returned",
    "switchover",
    "switchover",
    "demotion",
    "outage",
    "refuse",
    "terminate",
    "statement",
    "statement",
    "statement",
    "slow",
    "lag"
  ] as const
  return flavor === "aurora" ? dice.pick(["stale", "stale", ...kinds]) : dice.pick(kinds)
}

const faultAt = (dice: Dice, start: number, flavor: Flavor): Fault => {
  const at = Math.round(start)
  const kind = faultKind(dice, flavor)
  const target = dice.chance(0.8) ? "writer" : "reader"
  switch (kind) {
    case "crash":
      return {
        kind,
        at,
        target,
        promoteAfter: dice.magnitude(10, 30_000),
        lasts: dice.magnitude(100, MINUTE)
      }
    case "restart":
    case "freeze":
      return { kind, at, target, lasts: dice.magnitude(10, MINUTE) }
    case "partition":
      return {
        kind,
        at,
        target,
        cut: dice.pick(["clients", "peers", "all"]),
        lasts: dice.magnitude(10, MINUTE)
      }
    case "usurped":
    case "isolated":
    case "returned": {
      const promoteAfter = dice.magnitude(10, 20_000)
      return {
        kind,
        at,
        promoteAfter,
        lasts: promoteAfter + dice.magnitude(1, MINUTE),
        fencedAfter: dice.magnitude(100, MINUTE)
      }
    }
    case "switchover":
      return { kind, at }
    case "demotion":
      return { kind, at, promoteAfter: dice.magnitude(1, 20_000) }
    case "outage":
      return { kind, at, lasts: dice.magnitude(100, MINUTE) }
    case "stale":
      return { kind, at, by: dice.magnitude(100, MINUTE), lasts: dice.magnitude(1000, 5 * MINUTE) }
    case "refuse":
      return {
        kind,
        at,
        target: dice.pick(["writer", "writer", "reader", "all"]),
        code: dice.pick(["53300", "53300", "57P03", "57P03", "28P01"]),
        lasts: dice.magnitude(100, MINUTE)
      }
    case "terminate":
      return { kind, at, target }
    case "statement":
      return { kind, at, match: dice.pick(statements), fate: dice.pick(fates) }
    case "slow":
    case "lag":
      return {
        kind,
        at,
        target: kind === "lag" ? "reader" : target,
        by: dice.magnitude(10, 5000),
        lasts: dice.magnitude(1000, 2 * MINUTE)
      }
  }
}

/** Until a fault has done all that it does. */
export const endOf = (fault: Fault): number => {
  switch (fault.kind) {
    case "crash":
      return fault.at + Math.max(fault.promoteAfter, fault.lasts)
    case "usurped":
    case "isolated":
    case "returned":
      return fault.at + Math.max(fault.promoteAfter, fault.lasts) + fault.fencedAfter
    case "demotion":
      return fault.at + fault.promoteAfter
    case "switchover":
    case "terminate":
    case "statement":
      return fault.at
    default:
      return fault.at + fault.lasts
  }
}

/** The new writer is lost while the old one is back and takes itself for the writer. */
const secondBlow = (
  dice: Dice,
  first: { readonly at: number; readonly lasts: number; readonly fencedAfter: number }
): Fault => {
  const at = Math.round(first.at + first.lasts + first.fencedAfter * dice.between(0.05, 0.8))
  const promoteAfter = dice.magnitude(500, 20_000)
  return dice.pick<Fault>([
    { kind: "restart", at, target: "writer", lasts: dice.magnitude(500, 20_000) },
    { kind: "crash", at, target: "writer", promoteAfter, lasts: promoteAfter + 5000 },
    { kind: "freeze", at, target: "writer", lasts: dice.magnitude(500, 20_000) }
  ])
}

/** A storm: one fault or some in a row, while much work is under way. */
const storm = (
  dice: Dice,
  start: number,
  flavor: Flavor,
  clients: number
): { readonly work: ReadonlyArray<Work>; readonly faults: ReadonlyArray<Fault> } => {
  const faults: Array<Fault> = []
  let at = start
  do {
    const fault = faultAt(dice, at, flavor)
    faults.push(fault)
    if ("fencedAfter" in fault && dice.chance(0.5)) faults.push(secondBlow(dice, fault))
    at += dice.magnitude(1, 20_000)
  } while (faults.length < 5 && dice.chance(0.3))
  const work: Array<Work> = []
  for (const fault of faults) {
    // Close around the moment itself, where the races are, and then for as long as it lasts.
    const close = dice.whole(1, 3)
    for (let i = 0; i < close; i++) {
      work.push(workAt(dice, fault.at + dice.between(-50, 50), clients))
    }
    const long = dice.whole(0, 2)
    const end = Math.max(endOf(fault) - fault.at, 1000) * 1.2
    for (let i = 0; i < long; i++) {
      work.push(workAt(dice, fault.at + dice.between(0, end), clients))
    }
  }
  return { work, faults }
}

export const draw = (seed: number): Scenario => {
  const dice = new Dice(seed, "scenario")
  const flavor = dice.pick<Flavor>(["streaming", "streaming", "aurora"])
  const hosts = dice.pick([1, 2, 3, 3, 3, 4, 5])
  const clients = dice.chance(0.3) ? 2 : 1
  const latency = dice.pick([0.1, 0.5, 5])
  const work: Array<Work> = []
  const faults: Array<Fault> = []
  let now = 0
  const storms = dice.whole(1, 3)
  for (let i = 0; i < storms; i++) {
    const calm = dice.magnitude(MINUTE, 25 * MINUTE)
    const sparse = dice.whole(1, 2)
    for (let j = 0; j < sparse; j++) work.push(workAt(dice, now + dice.between(0, calm), clients))
    now += calm
    const drawn = storm(dice, now, flavor, clients)
    work.push(...drawn.work)
    faults.push(...drawn.faults)
    now = Math.max(now, ...drawn.faults.map(endOf), ...drawn.work.map((_) => _.at))
  }
  const readers = new Dice(seed, "readers")
  const options = optionsOf(dice, readers, flavor)
  // Readers are asked how they are all the time: a share of the seeds pays for that.
  const isRead = readers.chance(SHARE_OF_READERS)
  if (isRead) {
    work.push(...readerWork(readers, { at: MINUTE / 2, end: now }, clients))
    for (const fault of faults) {
      work.push(...readerWork(readers, { at: fault.at, end: endOf(fault) }, clients))
      if (fault.kind === "lag") work.push(...boundedReads(readers, fault, clients))
    }
  }
  // Waits that are parked in calm are most of what happens in an hour.
  const least = isRead || options.push === "always" ? 0 : 60 * MINUTE
  const healedAt = Math.round(Math.max(Math.max(now, ...work.map((_) => _.at)) + 1000, least))
  return {
    seed,
    flavor,
    hosts,
    clients,
    latency: [latency, latency * dice.pick([1, 3, 10])],
    promotionTime: dice.pick([0, 5, 500]),
    options,
    work: work.sort((a, b) => a.at - b.at),
    faults: faults.sort((a, b) => a.at - b.at),
    healedAt,
    endsAt: healedAt + CALM_AT_THE_END
  }
}
