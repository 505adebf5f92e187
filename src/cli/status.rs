//! `portalhook status`: how the daemon, the stream and the endpoints do, on one screen or as JSON.

use clap::Args;
use serde_json::Value;

use super::database::{self, say};
use super::table::{Align, bytes, clean, count, lines, span};
use crate::config::Config;
use crate::doctor::origin;
use crate::error::{Context as _, Error, Result};
use crate::mapping::plan::Plan;
use crate::mirror::catalog;
use crate::session::Session;

/// A pause is told whole: it says what to type.
const PAUSE: usize = 100_000;

const STATUS: &str = include_str!("../../sql/queries/status.sql");

/// Show whether the daemon runs, how far behind it is, how each endpoint does, and what was sent or failed last
///
/// Everything is read from the database, so it can be asked from anywhere, and also while the daemon is down.
#[derive(Args)]
#[command(after_help = "\
The same in SQL: SELECT * FROM portalhook.endpoint_health; and recent_deliveries, pending, failures.

--json prints one object with the keys migrations, copy, time, daemon {streaming, streaming_since, last_written_at}, slot {name, state,
lag_bytes, lag_seconds, held_bytes}, position {lsn, events}, gap, mirror {rows, tables}, switches, pending, failed, rows_not_evaluated,
endpoints, failures, recent_deliveries. Keys are only ever added. For example:
  portalhook status --json | jq '.endpoints[] | select(.state != \"ok\")'

