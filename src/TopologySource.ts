/**
 * How hosts are asked: everything that the topology needs to know of a database. `SqlTopologySource` is the
 * one for SQL; another protocol brings its own.
 *
 * @since 0.1.0
 */
import type { Duration, Effect, Scope } from "effect"
import { Data } from "effect"
import type { Host } from "./Host.js"
import type { Observation, Rejection } from "./TopologyState.js"

/**
 * A host could not be asked. With `rejection`, asking it again will not help.
 *
 * @since 0.1.0
 * @category errors
 */
export class SourceError extends Data.TaggedError("SourceError")<{
  readonly description: string
  readonly rejection: Rejection | undefined
  readonly cause: unknown
}> {}

/**
 * An open line to one host.
 *
 * @since 0.1.0
 * @category models
 */
export interface Watch {
  /** Asks for role, epoch and members. */
  readonly ask: Effect.Effect<Observation, SourceError>
  /**
   * Waits for at most this long, less if the host's answer may have changed. A source that cannot tell
   * simply sleeps.
   */
  readonly pause: (atMost: Duration.Duration) => Effect.Effect<void>
  /** Ends when the line breaks by itself. */
  readonly closed: Effect.Effect<void>
}

/**
 * @since 0.1.0
 * @category models
 */
export interface TopologySource {
  readonly watch: (host: Host) => Effect.Effect<Watch, SourceError, Scope.Scope>
}
