/**
 * ArangoDB as clients see it, in this process: an Active Failover deployment with its agency, the coordinators of a
 * cluster, or a single server, on free ports of the loopback address. It answers what arangod answers, down to the
 * headers of a follower, and does on command what servers do at the worst moment.
 *
 * It is a double, not a database: documents, collections, a few forms of AQL with cursors, stream transactions and
 * authentication are there, enough for `arangojs` and for this package's own client. What it does not know it answers
 * with 404 or with a parse error that says so. It knows better than a server what became of every request: `log`.
 *
 * | as in the original | |
 * |---|---|
 * | a follower refuses with 503/1496 and `X-Arango-Endpoint`, before it looks at users or data | the refused request is known not to have been executed |
 * | the header names whom the follower copies from: from a leader's death to the next election, that is the dead one | |
 * | during an election: 503/1495 and an empty header | |
 * | replication is asynchronous | what was not copied is lost on a promotion |
 * | cursors and stream transactions live on one server, and die with it | |
 *
 * @since 0.1.0
 */
import { Duration, Effect, type Scope } from "effect"
import type { Fault } from "./internal/arango/fault.js"
import type { Mode } from "./internal/arango/gate.js"
import type { RequestRecord } from "./internal/arango/log.js"
import * as Manager from "./internal/arango/manager.js"
import type { StoredDocument } from "./internal/arango/store.js"

export {
  /**
   * What a server does to requests. See the table of `setFault`.
   *
   * @since 0.1.0
   * @category models
   */
  Fault
} from "./internal/arango/fault.js"

export type {
  /**
   * One request, as far as it came.
   *
   * @since 0.1.0
   * @category models
   */
  RequestRecord
} from "./internal/arango/log.js"

export type {
  /**
   * - `default`: a leader, a coordinator, or a single server: serves everything.
   * - `follower`: answers 503/1496 with the leader's address.
   * - `election`: answers 503/1495.
   * - `maintenance`: starting up, 503/503.
   * - `stopping`: shutting down, 503/30.
   *
   * @since 0.1.0
   * @category models
   */
  Mode
} from "./internal/arango/gate.js"

export type {
  /**
   * A document as it is stored.
   *
   * @since 0.1.0
   * @category models
   */
  StoredDocument
} from "./internal/arango/store.js"

/**
 * One server of the deployment. What it is, not what it does: that changes, and is asked for.
 *
 * @since 0.1.0
 * @category models
 */
export interface ArangoNode {
  readonly id: string
  readonly host: string
  /** Stays the same through `kill` and `restart`. */
  readonly port: number
  /** `http://host:port`, or `https`. */
  readonly url: string
}

/**
 * @since 0.1.0
 * @category models
 */
export interface Options {
  /** Default `"active-failover"`. */
  readonly deployment?: "active-failover" | "cluster" | "single" | undefined
  /** Default 2; 1 for a single server. */
  readonly nodes?: number | undefined
  /** Loopback addresses, given to the servers in turn. Default `["127.0.0.1"]`; `"::1"` is the other. */
  readonly hosts?: ReadonlyArray<string> | undefined
  /** Serves HTTPS with this key and certificate, in PEM. */
  readonly tls?: { readonly key: string; readonly cert: string } | undefined
  /** Without it, nobody is asked who he is. */
  readonly auth?:
    | {
        readonly username: string
        readonly password: string
        /** How long a token is good. Default 1 hour. */
        readonly tokenLifetime?: Duration.DurationInput | undefined
        /** Whether a token of one server is good on the others. Default `true`. */
        readonly sharedSecret?: boolean | undefined
      }
    | undefined
}

/**
 * A running deployment. What it does to servers, it does at once, in real time, also under TestClock.
 *
 * @since 0.1.0
 * @category models
 */
