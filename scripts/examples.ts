import * as fs from "node:fs"
import * as path from "node:path"
import ts from "typescript"
import { compilerOptions, format, hostWith } from "./compiler.js"
import { packagePaths, root } from "./modules.js"

/** The TypeScript blocks of a file, whether they stand in Markdown or in a JSDoc comment. */
const blocks = (file: string) => {
  const found: Array<{ readonly line: number; readonly lines: Array<string> }> = []
  let open: { readonly line: number; readonly lines: Array<string> } | undefined
  const lines = fs.readFileSync(path.join(root, file), "utf8").split(/\r?\n/)
  lines.forEach((text, line) => {
    const content = file.endsWith(".md") ? text : text.replace(/^\s*\* ?/, "")
    if (open === undefined) {
      if (/^\s*```ts\s*$/.test(content)) open = { line, lines: [] }
    } else if (/^\s*```\s*$/.test(content)) {
      found.push(open)
      open = undefined
    } else {
      open.lines.push(content)
    }
  })
  return found
}

/**
 * Type checks every block as a module of its own that sees the package by its public names.
 * Returns how many there are, and the errors by file and line.
 */
export const checkExamples = (files: ReadonlyArray<string>) => {
  const modules = new Map<string, string>()
  for (const file of files) {
    for (const { line, lines } of blocks(file)) {
      // Blank lines above keep the line numbers of the file that the block stands in.
      const content = "\n".repeat(line + 1) + lines.join("\n") + "\nexport {}\n"
      modules.set(path.join(root, `${file}.${line + 1}.example.ts`), content)
    }
  }
  const options: ts.CompilerOptions = {
    ...compilerOptions(),
    noUnusedLocals: false,
    noUnusedParameters: false,
    paths: packagePaths()
  }
  const program = ts.createProgram([...modules.keys()], options, hostWith(options, modules))
  // Errors in the sources themselves belong to check:types.
  const diagnostics = [...modules.keys()].flatMap((file) => {
    const sourceFile = program.getSourceFile(file)
    return [
      ...program.getSyntacticDiagnostics(sourceFile),
      ...program.getSemanticDiagnostics(sourceFile)
    ]
  })
  const errors = format(diagnostics).replace(/\.\d+\.example\.ts\(/g, "(")
  return { count: modules.size, errors }
}
