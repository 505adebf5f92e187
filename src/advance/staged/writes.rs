//! What a large transaction does to rows: its parts, netted one after another into one write for each key. The rules are
//! those of `mirror::net`.

use std::collections::{BTreeSet, HashMap, HashSet};

use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::packed;
use super::tables::Cursor;
use crate::change::{Row, TupleData};
use crate::error::{Error, Result};
use crate::failpoint;
use crate::lsn::Lsn;
use crate::mapping::plan::Plan;
use crate::mirror::apply::MirrorSql;
use crate::mirror::array::TextArray;
use crate::mirror::filter;
use crate::mirror::net::{Key, Mirrored, Net, Part, Write, fill_unsent};
use crate::mirror::prepared::{Owned, Prepared};
use crate::mirror::room::Room;

/// Rows that are worked on together, and about how many bytes they have.
pub(super) const ROWS: usize = 500;
pub(super) const BYTES: usize = 1 << 20;

/// Keys up to so long name their row themselves: near ones lie together. An index takes no long ones.
const SHORT: usize = 200;

/// Rows whose values are taken from other keys at a time: such a row may be large.
const MOVED: usize = 16;

const FIND: &str = "SELECT at, existed, origin, octet_length(image)::bigint FROM pg_temp.staged_writes
    WHERE at = ANY ($1::text[])";

const IMAGES: &str = "SELECT at, image FROM pg_temp.staged_writes WHERE at = ANY ($1::text[]) AND image IS NOT NULL";

const PUT: &str = "INSERT INTO pg_temp.staged_writes AS s (at, page, tab, key, existed, alters, place, origin, image)
    SELECT * FROM unnest($1::text[], $2::int8[], $3::int4[], $4::text[], $5::bool[], $6::bool[], $7::int8[], $8::text[], $9::text[])
    ON CONFLICT (at) DO UPDATE SET page = excluded.page, alters = excluded.alters, place = excluded.place,
        origin = excluded.origin, image = excluded.image";

const PUT_NEW: &str = "INSERT INTO pg_temp.staged_writes (at, page, tab, key, existed, alters, place)
    SELECT at, page, $3, key, true, true, $4 FROM unnest($1::text[], $2::text[], $5::int8[]) AS u (at, key, page)
    ON CONFLICT (at) DO NOTHING";

const ADD: &str = "INSERT INTO pg_temp.staged_rows AS s (at, page, tab, more, place, image)
    SELECT * FROM unnest($1::text[], $2::int8[], $3::int4[], $4::int8[], $5::int8[], $6::text[])
    ON CONFLICT (at) DO UPDATE SET more = s.more + excluded.more, place = excluded.place";

const EMPTY: &str = "UPDATE pg_temp.staged_writes SET image = NULL, origin = NULL, alters = true, place = $2
    WHERE tab = $1 AND image IS NOT NULL";

const FORGET: &str = "DELETE FROM pg_temp.staged_rows WHERE tab = $1";

const OPERATIONS: &str =
    "INSERT INTO pg_temp.staged_operations (place, number) SELECT * FROM unnest($1::int8[], $2::int8[])";

/// What came and went within the transaction is nothing.
const PRUNE: &str = "DELETE FROM pg_temp.staged_writes WHERE NOT existed AND image IS NULL;
    DELETE FROM pg_temp.staged_rows WHERE more = 0";

const ALTERED: &str = "SELECT tab FROM pg_temp.staged_writes WHERE alters UNION SELECT tab FROM pg_temp.staged_rows";

const SILENT: &str = "DELETE FROM pg_temp.staged_writes WHERE NOT alters AND NOT tab = ANY ($1::int4[])";

const INDEX: &str = "CREATE INDEX ON pg_temp.staged_writes (page); CREATE INDEX ON pg_temp.staged_rows (page)";

const WRITTEN: &str = "SELECT tab FROM pg_temp.staged_writes UNION SELECT tab FROM pg_temp.staged_rows";

const READ: &str = "SELECT tab, key, existed, place, origin, image FROM pg_temp.staged_writes WHERE page = $1 AND ";

const READ_KEYS: &str = "SELECT tab, key, existed, place, origin, NULL FROM pg_temp.staged_writes WHERE page = $1 AND ";

const READ_ROWS: &str = "SELECT tab, more, place, image FROM pg_temp.staged_rows WHERE page = $1 AND ";

