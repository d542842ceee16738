/**
 * The endpoints that a client knows, the one that it sticks to, and those that failed it lately. Read and written
 * by every request, so it is plain memory without Effects; each change is one synchronous step.
 *
 * @internal
 */
import type { Chance, HostSelector } from "../../HostSelector.js"
import type { Endpoint } from "./endpoint.js"
import { unique } from "./endpoint.js"

/** The first suspicion lasts this long, the next one twice as long: a restart of a server takes some seconds. */
const FIRST_SUSPICION_MILLIS = 1_000
const LONGEST_SUSPICION_MILLIS = 30_000

/** @internal */
export type LoadBalancing = "none" | "round-robin" | "one-random"

interface Suspicion {
  readonly failures: number
  /** Clock milliseconds. */
  readonly until: number
}

/** @internal */
export interface Book {
  readonly all: () => ReadonlyArray<Endpoint>
  /** The endpoint that requests stick to. */
  readonly current: () => Endpoint
  /** Where the next request begins. */
  readonly start: (now: number) => Endpoint
  /** Where the next read that may be dirty begins: another than the sticky one, in turn. */
  readonly reader: (now: number) => Endpoint
  readonly find: (origin: string) => Endpoint | undefined
  /**
   * From an endpoint that failed to the next one. Nothing happens if another request did it before: of 200 requests
   * that fail on one endpoint, one moves the others on, by one endpoint.
   */
  readonly moveFrom: (failed: Endpoint, now: number) => void
  /** This one serves. */
  readonly stickTo: (endpoint: Endpoint) => void
  readonly suspect: (endpoint: Endpoint, now: number) => void
  readonly clear: (endpoint: Endpoint) => void
  readonly isSuspect: (endpoint: Endpoint, now: number) => boolean
  /** Requests under way stay where they are. */
  readonly replace: (endpoints: readonly [Endpoint, ...ReadonlyArray<Endpoint>]) => void
}

/** What load-balancing has to know of a host; requests over HTTP have no connections to count. */
const candidateOf = (endpoint: Endpoint) => ({
  endpoint,
  host: endpoint.host,
  role: "unknown" as const,
  availability: "unknown" as const,
  outstanding: 0,
  connections: 0
})

/** @internal */
export const make = (options: {
  readonly endpoints: readonly [Endpoint, ...ReadonlyArray<Endpoint>]
  /** Chooses for each request; without it, all stick to one. */
  readonly rotation: HostSelector | undefined
  /** Chooses the one to begin with; without it, the first. */
  readonly first: HostSelector | undefined
  readonly readers: HostSelector
  readonly chance: Chance
}): Book => {
  let all: ReadonlyArray<Endpoint> = options.endpoints
  const suspicions = new Map<string, Suspicion>()

  const choose = (
    selector: HostSelector,
    among: ReadonlyArray<Endpoint>,
    otherwise: Endpoint
  ): Endpoint => {
    const [first, ...others] = among.map(candidateOf)
    return first === undefined
      ? otherwise
      : (selector([first, ...others], options.chance)?.endpoint ?? otherwise)
  }

  let current =
    options.first === undefined
      ? options.endpoints[0]
      : choose(options.first, all, options.endpoints[0])

  const isSuspect = (endpoint: Endpoint, now: number): boolean => {
    const suspicion = suspicions.get(endpoint.origin)
    return suspicion !== undefined && now < suspicion.until
  }
  const trusted = (now: number): ReadonlyArray<Endpoint> =>
    suspicions.size === 0 ? all : all.filter((_) => !isSuspect(_, now))

  return {
    all: () => all,
    current: () => current,
    start: (now) =>
      options.rotation === undefined ? current : choose(options.rotation, trusted(now), current),
    reader: (now) =>
      choose(
        options.readers,
        trusted(now).filter((_) => _.origin !== current.origin),
        current
      ),
    find: (origin) => all.find((_) => _.origin === origin),
    moveFrom: (failed, now) => {
      if (current.origin !== failed.origin) return
      const at = all.findIndex((_) => _.origin === failed.origin)
      const others = [...all.slice(at + 1), ...all.slice(0, Math.max(at, 0))]
      current = others.find((_) => !isSuspect(_, now)) ?? others[0] ?? current
    },
    stickTo: (endpoint) => {
      if (all.some((_) => _.origin === endpoint.origin)) current = endpoint
    },
    suspect: (endpoint, now) => {
      const failures = (suspicions.get(endpoint.origin)?.failures ?? 0) + 1
      const millis = Math.min(
        FIRST_SUSPICION_MILLIS * 2 ** (failures - 1),
        LONGEST_SUSPICION_MILLIS
      )
      // Many requests that fail together are one failure.
      if (!isSuspect(endpoint, now)) {
        suspicions.set(endpoint.origin, { failures, until: now + millis })
      }
    },
    clear: (endpoint) => {
      if (suspicions.size > 0) suspicions.delete(endpoint.origin)
    },
    isSuspect,
    replace: (endpoints) => {
      all = unique(endpoints)
      const kept = endpoints.find((_) => _.origin === current.origin)
      current = kept ?? endpoints[0]
      for (const origin of suspicions.keys()) {
        if (!endpoints.some((_) => _.origin === origin)) suspicions.delete(origin)
      }
    }
  }
}
