/**
 * The library as its users run it: compiled. Run from its sources, tsx would name every function anew each time one is
 * made (esbuild's `keepNames`): some 12 us in a transaction's profile, which the other clients, compiled, do not have.
 */
import { FileSystem, Path } from "@effect/platform"
import { NodeContext } from "@effect/platform-node"
import { Effect } from "effect"
import { fileURLToPath, pathToFileURL } from "node:url"

const root = fileURLToPath(new URL("..", import.meta.url))

/** The compiler fills 40 MB of heap: it is there only for who needs it. */
const compiler = Effect.map(
  Effect.promise(() => import("typescript")),
  ({ default: ts }) =>
    (source: string): string =>
      ts.transpileModule(source, {
        compilerOptions: {
          target: ts.ScriptTarget.ES2022,
          module: ts.ModuleKind.ESNext,
          verbatimModuleSyntax: true
        }
      }).outputText
)

/** Compiles `src` into a directory below the repository, whose modules can be found from there, for as long as the scope. */
const compiled = Effect.gen(function* () {
  const fs = yield* FileSystem.FileSystem
  const path = yield* Path.Path
  const compile = yield* compiler
  yield* fs.makeDirectory(path.join(root, "build"), { recursive: true })
  const target = yield* fs.makeTempDirectoryScoped({
    directory: path.join(root, "build"),
    prefix: "bench-"
  })
  const src = path.join(root, "src")
  for (const file of yield* fs.readDirectory(src, { recursive: true })) {
    if (!file.endsWith(".ts")) continue
    const compiled = path.join(target, file.replace(/\.ts$/, ".js"))
    yield* fs.makeDirectory(path.dirname(compiled), { recursive: true })
    yield* fs.writeFileString(compiled, compile(yield* fs.readFileString(path.join(src, file))))
  }
  return (module: string) => pathToFileURL(path.join(target, module)).href
}).pipe(Effect.provide(NodeContext.layer))

export const load = Effect.flatMap(compiled, (url) =>
  Effect.promise((): Promise<typeof import("../src/layers/Pg.js")> => import(url("layers/Pg.js")))
)

export const loadArango = Effect.flatMap(compiled, (url) =>
  Effect.promise(
    (): Promise<typeof import("../src/layers/Arango.js")> => import(url("layers/Arango.js"))
  )
)
