/**
 * What a host name tells about a cluster: the pattern that its instances' names follow, and a cluster id.
 *
 * @since 0.1.0
 */
import { Either, Option } from "effect"
import { ConfigurationError } from "./Errors.js"
import * as Host from "./Host.js"

const FIELD = "instanceHostPattern"

const EXAMPLE = `for example "?.db.internal" or "?.abc123.eu-west-1.rds.amazonaws.com:5432"`

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

/** Kinds of RDS endpoints that are not one instance. */
const ENDPOINT_PREFIX = "proxy-|cluster-ro-|cluster-custom-|cluster-|shardgrp-"

const rdsName = new RegExp(
  `^(?<name>.+)\\.(?<kind>${ENDPOINT_PREFIX})?(?<suffix>[a-z0-9]+\\.[a-z0-9-]+\\.(?:rds|rds-fips)\\.amazonaws\\.(?:com|eu|au|uk|com\\.cn))$`
)

/**
 * Reads a pattern such as `?.db.internal` or `?.db.internal:5433`.
 *
 * @since 0.1.0
 * @category constructors
 */
export const parsePattern = (
  input: string
): Either.Either<InstanceHostPattern, ConfigurationError> => {
  const problem = (problem: string, hint: string) =>
    Either.left(new ConfigurationError({ field: FIELD, value: input, problem, hint }))
  const text = input.trim().toLowerCase()
  const marks = text.split("?").length - 1
  if (marks !== 1) {
    return problem(
      marks === 0 ? "has no ?" : "has more than one ?",
      `write one ? where the instance identifier goes, ${EXAMPLE}`
    )
  }
  if (/(^|\.)(proxy-|cluster-custom-)/.test(text)) {
    return problem(
      "is the name of a proxy or of a custom cluster endpoint",
      `instances have names of their own: leave out "proxy-" and "cluster-custom-", ${EXAMPLE}`
    )
  }
  // `?` cannot stand in a host name, so a letter takes its place for the check.
  return Either.flatMap(
    Host.parse(text.replace("?", "x"), { defaultPort: 1, field: FIELD }),
    () => {
      const [, name, port] = /^(.*?)(?::(\d+))?$/.exec(text) ?? []
      return name === undefined
        ? problem("is not a host name", EXAMPLE)
        : Either.right({ pattern: name, port: port === undefined ? undefined : Number(port) })
    }
  )
}

/**
 * The pattern that an RDS name implies: none for IP addresses and names of one's own.
 *
 * @since 0.1.0
 * @category constructors
 */
export const patternOf = (host: Host.Host): Option.Option<InstanceHostPattern> => {
  const suffix = rdsName.exec(host.host)?.groups?.["suffix"]
  return suffix === undefined
    ? Option.none()
    : Option.some({ pattern: `?.${suffix}`, port: undefined })
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

/**
 * What to say when instances can only be named through a pattern and there is none.
 *
 * @since 0.1.0
 * @category errors
 */
export const patternRequired = (seed: Host.Host | undefined): ConfigurationError =>
  new ConfigurationError({
    field: FIELD,
    problem: `is required: the cluster lists its instances by identifier, and ${
      seed === undefined ? "the hosts" : JSON.stringify(seed.host)
    } does not tell their addresses`,
    hint: `set it to the instances' name with ? in the place of the identifier, ${EXAMPLE}`
  })

/**
 * The default cluster id: the host of a single seed, or all the seeds in order. Never a constant, so
 * that two clusters cannot share a topology by accident.
 *
 * @since 0.1.0
 * @category getters
 */
export const clusterIdOf = (seeds: ReadonlyArray<Host.Host>): string =>
  seeds
    .map(Host.address)
    .sort((a, b) => (a < b ? -1 : a > b ? 1 : 0))
    .join(",")
