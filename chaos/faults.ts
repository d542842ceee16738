/** Faults, one after the other; after each, the cluster is whole again. */
import { Effect, type Random } from "effect"
import * as FaultProxy from "effect-failover/testing/FaultProxy"
import type { PostgresCluster } from "effect-failover/testing/PostgresCluster"

const { BlackHole, DropReplies, Pass } = FaultProxy.Fault

/** What is counted, as one fault may be several things. */
export interface Tally {
  kills: number
  replyDrops: number
  readonly faults: Record<string, number>
}

export const noTally = (): Tally => ({ kills: 0, replyDrops: 0, faults: {} })

/** All proxies pass, and there is one primary that is followed by the others. */
export const heal = (cluster: PostgresCluster) =>
  Effect.gen(function* () {
    for (const { proxy } of cluster.nodes) yield* proxy.set(Pass())
    const primary = yield* cluster.primary
    for (const { node, process } of yield* cluster.status) {
      if (node.id !== primary.id) continue
      if (process === "frozen") yield* cluster.resume(node)
      if (process === "stopped") yield* cluster.start(node)
    }
    for (const { node, process, role } of yield* cluster.status) {
      if (node.id === primary.id || (process === "running" && role === "standby")) continue
      yield* cluster.rejoin(node)
    }
  })

type Fault = (tally: Tally) => Effect.Effect<unknown, unknown>

const faults = (
  cluster: PostgresCluster,
  app: string,
  random: Random.Random
): Readonly<Record<string, Fault>> => {
  const primary = cluster.primary
  const pause = Effect.flatMap(random.nextIntBetween(20, 250), (millis) => Effect.sleep(millis))
  const kill = (tally: Tally) =>
    Effect.gen(function* () {
      const writer = yield* primary
      yield* cluster.kill(writer)
      tally.kills++
      yield* cluster.promote()
      return writer
    })
  const dropping = (tally: Tally) =>
    Effect.gen(function* () {
      const { proxy } = yield* primary
      yield* proxy.set(DropReplies())
      tally.replyDrops++
      yield* pause
      return proxy
    })
  return {
    "SIGKILL, promote": kill,
    "reply drop, reset": (tally) =>
      Effect.gen(function* () {
        const proxy = yield* dropping(tally)
        yield* proxy.set(Pass())
        yield* proxy.reset
      }),
    "reply drop, SIGKILL, promote": (tally) =>
      Effect.gen(function* () {
        const proxy = yield* dropping(tally)
        yield* kill(tally)
        yield* proxy.reset
      }),
    "black hole, SIGKILL, promote": (tally) =>
      Effect.gen(function* () {
        const { proxy } = yield* primary
        yield* proxy.set(BlackHole())
        yield* pause
        yield* kill(tally)
        yield* pause
        // Fenced: what hung on it ends.
        yield* proxy.reset
      }),
    "black hole, for a moment": () =>
      Effect.gen(function* () {
        const { proxy } = yield* primary
        yield* proxy.set(BlackHole())
        yield* pause
        yield* proxy.set(Pass())
      }),
    "connection reset": () => Effect.flatMap(primary, ({ proxy }) => proxy.reset),
    "backends terminated": () =>
      Effect.flatMap(primary, (writer) =>
        cluster.query(
          writer,
          "select pg_terminate_backend(pid) from pg_stat_activity where application_name = $1",
          [app]
        )
      ),
    "fast stop, promote": () =>
      Effect.flatMap(primary, (writer) =>
        Effect.zipRight(cluster.stop(writer, "fast"), cluster.promote())
      ),
    "SIGKILL, restart in place": (tally) =>
      Effect.flatMap(primary, (writer) =>
        Effect.all([cluster.kill(writer), Effect.sync(() => tally.kills++), cluster.start(writer)])
      ),
    "graceful switchover": () => cluster.switchover(),
    "freeze, promote, resume": () =>
      Effect.gen(function* () {
        const writer = yield* primary
        yield* cluster.freeze(writer)
        yield* pause
        yield* cluster.promote()
        yield* pause
        // Says that it is the primary until it is re-cloned.
        yield* cluster.resume(writer)
        yield* pause
      })
  }
}

/** How often each fault is in the deck: half of them are kills, a fifth drop replies. */
const weights: Readonly<Record<string, number>> = {
  "SIGKILL, promote": 5,
  "reply drop, reset": 2,
  "reply drop, SIGKILL, promote": 2
}

/** Makes faults until its time is over; the deck is shuffled anew when it is empty. */
export const storm = (
  cluster: PostgresCluster,
  options: {
    readonly app: string
    readonly random: Random.Random
    readonly tally: Tally
    readonly isOver: () => boolean
  }
): Effect.Effect<void, unknown> =>
  Effect.gen(function* () {
    const { isOver, random, tally } = options
    const all = faults(cluster, options.app, random)
    const deck = Object.keys(all).flatMap((name) =>
      Array.from({ length: weights[name] ?? 1 }, () => name)
    )
    while (!isOver()) {
      for (const name of yield* random.shuffle(deck)) {
        if (isOver()) return
        const fault = all[name]
        if (fault === undefined) continue
        yield* fault(tally)
        tally.faults[name] = (tally.faults[name] ?? 0) + 1
        yield* heal(cluster)
        yield* Effect.sleep(yield* random.nextIntBetween(50, 300))
      }
    }
  })
