/**
 * What a host name tells about a cluster: what kind of endpoint it is, its region, how the instances
 * behind it are addressed, and a cluster id. The names are those of RDS and Aurora; whatever else a
 * host is called, it is an IP address or a name of one's own, and tells nothing.
 *
 * @example
 * ```ts
 * import { Either } from "effect"
 * import { ClusterEndpoint } from "effect-failover"
 *
 * const endpoint = Either.getOrThrow(
 *   ClusterEndpoint.parse("shop.cluster-ro-abc123.eu-west-1.rds.amazonaws.com", {
 *     defaultPort: 5432,
 *     field: "hosts"
 *   })
 * )
 *
 * endpoint.kind // "reader"
 * endpoint.region // "eu-west-1"
 * endpoint.identifier // "shop"
 * ClusterEndpoint.patternOf(endpoint) // some: "?.abc123.eu-west-1.rds.amazonaws.com"
 * ClusterEndpoint.clusterIdOf([endpoint]) // "shop.cluster-abc123.eu-west-1.rds.amazonaws.com:5432"
 * ClusterEndpoint.defaultFailoverMode([endpoint]) // "reader-or-writer"
 * ```
 *
 * @since 0.1.0
 */
import { Data, Either, Option } from "effect"
import { ConfigurationError } from "./Errors.js"
import * as Host from "./Host.js"
import * as Grammar from "./internal/endpointGrammar.js"

/**
 * What a host name stands for.
 *
 * - `writer`, `reader`, `custom-cluster`: an endpoint of an Aurora or Multi-AZ cluster.
 * - `global-writer`: the writer endpoint of an Aurora global database.
 * - `shard-group`: the endpoint of an Aurora Limitless shard group.
 * - `instance`: one instance.
 * - `proxy`, `proxy-endpoint`: an RDS Proxy, and an additional endpoint of one.
 * - `ip`: an IPv4 or IPv6 address.
 * - `other`: a name of one's own, `localhost` among them.
 *
 * @since 0.1.0
 * @category models
 */
export type Kind =
  | "writer"
  | "reader"
  | "custom-cluster"
  | "global-writer"
  | "shard-group"
  | "instance"
  | "proxy"
  | "proxy-endpoint"
  | "ip"
  | "other"

/**
 * Which part of AWS a name belongs to.
 *
 * @since 0.1.0
 * @category models
 */
export type Partition = "standard" | "gov" | "iso" | "china" | "eu" | "au" | "uk"

/**
 * A host, and what its name tells.
 *
 * @since 0.1.0
 * @category models
 */
export interface ClusterEndpoint {
  readonly kind: Kind
  /** In lower case, without a trailing dot. */
  readonly host: string
  readonly port: number
  readonly region: string | undefined
  /** The name of the cluster, instance, proxy, ... . `undefined` for `ip` and `other`. */
  readonly identifier: string | undefined
  /** Of account and region; instances' names end in it: `abc123.eu-west-1.rds.amazonaws.com`. */
  readonly domain: string | undefined
  readonly partition: Partition | undefined
  readonly isFips: boolean
  /**
   * In a blue/green deployment: `green` is the environment that is to take over, `old-blue` the one
   * that was replaced. The blue one has an ordinary name until then.
   */
  readonly blueGreen: "green" | "old-blue" | undefined
}

/**
 * How the cluster's instances are addressed: a name with one `?` in the place of the instance
 * identifier.
 *
 * @since 0.1.0
 * @category models
 */
export interface InstanceHostPattern {
  readonly pattern: string
  /** The pattern's own port. */
  readonly port: number | undefined
}

/** A `Host`, or a `ClusterEndpoint`. */
type Address = Pick<Host.Host, "host" | "port">

const FIELD = "instanceHostPattern"

const EXAMPLE = `for example "?.db.internal" or "?.abc123.eu-west-1.rds.amazonaws.com:5432"`

/**
 * What the host's name tells. It never fails: a name that is almost one of RDS is a name of one's own.
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = (address: Address): ClusterEndpoint => {
  const host = address.host.toLowerCase().replace(/\.$/, "")
  return Data.struct({ ...Grammar.read(host), host, port: address.port })
}

/**
 * Reads what `Host.parse` reads: `name`, `name:port`, `[ipv6]:port`. `field` is the option that an
 * error names.
 *
 * @since 0.1.0
 * @category constructors
 */
export const parse = (
  input: string,
  options: { readonly defaultPort: number; readonly field: string }
): Either.Either<ClusterEndpoint, ConfigurationError> =>
  Either.map(Host.parse(input, options), make)

const refused = (problem: string, hint: string, value?: string) =>
  Either.left(new ConfigurationError({ field: FIELD, value, problem, hint: `${hint}, ${EXAMPLE}` }))

/** What stands before the id in the name of an endpoint, where an instance's name has nothing. */
const endpointPrefix = /\.(proxy-|cluster-(?:ro-|custom-)?|shardgrp-|global-)/

/** A name within RDS under which no instance is reached: why, and what to do. */
const notOfAnInstance = (name: string): readonly [problem: string, hint: string] => {
  const prefix = endpointPrefix.exec(name)?.[1]
  if (prefix === undefined) {
    return [
      "is not how RDS names an instance",
      "copy an instance's name, with ? for its identifier"
    ]
  }
  const what =
    prefix === "proxy-"
      ? "a proxy"
      : prefix === "cluster-custom-"
        ? "a custom cluster endpoint"
        : "an endpoint"
  return [`is the name of ${what}, not of an instance`, `leave out "${prefix}"`]
}

