/** The command line. */
import { Data, Effect } from "effect"
import { parseArgs } from "node:util"
import type { Push } from "../src/Topology.js"

export class UsageError extends Data.TaggedError("UsageError")<{ readonly message: string }> {}

export const usage = `npm run bench -- [statements] [--rounds 7] [--seconds 1] [--json]
npm run bench -- failover [--runs 10] [--flavor streaming|aurora] [--push search|always|never] [--synchronous] [--observe] [--json]
npm run bench -- heap [--statements 200000] [--failovers 20] [--json]
npm run bench -- arango [--rounds 7] [--seconds 1] [--json]
npm run bench -- readers [--rounds 7] [--seconds 1] [--json]`

export interface Options {
  readonly command: "statements" | "failover" | "heap" | "arango" | "readers"
  readonly json: boolean
  readonly rounds: number
  readonly seconds: number
  readonly runs: number
  readonly flavor: "streaming" | "aurora"
  readonly push: Push
  /** Whether commits on the new writer wait for a standby from the first one on. */
  readonly synchronous: boolean
  /** Whether independent sessions find out when the new writer takes writes; they cost CPU. */
  readonly observe: boolean
  readonly statements: number
  readonly failovers: number
}

const oneOf = <A extends string>(name: string, value: string, all: ReadonlyArray<A>): A => {
  const found = all.find((_) => _ === value)
  if (found === undefined) throw new Error(`${name}: ${value} is none of ${all.join(", ")}`)
  return found
}

const positive = (name: string, value: string): number => {
  const number = Number(value)
  if (!(number > 0)) throw new Error(`--${name}: ${value} is not a number above 0`)
  return number
}

export const parse = (args: ReadonlyArray<string>): Effect.Effect<Options, UsageError> =>
  Effect.try({
    try: () => {
      const { positionals, values } = parseArgs({
        args: [...args],
        allowPositionals: true,
        options: {
          json: { type: "boolean", default: false },
          rounds: { type: "string", default: "7" },
          seconds: { type: "string", default: "1" },
          runs: { type: "string", default: "10" },
          flavor: { type: "string", default: "streaming" },
          push: { type: "string", default: "search" },
          synchronous: { type: "boolean", default: false },
          observe: { type: "boolean", default: false },
          statements: { type: "string", default: "200000" },
          failovers: { type: "string", default: "20" }
        }
      })
      const commands = ["statements", "failover", "heap", "arango", "readers"] as const
      return {
        command: oneOf("command", positionals[0] ?? "statements", commands),
        json: values.json,
        rounds: positive("rounds", values.rounds),
        seconds: positive("seconds", values.seconds),
        runs: positive("runs", values.runs),
        flavor: oneOf("--flavor", values.flavor, ["streaming", "aurora"] as const),
        push: oneOf("--push", values.push, ["search", "always", "never"] as const),
        synchronous: values.synchronous,
        observe: values.observe,
        statements: positive("statements", values.statements),
        failovers: positive("failovers", values.failovers)
      }
    },
    catch: (cause) =>
      new UsageError({
        message: `${cause instanceof Error ? cause.message : String(cause)}\n\n${usage}`
      })
  })
