/** A node's postgresql.conf. It is replaced as a whole, so that what a node was before leaves no trace in it. */
import { loopback } from "./ports.js"

export interface Config {
  readonly id: string
  readonly port: number
  readonly username: string
  readonly password: string
  /** The port of the server that this node follows when it is a standby. */
  readonly follows: number | undefined
  /** Whether commits wait for a standby. */
  readonly synchronous: boolean
  readonly settings: Readonly<Record<string, string>>
}

const base: Readonly<Record<string, string>> = {
  listen_addresses: loopback,
  unix_socket_directories: "",
  // Recommended sizes are for machines of its own; these let dozens of nodes share one.
  shared_buffers: "16MB",
  max_connections: "200",
  // Nothing here has to survive the machine; SIGKILL loses no page that the kernel has been given.
  fsync: "off",
  full_page_writes: "off",
  // With the default, a SIGKILL leaks shared memory.
  dynamic_shared_memory_type: "mmap",
  // A killed backend shall look killed; with restarts, the postmaster would reset all the others behind the test's back.
  restart_after_crash: "off",
  // Reads by the backends themselves: three processes less for every node.
  io_method: "sync",
  jit: "off",
  wal_level: "replica",
  hot_standby: "on",
  max_wal_senders: "20",
  // What a standby that was frozen, stopped or re-cloned may have missed.
  wal_keep_size: "64MB",
  min_wal_size: "8MB",
  max_wal_size: "512MB",
  // Default 5 s: what a standby waits before it connects again, and what a promotion may wait for.
  wal_retrieve_retry_interval: "20ms",
  wal_receiver_status_interval: "1s",
  // Default 60 s: how long a frozen standby holds up a fast stop of its primary.
  wal_sender_timeout: "3s",
  log_timezone: "UTC",
  timezone: "UTC",
  log_line_prefix: "%m [%p] %q%u@%d %a ",
  log_checkpoints: "off"
}

/** `ANY 1 (*)`: one standby, whichever is first. Lost no acknowledged write in 60 SIGKILLs; asynchronous lost 9 of 300. */
const anyOne = "ANY 1 (*)"

const quoted = (value: string): string =>
  `'${value.replaceAll("\\", "\\\\").replaceAll("'", "''")}'`

/** Straight to the server's own port: faults between clients and servers do not break the replication. */
const conninfo = (config: Config, port: number): string =>
  `host=${loopback} port=${port} user=${config.username} password=${config.password} sslmode=disable gssencmode=disable`

export const render = (config: Config): string =>
  Object.entries({
    ...base,
    ...config.settings,
    port: String(config.port),
    // Standbys give it as their application_name.
    cluster_name: config.id,
    synchronous_standby_names: config.synchronous ? anyOne : "",
    primary_conninfo: config.follows === undefined ? "" : conninfo(config, config.follows)
  })
    .map(([name, value]) => `${name} = ${quoted(value)}\n`)
    .join("")
