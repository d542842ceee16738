/**
 * Which of several hosts gets the next statement. `twoChoices` is the one to take unless there is a reason
 * for another.
 *
 * | strategy | takes | unknown, or new | when to use it |
 * |---|---|---|---|
 * | `twoChoices` | of two hosts by chance, out of those within 15 ms of the nearest, the one with less outstanding | inside the window | **recommended**: follows the load that this client causes, with no figures of the cluster |
 * | `random` | any | any | hosts and statements are all alike |
 * | `roundRobin` | one after the other, by weights | default weight; begins within its first stride | even shares, also with few statements |
 * | `weightedRandom` | any, by weights | weight 1 | hosts of different sizes, many statements |
 * | `highestWeight` | the highest weight | weight 1 | one preferred host and others in reserve |
 * | `lowestLoad` | the lowest CPU and lag | like the best that is known | long statements, and figures that are fresh |
 * | `leastConnections` | the fewest connections of this client | as counted | connections that stay open long |
 * | `fastestResponse` | the lowest latency | one statement at a time, until it answered | hosts far apart, one of them clearly nearest |
 *
 * Equals are told apart by chance, never by their order. What the AWS drivers call by the same names
 * differs:
 *
 * | name | theirs | ours |
 * |---|---|---|
 * | `highestWeight` | the weight is lag · 100 + CPU, so the **most loaded** host is taken | the weight is what an operator gave; load is never part of it. For the load, take `lowestLoad` |
 * | `lowestLoad` | lag counts 100 times as much as CPU, so that CPU hardly matters; unknown is 40 % and 50 ms | one millisecond weighs as one percent, unless said otherwise |
 * | `roundRobin` | as many in a row as the weight says; a change of the list may begin anew | spread out, and undisturbed by who joins or leaves |
 * | `leastConnections` | with some, the first of several with equally many | any of them, by chance |
 * | `fastestResponse` | an average kept for 30 s; no samples at all: by chance | the latency as it is now; see above for a host without one |
 *
 * **Who may be chosen.** Hosts of the role that is asked for, unless they are `unavailable`. A host of
 * unknown availability may: somebody has to be the first to try it. If nobody is left, the selection fails
 * closed, with `NoMatchingHost`, and the caller decides whether to wait, to ask for another role, or to
 * try a host all the same.
 *
 * **Gotchas**
 *
 * - A host that fails fast looks idle. Mark it unavailable when it fails, or strategies that look at
 *   outstanding work or latency will prefer it.
 * - Count work as outstanding, and a connection as open, when the host is chosen, not when it has answered:
 *   of a thousand fibers that choose in one tick, each has to see the others.
 * - `lowestLoad`, `highestWeight` and `fastestResponse` take the best host by figures that all clients
 *   share, so all of them take the same one until the figures change. `twoChoices` does not.
 *
 * @example
 * ```ts
 * import { Effect, Either } from "effect"
 * import { Host, HostSelector } from "effect-failover"
 *
 * const reader = (host: string, outstanding: number): HostSelector.Candidate => ({
 *   host: Host.make({ host, port: 5432 }),
 *   role: "reader",
 *   availability: "available",
 *   outstanding,
 *   connections: outstanding
 * })
 *
 * const program = Effect.gen(function* () {
 *   const readers = [reader("db-1", 3), reader("db-2", 6), reader("db-3", 20)]
 *   const chosen = yield* HostSelector.select(readers, HostSelector.twoChoices(), { role: "reader" })
 *
 *   // On a hot path: chance is made once, and each selection is a plain call.
 *   const chance = yield* HostSelector.makeChance
 *   const next = HostSelector.selectWith(readers, HostSelector.twoChoices(), chance)
 *   return [chosen.host.id, Either.getOrThrow(next).host.id]
 * })
 *
 * // One's own is a function.
 * const sameZone: HostSelector.HostSelector = (candidates, chance) =>
 *   candidates.find((_) => _.host.id.endsWith("-a")) ?? HostSelector.random(candidates, chance)
 * ```
 *
 * @since 0.1.0
 */
import type { Array } from "effect"
import { Duration, Effect, Either, Random, Utils } from "effect"
import type { NoMatchingHost } from "./Errors.js"
import { ConfigurationError } from "./Errors.js"
import type { Availability, Host, Role } from "./Host.js"
import { fastestResponse as fastest } from "./internal/selector/fastestResponse.js"
import * as LowestLoad from "./internal/selector/lowestLoad.js"
import { matching, noMatch } from "./internal/selector/match.js"
import { lowest, uniform } from "./internal/selector/pick.js"
import { Rotation } from "./internal/selector/roundRobin.js"
import * as TwoChoices from "./internal/selector/twoChoices.js"
import * as WeightedRandom from "./internal/selector/weightedRandom.js"
import * as Weights from "./internal/selector/weights.js"

