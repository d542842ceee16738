/** A rejection or an exception that nobody handled is a defect that no Effect shows. */
import { afterAll, beforeAll } from "@effect/vitest"
import { expect } from "vitest"

const seen: Array<unknown> = []
const note = (cause: unknown) => {
  seen.push(cause)
}

/** To be called once in a test file. */
export const expectNothingUnhandled = (): void => {
  beforeAll(() => {
    process.on("unhandledRejection", note)
    process.on("uncaughtException", note)
  })
  afterAll(() => {
    process.off("unhandledRejection", note)
    process.off("uncaughtException", note)
    expect(seen).toEqual([])
  })
}
