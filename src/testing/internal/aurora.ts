/**
 * The catalog functions of Aurora PostgreSQL by which clients learn the topology, answered from what the server knows:
 * its own role from recovery, the readers from the writer's WAL senders, the writer from a reader's WAL receiver. Like
 * Aurora's, a reader's knowledge of the others is as old as what reached it before the stream broke.
 *
 * Column names are those of the AWS manual; it gives no types, which are PostgreSQL's natural ones here.
 */
interface Instance {
  readonly id: string
  readonly serverPort: number
}

const literal = (text: string): string => `'${text.replaceAll("'", "''")}'`

const extensions = "aurora_stat_utils, pg_stat_statements, rds_tools"

/** `SHOW rds.extensions`; pg_settings does not list settings of extensions that are not loaded, so the view does. */
export const settings: Readonly<Record<string, string>> = { "rds.extensions": extensions }

const schema = "aurora_emulation"

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

/** The columns in order; what the manual calls "not used", or what PostgreSQL does not know, is null or 0. */
const row = (known: {
  readonly id: string
  readonly session: string
  readonly updated: string
  readonly lag: string
  readonly durable?: string
  readonly received?: string
  readonly read?: string
}): string => {
  const lsn = (expression: string | undefined) =>
    expression === undefined ? "null::bigint" : `(${expression} - '0/0'::pg_lsn)::bigint`
  return [
    `${known.id}::text`,
    `${known.session}::text`,
    lsn(known.durable),
    lsn(known.received),
    lsn(known.read),
    "null::bigint",
    "null::bigint",
    "true",
    "0",
    "null::timestamptz",
    `${known.updated}::timestamptz`,
    "null::bigint",
    "null::bigint",
    `(${known.lag})::real`,
    "0::real",
    "0::bigint",
    "null::bigint",
    "null::bigint",
    "0::bigint",
    "null::bigint",
    "null::bigint",
    "0::real"
  ].join(", ")
}

/** A reader's session id is a UUID that stays the same for the instance. */
const readerSession = (id: string): string => `md5(${id})::uuid`

/**
 * On the writer. Its own timestamp is null (since Aurora PostgreSQL 13.9). Readers are those that stream now, as of
 * their last reply.
 */
const onWriter = `
  select ${row({
    id: "me",
    session: "'MASTER_SESSION_ID'",
    updated: "null",
    lag: "null",
    durable: "pg_current_wal_flush_lsn()"
  })}
  union all
  select ${row({
    id: "r.application_name",
    session: readerSession("r.application_name"),
    updated: "coalesce(r.reply_time, now())",
    lag: "coalesce(extract(epoch from r.replay_lag) * 1000, 0)",
    durable: "r.flush_lsn",
    received: "r.write_lsn",
    read: "r.replay_lsn"
  })}
  from pg_stat_replication r
  join ${schema}.member m on m.server_id = r.application_name
  where r.state = 'streaming' and r.application_name <> me`

/**
 * On a reader: itself; the writer; the other members as the writer's last word has them. The stream's sender is the
 * writer if it is the last known one, or if the timeline that the stream is on is newer than that one's: a sibling that
 * is about to be promoted already sends, but is no writer yet.
 */
const onReader = `
  select ${row({
    id: "me",
    session: readerSession("me"),
    updated: "null",
    lag: "case when pg_last_wal_receive_lsn() is not distinct from pg_last_wal_replay_lsn() then 0 else coalesce(extract(epoch from now() - pg_last_xact_replay_timestamp()) * 1000, 0) end",
    received: "pg_last_wal_receive_lsn()",
    read: "pg_last_wal_replay_lsn()"
  })}
  union all
  select ${row({
    id: "writer",
    session: "'MASTER_SESSION_ID'",
    updated:
      "case when streaming then now() else coalesce(pg_last_xact_replay_timestamp(), now()) end",
    lag: "null"
  })}
  where writer is not null and writer <> me
  union all
  select ${row({
    id: "m.server_id",
    session: readerSession("m.server_id"),
    updated:
      "case when streaming then now() else coalesce(pg_last_xact_replay_timestamp(), now()) end",
    lag: "0"
  })}
  from ${schema}.member m
  where m.is_up and m.server_id <> me and m.server_id is distinct from writer`

/** Run once, on the writer of a new cluster; the readers get it through replication. */
export const install = (members: ReadonlyArray<Instance>, writer: Instance): string => `
  set allow_system_table_mods = on;
  set synchronous_commit = local;
  begin;
  create schema ${schema};
  create table ${schema}.member (server_id text primary key, server_port integer not null, is_up boolean not null);
  create table ${schema}.writer_history (
    at bigint generated always as identity primary key,
    server_id text not null,
    timeline integer not null
  );
  insert into ${schema}.member values ${members
    .map((node) => `(${literal(node.id)}, ${node.serverPort}, true)`)
    .join(", ")};
  insert into ${schema}.writer_history (server_id, timeline) values (${literal(writer.id)}, 1);

  create function pg_catalog.aurora_version() returns text
    language sql stable as $$ select current_setting('server_version') || '.0' $$;
  create function pg_catalog.aurora_db_instance_identifier() returns text
    language sql stable as $$ select current_setting('cluster_name') $$;
  create function pg_catalog.aurora_replica_status(${columns}) returns setof record
    language plpgsql volatile security definer set search_path = pg_catalog as $$
    #variable_conflict use_column
    declare
      me text := current_setting('cluster_name');
      writer text;
      known_timeline integer;
      sender text;
      streaming boolean := false;
      stream_timeline integer;
    begin
      if not pg_is_in_recovery() then
        return query ${onWriter};
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
      return query ${onReader};
    end $$;

  create or replace view pg_catalog.pg_settings as
    select * from pg_show_all_settings()
    union all
    select 'rds.extensions', ${literal(extensions)}, null, 'Customized Options',
      'List of the extensions that can be created.', null, 'internal', 'string', 'default',
      null, null, null, ${literal(extensions)}, ${literal(extensions)}, null, null, false;
  commit;
  reset synchronous_commit;
  reset allow_system_table_mods;
`

const timeline =
  "('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::integer"

/**
 * Run on the writer whenever an instance came or went. Without waiting for a standby: this is the storage layer's
 * knowledge in Aurora, and a commit that hangs must not keep the topology from moving.
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
