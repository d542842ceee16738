/** What each flavor of cluster is made of. */
import type { Flavor } from "../PostgresCluster.js"
import * as Aurora from "./aurora.js"
import * as AuroraGlobal from "./auroraGlobal.js"
import type { Emulation } from "./emulation.js"
import * as MultiAz from "./multiAz.js"

export const emulationOf = (flavor: Flavor): Emulation | undefined => {
  switch (flavor) {
    case "streaming":
      return undefined
    case "aurora":
      return Aurora.emulation
    case "aurora-global":
      return AuroraGlobal.emulation
    case "multi-az":
      return MultiAz.emulation
  }
}