/**
 * A host that could be chosen, and what is known of it now. Callers may add fields of their own (its pool,
 * say): what is chosen is the very object that was given.
 *
 * Figures below zero and `NaN` count as unknown, and so do weights that `WeightOptions` would not take.
 *
 * @since 0.1.0
 * @category models
 */
export interface Candidate {
  readonly host: Host
  readonly role: Role
  readonly availability: Availability
  /** How much work the operator wants it to get: the more, the higher. It says nothing about its load. */
  readonly weight?: number | undefined
  /** Replication lag, where the cluster tells it. */
  readonly lagMillis?: number | undefined
  /** CPU in use, 0 to 100, where the cluster tells it. */
  readonly cpuPercent?: number | undefined
  /** Statements of this client that it was chosen for and has not answered. */
  readonly outstanding: number
  /** Connections of this client to it, those being opened among them. */
  readonly connections: number
  /** How fast it has answered lately; `undefined` while it has not. */
  readonly latencyMillis?: number | undefined
}

/**
 * At least one candidate.
 *
 * @since 0.1.0
 * @category models
 */
export type Candidates<C extends Candidate> = Array.NonEmptyReadonlyArray<C>

/**
 * A number from 0 up to 1, another one each time: `Random` for code that runs on every statement.
 *
 * @since 0.1.0
 * @category models
 */
export type Chance = () => number

/**
 * Takes one of the candidates, all of which may be used; `undefined` if it wants none of them. It is called
 * once per statement and must not wait.
 *
 * @since 0.1.0
 * @category models
 */
export interface HostSelector {
  <C extends Candidate>(candidates: Candidates<C>, chance: Chance): C | undefined
}

/**
 * @since 0.1.0
 * @category models
 */
export interface SelectOptions {
  /** Only hosts that are known to have this role. Default: any. */
  readonly role?: Exclude<Role, "unknown"> | undefined
}

/**
 * Weights are proportions: 2 and 1 are the same as 10 and 5. From 0.000001 to 1000000, or 0: no work while
 * any other host can do it.
 *
 * @since 0.1.0
 * @category models
 */
export interface WeightOptions {
  /** By the host's `id` or by its address (`name:port`); they go before the candidate's own `weight`. */
  readonly weights?: Readonly<Record<string, number>> | undefined
  /** Of hosts that have no weight, new ones among them. Not 0. Default 1. */
  readonly defaultWeight?: number | undefined
}

/**
 * MongoDB's `localThresholdMS`: hosts of one region are inside of it, those of another are not.
 *
 * @since 0.1.0
 * @category defaults
 */
export const DEFAULT_LATENCY_WINDOW = Duration.millis(15)

/**
 * One millisecond of lag weighs as much as one percent of CPU. An Aurora reader is some 10 to 30 ms behind
 * and uses 0 to 100 % of its CPU: both count, and a reader that falls behind by a second is out.
 *
 * @since 0.1.0
 * @category defaults
 */
export const DEFAULT_LAG_WEIGHT = 1

/**
 * Every host is as likely as every other.
 *
 * @since 0.1.0
 * @category strategies
 */
export const random: HostSelector = uniform

/**
 * One host after the other; one of weight 3 gets three times as much as one of weight 1, spread out and
 * not in a row.
 *
 * The rotation belongs to the selector that is made here, so clients that share the selector share it. It
 * is by address: while two hosts stay, their shares differ by at most one statement of each, whatever the
 * order of the list and whoever joins, leaves or is unavailable meanwhile. A host that joins or returns has
 * its first turn within one round, at a time left to chance, so that the clients of a fleet do not all
 * begin with it. One that left is forgotten after one round.
 *
 * @since 0.1.0
 * @category strategies
 */
export const roundRobin = (
  options: WeightOptions = {}
): Effect.Effect<HostSelector, ConfigurationError> =>
  Effect.map(Weights.make(options), (weightOf) => new Rotation(weightOf).select)

/**
 * By chance, in proportion to the weights.
 *
 * @since 0.1.0
 * @category strategies
 */
export const weightedRandom = (
  options: WeightOptions = {}
): Either.Either<HostSelector, ConfigurationError> =>
  Either.map(Weights.make(options), WeightedRandom.weightedRandom)

/**
 * The host with the highest `weight`; without one it has weight 1. The others get nothing until that one
 * is unavailable.
 *
 * The AWS drivers' weight is lag · 100 + CPU, and their strategy of this name takes the most loaded host.
 * Here a weight is a wish of the operator, and load is never part of it.
 *
 * @since 0.1.0
 * @category strategies
 */
export const highestWeight: HostSelector = (candidates, chance) =>
  lowest(candidates, (_) => -Weights.ownWeight(_), chance)

