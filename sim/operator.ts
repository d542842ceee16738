/**
 * Makes the faults of a scenario, and acts as the cluster's manager: it replaces a writer that is gone by a
 * standby that has everything, and fences an old one that is back. It never does what no manager would: of
 * two writers, one is always about to be stopped, and nobody is promoted over a writer that is well.
 */
import { Effect, Schedule } from "effect"
import type { SimulatedCluster } from "effect-failover/testing/SimulatedCluster"
import type { Fault, Target } from "./scenario.js"

/** A time in which the clients may be disturbed, in virtual milliseconds. */
export interface Disturbance {
  readonly kind: Fault["kind"]
  /** The host that it is about; undefined: more than one. */
  readonly host: string | undefined
  readonly from: number
  /** Undefined while it goes on. */
  to: number | undefined
}

export interface Operator {
  readonly make: (fault: Fault) => Effect.Effect<void>
  /** All is well again: one writer, followed by all others. Nothing else may be under way. */
  readonly heal: Effect.Effect<void>
  /** Who is the writer, as the manager has it. */
  readonly leader: () => string
  /** Whether the host was the writer at some time since then, or was to become it. */
  readonly hasLed: (name: string, since: number) => boolean
  readonly disturbances: ReadonlyArray<Disturbance>
  /** A statement is sent: a fault that waited for it has done its work. */
  readonly sending: (sql: string) => void
}

interface Node {
  readonly name: string
  process: "up" | "down" | "frozen"
  isCut: boolean
  /** Takes itself for the writer, and is not. */
  isUsurped: boolean
}

/** The work's own statements of a kind. */
const pattern = (match: string): RegExp =>
  match === "INSERT" || match === "SELECT"
    ? new RegExp(`^${match} .*\\bwork`)
    : new RegExp(`^${match}`)

