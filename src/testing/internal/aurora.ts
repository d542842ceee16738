/**
 * The catalog functions of Aurora PostgreSQL by which clients learn the topology, answered from what the server knows.
 *
 * Column names are those of the AWS manual; it gives no types, which are PostgreSQL's natural ones here. What the manual
 * calls "not used", or what PostgreSQL does not know, is null or 0.
 */
import type { Emulation } from "./emulation.js"
import { make, schema } from "./emulation.js"

export const extensions = "aurora_stat_utils, pg_stat_statements, rds_tools"

/** LSNs are numbers in Aurora. */
export const lsn = (expression: string): string => `(${expression} - '0/0'::pg_lsn)::bigint`

/** A reader's session id is a UUID that stays the same for the instance. */
export const session =
  "case when i.is_writer then 'MASTER_SESSION_ID' else md5(i.server_id)::uuid::text end"

const columns = `
  out server_id text,
  out session_id text,
  out durable_lsn bigint,
  out highest_lsn_rcvd bigint,
  out current_read_lsn bigint,
  out cur_replay_latency_in_usec bigint,
  out active_txns bigint,
  out is_current boolean,
  out last_transport_error integer,
  out last_error_timestamp timestamptz,
  out last_update_timestamp timestamptz,
  out feedback_xmin bigint,
  out feedback_epoch bigint,
  out replica_lag_in_msec real,
  out log_stream_speed_in_kib_per_second real,
  out log_buffer_sequence_number bigint,
  out oldest_read_view_trx_id bigint,
  out oldest_read_view_lsn bigint,
  out pending_read_ios bigint,
  out read_ios bigint,
  out iops bigint,
  out cpu real`

/** Lists the instances of the own region. */
export const functions = `
  create function pg_catalog.aurora_version() returns text
    language sql stable set search_path = pg_catalog
    as $$ select current_setting('server_version') || '.0' $$;
  create function pg_catalog.aurora_db_instance_identifier() returns text
    language sql stable set search_path = pg_catalog
    as $$ select current_setting('cluster_name') $$;
  create function pg_catalog.aurora_replica_status(${columns}) returns setof record
    language sql volatile security definer set search_path = pg_catalog as $$
      select i.server_id, ${session}, ${lsn("i.durable")}, ${lsn("i.received")}, ${lsn("i.read")},
        null::bigint, null::bigint, true, 0, null::timestamptz, i.updated, null::bigint, null::bigint, i.lag,
        0::real, 0::bigint, null::bigint, null::bigint, 0::bigint, null::bigint, null::bigint, 0::real
      from ${schema}.instances() i
      where i.region is not distinct from
        (select m.region from ${schema}.member m where m.server_id = current_setting('cluster_name'))
    $$;
`

export const emulation: Emulation = make({ extensions, functions })
