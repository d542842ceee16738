/**
 * Asks Patroni about one server that was reached by SQL: which member it is, whether it is the leader, and
 * who the members are. Never fails: where Patroni has nothing to say, the server's own word stands.
 *
 * @internal
 */
import type { Duration } from "effect"
import { Effect, Either, Option } from "effect"
import type { Context } from "../../Dialect.js"
import * as Host from "../../Host.js"
import type { Member } from "../../TopologyState.js"
import type { Api, MemberList, NodeStatus } from "./patroniApi.js"
import { firstOf, PatroniError } from "./patroniApi.js"
import * as Verdict from "./patroniVerdict.js"

/**
 * What the server says of itself by SQL.
 *
 * @internal
 */
export interface Server {
  /** Whether it takes writes. */
  readonly isWritable: boolean
  readonly timeline: bigint | undefined
  /** Where the connection arrives, as `host:port`: behind a proxy, the server's own address. */
  readonly ownAddress: string | undefined
  /** PostgreSQL's `cluster_name`, which Patroni sets to its `scope`. */
  readonly cluster: string
  /** Milliseconds since 1970. */
  readonly startedAt: number
}

/** @internal */
export interface Finding {
  /** The server, as the cluster names it. */
  readonly host: Host.Host
  readonly mayWrite: boolean
  readonly members?: ReadonlyArray<Member> | undefined
  readonly isWhole?: boolean | undefined
}

/** @internal */
export interface Settings {
  readonly api: Api
  /** Where the API is, whoever is asked; empty if it is on the hosts themselves. */
  readonly urls: ReadonlyArray<string>
  readonly endpointOf: (host: Host.Host) => string
  readonly timeout: Duration.Duration
}

type Naming = Pick<Context, "hostAt" | "probed">

/** Of a member's `api_url`, which has the path of its health check. */
const originOf = (url: string | undefined): ReadonlyArray<string> =>
  url !== undefined && URL.canParse(url) ? [new URL(url).origin] : []

/**
 * Patroni writes `2024-05-01 12:00:00.123456+00:00`; both sides are cut to milliseconds. Two servers of one
 * cluster do not start within the same one.
 */
const isOf = ({ startedAt }: Server, { postmaster_start_time }: NodeStatus): boolean =>
  postmaster_start_time !== undefined &&
  Math.abs(Date.parse(postmaster_start_time.replace(" ", "T")) - startedAt) <= 1

/**
 * Remembers, per address, which server it led to and which member that was, so that a server keeps its name
 * while Patroni is silent; and per cluster, where the members' APIs are.
 *
 * @internal
 */
export const make = ({ api, endpointOf, timeout, urls }: Settings) => {
  const names = new Map<string, { readonly server: Server; readonly host: Host.Host }>()
  const apis = new Map<string, ReadonlyArray<string>>()
  const silent = new Set<string>()

  const endpointsOf = (
    { cluster }: Server,
    probed: Host.Host
  ): readonly [string, ...ReadonlyArray<string>] => {
    const [first, ...others] = urls
    if (first !== undefined) return [first, ...others]
    const own = endpointOf(probed)
    return [own, ...(apis.get(cluster) ?? []).filter((_) => _ !== own)]
  }

  /** The list, from somebody who speaks for this server's cluster. */
  const listOf =
    ({ cluster }: Server) =>
    (endpoint: string): Effect.Effect<MemberList, PatroniError> =>
      Effect.gen(function* () {
        const list = yield* api.list(endpoint)
        const scope = list.scope ?? (yield* api.status(endpoint)).patroni.scope
        if (cluster === "" || scope === cluster) return list
        const problem = `speaks for the cluster ${JSON.stringify(scope)}, and the server is of ${JSON.stringify(cluster)}`
        return yield* new PatroniError({ url: endpoint, problem })
      })

  /** The status by the API of this very server, whichever of them that is. */
  const statusOf = (server: Server, probed: Host.Host): Effect.Effect<Option.Option<NodeStatus>> =>
    Effect.option(
      firstOf(endpointsOf(server, probed), timeout, (endpoint) =>
        Effect.filterOrFail(
          api.status(endpoint),
          (status) => isOf(server, status),
          () => new PatroniError({ url: endpoint, problem: "belongs to another server" })
        )
      )
    )

  /** One line when Patroni falls silent, one when it speaks again. */
  const note = (
    cluster: string,
    heard: Either.Either<unknown, PatroniError>
  ): Effect.Effect<void> => {
    if (Either.isRight(heard)) {
      return silent.delete(cluster)
        ? Effect.logInfo(`Patroni of ${cluster} answers again`)
        : Effect.void
    }
    if (silent.has(cluster)) return Effect.void
    silent.add(cluster)
    return Effect.logWarning(
      `Patroni of ${cluster} does not tell its members, so each server's own word decides: ${heard.left.message}`
    )
  }

  return (server: Server, { hostAt, probed }: Naming): Effect.Effect<Finding> =>
    Effect.gen(function* () {
      const key = Host.address(probed)
      const named = names.get(key)
      // The address may be one that moves: it is the same server if it was started at the same time.
      const isSame =
        named?.server.startedAt === server.startedAt &&
        named.server.ownAddress === server.ownAddress
      const known = isSame ? named.host : undefined
      const endpoints = endpointsOf(server, probed)
      const heard = yield* Effect.either(firstOf(endpoints, timeout, listOf(server)))
      yield* note(server.cluster, heard)
      if (Either.isLeft(heard)) return { host: known ?? probed, mayWrite: true }
      const list = heard.right
      apis.set(
        server.cluster,
        list.members.flatMap((_) => originOf(_.api_url))
      )

      const members = Verdict.locate(list, hostAt)
      const status = yield* Effect.cached(statusOf(server, probed))
      const addresses = [probed, known].flatMap((_) => (_ === undefined ? [] : [Host.address(_)]))
      const self =
        Verdict.at(members, [...addresses, server.ownAddress ?? ""]) ??
        (yield* Effect.map(status, (_) => {
          const name = Option.getOrUndefined(_)?.patroni.name
          return members.find(({ member }) => member.name === name)
        }))
      const identity = self?.member ?? (known === undefined ? "unidentified" : "unlisted")

      const verdict = server.isWritable ? Verdict.verdict(list, identity, server.timeline) : "no"
      const mayWrite =
        verdict === "unlocked"
          ? Option.exists(yield* status, (_) => _.failsafe_mode_is_active === true)
          : verdict === "yes"
      const reached = Verdict.membersOf(members)
      // The list has this server, and perhaps all others, under names that nobody can match with the seeds:
      // a way to the writer where there is none yet, and no membership.
      if (identity === "unidentified") {
        return mayWrite
          ? { host: probed, mayWrite }
          : { host: probed, mayWrite, members: reached, isWhole: false }
      }
      const host = self?.host ?? known ?? probed
      names.set(key, { server, host })
      return { host, mayWrite, members: reached, isWhole: reached.length === members.length }
    })
}