/// Which rows of a page are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Which {
    /// There before; without their images.
    Before,
    /// There after, with or without a change; without their images.
    After,
    /// To be taken from the mirror.
    Gone,
    /// To be put into the mirror.
    Put,
    /// With values that are found at another key.
    Moved,
}

impl Which {
    /// In tables with a key, and in those without.
    fn conditions(self) -> (&'static str, Option<&'static str>) {
        match self {
            Self::Before => ("existed", Some("more < 0")),
            Self::After => ("image IS NOT NULL", None),
            Self::Gone => ("image IS NULL", Some("more < 0")),
            Self::Put => ("image IS NOT NULL AND alters", Some("more > 0")),
            Self::Moved => ("origin IS NOT NULL", None),
        }
    }
}

/// What is staged so far.
pub(super) struct Writes<'s, 'a> {
    pub(super) sql: &'s Prepared<'a>,
    /// The page that is being filled, and what is on it.
    page: i64,
    rows: usize,
    bytes: usize,
    /// Changes so far.
    pub(super) changes: usize,
    /// Tables whose mirrors lack rows that are updated.
    pub(super) lacking: BTreeSet<usize>,
    /// Tables that were truncated.
    pub(super) truncated: HashSet<usize>,
    /// Operations so far.
    pub(super) operations: usize,
}

/// A row as it is staged.
struct Known {
    existed: bool,
    origin: Option<Key>,
    /// Bytes of its image.
    length: usize,
    /// Read where an image of the part needs it.
    image: Option<Row>,
}

impl<'s, 'a> Writes<'s, 'a> {
    pub(super) fn new(sql: &'s Prepared<'a>) -> Self {
        Self {
            sql,
            page: 0,
            rows: 0,
            bytes: 0,
            changes: 0,
            lacking: BTreeSet::new(),
            truncated: HashSet::new(),
            operations: 0,
        }
    }

    /// The page for another row.
    fn place_on_page(&mut self, bytes: usize) -> i64 {
        if self.rows >= failpoint::limit("page", ROWS) || self.bytes >= BYTES {
            self.page += 1;
            (self.rows, self.bytes) = (0, 0);
        }
        self.rows += 1;
        self.bytes += bytes;
        self.page
    }

    /// How many pages there are.
    pub(super) fn pages(&self) -> i64 {
        self.page + 1
    }

    /// Adds what the transaction does next.
    pub(super) async fn add(&mut self, mirrors: &[MirrorSql], part: Part) -> Result<()> {
        if !part.operations.is_empty() {
            self.operations += part.operations.len();
            let places: Vec<i64> = part.operations.iter().map(|at| signed(at.place)).collect();
            let numbers: Vec<i64> = part.operations.iter().map(|at| at.number).collect();
            self.sql.execute("stage operations", OPERATIONS, &[&places, &numbers]).await?;
        }
        if !part.rows.is_empty() {
            let tallies = part.rows.iter().map(|(table, row, tally)| (*table, row, tally.more, tally.place));
            self.add_rows(tallies).await?;
        }
        if part.writes.is_empty() {
            return Ok(());
        }
        let mut known = self.find(&part.writes).await?;
        // First what takes values from other keys, all at once: such a key may be written, too.
        let (moved, mut plain): (Vec<Write>, Vec<Write>) =
            part.writes.into_iter().partition(|write| write.moved_from.is_some());
        self.add_writes(mirrors, moved, &mut known).await?;
        while !plain.is_empty() {
            let mut bytes = 0;
            let fits = plain.iter().position(|write| {
                bytes += own(write, &known).filter(|_| write.has_unsent()).map_or(0, |known| known.length);
                bytes > BYTES
            });
            let rest = plain.split_off(fits.map_or(plain.len(), |fits| fits.max(1)));
            self.add_writes(mirrors, std::mem::replace(&mut plain, rest), &mut known).await?;
        }
        Ok(())
    }

