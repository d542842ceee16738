/**
 * LISTEN and NOTIFY.
 *
 * @internal
 */
import type { Server } from "./server.js"
import type { Command } from "./sqlText.js"

/** @internal */
export interface Message {
  readonly channel: string
  readonly payload: string
}

const FUNCTION = /\bpg_notify\s*\(\s*([^,]+?)\s*,\s*([^)]*?)\s*\)/i

const PAYLOAD = /,\s*('(?:[^']|'')*')\s*$/

/** Whether the command calls `pg_notify`. @internal */
export const isSent = (sql: string): boolean => FUNCTION.test(sql)

/** A literal, or the parameter that stands for it. */
const valueOf = (text: string, params: ReadonlyArray<unknown>): string => {
  const param = /^\$(\d+)/.exec(text)?.[1]
  if (param !== undefined) return String(params[Number(param) - 1] ?? "")
  return (/^'((?:[^']|'')*)'/.exec(text)?.[1] ?? "").replaceAll("''", "'")
}

/** @internal */
export const read = ({ name, text }: Command, params: ReadonlyArray<unknown>): Message => {
  const call = FUNCTION.exec(text)
  return call === null
    ? { channel: name, payload: valueOf(PAYLOAD.exec(text)?.[1] ?? "", params) }
    : { channel: valueOf(call[1] ?? "", params), payload: valueOf(call[2] ?? "", params) }
}

/** To the sessions of this server that listen. @internal */
export const publish = (server: Server, messages: ReadonlyArray<Message>): void => {
  for (const message of messages) {
    for (const backend of [...server.backends]) {
      if (backend.engine.hears(message.channel)) backend.notify(message)
    }
  }
}
