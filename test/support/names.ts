/** Names of hosts that no name server knows: for this process, they are this machine. */
import type { Scope } from "effect"
import { Effect } from "effect"
import Dns from "node:dns"

const ADDRESS = { address: "127.0.0.1", family: 4 } as const

/** Until the scope closes, names that end like this are found. All others are looked up as ever. */
export const areHere = (suffix: string): Effect.Effect<void, never, Scope.Scope> =>
  Effect.asVoid(
    Effect.acquireRelease(
      Effect.sync(() => {
        const original = Dns.lookup
        const lookup = (name: string, options: Dns.LookupOptions, done: Answer): void => {
          if (!name.endsWith(suffix)) return original(name, options, done as never)
          process.nextTick(() =>
            options.all === true
              ? done(null, [ADDRESS])
              : done(null, ADDRESS.address, ADDRESS.family)
          )
        }
        Dns.lookup = Object.assign(lookup, original)
        return original
      }),
      (original) => Effect.sync(() => (Dns.lookup = original))
    )
  )

type Answer = (
  error: null,
  address: string | ReadonlyArray<Dns.LookupAddress>,
  family?: number
) => void
