import { Data } from "effect"

/**
 * A step of bringing up, running or breaking a cluster failed.
 *
 * @since 0.1.0
 * @category errors
 */
export class PostgresClusterError extends Data.TaggedError("PostgresClusterError")<{
  readonly message: string
  /** What to do about it. */
  readonly hint: string
  /** The id of the node that it happened on. */
  readonly node?: string
  /** The last lines of that node's (or that command's) log. */
  readonly log?: string
  readonly cause?: unknown
}> {}
