//! What the daemon's role may do: enough, and not much more.

use tokio_postgres::Client;

use super::{Finding, SETUP};
use crate::error::{Context as _, Result};
use crate::mapping::layout::quote;

/// What `run` and the commands do in schema portalhook (sql/queries/grants.sql says why).
const NEEDED: &str = "
    SELECT what FROM (
        SELECT format('%s on portalhook.%s', privilege, name) AS what, has_table_privilege('portalhook.' || name, privilege) AS there
        FROM (VALUES ('checkpoint', 'UPDATE'), ('plan', 'SELECT'), ('routes', 'DELETE'), ('cursors', 'DELETE'), ('settled_ranges', 'INSERT'),
                     ('row_failures', 'INSERT'), ('operations', 'SELECT'), ('endpoints', 'SELECT'), ('secrets', 'SELECT'), ('mapping', 'SELECT'),
                     ('catalog', 'UPDATE'), ('mapped_tables', 'SELECT'),
                     ('events', 'INSERT'), ('deliveries', 'UPDATE'), ('successes', 'INSERT'), ('recent_deliveries', 'SELECT'),
                     ('pending', 'SELECT'), ('failures', 'SELECT'), ('endpoint_health', 'SELECT')) AS n (name, privilege)
        UNION ALL
        SELECT 'EXECUTE on ' || name, has_function_privilege(name, 'EXECUTE')
        FROM (VALUES ('portalhook.secret(text)'), ('portalhook.test(bigint)'), ('portalhook.redeliver(text, bigint)'),
                     ('portalhook.replay(bigint, timestamptz, timestamptz)'), ('portalhook.prepare_partitions(date, int)'),
                     ('portalhook.members(oid)'), ('portalhook.mend_identity(regclass)'), ('portalhook.mend_publication(regclass)')) AS f (name)
        UNION ALL
        SELECT 'ownership of portalhook.' || name, pg_has_role(relowner, 'USAGE')
        FROM (VALUES ('events'), ('deliveries'), ('successes')) AS o (name) JOIN pg_class ON oid = to_regclass('portalhook.' || name)
        UNION ALL
        SELECT 'CREATE on schema ' || name, has_schema_privilege(name, 'CREATE')
        FROM (VALUES ('portalhook_ledger'), ('portalhook_mirror')) AS s (name)
    ) AS needed WHERE NOT coalesce(there, false)";

pub(super) async fn attributes(client: &Client, role: &str) -> Result<Vec<Finding>> {
    let row = client
        .query_one(
            "SELECT rolreplication OR rolsuper, rolsuper, has_database_privilege(current_database(), 'TEMPORARY'), \
                    current_database()::text \
             FROM pg_roles WHERE rolname = current_user",
            &[],
        )
        .await
        .context("look at the role")?;
    let quoted = quote(role);
    let mut findings = vec![if row.get(0) {
        Finding::pass(format!("role {role} may log in and replicate"))
    } else {
        Finding::fail(format!("role {role} may not replicate"), format!("ALTER ROLE {quoted} REPLICATION"))
    }];
    findings.push(if row.get(2) {
        Finding::pass(format!("role {role} may make temporary tables"))
    } else {
        Finding::fail(
            format!("role {role} may not make temporary tables, in which large transactions are staged"),
            format!("GRANT TEMPORARY ON DATABASE {} TO {quoted}", quote(row.get(3))),
        )
    });
    if row.get(1) {
        findings.push(Finding::warn(
            format!("role {role} is a superuser, and the daemon needs hardly any rights"),
            "name a role of its own in database.url; portalhook setup --admin-url URL creates it",
        ));
    }
    Ok(findings)
}

pub(super) async fn grants(client: &Client) -> Result<Vec<Finding>> {
    let rows = client.query(NEEDED, &[]).await.context("look at the role's rights")?;
    let missing: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    Ok(vec![if missing.is_empty() {
        Finding::pass("the role has its rights on schema portalhook")
    } else {
        Finding::fail(format!("the role lacks {}", missing.join(", ")), SETUP)
    }])
}
