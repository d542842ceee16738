/**
 * Calm: the writer is asked on one line, at the refresh rate, until the phase ends. As an option, waits are
 * parked on the other hosts too, so that a switchover is heard before the old writer goes.
 *
 * @internal
 */
import type { Deferred } from "effect"
import { Clock, Deferred as Deferreds, Duration, Effect, FiberMap, Queue, Stream } from "effect"
import * as Host from "../Host.js"
import type { SourceError } from "../TopologySource.js"
import type { Observation, TopologyState, Writer } from "../TopologyState.js"
import { isOutdated } from "./claims.js"
import type { Line } from "./lines.js"
import { close } from "./lines.js"
import type { Monitored } from "./search.js"

/**
 * A wait parked in calm lives this long: what it costs a server, or keeps a pooler's connection for, stays
 * bounded, and a host that fell silent is noticed.
 */
const PARKED_LIFE = Duration.seconds(5)

/** The line to the writer, and where it leads. */
interface Held {
  readonly host: Host.Host
  readonly line: Line
}

/** Asks where the writer is known to answer; on a new line if there is none yet, or the present one fails. */
const makeWatcher = ({ lines }: Monitored, kept: Held | undefined) => {
  let held = kept
  const drop = Effect.suspend(() => {
    const dropped = held
    held = undefined
    return dropped === undefined ? Effect.void : close(dropped.line)
  })
  const reopen = (host: Host.Host) =>
    lines.open(host).pipe(
      Effect.tap((line) => Effect.sync(() => (held = { host, line }))),
      Effect.flatMap(lines.ask)
    )
  const ask = (writer: Writer): Effect.Effect<Observation, SourceError> =>
    Effect.suspend(() => {
      if (held === undefined) return reopen(writer.probed)
      const again = Effect.zipRight(drop, reopen(writer.probed))
      return Host.isSame(held.host, writer.probed)
        ? Effect.catchAll(lines.ask(held.line), () => again)
        : again
    })
  return {
    ask,
    drop,
    /** Ends when the line breaks by itself; it is given up then. */
    broken: Effect.suspend(() =>
      held === undefined ? Effect.never : Effect.zipRight(held.line.watch.closed, drop)
    )
  }
}

/** Who is the writer on the readers' word may be reached by now, and then speaks for itself. */
const verify = ({ lines, observed, probeFailed }: Monitored, { host }: Writer) =>
  lines.use(host, lines.ask).pipe(
    Effect.flatMap(observed),
    Effect.catchAll((error) => probeFailed(host, error))
  )

/** Hears it when one of the other hosts becomes the writer. */
const listen = (monitored: Monitored, host: Host.Host): Effect.Effect<never> => {
  const { claimants, current, dispatch, lines, observed, probeFailed, refreshRate } = monitored
  const listening = (line: Line) =>
    lines.ask(line).pipe(
      Effect.flatMap((observation) => {
        const before = current()
        // Where servers tell no epoch a claim alone proves nothing: all of them are asked then, and once.
        const isNews =
          observation.role === "writer" &&
          observation.serverEpoch === undefined &&
          !isOutdated(before, observation) &&
          !claimants.has(Host.address(observation.host))
        return Effect.zipRight(
          observed(observation),
          isNews ? dispatch({ _tag: "WriterLost", epoch: before.epoch }) : Effect.void
        )
      }),
      Effect.zipRight(lines.pause(line, PARKED_LIFE)),
      Effect.forever
    )
  return lines.use(host, listening).pipe(
    Effect.catchAll((error) => probeFailed(host, error)),
    Effect.zipRight(Effect.flatMap(refreshRate, Effect.sleep)),
    Effect.forever
  )
}

/** Listens to every host but the writer, as they come and go. A listener that dies is not one less: it fails. */
const listenToOthers = (
  monitored: Monitored,
  changes: Stream.Stream<TopologyState>
): Effect.Effect<void> =>
  Effect.flatMap(FiberMap.make<string, never, never>(), (listeners) => {
    const follow = ({ hosts, writer }: TopologyState) => {
      const others = hosts
        .map((_) => _.host)
        .filter((host) => writer !== undefined && !Host.isSame(host, writer.host))
      const gone = [...listeners].flatMap(([address]) =>
        others.some((host) => Host.address(host) === address) ? [] : [address]
      )
      return Effect.zipRight(
        Effect.forEach(gone, (address) => FiberMap.remove(listeners, address), { discard: true }),
        Effect.forEach(
          others,
          (host) =>
            FiberMap.run(listeners, Host.address(host), listen(monitored, host), {
              onlyIfMissing: true
            }),
          { discard: true }
        )
      )
    }
    return Effect.raceFirst(Stream.runForEach(changes, follow), FiberMap.join(listeners))
  }).pipe(Effect.scoped)

/** @internal */
export const run = (
  monitored: Monitored,
  options: {
    /** Kept from the search. */
    readonly line: Line | undefined
    readonly ended: Deferred.Deferred<void>
    /** Somebody wants the writer to be asked now. */
    readonly wake: Queue.Queue<void>
    readonly changes: Stream.Stream<TopologyState>
    readonly listens: boolean
  }
): Effect.Effect<void> =>
  Effect.gen(function* () {
    const { current, dispatch, probeFailed } = monitored
    const { line, wake } = options
    const probed = current().writer?.probed
    const watcher = makeWatcher(
      monitored,
      line === undefined || probed === undefined ? undefined : { host: probed, line }
    )
    yield* Effect.addFinalizer(() => watcher.drop)
    const verifying = yield* FiberMap.make<string, void, never>()
    const turn = Effect.gen(function* () {
      const { phase } = current()
      const now = yield* Clock.currentTimeMillis
      const isHigh = phase._tag === "Calm" && now < phase.highRateUntil
      const delay = yield* isHigh ? monitored.highRefreshRate : monitored.refreshRate
      yield* Effect.raceAll([Effect.sleep(delay), Queue.take(wake), watcher.broken])
      const { writer } = current()
      if (writer === undefined) return
      if (!writer.isVerified) {
        yield* FiberMap.run(verifying, "", verify(monitored, writer), { onlyIfMissing: true })
      }
      yield* watcher.ask(writer).pipe(
        Effect.flatMap(monitored.observed),
        Effect.catchAll((error) =>
          Effect.zipRight(
            probeFailed(writer.probed, error),
            dispatch({ _tag: "WriterLost", epoch: writer.epoch })
          )
        )
      )
    })
    const turns: Effect.Effect<void> = options.listens
      ? Effect.raceFirst(
          Effect.asVoid(Effect.forever(turn)),
          listenToOthers(monitored, options.changes)
        )
      : Effect.forever(turn)
    yield* Effect.raceFirst(turns, Deferreds.await(options.ended))
  }).pipe(Effect.scoped)
