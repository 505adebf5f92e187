//! How the mapping and its mirrors change under a running stream.
//!
//! What names nothing new takes effect at its own commit. Anything else is copied beside the old mirrors by a task of its own
//! (`copier`) and switched to at L, where the stream reaches the copy's commit. Either way the change of the plan is part of
//! the group commit that reaches that position: a crash before it finds the old plan, a crash after it the new one.

mod advice;
mod ahead;
pub(crate) mod copier;
mod earlier;
pub(crate) mod job;
mod large;
mod missed;
mod pairs;
pub(super) mod pause;
pub(super) mod place;
pub(super) mod rebuild;
pub(super) mod relation;
pub(super) mod resync;
pub(crate) mod snapshot;
pub(super) mod turn;

use tokio::sync::oneshot;

pub(crate) use self::ahead::Ahead;
use self::job::Job;
use self::turn::Adopted;
use crate::error::{Context as _, Error, Kind, Result};
use crate::mapping::plan::Plan;
use crate::mirror::prepared::Prepared;

/// A copy was for the plan before: it is made again, and nobody needs to know.
const OUTRUN: &str = "the mapping changed meanwhile";

/// What the copier asks of the heart, between two groups.
pub(crate) enum Command {
    /// Keep from now on what the copy will not see.
    Record(Box<Job>, oneshot::Sender<Result<()>>),
    /// Nothing has to be copied for this plan.
    Adopt(Box<Adoption>, oneshot::Sender<Result<()>>),
    /// The copy that the paused stream waits for is there.
    Landed(String),
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

/// The plan in force, in which snapshot the mapping was read for it, and how far it is ahead of the stream.
pub(crate) async fn load_plan(client: &tokio_postgres::Client) -> Result<(Plan, Option<String>, Ahead)> {
    let row = client
        .query_opt("SELECT plan::text, mapping_seen, ahead::text FROM portalhook.plan", &[])
        .await
        .context("load the plan")?
        .ok_or_else(|| Error::usage("this database has no mapping yet: run portalhook setup --views FILE"))?;
    let plan = serde_json::from_str(row.get(0)).map_err(|error| {
        Error::new(
            Kind::Usage,
            format!("the plan in portalhook.plan is of another version ({error}): run portalhook setup again"),
        )
    })?;
    let ahead = row.get::<_, Option<&str>>(2).map(serde_json::from_str).transpose();
    let ahead = ahead.map_err(|error| Error::because(Kind::Failed, "read how far the plan is ahead", error))?;
    Ok((plan, row.get(1), ahead.unwrap_or_default()))
}

/// Writes the plan that is in force from this group commit on.
async fn store_plan(sql: &Prepared<'_>, adopted: &Adopted) -> Result<()> {
    let json = |error| Error::because(Kind::Failed, "write the plan as json", error);
    let plan = serde_json::to_string(&adopted.plan).map_err(json)?;
    let ahead = serde_json::to_string(&adopted.ahead).map_err(json)?;
    let text = "UPDATE portalhook.plan SET plan = $1::text::jsonb, made_at = now(), mapping_seen = coalesce($2::text, mapping_seen), ahead = $3::text::jsonb";
    sql.execute("store the plan", text, &[&plan, &adopted.seen, &ahead]).await.map(drop)
}
