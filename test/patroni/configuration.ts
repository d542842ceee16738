/** What each node's Patroni is told: synchronous replication, failsafe mode, and the shortest times it takes. */
import type { Node } from "./cluster.js"
import type { Programs } from "./programs.js"

const SCOPE = "batman"
export const USERNAME = "postgres"
export const PASSWORD = "secret"

/** `loop_wait + 2 * retry_timeout <= ttl`. Patroni 4 makes 20 of any shorter `ttl`. */
const TIMES = { ttl: 8, loop_wait: 1, retry_timeout: 3 }

export const configurationOf = (
  node: Node,
  { apiPort, etcd, programs }: { apiPort: number; etcd: string; programs: Programs }
) => ({
  scope: SCOPE,
  name: node.name,
  log: { level: "INFO" },
  restapi: { listen: `${node.host}:${apiPort}`, connect_address: `${node.host}:${apiPort}` },
  [programs.store]: { host: etcd },
  bootstrap: {
    dcs: {
      ...TIMES,
      synchronous_mode: true,
      failsafe_mode: true,
      postgresql: {
        use_pg_rewind: true,
        remove_data_directory_on_rewind_failure: true,
        remove_data_directory_on_diverged_timelines: true,
        parameters: {
          max_connections: 100,
          wal_keep_size: "64MB",
          // The rest is for speed, and for a small machine.
          shared_buffers: "16MB",
          fsync: "off",
          full_page_writes: "off",
          jit: "off",
          wal_retrieve_retry_interval: "50ms",
          dynamic_shared_memory_type: "mmap",
          // Who wrote what, and when.
          log_statement: "mod",
          log_line_prefix: "%m [%p] %a "
        }
      }
    },
    initdb: [{ encoding: "UTF8" }, { locale: "C" }, "data-checksums", "no-sync"]
  },
  postgresql: {
    listen: `${node.host}:${node.port}`,
    connect_address: `${node.host}:${node.port}`,
    data_dir: node.directory,
    bin_dir: programs.postgres,
    pgpass: `${node.directory}.pgpass`,
    pg_hba: ["host all all 127.0.0.0/8 trust", "host replication all 127.0.0.0/8 trust"],
    authentication: {
      superuser: { username: USERNAME, password: PASSWORD },
      replication: { username: "replicator", password: PASSWORD },
      rewind: { username: "rewinder", password: PASSWORD }
    },
    basebackup: [{ checkpoint: "fast" }],
    parameters: { unix_socket_directories: "" }
  }
})
