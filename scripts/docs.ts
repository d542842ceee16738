/**
 * Writes the API reference to `build/docs`, and fails where a public module breaks its rules: a
 * `@since` and a `@category` on every export, and examples that compile.
 */
import { spawnSync } from "node:child_process"
import * as fs from "node:fs"
import * as path from "node:path"
import ts from "typescript"
import { checkExamples } from "./examples.js"
import { publicModules, root } from "./modules.js"

const tagsOf = (node: ts.Node) => ts.getJSDocTags(node).map((tag) => tag.tagName.text)

/** What docgen asks of every member of a class too, or (the category) of nothing. */
const required = ["since", "category"]

const missingTags = (source: string): ReadonlyArray<string> => {
  const text = fs.readFileSync(path.join(root, source), "utf8")
  const file = ts.createSourceFile(source, text, ts.ScriptTarget.ES2022, true)
  const moduleDocs = /^\/\*\*[\s\S]*?\*\//.exec(text)?.[0] ?? ""
  const documented = new Set<string>()
  const missing = new Map<string, string>()
  for (const statement of file.statements) {
    const exported =
      ts.canHaveModifiers(statement) &&
      ts.getModifiers(statement)?.some((m) => m.kind === ts.SyntaxKind.ExportKeyword)
    if (!exported || ts.isModuleDeclaration(statement)) continue
    const declarations = ts.isVariableStatement(statement)
      ? statement.declarationList.declarations
      : [statement as ts.DeclarationStatement]
    const tags = tagsOf(statement)
    const absent = required.filter((tag) => !tags.includes(tag))
    for (const declaration of declarations) {
      const name = declaration.name?.getText(file) ?? "default"
      if (absent.length === 0 || tags.includes("internal") || tags.includes("ignore")) {
        documented.add(name)
      } else {
        const { line } = file.getLineAndCharacterOfPosition(statement.getStart(file))
        missing.set(name, `${source}:${line + 1} ${name} has no @${absent.join(", no @")}`)
      }
    }
  }
  return [
    ...(moduleDocs.includes("@since") ? [] : [`${source}:1 has no module comment with @since`]),
    // The later overloads of a function share the comment of the first.
    ...[...missing].filter(([name]) => !documented.has(name)).map(([, message]) => message)
  ]
}

/**
 * docgen takes its settings from the working directory and wants a homepage in package.json: it
 * gets a folder of its own. The examples are checked here instead of there, because it would also
 * run them, against databases that do not exist.
 */
const docgen = () => {
  const cwd = path.join(root, "build", "docgen")
  fs.rmSync(path.join(root, "build"), { recursive: true, force: true })
  fs.mkdirSync(cwd, { recursive: true })
  fs.symlinkSync(path.join(root, "src"), path.join(cwd, "src"), "junction")
  const write = (file: string, json: unknown) =>
    fs.writeFileSync(path.join(cwd, file), JSON.stringify(json, null, 2))
  write("package.json", { name: "effect-failover", homepage: "" })
  write("docgen.json", {
    outDir: "../docs",
    enforceVersion: false,
    exclude: ["src/internal/**", "src/*/internal/**"],
    parseCompilerOptions: {
      strict: true,
      target: "ES2022",
      module: "NodeNext",
      moduleResolution: "NodeNext",
      skipLibCheck: true
    }
  })
  const bin = path.join(root, "node_modules", "@effect", "docgen", "bin.cjs")
  const { status } = spawnSync(process.execPath, [bin], {
    cwd,
    stdio: "inherit",
    // Neither docgen.json nor the command line can say it.
    env: { ...process.env, DOCGEN_RUN_EXAMPLES: "false" }
  })
  return status === 0 ? "" : "docgen failed"
}

const sources = publicModules().map(({ source }) => source)
const { count, errors } = checkExamples(sources)
const problems = [
  docgen(),
  ...sources.filter((source) => source !== "src/index.ts").flatMap(missingTags),
  errors
].filter((problem) => problem !== "")
console.log(`${count} examples in ${sources.length} modules`)
if (problems.length > 0) {
  console.error(problems.join("\n"))
  process.exitCode = 1
}
