//! What delivery says: endpoints that do not take anything, rows that could not be evaluated, deliveries that were given up.

use tokio_postgres::Client;

use super::Finding;
use crate::error::{Context as _, Result};

pub(super) async fn endpoints(client: &Client) -> Result<Vec<Finding>> {
    let sql = "SELECT endpoint, url, state, coalesce(disabled_reason, ''), waiting, coalesce(last_error, '') FROM portalhook.endpoint_health";
    let rows = client.query(sql, &[]).await.context("look at the endpoints")?;
    let mut findings = Vec::new();
    for row in &rows {
        let (id, url, state): (i64, &str, &str) = (row.get(0), row.get(1), row.get(2));
        let (reason, waiting, error): (&str, i64, &str) = (row.get(3), row.get(4), row.get(5));
        match state {
            "disabled" => {
                let why = if reason.is_empty() { String::new() } else { format!(": {reason}") };
                findings.push(Finding::warn(
                    format!("endpoint {id} ({url}) is disabled, {waiting} events wait{why}"),
                    format!("UPDATE portalhook.endpoints SET enabled = true WHERE id = {id}"),
                ));
            }
            "failing" => findings.push(Finding::warn(
                format!("endpoint {id} ({url}) fails: {error}"),
                format!("see its receiver; portalhook test {id} tries it"),
            )),
            _ => {}
        }
    }
    if rows.is_empty() {
        findings.push(Finding::warn(
            "there are no endpoints",
            "INSERT INTO portalhook.endpoints (url) VALUES ('https://…')",
        ));
    } else if findings.is_empty() {
        findings.push(Finding::pass(format!("endpoints: {}, none disabled, none failing", rows.len())));
    }
    Ok(findings)
}

pub(super) async fn failures(client: &Client) -> Result<Vec<Finding>> {
    let sql = "SELECT count(*), (SELECT format('%s, row %s of %s: %s', entity, key, table_name, message) FROM portalhook.row_failures
                                 ORDER BY at DESC LIMIT 1)
               FROM portalhook.row_failures WHERE at > now() - interval '1 day'";
    let row = client.query_one(sql, &[]).await.context("look for rows that could not be evaluated")?;
    let (rows, last): (i64, Option<String>) = (row.get(0), row.get(1));
    let mut findings = vec![if rows == 0 {
        Finding::pass("every row of the last day could be evaluated")
    } else {
        Finding::warn(
            format!(
                "{rows} rows of the last day could not be evaluated and gave no event; the last: {}",
                last.unwrap_or_default()
            ),
            "change the SELECT in portalhook.mapping, or the rows; SELECT * FROM portalhook.failures shows all",
        )
    }];
    let sql = "SELECT count(*) FROM portalhook.deliveries
               WHERE status IN ('failed', 'expired', 'cancelled') AND last_attempt_at > now() - interval '1 day'";
    let given_up: i64 = client.query_one(sql, &[]).await.context("look for failed deliveries")?.get(0);
    findings.push(if given_up == 0 {
        Finding::pass("no delivery was given up in the last day")
    } else {
        Finding::warn(
            format!("{given_up} deliveries were given up in the last day"),
            "SELECT * FROM portalhook.failures shows why; SELECT portalhook.redeliver(event_id) tries one again",
        )
    });
    Ok(findings)
}
