/**
 * Builds the package and looks at it as a user's tools will: publint, are-the-types-wrong, the
 * declarations under a compiler that skips none, and every export loaded by `import` and `require`.
 */
import { execFileSync } from "node:child_process"
import * as path from "node:path"
import ts from "typescript"
import { compilerOptions, format } from "./compiler.js"
import { publicModules, root } from "./modules.js"

const step = (name: string, command: string, ...args: ReadonlyArray<string>) => {
  try {
    execFileSync(command, args, { cwd: root, encoding: "utf8", stdio: ["ignore", "pipe", "pipe"] })
    console.log(`ok     ${name}`)
  } catch (error) {
    const { stderr, stdout } = error as { readonly stdout: string; readonly stderr: string }
    console.log(`FAILED ${name}\n${stdout}${stderr}`)
    process.exitCode = 1
  }
}
const bin = (name: string) => path.join(root, "node_modules", ".bin", name)

/** Users who do not set `skipLibCheck` compile our declarations, so a stripped or private name shows. */
const declarations = () => {
  const files = ["esm", "cjs"].flatMap((format) =>
    publicModules().map(({ id }) => path.join(root, "dist", format, `${id}.d.ts`))
  )
  const options = { ...compilerOptions(), skipLibCheck: false, paths: {} }
  const program = ts.createProgram(files, options)
  const dist = path.posix.join(root.split(path.sep).join("/"), "dist/")
  const errors = program
    .getSourceFiles()
    .filter(({ fileName }) => fileName.startsWith(dist))
    .flatMap((file) => program.getSemanticDiagnostics(file))
  if (errors.length > 0) {
    console.log(`FAILED declarations\n${format(errors)}`)
    process.exitCode = 1
  } else {
    console.log("ok     declarations")
  }
}

const specifiers = publicModules().map(({ subpath }) => path.posix.join("effect-failover", subpath))
const load = {
  import: `for (const id of ${JSON.stringify(specifiers)}) await import(id)`,
  require: `for (const id of ${JSON.stringify(specifiers)}) require(id)`
}

step("build", bin("tsx"), "scripts/build.ts")
if (process.exitCode === undefined) {
  step("publint", bin("publint"), "--strict")
  // Node 10 knows no `exports`; every supported Node and bundler does.
  step("are the types wrong", bin("attw"), "--pack", ".", "--profile", "node16")
  declarations()
  step("import", process.execPath, "--input-type=module", "--eval", load.import)
  step("require", process.execPath, "--input-type=commonjs", "--eval", load.require)
}
