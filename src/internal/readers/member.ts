/**
 * A host that may be read from: a line on which it is asked how it is, and a pool of connections that can
 * only read. What the line says is the truth about the host.
 *
 * ```text
 *                 ┌────────── the line cannot be opened, or the role is not told ──────────┐
 *                 ▼                                                                         │
 *   Unknown ─▶ opening a line ─▶ asked for its role ─▶ Available ─▶ asked again and again ──┤
 *                 ▲                                    (pool)                               │
 *                 └── pause ◀── Unavailable (pool cut) ◀── no answer, or the line broke ◀───┘
 *                                                          and cannot be opened again
 * ```
 *
 * | what happens | what follows |
 * |---|---|
 * | no answer on the line in time (frozen, partitioned) | unavailable at once; whatever hangs on the pool is cut off, and run elsewhere |
 * | the line breaks | opened again at once; if that fails: unavailable, pool cut |
 * | a connection to the pool cannot be opened, or breaks | the line is asked at once; nobody else is sent there meanwhile |
 * | we are rejected for good | unavailable; tried again each second while somebody reads, and not at all otherwise |
 * | it says that it is the writer | not a reader any more; its connections stay, they cannot write |
 * | it leaves the topology | nobody new is sent there; closed when its work is done, or after 5 s. Back until then, it is as if it had not left |
 *
 * @internal
 */
import type { Candidate } from "../../HostSelector.js"
import type { Availability, Host, Role } from "../../Host.js"
import type { HostPool } from "../../HostPool.js"
import type { Rejection } from "../../TopologyState.js"

/** The latest round trips count for a fifth each. */
const WEIGHT_OF_LAST = 0.2

/** @internal */
export class Member implements Candidate {
  role: Role = "unknown"
  availability: Availability = "unknown"
  outstanding = 0
  latencyMillis: number | undefined
  lagMillis: number | undefined
  cpuPercent: number | undefined
  /** All that the writer had written by then is there. Milliseconds of the Clock. */
  freshAsOf = -Infinity
  pool: HostPool | undefined
  rejection: Rejection | undefined
  lastError: string | undefined
  /** Clock milliseconds of the last failure. */
  failedAt = -Infinity
  /** It has left the cluster, and nobody attends to it any more. */
  isGone = false
  private waker: (() => void) | undefined

  constructor(readonly host: Host) {}

  get connections(): number {
    return this.pool?.stats().open ?? 0
  }

  /** The line is asked now, and not at its next turn. */
  wake(): void {
    this.waker?.()
  }

  /** Until somebody wakes it. What it returns takes the listener away. */
  onWake(waker: () => void): () => void {
    this.waker = waker
    return () => {
      if (this.waker === waker) this.waker = undefined
    }
  }

  /** A connection to it failed: until its line has answered, nobody else is sent there. */
  suspect(): void {
    if (this.availability === "available") this.availability = "unknown"
    this.wake()
  }

  answered(role: "writer" | "reader", roundTrip: number): void {
    this.role = role
    this.availability = "available"
    this.rejection = undefined
    this.lastError = undefined
    this.latencyMillis =
      this.latencyMillis === undefined
        ? roundTrip
        : this.latencyMillis + WEIGHT_OF_LAST * (roundTrip - this.latencyMillis)
  }

  failed(description: string, rejection: Rejection | undefined, at: number): void {
    this.availability = "unavailable"
    this.failedAt = at
    this.rejection = rejection
    this.lastError = description
    this.latencyMillis = undefined
    this.freshAsOf = -Infinity
    this.lagMillis = undefined
    this.cpuPercent = undefined
  }
}
