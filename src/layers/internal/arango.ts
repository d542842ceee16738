/**
 * Puts the parts of `layers/Arango` together.
 *
 * @internal
 */
import type { HttpClient } from "@effect/platform"
import type { Scope } from "effect"
import { Clock, Duration, Effect, Either, Stream } from "effect"
import type { ClusterIdConflict, ConfigurationError } from "../../Errors.js"
import * as Host from "../../Host.js"
import * as HostSelector from "../../HostSelector.js"
import * as Attempt from "../../internal/arango/attempt.js"
import * as Auth from "../../internal/arango/auth.js"
import * as Authorized from "../../internal/arango/authorized.js"
import * as Books from "../../internal/arango/book.js"
import * as Deadlines from "../../internal/arango/deadlines.js"
import type { Endpoint } from "../../internal/arango/endpoint.js"
import * as Endpoints from "../../internal/arango/endpoint.js"
import * as Router from "../../internal/arango/router.js"
import * as Source from "../../internal/arango/source.js"
import * as Written from "../../internal/arango/written.js"
import { share } from "../../internal/clusters.js"
import * as Topology from "../../Topology.js"
import type { TopologyState } from "../../TopologyState.js"
import { confirmedWriter } from "../../TopologyState.js"
import type { ArangoFailover, ArangoOptions } from "../Arango.js"
import { check } from "./arangoOptions.js"

/** A leader that is found is heard of at once; this is for one that the topology cannot see. */
const LONGEST_WAIT = Duration.seconds(1)

const makeBook = (
  endpoints: readonly [Endpoint, ...ReadonlyArray<Endpoint>],
  mode: Books.LoadBalancing
) =>
  Effect.gen(function* () {
    return Books.make({
      endpoints,
      rotation: mode === "round-robin" ? yield* HostSelector.roundRobin() : undefined,
      first: mode === "one-random" ? HostSelector.random : undefined,
      readers: yield* HostSelector.roundRobin(),
      chance: yield* HostSelector.makeChance
    })
  })

/** @internal */
export const make = (
  client: HttpClient.HttpClient,
  options: ArangoOptions
): Effect.Effect<ArangoFailover, ConfigurationError | ClusterIdConflict, Scope.Scope> =>
  Effect.gen(function* () {
    const checked = yield* check(options)
    const clock = yield* Clock.clockWith(Effect.succeed)
    const scope = yield* Effect.scope
    yield* Written.listen
    const send = Attempt.make(client, yield* Deadlines.make)
    const book = yield* makeBook(checked.endpoints, checked.loadBalancing)
    const auth = yield* Auth.make({ credentials: checked.credentials, send, clock })

    const translate = options.translateEndpoint ?? ((endpoint: string) => endpoint)
    const read = (endpoint: string): Endpoint | undefined =>
      Either.getOrUndefined(Endpoints.parse(translate(endpoint), "endpoints"))
    /** Topologies know hosts; how each of them is spoken to is kept here. */
    const origins = new Map(checked.endpoints.map((_) => [Host.address(_.host), _]))
    const secure = checked.endpoints[0].origin.startsWith("https:") ? "https" : "http"
    const endpointOf = (host: Host.Host): Endpoint =>
      origins.get(Host.address(host)) ?? { host, origin: `${secure}://${Host.address(host)}` }

    const { topology } = yield* share({
      clusterId: checked.clusterId,
      description: `ArangoDB at ${checked.endpoints.map((_) => _.origin).join(", ")}`,
      contributions: [
        {
          isForMonitoring: false,
          source: Source.make({
            client,
            auth,
            database: checked.database,
            endpointOf,
            learn: (listed) => {
              const endpoint = read(listed)
              if (endpoint !== undefined) origins.set(Host.address(endpoint.host), endpoint)
              return endpoint
            }
          })
        }
      ],
      make: (source) =>
        Topology.make({
          clusterId: checked.clusterId,
          seeds: checked.endpoints.map((_) => _.host),
          source,
          refreshRate: checked.topologyRefreshRate,
          highRefreshRate: checked.topologyHighRefreshRate
        })
    })

    /** The endpoints that were given stay: what servers list may be names that only they can reach. */
    const adopt = (state: TopologyState, isNews: boolean): void => {
      const writer = confirmedWriter(state)
      const hosts = state.hosts.map((_) => _.host)
      const listed = writer === undefined ? hosts : [writer.host, ...hosts]
      const [first, ...others] = Endpoints.unique([...listed.map(endpointOf), ...checked.endpoints])
      if (first !== undefined) book.replace([first, ...others])
      if (writer !== undefined && isNews) book.stickTo(endpointOf(writer.host))
    }
    const follow = Effect.suspend(() => {
      let epoch = 0
      return Stream.runForEach(topology.changes, (state) =>
        Effect.sync(() => {
          adopt(state, state.epoch !== epoch)
          epoch = state.epoch
        })
      )
    })
    const watches = options.synchronize ?? true

    return {
      client: Router.make({
        client,
        send: Authorized.make(checked.credentials === undefined ? undefined : auth, send),
        book,
        clock,
        timeoutMillis: Duration.toMillis(checked.timeout),
        failoverTimeoutMillis: Duration.toMillis(checked.failoverTimeout),
        followLeader: options.followLeader ?? true,
        repeatReads: options.repeatReads ?? true,
        named: (leader) => {
          const endpoint = read(leader)
          const known = endpoint === undefined ? undefined : book.find(endpoint.origin)
          if (known !== undefined || endpoint === undefined || options.trustLeaderHeader !== true) {
            return known
          }
          book.replace([book.current(), ...book.all(), endpoint])
          return endpoint
        },
        onUse: watches
          ? Effect.zipRight(
              Effect.forkIn(follow, scope),
              Effect.forkIn(Effect.ignore(topology.settled), scope)
            )
          : Effect.void,
        epoch: () => topology.unsafeCurrent().epoch,
        onLeaderless: (epoch, atMost) =>
          watches
            ? Effect.zipRight(
                // Of an epoch that is over, it starts no search.
                topology.reportLost(epoch),
                Effect.raceFirst(
                  Effect.ignore(topology.settled),
                  Effect.sleep(Duration.min(atMost, LONGEST_WAIT))
                )
              )
            : Effect.void
      }),
      topology,
      endpoints: Effect.sync(() => book.all().map((_) => _.host)),
      current: Effect.sync(() => book.current().host)
    }
  })
