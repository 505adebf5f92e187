//! The doctor: every precondition of portalhook, looked at and told with its fix. `check` prints all of it; setup refuses what
//! cannot work. Nothing is changed, and only what setup granted is needed.

mod capture;
mod catalog;
mod feedback;
mod mapping;
pub(crate) mod origin;
mod protection;
mod role;
pub(crate) mod server;
mod tables;

use std::fmt;

use tokio_postgres::Client;

use crate::config::Config;
use crate::error::{Context as _, Error, Kind, Result};
use crate::mapping::plan::Plan;
use crate::session::{self, Database, Replication};
use crate::setup::migrations;

/// How a precondition stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Pass,
    /// Works, but somebody should look.
    Warn,
    /// Something does not arrive until this is mended.
    Fail,
}

/// One precondition as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    pub(crate) verdict: Verdict,
    pub(crate) what: String,
    /// What to type; SQL wherever SQL mends it.
    pub(crate) fix: Option<String>,
}

impl Finding {
    pub(crate) fn pass(what: impl Into<String>) -> Self {
        Self { verdict: Verdict::Pass, what: what.into(), fix: None }
    }

    pub(crate) fn warn(what: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { verdict: Verdict::Warn, what: what.into(), fix: Some(fix.into()) }
    }

    pub(crate) fn fail(what: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { verdict: Verdict::Fail, what: what.into(), fix: Some(fix.into()) }
    }
}

/// `fail  wal_level is replica — fix: ALTER SYSTEM SET wal_level = logical; …`
impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = match self.verdict {
            Verdict::Pass => "pass",
            Verdict::Warn => "warn",
            Verdict::Fail => "fail",
        };
        // One line each, whatever an error's text holds.
        write!(f, "{verdict}  {}", self.what.replace('\n', " "))?;
        match &self.fix {
            Some(fix) => write!(f, "  — fix: {}", fix.replace('\n', " ")),
            None => Ok(()),
        }
    }
}

/// What to type where setup mends it.
const SETUP: &str = "portalhook setup, with the owner's rights (--admin-url)";

/// Looks at everything, in the order in which things depend on each other; what cannot be looked at yet is left out.
///
/// # Errors
/// Where the database cannot be reached, or refuses the role.
pub(crate) async fn examine(config: &Config, admin_url: Option<&str>) -> Result<Vec<Finding>> {
    let database = Database::parse(config.database.url()?.expose())?;
    let session = session::connect(&database, "portalhook check").await?;
    session.batch_execute("SET enable_seqscan = off").await.context("prepare the session")?;
    let facts = server::facts(&session).await?;
    let mut findings = server::requirements(&facts);
    findings.push(protection::finding(session.database(), &session.protection()));
    let (slot, slot_findings) = capture::slot(&session, config, facts.database_oid).await?;
    findings.extend(server::room(&facts, slot.as_ref(), config.capture.max_wal));
    findings.extend(role::attributes(&session, database.role()).await?);
    if facts.wal_level == "logical" && !facts.standby {
        findings.push(connection(session.database()).await);
    }
    if !set_up(&session, &mut findings).await? {
        return Ok(findings);
    }
    findings.extend(origin::findings(&session, session.database()).await?);
    findings.extend(role::grants(&session).await?);
    findings.extend(slot_findings);
    findings.extend(mapping::pause(&session).await?);
    if let Some(plan) = mapping::plan(&session, &mut findings).await? {
        examine_tables(&session, config, &plan, database.role(), &mut findings).await?;
        if let Some(url) = admin_url {
            findings.extend(mapping::read_again(url, &plan).await?);
        }
    }
    findings.extend(capture::partitions(&session).await?);
    findings.extend(feedback::endpoints(&session).await?);
    findings.extend(feedback::failures(&session).await?);
    Ok(findings)
}

async fn examine_tables(
    client: &Client,
    config: &Config,
    plan: &Plan,
    role: &str,
    findings: &mut Vec<Finding>,
) -> Result<()> {
    findings.extend(capture::publication(client, &config.capture.publication, plan).await?);
    for table in &plan.tables {
        findings.extend(tables::examine(client, plan, table, role).await?);
    }
    findings.extend(tables::mirrors(client, plan).await?);
    findings.extend(catalog::examine(client, &config.capture.publication, plan).await?);
    findings.push(catalog::event_trigger(client).await?);
    Ok(())
}

/// Whether the role gets the connection that the stream comes by.
async fn connection(database: &Database) -> Finding {
    let connected = match Replication::connect(database, "portalhook check").await {
        Ok(mut connection) => connection.identify_system().await.map(|_| ()),
        Err(error) => Err(error),
    };
    match connected {
        Ok(()) => Finding::pass("the role gets a replication connection"),
        Err(error) => Finding::fail(
            format!("the role gets no replication connection: {error:?}"),
            "see the role's REPLICATION attribute, max_wal_senders, and pg_hba.conf",
        ),
    }
}

/// Whether there is a schema that this version knows; says what it found.
async fn set_up(client: &Client, findings: &mut Vec<Finding>) -> Result<bool> {
    let missing = match migrations::missing(client).await {
        Ok(missing) => missing,
        // Another database, or setup by another role: the schema is not ours to look into.
        Err(error) if error.kind() == Kind::Failed => return refuse(findings, &error),
        Err(error) => return Err(error),
    };
    match missing.first() {
        None => findings.push(Finding::pass("schema portalhook is there, of this version")),
        Some(first) if first.version() == 1 => {
            findings
                .push(Finding::fail("schema portalhook is not there", "portalhook setup --views FILE --admin-url URL"));
            return Ok(false);
        }
        Some(_) => {
            let names: Vec<String> = missing.iter().map(ToString::to_string).collect();
            findings.push(Finding::fail(
                format!("schema portalhook is older than this version: {} is missing", names.join(", ")),
                SETUP,
            ));
            return Ok(false);
        }
    }
    Ok(true)
}

fn refuse(findings: &mut Vec<Finding>, error: &Error) -> Result<bool> {
    findings.push(Finding::fail(format!("schema portalhook cannot be read: {error:?}"), SETUP));
    Ok(false)
}
