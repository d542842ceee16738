/**
 * One host: what its process takes itself for, what it has on its disk, and how it can be reached.
 *
 * @internal
 */
import type { Host } from "../../../Host.js"
import type { Cut } from "../../SimulatedCluster.js"
import type { Backend } from "./backend.js"
import type { LogRecord } from "./replication.js"
import { serverError } from "./serverError.js"
import { timestamp } from "./timestamp.js"
import type { World } from "./world.js"

/** PostgreSQL's first normal transaction id. */
const FIRST_XID = 3

/** Before a test begins, servers have run for this long. */
const UPTIME_MILLIS = 3_600_000

interface HeldUp {
  readonly deliver: () => void
  readonly isLost: () => boolean
}

/** @internal */
export class Server {
  isUp = true
  isFrozen = false
  cut: Cut | undefined
  /** Milliseconds. */
  slowBy = 0
  lagBy = 0
  /** The SQLSTATE with which new connections are refused. */
  refusal: string | undefined

  timeline = 1
  log: Array<LogRecord> = []
  /** Where the log was when recovery ended; a server that was shut down in good order does not know. */
  private recoveredTo: number | undefined
  private nextXid = FIRST_XID
  /** The number tells two starts of one instant apart. */
  startedAt: { readonly millis: number; readonly serial: number }

  readonly backends = new Set<Backend>()
  /** What stands on the server until it is promoted. */
  private readonly parked = new Set<() => void>()
  private readonly whenTransactionsEnd = new Set<() => void>()
  private readonly knocking = new Set<() => void>()
  private heldUp: Array<HeldUp> = []
  private readonly onResume: Array<() => void> = []
  private callOffPromotion: (() => void) | undefined
  private silentSince: number

  constructor(
    private readonly world: () => World,
    readonly name: string,
    readonly host: Host,
    public role: "writer" | "reader",
    now: number
  ) {
    this.silentSince = now
    this.startedAt = { millis: now - UPTIME_MILLIS, serial: 0 }
  }

  isRunning(): boolean {
    return this.isUp && !this.isFrozen
  }

  hasPeers(): boolean {
    return this.cut !== "peers" && this.cut !== "all"
  }

  hearsClients(): boolean {
    return this.cut !== "clients" && this.cut !== "all"
  }

  /** Clock milliseconds at which the other hosts last heard of it. */
  heardAt(): number {
    return this.isRunning() && this.hasPeers() ? this.world().timers.now() : this.silentSince
  }

  /** Differs from that of every other start. */
  startText(): string {
    return timestamp(this.startedAt.millis, this.startedAt.serial)
  }

  isBeingPromoted(): boolean {
    return this.callOffPromotion !== undefined
  }

  /** Up to where the log is known to have been replayed. */
  replayedTo(): number | undefined {
    return this.role === "reader" ? this.log.length : this.recoveredTo
  }

  takeXid(): number {
    return this.nextXid++
  }

  isFutureXid(xid: number): boolean {
    return xid >= this.nextXid
  }

  /** To or from a client: waits while the network is cut. `isLost`: nobody sends it again. */
  pass(deliver: () => void, isLost: () => boolean): void {
    if (this.hearsClients()) deliver()
    else if (!isLost()) this.heldUp.push({ deliver, isLost })
  }

  /** Calls it once when it may be worth another look whether the host lets somebody in. */
  knock(again: () => void): () => void {
    this.knocking.add(again)
    return () => this.knocking.delete(again)
  }

  /** Calls it once: when the server is promoted, or after so many milliseconds. */
  park(atMost: number, wake: () => void): () => void {
    const callOff = this.world().timers.later(atMost, () => {
      if (this.parked.delete(promoted)) wake()
    })
    const promoted = () => {
      callOff()
      wake()
    }
    this.parked.add(promoted)
    return () => {
      this.parked.delete(promoted)
      callOff()
    }
  }

