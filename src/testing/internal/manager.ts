/**
 * The cluster's manager: what Patroni or RDS is to a real cluster. It knows which node is the primary, has the others
 * follow it, and sees to it that commits wait for a standby exactly as long as there is one.
 *
 * Operations that change who follows whom run one at a time. `kill` and `freeze` act at once: faults do not queue.
 */
import { Clock, Duration, Effect, FiberMap, Redacted, type Scope } from "effect"
import type { Node, NodeStatus, Options, PostgresCluster } from "../PostgresCluster.js"
import * as Account from "./account.js"
import { PostgresClusterError } from "./clusterError.js"
import { emulationOf } from "./flavors.js"
import * as Members from "./members.js"
import type { Member } from "./members.js"
import * as Operations from "./operations.js"
import * as Replication from "./replication.js"
import * as Roster from "./roster.js"
import * as Template from "./template.js"
import * as Watchdog from "./watchdog.js"

const roleBound = Duration.seconds(1)

/** Real servers live in real time: with TestClock, waits would never end. */
const live = Effect.withClock(Clock.make())

export const make = (
  options: Options
): Effect.Effect<PostgresCluster, PostgresClusterError, Scope.Scope> =>
  Effect.gen(function* () {
    const count = options.nodes ?? 3
    const flavor = options.flavor ?? "streaming"
    const replication = options.replication ?? "synchronous"
    if (!Number.isInteger(count) || count < 1) {
      return yield* new PostgresClusterError({
        message: `a cluster of ${count} nodes`,
        hint: "nodes is a whole number from 1"
      })
    }
    const template = options.template ?? (yield* Template.make)
    const account = yield* Account.find
    const guarded = yield* Watchdog.make("cluster", account)
    const emulation = emulationOf(flavor)
    const settings = { ...emulation?.settings, ...options.settings }
    const oneAtATime = yield* Effect.makeSemaphore(1)
    let members: ReadonlyArray<Member> = []

    const background = yield* FiberMap.make<string>()
    const roster = Roster.make({
      isEmulated: emulation !== undefined,
      synchronous: replication === "synchronous",
      username: template.username,
      password: template.password,
      settings,
      members: () => members,
      background
    })
    const { configure, isUp, lost, standbysUp, thePrimary } = roster

    members = yield* Members.bringUp({
      count,
      template,
      account,
      guarded,
      regionOf: emulation?.regionOf,
      configure,
      // Also when somebody else killed it. A primary's end changes nothing for the others.
      onExit: (member) => {
        if (member.kind === "standby") Effect.runSyncExit(lost(member))
      }
    })
    const first = yield* thePrimary()
    if (emulation !== undefined) {
      const nodes = members.map(({ node }) => node)
      yield* first.sessions.query(emulation.install(nodes, first.node))
    }
    yield* Effect.forEach(
      standbysUp(),
      (standby) => Replication.caughtUp(standby, first, Members.catchUpBound),
      { concurrency: "unbounded", discard: true }
    )

    const operations = Operations.make(roster, background, oneAtATime)
    let closed = false
    yield* Effect.addFinalizer(() => Effect.sync(() => (closed = true)))

    const whileOpen = <A>(effect: Effect.Effect<A, PostgresClusterError>) =>
      live(
        Effect.suspend(() =>
          closed
            ? Effect.fail(
                new PostgresClusterError({
                  message: "the cluster is closed",
                  hint: "use it inside the scope that made it"
                })
              )
            : effect
        )
      )

    const locked = <A>(effect: Effect.Effect<A, PostgresClusterError>) =>
      oneAtATime.withPermits(1)(whileOpen(effect))

    const on = <A>(
      node: Node,
      f: (member: Member) => Effect.Effect<A, PostgresClusterError>
    ): Effect.Effect<A, PostgresClusterError> =>
      Effect.suspend(() => {
        const member = members.find(
          (each) => each.node.id === node.id && each.node.serverPort === node.serverPort
        )
        return member === undefined
          ? Effect.fail(
              new PostgresClusterError({
                message: `${node.id} on port ${node.serverPort} is no node of this cluster`,
                hint: "take it from the cluster's `nodes`"
              })
            )
          : f(member)
      })

    const role = (member: Member): Effect.Effect<NodeStatus["role"]> =>
      isUp(member)
        ? member.sessions.query("select pg_is_in_recovery() as standby", [], roleBound).pipe(
            Effect.map(([row]): NodeStatus["role"] =>
              row?.["standby"] === true ? "standby" : "primary"
            ),
            Effect.orElseSucceed((): NodeStatus["role"] => "unknown")
          )
        : Effect.succeed("unknown")

    const cluster: PostgresCluster = {
      flavor,
      replication,
      nodes: members.map(({ node }) => node),
      database: Members.database,
      username: template.username,
      password: Redacted.make(template.password),
      primary: Effect.map(thePrimary(), ({ node }) => node),
      standbys: Effect.sync(() => standbysUp().map(({ node }) => node)),
      status: live(
        Effect.forEach(
          members,
          (member) =>
            Effect.map(role(member), (role) => ({
              node: member.node,
              process: member.server.process(),
              role
            })),
          { concurrency: "unbounded" }
        )
      ),
      query: (node, sql, params) =>
        whileOpen(
          on(node, (member) =>
            isUp(member)
              ? member.sessions.query(sql, params)
              : Effect.fail(
                  member.server.failure(`is ${member.server.process()}`, "start or resume it first")
                )
          )
        ),
      kill: (node) =>
        whileOpen(on(node, ({ server, sessions }) => Effect.zipRight(server.kill, sessions.close))),
      stop: (node, mode) => locked(on(node, (member) => operations.stop(member, mode))),
      start: (node) => locked(on(node, operations.start)),
      freeze: (node) =>
        whileOpen(
          on(node, (member) =>
            Effect.zipRight(
              member.server.freeze,
              Effect.suspend(() => (member.kind === "standby" ? lost(member) : Effect.void))
            )
          )
        ),
      resume: (node) =>
        Effect.zipRight(
          whileOpen(on(node, ({ server }) => server.resume)),
          locked(on(node, operations.catchUp))
        ),
      promote: (node, options) =>
        locked(
          node === undefined
            ? operations.promote(undefined, options)
            : on(node, (member) => operations.promote(member, options))
        ),
      rejoin: (node) => locked(on(node, operations.rejoin)),
      switchover: (to) =>
        locked(to === undefined ? operations.switchover() : on(to, operations.switchover)),
      restart: (node) =>
        locked(
          on(node, (member) =>
            Effect.zipRight(operations.stop(member, "fast"), operations.start(member))
          )
        )
    }
    return cluster
  }).pipe(live)
