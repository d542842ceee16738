/** What the tests of the core share: hosts, a scripted topology source, sessions that do nothing. */
import { Deferred, Duration, Effect, Random, Stream } from "effect"
import { Connector, Errors, Host, TopologySource } from "effect-failover"
import type { TopologyState } from "effect-failover"

export const host = (name: string) => Host.make({ id: name, host: name, port: 5432 })

export const rejection = (name: string, reason: Errors.RejectionReason = "Credentials") =>
  new Errors.ConnectionRejected({
    reason,
    field: "password",
    host: host(name),
    sqlState: "28P01",
    hint: "",
    cause: new Error("password authentication failed")
  })

/** No jitter: every random choice is the middle. */
export const evenly = Effect.withRandom(Random.fixed([0.5]))

/** Runs what is ready to run; the clock stands still. */
export const settle = Effect.yieldNow().pipe(Effect.repeatN(200))

/** What a scripted host says of itself. */
export type Answer = Partial<Omit<TopologyState.Observation, "probed">>

export interface ScriptedHost {
  /** `up` answers; `down` refuses the line; `deaf` takes it and never answers; `hung` does not even take it. */
  state: "up" | "down" | "deaf" | "hung" | Errors.ConnectionRejected
  answer: Answer
  /** Where the source dies with a defect instead. */
  dies: "watch" | "ask" | "answer" | "pause" | "closed" | undefined
  readonly counts: { connects: number; asks: number; open: number }
  /** How long the waits on this host were to last at most, in milliseconds. */
  readonly pauses: Array<number>
  /** Ends every line to this host. */
  readonly cut: Effect.Effect<void>
}

/** A list of members that throws when it is read. */
const unreadable: Answer = {
  members: new Proxy([], {
    get: () => {
      throw new Error("the list cannot be read")
    }
  })
}

