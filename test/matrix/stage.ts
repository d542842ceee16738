/** The table, the gates and the eyes of one cell: to hold work at the server, and to know that it is there. */
import { Deferred, Effect } from "effect"
import * as FaultProxy from "effect-failover/testing/FaultProxy"
import type { Database, Node } from "../support/database.js"
import { eventually } from "../support/waiting.js"

/** What one backend of the client does. */
interface Backend {
  readonly state: string
  readonly waits: string
  readonly query: string
}

export interface Stage {
  readonly db: Database
  /** The writer when the cell began. */
  readonly writer: Node
  /** Work calls it where it is to be hit, and goes on after that. */
  readonly pause: Effect.Effect<void>
  readonly paused: Effect.Effect<void>
  readonly goOn: Effect.Effect<unknown>
  /** From here on the client hears nothing. */
  readonly dropReplies: Effect.Effect<void>
  /** Lets what is held at the server go on; in vain if the server is gone. */
  readonly openGate: Effect.Effect<void>
  /** Waits for a backend of the client in this condition. */
  readonly seen: (what: string, is: (backend: Backend) => boolean) => Effect.Effect<void>
  readonly atGate: Effect.Effect<void>
  /** How often each id is committed, at the present primary. */
  readonly countOf: (id: number) => Effect.Effect<number>
}

/** Volatile plpgsql: each turn of the loop sees what has been committed by then. */
const schema = (table: string) => `
create table ${table}_open (id bigint);
create function ${table}_gate() returns int language plpgsql volatile as $$
begin
  loop
    exit when exists (select from ${table}_open);
    perform pg_sleep(0.01);
  end loop;
  return 0;
end $$;
create function ${table}_held() returns trigger language plpgsql as $$
begin
  perform ${table}_gate();
  return null;
end $$;`

/** Holds a COMMIT at the server. */
const holdCommits = (table: string) => `
create constraint trigger held after insert on ${table} deferrable initially deferred
for each row when (new.id = 1) execute function ${table}_held();`

export const make = (
  db: Database,
  options: { readonly holdsCommits: boolean }
): Effect.Effect<Stage, unknown> =>
  Effect.gen(function* () {
    const { app, cluster, table } = db
    const writer = yield* cluster.primary
    yield* cluster.query(writer, schema(table) + (options.holdsCommits ? holdCommits(table) : ""))
    const here = yield* Deferred.make<void>()
    const go = yield* Deferred.make<void>()

    const backends = Effect.map(
      cluster.query(
        writer,
        "select state, wait_event, query from pg_stat_activity where application_name = $1",
        [app]
      ),
      (rows) =>
        rows.map(({ query, state, wait_event }): Backend => ({
          state: String(state),
          waits: String(wait_event),
          query: String(query)
        }))
    )
    const seen: Stage["seen"] = (what, is) =>
      eventually(
        what,
        Effect.map(backends, (all) => all.some(is))
      )

    return {
      db,
      writer,
      pause: Effect.zipRight(Deferred.succeed(here, void 0), Deferred.await(go)),
      paused: Deferred.await(here),
      goOn: Deferred.succeed(go, void 0),
      dropReplies: Effect.orDie(writer.proxy.set(FaultProxy.Fault.DropReplies())),
      openGate: Effect.ignore(cluster.query(writer, `insert into ${table}_open values (1)`)),
      seen,
      atGate: seen("the work to be held at the server", ({ waits }) => waits === "PgSleep"),
      countOf: (id) =>
        Effect.flatMap(cluster.primary, (primary) =>
          Effect.map(
            cluster.query(primary, `select count(*)::int as n from ${table} where id = $1`, [id]),
            ([row]) => Number(row?.["n"])
          )
        ).pipe(Effect.orDie)
    }
  })
