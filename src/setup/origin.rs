//! A database that was copied or moved: whether it goes on in the place of the one that it was, or is another from now on.

use tokio_postgres::Client;

use super::role::Role;
use super::script::{Script, fix};
use super::server::Server;
use crate::error::{Context as _, Result};
use crate::ledger::cancel;
use crate::mapping::layout::quote;
use crate::mapping::plan::Plan;
use crate::mirror::copy::store_plan;

/// Whose stream it is, as setup is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// The database is where it was.
    AsBefore,
    /// It goes on in the place of the one that it was copied from (`--adopt`).
    Adopt,
    /// It is another one (`--new-source`); `here`: although it is where it was.
    New { here: bool },
}

/// What the checkpoint says of where it is from.
pub(crate) struct Known<'a> {
    pub(crate) system_identifier: &'a str,
    pub(crate) database_oid: i64,
    pub(crate) home: Option<&'a str>,
}

/// The same data in another cluster or database: oids and transaction ids are others.
pub(crate) fn is_another(known: &Known<'_>, server: &Server) -> bool {
    known.system_identifier != server.system_identifier || known.database_oid != i64::from(server.database_oid)
}

/// Refuses a copy or a moved server of which nobody has said what it is.
pub(crate) fn permitted(known: &Known<'_>, server: &Server, home: &str, origin: Origin) -> Result<()> {
    let met = known.home.is_none_or(|known| crate::session::home::meet(known, home));
    if origin == (Origin::New { here: false }) && met && !is_another(known, server) {
        return Err(fix(
            "this database is the one that portalhook was set up in: as a new source it would cancel what is pending, disable \
             all endpoints, and give its events other ids",
            "leave --new-source out; or add --here, where files of an earlier time were put back",
        ));
    }
    if origin != Origin::AsBefore || (met && !is_another(known, server)) {
        return Ok(());
    }
    Err(fix(
        "this database is a copy of another that portalhook runs on, or was moved, and a copy must not call that one's \
         receivers",
        "where it goes on in that one's place, add --adopt; where it is another, such as a staging database, add --new-source",
    ))
}

/// A plan whose tables are those of another one by name: a restored dump gives them other oids.
pub(crate) fn moved(stored: &Plan, plan: &Plan) -> bool {
    let without_oids = |plan: &Plan| {
        let mut plan = plan.clone();
        for table in &mut plan.tables {
            table.oid = 0;
            table.columns.iter_mut().for_each(|column| (column.type_oid, column.number) = (0, 0));
        }
        plan.tables.sort_by(|a, b| a.mirror.cmp(&b.mirror));
        plan.tables
    };
    without_oids(stored) == without_oids(plan)
}

/// Mirrors and partitions are the daemon's role's own, whoever restored them.
pub(crate) async fn own(admin: &Client, server: &Server, role: &Role, script: &mut Script<'_>) -> Result<()> {
    let sql = "
        SELECT format('ALTER SCHEMA %I OWNER TO %s', nspname, $1::text) FROM pg_namespace
        WHERE nspname IN ('portalhook_mirror', 'portalhook_ledger') AND pg_get_userbyid(nspowner) <> $2
        UNION ALL
        SELECT format('ALTER TABLE %s OWNER TO %s', c.oid::regclass, $1::text) FROM pg_class AS c
        WHERE c.relnamespace IN (to_regnamespace('portalhook_mirror'), to_regnamespace('portalhook_ledger'))
          AND c.relkind IN ('r', 'p') AND pg_get_userbyid(c.relowner) <> $2
        UNION ALL
        SELECT format('ALTER FUNCTION %s OWNER TO %s', p.oid::regprocedure, $1::text) FROM pg_proc AS p
        WHERE p.pronamespace = to_regnamespace('portalhook_mirror') AND pg_get_userbyid(p.proowner) <> $2";
    if role.name == server.admin {
        return Ok(());
    }
    for row in admin.query(sql, &[&quote(&role.name), &role.name]).await.context("look for what is not the role's")? {
        script.run(admin, row.get(0), "give the mirror to the role").await?;
    }
    Ok(())
}

/// Where a checkpoint that was adopted goes on.
pub(crate) struct Adoption<'a> {
    pub(crate) server: &'a Server,
    pub(crate) plan: &'a Plan,
    pub(crate) slot: &'a str,
    pub(crate) publication: &'a str,
    pub(crate) home: &'a str,
    /// Another cluster or database, not only another place.
    pub(crate) another: bool,
}

impl Adoption<'_> {
    /// The daemon compares the mirror with the tables when it starts; sequences, endpoints and what is pending stay.
    /// Transaction ids of another cluster begin elsewhere and may come a second time: event ids get another source.
    pub(crate) async fn make(&self, client: &Client, script: &mut Script<'_>) -> Result<()> {
        client.batch_execute("BEGIN").await.context("adopt the checkpoint")?;
        store_plan(client, self.plan).await?;
        let sql = "UPDATE portalhook.checkpoint
            SET home = $1, epoch = epoch + 1, slot = $2, publication = $3, system_identifier = $4, database_oid = $5, updated_at = now(),
                timeline = CASE WHEN $6 THEN NULL ELSE timeline END,
                source = CASE WHEN $6 THEN encode(substr(sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())), 1, 8), 'hex')
                              ELSE source END,
                gap = CASE WHEN $6 THEN 'this database was adopted in the place of the one that it was copied from' ELSE gap END,
                fork = CASE WHEN NOT $6 THEN fork END, source_after_fork = CASE WHEN NOT $6 THEN source_after_fork END";
        let oid = i64::from(self.server.database_oid);
        client
            .execute(
                sql,
                &[&self.home, &self.slot, &self.publication, &self.server.system_identifier, &oid, &self.another],
            )
            .await
            .context("adopt the checkpoint")?;
        client.batch_execute("COMMIT").await.context("adopt the checkpoint")?;
        script.say(
            "adopted",
            if self.another {
                "this database goes on in the place of the one that it was: portalhook run tells what the mirror lacks first; \
                 see that no daemon reads the other one any more"
            } else {
                "portalhook goes on with this database where it is; see that no daemon reads a copy of it"
            },
        )
    }
}

/// Of the receivers that it knows, a new source calls none until somebody says so.
pub(crate) async fn silence(client: &Client, admin: &Client, script: &mut Script<'_>) -> Result<()> {
    let sql = "UPDATE portalhook.endpoints SET enabled = false,
                   disabled_reason = 'portalhook setup --new-source: known from the database that this is a copy of'
               WHERE enabled";
    let disabled = admin.execute(sql, &[]).await.context("disable the endpoints")?;
    let cancelled = cancel::all(client, "cancelled: of the database that this is a copy of").await?;
    script.say(
        "new source",
        format!(
            "{disabled} endpoints disabled, {cancelled} pending deliveries cancelled; UPDATE portalhook.endpoints SET enabled = true \
             WHERE … for those that this database shall call"
        ),
    )
}
