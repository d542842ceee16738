/**
 * What a server does to requests at the worst moment.
 *
 * @internal
 */
import { Data, type Duration } from "effect"

/**
 * | fault | the request | the client sees |
 * |---|---|---|
 * | `None` | is served | the answer |
 * | `ResetOnConnect` | is not read | RST |
 * | `ResetBeforeBody` | is read to the end of its head, and never executed | RST |
 * | `ResetBeforeExecution` | is read completely, and never executed | RST |
 * | `DropReply` | is executed | RST |
 * | `CloseInsteadOfReply` | is executed | FIN |
 * | `HalfReply` | is executed | the head and half of the body, then RST |
 * | `HangBeforeBody` | is read to the end of its head | nothing |
 * | `HangBeforeExecution` | is read completely, and never executed | nothing |
 * | `HangInsteadOfReply` | is executed | nothing |
 * | `Slow` | is executed after `duration` | the answer |
 * | `Answer` | is never executed | this answer: of a proxy, or an overload |
 *
 * @since 0.1.0
 * @category models
 */
export type Fault = Data.TaggedEnum<{
  None: {}
  ResetOnConnect: {}
  ResetBeforeBody: {}
  ResetBeforeExecution: {}
  DropReply: {}
  CloseInsteadOfReply: {}
  HalfReply: {}
  HangBeforeBody: {}
  HangBeforeExecution: {}
  HangInsteadOfReply: {}
  Slow: { readonly duration: Duration.DurationInput }
  Answer: {
    readonly status: number
    /** An error of ArangoDB's with this number; without it, `body` as plain text. */
    readonly errorNum?: number | undefined
    readonly body?: string | undefined
  }
}>

/**
 * The constructors of `Fault`, with `$is` and `$match`.
 *
 * @since 0.1.0
 * @category constructors
 */
export const Fault = Data.taggedEnum<Fault>()

/** A fault, for how many requests, and for which.
 *
 * @internal
 */
export interface Armed {
  readonly fault: Fault
  times: number
  readonly when: (request: { readonly method: string; readonly path: string }) => boolean
}
