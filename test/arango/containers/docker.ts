/** Containers by the docker program: a network of their own, ports published on the loopback address. */
import { Effect, Schedule } from "effect"
import { execFile } from "node:child_process"
import { randomUUID } from "node:crypto"

const docker = (...args: ReadonlyArray<string>): Effect.Effect<string, Error> =>
  Effect.async((resume) => {
    execFile("docker", args, { maxBuffer: 16 * 1024 * 1024 }, (error, stdout, stderr) =>
      resume(
        error === null
          ? Effect.succeed(stdout.trim())
          : Effect.fail(new Error(`docker ${args.join(" ")}: ${stderr || error.message}`))
      )
    )
  })

export interface Container {
  readonly name: string
  /** How it is reached from here. */
  readonly url: string
}

/** ArangoDB's port in every container. */
const PORT = 8529

const published = (container: string) =>
  Effect.map(
    docker("port", container, `${PORT}/tcp`),
    (text) => `http://${text.split("\n")[0] ?? ""}`
  )

export const network = Effect.acquireRelease(
  Effect.tap(Effect.succeed(`effect-failover-${randomUUID()}`), (name) =>
    docker("network", "create", name)
  ),
  (name) => Effect.ignore(docker("network", "rm", name))
)

/** One arangod, known in the network by its name, without authentication. */
export const arangod = (options: {
  readonly image: string
  readonly network: string
  readonly name: string
  readonly args: ReadonlyArray<string>
}) =>
  Effect.acquireRelease(
    Effect.gen(function* () {
      const container = `${options.network}-${options.name}`
      yield* docker(
        ...["run", "--detach", "--name", container],
        ...["--network", options.network, "--network-alias", options.name],
        ...["--publish", `127.0.0.1::${PORT}`, "--entrypoint", "arangod", options.image],
        ...["--server.endpoint", `tcp://0.0.0.0:${PORT}`, "--server.authentication", "false"],
        ...["--database.directory", "/var/lib/arangodb3", "--log.output", "-"],
        ...options.args
      )
      return { name: container, url: yield* published(container) }
    }),
    ({ name }) => Effect.ignore(docker("rm", "--force", "--volumes", name))
  )

export const kill = ({ name }: Container) => docker("kill", name)

const answers = (url: string, path: string) =>
  Effect.tryPromise(() => fetch(url + path, { signal: AbortSignal.timeout(2_000) })).pipe(
    Effect.tap((response) => Effect.promise(() => response.arrayBuffer())),
    Effect.filterOrFail((response) => response.ok)
  )

/** An agency needs seconds to come up, an election up to 30 s. */
export const available = (url: string, path = "/_admin/server/availability") =>
  Effect.retry(answers(url, path), Schedule.spaced("250 millis").pipe(Schedule.upTo("2 minutes")))