export const make = (
  cluster: SimulatedCluster,
  options: {
    readonly flavor: "streaming" | "aurora"
    readonly promotionTime: number
    /** Virtual milliseconds since the start. */
    readonly elapsed: () => number
    readonly note: (text: string) => void
    readonly happened: (kind: string) => void
  }
): Operator => {
  const { elapsed, flavor } = options
  const nodes = cluster.hosts.map(({ id }): Node => ({
    name: id,
    process: "up",
    isCut: false,
    isUsurped: false
  }))
  const disturbances: Array<Disturbance> = []
  const armed: Array<{ readonly pattern: RegExp; readonly disturbance: Disturbance }> = []
  let leader = nodes[0]?.name ?? ""
  /** When the leader takes writes. */
  let leadsFrom = 0
  /** When a host was the leader last. */
  const ledUntil = new Map<string, number>()
  /** The leader has stepped down, and nobody has taken over yet. */
  let isVacant = false
  let turn = 0

  const note = (text: string) => Effect.sync(() => options.note(`operator: ${text}`))
  const isWell = (node: Node) => node.process === "up" && !node.isCut
  const writer = () => nodes.find((_) => _.name === leader)

  /** A host that nothing has happened to yet; those that are not the writer take turns. */
  const find = (target: Target): Node | undefined => {
    if (target === "writer") {
      const found = writer()
      return found !== undefined && isWell(found) && !isVacant && elapsed() >= leadsFrom
        ? found
        : undefined
    }
    const readers = nodes.filter((_) => _.name !== leader && isWell(_) && !_.isUsurped)
    return readers[turn++ % Math.max(1, readers.length)]
  }

  const candidate = () =>
    nodes.find((_) => _.name !== leader && isWell(_) && cluster.isPromotable(_.name))

  const disturb = (kind: Fault["kind"], host?: string): Disturbance => {
    const disturbance: Disturbance = { kind, host, from: elapsed(), to: undefined }
    disturbances.push(disturbance)
    options.happened(kind)
    return disturbance
  }

  const lasting = (
    kind: Fault["kind"],
    work: Effect.Effect<unknown>,
    host?: string
  ): Effect.Effect<void> =>
    Effect.suspend(() => {
      const disturbance = disturb(kind, host)
      return Effect.zipRight(
        work,
        Effect.sync(() => {
          disturbance.to = elapsed()
        })
      )
    })

  const step = (text: string, change: () => void, work: Effect.Effect<void>) =>
    Effect.suspend(() => {
      options.note(`operator: ${text}`)
      change()
      return work
    })

  const kill = (node: Node) =>
    step(`kill ${node.name}`, () => (node.process = "down"), cluster.kill(node.name))

  const start = (node: Node, as?: "standby" | "itself") =>
    Effect.suspend(() =>
      node.process !== "down"
        ? Effect.void
        : step(
            `start ${node.name}${as === undefined ? "" : ` as ${as}`}`,
            () => {
              node.process = "up"
              node.isUsurped = as === "itself" && node.name !== leader
            },
            cluster.start(node.name, as === undefined ? {} : { as })
          )
    )

  const resume = (node: Node) =>
    Effect.suspend(() =>
      node.process !== "frozen"
        ? Effect.void
        : step(`resume ${node.name}`, () => (node.process = "up"), cluster.resume(node.name))
    )

  const heal = (node: Node) =>
    Effect.suspend(() =>
      node.isCut
        ? step(`heal ${node.name}`, () => (node.isCut = false), cluster.heal(node.name))
        : Effect.void
    )

  const leads = (node: Node): void => {
    ledUntil.set(leader, elapsed())
    leader = node.name
    leadsFrom = elapsed() + options.promotionTime + 1
  }

  const promote = (node: Node) =>
    step(
      `promote ${node.name}`,
      () => {
        const old = writer()
        // On shared storage, an old writer is restarted as a reader by itself.
        if (old !== undefined && flavor === "streaming" && !isVacant) {
          old.isUsurped = old.process !== "down"
        }
        leads(node)
        isVacant = false
        node.isUsurped = false
      },
      cluster.promote(node.name)
    )

  /** Another writer instead of this one, if it is still the writer and still not well. */
  const replace = (old: Node) =>
    Effect.suspend(() => {
      if (leader !== old.name || (isWell(old) && !isVacant)) return Effect.void
      const next = candidate()
      if (next !== undefined) return promote(next)
      return isWell(old) && cluster.isPromotable(old.name)
        ? promote(old)
        : note("nobody to promote")
    })

  /** A host that went down while it was being promoted comes back as what it was: somebody must lead. */
  const repair = Effect.sleep(options.promotionTime + 1).pipe(
    Effect.zipRight(cluster.writer),
    Effect.flatMap((found) => {
      if (found !== undefined || elapsed() < leadsFrom) return Effect.void
      const last = writer()
      const next =
        last !== undefined && isWell(last) && cluster.isPromotable(last.name) ? last : candidate()
      return next === undefined ? note("nobody to promote") : promote(next)
    }),
    Effect.repeat({
      schedule: Schedule.spaced("1 second"),
      until: () => Effect.map(cluster.writer, (_) => _ !== undefined)
    })
  )

  const fence = (node: Node) =>
    Effect.suspend(() =>
      node.isUsurped && node.process !== "down" && node.name !== leader
        ? Effect.zipRight(
            kill(node),
            Effect.suspend(() => {
              node.isUsurped = false
              return start(node, "standby")
            })
          )
        : Effect.void
    )

  const back = (node: Node, kind: "usurped" | "isolated" | "returned") => {
    switch (kind) {
      case "usurped":
        return resume(node)
      case "isolated":
        return heal(node)
      case "returned":
        return Effect.suspend(() =>
          start(node, flavor === "streaming" && node.name !== leader ? "itself" : undefined)
        )
    }
  }

  const remove = (node: Node, kind: "usurped" | "isolated" | "returned") => {
    switch (kind) {
      case "usurped":
        return freeze(node)
      case "isolated":
        return partition(node, "all")
      case "returned":
        return kill(node)
    }
  }

  const freeze = (node: Node) =>
    step(`freeze ${node.name}`, () => (node.process = "frozen"), cluster.freeze(node.name))

  const partition = (node: Node, cut: "clients" | "peers" | "all") =>
    step(
      `partition ${node.name} from ${cut}`,
      () => (node.isCut = true),
      cluster.partition(node.name, cut)
    )

  const upTo = (millis: number) => Effect.sleep(Math.max(0, millis))

  const run = (fault: Fault): Effect.Effect<void> => {
    switch (fault.kind) {
      case "switchover":
      case "demotion": {
        const old = find("writer")
        const next = candidate()
        if (old === undefined || next === undefined) return Effect.void
        return lasting(
          fault.kind,
          fault.kind === "switchover"
            ? step(`switchover to ${next.name}`, () => leads(next), cluster.switchover(next.name))
            : step(`demote ${old.name}`, () => (isVacant = true), cluster.demote(old.name)).pipe(
                Effect.zipRight(upTo(fault.promoteAfter)),
                // Other hosts may be down in this very moment: a manager does not give up.
                Effect.zipRight(
                  Effect.repeat(replace(old), {
                    schedule: Schedule.spaced("1 second"),
                    while: () => isVacant && leader === old.name
                  })
                )
              )
        )
      }
      case "outage":
        return lasting(
          fault.kind,
          Effect.gen(function* () {
            for (const node of nodes) if (node.process !== "down") yield* kill(node)
            yield* upTo(fault.lasts)
            for (const node of writersFirst()) yield* start(node)
            yield* repair
          })
        )
      case "stale":
        return lasting(
          fault.kind,
          cluster
            .staleLists(fault.by)
            .pipe(
              Effect.zipRight(note(`lists are ${fault.by} ms old`)),
              Effect.zipRight(upTo(fault.lasts)),
              Effect.zipRight(cluster.staleLists(0))
            )
        )
      case "statement": {
        const waiting = {
          pattern: pattern(fault.match),
          disturbance: disturb(fault.kind)
        }
        armed.push(waiting)
        return Effect.zipRight(
          note(`next ${fault.match}: ${fault.fate}`),
          cluster.next(waiting.pattern, fault.fate)
        )
      }
      case "refuse": {
        const target = fault.target === "all" ? undefined : find(fault.target)
        const refusing = fault.target === "all" ? nodes : target === undefined ? [] : [target]
        return refusing.length === 0
          ? Effect.void
          : lasting(
              fault.kind,
              Effect.forEach(refusing, (_) =>
                Effect.zipRight(
                  note(`${_.name} refuses with ${fault.code}`),
                  cluster.refuse(_.name, fault.code)
                )
              ).pipe(
                Effect.zipRight(upTo(fault.lasts)),
                Effect.zipRight(Effect.forEach(refusing, (_) => cluster.accept(_.name))),
                Effect.zipRight(note("nobody refuses"))
              ),
              target?.name
            )
      }
      case "usurped":
      case "isolated":
      case "returned": {
        const node = find("writer")
        return node === undefined
          ? Effect.void
          : lasting(
              fault.kind,
              Effect.gen(function* () {
                yield* remove(node, fault.kind)
                yield* upTo(fault.promoteAfter)
                yield* replace(node)
                yield* upTo(fault.lasts - fault.promoteAfter)
                yield* back(node, fault.kind)
                yield* upTo(fault.fencedAfter)
                yield* fence(node)
              }),
              node.name
            )
      }
      default: {
        const node = find(fault.target)
        return node === undefined
          ? Effect.void
          : lasting(fault.kind, onNode(node, fault), node.name)
      }
    }
  }

  const onNode = (
    node: Node,
    fault: Extract<
      Fault,
      { kind: "crash" | "restart" | "freeze" | "partition" | "terminate" | "slow" | "lag" }
    >
  ): Effect.Effect<void> => {
    const { name } = node
    switch (fault.kind) {
      case "crash":
        return Effect.gen(function* () {
          yield* kill(node)
          const comeBack = Effect.zipRight(upTo(fault.lasts), start(node))
          const takeOver = Effect.zipRight(upTo(fault.promoteAfter), replace(node))
          yield* Effect.all([takeOver, comeBack], { concurrency: "unbounded" })
        })
      case "restart":
        return step(
          `restart ${name}`,
          () => (node.process = "down"),
          cluster.restart(name, { downFor: fault.lasts })
        ).pipe(
          Effect.zipRight(upTo(fault.lasts)),
          Effect.zipRight(Effect.sync(() => (node.process = "up")))
        )
      case "freeze":
        return freeze(node).pipe(
          Effect.zipRight(upTo(fault.lasts)),
          Effect.zipRight(resume(node)),
          Effect.zipRight(fence(node))
        )
      case "partition":
        return partition(node, fault.cut).pipe(
          Effect.zipRight(upTo(fault.lasts)),
          Effect.zipRight(heal(node)),
          Effect.zipRight(fence(node))
        )
      case "terminate":
        return step(`terminate sessions of ${name}`, () => {}, cluster.terminate(name))
      case "slow":
      case "lag":
        return note(`${name}: ${fault.kind} by ${fault.by} ms`).pipe(
          Effect.zipRight(cluster[fault.kind](name, fault.by)),
          Effect.zipRight(upTo(fault.lasts)),
          Effect.zipRight(cluster[fault.kind](name, 0)),
          Effect.zipRight(note(`${name}: no ${fault.kind}`))
        )
    }
  }

  const writersFirst = () =>
    [...nodes].sort((a, b) => Number(b.name === leader) - Number(a.name === leader))

  return {
    make: run,
    leader: () => leader,
    hasLed: (name, since) => name === leader || (ledUntil.get(name) ?? -1) >= since,
    disturbances,
    sending: (sql) => {
      const at = armed.findIndex((_) => _.pattern.test(sql))
      const fired = at < 0 ? undefined : armed.splice(at, 1)[0]
      if (fired !== undefined) fired.disturbance.to = elapsed()
    },
    heal: Effect.gen(function* () {
      for (const node of writersFirst()) {
        yield* heal(node)
        yield* resume(node)
        yield* start(node)
        yield* cluster.accept(node.name)
        yield* cluster.slow(node.name, 0)
        yield* cluster.lag(node.name, 0)
      }
      yield* cluster.staleLists(0)
      for (const node of nodes) yield* fence(node)
      const last = writer()
      if (isVacant && last !== undefined) yield* replace(last)
      yield* repair
      for (const disturbance of disturbances) disturbance.to ??= elapsed()
    })
  }
}
