//! How the mapping and its mirrors change under a running stream.
//!
//! What names nothing new takes effect at its own commit. Anything else is copied beside the old mirrors by a task of its own
//! (`copier`) and switched to at L, where the stream reaches the copy's commit. Either way the change of the plan is part of
//! the group commit that reaches that position: a crash before it finds the old plan, a crash after it the new one.

mod advice;
pub(crate) mod copier;
mod courtesy;
pub(crate) mod job;
mod large;
mod missed;
pub(super) mod pause;
pub(super) mod place;
mod rebuild;
pub(super) mod relation;
pub(crate) mod snapshot;
pub(super) mod turn;

use tokio::sync::oneshot;

use self::job::Job;
use crate::error::{Context as _, Error, Kind, Result};
use crate::mapping::plan::Plan;
use crate::mirror::prepared::Prepared;

/// What the copier asks of the heart, between two groups.
pub(crate) enum Command {
    /// Keep from now on what the copy will not see.
    Record(Box<Job>, oneshot::Sender<Result<()>>),
    /// Nothing has to be copied for this plan.
    Adopt(Box<Adoption>, oneshot::Sender<Result<()>>),
    /// The copy failed: nothing more is kept for it.
    Forget,
}

/// A plan that the mirrors can serve as they are.
pub(crate) struct Adoption {
    pub(crate) before: Plan,
    pub(crate) plan: Plan,
    pub(crate) seen: Option<String>,
    pub(crate) requests: Vec<i64>,
}

/// The plan in force, and in which snapshot the mapping was read for it.
pub(crate) async fn load_plan(client: &tokio_postgres::Client) -> Result<(Plan, Option<String>)> {
    let row = client
        .query_opt("SELECT plan::text, mapping_seen FROM portalhook.plan", &[])
        .await
        .context("load the plan")?
        .ok_or_else(|| Error::usage("this database has no mapping yet: run portalhook setup --views FILE"))?;
    let plan = serde_json::from_str(row.get(0)).map_err(|error| {
        Error::new(
            Kind::Usage,
            format!("the plan in portalhook.plan is of another version ({error}): run portalhook setup again"),
        )
    })?;
    Ok((plan, row.get(1)))
}

/// Writes the plan that is in force from this group commit on.
async fn store_plan(sql: &Prepared<'_>, plan: &Plan, seen: Option<&str>) -> Result<()> {
    let plan =
        serde_json::to_string(plan).map_err(|error| Error::because(Kind::Failed, "write the plan as json", error))?;
    let text = "UPDATE portalhook.plan SET plan = $1::text::jsonb, made_at = now(), mapping_seen = coalesce($2::text, mapping_seen)";
    sql.execute("store the plan", text, &[&plan, &seen]).await.map(drop)
}
