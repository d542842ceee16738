/**
 * The functions of the extension `rds_tools` by which an RDS Multi-AZ DB cluster tells its topology. Their schema is
 * closed to users without privileges, as on RDS.
 *
 * All members are listed, whether they run or not: the list is the control plane's. A member is known by its resource
 * id; its endpoint is a name that clients have to translate, as there is no DNS here.
 */
import type { Emulation } from "./emulation.js"
import { make, schema } from "./emulation.js"

/** RDS ids are `db-` and 26 letters and digits. */
const resourceId = (name: string): string => `'db-' || upper(substr(md5(${name}), 1, 26))`

const port = 5432

const functions = `
  create schema rds_tools;
  create function rds_tools.dbi_resource_id() returns text
    language sql stable security definer set search_path = pg_catalog
    as $$ select ${resourceId("current_setting('cluster_name')")} $$;
  create function rds_tools.multi_az_db_cluster_source_dbi_resource_id(
    out multi_az_db_cluster_source_dbi_resource_id text
  )
    language sql volatile security definer set search_path = pg_catalog
    as $$ select ${resourceId("w.writer")} from ${schema}.writer() w $$;
  create function rds_tools.show_topology(
    client text default null, out id text, out endpoint text, out port integer
  ) returns setof record
    language sql volatile security definer set search_path = pg_catalog
    as $$ select ${resourceId("m.server_id")}, m.server_id || '.cluster.test', ${port}
      from ${schema}.member m $$;
`

export const emulation: Emulation = make({
  extensions: "pg_stat_statements, rds_tools",
  functions
})
