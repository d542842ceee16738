/**
 * The few forms of AQL that tests need. Anything else is a parse error that says so.
 *
 * ```text
 * RETURN <value>
 * FOR x IN 1..5 RETURN x
 * FOR d IN collection [FILTER d.field == <value>] [LIMIT n] RETURN d | d.field
 * INSERT <value> INTO collection [RETURN NEW]
 * ```
 *
 * A value is a bind parameter, a number, a string, or JSON.
 *
 * @internal
 */
import { insert } from "./documents.js"
import type { Call, Reply } from "./protocol.js"
import { failure, fields } from "./protocol.js"
import type { Workspace } from "./store.js"

const unsupported = (query: string): Reply =>
  failure(
    400,
    1501,
    `AQL: the double understands RETURN, FOR over a range or a collection with FILTER == and LIMIT, and INSERT; not: ${query}`
  )

const range = /^FOR\s+(\w+)\s+IN\s+(\S+?)\.\.(\S+)\s+RETURN\s+\1$/i
const scan =
  /^FOR\s+(\w+)\s+IN\s+(\S+)(?:\s+FILTER\s+\1\.(\w+)\s*==\s*(\S+))?(?:\s+LIMIT\s+(\S+))?\s+RETURN\s+\1(?:\.(\w+))?$/i
const insertion = /^INSERT\s+(.+?)\s+(?:INTO|IN)\s+(\S+)(\s+RETURN\s+NEW)?$/is
const plain = /^RETURN\s+(.+)$/is

class Unreadable extends Error {}

/** @internal */
export const run = (call: Call, workspace: Workspace): ReadonlyArray<unknown> | Reply => {
  const input = fields(call.body)
  const query = String(input["query"] ?? "").trim()
  const bindVars = fields(input["bindVars"])

  const bound = (name: string): unknown => {
    if (!Object.hasOwn(bindVars, name)) throw new Unreadable(`no value for @${name}`)
    return bindVars[name]
  }
  const value = (token: string): unknown => {
    if (/^@\w+$/.test(token)) return bound(token.slice(1))
    try {
      return JSON.parse(token.replaceAll("'", '"'))
    } catch {
      throw new Unreadable(token)
    }
  }
  const name = (token: string): string =>
    token.startsWith("@@") ? String(bound(token.slice(1))) : token.replaceAll("`", "")

  try {
    const inserted = insertion.exec(query)
    if (inserted !== null) {
      const [, document = "", collection = "", returning] = inserted
      const where = { database: call.database, collection: name(collection) }
      const result = insert(workspace, where, value(document))
      return "status" in result ? result : returning === undefined ? [] : [result.after]
    }
    const counted = range.exec(query)
    if (counted !== null) {
      const from = Number(value(counted[2] ?? ""))
      const to = Number(value(counted[3] ?? ""))
      return Array.from({ length: Math.max(0, to - from + 1) }, (_, i) => from + i)
    }
    const scanned = scan.exec(query)
    if (scanned !== null) {
      const [, , collection = "", field, wanted, limit, returned] = scanned
      const documents = workspace.store.collection(call.database, name(collection))
      if (documents === undefined) {
        return failure(404, 1203, `AQL: collection or view not found: ${name(collection)}`)
      }
      const all = [...documents.values()].filter(
        (_) => field === undefined || _[field] === value(wanted ?? "")
      )
      return all
        .slice(0, limit === undefined ? all.length : Number(value(limit)))
        .map((_) => (returned === undefined ? _ : _[returned]))
    }
    const returned = plain.exec(query)
    return returned === null ? unsupported(query) : [value(returned[1] ?? "")]
  } catch (error) {
    if (error instanceof Unreadable) return unsupported(query)
    throw error
  }
}
