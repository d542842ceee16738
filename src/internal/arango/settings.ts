/**
 * What a caller says of the requests in an effect.
 *
 * @internal
 */
import type { Duration } from "effect"
import { FiberRef, GlobalValue } from "effect"
import type { Host } from "../../Host.js"

/** @internal */
export interface Settings {
  /** Running a request twice is fine. */
  readonly isIdempotent: boolean
  readonly timeout: Duration.Duration | undefined
  /** This server and no other. */
  readonly host: Host | undefined
  readonly allowsDirty: boolean
}

/** @internal */
export const current = GlobalValue.globalValue("effect-failover/arango/settings", () =>
  FiberRef.unsafeMake<Settings>({
    isIdempotent: false,
    timeout: undefined,
    host: undefined,
    allowsDirty: false
  })
)
