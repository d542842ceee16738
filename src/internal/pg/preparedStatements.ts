/**
 * Which statements of a session are prepared by name, so that the server parses and plans them once.
 *
 * As in pgjdbc: from the fifth use on, and 256 of them at most, so that statements that are written anew
 * each time fill no memory.
 *
 * @internal
 */
import type { Request } from "../../Connector.js"

const THRESHOLD = 5

const MAX_PREPARED = 256

/** Texts that are counted; beyond these, new ones stay unprepared. */
const MAX_COUNTED = 1024

/** @internal */
export class PreparedStatements {
  /** Uses so far, or the name. */
  private readonly known = new Map<string, number | string>()
  private names = 0

  /** A statement without parameters costs no plan worth keeping, and may hold several commands. */
  nameOf({ params, sql, unprepared }: Request): string | undefined {
    if (params.length === 0 || unprepared === true) return undefined
    const known = this.known.get(sql)
    if (typeof known === "string") return known
    const uses = (known ?? 0) + 1
    if (uses >= THRESHOLD && this.names < MAX_PREPARED) {
      const name = `effect_failover_${++this.names}`
      this.known.set(sql, name)
      return name
    }
    if (known !== undefined || this.known.size < MAX_COUNTED) this.known.set(sql, uses)
    return undefined
  }

  /**
   * The table behind it has changed, or somebody deallocated it (DISCARD ALL, a pooler): it was not
   * executed. Its name is not used again.
   */
  isStale(cause: Error, sql: string): boolean {
    const code = "code" in cause ? cause.code : undefined
    const isStale =
      code === "26000" ||
      (code === "0A000" && cause.message.includes("cached plan must not change"))
    if (isStale) this.known.delete(sql)
    return isStale
  }
}
