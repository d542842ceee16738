import { addEqualityTesters } from "@effect/vitest"

// `toEqual` follows Effect's `Equal`, so values built with `Data` compare by what they hold.
addEqualityTesters()
