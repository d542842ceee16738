/** The library's layers, compiled, for as long as the scope. */
import { Effect } from "effect"
import { pathToFileURL } from "node:url"
import { bundle } from "../scripts/bundle.js"

const loaded = <A>(entry: string) =>
  Effect.flatMap(bundle(entry), (file) =>
    Effect.promise((): Promise<A> => import(pathToFileURL(file).href))
  )

export const load = loaded<typeof import("../src/layers/Pg.js")>("src/layers/Pg.ts")

export const loadArango = loaded<typeof import("../src/layers/Arango.js")>("src/layers/Arango.ts")
