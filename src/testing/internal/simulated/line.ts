/**
 * The wire between a session and its server: messages of one way arrive in the order in which they were
 * sent, after a delay, and not while the network is cut.
 *
 * @internal
 */
import type { Server } from "./server.js"
import type { World } from "./world.js"

/** @internal */
export class Line {
  private readonly up = new Way()
  private readonly down = new Way()
  private isClosed = false

  constructor(
    private readonly world: World,
    private readonly server: Server
  ) {}

  /** What has not got through the network when the client closes its end is lost. */
  toServer(deliver: () => void): void {
    this.send(this.up, deliver, () => this.isClosed)
  }

  toClient(deliver: () => void): void {
    this.send(this.down, deliver, () => false)
  }

  /** By the client; the server hears of it like of anything else. */
  close(farewell: () => void): void {
    this.isClosed = true
    this.send(this.up, farewell, () => false)
  }

  private send(way: Way, deliver: () => void, isLost: () => boolean): void {
    const { delay, timers } = this.world
    const now = timers.now()
    const wait = way.enter(now, delay())
    const arrive = () => {
      way.underWay--
      this.server.pass(deliver, isLost)
    }
    // Nothing overtakes what is under way, not even within one instant.
    if (way.underWay++ > 0) timers.later(wait, arrive)
    else timers.after(wait, arrive)
  }
}

/** One direction. */
class Way {
  underWay = 0
  private lastArrival = 0

  /** Milliseconds until a message that is sent now arrives. */
  enter(now: number, delay: number): number {
    this.lastArrival = Math.max(this.lastArrival, now + delay)
    return this.lastArrival - now
  }
}
