import * as path from "node:path"
import ts from "typescript"
import { root } from "./modules.js"

/** The compiler options of tsconfig.json. */
export const compilerOptions = (): ts.CompilerOptions => {
  const { config } = ts.readConfigFile(path.join(root, "tsconfig.json"), ts.sys.readFile)
  return ts.parseJsonConfigFileContent({ ...config, include: [], files: [] }, ts.sys, root).options
}

/** A compiler host in which some files, named by absolute path, have another content. */
export const hostWith = (
  options: ts.CompilerOptions,
  files: ReadonlyMap<string, string>
): ts.CompilerHost => {
  const host = ts.createCompilerHost(options)
  const { fileExists, readFile } = host
  host.fileExists = (file) => files.has(path.normalize(file)) || fileExists(file)
  host.readFile = (file) => files.get(path.normalize(file)) ?? readFile(file)
  host.getSourceFile = (file, languageVersion) => {
    const text = host.readFile(file)
    return text === undefined ? undefined : ts.createSourceFile(file, text, languageVersion)
  }
  return host
}

export const format = (diagnostics: ReadonlyArray<ts.Diagnostic>): string =>
  ts.formatDiagnostics(diagnostics, {
    getCanonicalFileName: (file) => file,
    getCurrentDirectory: () => root,
    getNewLine: () => "\n"
  })
