/**
 * The functions by which an Aurora Global Database tells its topology, besides Aurora's own. The instances are in two
 * regions in turn: of three, the first (the writer of a new cluster) and the third in one, the second in the other.
 */
import * as Aurora from "./aurora.js"
import type { Emulation } from "./emulation.js"
import { make, schema } from "./emulation.js"

const home = "eu-west-1"
const away = "us-east-1"

/** Of the primary region, the manual says: lags are -1, and they were calculated at the beginning of time. */
const functions = `
  create function pg_catalog.aurora_global_db_status(
    out aws_region text,
    out highest_lsn_written bigint,
    out durability_lag_in_msec double precision,
    out rpo_lag_in_msec double precision,
    out last_lag_calculation_time timestamptz,
    out feedback_epoch bigint,
    out feedback_xmin bigint
  ) returns setof record
    language sql volatile security definer set search_path = pg_catalog as $$
      select m.region,
        ${Aurora.lsn("max(coalesce(i.durable, i.received))")},
        case when bool_or(i.is_writer) then -1 else coalesce(max(i.lag), 0) end,
        case when bool_or(i.is_writer) then -1 else coalesce(max(i.lag), 0) end,
        case when bool_or(i.is_writer) then to_timestamp(0) else max(i.updated) end,
        0::bigint, 0::bigint
      from ${schema}.member m left join ${schema}.instances() i on i.server_id = m.server_id
      group by m.region
    $$;
  create function pg_catalog.aurora_global_db_instance_status(
    out server_id text,
    out session_id text,
    out aws_region text,
    out durable_lsn bigint,
    out highest_lsn_rcvd bigint,
    out feedback_epoch bigint,
    out feedback_xmin bigint,
    out oldest_read_view_lsn bigint,
    out visibility_lag_in_msec real
  ) returns setof record
    language sql volatile security definer set search_path = pg_catalog as $$
      select i.server_id, ${Aurora.session}, i.region, ${Aurora.lsn("i.durable")}, ${Aurora.lsn("i.received")},
        0::bigint, 0::bigint, ${Aurora.lsn("i.read")}, i.lag
      from ${schema}.instances() i
    $$;
`

export const emulation: Emulation = make({
  extensions: Aurora.extensions,
  functions: Aurora.functions + functions,
  regionOf: (index) => (index % 2 === 0 ? home : away)
})
