//! What is due in the ledger: events past an endpoint's cursor, deliveries that wait for an attempt, bodies.
//!
//! Retries, overflow, redelivery, replay and crash recovery all come from here.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio_postgres::{Client, Row, Statement};

use crate::session::Session;

use super::content::{Content, Shared};
use super::feed::Committed;
use crate::error::{Context as _, Result};

/// Where an endpoint stands: everything routed to it up to here has an outcome or a row in `deliveries`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cursor {
    pub(crate) position: i64,
    pub(crate) sequence: i64,
}

/// Where an endpoint stands, and how it has fared.
#[derive(Debug)]
pub(crate) struct Standing {
    pub(crate) cursor: Cursor,
    /// Positions past the cursor that have an outcome or a row in `deliveries`.
    pub(crate) settled: HashSet<i64>,
    /// Deliveries given up since the last success.
    pub(crate) exhausted: u32,
    /// Time since the first failed attempt after the last success.
    pub(crate) failing_for: Option<Duration>,
}

/// A part of an endpoint's events past a position.
#[derive(Debug)]
pub(crate) struct Backlog {
    pub(crate) events: Vec<Committed>,
    /// No event up to the position that was asked for is missing.
    pub(crate) complete: bool,
}

/// How much to read at once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    /// Exclusive.
    pub(crate) after: i64,
    /// Inclusive.
    pub(crate) through: i64,
    pub(crate) events: usize,
    /// Of bodies; the last one may exceed it.
    pub(crate) bytes: usize,
}

/// A delivery that waits for an attempt.
#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) endpoint: i64,
    /// Without its body and routes.
    pub(crate) event: Committed,
    pub(crate) sequence: i64,
    /// Attempts made so far.
    pub(crate) attempts: u32,
    /// Zero: due now.
    pub(crate) due_in: Duration,
}

/// Pending rows that the caller knows, as pairs of endpoint and position.
pub(crate) type Known = (Vec<i64>, Vec<i64>);

const STANDING: &str = "
    SELECT c.position, c.sequence,
           ARRAY(SELECT p FROM portalhook.successes s, unnest(s.positions) p
                 WHERE s.endpoint = c.endpoint AND s.last_position > c.position AND p > c.position
                 UNION ALL
                 SELECT d.position FROM portalhook.deliveries d
                 WHERE d.endpoint = c.endpoint AND d.position > c.position) AS settled,
           f.exhausted, (extract(epoch FROM now() - f.failing_since) * 1000)::bigint AS failing_ms
    FROM portalhook.cursors c,
         LATERAL (SELECT max(at) AS at FROM (
             SELECT max(a) AS at FROM (SELECT attempted_at FROM portalhook.successes s WHERE s.endpoint = c.endpoint
                                       ORDER BY recorded_on DESC, last_position DESC LIMIT 1) s, unnest(s.attempted_at) a
             UNION ALL
             SELECT max(last_attempt_at) FROM portalhook.deliveries d
             WHERE d.endpoint = c.endpoint AND d.status = 'delivered'
             UNION ALL
             SELECT disabled_at FROM portalhook.endpoints e WHERE e.id = c.endpoint) x) success,
         LATERAL (SELECT count(*) FILTER (WHERE status = 'failed' AND error_class NOT LIKE 'body%') AS exhausted,
                         min(first_attempt_at) AS failing_since
                  FROM portalhook.deliveries d
                  WHERE d.endpoint = c.endpoint AND d.status IN ('pending', 'failed')
                    AND d.first_attempt_at > coalesce(success.at, '-infinity')) f
    WHERE c.endpoint = $1";

/// A backlog is read by the million: the rows pass one window alone.
const BACKLOG: &str = "
    SELECT position, to_char(recorded_on, 'YYYY-MM-DD') AS recorded_on, id, event, entity, post, portal,
           sequences[array_position(endpoints, $1)] AS sequence, body, part, tail, bytes::bigint AS bytes
    FROM (
        SELECT e.*, sum(e.bytes) OVER (ORDER BY e.position ROWS UNBOUNDED PRECEDING) - e.bytes AS before
        FROM (SELECT *, coalesce(octet_length(body), 0) + CASE WHEN part IS NOT NULL THEN octet_length(tail) + coalesce(
                     (SELECT octet_length(p.part) FROM portalhook.parts p WHERE p.number = events.part AND p.recorded_on = events.recorded_on), 0)
                     ELSE 0 END AS bytes
              FROM portalhook.events
              WHERE position > $2 AND position <= $3 AND endpoints @> ARRAY[$1::bigint]
              ORDER BY position LIMIT $4) e) e
    WHERE before < $5 ORDER BY position";

