//! The daemon's role: may log in and replicate, and owns the mirror and the ledger's partitions.

use tokio_postgres::Client;

use super::script::{Script, fix};
use super::server::Server;
use crate::error::{Context as _, Result};
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
            script
                .run(client, &format!("ALTER ROLE {quoted} LOGIN REPLICATION"), "let the role log in and replicate")
                .await?;
            script.say("role", format!("{name}: may log in and replicate now"))?;
        }
    }
    if *name != server.admin {
        let database = quote(&server.database);
        script
            .run(client, &format!("GRANT CONNECT ON DATABASE {database} TO {quoted}"), "let the role connect")
            .await?;
        if !server.admin_is_superuser {
            // To make it the owner of what it must own.
            script.run(client, &format!("GRANT {quoted} TO CURRENT_USER"), "become a member of the role").await?;
        }
    }
    Ok(())
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
    script.run(client, &sql, &format!("create role {}", role.name)).await.map_err(|error| {
        if error.sqlstate() == Some(&tokio_postgres::error::SqlState::INSUFFICIENT_PRIVILEGE) {
            fix(
                format!("this administrator may not create a role with REPLICATION ({error:?})"),
                format!(
                    "run setup as a superuser, or have one run: {}",
                    format!("CREATE ROLE {} LOGIN REPLICATION", quote(&role.name))
                ),
            )
        } else {
            error
        }
    })?;
    script.say("role", format!("{}: {said}", role.name))
}
