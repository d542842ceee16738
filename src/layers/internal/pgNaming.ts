/**
 * How the hosts of a PostgreSQL cluster are addressed, by the options: patterns for identifiers, and what
 * becomes of addresses that the cluster gives.
 *
 * @internal
 */
import { Either, Option } from "effect"
import * as ClusterEndpoint from "../../ClusterEndpoint.js"
import type { Context } from "../../Dialect.js"
import { ConfigurationError } from "../../Errors.js"
import * as Host from "../../Host.js"
import type { PgOptions } from "../Pg.js"

type Seeds = readonly [Host.Host, ...ReadonlyArray<Host.Host>]
type Pattern = ClusterEndpoint.InstanceHostPattern

/** @internal */
export interface CheckedNaming extends Omit<Context, "probed"> {
  /** The one for identifiers without a region. */
  readonly pattern: Option.Option<Pattern>
  readonly patternByRegion: ReadonlyMap<string, Pattern>
  /** The part of a cluster's description that tells one naming from another. */
  readonly description: string
}

const GLOBAL = "globalInstanceHostPatterns"

const EXAMPLE = `for example { "eu-west-1": "?.abc123.eu-west-1.rds.amazonaws.com", "us-east-1": "?.def456.us-east-1.rds.amazonaws.com" }`

const invalid = (value: unknown, problem: string, hint: string) =>
  Either.left(new ConfigurationError({ field: GLOBAL, value, problem, hint }))

/** The region that an RDS name or pattern tells. */
const regionOf = (host: string): string | undefined =>
  ClusterEndpoint.make({ host: host.replace("?", "x"), port: 1 }).region

const regionalPattern = (
  region: string,
  text: string
): Either.Either<readonly [string, Pattern], ConfigurationError> => {
  const key = region.trim().toLowerCase()
  if (key === "") {
    return invalid(text, "has a pattern without a region", `name the region, ${EXAMPLE}`)
  }
  return ClusterEndpoint.parsePattern(text).pipe(
    Either.mapLeft(
      ({ hint, problem, value }) =>
        new ConfigurationError({
          field: GLOBAL,
          value,
          problem: `has a pattern for ${key} that ${problem}`,
          hint
        })
    ),
    Either.flatMap((pattern) => {
      const told = regionOf(pattern.pattern)
      return told === undefined || told === key
        ? Either.right([key, pattern] as const)
        : invalid(
            text,
            `has a pattern for ${key} that lies in ${told}`,
            "correct the region or the pattern"
          )
    })
  )
}

const regionalPatterns = (
  given: NonNullable<PgOptions["globalInstanceHostPatterns"]>
): Either.Either<ReadonlyArray<readonly [string, Pattern]>, ConfigurationError> => {
  const entries = Object.entries(given)
  return entries.length === 0
    ? invalid(given, "names no region", `give a pattern for each region, ${EXAMPLE}`)
    : Either.all(entries.map(([region, text]) => regionalPattern(region, text)))
}

/** Whether a certificate is held against the name or address that was connected to. */
const verifiesNames = (ssl: PgOptions["ssl"]): boolean =>
  typeof ssl === "object"
    ? ssl.rejectUnauthorized !== false && ssl.checkServerIdentity === undefined
    : ssl === true

/** The error of a region without a pattern. @internal */
export const regionRequired = (region: string, instanceId: string): ConfigurationError =>
  new ConfigurationError({
    field: GLOBAL,
    problem: `has no pattern for the region ${JSON.stringify(region)}, where the cluster has the instance ${JSON.stringify(instanceId)}`,
    hint: `add the region, ${EXAMPLE}`
  })

/** The error of a global database without any. @internal */
export const regionsRequired = (): ConfigurationError =>
  new ConfigurationError({
    field: GLOBAL,
    problem:
      "is required: a global database lists its instances by identifier and region, and the hosts do not tell their addresses",
    hint: `give a pattern for each region, ${EXAMPLE}`
  })

/** @internal */
export const check = (
  options: PgOptions,
  seeds: Seeds,
  ssl: PgOptions["ssl"]
): Either.Either<CheckedNaming, ConfigurationError> =>
  Either.gen(function* () {
    const pattern =
      options.instanceHostPattern === undefined
        ? Option.firstSomeOf(seeds.map(ClusterEndpoint.patternOf))
        : Option.some(yield* ClusterEndpoint.parsePattern(options.instanceHostPattern))
    const given =
      options.globalInstanceHostPatterns === undefined
        ? []
        : yield* regionalPatterns(options.globalInstanceHostPatterns)
    // The name of a host in a region tells the pattern of that region, unless it is given.
    const told = seeds.flatMap((seed): ReadonlyArray<readonly [string, Pattern]> => {
      const region = regionOf(seed.host)
      const pattern = Option.getOrUndefined(ClusterEndpoint.patternOf(seed))
      return region === undefined || pattern === undefined ? [] : [[region, pattern]]
    })
    const patternByRegion = new Map([...told, ...given])

    const translate = options.translateAddress
    const reached = (host: Host.Host): Host.Host =>
      translate === undefined ? host : Host.make({ ...translate(host), id: host.id })
    const isIp = (host: Host.Host) => ClusterEndpoint.make(host).kind === "ip"
    const instance = (pattern: Pattern, instanceId: string) =>
      reached(ClusterEndpoint.instanceHost(pattern, instanceId, seeds[0].port))

    return {
      pattern,
      patternByRegion,
      seeds,
      hostOf: (instanceId, region) => {
        if (region === undefined) {
          return Option.match(pattern, {
            onNone: () => Either.left(ClusterEndpoint.patternRequired(seeds[0])),
            onSome: (pattern) => Either.right(instance(pattern, instanceId))
          })
        }
        const regional = patternByRegion.get(region)
        return regional === undefined
          ? Either.left(regionRequired(region, instanceId))
          : Either.right(instance(regional, instanceId))
      },
      hostAt: (listed) =>
        Option.liftPredicate(reached(listed), (host) => !(isIp(host) && verifiesNames(ssl))),
      description: [
        ...Option.match(pattern, { onNone: () => [], onSome: (_) => [_.pattern] }),
        ...given.map(([region, _]) => `${_.pattern} in ${region}`)
      ]
        .map((_) => `, instances ${_}`)
        .join("")
    }
  })
