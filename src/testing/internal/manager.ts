/**
 * The cluster's manager: what Patroni or RDS is to a real cluster. It knows which node is the primary, has the others
 * follow it, and sees to it that commits wait for a standby exactly as long as there is one.
 *
 * Operations that change who follows whom run one at a time. `kill` and `freeze` act at once: faults do not queue.
 */
import { Clock, Duration, Effect, FiberMap, Option, Redacted, type Scope } from "effect"
import type { Node, NodeStatus, Options, PostgresCluster, Promotion } from "../PostgresCluster.js"
import * as Account from "./account.js"
import * as Aurora from "./aurora.js"
import * as Clone from "./clone.js"
import { PostgresClusterError } from "./clusterError.js"
import * as Config from "./config.js"
import * as Members from "./members.js"
import type { Member } from "./members.js"
import * as Replication from "./replication.js"
import * as Template from "./template.js"
import * as Watchdog from "./watchdog.js"

/** Promotion takes some 10 ms at the median; a busy machine with much to replay may take seconds. */
const promotionBound = Duration.seconds(30)
/** A clone streams within 100 ms of its start. */
const rejoinBound = Duration.seconds(30)
/** A sibling reconnects after 20 ms (`wal_retrieve_retry_interval`): one that has not done so in 5 s cannot follow. */
const followBound = Duration.seconds(5)
const roleBound = Duration.seconds(1)
const announceBound = Duration.seconds(5)

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
    const settings = { ...(flavor === "aurora" ? Aurora.settings : {}), ...options.settings }
    const oneAtATime = yield* Effect.makeSemaphore(1)
    let members: ReadonlyArray<Member> = []

    const isUp = (member: Member): boolean => member.server.process() === "running"
    const standbysUp = (): ReadonlyArray<Member> =>
      members.filter((member) => member.kind === "standby" && isUp(member))
    const thePrimary = (all: ReadonlyArray<Member> = members): Effect.Effect<Member> =>
      Effect.suspend(() =>
        Effect.orDieWith(
          Effect.fromNullable(all.find((member) => member.kind === "primary")),
          () => new Error("one member is always the primary")
        )
      )

    // -------------------------------------------------------------------------------------------------------------
    // Configuration follows from what the members are
    // -------------------------------------------------------------------------------------------------------------

    /** A former primary keeps what it had: it comes back as it went, and hangs its commits as a real one would. */
    const configure = (member: Member, all: ReadonlyArray<Member> = members) =>
      Effect.gen(function* () {
        if (member.kind === "former") return
        const primary = yield* thePrimary(all)
        const followers = all.some((other) => other !== member && other.follows)
        yield* member.server.configure(
          Config.render({
            id: member.node.id,
            port: member.node.serverPort,
            username: template.username,
            password: template.password,
            follows: member === primary ? undefined : primary.node.serverPort,
            synchronous: replication === "synchronous" && followers,
            settings
          })
        )
      })

    const reconcile = Effect.suspend(() =>
      Effect.forEach(members, (member) => configure(member), { discard: true })
    )

    // -------------------------------------------------------------------------------------------------------------
    // Aurora's instances know each other through what their writer writes
    // -------------------------------------------------------------------------------------------------------------

    const background = yield* FiberMap.make<string>()

    const announce = Effect.gen(function* () {
      const primary = yield* thePrimary()
      if (!isUp(primary)) return
      const up = [primary, ...standbysUp()].map(({ node }) => node.id)
      yield* primary.sessions.query(Aurora.announce(primary.node.id, up), [], announceBound)
    }).pipe(Effect.ignore)

    /** The latest word wins; nobody waits for it. */
    const changed =
      flavor === "aurora"
        ? Effect.asVoid(FiberMap.run(background, "announce", announce))
        : Effect.void

    const lost = (member: Member) =>
      Effect.suspend(() => {
        member.follows = false
        return Effect.zipRight(Effect.ignore(reconcile), changed)
      })

    const follows = (member: Member) =>
      Effect.suspend(() => {
        member.follows = true
        return Effect.zipRight(reconcile, changed)
      })

    // -------------------------------------------------------------------------------------------------------------
    // The cluster comes up
    // -------------------------------------------------------------------------------------------------------------

    members = yield* Members.bringUp({
      count,
      template,
      account,
      guarded,
      configure,
      // Also when somebody else killed it. A primary's end changes nothing for the others.
      onExit: (member) => {
        if (member.kind === "standby") Effect.runSyncExit(lost(member))
      }
    })
    const first = yield* thePrimary()
    if (flavor === "aurora") {
      const nodes = members.map(({ node }) => node)
      yield* first.sessions.query(Aurora.install(nodes, first.node))
    }
    yield* Effect.forEach(
      standbysUp(),
      (standby) => Replication.caughtUp(standby, first, rejoinBound),
      { concurrency: "unbounded", discard: true }
    )

    // -------------------------------------------------------------------------------------------------------------
    // Operations, each on one member, under the lock where they change who follows whom
    // -------------------------------------------------------------------------------------------------------------

    const rejoin = (member: Member): Effect.Effect<void, PostgresClusterError> =>
      Effect.gen(function* () {
        const primary = yield* thePrimary()
        if (member === primary) {
          return yield* member.server.failure(
            "is the primary",
            "promote another node first, or use `restart`"
          )
        }
        yield* member.server.kill
        yield* member.sessions.close
        yield* lost(member)
        yield* primary.sessions.use((session) =>
          Clone.fromPrimary(primary.server.directory, session, member.place)
        )
        member.kind = "standby"
        yield* configure(member)
        yield* Members.start(member)
        yield* Replication.caughtUp(member, primary, rejoinBound)
        yield* follows(member)
      })

    /** A standby that is up follows the primary, by its own WAL or, where that has diverged, by a new clone. */
    const follow = (member: Member): Effect.Effect<void, PostgresClusterError> =>
      Effect.gen(function* () {
        const primary = yield* thePrimary()
        if (member.kind !== "standby" || !isUp(member) || !isUp(primary)) return
        yield* Replication.caughtUp(member, primary, followBound).pipe(
          Effect.zipRight(follows(member)),
          Effect.catchAll(() =>
            Effect.suspend(() =>
              member.kind === "standby" && isUp(member) && isUp(primary)
                ? rejoin(member)
                : Effect.void
            )
          )
        )
      })

    const inBackground = (member: Member, effect: Effect.Effect<void, PostgresClusterError>) =>
      FiberMap.run(background, member.node.id, oneAtATime.withPermits(1)(Effect.ignore(effect)))

    /** Standbys that could not be verified while their primary was away are verified when it is back. */
    const primaryIsBack = Effect.gen(function* () {
      for (const each of standbysUp()) yield* inBackground(each, follow(each))
      yield* changed
    })

    const awaitWritable = (member: Member): Effect.Effect<bigint, PostgresClusterError> =>
      member.sessions
        .use((session) =>
          Effect.gen(function* () {
            yield* session.query("select pg_promote(wait => false)")
            for (;;) {
              const [row] = yield* session.query("select pg_is_in_recovery() as standby")
              if (row?.["standby"] === false) return process.hrtime.bigint()
              yield* Effect.sleep("2 millis")
            }
          })
        )
        .pipe(
          Effect.timeoutFail({
            duration: promotionBound,
            onTimeout: () =>
              member.server.failure(
                `is not promoted after ${Duration.format(promotionBound)}`,
                "the log says what it waits for"
              )
          })
        )

    const promote = (to?: Member): Effect.Effect<Promotion, PostgresClusterError> =>
      Effect.gen(function* () {
        const old = yield* thePrimary()
        const standbys = standbysUp()
        const positions = new Map(
          yield* Effect.forEach(
            standbys,
            (standby) =>
              Effect.map(
                Replication.position(standby),
                (lsn) => [standby, Option.getOrElse(lsn, () => -1n)] as const
              ),
            { concurrency: "unbounded" }
          )
        )
        const reached = (member: Member): bigint => positions.get(member) ?? -1n
        const best = standbys.reduce<Member | undefined>(
          (most, each) => (most === undefined || reached(each) > reached(most) ? each : most),
          undefined
        )
        const chosen = to ?? best
        if (chosen === undefined || reached(chosen) < 0n) {
          return yield* new PostgresClusterError({
            message:
              to === undefined
                ? "no standby that could be promoted is running"
                : `${to.node.id} is not a running standby`,
            hint: "start, resume or rejoin it first; `status` tells what runs"
          })
        }
        // A sibling that has more than the new primary cannot follow it: it has to be cloned.
        const siblings = standbys.filter((each) => each !== chosen)
        const before = members.map(({ follows, kind }) => ({ follows, kind }))
        old.kind = "former"
        chosen.kind = "primary"
        chosen.follows = false
        for (const each of siblings) each.follows = each.follows && reached(each) <= reached(chosen)
        yield* configure(chosen)
        // Both at once: the sibling is there when the first commit waits for it, and nobody waits for the sibling.
        const [acceptsWritesAt] = yield* Effect.all([awaitWritable(chosen), reconcile], {
          concurrency: 2
        }).pipe(
          Effect.tapError(() => {
            members.forEach((member, index) => Object.assign(member, before[index]))
            return Effect.ignore(reconcile)
          })
        )
        yield* changed
        for (const each of siblings) {
          yield* inBackground(each, reached(each) <= reached(chosen) ? follow(each) : rejoin(each))
        }
        return { node: chosen.node, acceptsWritesAt }
      }).pipe(Effect.uninterruptible)

    const start = (member: Member): Effect.Effect<void, PostgresClusterError> =>
      Effect.gen(function* () {
        const process = member.server.process()
        if (process === "running") return
        if (process === "frozen") {
          return yield* member.server.failure("is frozen", "resume or kill it first")
        }
        yield* configure(member)
        yield* Members.start(member)
        if (member.kind === "standby") return yield* follow(member)
        if (member.kind === "primary") yield* primaryIsBack
      })

    const stop = (member: Member, mode: "fast" | "immediate") =>
      Effect.zipRight(member.server.stop(mode), member.sessions.close)

    const switchover = (to?: Member): Effect.Effect<Node, PostgresClusterError> =>
      Effect.gen(function* () {
        const old = yield* thePrimary()
        const ready = to === undefined ? standbysUp() : [to]
        if (ready.length === 0 || ready.some((each) => each.kind !== "standby" || !isUp(each))) {
          return yield* new PostgresClusterError({
            message: `${to?.node.id ?? "no node"} is a running standby`,
            hint: "start, resume or rejoin it first; `status` tells what runs"
          })
        }
        yield* Effect.forEach(ready, (each) => Replication.caughtUp(each, old, followBound), {
          concurrency: "unbounded",
          discard: true
        })
        yield* stop(old, "fast")
        const { node } = yield* promote(to).pipe(Effect.tapError(() => Effect.ignore(start(old))))
        yield* rejoin(old)
        return node
      })

    // -------------------------------------------------------------------------------------------------------------
    // What users get
    // -------------------------------------------------------------------------------------------------------------

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
      stop: (node, mode) => locked(on(node, (member) => stop(member, mode))),
      start: (node) => locked(on(node, start)),
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
          locked(
            on(node, (member) => Effect.zipRight(Effect.ignore(configure(member)), follow(member)))
          )
        ),
      promote: (node) =>
        locked(node === undefined ? promote() : on(node, (member) => promote(member))),
      rejoin: (node) => locked(on(node, rejoin)),
      switchover: (to) =>
        locked(to === undefined ? switchover() : on(to, (member) => switchover(member))),
      restart: (node) =>
        locked(on(node, (member) => Effect.zipRight(stop(member, "fast"), start(member))))
    }
    return cluster
  }).pipe(live)
