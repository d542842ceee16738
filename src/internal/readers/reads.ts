/**
 * Runs statements on readers. Nothing that runs here can write, so whatever is cut off may be run again: a
 * caller is told of nothing that another host could do.
 *
 * | what fails | what happens |
 * |---|---|
 * | no host may be read from | waited for, within `failoverTimeout` |
 * | no connection, or nothing of the statement had left | sent to another host |
 * | no connection within `acquireTimeout` | `PoolTimeout` |
 * | the connection, after the statement was sent | sent to another host, twice at most, for a statement may be what kills its server: then `FailoverSuccess` |
 * | ... behind a pooler, where sessions cannot be made read-only | `FailoverSuccess` |
 * | ... of a stream that has begun | `FailoverSuccess`: what was handed out cannot be taken back |
 * | ... inside a transaction, or on a reserved connection | `TransactionResolutionUnknown`, rolled back; `FailoverSuccess` |
 * | BEGIN was not answered | begun on another host |
 * | COMMIT was not answered | success: there was nothing to commit |
 * | the server refuses to write | `WriteOnReader` |
 * | the host has not what was asked for (`after`) in time | the writer is read from, if there is one and the mode allows it; else another host is tried |
 * | no answer within `queryTimeout` | `StatementTimeout`, nothing of it remains; the host is looked at |
 * | the server answers with any other error | that error |
 *
 * @internal
 */
import type { SqlConnection } from "@effect/sql"
import { SqlError } from "@effect/sql"
import type { Scope } from "effect"
import { Cause, Clock, Duration, Effect, Either, Metric, Random, Stream } from "effect"
import * as CommitResolution from "../../CommitResolution.js"
import type { Request, Row, Session, SessionError } from "../../Connector.js"
import type { ErrorClassifier } from "../../ErrorClassifier.js"
import type { PoolTimeout } from "../../Errors.js"
import { FailoverFailed, WriteOnReader } from "../../Errors.js"
import type { Host } from "../../Host.js"
import type { HostPool } from "../../HostPool.js"
import type { Topology } from "../../Topology.js"
import type { Rejection } from "../../TopologyState.js"
import * as Connection from "../connection.js"
import type { Restore } from "../leases.js"
import * as Leases from "../leases.js"
import type { Reading } from "../reading.js"
import type { Services } from "../sessionTransaction.js"
import { SessionTransaction } from "../sessionTransaction.js"
import type { Lease } from "../tell.js"
import { answered, sqlError } from "../tell.js"
import * as Tell from "../tell.js"
import type { TransactionConnection } from "../transaction.js"
import type { Fleet } from "./fleet.js"
import type { Member } from "./member.js"

/** @internal */
export interface Reads {
  /** On the member that was chosen, if one was. */
  readonly execute: (
    reading: Reading,
    request: Request,
    annotate?: (pool: HostPool) => void,
    chosen?: Member
  ) => Effect.Effect<Row, SqlError.SqlError>
  /** Asks a second reader if the first one takes longer than nearly all statements do. */
  readonly hedged: Reads["execute"]
  readonly stream: (reading: Reading, request: Request) => Stream.Stream<Row, SqlError.SqlError>
  readonly reserve: (
    reading: Reading
  ) => Effect.Effect<SqlConnection.Connection, SqlError.SqlError, Scope.Scope>
  readonly begin: (
    reading: Reading,
    owner: symbol,
    sql: string,
    restore: Restore
  ) => Effect.Effect<TransactionConnection, SqlError.SqlError>
  /** Has a host that may be read from. */
  readonly ready: (reading: Reading) => Effect.Effect<void, FailoverFailed | Rejection>
}

/** A connection of a member's pool. */
interface ReadLease extends Lease {
  readonly member: Member
}

interface Trouble extends Leases.Trouble {
  /** How often the work was sent and not answered. */
  unanswered: number
}

