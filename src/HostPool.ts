/**
 * The pooled connections of one host in one epoch of the topology: a free list with waiters. It is a
 * plain data structure because every statement passes through it.
 *
 * - A connection that broke is dropped where it lies: the next caller never gets it.
 * - The pool belongs to one epoch. When the writer moves, `cut` ends every connection at once, and with
 *   them the statements that would otherwise hang on a silent host.
 * - It grows as TCP does, by slow start: at most as many connections are being opened as there are. A
 *   server that was promoted just now answers statements on its first connections, instead of being busy
 *   with log-ins alone.
 * - A waiter is served by whichever comes first, a connection given back or one newly opened. If
 *   opening fails and no other connection can come back, everyone who waits is told why: nothing of
 *   theirs was sent.
 *
 * @since 0.1.0
 */
import type { Scope } from "effect"
import { Cause, Data, Duration, Effect, Exit, FiberSet, Option, Random } from "effect"
import type { Session } from "./Connector.js"
import { SessionError } from "./Connector.js"
import { PoolTimeout } from "./Errors.js"
import type { Host } from "./Host.js"

/**
 * node-postgres' own default.
 *
 * @since 0.1.0
 * @category defaults
 */
export const DEFAULT_MAX_CONNECTIONS = 10

/**
 * HikariCP's `connectionTimeout`.
 *
 * @since 0.1.0
 * @category defaults
 */
export const DEFAULT_ACQUIRE_TIMEOUT = Duration.seconds(30)

/**
 * HikariCP's `idleTimeout`. node-postgres gives up idle connections after 10 s, which makes a service
 * with a request every 15 s connect each time.
 *
 * @since 0.1.0
 * @category defaults
 */
export const DEFAULT_IDLE_TIMEOUT = Duration.minutes(10)

/**
 * HikariCP's `maxLifetime`: below the idle limits of common network equipment.
 *
 * @since 0.1.0
 * @category defaults
 */
export const DEFAULT_CONNECTION_TTL = Duration.minutes(30)

/** Lifetimes vary by 2.5 % (HikariCP), so that connections opened together do not end together. */
const TTL_VARIANCE = 0.025

/**
 * @since 0.1.0
 * @category models
 */
export interface Settings {
  readonly maxConnections: number
  readonly minConnections: number
  readonly acquireTimeout: Duration.Duration
  readonly idleTimeout: Duration.Duration
  readonly connectionTTL: Duration.Duration
}

/**
 * @since 0.1.0
 * @category models
 */
export interface Stats {
  readonly open: number
  readonly idle: number
  readonly waiting: number
}

/**
 * The pool was cut while the caller waited, because the writer moved or the client was closed.
 *
 * @since 0.1.0
 * @category errors
 */
export class PoolCut extends Data.TaggedError("PoolCut")<{ readonly host: Host }> {
  override get message(): string {
    return `the connections to ${this.host.id} were given up`
  }
}

/**
 * @since 0.1.0
 * @category models
 */
export interface HostPool {
  readonly host: Host
  readonly epoch: number
  /** What it is used as. */
  readonly role: "writer" | "reader"
  /** An idle connection if there is one. The caller owes a `give`. */
  readonly unsafeTake: () => Session | undefined
  /** A connection, opened or waited for. The caller owes a `give`. */
  readonly take: Effect.Effect<Session, SessionError | PoolTimeout>
  /** Hands a connection back; one that broke is dropped. */
  readonly give: (session: Session) => void
  /** Has a connection to the host, and opens one if there is none: proof that the host takes us. */
  readonly warm: Effect.Effect<void, SessionError>
  readonly stats: () => Stats
  /** Ends everything at once: idle connections, those in use, and the waiters. */
  readonly cut: () => void
  readonly isCut: () => boolean
}

interface Entry {
  readonly session: Session
  readonly expiresAt: number
  idleSince: number
}

interface Waiter {
  readonly since: number
  readonly resume: (exit: Exit.Exit<Session, SessionError | PoolTimeout>) => void
}

