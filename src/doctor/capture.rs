//! Where the stream comes from and goes to: slot, publication, the ledger's partitions.

use tokio_postgres::Client;

use super::{Finding, SETUP};
use crate::capture::slot::{self, Slot};
use crate::config::Config;
use crate::error::{Context as _, Result};
use crate::mapping::layout::quote;
use crate::mapping::plan::{Plan, Table};

/// What to type where the slot was lost.
const RUN: &str = "portalhook run: it makes the slot anew and closes the gap from the mirror";

/// The slot, and how it stands.
pub(super) async fn slot(client: &Client, config: &Config, database_oid: u32) -> Result<(Option<Slot>, Vec<Finding>)> {
    let name = config.capture.slot.clone().unwrap_or_else(|| format!("portalhook_{database_oid}"));
    let slot = slot::read(client, &name).await?;
    let Some(there) = &slot else {
        return Ok((None, vec![Finding::fail(format!("replication slot {name} is not there"), RUN)]));
    };
    if there.plugin.as_deref() != Some("pgoutput") {
        let plugin = there.plugin.as_deref().unwrap_or("none");
        let finding = Finding::fail(
            format!("replication slot {name} is not ours (plugin {plugin})"),
            "name another in capture.slot",
        );
        return Ok((slot, vec![finding]));
    }
    if there.is_lost() {
        let why = there.invalid.as_deref().unwrap_or("its WAL was removed");
        let finding = Finding::fail(format!("replication slot {name} is lost: {why}"), RUN);
        return Ok((slot, vec![finding]));
    }
    let held = u64::try_from(there.retained_bytes.unwrap_or_default()).unwrap_or_default();
    let megabytes = |bytes: u64| bytes.div_ceil(1 << 20);
    let limit = config.capture.max_wal;
    let what =
        format!("replication slot {name} holds back {} MB of WAL, of at most {} MB", megabytes(held), megabytes(limit));
    let room = if held >= limit / 2 {
        Finding::warn(what, "see that portalhook run keeps up, or raise capture.max_wal")
    } else {
        Finding::pass(what)
    };
    let read = if there.active_pid.is_some() {
        Finding::pass("the daemon reads the slot")
    } else {
        Finding::warn("no daemon reads the slot, so nothing is sent", "portalhook run (systemctl start portalhook)")
    };
    let mut findings = vec![room, read];
    findings.extend(there.failover.map(|kept| {
        if kept {
            Finding::pass("standbys that synchronize slots keep the slot, too")
        } else {
            Finding::warn(
                "standbys do not keep the slot: after a failover, what was missed is found by comparing the mirror with the tables",
                "stop the daemon, run portalhook setup, start the daemon",
            )
        }
    }));
    Ok((slot, findings))
}

/// The publication has exactly the plan's tables, whole.
pub(super) async fn publication(client: &Client, name: &str, plan: &Plan) -> Result<Vec<Finding>> {
    let quoted = quote(name);
    let sql = "SELECT puballtables, pubviaroot AND pubinsert AND pubupdate AND pubdelete AND pubtruncate FROM pg_publication WHERE pubname = $1";
    let Some(row) = client.query_opt(sql, &[&name]).await.context("look at the publication")? else {
        return Ok(vec![Finding::fail(format!("publication {name} is not there"), SETUP)]);
    };
    if row.get(0) {
        return Ok(vec![Finding::fail(
            format!("publication {name} is FOR ALL TABLES: every change of the database passes through the stream"),
            format!("DROP PUBLICATION {quoted}; then portalhook setup"),
        )]);
    }
    let mut findings = Vec::new();
    if !row.get::<_, bool>(1) {
        findings.push(Finding::fail(
            format!("publication {name} does not publish everything"),
            format!("ALTER PUBLICATION {quoted} SET (publish = 'insert, update, delete, truncate', publish_via_partition_root = true)"),
        ));
    }
    // to_jsonb: column lists and row filters came with PostgreSQL 15.
    let members = client
        .query(
            "SELECT c.oid, format('%I.%I', n.nspname, c.relname),
                    coalesce(to_jsonb(r) ->> 'prqual', to_jsonb(r) ->> 'prattrs') IS NOT NULL
             FROM pg_publication_rel AS r JOIN pg_publication AS p ON p.oid = r.prpubid
             JOIN pg_class AS c ON c.oid = r.prrelid JOIN pg_namespace AS n ON n.oid = c.relnamespace
             WHERE p.pubname = $1 ORDER BY 2",
            &[&name],
        )
        .await
        .context("read the publication's tables")?;
    for row in &members {
        let (oid, table, limited): (u32, &str, bool) = (row.get(0), row.get(1), row.get(2));
        if !plan.tables.iter().any(|one| one.oid == oid) {
            findings.push(Finding::warn(
                format!("publication {name} has {table}, which the mapping does not read"),
                format!("ALTER PUBLICATION {quoted} DROP TABLE {table}"),
            ));
        } else if limited {
            findings.push(Finding::fail(
                format!("publication {name} has {table} with a column list or a row filter, which migrations trip over and which hide changes"),
                format!("ALTER PUBLICATION {quoted} DROP TABLE {table}; ALTER PUBLICATION {quoted} ADD TABLE {table}"),
            ));
        }
    }
    // Of one that was dropped the look at the catalog says it.
    let oids: Vec<u32> = plan.tables.iter().map(|table| table.oid).collect();
    let there = client.query("SELECT oid FROM pg_class WHERE oid = ANY ($1)", &[&oids]).await;
    let there = there.context("look for the mapped tables")?;
    let is_in = |rows: &[tokio_postgres::Row], table: &Table| rows.iter().any(|row| row.get::<_, u32>(0) == table.oid);
    for table in plan.tables.iter().filter(|table| is_in(&there, table) && !is_in(&members, table)) {
        findings.push(Finding::fail(
            format!("publication {name} lacks {}.{}: its changes are not seen", table.schema, table.name),
            format!(
                "ALTER PUBLICATION {quoted} ADD TABLE {}.{}; portalhook run then finds what was missed, and tells it",
                quote(&table.schema),
                quote(&table.name)
            ),
        ));
    }
    if findings.is_empty() {
        findings.push(Finding::pass(format!(
            "publication {name} has exactly the {} mapped tables, whole",
            plan.tables.len()
        )));
    }
    Ok(findings)
}

/// Where events of today and tomorrow go.
pub(super) async fn partitions(client: &Client) -> Result<Vec<Finding>> {
    let rows = client
        .query(
            "SELECT day = (now() AT TIME ZONE 'UTC')::date,
                    (SELECT count(*) FROM unnest(ARRAY['events', 'deliveries', 'successes']) AS parent
                     WHERE to_regclass(format('portalhook_ledger.%I', parent || '_' || to_char(day, 'YYYYMMDD'))) IS NULL)
             FROM (SELECT (now() AT TIME ZONE 'UTC')::date + n AS day FROM generate_series(0, 1) AS n) AS days ORDER BY day",
            &[],
        )
        .await
        .context("look at the ledger's partitions")?;
    let missing = |today: bool| rows.iter().any(|row| row.get::<_, bool>(0) == today && row.get::<_, i64>(1) > 0);
    let fix = "SELECT portalhook.prepare_partitions((now() AT TIME ZONE 'UTC')::date, 2), as the daemon's role; portalhook run does it too";
    Ok(vec![if missing(true) {
        Finding::fail("the ledger has no partitions for today (UTC)", fix)
    } else if missing(false) {
        Finding::warn("the ledger has no partitions for tomorrow (UTC) yet", fix)
    } else {
        Finding::pass("the ledger has its partitions of today and tomorrow")
    }])
}