const noTrouble = (): Trouble => ({ ...Leases.noTrouble(), unanswered: 0 })

/** A statement that crashes its server must not go round all of them. */
const MOST_SENDS = 3

const moved = Metric.counter("db.failover.reads.moved", {
  description: "reads that were cut off, and run again on another host",
  incremental: true
})

/** While no host may be read from, it is looked again at least this often. */
const LOOK = Duration.millis(250)

const LONGEST_PAUSE_MILLIS = 500

/** @internal */
export const make = (options: {
  readonly topology: Topology
  readonly fleet: Fleet
  readonly classifier: ErrorClassifier
  readonly failoverTimeout: Duration.Duration
  readonly hedge: (execute: Reads["execute"]) => Reads["execute"]
  /** Whether sessions refuse to write, whatever the server becomes. */
  readonly cannotWrite: () => boolean
  /** Whether the session's host has replayed all up to these positions; waits for it so many milliseconds. */
  readonly isReached: (
    session: Session,
    positions: ReadonlyArray<string>,
    within: number
  ) => Effect.Effect<boolean, SessionError>
}): Reads => {
  const { classifier, fleet, topology } = options

  const inVain = (
    trouble: Trouble,
    { mode }: Reading,
    from: Host | undefined,
    now: number,
    cause: unknown
  ) =>
    sqlError(
      new FailoverFailed({
        reason: fleet.isClosed() ? "Closed" : "Timeout",
        role: mode === "strict-reader" ? "reader" : "writer",
        outcome: "NotExecuted",
        from,
        tried: fleet.tried(),
        elapsed: Duration.millis(now - (trouble.since ?? now)),
        attempts: trouble.rounds,
        cause
      })
    )

  const isOver = (trouble: Trouble, now: number): boolean =>
    fleet.isClosed() || now - (trouble.since ??= now) > Duration.toMillis(options.failoverTimeout)

  /** A host to read from. Waits for one. */
  const member = (
    reading: Reading,
    trouble: Trouble,
    except?: Member
  ): Effect.Effect<Member, SqlError.SqlError> =>
    Effect.suspend(() => {
      fleet.start()
      const chosen = fleet.choose(reading, except) ?? fleet.choose(reading)
      if (chosen !== undefined) return Effect.succeed(chosen)
      return Effect.flatMap(Clock.currentTimeMillis, (now) => {
        if (isOver(trouble, now)) {
          return Effect.fail(inVain(trouble, reading, undefined, now, undefined))
        }
        const rejection = fleet.rejection(trouble.since ?? now)
        return rejection === undefined
          ? Effect.zipRight(fleet.change(LOOK), member(reading, trouble, except))
          : Effect.fail(sqlError(rejection))
      })
    })

  /** Before work is tried again: at once the first time, then a little later each time. */
  const again = (trouble: Trouble, reading: Reading, from: Host, cause: unknown) =>
    Effect.flatMap(Clock.currentTimeMillis, (now) => {
      trouble.rounds++
      if (isOver(trouble, now)) return Effect.fail(inVain(trouble, reading, from, now, cause))
      return trouble.rounds <= 1
        ? Effect.void
        : Effect.flatMap(Random.nextRange(0.5, 1), (factor) =>
            Effect.sleep(Math.min(5 * 2 ** (trouble.rounds - 2), LONGEST_PAUSE_MILLIS) * factor)
          )
    })

  const give = ({ member, pool, session }: ReadLease): void => {
    member.outstanding--
    pool.give(session)
  }

  /** A connection to this host; none if it has not what is asked for, and does not get there in time. */
  const leaseOf = (
    member: Member,
    reading: Reading,
    restore: Restore
  ): Effect.Effect<ReadLease | undefined, SessionError | PoolTimeout> =>
    Effect.suspend(() => {
      const { pool } = member
      const { after, within } = reading
      if (pool === undefined) return Effect.succeed(undefined)
      member.outstanding++
      return restore(pool.take).pipe(
        Effect.onError(() => Effect.sync(() => member.outstanding--)),
        Effect.flatMap((session) => {
          const lease: ReadLease = { member, pool, session }
          if (!fleet.isFit(member, reading)) {
            give(lease)
            return Effect.succeed(undefined)
          }
          if (after.length === 0) return Effect.succeed(lease)
          return restore(options.isReached(session, after, within)).pipe(
            Effect.onError(() => Effect.sync(() => give(lease))),
            Effect.map((isReached) => {
              if (isReached) return lease
              give(lease)
              return undefined
            })
          )
        })
      )
    })

  /** It has all, by nature. */
  const onWriter = (reading: Reading): Reading => ({ ...reading, after: [], onWriter: true })

  /** To be called where it cannot be interrupted: the caller owes a `give`. */
  const acquire = (
    reading: Reading,
    restore: Restore,
    trouble: Trouble,
    first?: Member
  ): Effect.Effect<ReadLease, SqlError.SqlError> =>
    Effect.gen(function* () {
      let next = first
      let isWritersTurn = false
      let except: Member | undefined
      for (;;) {
        const chosen: Member = next ?? (yield* restore(member(reading, trouble, except)))
        next = undefined
        const lease = yield* Effect.either(
          leaseOf(chosen, isWritersTurn ? onWriter(reading) : reading, restore)
        )
        if (Either.isRight(lease)) {
          if (lease.right !== undefined) return lease.right
          if (reading.after.length > 0 && reading.mode === "reader-or-writer" && !isWritersTurn) {
            next = fleet.choose(onWriter(reading))
          }
          isWritersTurn = next !== undefined
          if (next === undefined) yield* restore(again(trouble, reading, chosen.host, undefined))
        } else if (lease.left._tag === "PoolTimeout") {
          return yield* Effect.fail(sqlError(lease.left))
        } else {
          const { cause, fate } = lease.left
          if (fate === "Answered") return yield* Effect.fail(answered(cause))
          chosen.suspect()
          isWritersTurn = false
          yield* restore(again(trouble, reading, chosen.host, cause))
        }
        except = chosen
      }
    })

  const scoped = (
    reading: Reading,
    trouble = noTrouble()
  ): Effect.Effect<ReadLease, SqlError.SqlError, Scope.Scope> =>
    Effect.uninterruptibleMask((restore) =>
      Effect.tap(acquire(reading, restore, trouble), (lease) =>
        Effect.addFinalizer(() => Effect.sync(() => give(lease)))
      )
    )

  const memberOf = ({ pool }: Lease) => fleet.members().find((_) => _.pool === pool)

  /** What is told of work that holds on to one connection of this reading. */
  const tellOf = (reading: Reading): Tell.Tell =>
    Tell.make({
      topology,
      classifier,
      mover: {
        recover: (lease) =>
          Effect.suspend(() => {
            const lost = memberOf(lease)
            lost?.suspect()
            const trouble = noTrouble()
            return member(reading, trouble, lost).pipe(
              Effect.mapError(({ cause }) => cause as FailoverFailed | Rejection),
              Effect.map(({ host, pool, role }) => ({
                to: host,
                role,
                epoch: pool?.epoch ?? topology.unsafeCurrent().epoch,
                attempts: trouble.rounds + 1
              }))
            )
          }),
        look: (lease) => Effect.sync(() => memberOf(lease)?.wake()),
        readOnly: ({ pool }, cause) =>
          Effect.fail(sqlError(new WriteOnReader({ host: pool.host, cause })))
      }
    })

  /** Outside a transaction: returns if the statement may be run on another host. */
  const afterFailure = (
    lease: ReadLease,
    error: SessionError,
    reading: Reading,
    trouble: Trouble
  ): Effect.Effect<void, SqlError.SqlError> => {
    const { cause, fate } = error
    const tell = tellOf(reading)
    const verdict = tell.verdict(error)
    if (fate === "Answered" && verdict !== "ConnectionLost") return tell.refused(lease, error)
    if (fate === "Unanswered" && verdict === "Timeout") {
      return tell.timedOut(lease, cause, options.cannotWrite() ? "RolledBack" : "Unknown")
    }
    if (fate !== "NotSent" && (!options.cannotWrite() || ++trouble.unanswered >= MOST_SENDS)) {
      return tell.failoverSuccess(lease, true, cause)
    }
    return elsewhere(lease, reading, trouble, cause)
  }

  const elsewhere = (
    lease: ReadLease,
    reading: Reading,
    trouble: Trouble,
    cause: unknown
  ): Effect.Effect<void, SqlError.SqlError> => {
    lease.member.suspect()
    return Effect.zipRight(Metric.increment(moved), again(trouble, reading, lease.pool.host, cause))
  }

  const persist = (
    reading: Reading,
    request: Request,
    annotate: ((pool: HostPool) => void) | undefined,
    trouble: Trouble,
    {
      chosen,
      failed
    }: {
      readonly chosen?: Member | undefined
      readonly failed?: { readonly lease: ReadLease; readonly error: SessionError }
    }
  ): Effect.Effect<Row, SqlError.SqlError> =>
    Effect.uninterruptibleMask((restore) => {
      const ready =
        failed === undefined
          ? Effect.void
          : restore(afterFailure(failed.lease, failed.error, reading, trouble))
      return Effect.flatMap(
        Effect.zipRight(ready, acquire(reading, restore, trouble, chosen)),
        (lease) =>
          Effect.suspend(() => {
            annotate?.(lease.pool)
            return restore(lease.session.execute(request))
          }).pipe(
            Effect.ensuring(Effect.sync(() => give(lease))),
            Effect.catchAll((error) =>
              restore(persist(reading, request, annotate, trouble, { failed: { lease, error } }))
            )
          )
      )
    })

  /** One asynchronous step while all is well, as for the writer. */
  const execute: Reads["execute"] = (reading, request, annotate, chosen) =>
    Effect.async((resume) => {
      fleet.start()
      const member = chosen ?? fleet.choose(reading)
      const pool = reading.after.length === 0 ? member?.pool : undefined
      const session = pool?.unsafeTake()
      if (member === undefined || pool === undefined || session === undefined) {
        return resume(persist(reading, request, annotate, noTrouble(), { chosen: member }))
      }
      if (session.submit === undefined) {
        pool.give(session)
        return resume(persist(reading, request, annotate, noTrouble(), { chosen: member }))
      }
      const lease: ReadLease = { member, pool, session }
      member.outstanding++
      annotate?.(pool)
      let done = false
      const cancel = session.submit(request, (error, result) => {
        done = true
        give(lease)
        resume(
          error === undefined
            ? Effect.succeed(result)
            : persist(reading, request, annotate, noTrouble(), { failed: { lease, error } })
        )
      })
      return Effect.sync(() => {
        if (done) return
        cancel()
        give(lease)
      })
    })

  const stream = (
    reading: Reading,
    request: Request,
    trouble = noTrouble()
  ): Stream.Stream<Row, SqlError.SqlError> =>
    Stream.suspend(() => {
      let isBegun = false
      const rows = Stream.unwrapScoped(
        Effect.map(scoped(reading, trouble), (lease) =>
          lease.session.stream(request).pipe(
            Stream.mapChunks((chunk) => {
              isBegun = true
              return chunk
            }),
            Stream.mapError((error) => ({ lease, error }))
          )
        )
      )
      // Outside of the scope: the connection is given back before the next one is taken.
      return Stream.catchAll(rows, (failed) => {
        if (failed instanceof SqlError.SqlError) return Stream.fail(failed)
        const { error, lease } = failed
        return isBegun
          ? Stream.fromEffect(begunStreamFailed(lease, error, reading))
          : Stream.unwrap(
              Effect.as(
                afterFailure(lease, error, reading, trouble),
                stream(reading, request, trouble)
              )
            )
      })
    })

  const begunStreamFailed = (
    lease: ReadLease,
    error: SessionError,
    reading: Reading
  ): Effect.Effect<never, SqlError.SqlError> => {
    const tell = tellOf(reading)
    if (error.fate !== "Answered") return tell.held(lease, error)
    return tell.verdict(error) === "ConnectionLost"
      ? tell.failoverSuccess(lease, true, error.cause)
      : tell.refused(lease, error)
  }

  const beginFailed = (
    lease: ReadLease,
    error: SessionError,
    reading: Reading,
    trouble: Trouble
  ): Effect.Effect<void, SqlError.SqlError> => {
    const tell = tellOf(reading)
    const verdict = tell.verdict(error)
    if (error.fate === "Answered" && verdict !== "ConnectionLost") return tell.refused(lease, error)
    if (error.fate === "Unanswered" && verdict === "Timeout") {
      return tell.timedOut(lease, error.cause, "RolledBack")
    }
    return elsewhere(lease, reading, trouble, error.cause)
  }

  /** Where its session does not say so, the transaction does: its COMMIT must have nothing to commit. */
  const beginOf = (sql: string): string =>
    options.cannotWrite() || sql.includes(" READ ONLY") ? sql : `${sql} READ ONLY`

  /** Nothing has been done yet: it begins again elsewhere. */
  const beginOn = (
    reading: Reading,
    sql: string,
    restore: Restore,
    trouble: Trouble
  ): Effect.Effect<ReadLease, SqlError.SqlError> =>
    Effect.flatMap(acquire(reading, restore, trouble), (lease) =>
      Effect.matchCauseEffect(
        restore(lease.session.execute({ sql, params: [], shape: "command" })),
        {
          onSuccess: () => Effect.succeed(lease),
          onFailure: (cause) => {
            // BEGIN may have been answered in the very moment of the interruption: nobody would end it.
            if (Cause.isInterrupted(cause)) lease.session.destroy()
            give(lease)
            return Either.match(Cause.failureOrCause(cause), {
              onRight: Effect.failCause,
              onLeft: (error) => {
                if (error.fate !== "Answered") lease.session.destroy()
                return Effect.zipRight(
                  restore(beginFailed(lease, error, reading, trouble)),
                  beginOn(reading, sql, restore, trouble)
                )
              }
            })
          }
        }
      )
    )

  return {
    execute,
    hedged: options.hedge(execute),
    stream,
    reserve: (reading) =>
      Effect.map(scoped(reading), (lease) =>
        Connection.onSession(lease.session, (error) =>
          error.fate === "Answered"
            ? tellOf(reading).refused(lease, error)
            : tellOf(reading).held(lease, error)
        )
      ),
    begin: (reading, owner, sql, restore) =>
      Effect.map(
        beginOn(reading, beginOf(sql), restore, noTrouble()),
        (lease) =>
          new ReadTransaction(
            lease,
            owner,
            { leases: { scoped: scoped(reading) }, tell: tellOf(reading) },
            give
          )
      ),
    ready: (reading) =>
      Effect.asVoid(
        Effect.mapError(
          member(reading, noTrouble()),
          ({ cause }) => cause as FailoverFailed | Rejection
        )
      )
  } satisfies Reads
}

/** There is nothing to commit, so nothing to be in doubt about. */
class ReadTransaction extends SessionTransaction {
  constructor(
    private readonly readLease: ReadLease,
    owner: symbol,
    services: Services,
    private readonly giveBack: (lease: ReadLease) => void
  ) {
    super(readLease, owner, services, CommitResolution.readOnly)
  }

  override release(): void {
    this.giveBack(this.readLease)
  }
}