    async fn add_writes(
        &mut self,
        mirrors: &[MirrorSql],
        mut writes: Vec<Write>,
        known: &mut HashMap<Bytes, Known>,
    ) -> Result<()> {
        if writes.is_empty() {
            return Ok(());
        }
        let needed: TextArray = writes
            .iter()
            .filter(|write| write.has_unsent())
            .flat_map(|write| {
                [Some(&write.key), write.moved_from.as_ref()].into_iter().flatten().map(|key| (write.table, key))
            })
            .map(|(table, key)| at(table, &packed::key(key)))
            .filter(|at| known.contains_key(at))
            .collect();
        if !needed.0.is_empty() {
            for row in self.sql.query("read staged images", IMAGES, &[&needed]).await? {
                let at: &str = row.get(0);
                if let Some(known) = known.get_mut(at.as_bytes()) {
                    known.image = Some(packed::read_row(row.get(1))?);
                }
            }
        }
        for write in &mut writes {
            follow(write, known);
        }
        for known in known.values_mut() {
            known.image = None;
        }
        // The mirror is as before the transaction until all of it is staged.
        let mut nets = [net(writes)];
        self.lacking.extend(filter::mark(self.sql, mirrors, &mut nets).await?);
        let [Net { writes, .. }] = nets;
        self.put(&writes).await
    }

    /// Adds writes, each with how often it is made, of rows that nothing else of the transaction writes and that all alter.
    pub(super) async fn add_made_up(&mut self, writes: Vec<(Write, u64)>) -> Result<()> {
        let (keyed, whole): (Vec<_>, Vec<_>) = writes.into_iter().partition(|(write, _)| !write.key.is_empty());
        if !keyed.is_empty() {
            self.put(&keyed.into_iter().map(|(write, _)| write).collect::<Vec<_>>()).await?;
        }
        let rows = whole.iter().filter_map(|(write, times)| {
            let by = i64::try_from(*times).unwrap_or(i64::MAX);
            let row = write.image.as_ref().map(|row| (row, by)).or(write.gone.as_ref().map(|row| (row, -by)));
            row.map(|(row, by)| (write.table, row, by, write.place))
        });
        if !whole.is_empty() {
            self.add_rows(rows).await?;
        }
        Ok(())
    }

    /// What is staged of the rows that a part writes, or takes values from.
    async fn find(&self, writes: &[Write]) -> Result<HashMap<Bytes, Known>> {
        let ats: TextArray = writes
            .iter()
            .flat_map(|write| {
                let origin = write.moved_from.as_ref().map(|origin| at(write.table, &packed::key(origin)));
                [at(write.table, &packed::key(&write.key))].into_iter().chain(origin)
            })
            .collect();
        let rows = self.sql.query("find staged rows", FIND, &[&ats]).await?;
        rows.iter()
            .map(|row| {
                let at: &str = row.get(0);
                let known = Known {
                    existed: row.get(1),
                    origin: row.get::<_, Option<&str>>(2).map(packed::read_key).transpose()?,
                    length: row.get::<_, Option<i64>>(3).map_or(Ok(0), unsigned)?,
                    image: None,
                };
                Ok((Bytes::copy_from_slice(at.as_bytes()), known))
            })
            .collect()
    }

    pub(super) async fn put(&mut self, writes: &[Write]) -> Result<()> {
        let keys: Vec<Bytes> = writes.iter().map(|write| packed::key(&write.key)).collect();
        let images: Vec<Option<Bytes>> = writes.iter().map(|write| write.image.as_ref().map(packed::row)).collect();
        let pages: Vec<i64> =
            images.iter().map(|image| self.place_on_page(image.as_ref().map_or(0, Bytes::len))).collect();
        let parameters: Vec<Owned> = vec![
            Box::new(writes.iter().zip(&keys).map(|(write, key)| at(write.table, key)).collect::<TextArray>()),
            Box::new(pages),
            Box::new(writes.iter().map(|write| number(write.table)).collect::<Vec<i32>>()),
            Box::new(keys.into_iter().collect::<TextArray>()),
            Box::new(writes.iter().map(|write| write.existed).collect::<Vec<bool>>()),
            Box::new(writes.iter().map(|write| write.alters).collect::<Vec<bool>>()),
            Box::new(writes.iter().map(|write| signed(write.place)).collect::<Vec<i64>>()),
            Box::new(TextArray(writes.iter().map(|write| write.moved_from.as_ref().map(packed::key)).collect())),
            Box::new(TextArray(images)),
        ];
        self.sql.settle().await?;
        self.sql.post("stage rows", PUT, parameters).await
    }

