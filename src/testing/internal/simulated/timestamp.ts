/**
 * PostgreSQL's text of a `timestamptz`.
 *
 * @internal
 */

/** @internal */
export const timestamp = (millis: number, micros = 0): string => {
  const toMillis = new Date(Math.floor(millis)).toISOString().slice(0, -1).replace("T", " ")
  return `${toMillis}${String(micros % 1000).padStart(3, "0")}+00`
}

/** Clock milliseconds. @internal */
export const parse = (text: string): number =>
  Date.parse(text.replace(" ", "T").replace(/\+00$/, "Z"))
