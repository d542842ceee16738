/** The work of a scenario, done by callers who note what they are told. */
import type { SqlClient } from "@effect/sql"
import { Cause, Effect, Exit, Fiber, Schedule, Stream } from "effect"
import { Failover, Readers } from "effect-failover"
import type { Options as ClusterOptions } from "effect-failover/testing/SimulatedCluster"
import type { History } from "../chaos/history.js"
import { signalOf } from "../test/matrix/signal.js"
import type { Client, Watch } from "./invariants.js"
import type { ClientOptions, Work } from "./scenario.js"

export interface SqlClientOf extends Client {
  readonly sql: SqlClient.SqlClient
}

/** It is of the size of a failover that the scenarios make. */
const RETRY_FOR = 20_000

const retries = Schedule.spaced("20 millis").pipe(Schedule.upTo(RETRY_FOR))

/** How long a COMMIT that was not answered is looked for, and how long a ROLLBACK is waited for. */
const RESOLVE_FOR = 10_000
const ROLLBACK_FOR = 1000

/** More than any work may take: nothing goes on for this long after the end. */
export const END_BOUND = 600_000

/** For what no option speaks of: a server's answers under way, the pauses between attempts. */
const SLACK = 5000

/**
 * When a caller must have been told. Each statement may take `queryTimeout`; getting a connection, and
 * one failover, are on top.
 */
export const patience = (work: Work, options: ClientOptions): number => {
  const { acquireTimeout, connectTimeout, failoverTimeout, queryTimeout } = options
  const once = acquireTimeout + failoverTimeout + queryTimeout + connectTimeout + SLACK
  const steps = (work.writes + 3) * (work.think + queryTimeout)
  switch (work.kind) {
    case "write":
    case "read":
    case "last":
      return once
    case "reader statement":
    case "reader stream":
    case "reader write":
    case "own writes":
      return 4 * once
    case "reader transaction":
      return 4 * once + steps + ROLLBACK_FOR
    case "idempotent":
      // Cut off again by each failover, it is moved again.
      return 3 * once
    case "retried":
      return RETRY_FOR + 2 * (once + steps + RESOLVE_FOR)
    default:
      return once + steps + RESOLVE_FOR + ROLLBACK_FOR
  }
}

const insert = (sql: SqlClient.SqlClient, id: number) =>
  sql.unsafe("INSERT INTO work (id) VALUES ($1)", [id])

interface Seen {
  readonly host: string
  readonly role: "writer" | "reader"
  readonly ids: ReadonlySet<number>
}

const isSeen = (u: unknown): u is Seen => typeof u === "object" && u !== null && "ids" in u

/** What SELECTs of readers show: all that is there. */
export const answer: NonNullable<ClusterOptions["answer"]> = ({ sql }, { host, role, writes }) => {
  if (!sql.startsWith("SELECT seen")) return undefined
  const ids = new Set<number>()
  for (const { params } of writes()) if (typeof params[0] === "number") ids.add(params[0])
  return [{ host, role, ids } satisfies Seen]
}

/** What a caller does, and which of its writes must be there as a whole, or not at all. */
interface Deed {
  /** What its statements are known by, if not by what they write. */
  readonly marks?: ReadonlyArray<number>
  readonly ids: ReadonlyArray<number>
  readonly never: ReadonlyArray<number>
  readonly run: Effect.Effect<unknown, unknown>
}

const deedOf = (client: SqlClientOf, work: Work, id: () => number): Deed => {
  const { failover, sql } = client
  const think = work.think === 0 ? Effect.void : Effect.sleep(work.think)
  const ids = Array.from({ length: work.writes }, id)
  const [first = 0, ...rest] = ids
  const each = (ids: ReadonlyArray<number>) =>
    Effect.forEach(ids, (id) => Effect.zipRight(insert(sql, id), think), { discard: true })
  const made = (run: Deed["run"]): Deed => ({ ids, never: [], run })
  switch (work.kind) {
    case "write":
    case "reserved":
    case "own writes":
      return { ids: [first], never: [], run: insert(sql, first) }
    case "reader write":
      return { ids: [], never: [first], run: Failover.onReader(insert(sql, first), work.reading) }
    case "reader statement":
    case "reader transaction":
    case "reader stream":
      return { ids: [], marks: [first], never: [], run: readOf(client, work, first, think) }
    case "last":
      return {
        ids: [first],
        never: [],
        run: sql.unsafe("INSERT INTO last_work (id) VALUES ($1)", [first])
      }
    case "read":
      return {
        ids: [],
        marks: [first],
        never: [],
        run: sql.unsafe("SELECT count(*) FROM work WHERE id <> $1", [first])
      }
    case "idempotent":
      return {
        ids: [first],
        never: [],
        run: Failover.idempotent(
          sql.unsafe("INSERT INTO keyed_work (id) VALUES ($1) ON CONFLICT DO NOTHING", [first])
        ).pipe(Effect.provideService(Failover.Failover, failover))
      }
    case "transaction":
      return made(sql.withTransaction(each(ids)))
    case "nested":
      return made(
        sql.withTransaction(
          insert(sql, first).pipe(
            Effect.zipRight(think),
            Effect.zipRight(sql.withTransaction(each(rest)))
          )
        )
      )
    case "undone": {
      const inner = id()
      return {
        ids,
        never: [inner],
        run: sql.withTransaction(
          each(ids).pipe(
            Effect.zipRight(
              Effect.ignore(
                sql.withTransaction(Effect.zipRight(each([inner]), Effect.fail("its own")))
              )
            )
          )
        )
      }
    }
    case "failing":
      return made(sql.withTransaction(Effect.zipRight(each(ids), Effect.fail("its own"))))
    case "retried":
      return made(
        sql
          .withTransaction(each(ids))
          .pipe(
            Failover.retryTransaction(retries),
            Effect.provideService(Failover.Failover, failover)
          )
      )
    case "parallel":
      return made(
        sql.withTransaction(
          Effect.forEach(ids, (id) => insert(sql, id), { concurrency: "unbounded", discard: true })
        )
      )
  }
}

