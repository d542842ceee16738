/** @internal */
import { Duration, Either } from "effect"
import { ConfigurationError } from "../../Errors.js"

/** A positive, finite duration. @internal */
export const durationOf = (
  field: string,
  value: unknown
): Either.Either<Duration.Duration, ConfigurationError> =>
  Either.filterOrLeft(
    Either.fromOption(Duration.decodeUnknown(value), () => undefined),
    (duration) => Duration.greaterThan(duration, Duration.zero) && Duration.isFinite(duration),
    () => undefined
  ).pipe(
    Either.mapLeft(
      () =>
        new ConfigurationError({
          field,
          value,
          problem: "is not a positive duration",
          hint: 'write it as "30 seconds", or as milliseconds'
        })
    )
  )

/** @internal */
export const optionalDuration = (field: string, value: unknown) =>
  value === undefined ? Either.right(undefined) : durationOf(field, value)
