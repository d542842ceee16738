/** Text as values: lines of styled spans, cut and painted at the very end. */
export type Style = "plain" | "bold" | "dim" | "good" | "bad" | "warn"

export interface Span {
  readonly text: string
  readonly style: Style
}

export type Line = ReadonlyArray<Span>

export const span = (text: string, style: Style = "plain"): Span => ({ text, style })
export const bold = (text: string): Span => span(text, "bold")
export const dim = (text: string): Span => span(text, "dim")

export const line = (...parts: ReadonlyArray<Span | string>): Line =>
  parts.map((part) => (typeof part === "string" ? span(part) : part))

export const blank: Line = []

export interface Palette {
  readonly colors: boolean
  readonly unicode: boolean
}

const codes: Record<Style, string> = {
  plain: "",
  bold: "\x1b[1m",
  dim: "\x1b[2m",
  good: "\x1b[32m",
  bad: "\x1b[31m",
  warn: "\x1b[33m"
}

/** At most `width` characters of a line, as the terminal takes them. */
export const paint = (line: Line, width: number, palette: Palette): string => {
  let room = width
  let painted = ""
  for (const { style, text } of line) {
    const cut = text.slice(0, room)
    room -= cut.length
    const code = palette.colors ? codes[style] : ""
    painted += code === "" || cut === "" ? cut : `${code}${cut}\x1b[0m`
  }
  return palette.colors ? painted : painted.trimEnd()
}

/** Broken at word ends; lines after the first are indented. */
export const wrap = (text: string, width: number, indent = ""): ReadonlyArray<string> => {
  const lines: Array<string> = []
  let current = ""
  for (const word of text.split(" ")) {
    const next = current === "" ? word : `${current} ${word}`
    if (next.length <= width || current === "") {
      current = next
    } else {
      lines.push(current)
      current = `${indent}${word}`
    }
  }
  return [...lines, current]
}

/** `12,345` */
export const count = (n: number): string => Math.round(n).toLocaleString("en-US")

/** `12,345 ms` */
export const millis = (n: number): string => `${count(Math.max(n, 0))} ms`

/** `12.3 s` */
export const seconds = (n: number): string => `${(n / 1000).toFixed(1)} s`

export const plural = (n: number, one: string, many = `${one}s`): string =>
  `${count(n)} ${n === 1 ? one : many}`

const bars = { unicode: "▁▂▃▄▅▆▇█", ascii: "_.-=+*#@" }

/** One character for each value; nothing at all is a dot in the colour of trouble. */
export const sparkline = (values: ReadonlyArray<number>, palette: Palette): Line => {
  const steps = palette.unicode ? bars.unicode : bars.ascii
  const most = Math.max(...values, 1)
  return values.map((value) =>
    value === 0
      ? span(palette.unicode ? "·" : " ", "bad")
      : span(steps.charAt(Math.min(Math.floor((value / most) * steps.length), 7)), "good")
  )
}