export interface ArangoDouble {
  readonly nodes: readonly [ArangoNode, ...ReadonlyArray<ArangoNode>]
  /** The servers' addresses, in their order: the first one is the first leader. */
  readonly endpoints: ReadonlyArray<string>
  /** The agents' addresses; of Active Failover only. `POST /_api/agency/read` tells the leader. */
  readonly agency: ReadonlyArray<string>
  /** The first server that is up and serves everything. */
  readonly leader: Effect.Effect<ArangoNode | undefined>

  /** Refuses connections from now on and resets those that there are. Nothing of it is executed any more. */
  readonly kill: (node: ArangoNode) => Effect.Effect<void>
  /** On the same port. A leader that was replaced comes back as a follower, with the new leader's data. */
  readonly restart: (node: ArangoNode) => Effect.Effect<void>
  readonly setMode: (node: ArangoNode, mode: Mode) => Effect.Effect<void>
  /** Makes it the leader at once, and the others follow it; one that is a leader as well stays one. */
  readonly promote: (node: ArangoNode) => Effect.Effect<void>
  /**
   * What the agency does when the leader is gone: nothing until `after - challenge`, an election for `challenge`, then
   * the most recent follower (or `to`) leads. `challenge` is half of `after` unless given.
   */
  readonly elect: (options: {
    readonly after: Duration.DurationInput
    readonly challenge?: Duration.DurationInput | undefined
    readonly to?: ArangoNode | undefined
  }) => Effect.Effect<void>
  /** What the server writes into `X-Arango-Endpoint`; `undefined` for the truth. */
  readonly setLeaderHeader: (node: ArangoNode, value: string | undefined) => Effect.Effect<void>
  /**
   * Replaces the server's fault: for the next `times` requests (default: all) that `when` chooses (default: all).
   *
   * | fault | the request | the client sees |
   * |---|---|---|
   * | `None` | is served | the answer |
   * | `ResetOnConnect` | is not read | RST |
   * | `ResetBeforeBody` | is read to the end of its head, and never executed | RST |
   * | `ResetBeforeExecution` | is read completely, and never executed | RST |
   * | `DropReply` | is executed | RST |
   * | `CloseInsteadOfReply` | is executed | FIN |
   * | `HalfReply` | is executed | the head and half of the body, then RST |
   * | `HangBeforeBody` | is read to the end of its head | nothing |
   * | `HangBeforeExecution` | is read completely, and never executed | nothing |
   * | `HangInsteadOfReply` | is executed | nothing |
   * | `Slow` | is executed after `duration` | the answer |
   * | `Answer` | is never executed | this answer: of a proxy, or an overload |
   */
  readonly setFault: (
    node: ArangoNode,
    fault: Fault,
    options?: {
      readonly times?: number | undefined
      readonly when?:
        ((request: { readonly method: string; readonly path: string }) => boolean) | undefined
    }
  ) => Effect.Effect<void>
  /** Whether followers get what the leader writes. On at first. */
  readonly setReplicating: (on: boolean) => Effect.Effect<void>
  /** Whether the server knows the user: one that has not copied the users yet answers 401 to him. */
  readonly setUserKnown: (node: ArangoNode, known: boolean) => Effect.Effect<void>

  /** Every request so far, in the order of their arrival. */
  readonly log: Effect.Effect<ReadonlyArray<RequestRecord>>
  readonly clearLog: Effect.Effect<void>
  /** How many clients are connected to the server. */
  readonly connections: (node: ArangoNode) => Effect.Effect<number>
  /** What the server holds of a collection. */
  readonly documents: (
    node: ArangoNode,
    collection: string,
    database?: string
  ) => Effect.Effect<ReadonlyArray<StoredDocument>>
}

const nodeOf = ({ listener, server }: Manager.Member): ArangoNode => ({
  id: server.id,
  host: new URL(server.url).hostname.replace(/^\[|\]$/g, ""),
  port: listener.port,
  url: server.url
})

