/**
 * The host names of RDS, read label by label: no pattern here can take more than linear time, whatever
 * the name is.
 *
 * @internal
 */
import type { ClusterEndpoint, Kind, Partition } from "../ClusterEndpoint.js"

/** What a name tells by itself, without the port. @internal */
export type Name = Omit<ClusterEndpoint, "host" | "port">

/** The longest name that DNS can hold. @internal */
export const MAX_LENGTH = 253

/** `abc.eu-west-1.rds.amazonaws.com` or `abc.rds.eu-west-1.amazonaws.com`. */
type Order = "region first" | "service first" | "either"

/** China has an old form and a new one; GovCloud and the isolated regions put the service first. */
const suffixes: ReadonlyArray<readonly [suffix: string, partition: Partition, order: Order]> = [
  ["amazonaws.com", "standard", "either"],
  ["amazonaws.com.cn", "china", "either"],
  ["amazonaws.eu", "eu", "region first"],
  ["amazonaws.au", "au", "region first"],
  ["amazonaws.uk", "uk", "region first"],
  ["c2s.ic.gov", "iso", "service first"],
  ["sc2s.sgov.gov", "iso", "service first"]
]

/** Before the id of account and region, in the label that follows the identifier. */
const prefixes: ReadonlyArray<readonly [prefix: string, kind: Kind]> = [
  ["cluster-ro-", "reader"],
  ["cluster-custom-", "custom-cluster"],
  ["cluster-", "writer"],
  ["proxy-", "proxy"],
  ["shardgrp-", "shard-group"],
  ["", "instance"]
]

const isLabel = (text: string) => /^[a-z0-9_-]+$/.test(text)
const isDnsId = (text: string) => /^[a-z0-9]+$/.test(text)
const isRegion = (text: string) => /^[a-z]+(?:-[a-z]+)+-\d+$/.test(text)
const isService = (text: string) => text === "rds" || text === "rds-fips"

const isIpv4 = (text: string) =>
  /^\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}$/.test(text) &&
  text.split(".").every((_) => Number(_) <= 255)

/** Sixteen bytes in groups of two; `::` stands for one group of zeros at least. */
const isIpv6 = (text: string) => {
  const [address = ""] = text.split("%", 1)
  const halves = address.split("::")
  const groups = halves.flatMap((half) => (half === "" ? [] : half.split(":")))
  const last = groups.at(-1)
  // The last four bytes may be written as an IPv4 address.
  const mapped = last !== undefined && isIpv4(last) && !address.endsWith("::")
  const hexadecimal = mapped ? groups.slice(0, -1) : groups
  const count = groups.length + (mapped ? 1 : 0)
  return (
    (halves.length === 1 ? count === 8 : halves.length === 2 && count <= 7) &&
    hexadecimal.every((_) => /^[0-9a-f]{1,4}$/.test(_))
  )
}

/** Green names end in `-green-` and six characters; after the switchover, blue ones in `-old1`. */
const blueGreenOf = (identifier: string): Name["blueGreen"] =>
  /.-green-[0-9a-z]{6}$/.test(identifier)
    ? "green"
    : /.-old\d+$/.test(identifier)
      ? "old-blue"
      : undefined

const nothing: Name = {
  kind: "other",
  identifier: undefined,
  region: undefined,
  domain: undefined,
  partition: undefined,
  isFips: false,
  blueGreen: undefined
}

const suffixOf = (host: string) => suffixes.find(([suffix]) => host.endsWith(`.${suffix}`))

/** Whether a name lies where the names of RDS do, well-formed or not. @internal */
export const isWithinRds = (host: string): boolean =>
  suffixOf(host) !== undefined && host.split(".").some(isService)

/** `world.global-abc123.global.rds.amazonaws.com` is in no region, and no instance is named like it. */
const globalName = (identifier: string, id: string): Name | undefined =>
  id.startsWith("global-") && isDnsId(id.slice("global-".length))
    ? {
        ...nothing,
        kind: "global-writer",
        identifier,
        partition: "standard",
        blueGreen: blueGreenOf(identifier)
      }
    : undefined

const rdsName = (host: string): Name | undefined => {
  const found = suffixOf(host)
  if (found === undefined) return undefined
  const [suffix, partition, order] = found
  const labels = host.slice(0, -suffix.length - 1).split(".")
  const [id = "", first = "", second = ""] = labels.slice(-3)
  const identifier = labels.slice(0, -3).join(".")
  if (!labels.every(isLabel)) return undefined
  // A load balancer in front of a cluster: a name of one's own, in a region that can be read.
  if (first === "elb" && isRegion(second)) return { ...nothing, region: second }
  if (identifier === "") return undefined
  if (`${first}.${second}.${suffix}` === "global.rds.amazonaws.com") {
    return globalName(identifier, id)
  }
  const isRegionFirst = isRegion(first)
  const [region, service] = isRegionFirst ? [first, second] : [second, first]
  const isInOrder = order === "either" || (order === "region first") === isRegionFirst
  const [prefix, kind] =
    prefixes.find(([prefix]) => id.startsWith(prefix) && isDnsId(id.slice(prefix.length))) ?? []
  if (!isInOrder || !isRegion(region) || !isService(service)) return undefined
  if (prefix === undefined || kind === undefined) return undefined
  const isProxyEndpoint = kind === "proxy" && identifier.endsWith(".endpoint")
  return {
    kind: isProxyEndpoint ? "proxy-endpoint" : kind,
    identifier: isProxyEndpoint ? identifier.slice(0, -".endpoint".length) : identifier,
    region,
    domain: `${id.slice(prefix.length)}.${first}.${second}.${suffix}`,
    partition: partition === "standard" && region.startsWith("us-gov-") ? "gov" : partition,
    isFips: service === "rds-fips",
    blueGreen: blueGreenOf(identifier)
  }
}

/** What a name tells, in lower case and without a trailing dot. @internal */
export const read = (host: string): Name => {
  if (host.length > MAX_LENGTH) return nothing
  if (isIpv4(host) || (host.includes(":") && isIpv6(host))) return { ...nothing, kind: "ip" }
  return rdsName(host) ?? nothing
}