/** Answers with what was seen. A transaction reads several times. */
const readOf = (
  { sql }: SqlClientOf,
  work: Work,
  mark: number,
  think: Effect.Effect<void>
): Effect.Effect<ReadonlyArray<Seen>, unknown> => {
  const look = sql.unsafe<object>("SELECT seen FROM work WHERE mark = $1", [mark])
  const once = Effect.map(look, (rows) => rows.filter(isSeen))
  const read = () => {
    switch (work.kind) {
      case "reader transaction":
        return sql.withTransaction(
          Effect.map(
            Effect.forEach(Array.from({ length: work.writes + 1 }), () =>
              Effect.zipLeft(once, think)
            ),
            (_) => _.flat()
          )
        )
      case "reader stream":
        return Effect.map(Stream.runCollect(look.stream), (_) => [..._].filter(isSeen))
      default:
        return once
    }
  }
  return Failover.onReader(Effect.suspend(read), work.reading)
}

/** One that was interrupted, or that stopped waiting, knows nothing. */
const told = (exit: Exit.Exit<unknown, unknown>) =>
  Exit.isFailure(exit) && Cause.isInterruptedOnly(exit.cause)
    ? ({ text: "interrupted", claim: "Unknown" } as const)
    : signalOf(exit)

/** What a piece of work is told when all is well, if not that it is done. */
const EXPECTED: Partial<Record<Work["kind"], string>> = {
  failing: "the caller's own failure",
  "reader write": "WriteOnReader NotExecuted"
}

