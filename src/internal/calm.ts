/**
 * Calm: the writer is asked on one line, at the refresh rate, until the phase ends. As an option, waits are
 * parked on the other hosts too, so that a switchover is heard before the old writer goes.
 *
 * @internal
 */
import type { Queue } from "effect"
import { Clock, Deferred, Duration, Effect, FiberMap, Queue as Queues } from "effect"
import * as Host from "../Host.js"
import type { SourceError } from "../TopologySource.js"
import type { Observation, Writer } from "../TopologyState.js"
import { isNewer } from "./claims.js"
import type { Line } from "./lines.js"
import { close } from "./lines.js"
import type { Monitored } from "./search.js"

/**
 * A wait parked in calm lives this long: what it costs a server, or keeps a pooler's connection for, stays
 * bounded, and a host that fell silent is noticed.
 */
const PARKED_LIFE = Duration.seconds(5)

/** Asks the writer, on a new line if the present one fails. Fails when the new one does. */
const check = (
  { lines }: Monitored,
  writer: Writer,
  held: { current: Line | undefined }
): Effect.Effect<Observation, SourceError> => {
  const reopen = lines.open(writer.probed).pipe(
    Effect.tap((line) => Effect.sync(() => (held.current = line))),
    Effect.flatMap(lines.ask)
  )
  const again = Effect.suspend(() => {
    const broken = held.current
    held.current = undefined
    return Effect.zipRight(broken === undefined ? Effect.void : close(broken), reopen)
  })
  return held.current === undefined ? reopen : Effect.catchAll(lines.ask(held.current), () => again)
}

/** Who is the writer on the readers' word may be reached by now, and then speaks for itself. */
const verify = ({ dispatch, lines, probeFailed }: Monitored, writer: Writer) =>
  writer.isVerified
    ? Effect.void
    : Effect.acquireUseRelease(lines.open(writer.host), lines.ask, close).pipe(
        Effect.flatMap((observation) => dispatch({ _tag: "Observed", observation })),
        Effect.catchAll((error) => probeFailed(writer.host, error))
      )

/** Hears it when one of the other hosts becomes the writer. */
const listen = (monitored: Monitored, host: Host.Host): Effect.Effect<never> => {
  const { current, dispatch, lines, probeFailed, refreshRate } = monitored
  const listening = (line: Line) => {
    let isReader = true
    return lines.ask(line).pipe(
      Effect.flatMap((observation) => {
        const before = current()
        const rises = isReader && observation.role === "writer"
        isReader = observation.role === "reader"
        // Where servers tell no epoch a claim alone proves nothing: then all of them are asked, once.
        const proves =
          observation.serverEpoch === undefined ||
          !isNewer(observation.serverEpoch, before.serverEpoch)
        return Effect.zipRight(
          dispatch({ _tag: "Observed", observation }),
          rises && proves ? dispatch({ _tag: "WriterLost", epoch: before.epoch }) : Effect.void
        )
      }),
      Effect.zipRight(lines.pause(line, PARKED_LIFE)),
      Effect.forever
    )
  }
  return Effect.acquireUseRelease(lines.open(host), listening, close).pipe(
    Effect.catchAll((error) => probeFailed(host, error)),
    Effect.zipRight(Effect.flatMap(refreshRate, Effect.sleep)),
    Effect.forever
  )
}

/** @internal */
export const run = (
  monitored: Monitored,
  options: {
    readonly line: Line | undefined
    readonly ended: Deferred.Deferred<void>
    /** Somebody wants the writer to be asked now. */
    readonly wake: Queue.Dequeue<void>
    readonly listens: boolean
  }
): Effect.Effect<void> =>
  Effect.gen(function* () {
    const { current, dispatch, probeFailed } = monitored
    const held = { current: options.line }
    yield* Effect.addFinalizer(() =>
      Effect.suspend(() => (held.current === undefined ? Effect.void : close(held.current)))
    )
    const listeners = yield* FiberMap.make<string>()
    const listenToOthers = Effect.suspend(() => {
      const { hosts, writer } = current()
      if (!options.listens || writer === undefined) return Effect.void
      return Effect.forEach(
        hosts.filter(({ host }) => !Host.isSame(host, writer.host)),
        ({ host }) =>
          FiberMap.run(listeners, Host.address(host), listen(monitored, host), {
            onlyIfMissing: true
          }),
        { discard: true }
      )
    })
    const turn = Effect.gen(function* () {
      yield* listenToOthers
      const { phase } = current()
      const now = yield* Clock.currentTimeMillis
      const isHigh = phase._tag === "Calm" && now < phase.highRateUntil
      const delay = yield* isHigh ? monitored.highRefreshRate : monitored.refreshRate
      const waits = [Effect.sleep(delay), Queues.take(options.wake)]
      yield* Effect.raceAll(
        held.current === undefined ? waits : [...waits, held.current.watch.closed]
      )
      const { writer } = current()
      if (writer === undefined) return
      yield* verify(monitored, writer)
      yield* check(monitored, writer, held).pipe(
        Effect.flatMap((observation) => dispatch({ _tag: "Observed", observation })),
        Effect.catchAll((error) =>
          Effect.zipRight(
            probeFailed(writer.probed, error),
            dispatch({ _tag: "WriterLost", epoch: writer.epoch })
          )
        )
      )
    })
    yield* Effect.raceFirst(Effect.forever(turn), Deferred.await(options.ended))
  }).pipe(Effect.scoped)
