/** @internal */
import type { FailoverFailed } from "../Errors.js"
import type { TopologyState } from "../TopologyState.js"

/** What was tried in the present search, for an error. @internal */
export const tried = (state: TopologyState): FailoverFailed["tried"] =>
  state.hosts
    .filter((_) => _.failures > 0 || _.availability !== "unknown")
    .map((_) => ({
      host: _.host,
      attempts: Math.max(_.failures, 1),
      lastError: _.lastError ?? `answers as ${_.role}`
    }))