/** Done by callers of their own; each piece of work ends with what was told. */
export const make = (options: {
  readonly watch: Watch
  readonly history: History
  readonly clients: ReadonlyArray<SqlClientOf>
}) => {
  const { clients, history, watch } = options
  const clientOptions = watch.scenario.options

  /** A caller who leaves is free at once; out of a transaction, when its ROLLBACK is answered. */
  const checkLeave = (work: Work, label: string, since: number): Effect.Effect<void> =>
    Effect.sync(() => {
      const took = watch.elapsed() - since
      const isInTransaction = ![
        "write",
        "read",
        "idempotent",
        "reserved",
        "reader statement",
        "reader stream",
        "reader write",
        "own writes"
      ].includes(work.kind)
      if (took > (isInTransaction ? ROLLBACK_FOR : 0)) {
        watch.violate("deadlines", `${label} was left, and its caller free only ${took} ms later`)
      }
    })

  const leaving = (work: Work, label: string) =>
    Effect.sync(() => {
      watch.note(`${label} is left by its caller`)
      if (watch.isBusy(work.client)) watch.seen("an interrupt while a statement was under way")
      return watch.elapsed()
    })

  const perform = (
    work: Work,
    label: string,
    run: Deed["run"]
  ): Effect.Effect<unknown, unknown> => {
    const { leaves } = work
    if (leaves === undefined) return run
    if (leaves.by === "timeout") {
      const at = watch.elapsed() + leaves.after
      return Effect.timeoutOption(run, leaves.after).pipe(
        Effect.flatMap((answer) =>
          answer._tag === "Some"
            ? Effect.void
            : Effect.zipRight(checkLeave(work, label, at), Effect.interrupt)
        )
      )
    }
    return Effect.flatMap(Effect.fork(run), (fiber) =>
      Effect.timeoutOption(Fiber.await(fiber), leaves.after).pipe(
        Effect.flatMap((ended) =>
          ended._tag === "Some"
            ? ended.value
            : Effect.flatMap(leaving(work, label), (since) =>
                Effect.tap(Fiber.interrupt(fiber), checkLeave(work, label, since))
              ).pipe(Effect.flatten)
        )
      )
    )
  }

  const record = (work: Work, deed: Deed, label: string): Effect.Effect<void> =>
    Effect.uninterruptibleMask((restore) => {
      const start = watch.elapsed()
      watch.note(`${label} begins`)
      const isQuiet = watch.isCalm(start - watch.settling, start)
      return history.record({
        kind: work.kind,
        ids: deed.ids,
        never: deed.never,
        run: Effect.onExit(restore(perform(work, label, deed.run)), (exit) =>
          Effect.sync(() => {
            const signal = told(exit)
            const end = watch.elapsed()
            watch.told(work, label, deed.marks ?? deed.ids, signal)
            if (signal.claim === "Done") watch.acknowledge(deed.ids)
            const [mark] = deed.marks ?? deed.never
            if (mark !== undefined) watch.toldOfRead(work, label, mark, start, signal.text)
            if (Exit.isSuccess(exit)) saw(work, label, start, exit.value)
            const limit = patience(work, clientOptions)
            if (end - start > limit) {
              watch.violate(
                "deadlines",
                `${label} took ${end - start} ms, and may take ${limit} ms`
              )
            }
            const isUndisturbed =
              isQuiet && watch.isCalm(start, end) && signal.text !== "interrupted"
            if (isUndisturbed) watch.seen("work without any disturbance")
            // Long after everything is well again, nothing may be left of it.
            else if (work.kind !== "last") return
            const isExpected =
              signal.text === (EXPECTED[work.kind] ?? "success") ||
              signal.text.startsWith("PoolTimeout")
            if (!isExpected) {
              watch.violate("liveness", `${label} was told ${signal.text} while all was well`)
            }
          })
        )
      })
    })

  /** What a read on readers saw is held against what it must have seen. */
  const saw = (work: Work, label: string, start: number, value: unknown): void => {
    if (work.reading === undefined || !Array.isArray(value)) return
    const seen = value.filter(isSeen)
    for (const { role } of seen) {
      watch.seen(
        role === "reader" ? "a read on a reader" : "a read on the writer for want of a reader"
      )
    }
    if (new Set(seen.map((_) => _.host)).size > 1) {
      watch.violate("a transaction has one host", `${label}: ${seen.map((_) => _.host).join()}`)
    }
    const isOnWriter = seen.some((_) => _.role === "writer")
    if (
      isOnWriter &&
      // Where readers cannot tell what they have, own writes are looked for on the writer.
      work.kind !== "own writes" &&
      work.reading.mode === "strict-reader" &&
      watch.scenario.hosts > 1 &&
      watch.isCalm(start - watch.settling, watch.elapsed())
    ) {
      watch.violate("strict readers are readers", `${label} was read from the writer`)
    }
    const { maxStaleness } = work.reading
    const [first] = seen
    if (maxStaleness !== undefined && first !== undefined) {
      watch.checkBound(label, first.ids, start - maxStaleness)
    }
  }

  /** Writes, and looks whether it is there: whoever was told that it is must see it. */
  const ownWrites = (client: SqlClientOf, work: Work, label: string, id: () => number) =>
    Effect.gen(function* () {
      const ids = Array.from({ length: work.writes }, id)
      let written: ReadonlyArray<number> = []
      for (const [i, one] of ids.entries()) {
        const run = Effect.tap(insert(client.sql, one), () =>
          Effect.sync(() => (written = [...written, one]))
        )
        const write = { ...work, reading: undefined, leaves: undefined }
        yield* record(write, { ids: [one], never: [], run }, `${label}.${i}`)
        if (work.think > 0) yield* Effect.sleep(work.think)
        const must = written
        const mark = id()
        const look = Effect.tap(readOf(client, work, mark, Effect.void), ([seen]) =>
          Effect.sync(() => {
            if (seen === undefined) return
            for (const id of must) {
              if (seen.ids.has(id)) continue
              watch.violate(
                "own writes are seen",
                `${label} has written ${id}, and ${seen.host} did not show it`
              )
            }
            if (must.length > 0 && seen.role === "reader")
              watch.seen("own writes were seen on a reader")
          })
        )
        yield* record(
          { ...work, leaves: undefined },
          { ids: [], marks: [mark], never: [], run: look },
          `${label}.${i} read`
        )
      }
    }).pipe(Readers.readYourWrites)

  let number = 0

  return (work: Work): Effect.Effect<void> =>
    Effect.suspend(() => {
      const client = clients[work.client] ?? clients[0]
      if (client === undefined) return Effect.void
      const label = `${work.kind} ${++number} of client ${client.index}`
      const id = () => history.id()
      if (work.kind === "own writes") {
        const run = ownWrites(client, work, label, id)
        return record(work, { ids: [], never: [], run }, label)
      }
      if (work.kind !== "reserved") return record(work, deedOf(client, work, id), label)
      const { sql } = client
      const reserve = Effect.scoped(
        Effect.flatMap(sql.reserve, (connection) =>
          Effect.forEach(
            Array.from({ length: work.writes }, id),
            (id, i) => {
              const run = connection.executeUnprepared(
                "INSERT INTO work (id) VALUES ($1)",
                [id],
                undefined
              )
              return Effect.zipRight(
                record(
                  { ...work, leaves: undefined },
                  { ids: [id], never: [], run },
                  `${label}.${i}`
                ),
                Effect.sleep(work.think)
              )
            },
            { discard: true }
          )
        )
      )
      return record(work, { ids: [], never: [], run: reserve }, label)
    })
}
