/** A rejection or an exception that nobody handled is a defect that no Effect shows; so is a warning. */
import { afterAll, beforeAll } from "@effect/vitest"
import { expect } from "vitest"

const seen: Array<unknown> = []
const note = (cause: unknown) => {
  seen.push(cause)
}

/** A warning of Node or of the driver is about something that the library does wrong. */
const noteWarning = (warning: Error) => {
  seen.push(`${warning.name}: ${warning.message}`)
}

/** To be called once in a test file. */
export const expectNothingUnhandled = (): void => {
  beforeAll(() => {
    process.on("unhandledRejection", note)
    process.on("uncaughtException", note)
    process.on("warning", noteWarning)
  })
  afterAll(() => {
    process.off("unhandledRejection", note)
    process.off("uncaughtException", note)
    process.off("warning", noteWarning)
    expect(seen).toEqual([])
  })
}