/** A topology source whose hosts do what the test says. */
export const scriptedSource = (...names: ReadonlyArray<string>) => {
  const lines = new Map<string, Set<Deferred.Deferred<void>>>()
  const linesOf = (name: string) => lines.get(name) ?? new Set()
  const parked = new Map<string, Set<Deferred.Deferred<void>>>()
  const parkedOn = (name: string) => parked.get(name) ?? new Set()
  const hosts = new Map<string, ScriptedHost>()
  for (const name of names) {
    lines.set(name, new Set())
    parked.set(name, new Set())
    hosts.set(name, {
      state: "up",
      answer: { role: "reader" },
      dies: undefined,
      counts: { connects: 0, asks: 0, open: 0 },
      pauses: [],
      cut: Effect.suspend(() =>
        Effect.forEach(linesOf(name), (line) => Deferred.succeed(line, void 0), { discard: true })
      )
    })
  }
  const get = (name: string): ScriptedHost => {
    const found = hosts.get(name)
    if (found === undefined) throw new Error(`no host ${name} in this test`)
    return found
  }
  const failure = (description: string, reason?: Errors.ConnectionRejected) =>
    new TopologySource.SourceError({ description, rejection: reason, cause: undefined })
  const refusal = (state: ScriptedHost["state"]) =>
    state === "down"
      ? Effect.fail(failure("ECONNREFUSED"))
      : typeof state === "object"
        ? Effect.fail(failure(state.message, state))
        : Effect.void
  const dying = (it: ScriptedHost, where: ScriptedHost["dies"]) =>
    Effect.suspend(() =>
      it.dies === where ? Effect.dieMessage(`the source died in ${where}`) : Effect.void
    )
  /** A wait that is parked on the host: it ends in time, by a promotion, or not at all if the host falls silent. */
  const park = (it: ScriptedHost, name: string, atMost: Duration.Duration) =>
    Effect.acquireUseRelease(
      Effect.tap(Deferred.make<void>(), (wait) => {
        it.pauses.push(Duration.toMillis(atMost))
        parkedOn(name).add(wait)
      }),
      (wait) =>
        Effect.raceFirst(
          Deferred.await(wait),
          Effect.flatMap(Effect.sleep(atMost), () =>
            it.state === "deaf" || it.state === "hung" ? Effect.never : Effect.void
          )
        ),
      (wait) => Effect.sync(() => parkedOn(name).delete(wait))
    )
  const source: TopologySource.TopologySource = {
    watch: (probed) =>
      Effect.gen(function* () {
        const it = get(probed.host)
        it.counts.connects++
        yield* dying(it, "watch")
        if (it.state === "hung") return yield* Effect.never
        yield* refusal(it.state)
        const closed = yield* Deferred.make<void>()
        yield* Effect.acquireRelease(
          Effect.sync(() => {
            it.counts.open++
            linesOf(probed.host).add(closed)
          }),
          () =>
            Effect.sync(() => {
              it.counts.open--
              linesOf(probed.host).delete(closed)
            })
        )
        return {
          ask: Effect.suspend(() => {
            it.counts.asks++
            if (it.state === "hung" || it.state === "deaf") return Effect.never
            return Effect.zipRight(
              Effect.zipRight(dying(it, "ask"), refusal(it.state)),
              Effect.flatMap(Deferred.isDone(closed), (isClosed) =>
                isClosed
                  ? Effect.fail(failure("ECONNRESET"))
                  : Effect.succeed<TopologyState.Observation>({
                      probed,
                      host: probed,
                      role: "reader",
                      ...it.answer,
                      ...(it.dies === "answer" ? unreadable : {})
                    })
              )
            )
          }),
          pause: (atMost) => Effect.zipRight(dying(it, "pause"), park(it, probed.host, atMost)),
          closed: Effect.zipRight(dying(it, "closed"), Deferred.await(closed))
        }
      })
  }
  const wake = (name: string) => {
    for (const wait of parkedOn(name)) Deferred.unsafeDone(wait, Effect.void)
  }
  return {
    source,
    get,
    /** Makes this host the writer, and every other one a reader. A wait that is parked on it ends. */
    promote: (name: string, epoch: number) =>
      Effect.sync(() => {
        for (const [other, it] of hosts) {
          it.answer =
            other === name
              ? { role: "writer", serverEpoch: BigInt(epoch), incarnation: `${name} 1` }
              : { role: "reader" }
        }
        wake(name)
      }),
    /** Ends the waits that are parked on this host. */
    wake: (name: string) => Effect.sync(() => wake(name)),
    set: (name: string, change: Partial<Pick<ScriptedHost, "state" | "answer" | "dies">>) =>
      Effect.sync(() => void Object.assign(get(name), change)),
    asks: (name: string) => get(name).counts.asks,
    openLines: () => [...hosts.values()].reduce((sum, _) => sum + _.counts.open, 0)
  }
}

let serial = 0

/** A session that answers nothing; the test breaks it. */
export interface FakeSession extends Connector.Session {
  readonly serial: number
  /** The connection breaks by itself. */
  readonly break: () => void
  readonly isDestroyed: () => boolean
}

export const fakeSession = (on = host("a")): FakeSession => {
  let open = true
  let destroyed = false
  const listeners: Array<(cause: unknown) => void> = []
  const end = (cause: unknown) => {
    if (!open) return
    open = false
    for (const listener of listeners.splice(0)) listener(cause)
  }
  return {
    serial: serial++,
    host: on,
    openedAt: 0,
    isOpen: () => open,
    onClose: (listener) => {
      if (open) listeners.push(listener)
      else listener(undefined)
    },
    execute: () => Effect.succeed([]),
    stream: () => Stream.empty,
    notifications: Stream.empty,
    break: () => end(new Error("ECONNRESET")),
    destroy: () => {
      destroyed = true
      end(new Error("destroyed"))
    },
    isDestroyed: () => destroyed
  }
}

export const sessionError = (
  cause: unknown = new Error("ECONNREFUSED"),
  fate: Connector.Fate = "NotSent"
) => new Connector.SessionError({ cause, fate })
