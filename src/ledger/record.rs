//! Events, routes and failed rows of one group commit → the ledger.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use super::content::{Content, Shared};
use crate::error::Result;
use crate::lsn::Lsn;
use crate::mapping::plan::Plan;
use crate::mirror::array::{TextArray, Texts};
use crate::mirror::prepared::{Owned, Prepared};
use crate::mirror::select::RowFailure;
use crate::route::{Routed, Routes};

const EVENTS: &str = include_str!("../../sql/queries/record_events.sql");
const PARTS: &str = include_str!("../../sql/queries/record_parts.sql");
const SEQUENCES: &str = include_str!("../../sql/queries/record_sequences.sql");
const ROUTES: &str = include_str!("../../sql/queries/record_routes.sql");
const FAILURES: &str = include_str!("../../sql/queries/record_row_failures.sql");
const FAILURES_ONCE: &str = include_str!("../../sql/queries/row_failures_once.sql");

/// One event as the ledger keeps it.
#[derive(Clone, Debug)]
pub(crate) struct Recorded {
    pub(crate) position: i64,
    pub(crate) id: Arc<str>,
    pub(crate) event: Arc<str>,
    pub(crate) commit_micros: i64,
    pub(crate) xid: u64,
    pub(crate) lsn: Lsn,
    /// Mapped ids as text.
    pub(crate) portal: Option<Arc<str>>,
    pub(crate) post: Option<Arc<str>>,
    /// `vote:500`: events of one entity keep their order.
    pub(crate) entity: Arc<str>,
    pub(crate) routes: Vec<Routed>,
    /// `None`: nobody wants it, or it is over `deliver.max_body`.
    pub(crate) body: Option<Content>,
}

/// Inserts the events of a group; `day` is the UTC date of recording, `2026-11-24`.
pub(crate) async fn events(sql: &Prepared<'_>, day: &str, events: &[Recorded]) -> Result<()> {
    if events.is_empty() {
        return Ok(());
    }
    parts(sql, day, events).await?;
    let integers = |pick: &dyn Fn(&Recorded) -> i64| Box::new(events.iter().map(pick).collect::<Vec<i64>>());
    let bodies = |pick: &dyn Fn(&Recorded) -> Option<Bytes>| Box::new(TextArray(events.iter().map(pick).collect()));
    let texts = |pick: fn(&Recorded) -> Option<&Arc<str>>| Box::new(Texts::new(events.iter().map(pick)));
    let lists = |of: fn(&Routed) -> i64| {
        Box::new(Texts::new(events.iter().map(|event| Some(List { routes: &event.routes, of }))))
    };
    sql.post(
        "record events",
        EVENTS,
        vec![
            Box::new(day.to_owned()),
            integers(&|event| event.position),
            texts(|event| Some(&event.id)),
            texts(|event| Some(&event.event)),
            integers(&|event| event.commit_micros),
            integers(&|event| i64::try_from(event.xid).unwrap_or(i64::MAX)),
            Box::new(Texts::new(events.iter().map(|event| Some(event.lsn)))),
            texts(|event| event.portal.as_ref()),
            texts(|event| event.post.as_ref()),
            texts(|event| Some(&event.entity)),
            lists(|route| route.0),
            lists(|route| route.1),
            bodies(&|event| event.body.as_ref().map(|body| body.head().clone())),
            Box::new(
                events.iter().map(|event| shared(event).map(|shared| shared.number)).collect::<Vec<Option<i64>>>(),
            ),
            bodies(&|event| shared(event).map(|shared| shared.tail.clone())),
        ],
    )
    .await
}

/// Numbers of an event's routes, as an array's literal.
struct List<'r> {
    routes: &'r [Routed],
    of: fn(&Routed) -> i64,
}

impl fmt::Display for List<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("{")?;
        for (index, route) in self.routes.iter().enumerate() {
            let comma = if index > 0 { "," } else { "" };
            write!(f, "{comma}{}", (self.of)(route))?;
        }
        f.write_str("}")
    }
}