Exit codes: 0 shown (also where something is wrong: portalhook check judges), 64 wrong usage or not set up, 69 no database.")]
pub(crate) struct Options {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Reads and prints.
pub(crate) async fn run(options: &Options, config: &Config) -> Result<()> {
    let session = database::connect(config, "status").await?;
    let tables = migrations(&session).await?;
    // Where it cannot be asked, `check` says so.
    let copy = origin::look(&session, session.database()).await.unwrap_or_default();
    let row = session.query_opt(&spelled(STATUS), &[]).await.context("read the status")?;
    let row = row.ok_or_else(|| Error::usage("setup did not finish: run portalhook setup again"))?;
    let text: &str = row.get(0);
    if options.json {
        let version = env!("CARGO_PKG_VERSION");
        let rest = text.trim_start().strip_prefix('{').unwrap_or(text);
        let tables = Value::from(tables);
        let copy = Value::from(copy);
        say(&format!("{{\"portalhook\" : \"{version}\", \"migrations\" : {tables}, \"copy\" : {copy}, {rest}"));
        return Ok(());
    }
    let status: Value =
        serde_json::from_str(text).map_err(|error| Error::failed(format!("the status cannot be read: {error}")))?;
    let now = seconds(&status["time"]).unwrap_or_default();
    let mut screen = screen(&status, now);
    let place = screen.iter().position(String::is_empty).unwrap_or(screen.len());
    screen.splice(place..place, tables.iter().map(|line| format!("migration  {}", clean(line, 300))));
    if let Some(copy) = copy {
        screen.insert(0, format!("COPY       {}: {}", clean(&copy, 300), origin::WAYS));
    }
    for line in screen {
        say(&line);
    }
    Ok(())
}

/// What migrations of the application did to mirrored tables that is not followed yet.
async fn migrations(session: &Session) -> Result<Vec<String>> {
    let row = session
        .query_opt("SELECT p.plan::text, c.publication FROM portalhook.plan AS p, portalhook.checkpoint AS c", &[])
        .await
        .context("read the plan")?;
    // The plan of another version is for check to name.
    let Some((plan, publication)) =
        row.and_then(|row| Some((serde_json::from_str::<Plan>(row.get(0)).ok()?, row.get::<_, String>(1))))
    else {
        return Ok(Vec::new());
    };
    let looks = catalog::look(session, &plan, &publication).await?;
    let of = |look: &catalog::Look| {
        let table = &plan.tables[look.table];
        let found = catalog::differences(table, look);
        found.iter().map(|difference| difference.what(table)).collect::<Vec<_>>()
    };
    Ok(looks.iter().flat_map(of).collect())
}

/// `{at}` in the statement is a time as JSON has it.
fn spelled(sql: &str) -> String {
    sql.replace('{', "to_char(").replace('}', " AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"')")
}

fn screen(status: &Value, now: i64) -> Vec<String> {
    let mut out = vec![
        format!("daemon     {}", daemon(status, now)),
        format!("stream     {}", stream(status)),
        format!("slot       {}", slot(status)),
        format!("mirror     {}", mirror(status)),
        format!("ledger     {}", ledger(status)),
    ];
    if let Some(why) = status["gap"].as_str() {
        let from = text(&status["position"]["lsn"]);
        out.push(format!(
            "gap        {}: what was committed after {from} is found by the mirror, and told then",
            clean(why, 300)
        ));
    }
    out.extend(list(&status["switches"]).iter().map(|one| format!("mapping    {}", switch(one, now))));
    out.push(String::new());
    let endpoints = list(&status["endpoints"]);
    if endpoints.is_empty() {
        out.push("no endpoints: INSERT INTO portalhook.endpoints (url) VALUES ('https://…')".to_owned());
    } else {
        out.extend(endpoint_lines(endpoints, now));
    }
    let failures = list(&status["failures"]);
    if !failures.is_empty() {
        out.push(String::new());
        out.push("Given up last (SELECT * FROM portalhook.failures shows all):".to_owned());
        out.extend(failures.iter().map(|one| failure(one, now)));
    }
    let recent = list(&status["recent_deliveries"]);
    if !recent.is_empty() {
        out.push(String::new());
        out.extend(recent_lines(recent, now));
    }
    out
}

fn daemon(status: &Value, now: i64) -> String {
    let daemon = &status["daemon"];
    let wrote = || ago(&daemon["last_written_at"], now);
    if daemon["streaming"] == true {
        match seconds(&daemon["streaming_since"]) {
            Some(since) => format!("running for {}; last change taken {}", span(now - since), wrote()),
            None => format!("running; last change taken {}", wrote()),
        }
    } else {
        format!("NOT RUNNING (start portalhook run); last change taken {}", wrote())
    }
}

fn stream(status: &Value) -> String {
    let slot = &status["slot"];
    let Some(behind) = slot["lag_bytes"].as_i64() else { return "unknown: the slot is not there".to_owned() };
    if list(&status["switches"]).iter().any(|one| one["kind"] == "pause") {
        return format!("PAUSED, {} behind: see below", bytes(behind));
    }
    let running = status["daemon"]["streaming"] == true;
    let late = slot["lag_seconds"].as_f64().filter(|late| *late >= 1.0);
    match late {
        Some(late) => format!("{} behind, {late:.0} s", bytes(behind)),
        None if running && behind < 1 << 20 => "up to date".to_owned(),
        None => format!("{} behind", bytes(behind)),
    }
}

fn slot(status: &Value) -> String {
    let slot = &status["slot"];
    let name = text(&slot["name"]);
    match slot["state"].as_str() {
        Some("missing") => format!("{name} IS GONE (portalhook check says what to do)"),
        Some("lost") => format!("{name} IS LOST: the server gave it up (portalhook check says what to do)"),
        _ => format!("{name} holds back {} of WAL", bytes(slot["held_bytes"].as_i64().unwrap_or_default())),
    }
}

fn mirror(status: &Value) -> String {
    let mirror = &status["mirror"];
    let tables = list(&mirror["tables"]);
    let each: Vec<String> =
        tables.iter().map(|table| format!("{} {}", text(&table["table"]), number(&table["rows"]))).collect();
    format!("about {} rows in {} tables: {}", number(&mirror["rows"]), tables.len(), each.join(", "))
}

fn counted(value: &Value, one: &str, many: &str) -> String {
    format!("{} {}", number(value), if value.as_i64() == Some(1) { one } else { many })
}

fn ledger(status: &Value) -> String {
    let mut words = format!(
        "{}; {} pending, {} failed",
        counted(&status["position"]["events"], "event", "events"),
        counted(&status["pending"], "delivery", "deliveries"),
        number(&status["failed"])
    );
    if status["rows_not_evaluated"].as_i64().unwrap_or_default() > 0 {
        words.push_str(&format!("; {} could not be evaluated", counted(&status["rows_not_evaluated"], "row", "rows")));
    }
    words
}

/// A change of the mapping, or a copy, that is not in force yet.
fn switch(one: &Value, now: i64) -> String {
    let since = ago(&one["requested_at"], now);
    if one["kind"] == "pause" {
        return format!("THE STREAM IS PAUSED since {since}: {}", clean(one["problem"].as_str().unwrap_or("-"), PAUSE));
    }
    let problem = one["problem"].as_str().map(|problem| format!(": {}", clean(problem, 300)));
    format!("{}, {since}; {}{}", text(&one["why"]), text(&one["state"]), problem.unwrap_or_default())
}

fn endpoint_lines(endpoints: &[Value], now: i64) -> Vec<String> {
    let header = [
        ("ENDPOINT", Align::Right),
        ("STATE", Align::Left),
        ("WAITING", Align::Right),
        ("RETRYING", Align::Right),
        ("FAILED", Align::Right),
        ("LAST SUCCESS", Align::Left),
        ("URL", Align::Left),
    ];
    let row = |one: &Value| {
        vec![
            one["id"].to_string(),
            text(&one["state"]),
            number(&one["waiting"]),
            number(&one["retrying"]),
            number(&one["failed"]),
            if one["last_success_at"].is_null() { "never".to_owned() } else { ago(&one["last_success_at"], now) },
            clean(&text(&one["url"]), 100),
        ]
    };
    let rows: Vec<Vec<String>> = endpoints.iter().map(row).collect();
    let mut table = lines(&header, &rows).into_iter();
    let mut out: Vec<String> = table.next().into_iter().collect();
    for (line, one) in table.zip(endpoints) {
        out.push(line);
        out.extend(trouble(one, now).map(|trouble| format!("{:10}{trouble}", "")));
    }
    out
}

/// What is wrong with an endpoint, below its line.
fn trouble(one: &Value, now: i64) -> Option<String> {
    let state = one["state"].as_str().unwrap_or_default();
    if let ("disabled", Some(reason)) = (state, one["disabled_reason"].as_str()) {
        return Some(format!("given up: {}", clean(reason, 150)));
    }
    let error = one["last_error"].as_str().filter(|_| state == "failing" || state == "retrying")?;
    let next = one["next_attempt_seconds"].as_i64().map(|seconds| format!(", next attempt in {}", span(seconds)));
    Some(format!("{}: {}{}", ago(&one["last_failure_at"], now), clean(error, 150), next.unwrap_or_default()))
}

fn failure(one: &Value, now: i64) -> String {
    let sequences = match (one["first_sequence"].as_i64(), one["last_sequence"].as_i64()) {
        (Some(first), Some(last)) if first < last => format!(", sequences {first}-{last}"),
        _ => String::new(),
    };
    let what = match (one["event"].as_str(), one["event_id"].as_str()) {
        (Some(event), Some(id)) => format!("{event} {id} to endpoint {} ", one["endpoint"]),
        _ if one["endpoint"].is_null() => String::new(),
        _ => format!("endpoint {}{sequences} ", one["endpoint"]),
    };
    format!("  {}  {what}{}: {}", ago(&one["at"], now), text(&one["status"]), clean(&text(&one["error"]), 150))
}

fn recent_lines(recent: &[Value], now: i64) -> Vec<String> {
    let header = [
        ("SENT", Align::Left),
        ("EVENT", Align::Left),
        ("ENDPOINT", Align::Right),
        ("SEQUENCE", Align::Right),
        ("WEBHOOK-ID", Align::Left),
        ("OUTCOME", Align::Left),
    ];
    let row = |one: &Value| {
        let attempts = one["attempts"].as_i64().unwrap_or_default();
        let tries = if attempts > 1 { format!(", attempt {attempts}") } else { String::new() };
        let said = match (one["http_status"].as_i64(), one["error"].as_str()) {
            (_, Some(error)) => format!(": {}", clean(error, 100)),
            (Some(status), None) => format!(", {status} in {} ms", one["duration_ms"]),
            (None, None) => String::new(),
        };
        vec![
            ago(&one["at"], now),
            text(&one["event"]),
            one["endpoint"].to_string(),
            one["sequence"].to_string(),
            text(&one["event_id"]),
            format!("{}{tries}{said}", text(&one["status"])),
        ]
    };
    lines(&header, &recent.iter().map(row).collect::<Vec<_>>())
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> String {
    clean(value.as_str().unwrap_or("-"), 200)
}

fn number(value: &Value) -> String {
    count(value.as_i64().unwrap_or_default())
}

/// Seconds since 1970 of a time in the document.
fn seconds(value: &Value) -> Option<i64> {
    value.as_str()?.parse::<jiff::Timestamp>().ok().map(jiff::Timestamp::as_second)
}

fn ago(value: &Value, now: i64) -> String {
    seconds(value).map_or_else(|| "never".to_owned(), |at| format!("{} ago", span(now - at)))
}
