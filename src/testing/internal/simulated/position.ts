/**
 * Positions in a server's log, as PostgreSQL's LSNs: each record is as long as a page.
 *
 * @internal
 */

const RECORD = 8192

const GIGABYTES_4 = 2 ** 32

const hex = (n: number): string => n.toString(16).toUpperCase()

/** Behind so many records. @internal */
export const format = (records: number): string => {
  const bytes = records * RECORD
  return `${hex(Math.floor(bytes / GIGABYTES_4))}/${hex(bytes % GIGABYTES_4)}`
}

/** How many records that takes. @internal */
export const parse = (text: string): number => {
  const [high = "", low = ""] = text.split("/")
  return (Number.parseInt(high, 16) * GIGABYTES_4 + Number.parseInt(low, 16)) / RECORD
}
