/** A schema that shadows what pg_catalog has, and a user whose search_path begins with it. */
import { Context, Effect, Layer } from "effect"
import type * as PostgresCluster from "effect-failover/testing/PostgresCluster"
import type { Cluster } from "./database.js"
import { clusterLayer, TestCluster } from "./database.js"
import { eventually } from "./waiting.js"

export const victim = { username: "victim", password: "hostile" }

/**
 * Every function, aggregate and operator of pg_catalog that can be shadowed, the types as domains that accept nothing, and every
 * table and view: whoever uses one of them by its bare name gets an error that says so.
 */
const SHADOWS = `
do $do$
declare
  item record;
  made integer := 0;
begin
  create schema hostile;
  for item in
    select p.oid, p.proname, pg_get_function_identity_arguments(p.oid) as arguments,
      pg_get_function_result(p.oid) as result
    from pg_proc p where p.pronamespace = 'pg_catalog'::regnamespace and p.prokind in ('f', 'a')
  loop
    begin
      execute format('create function hostile.%I(%s) returns %s language plpgsql as $f$ begin raise exception %L; end $f$',
        item.proname, item.arguments, item.result, 'hijacked: ' || item.proname);
      made := made + 1;
    exception when others then null; -- Arguments of type internal: no query can call it.
    end;
  end loop;
  if made < 2000 then raise exception 'only % functions are shadowed', made; end if;
  made := 0;
  for item in
    select o.oprname, oprleft, oprright, format_type(oprleft, null) as l, format_type(oprright, null) as r,
      format_type(oprresult, null) as result, row_number() over () as n
    from pg_operator o where o.oprnamespace = 'pg_catalog'::regnamespace and oprleft <> 0
  loop
    begin
      execute format('create function hostile.operator_%s(%s, %s) returns %s language plpgsql as $f$ begin raise exception %L; end $f$',
        item.n, item.l, item.r, item.result, 'hijacked: ' || item.oprname);
      execute format('create operator hostile.%s (leftarg = %s, rightarg = %s, function = hostile.operator_%s)',
        item.oprname, item.l, item.r, item.n);
      made := made + 1;
    exception when others then null; -- Types that plpgsql does not take.
    end;
  end loop;
  if made < 500 then raise exception 'only % operators are shadowed', made; end if;
  for item in
    select relname from pg_class where relnamespace = 'pg_catalog'::regnamespace and relkind in ('r', 'v')
  loop
    execute format('create view hostile.%I as select 1 / (random() * 0) as hijacked', item.relname);
  end loop;
  for item in
    select typname from pg_type where typnamespace = 'pg_catalog'::regnamespace and typtype = 'b'
      and typelem = 0
  loop
    execute format('create domain hostile.%I as pg_catalog.text constraint hijacked check (false)', item.typname);
  end loop;
end $do$`

/** Its bare names are hijacked; each of these says so. */
export const controls = [
  "SELECT pg_is_in_recovery()",
  "SELECT 'a' = 'b'",
  "SELECT 'a'::pg_catalog.text || 'b'",
  "SELECT 1::pg_catalog.int4 >= 2",
  "SELECT 'a'::text",
  "SELECT now()",
  "SELECT * FROM pg_stat_replication",
  "SELECT 1::pg_catalog.int4 IS DISTINCT FROM 2",
  "SELECT CASE 'a'::pg_catalog.text WHEN 'b' THEN 1 END"
]

/** Made on the primary, and there on every node when this ends. */
const install = (cluster: Cluster) =>
  Effect.gen(function* () {
    const primary = yield* cluster.primary
    const tools = cluster.flavor === "multi-az"
    const privileges = [
      "grant pg_monitor to victim",
      "grant usage on schema hostile to victim",
      "grant select on all tables in schema hostile to victim",
      ...(tools ? ["grant usage on schema rds_tools to victim"] : [])
    ]
    yield* cluster.query(
      primary,
      `${SHADOWS};
       create role ${victim.username} login password '${victim.password}';
       ${privileges.join("; ")};
       alter role victim set search_path = hostile, pg_catalog`
    )
    for (const node of cluster.nodes) {
      yield* eventually(
        `the victim on ${node.id}`,
        Effect.map(
          cluster.query(
            node,
            "select from pg_db_role_setting s join pg_roles r on r.oid = s.setrole where rolname = 'victim'"
          ),
          (rows) => rows.length === 1
        )
      )
    }
  })

export const hostileLayer = (flavor: PostgresCluster.Flavor) =>
  Layer.tap(clusterLayer({ flavor }), (context) => install(Context.get(context, TestCluster)))