const PENDING: &str = "
    SELECT e.endpoint, d.*, greatest(0, extract(epoch FROM d.due_at - now()) * 1000)::bigint AS due_ms
    FROM unnest($1::bigint[]) AS e(endpoint), LATERAL (
        SELECT d.position, to_char(d.recorded_on, 'YYYY-MM-DD') AS recorded_on, d.sequence, d.event_id AS id, d.attempts,
               d.due_at, ev.event, ev.entity, ev.post, ev.portal
        FROM portalhook.deliveries d LEFT JOIN portalhook.events ev USING (position, recorded_on)
        WHERE d.endpoint = e.endpoint AND d.status = 'pending' AND (d.due_at <= now() OR $2)
          AND NOT EXISTS (SELECT FROM unnest($3::bigint[], $4::bigint[]) AS k(endpoint, position)
                          WHERE k.endpoint = d.endpoint AND k.position = d.position)
        ORDER BY d.due_at, d.position LIMIT $5) d
    ORDER BY d.position";

/// Reads the ledger through one session; the statements are prepared once.
pub(crate) struct Ledger {
    client: Session,
    standing: Statement,
    backlog: Statement,
    pending: Statement,
}

impl Ledger {
    pub(crate) async fn new(client: Session) -> Result<Self> {
        let prepare = |sql| client.prepare(sql);
        let standing = prepare(STANDING).await.context("prepare to read cursors")?;
        let backlog = prepare(BACKLOG).await.context("prepare to read events")?;
        let pending = prepare(PENDING).await.context("prepare to read deliveries")?;
        Ok(Self { client, standing, backlog, pending })
    }

    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// Where the endpoint stands; an endpoint that is new gets a cursor before the first event.
    pub(crate) async fn standing(&self, endpoint: i64) -> Result<Standing> {
        let create =
            "INSERT INTO portalhook.cursors (endpoint, position, sequence) VALUES ($1, 0, 0) ON CONFLICT DO NOTHING";
        self.client.execute(create, &[&endpoint]).await.context("create a cursor")?;
        let row = self.client.query_one(&self.standing, &[&endpoint]).await.context("read a cursor")?;
        let read = || {
            let settled: Vec<i64> = row.try_get("settled")?;
            let exhausted: i64 = row.try_get("exhausted")?;
            let failing_ms: Option<i64> = row.try_get("failing_ms")?;
            Ok::<Standing, tokio_postgres::Error>(Standing {
                cursor: Cursor { position: row.try_get("position")?, sequence: row.try_get("sequence")? },
                settled: settled.into_iter().collect(),
                exhausted: u32::try_from(exhausted).unwrap_or(u32::MAX),
                failing_for: failing_ms.map(milliseconds),
            })
        };
        read().context("read a cursor")
    }

    /// How far these endpoints' cursors are, as pairs of endpoint and position.
    pub(crate) async fn cursors(&self, endpoints: &[i64]) -> Result<Vec<(i64, i64)>> {
        let sql = "SELECT endpoint, position FROM portalhook.cursors WHERE endpoint = ANY ($1)";
        let rows = self.client.query(sql, &[&endpoints]).await.context("read cursors")?;
        let read = |row: &Row| Ok::<_, tokio_postgres::Error>((row.try_get(0)?, row.try_get(1)?));
        rows.iter().map(read).collect::<Result<_, _>>().context("read cursors")
    }