/**
 * Starts the deployment; it is gone, with all its connections, when the scope closes.
 *
 * @example
 * ```ts
 * import { Effect } from "effect"
 * import * as ArangoDouble from "effect-failover/testing/ArangoDouble"
 *
 * const program = Effect.gen(function* () {
 *   const arango = yield* ArangoDouble.make({ nodes: 2 })
 *   const [leader] = arango.nodes
 *   yield* Effect.log(`clients connect to ${arango.endpoints.join(", ")}`)
 *   yield* arango.kill(leader)
 *   yield* arango.elect({ after: "600 millis" })
 *   yield* arango.restart(leader) // comes back as a follower
 * }).pipe(Effect.scoped)
 * ```
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = (options: Options = {}): Effect.Effect<ArangoDouble, never, Scope.Scope> =>
  Effect.gen(function* () {
    const deployment = options.deployment ?? "active-failover"
    const auth = options.auth
    const manager = yield* Manager.make({
      deployment,
      nodes: options.nodes ?? (deployment === "single" ? 1 : 2),
      hosts: options.hosts ?? ["127.0.0.1"],
      tls: options.tls,
      auth:
        auth === undefined
          ? undefined
          : {
              username: auth.username,
              password: auth.password,
              tokenLifetime: Duration.toSeconds(auth.tokenLifetime ?? "1 hour"),
              sharedSecret: auth.sharedSecret ?? true
            }
    })
    const [first, ...others] = manager.members.map(nodeOf)
    if (first === undefined)
      return yield* Effect.dieMessage("an ArangoDouble has one node at least")

    const member = (node: ArangoNode): Effect.Effect<Manager.Member> =>
      Effect.suspend(() => {
        const found = manager.members.find(({ server }) => server.id === node.id)
        return found === undefined
          ? Effect.dieMessage(`${node.id} is no node of this ArangoDouble`)
          : Effect.succeed(found)
      })
    const change = (node: ArangoNode, f: (_: Manager.Member) => void): Effect.Effect<void> =>
      Effect.map(member(node), f)

    return {
      nodes: [first, ...others],
      endpoints: [first, ...others].map((_) => _.url),
      agency: manager.agency,
      leader: Effect.sync(() => {
        const leader = manager.leader()
        return [first, ...others].find((_) => _.id === leader?.id)
      }),
      kill: (node) => Effect.flatMap(member(node), manager.kill),
      restart: (node) => Effect.flatMap(member(node), manager.restart),
      setMode: (node, mode) =>
        change(node, ({ server }) => {
          server.mode = mode
        }),
      promote: (node) => Effect.flatMap(member(node), ({ server }) => manager.promote(server)),
      elect: ({ after, challenge, to }) => {
        const total = Duration.decode(after)
        const contested =
          challenge === undefined ? Duration.times(total, 0.5) : Duration.decode(challenge)
        return to === undefined
          ? manager.elect(total, contested)
          : Effect.flatMap(member(to), ({ server }) => manager.elect(total, contested, server))
      },
      setLeaderHeader: (node, value) =>
        change(node, ({ server }) => {
          server.leaderHeader = value
        }),
      setFault: (node, fault, { times = Infinity, when = () => true } = {}) =>
        Effect.flatMap(member(node), (_) => manager.arm(_, { fault, times, when })),
      setReplicating: manager.setReplicating,
      setUserKnown: (node, known) =>
        change(node, ({ server }) => {
          if (auth === undefined) return
          if (known) server.credentials?.users.set(auth.username, auth.password)
          else server.credentials?.users.delete(auth.username)
        }),
      log: Effect.sync(() =>
        manager.log.records.map((record) => ({ ...record, operations: [...record.operations] }))
      ),
      clearLog: Effect.sync(() => {
        manager.log.records.length = 0
      }),
      connections: (node) => Effect.map(member(node), ({ listener }) => listener.connections()),
      documents: (node, collection, database = "_system") =>
        Effect.map(member(node), ({ server }) => [
          ...(server.store.collection(database, collection)?.values() ?? [])
        ])
    }
  })
