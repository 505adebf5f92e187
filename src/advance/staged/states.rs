//! The written rows of a large transaction, evaluated before and after it; read back by mapped id.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;

use super::packed;
use super::writes::{BYTES, ROWS, Which, Writes, net, signed, unsigned};
use crate::advance::states::{Row, Rows, evaluate_side};
use crate::error::{Error, Result};
use crate::event::diff::Located;
use crate::failpoint;
use crate::mapping::plan::Entity;
use crate::mirror::array::TextArray;
use crate::mirror::net::{Net, Write};
use crate::mirror::prepared::{Owned, Prepared};
use crate::mirror::room::{Fits, Room};
use crate::mirror::select::{RowFailure, Select};

const PUT: &str = "INSERT INTO pg_temp.staged_states (entity, h, before, live, place, id, bytes, entry)
    SELECT $1, hashtextextended(id, 0), $2, live, place, id, bytes, entry
    FROM unnest($3::bool[], $4::int8[], $5::text[], $6::int8[], $7::text[]) AS u (live, place, id, bytes, entry)";

const INDEX: &str = "CREATE INDEX ON pg_temp.staged_states (entity, h)";

/// A part of an entity's live rows: whole ids, but for those of the last hash.
const LIVE: &str = "SELECT h, before, place, bytes, entry FROM (
        SELECT *, sum(bytes) OVER (ORDER BY h ROWS UNBOUNDED PRECEDING) - bytes AS earlier
        FROM (SELECT * FROM pg_temp.staged_states WHERE entity = $1 AND h >= $2 AND live ORDER BY h LIMIT $3) AS page
    ) AS summed WHERE earlier < $4::int8 ORDER BY h";

const LIVE_OF_ONE: &str =
    "SELECT h, before, place, bytes, entry FROM pg_temp.staged_states WHERE entity = $1 AND h = $2 AND live";

const BY_ID: &str = "SELECT before, live, entry FROM pg_temp.staged_states
    WHERE entity = $1 AND id = ANY ($2::text[])
      AND h = ANY (ARRAY(SELECT hashtextextended(id, 0) FROM unnest($2::text[]) AS u (id)))";

/// Evaluates a side of all written rows, page by page, and of a page as many as fit.
pub(super) async fn evaluate(
    writes: &Writes<'_, '_>,
    selects: &[Select],
    is_before: bool,
    fits: &mut Fits,
    failures: &mut Vec<RowFailure>,
    page: i64,
) -> Result<()> {
    let which = if is_before { Which::Before } else { Which::After };
    let sql = writes.sql;
    let bases: HashSet<usize> = selects.iter().filter_map(Select::base).collect();
    let read = writes.read(page, which).await?;
    let mut rows: Vec<Write> =
        read.into_iter().map(|(write, _)| write).filter(|write| bases.contains(&write.table)).collect();
    while !rows.is_empty() {
        let rest = rows.split_off(fits.of(rows.len()));
        let nets = [net(rows)];
        let mut failed = Vec::new();
        let sides = evaluate_side(sql, selects, &nets, |_| true, &Room::page(nets[0].writes.len()), &mut failed).await;
        let [Net { writes: evaluated, .. }] = nets;
        rows = rest;
        match fits.tried(evaluated.len(), sides)? {
            Some(sides) => {
                failures.extend(failed);
                put_sides(sql, selects, is_before, &evaluated, sides).await?;
            }
            None => rows.splice(0..0, evaluated).for_each(drop),
        }
    }
    Ok(())
}

async fn put_sides(
    sql: &Prepared<'_>,
    selects: &[Select],
    is_before: bool,
    writes: &[Write],
    sides: Vec<Rows>,
) -> Result<()> {
    for (select, side) in selects.iter().zip(sides) {
        let own = writes.iter().filter(|write| Some(write.table) == select.base());
        let places: HashMap<&[Bytes], usize> = own.map(|write| (&*write.key, write.place)).collect();
        let rows: Vec<(Row, usize)> = side
            .into_rows()
            .map(|row| {
                let place = places.get(&*row.entry.key).copied().unwrap_or_default();
                (row, place)
            })
            .collect();
        put(sql, select.entity(), is_before, &rows).await?;
    }
    Ok(())
}