/**
 * Opens nothing yet. The pool is cut when the scope closes.
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = (options: {
  readonly host: Host
  readonly epoch: number
  /** Default `"writer"`. */
  readonly role?: "writer" | "reader" | undefined
  readonly settings: Settings
  readonly open: Effect.Effect<Session, SessionError>
}): Effect.Effect<HostPool, never, Scope.Scope> =>
  Effect.gen(function* () {
    const { host, settings } = options
    const clock = yield* Effect.clock
    const fork = yield* FiberSet.makeRuntime<never>()
    const ttl = Duration.toMillis(settings.connectionTTL)
    const entries = new Map<Session, Entry>()
    const idle: Array<Entry> = []
    // Insertion order is arrival order, and an interrupted waiter leaves in constant time.
    const waiters = new Set<Waiter>()
    let opening = 0
    let cutOff = false
    let timing = false

    const drop = (entry: Entry): void => {
      entries.delete(entry.session)
      entry.session.destroy()
    }

    const usable = (entry: Entry): boolean =>
      entry.session.isOpen() && clock.unsafeCurrentTimeMillis() < entry.expiresAt

    const unsafeTake = (): Session | undefined => {
      // The most recently used first: the others may grow idle.
      for (let entry = idle.pop(); entry !== undefined; entry = idle.pop()) {
        if (usable(entry)) return entry.session
        drop(entry)
      }
      return undefined
    }

    const firstWaiter = (): Waiter | undefined => waiters.values().next().value

    /** To the first waiter, or to the free list. */
    const offer = (entry: Entry): void => {
      const waiter = firstWaiter()
      if (waiter !== undefined) {
        waiters.delete(waiter)
        return waiter.resume(Exit.succeed(entry.session))
      }
      entry.idleSince = clock.unsafeCurrentTimeMillis()
      idle.push(entry)
    }

    const give = (session: Session): void => {
      const entry = entries.get(session)
      if (entry === undefined) return session.destroy()
      if (usable(entry)) return offer(entry)
      drop(entry)
      grow()
    }

    const adopt = (session: Session, variance: number): Entry => {
      const now = clock.unsafeCurrentTimeMillis()
      const entry: Entry = { session, expiresAt: now + ttl * variance, idleSince: now }
      entries.set(session, entry)
      session.onClose(() => {
        entries.delete(session)
        const at = idle.indexOf(entry)
        if (at >= 0) idle.splice(at, 1)
        grow()
      })
      return entry
    }

    const failWaiters = (error: SessionError): void => {
      const failed = [...waiters]
      waiters.clear()
      const exit = Exit.fail(error)
      for (const waiter of failed) waiter.resume(exit)
    }

    /** Those in use will come back, and others are being opened: then whoever waits may still be served. */
    const openingFailed = (cause: Cause.Cause<SessionError>): void => {
      if (entries.size + opening > 0 || waiters.size === 0) return
      // An interrupted opening says nothing about the host.
      if (Cause.isInterruptedOnly(cause)) return openOne()
      failWaiters(
        Option.getOrElse(
          Cause.failureOption(cause),
          () => new SessionError({ cause, fate: "NotSent" })
        )
      )
    }

    /** The connection is entered, unless the pool was cut while it was being opened. */
    const open: Effect.Effect<Entry, SessionError> = Effect.uninterruptibleMask((restore) => {
      opening++
      return restore(options.open).pipe(
        Effect.onExit((exit) =>
          Effect.sync(() => {
            opening--
            if (Exit.isFailure(exit)) openingFailed(exit.cause)
          })
        ),
        Effect.zip(Random.nextRange(1 - TTL_VARIANCE, 1)),
        Effect.flatMap(([session, variance]) => {
          if (!cutOff) return Effect.succeed(adopt(session, variance))
          session.destroy()
          return Effect.fail(cutError())
        })
      )
    })

    const cutError = () => new SessionError({ cause: new PoolCut({ host }), fate: "NotSent" })

    const openOne = (): void => {
      if (cutOff || entries.size + opening >= settings.maxConnections) return
      // The pool may have been made where nothing can be interrupted: a hung host must not hold up the cut.
      fork(
        Effect.interruptible(
          Effect.ignore(
            Effect.map(open, (entry) => {
              offer(entry)
              grow()
            })
          )
        )
      )
    }

    /** For those who wait and for whom no connection is being opened yet. */
    const grow = (): void => {
      const limit = Math.min(Math.max(1, entries.size), settings.maxConnections - entries.size)
      for (let more = Math.min(waiters.size, limit) - opening; more > 0; more--) openOne()
    }

    /** All waiters have the same patience, so the first to come is the first to give up. */
    const timeOut = Effect.gen(function* () {
      for (let oldest = firstWaiter(); oldest !== undefined; oldest = firstWaiter()) {
        const elapsed = Duration.millis(clock.unsafeCurrentTimeMillis() - oldest.since)
        if (Duration.greaterThanOrEqualTo(elapsed, settings.acquireTimeout)) {
          waiters.delete(oldest)
          const { maxConnections } = settings
          oldest.resume(Exit.fail(new PoolTimeout({ host, elapsed, maxConnections })))
        } else {
          yield* Effect.sleep(Duration.subtract(settings.acquireTimeout, elapsed))
        }
      }
    }).pipe(Effect.ensuring(Effect.sync(() => (timing = false))), Effect.interruptible)

    const take: HostPool["take"] = Effect.async((resume) => {
      if (cutOff) return resume(Effect.fail(cutError()))
      const session = unsafeTake()
      if (session !== undefined) return resume(Effect.succeed(session))
      let taken: Session | undefined
      const waiter: Waiter = {
        since: clock.unsafeCurrentTimeMillis(),
        resume: (exit) => {
          if (Exit.isSuccess(exit)) taken = exit.value
          resume(exit)
        }
      }
      waiters.add(waiter)
      grow()
      if (!timing) {
        timing = true
        fork(timeOut)
      }
      return Effect.sync(() => {
        // Interrupted after a connection had been handed over, but before the fiber took note of it.
        if (!waiters.delete(waiter) && taken !== undefined) give(taken)
      })
    })

    const cut = (): void => {
      cutOff = true
      const all = [...entries.keys()]
      entries.clear()
      idle.length = 0
      for (const session of all) session.destroy()
      failWaiters(cutError())
    }

    /** Ends what was idle too long, keeping `minConnections`. */
    const evict = Effect.sync(() => {
      const limit = clock.unsafeCurrentTimeMillis() - Duration.toMillis(settings.idleTimeout)
      for (const entry of [...idle]) {
        const expired = !usable(entry)
        if (!expired && (entry.idleSince > limit || entries.size <= settings.minConnections))
          continue
        idle.splice(idle.indexOf(entry), 1)
        drop(entry)
      }
      for (let i = entries.size + opening; i < settings.minConnections; i++) openOne()
    })

    yield* Effect.addFinalizer(() => Effect.sync(cut))
    yield* evict.pipe(
      Effect.delay(Duration.times(Duration.min(settings.idleTimeout, settings.connectionTTL), 0.5)),
      Effect.forever,
      Effect.interruptible,
      Effect.forkScoped
    )

    return {
      host,
      epoch: options.epoch,
      role: options.role ?? "writer",
      unsafeTake,
      take,
      give,
      warm: Effect.suspend(() =>
        // A full pool of open connections, or an idle one, is proof enough.
        idle.some(usable) || entries.size + opening >= settings.maxConnections
          ? Effect.void
          : Effect.uninterruptibleMask((restore) =>
              Effect.map(restore(open), (entry) => offer(entry))
            )
      ),
      stats: () => ({ open: entries.size, idle: idle.length, waiting: waiters.size }),
      cut,
      isCut: () => cutOff
    } satisfies HostPool
  })
