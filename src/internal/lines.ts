/**
 * The monitor's lines to hosts: opened, asked and waited on within bounds. Whatever goes wrong on one, also
 * in a source or dialect of the user's own, is a `SourceError`: it must not end the monitor.
 *
 * @internal
 */
import { Duration, Effect, Exit, Scope } from "effect"
import type { Host } from "../Host.js"
import type { TopologySource, Watch } from "../TopologySource.js"
import { SourceError } from "../TopologySource.js"
import type { Observation } from "../TopologyState.js"

/** An open line and the scope that it lives in. @internal */
export interface Line {
  readonly watch: Watch
  readonly scope: Scope.CloseableScope
}

/** @internal */
export interface Lines {
  /** The caller owes a `close`. */
  readonly open: (host: Host) => Effect.Effect<Line, SourceError>
  /** Opened, used and closed. */
  readonly use: <A, E>(
    host: Host,
    use: (line: Line) => Effect.Effect<A, E>
  ) => Effect.Effect<A, E | SourceError>
  readonly ask: (line: Line) => Effect.Effect<Observation, SourceError>
  /** Sleeps, or parks a wait on the host if it can. */
  readonly pause: (line: Line, atMost: Duration.Duration) => Effect.Effect<void, SourceError>
}

/** @internal */
export const close = (line: Line): Effect.Effect<void> => Scope.close(line.scope, Exit.void)

/** @internal */
export const defective = <A, E, R>(
  self: Effect.Effect<A, E, R>
): Effect.Effect<A, E | SourceError, R> =>
  Effect.catchAllDefect(self, (cause) =>
    Effect.zipRight(
      Effect.logError("a topology source or dialect died", cause),
      Effect.fail(
        new SourceError({
          description: `a defect in the topology source: ${String(cause)}`,
          rejection: undefined,
          cause
        })
      )
    )
  )

/** @internal */
export const make = (options: {
  readonly source: TopologySource
  readonly connectTimeout: Duration.Duration
  readonly probeTimeout: Duration.Duration
  /** Whether a wait may be parked on a host. */
  readonly parks: boolean
}): Lines => {
  const { connectTimeout, probeTimeout, source } = options

  const within = (limit: Duration.Duration, what: string) =>
    Effect.timeoutFail({
      duration: limit,
      onTimeout: () =>
        new SourceError({
          description: `no answer to ${what} within ${Duration.toMillis(limit)} ms`,
          rejection: undefined,
          cause: undefined
        })
    })

  const open: Lines["open"] = (host) =>
    Effect.uninterruptibleMask((restore) =>
      Effect.flatMap(Scope.make(), (scope) =>
        restore(
          Effect.suspend(() => source.watch(host)).pipe(
            Scope.extend(scope),
            within(connectTimeout, "connect"),
            defective
          )
        ).pipe(
          Effect.map((watch) => ({ watch, scope })),
          Effect.onError((cause) => Scope.close(scope, Exit.failCause(cause)))
        )
      )
    )

  return {
    open,
    // Not `acquireUseRelease`: a host that does not take the line must not hold up an interruption.
    use: (host, use) =>
      Effect.uninterruptibleMask((restore) =>
        Effect.flatMap(restore(open(host)), (line) =>
          Effect.ensuring(restore(use(line)), close(line))
        )
      ),
    ask: (line) => line.watch.ask.pipe(within(probeTimeout, "the topology query"), defective),
    pause: (line, atMost) =>
      options.parks
        ? Effect.suspend(() => line.watch.pause(atMost)).pipe(
            // The wait ends on the host; one that says nothing by then has fallen silent.
            within(Duration.sum(atMost, probeTimeout), "the parked wait"),
            defective
          )
        : Effect.sleep(atMost)
  }
}