/**
 * The host with the lowest CPU + lag · `lagWeight`, in percent and milliseconds.
 *
 * A figure that no host has counts for none. A host that lacks one which others have is taken to be as good
 * as the best of them, no better: the two share the work until it is known.
 *
 * @since 0.1.0
 * @category strategies
 */
export const lowestLoad = (
  options: {
    /** The percent of CPU that one millisecond of lag weighs; 0 looks at CPU alone. Default 1. */
    readonly lagWeight?: number | undefined
  } = {}
): Either.Either<HostSelector, ConfigurationError> =>
  LowestLoad.lowestLoad(options.lagWeight ?? DEFAULT_LAG_WEIGHT)

/**
 * The host to which this client has the fewest connections. A host that joins has none, and takes new
 * connections until it is level with the others.
 *
 * @since 0.1.0
 * @category strategies
 */
export const leastConnections: HostSelector = (candidates, chance) =>
  lowest(candidates, (_) => _.connections, chance)

/**
 * The host with the lowest latency. A host without a sample is tried like the fastest one, one statement
 * at a time; while nobody has one, the host with the least outstanding is taken.
 *
 * @since 0.1.0
 * @category strategies
 */
export const fastestResponse: HostSelector = fastest

/**
 * MongoDB's selection: out of the hosts whose latency is at most `latencyWindow` above the lowest, two by
 * chance, and of these the one with less outstanding. Of 3, 6 and 20 outstanding, the first gets two thirds,
 * the second one third, the last nothing.
 *
 * A host without a latency is inside the window: it gets its share at once, and cannot be flooded, because
 * what it has outstanding counts before it has answered.
 *
 * @since 0.1.0
 * @category strategies
 */
export const twoChoices = (
  options: {
    /** Default 15 milliseconds. `Duration.infinity` for hosts anywhere. */
    readonly latencyWindow?: Duration.DurationInput | undefined
  } = {}
): HostSelector =>
  TwoChoices.twoChoices(Duration.toMillis(options.latencyWindow ?? DEFAULT_LATENCY_WINDOW))

/**
 * A strategy by name, as text can hold it: `"twoChoices"`, `"two-choices"` and `"TWO_CHOICES"` are the same.
 * With the defaults of each. `field` is the option that an error names.
 *
 * @since 0.1.0
 * @category constructors
 */
export const parse = (
  name: string,
  options: { readonly field: string }
): Effect.Effect<HostSelector, ConfigurationError> => {
  const wanted = name.trim().toLowerCase().replace(/[-_]/g, "")
  return (
    strategies.find(([name]) => name.toLowerCase() === wanted)?.[1] ??
    Effect.fail(
      new ConfigurationError({
        field: options.field,
        value: name,
        problem: "is not a strategy",
        hint: `write ${strategies.map(([name]) => name).join(", ")}`
      })
    )
  )
}

const strategies: ReadonlyArray<
  readonly [name: string, make: Effect.Effect<HostSelector, ConfigurationError>]
> = [
  ["twoChoices", Effect.succeed(twoChoices())],
  ["random", Effect.succeed(random)],
  ["roundRobin", roundRobin()],
  ["weightedRandom", weightedRandom()],
  ["highestWeight", Effect.succeed(highestWeight)],
  ["lowestLoad", lowestLoad()],
  ["leastConnections", Effect.succeed(leastConnections)],
  ["fastestResponse", Effect.succeed(fastestResponse)]
]

/**
 * Chance that is seeded by `Random` once, and repeats itself if `Random` does. An Effect for each number
 * would cost a statement more than its selection does.
 *
 * @since 0.1.0
 * @category constructors
 */
export const makeChance: Effect.Effect<Chance> = Effect.map(Random.nextInt, (seed) => {
  const generator = new Utils.PCGRandom(seed)
  return () => generator.number()
})

/**
 * Takes one of the hosts, at once. An `Either` is an Effect, too. If the selector throws, this does.
 *
 * @since 0.1.0
 * @category combinators
 */
export const selectWith = <C extends Candidate>(
  candidates: ReadonlyArray<C>,
  selector: HostSelector,
  chance: Chance,
  options: SelectOptions = {}
): Either.Either<C, NoMatchingHost> =>
  Either.flatMap(matching(candidates, options.role), (usable) => {
    const chosen = selector(usable, chance)
    return chosen === undefined
      ? Either.left(noMatch(candidates, options.role))
      : Either.right(chosen)
  })

/**
 * Takes one of the hosts, with the fiber's `Random`. Code that runs for every statement makes its chance
 * once, with `makeChance`, and calls `selectWith`.
 *
 * @since 0.1.0
 * @category combinators
 */
export const select = <C extends Candidate>(
  candidates: ReadonlyArray<C>,
  selector: HostSelector,
  options?: SelectOptions
): Effect.Effect<C, NoMatchingHost> =>
  Effect.flatMap(makeChance, (chance) => selectWith(candidates, selector, chance, options))
