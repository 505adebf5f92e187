//! What a large transaction comes to: its events in their order, and what users gained and lost.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;

use super::packed;
use super::states::entity;
use super::tables::Cursor;
use super::writes::{BYTES, ROWS, signed, unsigned};
use crate::error::{Error, Result};
use crate::event::body::Counters;
use crate::event::diff::{Event, What};
use crate::failpoint;
use crate::mapping::plan::Entity;
use crate::mirror::array::TextArray;
use crate::mirror::prepared::{Owned, Prepared};

const PUT: &str = "INSERT INTO pg_temp.staged_events (place, what, entity, id, bytes, entry, before, changed)
    SELECT * FROM unnest($1::int8[], $2::int4[], $3::int4[], $4::text[], $5::int8[], $6::text[], $7::text[], $8::text[])";

const SIZE: &str = "SELECT count(*), coalesce(max(bytes), 0) FROM pg_temp.staged_events";

/// The order of `diff::sort`.
const IN_ORDER: &str = "SELECT place, what, entity, entry, before, changed FROM pg_temp.staged_events
    ORDER BY place, what, entity, id COLLATE \"C\"";

const COUNT: &str = "INSERT INTO pg_temp.staged_counts (user_id, posts, votes, comments, comment_votes)
    SELECT * FROM unnest($1::text[], $2::int8[], $3::int8[], $4::int8[], $5::int8[])";

/// Sorted, so that two writers could never lock rows crosswise.
const SUM: &str = "
    CREATE TEMPORARY TABLE staged_sums ON COMMIT DROP AS
        SELECT user_id, sum(posts)::bigint AS posts, sum(votes)::bigint AS votes, sum(comments)::bigint AS comments,
               sum(comment_votes)::bigint AS comment_votes
        FROM pg_temp.staged_counts GROUP BY user_id;
    CREATE INDEX ON pg_temp.staged_sums (user_id);
    INSERT INTO portalhook_mirror.counters AS c (user_id, posts, votes, comments, comment_votes)
        SELECT * FROM pg_temp.staged_sums ORDER BY user_id
        ON CONFLICT (user_id) DO UPDATE SET posts = c.posts + excluded.posts, votes = c.votes + excluded.votes,
            comments = c.comments + excluded.comments, comment_votes = c.comment_votes + excluded.comment_votes";

const SUMS: &str = "SELECT user_id, posts, votes, comments, comment_votes FROM pg_temp.staged_sums
    WHERE user_id = ANY ($1::text[])";

/// Keeps events, in any order.
pub(super) async fn put(sql: &Prepared<'_>, events: &[Event]) -> Result<()> {
    if events.is_empty() {
        return Ok(());
    }
    let entries: Vec<Bytes> = events.iter().map(|event| packed::entry(&event.entry)).collect();
    let before: Vec<Option<Bytes>> =
        events.iter().map(|event| event.changed.as_ref().map(|(before, _)| packed::entry(before))).collect();
    let bytes = entries.iter().zip(&before).map(|(entry, before)| entry.len() + before.as_ref().map_or(0, Bytes::len));
    let changed = |event: &Event| {
        let columns = event.changed.as_ref().map(|(_, columns)| columns.as_slice()).unwrap_or_default();
        Bytes::from(columns.iter().map(usize::to_string).collect::<Vec<_>>().join(","))
    };
    let parameters: Vec<Owned> = vec![
        Box::new(events.iter().map(|event| signed(event.place)).collect::<Vec<i64>>()),
        Box::new(events.iter().map(|event| event.what as i32).collect::<Vec<i32>>()),
        Box::new(events.iter().map(|event| event.entity as i32).collect::<Vec<i32>>()),
        Box::new(events.iter().map(|event| &*event.entry.id).collect::<TextArray>()),
        Box::new(bytes.map(signed).collect::<Vec<i64>>()),
        Box::new(entries.into_iter().collect::<TextArray>()),
        Box::new(TextArray(before)),
        Box::new(events.iter().map(changed).collect::<TextArray>()),
    ];
    sql.settle().await?;
    sql.post("stage events", PUT, parameters).await
}

