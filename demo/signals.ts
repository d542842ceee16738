/**
 * Ctrl-C is meant once and arrives more often: from the terminal, from npm, from tsx, which repeats it
 * when its child is busy for 30 ms. `NodeRuntime.runMain` listens to the first one only, and the next one
 * would end the process in the middle of its cleaning up.
 */
import { Effect } from "effect"

/** Somebody insists: then the process ends at once, and the cluster's watchdog removes what is left. */
const PATIENCE = 6

const listen = (signal: "SIGINT" | "SIGTERM"): void => {
  let received = 0
  process.on(signal, () => {
    if (++received >= PATIENCE) process.exit(130)
  })
}

/** Nobody reads any more, as in `npm run demo | head -5`: the same as being told to stop. */
const stopWhenUnread = (): void => {
  process.stdout.once("error", () => {
    process.stdout.on("error", () => {})
    process.kill(process.pid, "SIGTERM")
  })
}

export const install: Effect.Effect<void> = Effect.sync(() => {
  listen("SIGINT")
  listen("SIGTERM")
  stopWhenUnread()
})