/**
 * Reads a pattern such as `?.db.internal` or `any.?.db.internal:5433`.
 *
 * @since 0.1.0
 * @category constructors
 */
export const parsePattern = (
  input: string
): Either.Either<InstanceHostPattern, ConfigurationError> => {
  const text = input.trim().toLowerCase()
  if (text.includes("://")) {
    // Without its value: a URL may hold a password.
    return refused("holds a URL where a host name is expected", "write the name alone")
  }
  if (text.length > Grammar.MAX_LENGTH + ":65535".length) {
    return refused("is longer than a host name can be", "write a name with one ?")
  }
  const [name = "", port, ...rest] = text.replace(/\.(?=:|$)/, "").split(":")
  const marks = name.split("?").length - 1
  if (marks !== 1 && rest.length === 0) {
    const problem = marks === 0 ? "has no ?" : "has more than one ?"
    return refused(problem, "write one ? where the instance identifier goes", input)
  }
  // `?` cannot stand in a host name, so a letter takes its place for the checks.
  const sample = name.replace("?", "x")
  if (rest.length > 0 || Either.isLeft(Host.parse(sample, { defaultPort: 1, field: FIELD }))) {
    return refused("is not a host name", "write a name with one ?", input)
  }
  if (Grammar.isWithinRds(sample) && Grammar.read(sample).kind !== "instance") {
    const [problem, hint] = notOfAnInstance(sample)
    return refused(problem, hint, input)
  }
  return port === undefined
    ? Either.right({ pattern: name, port })
    : Either.map(Host.parsePort(port, FIELD, input), (port) => ({ pattern: name, port }))
}

/**
 * The pattern that an RDS name implies. None for IP addresses and names of one's own; none for proxies,
 * which stand for no instance, and for a global writer endpoint, whose instances live in several regions.
 *
 * @since 0.1.0
 * @category getters
 */
export const patternOf = (address: Address): Option.Option<InstanceHostPattern> => {
  const { domain, kind } = make(address)
  return domain === undefined || kind === "proxy" || kind === "proxy-endpoint"
    ? Option.none()
    : Option.some({ pattern: `?.${domain}`, port: undefined })
}

/**
 * The host of an instance.
 *
 * @since 0.1.0
 * @category constructors
 */
export const instanceHost = (
  pattern: InstanceHostPattern,
  instanceId: string,
  defaultPort: number
): Host.Host =>
  Host.make({
    id: instanceId,
    host: pattern.pattern.replace("?", () => instanceId.toLowerCase()),
    port: pattern.port ?? defaultPort
  })

/** Why a name does not tell the instances' addresses, and what to do about it. */
const whyRequired = (address: Address): readonly [why: string, hint: string] => {
  const { domain, host, kind } = make(address)
  const name = JSON.stringify(host)
  const set = `set it to an instance's name with ? in the place of its identifier, ${EXAMPLE}`
  switch (kind) {
    case "ip":
      return [`${name} is an IP address, which does not tell their names`, set]
    case "proxy":
    case "proxy-endpoint":
      return [
        `${name} is an RDS Proxy, which hides them and does its own failover`,
        `name the cluster endpoint in the place of the proxy, for example "mydb.cluster-${domain}", or use a plain client with the proxy`
      ]
    case "global-writer":
      return [
        `${name} is a global writer endpoint, which does not tell their region`,
        `give each region's pattern in \`globalInstanceHostPatterns\`, or name the cluster endpoint of one region, for example "mydb.cluster-abc123.eu-west-1.rds.amazonaws.com"`
      ]
    default:
      return [`${name} is not an RDS name, which would tell theirs`, set]
  }
}

/**
 * What to say when instances can only be named through a pattern and there is none: which host needs
 * it, and what to write.
 *
 * @since 0.1.0
 * @category errors
 */
export const patternRequired = (seed: Address): ConfigurationError => {
  const [why, hint] = whyRequired(seed)
  return new ConfigurationError({
    field: FIELD,
    problem: `is required: the cluster lists its instances by identifier, and ${why}`,
    hint
  })
}

/**
 * The default cluster id. The writer and the reader endpoint of a cluster name it, in whatever case and
 * with or without a trailing dot, and give the same id. No other name tells its cluster: then the id is
 * the seeds' addresses, in any order. Never a constant, so that two clusters cannot share a topology by
 * accident.
 *
 * @since 0.1.0
 * @category getters
 */
export const clusterIdOf = (seeds: ReadonlyArray<Address>): string => {
  const endpoints = seeds.map(make)
  const clusters = endpoints.filter((_) => _.kind === "writer" || _.kind === "reader")
  const names =
    clusters.length > 0
      ? clusters.map((_) => ({ ..._, host: `${_.identifier}.cluster-${_.domain}` }))
      : endpoints
  return [...new Set(names.map(Host.address))].sort().join(",")
}

/**
 * The failover mode of clients that ask for none: whoever names only reader endpoints wants a reader,
 * or else the writer; everybody else wants the writer.
 *
 * @since 0.1.0
 * @category getters
 */
export const defaultFailoverMode = (
  seeds: ReadonlyArray<Address>
): "strict-writer" | "reader-or-writer" =>
  seeds.length > 0 && seeds.every((seed) => make(seed).kind === "reader")
    ? "reader-or-writer"
    : "strict-writer"
