//! The daemon's role: may log in and replicate, and owns the mirror and the ledger's partitions.

use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use super::script::{Script, fix};
use super::server::Server;
use crate::error::{Context as _, Error, Result};
use crate::mapping::layout::{literal, quote};

/// The role that `database.url` names.
pub(crate) struct Role {
    pub(crate) name: String,
    /// Of the URL itself, never of the environment, which may hold the administrator's. Used only to create the role.
    pub(crate) password: Option<Vec<u8>>,
}

/// Creates the role, or makes sure that it can log in and replicate.
pub(crate) async fn prepare(client: &Client, server: &Server, role: &Role, script: &mut Script<'_>) -> Result<()> {
    let name = &role.name;
    let row = client
        .query_opt("SELECT rolcanlogin, rolreplication OR rolsuper FROM pg_roles WHERE rolname = $1", &[name])
        .await
        .context("look for the role")?;
    let quoted = quote(name);
    match row.map(|row| (row.get::<_, bool>(0), row.get::<_, bool>(1))) {
        None => {
            create(client, role, script).await?;
        }
        Some((true, true)) => script.say("role", format!("{name}: already there"))?,
        Some(_) => {
            let sql = format!("ALTER ROLE {quoted} LOGIN REPLICATION");
            let altered = script.run(client, &sql, "let the role log in and replicate").await;
            altered.map_err(|error| for_a_superuser(error, &sql))?;
            script.say("role", format!("{name}: may log in and replicate now"))?;
        }
    }
    if *name != server.admin {
        let database = quote(&server.database);
        // Transactions larger than memory are staged in temporary tables; not everybody leaves those to PUBLIC.
        let sql = format!("GRANT CONNECT, TEMPORARY ON DATABASE {database} TO {quoted}");
        script.run(client, &sql, "let the role connect and make temporary tables").await?;
        if !server.admin_is_superuser {
            become_member(client, server, role, script).await?;
        }
    }
    Ok(())
}

/// Only a member of the role can make it the owner of what it must own.
async fn become_member(client: &Client, server: &Server, role: &Role, script: &mut Script<'_>) -> Result<()> {
    let member = client
        .query_opt("SELECT FROM pg_roles WHERE rolname = $1 AND pg_has_role(current_user, oid, 'USAGE')", &[&role.name])
        .await
        .context("look at the administrator's memberships")?;
    if member.is_some() {
        return Ok(());
    }
    let sql = format!("GRANT {} TO {}", quote(&role.name), quote(&server.admin));
    script.run(client, &sql, "become a member of the role").await.map_err(|error| for_a_superuser(error, &sql))
}

/// What the administrator's own role may not do, somebody else can.
fn for_a_superuser(error: Error, sql: &str) -> Error {
    if error.sqlstate() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) {
        fix("this administrator has not the rights for that", format!("have a superuser run: {sql}"))
    } else {
        error
    }
}

async fn create(client: &Client, role: &Role, script: &mut Script<'_>) -> Result<()> {
    let mut sql = format!("CREATE ROLE {} LOGIN REPLICATION", quote(&role.name));
    let said = if let Some(password) = &role.password {
        if script.prints() {
            script.show("-- and with PASSWORD, the one in database.url")?;
        } else {
            // The verifier, not the password: statements end in logs.
            let verifier = postgres_protocol::password::scram_sha_256(password);
            sql = format!("{sql} PASSWORD {}", literal(&verifier));
        }
        "created, with the password of database.url"
    } else {
        "created, without a password"
    };
    let created = script.run(client, &sql, &format!("create role {}", role.name)).await;
    created.map_err(|error| for_a_superuser(error, &format!("CREATE ROLE {} LOGIN REPLICATION", quote(&role.name))))?;
    script.say("role", format!("{}: {said}", role.name))
}