/// The parts that these events are the first to refer to.
async fn parts(sql: &Prepared<'_>, day: &str, events: &[Recorded]) -> Result<()> {
    let first = |event| shared(event).filter(|shared| shared.number == event.position);
    let (numbers, parts): (Vec<i64>, Vec<Option<Bytes>>) =
        events.iter().filter_map(first).map(|shared| (shared.number, Some(shared.part.clone()))).unzip();
    if numbers.is_empty() {
        return Ok(());
    }
    sql.post("record parts", PARTS, vec![Box::new(day.to_owned()), Box::new(numbers), Box::new(TextArray(parts))]).await
}

fn shared(event: &Recorded) -> Option<&Shared> {
    event.body.as_ref()?.shared()
}

/// Writes the last sequence number that each endpoint got.
pub(crate) async fn sequences(sql: &Prepared<'_>, last: &BTreeMap<i64, i64>) -> Result<()> {
    if last.is_empty() {
        return Ok(());
    }
    let (endpoints, sequences): (Vec<i64>, Vec<i64>) = last.iter().unzip();
    sql.post("record sequences", SEQUENCES, vec![Box::new(endpoints), Box::new(sequences)]).await
}

/// Writes the endpoints as of the stream with their sequence numbers, and the cursors of new ones: called when an endpoint
/// was added, changed or removed.
pub(crate) async fn routes(sql: &Prepared<'_>, routes: &Routes, position: i64) -> Result<()> {
    let endpoints: Vec<i64> = routes.iter().map(|(endpoint, _)| endpoint).collect();
    let sequences: Vec<i64> = routes.iter().map(|(_, route)| route.sequence).collect();
    let events: Vec<String> = routes
        .iter()
        .map(|(_, route)| serde_json::to_string(&route.events).unwrap_or_else(|_| "[]".to_owned()))
        .collect();
    let portals: Vec<Option<String>> = routes.iter().map(|(_, route)| route.portal.clone()).collect();
    let parameters: Vec<Owned> =
        vec![Box::new(endpoints), Box::new(events), Box::new(portals), Box::new(sequences), Box::new(position)];
    sql.post("record routes", ROUTES, parameters).await
}

/// Rows that the mapping could not evaluate, each once: one may raise as before its transaction and as after it.
pub(crate) async fn failures(sql: &Prepared<'_>, plan: &Plan, failures: &[(Lsn, RowFailure)]) -> Result<()> {
    let mut seen = HashSet::with_capacity(failures.len());
    let failures: Vec<&(Lsn, RowFailure)> = failures.iter().filter(|failure| seen.insert(*failure)).collect();
    if failures.is_empty() {
        return Ok(());
    }
    say(&failures);
    let table = |failure: &RowFailure| {
        let table = plan.entity(failure.entity).and_then(|entity| plan.tables.get(entity.base?));
        table.map(|table| format!("{}.{}", table.schema, table.name)).unwrap_or_default()
    };
    let texts = |pick: &dyn Fn(&(Lsn, RowFailure)) -> String| -> Owned {
        Box::new(failures.iter().map(|failure| Bytes::from(pick(failure))).collect::<TextArray>())
    };
    let parameters = vec![
        texts(&|(lsn, _)| lsn.to_string()),
        texts(&|(_, failure)| failure.entity.name().to_owned()),
        texts(&|(_, failure)| table(failure)),
        texts(&|(_, failure)| failure.key.clone()),
        texts(&|(_, failure)| failure.sqlstate.clone()),
        texts(&|(_, failure)| failure.message.clone()),
    ];
    sql.post("record rows that cannot be evaluated", FAILURES, parameters).await
}

/// The same over all pages of the transaction that is open.
pub(crate) async fn failures_once(sql: &Prepared<'_>) -> Result<()> {
    sql.post_plain("record rows that cannot be evaluated", FAILURES_ONCE).await
}

/// One line for all of them. The server's messages quote values of the rows: they stand in the ledger, not in the log.
fn say(failures: &[&(Lsn, RowFailure)]) {
    let [(_, first), rest @ ..] = failures else { return };
    let others = if rest.is_empty() { String::new() } else { format!(", and {} others", rest.len()) };
    tracing::warn!(
        "the mapping cannot evaluate a row of {} (key {}, SQLSTATE {}){others}: it counts as not live; \
         SELECT * FROM portalhook.failures says why",
        first.entity.name(),
        first.key,
        first.sqlstate
    );
}
