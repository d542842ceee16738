/**
 * What the library asks servers by itself: role, topology, promotion, commits. Recognised by the functions
 * and catalogs that a question names, and answered column by column, so that the order of columns and the
 * wording of the rest are the dialects' own affair.
 *
 * @internal
 */
import * as Freshness from "./freshness.js"
import type { Member } from "./replication.js"
import type { Server } from "./server.js"
import { serverError, ServerError } from "./serverError.js"
import * as TransactionStatus from "./transactionStatus.js"
import type { World } from "./world.js"

const NAMES =
  /\b(pg_is_in_recovery|pg_walfile_name|pg_postmaster_start_time|pg_stat_replication|pg_proc|aurora_\w+|pg_xact_status|pg_logical_emit_message|pg_current_wal_insert_lsn|pg_last_wal_replay_lsn)\b|^SET SESSION CHARACTERISTICS\b/

/** @internal */
export const isInternal = (sql: string): boolean => NAMES.test(sql)

/** Whether the question is a write, and its own commit is waited for. @internal */
export const writes = (sql: string): boolean => sql.includes("pg_logical_emit_message")

/** How long a standby is to wait for its promotion, if that is what is asked. @internal */
export const parkedMillis = (sql: string): number | undefined => {
  if (!/^DO\b/i.test(sql) || !sql.includes("pg_is_in_recovery")) return undefined
  return Number(/'(\d+) milliseconds'/.exec(sql)?.[1] ?? 0)
}

/** The columns of a SELECT: commas within parentheses and literals separate none. */
const columnsOf = (sql: string): ReadonlyArray<string> => {
  const columns: Array<string> = []
  let depth = 0
  let column = ""
  for (const token of sql.match(/'(?:[^']|'')*'|\bFROM\b|[^']/g) ?? []) {
    if (depth === 0 && token === "FROM") break
    if (token === "(") depth++
    if (token === ")") depth--
    if (depth === 0 && token === ",") {
      columns.push(column)
      column = ""
    } else {
      column += token
    }
  }
  return [...columns, column].map((_) => _.replace(/^\s*SELECT\b/, "").trim())
}

const segmentOf = ({ timeline }: Server): string =>
  timeline.toString(16).toUpperCase().padStart(8, "0").padEnd(23, "0") + "1"

type Column = (world: World, server: Server, member: Member | undefined) => unknown

const COLUMNS: ReadonlyArray<{ readonly about: RegExp; readonly value: Column }> = [
  {
    about: /pg_stat_replication/,
    value: ({ replication }, server) =>
      server.role === "reader"
        ? null
        : JSON.stringify(
            // In here, names are addresses.
            replication.followers(server).map((_) => [_.name, _.name, false, _.lagBy])
          )
  },
  {
    about: /pg_walfile_name/,
    value: (_world, server) => (server.role === "reader" ? null : segmentOf(server))
  },
  { about: /pg_postmaster_start_time/, value: (_world, server) => server.startText() },
  { about: /aurora_db_instance_identifier/, value: (_world, server) => server.name },
  {
    about: /^NOT\b.*pg_is_in_recovery/,
    value: (_world, server) => server.role === "writer"
  },
  { about: /pg_is_in_recovery/, value: (_world, server) => server.role === "reader" },
  { about: /MASTER_SESSION_ID/, value: (_world, _server, member) => member?.isWriter },
  { about: /SERVER_ID/, value: (_world, _server, member) => member?.name },
  { about: /LAG_IN_MSEC/, value: (_world, _server, member) => member?.lagMillis },
  {
    about: /LAST_UPDATE_TIMESTAMP/,
    // An instance reports to the others, and not to itself.
    value: (_world, server, member) =>
      member === undefined || member.name === server.name ? null : member.updatedAt / 1000
  },
  { about: /^1$/, value: () => 1 }
]

/** Members that have not reported for so long are not asked for, but for the writer. */
const FORGOTTEN_MILLIS = 300_000

const membersOf = (world: World, server: Server): ReadonlyArray<Member> | ServerError => {
  const { replication, timers } = world
  return replication.members === undefined
    ? serverError("42883", { message: "function aurora_replica_status() does not exist" })
    : replication
        .members(server)
        .filter((_) => _.isWriter || timers.now() - _.updatedAt <= FORGOTTEN_MILLIS)
}

const FUNCTIONS_OF_AURORA: ReadonlySet<string> = new Set([
  "aurora_replica_status",
  "aurora_db_instance_identifier"
])

/** Whether the server has functions of these names, or any at all. */
const catalog = ({ replication }: World, sql: string): ReadonlyArray<object> => {
  const asked = [...sql.matchAll(/proname\b[^']*'(\w+)'/g)]
  return asked.length === 0
    ? [{ column: 1 }]
    : [
        {
          exists:
            replication.members !== undefined &&
            asked.every(([, name]) => FUNCTIONS_OF_AURORA.has(name ?? ""))
        }
      ]
}

/** A question that was read: they are few, and asked again and again. @internal */
export interface Question {
  /** One row for each. */
  readonly isOfMembers: boolean
  readonly columns: ReadonlyArray<{ readonly name: string; readonly value: Column }>
}

const read = (sql: string): Question | ServerError => {
  const columns: Array<{ readonly name: string; readonly value: Column }> = []
  for (const text of columnsOf(sql)) {
    const known = COLUMNS.find((_) => _.about.test(text))
    if (known === undefined) {
      return serverError("0A000", { message: `the simulated server does not know: ${text}` })
    }
    const name = /(\w+)\s*\(\)(?:::[\w.]+)?$/.exec(text)?.[1]
    const isFree = name !== undefined && !columns.some((_) => _.name === name)
    columns.push({ name: isFree ? name : `column${columns.length + 1}`, value: known.value })
  }
  return { isOfMembers: sql.includes("aurora_replica_status"), columns }
}

/** `xid`: of the transaction that asks, if it has written. @internal */
export const answer = (
  world: World,
  server: Server,
  sql: string,
  xid: number | undefined
): ReadonlyArray<object> | ServerError => {
  if (writes(sql) && server.role === "reader") {
    return serverError("55000", { message: "recovery is in progress" })
  }
  if (sql.includes("pg_xact_status")) return TransactionStatus.resolve(server, sql)
  if (writes(sql)) return TransactionStatus.mark(world, server, xid)
  if (sql.includes("pg_proc")) return catalog(world, sql)
  const freshness = Freshness.answer(world, server, sql)
  if (freshness !== undefined) return freshness
  const question = world.questions.get(sql) ?? read(sql)
  world.questions.set(sql, question)
  if (question instanceof ServerError) return question
  const members = question.isOfMembers ? membersOf(world, server) : [undefined]
  if (members instanceof ServerError) return members
  return members.map((member) =>
    Object.fromEntries(
      question.columns.map(({ name, value }) => [name, value(world, server, member)])
    )
  )
}