    pub(super) async fn add_rows<'r>(
        &mut self,
        rows: impl Iterator<Item = (usize, &'r Row, i64, usize)>,
    ) -> Result<()> {
        let (mut ats, mut images) = (TextArray::default(), TextArray::default());
        let (mut pages, mut tables, mut more, mut places) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for (table, row, by, place) in rows {
            let image = packed::row(row);
            ats.push(Some(at(table, &image)));
            pages.push(self.place_on_page(image.len()));
            images.push(Some(image));
            tables.push(number(table));
            more.push(by);
            places.push(signed(place));
        }
        self.sql.execute("stage whole rows", ADD, &[&ats, &pages, &tables, &more, &places, &images]).await?;
        Ok(())
    }

    /// The table is emptied: of what was written nothing is left, and all that the mirror has is gone.
    pub(super) async fn truncate(&mut self, mirrors: &[MirrorSql], table: usize, place: usize) -> Result<()> {
        self.sql.execute("stage a TRUNCATE", EMPTY, &[&number(table), &signed(place)]).await?;
        self.sql.execute("stage a TRUNCATE", FORGET, &[&number(table)]).await?;
        self.truncated.insert(table);
        let mirror = &mirrors[table];
        let query = mirror.all(self.sql).await?;
        let cursor = Cursor::open(self.sql, format!("all of {table}"), query, ROWS).await?;
        loop {
            let records = cursor.next().await?;
            if records.is_empty() {
                break;
            }
            match mirror.read_all(&records)? {
                Mirrored::Keys(keys) => self.remove(table, place, &keys).await?,
                Mirrored::Rows(rows) => {
                    let mut tallies: HashMap<&Row, i64> = HashMap::new();
                    for row in &rows {
                        *tallies.entry(row).or_default() -= 1;
                    }
                    self.add_rows(tallies.into_iter().map(|(row, more)| (table, row, more, place))).await?;
                }
            }
        }
        cursor.close().await
    }

    /// Mirrored rows that the transaction has not touched before are gone.
    async fn remove(&mut self, table: usize, place: usize, keys: &[Key]) -> Result<()> {
        let keys: Vec<Bytes> = keys.iter().map(packed::key).collect();
        let ats: TextArray = keys.iter().map(|key| at(table, key)).collect();
        let pages: Vec<i64> = keys.iter().map(|_| self.place_on_page(0)).collect();
        let keys: TextArray = keys.into_iter().collect();
        self.sql.execute("stage a TRUNCATE", PUT_NEW, &[&ats, &keys, &number(table), &signed(place), &pages]).await?;
        Ok(())
    }

    /// All is staged: leaves what counts (see `mirror::filter`). Returns the tables that are altered, and those that are
    /// written, which is more where a SELECT may see another row that the transaction alters.
    pub(super) async fn finish(&mut self, plan: &Plan) -> Result<(HashSet<usize>, HashSet<usize>)> {
        self.sql.settle().await?;
        self.sql.run("prune staged rows", PRUNE).await?;
        let mut altered = self.tables(ALTERED).await?;
        altered.extend(&self.truncated);
        let may_see: Vec<i32> = plan
            .entities
            .iter()
            .filter(|entity| entity.reads.iter().any(|read| altered.contains(read)))
            .filter_map(|entity| entity.base.map(number))
            .collect();
        self.sql.execute("drop what alters nothing", SILENT, &[&may_see]).await?;
        self.sql.run("index staged rows", INDEX).await?;
        let written = self.tables(WRITTEN).await?;
        Ok((altered, written))
    }

    async fn tables(&self, query: &str) -> Result<HashSet<usize>> {
        let rows = self.sql.query("look at staged rows", query, &[]).await?;
        rows.iter().map(|row| table(row.get(0))).collect()
    }

    /// Rows of a page; equal rows without a key are one write and a number.
    pub(super) async fn read(&self, page: i64, which: Which) -> Result<Vec<(Write, u64)>> {
        let (keyed, whole) = which.conditions();
        let mut writes = Vec::new();
        let read = if matches!(which, Which::Before | Which::After) { READ_KEYS } else { READ };
        for row in self.sql.query("read staged rows", &format!("{read}{keyed}"), &[&page]).await? {
            writes.push((read_write(&row)?, 1));
        }
        let Some(whole) = whole else { return Ok(writes) };
        for row in self.sql.query("read staged rows", &format!("{READ_ROWS}{whole}"), &[&page]).await? {
            let more: i64 = row.get(1);
            let (table, place) = (table(row.get(0))?, unsigned(row.get(2))?);
            let image = packed::read_row(row.get(3))?;
            writes.push((Write::whole(table, image, more > 0, place), more.unsigned_abs()));
        }
        Ok(writes)
    }