/// The events in their order, some at a time.
pub(super) struct InOrder<'s, 'a> {
    cursor: Cursor<'s, 'a>,
    /// How many there are in all.
    pub(super) count: i64,
}

impl<'s, 'a> InOrder<'s, 'a> {
    pub(super) async fn new(sql: &'s Prepared<'a>) -> Result<Self> {
        let rows = sql.query("count events", SIZE, &[]).await?;
        let (count, largest) = rows.first().map_or((0, 0), |row| (row.get::<_, i64>(0), row.get::<_, i64>(1)));
        let fit = BYTES / unsigned(largest.max(1))?;
        let rows = fit.clamp(1, failpoint::limit("page", ROWS));
        Ok(Self { cursor: Cursor::open(sql, "events".to_owned(), IN_ORDER, rows).await?, count })
    }

    /// The next events; none at the end.
    pub(super) async fn next(&self) -> Result<Vec<Event>> {
        self.cursor.next().await?.iter().map(read).collect()
    }
}

fn read(row: &tokio_postgres::Row) -> Result<Event> {
    let broken = || Error::failed("a staged event cannot be read back");
    let before = row.get::<_, Option<&str>>(4).map(packed::read_entry).transpose()?;
    let columns: &str = row.get(5);
    let columns = columns.split(',').filter(|column| !column.is_empty());
    let columns: Vec<usize> = columns.map(|column| column.parse().map_err(|_| broken())).collect::<Result<_>>()?;
    let number: i32 = row.get(1);
    let what = [What::Deleted, What::Created, What::StatusChanged, What::Updated];
    Ok(Event {
        place: unsigned(row.get(0))?,
        what: what.into_iter().find(|what| *what as i32 == number).ok_or_else(broken)?,
        entity: entity(row.get(2))?,
        entry: Arc::new(packed::read_entry(row.get(3))?),
        changed: before.map(|before| (Arc::new(before), columns)),
    })
}

/// Keeps what users gained and lost.
pub(super) async fn count(sql: &Prepared<'_>, entity: Entity, counts: &[(Box<str>, i64)]) -> Result<()> {
    if counts.is_empty() {
        return Ok(());
    }
    let mut sums: HashMap<&str, Counters> = HashMap::new();
    for (user, by) in counts {
        sums.entry(user).or_default().add(entity, *by);
    }
    let (users, sums): (Vec<&str>, Vec<Counters>) = sums.into_iter().unzip();
    let column = |pick: fn(&Counters) -> i64| Box::new(sums.iter().map(pick).collect::<Vec<i64>>());
    let parameters: Vec<Owned> = vec![
        Box::new(users.into_iter().collect::<TextArray>()),
        column(|counters| counters.posts),
        column(|counters| counters.votes),
        column(|counters| counters.comments),
        column(|counters| counters.comment_votes),
    ];
    sql.settle().await?;
    sql.post("stage counts", COUNT, parameters).await
}

/// Adds what is kept to the users' counters.
pub(super) async fn add_up(sql: &Prepared<'_>) -> Result<()> {
    sql.settle().await?;
    sql.run("write counters", SUM).await
}

/// What these users gained and lost; those that did neither are left out.
pub(super) async fn sums(sql: &Prepared<'_>, users: impl Iterator<Item = &str>) -> Result<Vec<(Box<str>, Counters)>> {
    let ids: TextArray = users.collect();
    let rows = sql.query("read what users gained", SUMS, &[&ids]).await?;
    let read = |row: &tokio_postgres::Row| {
        let counters =
            Counters { posts: row.get(1), votes: row.get(2), comments: row.get(3), comment_votes: row.get(4) };
        (Box::from(row.get::<_, &str>(0)), counters)
    };
    Ok(rows.iter().map(read).collect())
}
