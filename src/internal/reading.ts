/**
 * Where the statements of a fiber are to be run: the scopes of `Failover.onReader`, `Failover.onWriter`,
 * `Readers.readYourWrites` and `Readers.hedged`.
 *
 * @internal
 */
import { Duration, FiberRef, GlobalValue } from "effect"
import type { ReadMode, ReadOptions } from "../Failover.js"
import type { HostPool } from "../HostPool.js"

/** How a read chooses its host. @internal */
export interface Reading {
  readonly mode: ReadMode
  /** Milliseconds. */
  readonly maxStaleness: number | undefined
  /** What the host must have replayed. */
  readonly after: ReadonlyArray<string>
  /** Of a read that the readers could not serve in time. */
  readonly onWriter?: boolean
  /** Of a second try: what the first one runs on. */
  readonly except?: HostPool
  /** Milliseconds that a reader is given to replay it, before the writer is asked. */
  readonly within: number
}

/** Writes of one scope, which its reads must see. @internal */
export interface Writes {
  /** Rises with everything that was run on the writer. */
  version: number
  /** The writer's position after that of this version. */
  position: { readonly of: number; readonly at: string } | undefined
}

/** What a fiber asks for; what it leaves open is the client's own affair. @internal */
export type Aim =
  | "writer"
  | (Omit<Reading, "mode" | "onWriter" | "except"> & { readonly mode: ReadMode | undefined })
  | undefined

/** @internal */
export const currentAim: FiberRef.FiberRef<Aim> = GlobalValue.globalValue(
  "effect-failover/currentAim",
  () => FiberRef.unsafeMake<Aim>(undefined)
)

/** @internal */
export const currentWrites: FiberRef.FiberRef<Writes | undefined> = GlobalValue.globalValue(
  "effect-failover/currentWrites",
  () => FiberRef.unsafeMake<Writes | undefined>(undefined)
)

/** @internal */
export const currentHedging: FiberRef.FiberRef<boolean> = GlobalValue.globalValue(
  "effect-failover/currentHedging",
  () => FiberRef.unsafeMake(false)
)

/** Longer than the lag of a healthy standby, and short for whoever waits for a page. @internal */
export const DEFAULT_WITHIN = Duration.millis(200)

/** What a client reads like where a fiber leaves it open. @internal */
export interface Defaults {
  readonly mode: ReadMode
  /** Milliseconds. */
  readonly maxStaleness: number | undefined
}

const millisOf = (duration: Duration.DurationInput | undefined): number | undefined =>
  duration === undefined ? undefined : Duration.toMillis(duration)

const NONE: ReadonlyArray<string> = []

/** Made once for a scope; each of its statements completes it. @internal */
export const aimOf = ({ after, maxStaleness, mode, within }: ReadOptions) => ({
  mode,
  maxStaleness: millisOf(maxStaleness),
  after: after === undefined ? NONE : [after],
  within: Duration.toMillis(within ?? DEFAULT_WITHIN)
})

/** @internal */
export const complete = (
  { after, maxStaleness, mode, within }: Exclude<Aim, string | undefined>,
  defaults: Defaults
): Reading => ({
  mode: mode ?? defaults.mode,
  maxStaleness: maxStaleness ?? defaults.maxStaleness,
  after,
  within
})
