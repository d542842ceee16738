/**
 * What the emulations of managed clusters have in common: how an instance knows of the others. The truth is the
 * servers' own: a role from recovery, the readers from the writer's WAL senders, the writer from a reader's WAL receiver.
 * As on the real ones, a reader's knowledge of the others is as old as what reached it before the stream broke.
 */
export interface Instance {
  readonly id: string
  readonly serverPort: number
  /** Where clusters span regions. */
  readonly region?: string | undefined
}

/** How a cluster looks to its clients. */
export interface Emulation {
  /** Lines for postgresql.conf. */
  readonly settings: Readonly<Record<string, string>>
  /** The region of the instance with this index, from 0. */
  readonly regionOf?: (index: number) => string
  /** Run once, on the writer of a new cluster; the readers get it through replication. */
  readonly install: (members: ReadonlyArray<Instance>, writer: Instance) => string
}

export const literal = (text: string): string => `'${text.replaceAll("'", "''")}'`

export const schema = "cluster_emulation"

/**
 * On the writer. Its own timestamp is null (since Aurora PostgreSQL 13.9). Readers are those that stream now, as of
 * their last reply.
 */
const onWriter = `
  select me, my_region, true, null::timestamptz, null::real,
    pg_current_wal_flush_lsn(), null::pg_lsn, null::pg_lsn
  union all
  select m.server_id, m.region, false, coalesce(r.reply_time, now()),
    coalesce(extract(epoch from r.replay_lag) * 1000, 0)::real, r.flush_lsn, r.write_lsn, r.replay_lsn
  from pg_stat_replication r
  join ${schema}.member m on m.server_id = r.application_name
  where r.state = 'streaming' and r.application_name <> me`

const heard =
  "case when streaming then now() else coalesce(pg_last_xact_replay_timestamp(), now()) end"

/**
 * On a reader: itself; the writer; the other members as the writer's last word has them. One that hears nothing lags, even
 * if it has replayed all that it received.
 */
const onReader = `
  select me, my_region, false, null::timestamptz,
    (case when streaming and pg_last_wal_receive_lsn() is not distinct from pg_last_wal_replay_lsn() then 0
      else extract(epoch from now() - pg_last_xact_replay_timestamp()) * 1000 end)::real,
    null::pg_lsn, pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn()
  union all
  select m.server_id, m.region, true, ${heard}, null::real, null::pg_lsn, null::pg_lsn, null::pg_lsn
  from ${schema}.member m where m.server_id = writer and m.server_id <> me
  union all
  select m.server_id, m.region, false, ${heard}, 0::real, null::pg_lsn, null::pg_lsn, null::pg_lsn
  from ${schema}.member m
  where m.is_up and m.server_id <> me and m.server_id is distinct from writer`

/**
 * The tables that the manager keeps, and two functions:
 *
 * - `writer()`: who is the writer as far as this instance knows, and whether it hears from it. A stream's sender is the
 *   writer if it is the last known one, or if the timeline that the stream is on is newer than that one's: a sibling
 *   that is about to be promoted already sends, but is no writer yet.
 * - `instances()`: all instances as this one knows them.
 */
const common = (members: ReadonlyArray<Instance>, writer: Instance): string => `
  create schema ${schema};
  create table ${schema}.member (
    server_id text primary key, server_port integer not null, is_up boolean not null, region text
  );
  create table ${schema}.writer_history (
    at bigint generated always as identity primary key,
    server_id text not null,
    timeline integer not null
  );
  insert into ${schema}.member values ${members
    .map(
      ({ id, region, serverPort }) =>
        `(${literal(id)}, ${serverPort}, true, ${region === undefined ? "null" : literal(region)})`
    )
    .join(", ")};
  insert into ${schema}.writer_history (server_id, timeline) values (${literal(writer.id)}, 1);

  create function ${schema}.writer(out writer text, out streaming boolean)
    language plpgsql volatile set search_path = pg_catalog as $$
    declare
      known_timeline integer;
      sender text;
      stream_timeline integer;
    begin
      streaming := not pg_is_in_recovery();
      if streaming then
        writer := current_setting('cluster_name');
        return;
      end if;
      select h.server_id, h.timeline into writer, known_timeline
        from ${schema}.writer_history h order by h.at desc limit 1;
      select m.server_id, w.received_tli into sender, stream_timeline
        from pg_stat_wal_receiver w join ${schema}.member m on m.server_port = w.sender_port
        where w.status = 'streaming';
      if sender = writer then
        streaming := true;
      elsif sender is not null and stream_timeline > known_timeline then
        writer := sender;
        streaming := true;
      end if;
    end $$;

  create function ${schema}.instances(
    out server_id text, out region text, out is_writer boolean, out updated timestamptz, out lag real,
    out durable pg_lsn, out received pg_lsn, out read pg_lsn
  ) returns setof record
    language plpgsql volatile set search_path = pg_catalog as $$
    #variable_conflict use_column
    declare
      me text := current_setting('cluster_name');
      my_region text;
      writer text;
      streaming boolean;
    begin
      select m.region into my_region from ${schema}.member m where m.server_id = me;
      if not pg_is_in_recovery() then
        return query ${onWriter};
        return;
      end if;
      select w.writer, w.streaming into writer, streaming from ${schema}.writer() w;
      return query ${onReader};
    end $$;
`

/** pg_settings does not list settings of extensions that are not loaded, so the view does. */
const settingsView = (extensions: string): string => `
  create or replace view pg_catalog.pg_settings as
    select * from pg_show_all_settings()
    union all
    select 'rds.extensions', ${literal(extensions)}, null, 'Customized Options',
      'List of the extensions that can be created.', null, 'internal', 'string', 'default',
      null, null, null, ${literal(extensions)}, ${literal(extensions)}, null, null, false;
`

/** An emulation by the functions that `functions` creates; `rds.extensions` lists the extensions. */
export const make = (options: {
  readonly extensions: string
  readonly functions: string
  readonly regionOf?: (index: number) => string
}): Emulation => ({
  ...options,
  settings: { "rds.extensions": options.extensions },
  install: (members, writer) => `
  set allow_system_table_mods = on;
  set synchronous_commit = local;
  begin;
  ${common(members, writer)}
  ${options.functions}
  ${settingsView(options.extensions)}
  commit;
  reset synchronous_commit;
  reset allow_system_table_mods;
`
})

const timeline =
  "('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::integer"

/**
 * Run on the writer whenever an instance came or went. Without waiting for a standby: this is the control plane's
 * knowledge, and a commit that hangs must not keep the topology from moving.
 */
export const announce = (writer: string, up: ReadonlyArray<string>): string => `
  begin;
  set local synchronous_commit = local;
  insert into ${schema}.writer_history (server_id, timeline)
    select ${literal(writer)}, ${timeline}
    where ${literal(writer)} is distinct from
      (select server_id from ${schema}.writer_history order by at desc limit 1);
  update ${schema}.member set is_up = (server_id in (${up.map(literal).join(", ")}))
    where is_up <> (server_id in (${up.map(literal).join(", ")}));
  commit;
`
