//! Our three schemas, their contents, and who may do what in them.

use tokio_postgres::Client;

use super::migrations;
use super::role::Role;
use super::script::{Script, spliced};
use super::server::Server;
use crate::error::{Context as _, Result};
use crate::mapping::layout::{literal, quote};

const GRANTS: &str = include_str!("../../sql/queries/grants.sql");
const LEDGER_OWNER: &str = include_str!("../../sql/queries/ledger_owner.sql");
const COMMENTS: [(&str, &str); 3] = [
    ("portalhook", "portalhook: webhooks for what happens in the portal. Endpoints, settings, and what was sent."),
    (
        "portalhook_mirror",
        "portalhook: the columns that the mapping reads, as of the position of the stream. Written by the daemon alone.",
    ),
    ("portalhook_ledger", "portalhook: the day partitions of portalhook.events, parts, deliveries and successes."),
];

/// Schemas, migrations and the role's rights on them.
pub(crate) async fn prepare(client: &mut Client, server: &Server, role: &Role, script: &mut Script<'_>) -> Result<()> {
    schemas(client, role, script).await?;
    migrate(client, script).await?;
    let quoted = quote(&role.name);
    if role.name != server.admin && !owns_ledger(client, role).await? {
        script.run(client, &spliced(LEDGER_OWNER, "role", &quoted), "give the ledger's tables to the role").await?;
    }
    script.run(client, &spliced(GRANTS, "role", &quoted), "grant the role its rights").await?;
    script.say("grants", format!("{} on schema portalhook", role.name))
}

async fn schemas(client: &Client, role: &Role, script: &mut Script<'_>) -> Result<()> {
    let mut made = Vec::new();
    let owned = format!(" AUTHORIZATION {}", quote(&role.name));
    for (name, owner) in [("portalhook", ""), ("portalhook_mirror", &owned), ("portalhook_ledger", &owned)] {
        let there = client.query_opt("SELECT FROM pg_namespace WHERE nspname = $1", &[&name]).await;
        if there.context("look for our schemas")?.is_none() {
            script.run(client, &format!("CREATE SCHEMA {name}{owner}"), &format!("create schema {name}")).await?;
            made.push(name);
        }
    }
    for (name, comment) in COMMENTS.into_iter().filter(|(name, _)| made.contains(name)) {
        script
            .run(client, &format!("COMMENT ON SCHEMA {name} IS {}", literal(comment)), "describe our schemas")
            .await?;
    }
    script.say(
        "schemas",
        if made.is_empty() { "already there".to_owned() } else { format!("created {}", made.join(", ")) },
    )
}

async fn migrate(client: &mut Client, script: &mut Script<'_>) -> Result<()> {
    if script.prints() {
        for migration in migrations::missing(client).await? {
            script.show(&format!("-- migration {migration}\n{}", migration.sql().unwrap_or_default()))?;
        }
        return Ok(());
    }
    let applied = migrations::apply(client).await?;
    script.say(
        "migrations",
        if applied.is_empty() { "already there".to_owned() } else { format!("applied {}", applied.join(", ")) },
    )
}

async fn owns_ledger(client: &Client, role: &Role) -> Result<bool> {
    let row = client
        .query_one(
            "SELECT count(*) = 4 FROM pg_class WHERE oid IN (to_regclass('portalhook.events'), to_regclass('portalhook.parts'),
                 to_regclass('portalhook.deliveries'), to_regclass('portalhook.successes')) AND pg_get_userbyid(relowner) = $1",
            &[&role.name],
        )
        .await
        .context("look for the owner of the ledger")?;
    Ok(row.get(0))
}

/// Today's and tomorrow's partitions of the ledger (UTC), made by the role, which must own them.
pub(crate) async fn partitions(client: &Client, script: &mut Script<'_>) -> Result<()> {
    let call = "SELECT portalhook.prepare_partitions((now() AT TIME ZONE 'UTC')::date, 2)";
    if script.prints() {
        return script.show(call);
    }
    let made: i32 = client.query_one(call, &[]).await.context("create the ledger's partitions")?.get(0);
    script.say(
        "ledger",
        if made == 0 { "partitions already there".to_owned() } else { format!("created {made} partitions") },
    )
}
