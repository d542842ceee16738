/**
 * A search: one fiber and one line per host, each asking at the high rate, until the phase ends.
 *
 * @internal
 */
import type { Duration } from "effect"
import { Deferred, Effect, FiberMap } from "effect"
import * as Host from "../Host.js"
import type { SourceError } from "../TopologySource.js"
import type { Event, Observation, TopologyState } from "../TopologyState.js"
import type { Line, Lines } from "./lines.js"
import { close } from "./lines.js"
import { targets } from "./membership.js"

/** What the loops of the monitor know of it. @internal */
export interface Monitored {
  readonly lines: Lines
  readonly current: () => TopologyState
  readonly dispatch: (event: Event) => Effect.Effect<void>
  /** An answer that cannot be understood is its source's fault. */
  readonly observed: (observation: Observation) => Effect.Effect<void, SourceError>
  /** The addresses of those who said last that they are the writer, whether they were believed or not. */
  readonly claimants: ReadonlySet<string>
  readonly probeFailed: (host: Host.Host, error: SourceError) => Effect.Effect<void>
  /** With jitter. */
  readonly refreshRate: Effect.Effect<Duration.Duration>
  readonly highRefreshRate: Effect.Effect<Duration.Duration>
}

/** Asks one host again and again, until it is interrupted with the search. */
const probe = (
  monitored: Monitored,
  host: Host.Host,
  held: Map<string, Line>,
  onAnswer: Effect.Effect<void>
): Effect.Effect<never> => {
  const { current, highRefreshRate, lines, observed, probeFailed } = monitored
  const isSearching = () => current().phase._tag === "Searching"
  const askAgainAndAgain = (line: Line) =>
    lines.ask(line).pipe(
      Effect.flatMap(observed),
      Effect.zipRight(onAnswer),
      // The line to a confirmed writer is handed over: no question may be under way on it.
      Effect.zipRight(
        Effect.suspend(() =>
          isSearching()
            ? Effect.flatMap(highRefreshRate, (delay) => lines.pause(line, delay))
            : Effect.never
        )
      ),
      Effect.forever
    )
  return Effect.uninterruptibleMask((restore) =>
    Effect.flatMap(restore(lines.open(host)), (line) => {
      held.set(Host.address(host), line)
      return Effect.tapError(restore(askAgainAndAgain(line)), () => {
        held.delete(Host.address(host))
        return close(line)
      })
    })
  ).pipe(
    Effect.catchAll((error) => probeFailed(host, error)),
    Effect.zipRight(onAnswer),
    Effect.zipRight(Effect.flatMap(highRefreshRate, Effect.sleep)),
    Effect.forever
  )
}

/** Ends with the phase; the line to the new writer is kept for the next one. @internal */
export const run = (
  monitored: Monitored,
  ended: Deferred.Deferred<void>
): Effect.Effect<Line | undefined> =>
  Effect.suspend(() => {
    const { current } = monitored
    const held = new Map<string, Line>()
    const probing = Effect.gen(function* () {
      const probes = yield* FiberMap.make<string, never, never>()
      const probeTargets: Effect.Effect<void> = Effect.suspend(() =>
        Effect.forEach(
          targets(current()),
          (host) =>
            FiberMap.run(probes, Host.address(host), probe(monitored, host, held, probeTargets), {
              onlyIfMissing: true
            }),
          { discard: true }
        )
      )
      yield* probeTargets
      // A probe that dies takes the search with it, and the monitor begins another one.
      yield* Effect.raceFirst(Deferred.await(ended), FiberMap.join(probes))
    })
    const keepWriters = Effect.suspend(() => {
      const { phase, writer } = current()
      const kept =
        phase._tag === "Calm" && writer !== undefined
          ? held.get(Host.address(writer.probed))
          : undefined
      const others = [...held.values()].filter((_) => _ !== kept)
      return Effect.as(Effect.forEach(others, close, { discard: true }), kept)
    })
    return probing.pipe(
      Effect.scoped,
      Effect.onError(() => Effect.forEach(held.values(), close, { discard: true })),
      Effect.zipRight(keepWriters)
    )
  })
