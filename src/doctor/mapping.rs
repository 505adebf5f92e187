//! The mapping as operators wrote it, against the plan that runs.

use tokio_postgres::Client;

use super::Finding;
use crate::error::{Context as _, Kind, Result};
use crate::mapping::plan::{Entity, Plan};
use crate::mapping::read;
use crate::session::{self, Database};

/// The daemon takes the mapping over where the stream reaches its change.
const SWITCHES: &str = "start portalhook run, or see why it waits: SELECT why, state, problem FROM portalhook.switches WHERE state <> 'done'";

const SETUP: &str = "portalhook setup --admin-url URL";

/// The plan that runs, if it can be read; says whether it is that of the mapping.
pub(super) async fn plan(client: &Client, findings: &mut Vec<Finding>) -> Result<Option<Plan>> {
    let row = client.query_opt("SELECT plan::text FROM portalhook.plan", &[]).await.context("read the plan")?;
    let Some(row) = row else {
        findings.push(Finding::fail("there is no mapping yet", "portalhook setup --views FILE --admin-url URL"));
        return Ok(None);
    };
    let Ok(plan) = serde_json::from_str::<Plan>(row.get(0)) else {
        findings.push(Finding::fail("the plan of the mapping is another version's", SETUP));
        return Ok(None);
    };
    let written = queries(client).await?;
    let other: Vec<&str> = written
        .iter()
        .filter(|(entity, query)| plan.entity(*entity).is_none_or(|one| one.query != *query))
        .map(|(entity, _)| entity.name())
        .collect();
    let gone = plan.entities.iter().find(|one| !written.iter().any(|(entity, _)| *entity == one.entity));
    findings.push(match (other.as_slice(), gone) {
        ([], None) => Finding::pass("the daemon runs the mapping that portalhook.mapping holds"),
        ([], Some(gone)) => Finding::warn(
            format!("{} was deleted from portalhook.mapping, and still runs", gone.entity.name()),
            SWITCHES,
        ),
        _ => Finding::warn(
            format!("{} was changed in portalhook.mapping, and the text before it still runs", other.join(", ")),
            SWITCHES,
        ),
    });
    Ok(Some(plan))
}

/// Why the stream stands still, if it does.
pub(super) async fn pause(client: &Client) -> Result<Option<Finding>> {
    let sql = "SELECT problem FROM portalhook.switches WHERE kind = 'pause' AND state <> 'done' ORDER BY id LIMIT 1";
    let row = client.query_opt(sql, &[]).await.context("look for a pause")?;
    let fix = "change the mapping as it says: the stream then goes on by itself";
    Ok(row.map(|row| Finding::fail(format!("the stream is paused: {}", row.get::<_, &str>(0)), fix)))
}

/// Has PostgreSQL read the mapping again, with the owner's rights: what it says now, what it warns of, and whether it still
/// comes to the same plan.
pub(super) async fn read_again(admin_url: &str, plan: &Plan) -> Result<Vec<Finding>> {
    let session = session::connect(&Database::parse(admin_url)?, "portalhook check").await?;
    let (read, warnings) = match read::read_again(&session, &queries(&session).await?, Some(plan)).await {
        Ok(read) => read,
        Err(error) if error.kind() == Kind::Unavailable => return Err(error),
        Err(error) => {
            return Ok(vec![Finding::fail(
                format!("PostgreSQL cannot run the mapping: {error:?}"),
                "UPDATE portalhook.mapping SET query = '…' WHERE entity = '…'",
            )]);
        }
    };
    let mut findings: Vec<Finding> =
        warnings.into_iter().map(|warning| Finding::warn(warning, "change the SELECT, or live with it")).collect();
    findings.push(if read == *plan {
        Finding::pass("PostgreSQL runs the mapping, and it comes to what the daemon runs")
    } else {
        Finding::warn("the mapping comes to something else than what the daemon runs: a table or a function that it reads has changed", SETUP)
    });
    Ok(findings)
}

async fn queries(client: &Client) -> Result<Vec<(Entity, String)>> {
    let rows = client.query("SELECT entity, query FROM portalhook.mapping", &[]).await.context("read the mapping")?;
    let entity = |name: &str| Entity::ALL.into_iter().find(|entity| entity.name() == name);
    Ok(rows.iter().filter_map(|row| Some((entity(row.get(0))?, row.get(1)))).collect())
}
