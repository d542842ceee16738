/**
 * Our own code as its users run it: compiled. Run from its sources, tsx would name every function anew each
 * time one is made (esbuild's `keepNames`): some 12 us in a transaction's profile.
 */
import { FileSystem } from "@effect/platform"
import { NodeContext } from "@effect/platform-node"
import { Effect } from "effect"
import * as path from "node:path"
import { root } from "./modules.js"

/**
 * One module of all that the entry imports from the repository; what it imports from packages is found from
 * there. It is there for as long as the scope. Returns its path.
 */
export const bundle = (entry: string) =>
  Effect.gen(function* () {
    const fs = yield* FileSystem.FileSystem
    yield* fs.makeDirectory(path.join(root, "build"), { recursive: true })
    const directory = yield* fs.makeTempDirectoryScoped({
      directory: path.join(root, "build"),
      prefix: "bundle-"
    })
    const outfile = path.join(directory, `${path.parse(entry).name}.mjs`)
    // Only who bundles loads the bundler.
    const { build } = yield* Effect.promise(() => import("esbuild"))
    yield* Effect.promise(() =>
      build({
        absWorkingDir: root,
        entryPoints: [entry],
        outfile,
        bundle: true,
        format: "esm",
        platform: "node",
        target: "node20",
        packages: "external",
        logLevel: "error"
      })
    )
    return outfile
  }).pipe(Effect.orDie, Effect.provide(NodeContext.layer))
