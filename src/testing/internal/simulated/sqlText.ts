/**
 * What a SQL text asks for, as far as the simulated server cares: by its first words, with literals,
 * quoted names and comments out of the way.
 *
 * @internal
 */

/** @internal */
export type Kind =
  | "begin"
  | "commit"
  | "rollback"
  | "rollbackTo"
  | "savepoint"
  | "release"
  | "listen"
  | "unlisten"
  | "notify"
  | "access"
  | "write"
  | "other"

/** One command of a text. @internal */
export interface Command {
  readonly text: string
  /** The text without literals, comments and quoted names, and as long. */
  readonly outline: string
  readonly kind: Kind
  /** As the server tells it when it is done. */
  readonly tag: string
  /** Of the savepoint or the channel. */
  readonly name: string
}

const LITERALS =
  /'(?:[^']|'')*'|"(?:[^"]|"")*"|\$([A-Za-z_]\w*)?\$[\s\S]*?\$\1\$|--[^\n]*|\/\*[\s\S]*?\*\//g

const WRITES = new Set([
  ..."INSERT UPDATE DELETE MERGE TRUNCATE CREATE ALTER DROP GRANT REVOKE COMMENT".split(" "),
  ..."REINDEX REFRESH REASSIGN VACUUM CLUSTER CALL".split(" ")
])

/** A SELECT writes by a CTE, by INTO, or by a function; COPY by its direction. */
const WRITES_WITHIN =
  /\b(INSERT\s+INTO|UPDATE\s+\S+\s+SET|DELETE\s+FROM|MERGE\s+INTO)\b|^SELECT\b[\s\S]*\bINTO\s|\b(nextval|setval)\s*\(|^COPY\b[\s\S]*\bFROM\b/i

const KINDS: Readonly<Record<string, Kind>> = {
  BEGIN: "begin",
  START: "begin",
  COMMIT: "commit",
  END: "commit",
  ROLLBACK: "rollback",
  ABORT: "rollback",
  SAVEPOINT: "savepoint",
  RELEASE: "release",
  LISTEN: "listen",
  UNLISTEN: "unlisten",
  NOTIFY: "notify"
}

const TAGS: Readonly<Record<string, string>> = { END: "COMMIT", ABORT: "ROLLBACK", WITH: "SELECT" }

/** Whether a session or the transaction under way may write, in all the words that there are for it. */
const ACCESS =
  /^SET\s+(SESSION\s+CHARACTERISTICS\s+AS\s+)?TRANSACTION\b[\s\S]*\bREAD\s+(ONLY|WRITE)\b|^SET\s+(SESSION\s+)?default_transaction_read_only\b/i

const READERS = new Set(["SELECT", "WITH", "COPY", "VALUES", "TABLE"])

/** Case does not matter in a name without quotes. */
const nameOf = (text: string): string => {
  const name = text.trim()
  return name.startsWith('"') ? name.slice(1, -1).replaceAll('""', '"') : name.toLowerCase()
}

const NAMED =
  /^(?:SAVEPOINT|(?:ROLLBACK|ABORT)(?:\s+(?:WORK|TRANSACTION))?\s+TO(?:\s+SAVEPOINT)?|RELEASE(?:\s+SAVEPOINT)?|LISTEN|UNLISTEN|NOTIFY)\s+("(?:[^"]|"")*"|[^\s,;]+)/i

const commandOf = (text: string, outline: string): Command => {
  const word = (/^[A-Za-z]+/.exec(outline)?.[0] ?? "").toUpperCase()
  const named = NAMED.exec(text)
  const known = KINDS[word]
  return {
    text,
    outline,
    kind:
      known === "rollback" && /^\w+(\s+(WORK|TRANSACTION))?\s+TO\b/i.test(outline)
        ? "rollbackTo"
        : (known ??
          (ACCESS.test(outline) ? "access" : undefined) ??
          (WRITES.has(word) || (READERS.has(word) && WRITES_WITHIN.test(outline))
            ? "write"
            : "other")),
    tag: TAGS[word] ?? word,
    name: named?.[1] === undefined ? "" : nameOf(named[1])
  }
}

/** The commands of a text, which a semicolon separates. @internal */
export const commands = (sql: string): ReadonlyArray<Command> => {
  const outline = sql.replace(LITERALS, (literal) =>
    (/^['"$]/.test(literal) ? "_" : " ").repeat(literal.length)
  )
  const found: Array<Command> = []
  let start = 0
  for (const part of outline.split(";")) {
    const skipped = part.length - part.trimStart().length
    const trimmed = part.trim()
    const from = start + skipped
    if (trimmed !== "") found.push(commandOf(sql.slice(from, from + trimmed.length), trimmed))
    start += part.length + 1
  }
  return found
}

/** @internal */
export const returnsRows = ({ outline }: Command): boolean => /\bRETURNING\b/i.test(outline)

/** What BEGIN and SET say of it. @internal */
export const isReadOnly = ({ outline, text }: Command): boolean | undefined => {
  const mode = /\bREAD\s+(ONLY|WRITE)\b/i.exec(outline)?.[1]
  if (mode !== undefined) return mode.toUpperCase() === "ONLY"
  const setting = /\bdefault_transaction_read_only\s*(?:=|TO)\s*'?(\w+)/i.exec(text)?.[1]
  return setting === undefined ? undefined : /^(on|true|1|yes)$/i.test(setting)
}

/** SET TRANSACTION is about the transaction under way, and anything else about those to come. @internal */
export const isOfTransaction = ({ outline }: Command): boolean =>
  /^SET\s+TRANSACTION\b/i.test(outline)

/** SELECT ... FOR UPDATE: it writes nothing, and no reader runs it. @internal */
export const locksRows = ({ outline }: Command): boolean =>
  /^(SELECT|WITH)\b[\s\S]*\bFOR\s+(NO\s+KEY\s+UPDATE|UPDATE|KEY\s+SHARE|SHARE)\b/i.test(outline)