async fn put(sql: &Prepared<'_>, entity: Entity, is_before: bool, rows: &[(Row, usize)]) -> Result<()> {
    if rows.is_empty() {
        return Ok(());
    }
    let entries: Vec<Bytes> = rows.iter().map(|(row, _)| packed::entry(&row.entry)).collect();
    let parameters: Vec<Owned> = vec![
        Box::new(entity as i32),
        Box::new(is_before),
        Box::new(rows.iter().map(|(row, _)| row.live).collect::<Vec<bool>>()),
        Box::new(rows.iter().map(|(_, place)| signed(*place)).collect::<Vec<i64>>()),
        Box::new(rows.iter().map(|(row, _)| &*row.entry.id).collect::<TextArray>()),
        Box::new(entries.iter().map(|entry| signed(entry.len())).collect::<Vec<i64>>()),
        Box::new(entries.into_iter().collect::<TextArray>()),
    ];
    sql.settle().await?;
    sql.post("stage states", PUT, parameters).await
}

/// Both sides are there: prepares for reading.
pub(super) async fn finish(sql: &Prepared<'_>) -> Result<()> {
    sql.run("index states", INDEX).await
}

/// The live rows of an entity, some ids at a time: of each id all rows.
pub(super) struct Ids<'s, 'a> {
    sql: &'s Prepared<'a>,
    entity: Entity,
    /// The first hash that was not read; `None` at the end.
    from: Option<i64>,
}

/// Live rows before and after.
#[derive(Default)]
pub(super) struct Sides {
    pub(super) before: Vec<Located>,
    pub(super) after: Vec<Located>,
}

impl<'s, 'a> Ids<'s, 'a> {
    pub(super) fn new(sql: &'s Prepared<'a>, entity: Entity) -> Self {
        Self { sql, entity, from: Some(i64::MIN) }
    }

    /// The next rows; `None` at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Sides>> {
        let Some(from) = self.from else { return Ok(None) };
        let entity = self.entity as i32;
        let limit = failpoint::limit("page", ROWS);
        let mut rows = self.sql.query("read states", LIVE, &[&entity, &from, &signed(limit), &signed(BYTES)]).await?;
        let Some(last) = rows.last().map(|row| row.get::<_, i64>(0)) else { return Ok(None) };
        let bytes: i64 = rows.iter().map(|row| row.get::<_, i64>(3)).sum();
        if rows.len() >= limit || bytes >= signed(BYTES) {
            // Of the last id there may be more.
            let first = rows.iter().position(|row| row.get::<_, i64>(0) == last).unwrap_or_default();
            rows.truncate(first);
            if rows.is_empty() {
                rows = self.sql.query("read states", LIVE_OF_ONE, &[&entity, &last]).await?;
            }
        }
        self.from = rows.last().map_or(last, |row| row.get(0)).checked_add(1);
        let mut sides = Sides::default();
        for row in &rows {
            let located = Located { entry: Arc::new(packed::read_entry(row.get(4))?), place: unsigned(row.get(2))? };
            if row.get(1) { sides.before.push(located) } else { sides.after.push(located) }
        }
        Ok(Some(sides))
    }
}

/// The written rows with these ids, with whether they are as before.
pub(super) async fn by_id(
    sql: &Prepared<'_>,
    entity: Entity,
    ids: &HashSet<Box<str>>,
    room: &Room,
) -> Result<Vec<(Row, bool)>> {
    let ids: TextArray = ids.iter().map(AsRef::as_ref).collect();
    let rows = sql.query_within("read states by id", BY_ID, &[&(entity as i32), &ids], room).await?;
    rows.iter()
        .map(|row| Ok((Row { entry: Arc::new(packed::read_entry(row.get(2))?), live: row.get(1) }, row.get(0))))
        .collect()
}

/// The entity with this number.
pub(super) fn entity(number: i32) -> Result<Entity> {
    Entity::ALL
        .into_iter()
        .find(|entity| *entity as i32 == number)
        .ok_or_else(|| Error::failed("a staged row is of no entity"))
}
