//! What migrations of the application did to the mirrored tables, and how quickly that is mended.

use tokio_postgres::Client;

use super::Finding;
use crate::error::{Context as _, Result};
use crate::mapping::plan::Plan;
use crate::mirror::catalog::{self, Difference, Follow};
use crate::setup::followed::EVENT_TRIGGER;

/// What to do about that which the daemon follows by itself.
const RUN: &str = "portalhook run follows it within seconds; see its log";

/// Every difference to what the mirrors were copied from, but for what the other checks say better.
pub(super) async fn examine(client: &Client, publication: &str, plan: &Plan) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for look in catalog::look(client, plan, publication).await? {
        let table = &plan.tables[look.table];
        for difference in catalog::differences(table, &look) {
            let root = look.now.table.as_ref().and_then(|now| now.members.first()).map(|member| member.name.as_str());
            let told_elsewhere = match &difference {
                Difference::Unpublished
                | Difference::Key { .. }
                | Difference::ColumnRenamed { .. }
                | Difference::ColumnGone { .. }
                | Difference::ColumnType { .. }
                | Difference::LabelAdded { .. } => true,
                Difference::Refuses { member, .. } | Difference::Identity { member } => Some(member.as_str()) == root,
                _ => false,
            };
            if told_elsewhere {
                continue;
            }
            let what = difference.what(table);
            let fix = difference.fix(table, publication).unwrap_or_else(|| RUN.to_owned());
            findings.push(match difference.follow() {
                Follow::Operator => Finding::fail(what, fix),
                _ => Finding::warn(what, fix),
            });
        }
    }
    if findings.is_empty() {
        findings.push(Finding::pass("no migration of the application waits to be followed"));
    }
    Ok(findings)
}

/// It is optional: what it is good for.
pub(super) async fn event_trigger(client: &Client) -> Result<Finding> {
    let row = client
        .query_opt("SELECT evtenabled::text FROM pg_event_trigger WHERE evtname = $1", &[&EVENT_TRIGGER])
        .await
        .context("look for the event trigger")?;
    Ok(match row.as_ref().map(|row| row.get::<_, &str>(0)) {
        None => Finding::pass(
            "no event trigger: after a migration that drops a primary key, the application's UPDATE and DELETE of that table fail \
             until the daemon mends it within seconds (portalhook setup --event-trigger, optional, mends it at once)",
        ),
        Some("D") => Finding::warn(
            format!("the event trigger {EVENT_TRIGGER} is disabled"),
            format!("ALTER EVENT TRIGGER {EVENT_TRIGGER} ENABLE, or DROP EVENT TRIGGER {EVENT_TRIGGER}"),
        ),
        Some(_) => Finding::pass(format!("the event trigger {EVENT_TRIGGER} mends what migrations do at once")),
    })
}
