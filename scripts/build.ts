/**
 * Builds `dist/esm` and `dist/cjs` from the same sources, each with its own declarations and maps.
 *
 * TypeScript decides the module format by the `type` of the package.json above a file. The CommonJS
 * build is therefore the same compilation in which that one field reads otherwise.
 */
import * as fs from "node:fs"
import * as path from "node:path"
import ts from "typescript"
import { compilerOptions, format, hostWith } from "./compiler.js"
import { publicModules, root } from "./modules.js"

const manifest = path.join(root, "package.json")

const build = (outDir: string, type: "module" | "commonjs") => {
  const options: ts.CompilerOptions = {
    ...compilerOptions(),
    noEmit: false,
    noEmitOnError: true,
    declaration: true,
    declarationMap: true,
    sourceMap: true,
    importHelpers: false,
    rootDir: path.join(root, "src"),
    outDir: path.join(root, outDir),
    paths: {},
    // It forbids `import` in CommonJS files altogether; isolatedModules elides the same types.
    verbatimModuleSyntax: type === "module"
  }
  const json = { ...JSON.parse(fs.readFileSync(manifest, "utf8")), type }
  const host = hostWith(options, new Map([[manifest, JSON.stringify(json)]]))
  const entries = publicModules().map(({ source }) => path.join(root, source))
  const program = ts.createProgram(entries, options, host)
  const diagnostics = [...ts.getPreEmitDiagnostics(program), ...program.emit().diagnostics]
  if (diagnostics.length > 0) {
    throw new Error(`${outDir}:\n${format(ts.sortAndDeduplicateDiagnostics(diagnostics))}`)
  }
  fs.writeFileSync(
    path.join(root, outDir, "package.json"),
    JSON.stringify({ type, sideEffects: [] }, null, 2) + "\n"
  )
}

try {
  fs.rmSync(path.join(root, "dist"), { recursive: true, force: true })
  build("dist/esm", "module")
  build("dist/cjs", "commonjs")
} catch (error) {
  console.error(error instanceof Error ? error.message : error)
  process.exitCode = 1
}
