/** What is taken out of the client, one at a time. */

export interface Mutation {
  readonly name: string
  readonly file: string
  /** There exactly once. */
  readonly find: string
  readonly replace: string
}

export const mutations: ReadonlyArray<Mutation> = [
  {
    name: "double verification: a host is the writer if its list says so",
    file: "src/dialects/AuroraPg.ts",
    find: `role: first[5] === false && writer?.serverId === self ? "writer" : "reader",`,
    replace: `role: writer?.serverId === self ? "writer" : "reader",`
  },
  {
    name: "double verification: a new pooled connection is not asked for its role",
    file: "src/SqlFailover.ts",
    find: `isWriter ? setUp(session) : Effect.fail(Router.notTheWriter(host))`,
    replace: `isWriter ? setUp(session) : setUp(session)`
  },
  {
    name: "epoch check: a claim of an older server epoch is believed",
    file: "src/internal/claims.ts",
    find: `(isOlder(observation.serverEpoch, state.serverEpoch) ||`,
    replace: `(false ||`
  },
  {
    name: "single flight: each failure begins a failover",
    file: "src/internal/flight.ts",
    find: `const { done } = flight ?? start(epoch, cause)`,
    replace: `const { done } = start(epoch, cause)`
  },
  {
    name: "generation check: a loss of an older epoch is taken for one of the present",
    file: "src/internal/topologyReducer.ts",
    find: `return state.phase._tag === "Calm" && state.epoch === event.epoch ? search(state, now) : state`,
    replace: `return state.phase._tag === "Calm" ? search(state, now) : state`
  },
  {
    name: "the old pool is cut late: with the flight instead of with the confirmation",
    file: "src/internal/router.ts",
    find: `if (writer !== undefined && current !== undefined && current.pool.epoch < writer.epoch) {`,
    replace: `if (writer !== undefined && current !== undefined && current.pool.epoch < -1) {`
  },
  {
    name: "sent flag: an unanswered statement is taken for one that was not sent",
    file: "src/internal/runner.ts",
    find: `          : tell.failoverSuccess(lease, true, cause)
      case "Answered":`,
    replace: `          : leases.again(trouble, pool.host, cause)
      case "Answered":`
  },
  {
    name: "sent flag: a statement that timed out is run again",
    file: "src/internal/runner.ts",
    find: `? tell.timedOut(lease, cause, "Unknown")
          : tell.failoverSuccess`,
    replace: `? leases.again(trouble, pool.host, cause)
          : tell.failoverSuccess`
  },
  {
    name: "sent flag: a statement that was not sent is told as unknown",
    file: "src/internal/runner.ts",
    find: `      case "NotSent":
        return leases.again(trouble, pool.host, cause)`,
    replace: `      case "NotSent":
        return tell.failoverSuccess(lease, true, cause)`
  },
  {
    name: "sent flag: a statement that was sent is told as not executed",
    file: "src/internal/tell.ts",
    find: `move(lease, cause, sent ? "Unknown" : "NotExecuted")`,
    replace: `move(lease, cause, "NotExecuted")`
  },
  {
    name: "a COMMIT that is unknown is told as rolled back",
    file: "src/internal/sessionTransaction.ts",
    find: `resolution === "RolledBack" ? "RolledBack" : "Unknown",`,
    replace: `"RolledBack",`
  },
  {
    name: "a COMMIT that was not answered is told as committed",
    file: "src/internal/sessionTransaction.ts",
    find: `resolution === "Committed"`,
    replace: `resolution !== "RolledBack"`
  },
  {
    name: "a COMMIT that timed out is told as rolled back",
    file: "src/internal/sessionTransaction.ts",
    find: `return this.losing(tell.timedOut(lease, error.cause, "Unknown"))`,
    replace: `return this.losing(tell.timedOut(lease, error.cause, "RolledBack"))`
  },
  {
    name: "ledger: a lost COMMIT is found to be committed",
    file: "src/CommitResolution.ts",
    find: `row?.[0] === true ? "Committed" : "RolledBack"`,
    replace: `row?.[0] === true ? "Committed" : "Committed"`
  },
  {
    name: "ledger: a COMMIT is found to be rolled back",
    file: "src/CommitResolution.ts",
    find: `row?.[0] === true ? "Committed" : "RolledBack"`,
    replace: `row?.[0] === true ? "RolledBack" : "RolledBack"`
  },
  {
    name: "an unknown transaction is retried",
    file: "src/internal/outcomes.ts",
    find: `return outcome === "NotExecuted" || outcome === "RolledBack"`,
    replace: `return outcome !== undefined`
  },
  {
    name: "a transaction keeps its connection",
    file: "src/internal/sessionTransaction.ts",
    find: `this.lease.pool.give(this.lease.session)`,
    replace: `void this.lease`
  },
  {
    name: "a failover has no deadline",
    file: "src/internal/flight.ts",
    find: `          Effect.timeoutTo({
            duration: timeout,`,
    replace: `          Effect.timeoutTo({
            duration: Duration.infinity,`
  },
  {
    name: "a wait for a connection has no deadline",
    file: "src/HostPool.ts",
    find: `if (Duration.greaterThanOrEqualTo(elapsed, settings.acquireTimeout)) {`,
    replace: `if (Duration.greaterThanOrEqualTo(elapsed, Duration.hours(1))) {`
  },
  {
    name: "what hangs on a lost host is not ended when the failover gives up",
    file: "src/internal/router.ts",
    find: `abandon: Effect.sync(() => current?.pool.cut())`,
    replace: `abandon: Effect.void`
  },
  {
    name: "the lines of a search are not closed",
    file: "src/internal/search.ts",
    find: `return Effect.as(Effect.forEach(others, close, { discard: true }), kept)`,
    replace: `return Effect.as(Effect.forEach([] as typeof others, close, { discard: true }), kept)`
  },
  {
    name: "a spare that nobody took is kept",
    file: "src/internal/spares.ts",
    find: `Effect.sync(() => take(host)?.session.destroy())`,
    replace: `Effect.void`
  },
  {
    name: "a refusal to write is not looked into: the reader is asked again and again",
    file: "src/internal/runner.ts",
    find: `                    leases.again(trouble, pool.host, cause),
                    leases.move(pool.epoch, cause)`,
    replace: `                    leases.again(trouble, pool.host, cause),
                    Effect.void`
  },
  {
    name: "readers: a bound of staleness is not kept",
    file: "src/internal/readers/fleet.ts",
    find: `return now - maxStaleness`,
    replace: `return now - Math.max(maxStaleness, 1e9)`
  },
  {
    name: "readers: positions are not waited for",
    file: "src/internal/readers/make.ts",
    find: `if (reached === positions.length) return true`,
    replace: `if (reached >= 0) return true`
  },
  {
    name: "readers: roles are not asked for: whoever answers is a reader",
    file: "src/internal/readers/fleet.ts",
    find: `member.answered(takesWrites ? "writer" : "reader", roundTrip)`,
    replace: `member.answered("reader", roundTrip)`
  }
]