    /// Fills in values that are found at other keys of the mirror, while that is as before the transaction.
    pub(super) async fn fill_moved(&mut self, mirrors: &[MirrorSql]) -> Result<()> {
        for page in 0..self.pages() {
            let moved = self.read(page, Which::Moved).await?;
            let mut moved: Vec<Write> = moved.into_iter().map(|(write, _)| write).collect();
            for some in moved.chunks_mut(MOVED) {
                let mut writes: Vec<&mut Write> = some.iter_mut().collect();
                crate::mirror::apply::fill_moved(self.sql, mirrors, &mut writes, &Room::unbounded()).await?;
                self.put(some).await?;
            }
        }
        Ok(())
    }

    /// Which of these rows the transaction writes, as `at_key` names them.
    pub(super) async fn find_keys(&self, table: usize, keys: impl Iterator<Item = &Key>) -> Result<HashSet<Bytes>> {
        let ats: TextArray = keys.map(|key| at_key(table, key)).collect();
        let rows = self.sql.query("find staged rows", FIND, &[&ats]).await?;
        Ok(rows.iter().map(|row| Bytes::copy_from_slice(row.get::<_, &str>(0).as_bytes())).collect())
    }
}

/// Names a row among all that are staged.
fn at(table: usize, packed: &Bytes) -> Bytes {
    let mut at = format!("{table}:").into_bytes();
    if packed.len() <= SHORT {
        at.extend_from_slice(packed);
    } else {
        for byte in Sha256::digest(packed) {
            at.extend_from_slice(format!("{byte:02x}").as_bytes());
        }
    }
    at.into()
}

pub(super) fn at_key(table: usize, key: &Key) -> Bytes {
    at(table, &packed::key(key))
}

fn own<'k>(write: &Write, known: &'k HashMap<Bytes, Known>) -> Option<&'k Known> {
    known.get(&at(write.table, &packed::key(&write.key)))
}

/// A write of a part, made one of the transaction so far: the part knows only what was there just before it.
fn follow(write: &mut Write, known: &HashMap<Bytes, Known>) {
    let earlier = own(write, known);
    if let Some(earlier) = earlier {
        write.existed = earlier.existed;
    }
    let Some(image) = &mut write.image else { return };
    match write.moved_from.take() {
        None => {
            fill_unsent(image, earlier.and_then(|earlier| earlier.image.as_ref()));
            let origin = earlier.and_then(|earlier| earlier.origin.clone());
            write.moved_from = origin.filter(|_| image.contains(&TupleData::UnchangedToast));
        }
        Some(origin) => {
            let source = known.get(&at(write.table, &packed::key(&origin)));
            fill_unsent(image, source.and_then(|source| source.image.as_ref()));
            let origin = match source {
                None => Some(origin),
                Some(source) => source.origin.clone().or_else(|| source.existed.then_some(origin)),
            };
            write.moved_from = origin.filter(|_| image.contains(&TupleData::UnchangedToast));
        }
    }
}

fn read_write(row: &tokio_postgres::Row) -> Result<Write> {
    Ok(Write {
        table: table(row.get(0))?,
        key: packed::read_key(row.get(1))?,
        existed: row.get(2),
        place: unsigned(row.get(3))?,
        moved_from: row.get::<_, Option<&str>>(4).map(packed::read_key).transpose()?,
        image: row.get::<_, Option<&str>>(5).map(packed::read_row).transpose()?,
        gone: None,
        alters: true,
    })
}

/// Writes as functions take them that are made for whole transactions.
pub(super) fn net(writes: Vec<Write>) -> Net {
    Net {
        xid: 0,
        commit_lsn: Lsn::ZERO,
        end_lsn: Lsn::ZERO,
        commit_micros: 0,
        writes,
        operations: Vec::new(),
        truncated: Vec::new(),
    }
}

pub(super) fn number(table: usize) -> i32 {
    i32::try_from(table).unwrap_or(i32::MAX)
}

pub(super) fn signed(place: usize) -> i64 {
    i64::try_from(place).unwrap_or(i64::MAX)
}

pub(super) fn unsigned(place: i64) -> Result<usize> {
    usize::try_from(place).map_err(|_| Error::failed("a staged row stands at no place"))
}

fn table(number: i32) -> Result<usize> {
    usize::try_from(number).map_err(|_| Error::failed("a staged row is of no table"))
}