    /// The endpoint's events in a window of positions, in order, each with the endpoint's own route alone.
    pub(crate) async fn backlog(&self, endpoint: i64, window: Window) -> Result<Backlog> {
        let limit = i64::try_from(window.events).unwrap_or(i64::MAX);
        let bytes = i64::try_from(window.bytes).unwrap_or(i64::MAX);
        let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 5] =
            [&endpoint, &window.after, &window.through, &limit, &bytes];
        let rows = self.client.query(&self.backlog, &parameters).await.context("read events")?;
        let parts = self.parts(&rows).await?;
        let read = || {
            let mut read_bytes = 0;
            let mut events = Vec::with_capacity(rows.len());
            for row in &rows {
                read_bytes += row.try_get::<_, i64>("bytes")?;
                let mut event = event(row)?;
                event.routes.push((endpoint, row.try_get("sequence")?));
                event.body = content(row, &parts)?;
                events.push(event);
            }
            // Whatever is left out is so for one of both limits.
            let complete = events.len() < window.events && read_bytes < bytes;
            Ok::<Backlog, tokio_postgres::Error>(Backlog { events, complete })
        };
        read().context("read events")
    }

    /// Deliveries of these endpoints that wait for an attempt, apart from the `known` ones: those that are due, or all.
    /// At most `limit` of each endpoint.
    pub(crate) async fn pending(
        &self,
        endpoints: &[i64],
        all: bool,
        known: Known,
        limit: usize,
    ) -> Result<Vec<Pending>> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 5] =
            [&endpoints, &all, &known.0, &known.1, &limit];
        let rows = self.client.query(&self.pending, &parameters).await.context("read deliveries that are due")?;
        let read = |row: &Row| {
            let attempts: i32 = row.try_get("attempts")?;
            Ok::<Pending, tokio_postgres::Error>(Pending {
                endpoint: row.try_get("endpoint")?,
                event: event(row)?,
                sequence: row.try_get("sequence")?,
                attempts: u32::try_from(attempts).unwrap_or(0),
                due_in: milliseconds(row.try_get("due_ms")?),
            })
        };
        rows.iter().map(read).collect::<Result<_, _>>().context("read deliveries that are due")
    }

    /// The bodies of events; nothing for an event that has none, or is gone.
    pub(crate) async fn bodies(
        &self,
        positions: &[i64],
        recorded_on: &[Arc<str>],
    ) -> Result<Vec<(i64, Option<Content>)>> {
        let days: Vec<&str> = recorded_on.iter().map(AsRef::as_ref).collect();
        let sql = "SELECT position, to_char(recorded_on, 'YYYY-MM-DD') AS recorded_on, body, part, tail FROM portalhook.events
                   JOIN unnest($1::bigint[], $2::text[]) AS w(position, day) USING (position) WHERE recorded_on = w.day::date";
        let rows = self.client.query(sql, &[&positions, &days]).await.context("read bodies")?;
        let parts = self.parts(&rows).await?;
        let mut found = HashMap::new();
        for row in &rows {
            let position: i64 = row.try_get("position").context("read bodies")?;
            found.insert(position, content(row, &parts).context("read bodies")?);
        }
        Ok(positions.iter().map(|position| (*position, found.remove(position).flatten())).collect())
    }

    /// The parts that bodies of these events refer to.
    async fn parts(&self, rows: &[Row]) -> Result<HashMap<i64, Bytes>> {
        let doing = "read parts of bodies";
        let mut wanted: HashMap<i64, &str> = HashMap::new();
        for row in rows {
            if let Some(number) = row.try_get("part").context(doing)? {
                wanted.insert(number, row.try_get("recorded_on").context(doing)?);
            }
        }
        if wanted.is_empty() {
            return Ok(HashMap::new());
        }
        let (numbers, days): (Vec<i64>, Vec<&str>) = wanted.into_iter().unzip();
        let sql = "SELECT number, part FROM portalhook.parts
                   JOIN unnest($1::bigint[], $2::text[]) AS w(number, day) USING (number) WHERE recorded_on = w.day::date";
        let rows = self.client.query(sql, &[&numbers, &days]).await.context(doing)?;
        let read =
            |row: &Row| Ok::<_, tokio_postgres::Error>((row.try_get(0)?, Bytes::from(row.try_get::<_, String>(1)?)));
        rows.iter().map(read).collect::<Result<_, _>>().context(doing)
    }
}

/// The body of an event; nothing where it, or the part that it refers to, is gone.
fn content(row: &Row, parts: &HashMap<i64, Bytes>) -> Result<Option<Content>, tokio_postgres::Error> {
    let bytes = |name: &str| row.try_get::<_, Option<String>>(name).map(|text| text.map(Bytes::from));
    let Some(head) = bytes("body")? else { return Ok(None) };
    let Some(number) = row.try_get("part")? else { return Ok(Some(head.into())) };
    let Some(part) = parts.get(&number).cloned() else { return Ok(None) };
    Ok(Some(Content::around(head, Shared { number, part, tail: bytes("tail")?.unwrap_or_default() })))
}

fn event(row: &Row) -> Result<Committed, tokio_postgres::Error> {
    let text = |name: &str| row.try_get::<_, Option<&str>>(name).map(|text| text.map(Arc::<str>::from));
    Ok(Committed {
        position: row.try_get("position")?,
        recorded_on: text("recorded_on")?.unwrap_or_default(),
        id: text("id")?.unwrap_or_default(),
        // Null where the event is gone: then its body is missing, and that is what the delivery fails for.
        event: text("event")?.unwrap_or_default(),
        entity: text("entity")?.unwrap_or_default(),
        post: text("post")?,
        portal: text("portal")?,
        routes: Vec::new(),
        body: None,
    })
}

fn milliseconds(ms: i64) -> Duration {
    Duration::from_millis(u64::try_from(ms).unwrap_or(0))
}