  /** Calls it once when a transaction has ended. */
  whenTransactionEnds(look: () => void): () => void {
    this.whenTransactionsEnd.add(look)
    return () => this.whenTransactionsEnd.delete(look)
  }

  transactionEnded(): void {
    callAll(this.whenTransactionsEnd)
  }

  kill(): void {
    if (!this.isUp) return
    this.silence(() => {
      this.isUp = false
      this.isFrozen = false
    })
    this.callOffPromotion?.()
    this.callOffPromotion = undefined
    this.onResume.length = 0
    for (const backend of [...this.backends]) backend.reset()
    this.changed()
  }

  /** In good order; or after a crash, with what the log holds. */
  boot(role: "writer" | "reader", isClean: boolean): void {
    this.isUp = true
    this.role = role
    this.recoveredTo = isClean ? undefined : this.log.length
    this.recallXids()
    const { nextStart, timers } = this.world()
    this.startedAt = { millis: timers.now(), serial: nextStart() }
    this.changed()
    this.world().replication.isBack(this)
  }

  /** Sessions are ended with this SQLSTATE. */
  restart(role: "writer" | "reader", sqlState: "57P01" | "57P02"): void {
    if (this.isRunning()) this.terminate(sqlState)
    this.kill()
    this.boot(role, sqlState === "57P01")
  }

  freeze(): void {
    if (this.isRunning()) this.silence(() => (this.isFrozen = true))
  }

  resume(): void {
    if (!this.isFrozen) return
    this.isFrozen = false
    for (const act of this.onResume.splice(0)) act()
    for (const backend of [...this.backends]) backend.goOn()
    this.changed()
    this.world().replication.isBack(this)
  }

  /** Now, or as soon as the process runs. */
  whenRunning(act: () => void): void {
    if (this.isFrozen) this.onResume.push(act)
    else act()
  }

  /** Cuts add up. */
  partition(cut: Cut): void {
    this.silence(() => {
      this.cut = this.cut === undefined || this.cut === cut ? cut : "all"
    })
    this.changed()
  }

  heal(): void {
    if (this.cut === undefined) return
    this.cut = undefined
    const held = this.heldUp
    this.heldUp = []
    for (const one of held) if (!one.isLost()) this.pass(one.deliver, one.isLost)
    this.changed()
    this.world().replication.isBack(this)
  }

  terminate(sqlState: "57P01" | "57P02"): void {
    for (const backend of [...this.backends]) {
      backend.terminate(serverError(sqlState, { isFatal: true }))
    }
  }

  demote(): void {
    this.role = "reader"
    for (const backend of [...this.backends]) {
      if (backend.engine.hasWritten()) {
        backend.terminate(serverError("57P01", { isFatal: true }))
      }
    }
    this.changed()
  }

  promote(timeline: number, after: number): void {
    const { replication, timers } = this.world()
    replication.promotionBegins(this)
    const done = () => {
      this.callOffPromotion = undefined
      this.whenRunning(() => {
        this.role = "writer"
        this.timeline = timeline
        this.recoveredTo = this.log.length
        this.recallXids()
        replication.promotionEnds(this)
        callAll(this.parked)
      })
    }
    this.callOffPromotion = () => undefined
    const callOff = timers.after(after, done)
    if (this.isBeingPromoted()) this.callOffPromotion = callOff
  }

  /** What it has heard of: ids of transactions that left no trace are given out again. */
  private recallXids(): void {
    let last = FIRST_XID - 1
    for (const { xid } of this.log) if (xid > last) last = xid
    this.nextXid = last + 1
  }

  private silence(change: () => void): void {
    this.silentSince = this.heardAt()
    change()
  }

  private changed(): void {
    callAll(this.knocking)
    this.world().replication.sync()
  }
}

const callAll = (listeners: Set<() => void>): void => {
  for (const listener of [...listeners]) if (listeners.delete(listener)) listener()
}
