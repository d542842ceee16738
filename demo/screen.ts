/** The terminal: what kind it is, and a view that is redrawn in place in it. */
import { Duration, Effect } from "effect"
import type { Board } from "./board.js"
import * as Text from "./text.js"
import * as View from "./view.js"

const out = process.stdout

/** Some terminals say 0 when they do not know. */
const size = (): View.Size => ({
  columns: Math.max(out.columns || 80, 20),
  rows: Math.max(out.rows || 24, 5)
})

export const isLive = out.isTTY === true && process.env["TERM"] !== "dumb"

const locale = process.env["LC_ALL"] ?? process.env["LC_CTYPE"] ?? process.env["LANG"] ?? "UTF-8"

export const palette: Text.Palette = {
  // https://no-color.org: any value but the empty one.
  colors: isLive && (process.env["NO_COLOR"] ?? "") === "",
  unicode: /utf-?8/i.test(locale)
}

export const columns = (): number => size().columns

export const print = (lines: ReadonlyArray<Text.Line>): Effect.Effect<void> =>
  write(lines.map((line) => `${Text.paint(line, Number.POSITIVE_INFINITY, palette)}\n`).join(""))

export const write = (text: string): Effect.Effect<void> =>
  Effect.sync(() => {
    out.write(text)
  })

const FRAME = Duration.millis(100)

const enter = "\x1b[?1049h\x1b[?25l\x1b[2J"
const leave = "\x1b[?25h\x1b[?1049l"
/** Terminals that know it show what is between in one go; the others ignore it. */
const beginFrame = "\x1b[?2026h\x1b[H"
const endFrame = "\x1b[J\x1b[?2026l"

const restore = (): void => {
  out.write(leave)
}

/** Also if the process is made to exit before it has cleaned up. */
const open = Effect.sync(() => {
  process.once("exit", restore)
  out.write(enter)
})

const close = Effect.sync(() => {
  process.off("exit", restore)
  restore()
})

/** Draws until `done`; then, or when it is interrupted, the terminal is as it was before. */
export const live = (board: Board, done: Effect.Effect<void>): Effect.Effect<void> =>
  Effect.acquireUseRelease(
    open,
    () => {
      let drawn = { frame: "", columns: 0, rows: 0 }
      const draw = Effect.flatMap(board.model, (model) => {
        const { columns, rows } = size()
        const frame = View.render(model, { columns, rows }, palette)
          .map((line) => `${Text.paint(line, columns - 1, palette)}\x1b[K`)
          .join("\r\n")
        const isResized = drawn.columns !== columns || drawn.rows !== rows
        if (!isResized && drawn.frame === frame) return Effect.void
        drawn = { frame, columns, rows }
        return write(`${beginFrame}${isResized ? "\x1b[2J" : ""}${frame}${endFrame}`)
      })
      return Effect.raceFirst(Effect.forever(Effect.zipLeft(draw, Effect.sleep(FRAME))), done)
    },
    () => close
  )
