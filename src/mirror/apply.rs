//! Writes of the stream → rows of the mirror: deletes first (keys may swap), then puts.

use bytes::Bytes;
use tokio_postgres::types::ToSql;

use super::array::TextArray;
use super::held;
use super::net::{Key, Mirrored, Write, stored_columns};
use super::prepared::{Owned, Prepared, quote};
use super::room::Room;
use crate::change::{Row, TupleData};
use crate::error::{Error, Kind, Result};
use crate::mapping::plan::{Plan, Table};
use crate::mapping::record;

/// The mirror of this table (`pg_class.oid`) lacks rows that the stream changes.
#[derive(Debug)]
pub(crate) struct Lacking {
    pub(crate) table: u32,
}

impl std::fmt::Display for Lacking {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("only a fresh copy has them")
    }
}

impl std::error::Error for Lacking {}

/// The texts of one mirror's statements. Every parameter is an array, one element a row.
pub(crate) struct MirrorSql {
    name: String,
    oid: u32,
    columns: usize,
    /// Positions of the key's columns among the stored ones.
    key: Vec<usize>,
    delete: String,
    insert: String,
    update: String,
    differs: Option<String>,
    read: String,
    /// All keys; all rows where there is no key.
    all: String,
    /// How rows are taken away where there is no key.
    whole: Option<WholeRows>,
}

/// Removes rows by all of their values, where there is no key to remove them by: as many of equal ones as are asked for.
struct WholeRows {
    /// The column that finds candidates by an index.
    probe: Option<usize>,
    /// Removes rows whose probe is not null, and those where it is.
    delete: String,
    delete_null: String,
}

impl WholeRows {
    fn new(table: &Table) -> Self {
        let stored: Vec<_> = stored_columns(table).map(|(_, column)| column).collect();
        let probe =
            table.probe().and_then(|probe| stored.iter().position(|column| column.name == table.columns[probe].name));
        let mirror = format!("portalhook_mirror.{}", quote(&table.mirror));
        let list = |each: &dyn Fn(usize) -> String, separator: &str| {
            (0..stored.len()).map(each).collect::<Vec<_>>().join(separator)
        };
        let arrays = list(&|position| format!("${}::text[]", position + 1), ", ");
        let names = list(&|position| format!("c{position}"), ", ");
        // Output text decides here, too: rows of the stream are text.
        let same = list(
            &|position| {
                let name = quote(&stored[position].name);
                format!(
                    "CASE WHEN m.{name} IS NOT NULL THEN format('%s', m.{name}) END IS NOT DISTINCT FROM w.c{position}"
                )
            },
            " AND ",
        );
        let delete = |found: String| {
            format!(
                "DELETE FROM {mirror} WHERE ctid = ANY (ARRAY(SELECT f.place \
                 FROM (SELECT {names}, count(*) AS n FROM unnest({arrays}) AS u({names}) GROUP BY {names}) AS w, \
                 LATERAL (SELECT m.ctid AS place FROM {mirror} m WHERE {found}{same} LIMIT w.n) AS f))"
            )
        };
        let by = |how: &dyn Fn(&str, usize) -> String| {
            probe.map(|position| how(&quote(&stored[position].name), position) + " AND ").unwrap_or_default()
        };
        Self {
            probe,
            delete: delete(by(&|name, position| format!("m.{name} = w.c{position}::{}", stored[position].mirror_type))),
            delete_null: delete(by(&|name, _| format!("m.{name} IS NULL"))),
        }
    }
}

impl MirrorSql {
    pub(crate) fn new(table: &Table) -> Self {
        let stored: Vec<_> = stored_columns(table).collect();
        let key: Vec<usize> =
            table.key.iter().filter_map(|wanted| stored.iter().position(|(index, _)| index == wanted)).collect();
        let mirror = format!("portalhook_mirror.{}", quote(&table.mirror));
        let name = |position: usize| quote(&stored[position].1.name);
        let cast = |position: usize| format!("u.c{position}::{}", stored[position].1.mirror_type);
        let all: Vec<usize> = (0..stored.len()).collect();
        let rest: Vec<usize> = all.iter().copied().filter(|position| !key.contains(position)).collect();
        let list = |positions: &[usize], each: &dyn Fn(usize) -> String, separator: &str| {
            positions.iter().map(|&position| each(position)).collect::<Vec<_>>().join(separator)
        };
        let arrays = |columns: &[usize], flags: Option<&str>| {
            let mut names: Vec<String> = columns.iter().map(|position| format!("c{position}")).collect();
            names.extend(flags.map(str::to_owned));
            let parameters: Vec<String> = (1..=names.len()).map(|number| format!("${number}::text[]")).collect();
            (parameters.join(", "), names.join(", "))
        };
        // One text for all columns of a row: functions in FROM return at most 1,664 columns, and a table may have 1,600.
        let sent = |position: usize| format!("(u.sent IS NULL OR substr(u.sent, {}, 1) = 't')", position + 1);
        let on_key = list(&key, &|position| format!("m.{} = {}", name(position), cast(position)), " AND ");
        let (key_arrays, key_names) = arrays(&key, None);
        let (all_arrays, all_names) = arrays(&all, None);
        let (flagged_arrays, flagged_names) = arrays(&all, Some("sent"));
        let conflict = if rest.is_empty() {
            "NOTHING".to_owned()
        } else {
            let set = list(&rest, &|position| format!("{0} = excluded.{0}", name(position)), ", ");
            format!("UPDATE SET {set}")
        };
        // An unsent value keeps what the mirror has.
        let set = list(
            &rest,
            &|position| {
                format!("{0} = CASE WHEN {2} THEN {1} ELSE m.{0} END", name(position), cast(position), sent(position))
            },
            ", ",
        );
        // Output text decides: two numerics can be equal and print differently.
        let differs = list(
            &rest,
            &|position| {
                format!(
                    "({1} AND CASE WHEN m.{0} IS NOT NULL THEN format('%s', m.{0}) END IS DISTINCT FROM u.c{position})",
                    name(position),
                    sent(position)
                )
            },
            " OR ",
        );
        let on_conflict = if key.is_empty() {
            String::new()
        } else {
            format!("ON CONFLICT ({}) DO {conflict}", list(&key, &name, ", "))
        };
        let rows = |from: &str| {
            let columns = list(&all, &|at| format!("{} AS c{at}", held::output(&format!("m.{}", name(at)))), ", ");
            let record = list(&all, &|position| format!("m.{}", name(position)), ", ");
            format!(
                "SELECT {} FROM (SELECT {columns}, ROW({record})::text AS t FROM {from} OFFSET 0) AS r",
                held::columns(all.len(), "t")
            )
        };
        let first_key = key.first().map(|&position| name(position)).unwrap_or_default();
        Self {
            name: format!("{}.{}", table.schema, table.name),
            oid: table.oid,
            columns: stored.len(),
            delete: format!("DELETE FROM {mirror} m USING unnest({key_arrays}) AS u({key_names}) WHERE {on_key}"),
            insert: format!(
                "INSERT INTO {mirror} ({}) SELECT {} FROM unnest({all_arrays}) AS u({all_names}) {on_conflict}",
                list(&all, &name, ", "),
                list(&all, &cast, ", "),
            ),
            update: format!(
                "UPDATE {mirror} m SET {set} FROM unnest({flagged_arrays}) AS u({flagged_names}) WHERE {on_key}"
            ),
            whole: key.is_empty().then(|| WholeRows::new(table)),
            differs: (!rest.is_empty() && !key.is_empty()).then(|| {
                format!(
                    "SELECT u.n, m.{first_key} IS NULL FROM unnest({flagged_arrays}) WITH ORDINALITY AS u({flagged_names}, n) \
                     LEFT JOIN {mirror} m ON {on_key} WHERE m.{first_key} IS NULL OR {differs}"
                )
            }),
            read: rows(&format!("{mirror} m JOIN unnest({key_arrays}) AS u({key_names}) ON {on_key}")),
            all: if key.is_empty() {
                rows(&format!("{mirror} m"))
            } else {
                let key = list(&key, &|position| format!("m.{}", name(position)), ", ");
                format!("SELECT ROW({key})::text, NULL::text FROM {mirror} m")
            },
            key,
        }
    }

    /// Which of these rows differ from the mirror, by position, and whether it lacks them.
    pub(crate) async fn differing(&self, sql: &Prepared<'_>, rows: &[&Row]) -> Result<Vec<(usize, bool)>> {
        let Some(differs) = &self.differs else { return Ok(Vec::new()) };
        let what = format!("compare {} with its mirror", self.name);
        let (large, rest): (Vec<usize>, Vec<usize>) = (0..rows.len()).partition(|&place| held::has_held(rows[place]));
        let mut all = Vec::new();
        // One large row at a time: the server need not have more in memory.
        let parts = large.iter().map(std::slice::from_ref).chain(std::iter::once(&rest[..]));
        for (number, places) in parts.enumerate().filter(|(_, places)| !places.is_empty()) {
            let some = places.iter().map(|&place| rows[place]);
            let found = if number < large.len() {
                sql.query(&what, &held::taking(differs), &parameters(&self.flagged(some, held::given))).await?
            } else {
                sql.query(&what, differs, &parameters(&self.flagged(some, columns))).await?
            };
            for row in &found {
                let ordinal: i64 = row.get(0);
                let place = usize::try_from(ordinal - 1).ok().and_then(|ordinal| places.get(ordinal));
                all.push((*place.ok_or_else(|| Error::failed("PostgreSQL counted wrongly"))?, row.get(1)));
            }
        }
        Ok(all)
    }

    pub(crate) async fn delete(&self, sql: &Prepared<'_>, keys: &[&Key]) -> Result<()> {
        let arrays = self.key_arrays(keys);
        sql.post(format!("delete from the mirror of {}", self.name), &self.delete, owned(arrays)).await
    }

    /// Puts rows with held values, one at a time: the server need not have more in memory.
    async fn put_large(&self, sql: &Prepared<'_>, rows: &[&Row], existed: bool) -> Result<()> {
        let text = held::taking(if existed { &self.update } else { &self.insert });
        for row in rows {
            let one = std::iter::once(*row);
            let arrays = if existed { self.flagged(one, held::given) } else { held::given(self.columns, one) };
            let touched =
                sql.execute(&format!("put a large row of {}", self.name), &text, &parameters(&arrays)).await?;
            self.all_were_there(touched, 1, "writes")?;
        }
        Ok(())
    }

    pub(crate) async fn insert(&self, sql: &Prepared<'_>, rows: &[&Row]) -> Result<()> {
        let arrays = self.row_arrays(rows.iter().copied());
        sql.post(format!("insert into the mirror of {}", self.name), &self.insert, owned(arrays)).await
    }

    pub(crate) async fn update(&self, sql: &Prepared<'_>, rows: &[&Row]) -> Result<()> {
        let arrays = self.flagged(rows.iter().copied(), columns);
        let touched =
            sql.execute(&format!("update the mirror of {}", self.name), &self.update, &parameters(&arrays)).await?;
        self.all_were_there(touched, rows.len(), "updates")
    }

    /// The mirrored rows with these keys; what is long in them is held.
    pub(crate) async fn read(&self, sql: &Prepared<'_>, keys: &[&Key], room: &Room) -> Result<Vec<(Key, Row)>> {
        held::prepare(sql).await?;
        let arrays = self.key_arrays(keys);
        let what = format!("read the mirror of {}", self.name);
        let found = sql.query_within(&what, &self.read, &parameters(&arrays), room).await?;
        let rows = found.iter().filter_map(|row| held::read(row.get(0), row.get(1)).transpose());
        rows.map(|row| row.and_then(|row| Ok((self.key_of(&row)?, row)))).collect()
    }

    /// The keys of all mirrored rows; where there is no key, the rows.
    pub(crate) async fn keys(&self, sql: &Prepared<'_>, room: &Room) -> Result<Mirrored> {
        let query = self.all(sql).await?;
        let found = sql.query_within(&format!("read the keys of {}", self.name), query, &[], room).await?;
        self.read_all(&found)
    }

    /// The query for the keys of all mirrored rows, or for the rows, with what is long in them held: `read_all` reads what it
    /// gives.
    pub(crate) async fn all(&self, sql: &Prepared<'_>) -> Result<&str> {
        if self.whole.is_some() {
            held::prepare(sql).await?;
        }
        Ok(&self.all)
    }

    pub(crate) fn read_all(&self, found: &[tokio_postgres::Row]) -> Result<Mirrored> {
        if self.whole.is_some() {
            let rows = found.iter().filter_map(|row| held::read(row.get(0), row.get(1)).transpose());
            return Ok(Mirrored::Rows(rows.collect::<Result<_>>()?));
        }
        let keys = found.iter().map(|row| {
            Ok(record::parse(row.get(0))?
                .into_iter()
                .map(|field| Bytes::copy_from_slice(field.unwrap_or_default().as_bytes()))
                .collect())
        });
        Ok(Mirrored::Keys(keys.collect::<Result<_>>()?))
    }

    /// Takes rows away where there is no key: one for each that is given, also of equal ones.
    async fn delete_whole(&self, sql: &Prepared<'_>, whole: &WholeRows, rows: &[&Row]) -> Result<()> {
        let (null, rest): (Vec<&Row>, Vec<&Row>) =
            rows.iter().partition(|row| whole.probe.is_some_and(|probe| row.get(probe) == Some(&TupleData::Null)));
        let what = format!("delete from the mirror of {}", self.name);
        for (rows, text) in [(rest, &whole.delete), (null, &whole.delete_null)] {
            let (large, rest): (Vec<&Row>, Vec<&Row>) = rows.into_iter().partition(|row| held::has_held(row));
            for row in large {
                let arrays = held::given(self.columns, std::iter::once(row));
                let touched = sql.execute(&what, &held::taking(text), &parameters(&arrays)).await?;
                self.all_were_there(touched, 1, "removes")?;
            }
            if !rest.is_empty() {
                let arrays = self.row_arrays(rest.iter().copied());
                let touched = sql.execute(&what, text, &parameters(&arrays)).await?;
                self.all_were_there(touched, rest.len(), "removes")?;
            }
        }
        Ok(())
    }

    fn all_were_there(&self, touched: u64, wanted: usize, what: &str) -> Result<()> {
        let wanted = wanted as u64;
        if touched == wanted {
            return Ok(());
        }
        let lacking = wanted.saturating_sub(touched);
        let message = format!("the mirror of {} lacks {lacking} of {wanted} rows that the stream {what}", self.name);
        Err(Error::because(Kind::Failed, message, Lacking { table: self.oid }))
    }

    fn key_of(&self, image: &Row) -> Result<Key> {
        self.key
            .iter()
            .map(|&position| match image.get(position) {
                Some(TupleData::Text(text)) => Ok(text.clone()),
                _ => Err(Error::failed(format!("a row in the mirror of {} has no key", self.name))),
            })
            .collect()
    }

    fn key_arrays(&self, keys: &[&Key]) -> Vec<TextArray> {
        (0..self.key.len()).map(|part| keys.iter().map(|key| key[part].clone()).collect()).collect()
    }

    fn row_arrays<'r>(&self, rows: impl Iterator<Item = &'r Row>) -> Vec<TextArray> {
        columns(self.columns, rows)
    }

    /// The rows, then for each whether its columns were sent, a letter for each; null: all were.
    fn flagged<'r, I>(&self, rows: I, arrays: fn(usize, I) -> Vec<TextArray>) -> Vec<TextArray>
    where
        I: Iterator<Item = &'r Row> + Clone,
    {
        let mut arrays = arrays(self.columns, rows.clone());
        let mut flags = TextArray::default();
        let is_sent = |value: &TupleData| *value != TupleData::UnchangedToast;
        // Nothing at all where nothing is unsent: unnest fills up with NULL.
        if !rows.clone().all(|row| row.iter().all(is_sent)) {
            for row in rows {
                let letters = || row.iter().map(|value| if is_sent(value) { b't' } else { b'f' }).collect::<Vec<u8>>();
                flags.push((!row.iter().all(is_sent)).then(|| Bytes::from(letters())));
            }
        }
        arrays.push(flags);
        arrays
    }
}

/// Applies a batch's altering writes, table by table: within a batch a key is written once, so their order is free.
pub(crate) async fn apply(
    sql: &Prepared<'_>,
    plan: &Plan,
    mirrors: &[MirrorSql],
    writes: &mut [&mut Write],
    room: &Room,
) -> Result<()> {
    fill_moved(sql, mirrors, writes, room).await?;
    for (table, mirror) in mirrors.iter().enumerate().take(plan.tables.len()) {
        let mut gone = Vec::new();
        let mut removed = Vec::new();
        let mut inserted = Vec::new();
        let mut updated = Vec::new();
        let mut large = [Vec::new(), Vec::new()];
        for write in writes.iter().filter(|write| write.table == table && write.alters) {
            match &write.image {
                None => match &write.gone {
                    Some(row) => removed.push(row),
                    None => gone.push(&write.key),
                },
                Some(image) if held::has_held(image) => large[usize::from(write.existed)].push(image),
                Some(image) if write.existed => updated.push(image),
                Some(image) => inserted.push(image),
            }
        }
        if !gone.is_empty() {
            mirror.delete(sql, &gone).await?;
        }
        if let Some(whole) = mirror.whole.as_ref().filter(|_| !removed.is_empty()) {
            mirror.delete_whole(sql, whole, &removed).await?;
        }
        if !updated.is_empty() && mirror.differs.is_some() {
            mirror.update(sql, &updated).await?;
        }
        if !inserted.is_empty() {
            mirror.insert(sql, &inserted).await?;
        }
        for (rows, existed) in large.iter().zip([false, true]).filter(|(rows, _)| !rows.is_empty()) {
            mirror.put_large(sql, rows, existed).await?;
        }
    }
    Ok(())
}

/// A row that moved to another key with unsent values takes them from its old key, before that is deleted.
pub(crate) async fn fill_moved(
    sql: &Prepared<'_>,
    mirrors: &[MirrorSql],
    writes: &mut [&mut Write],
    room: &Room,
) -> Result<()> {
    for write in writes.iter_mut().filter(|write| write.has_unsent()) {
        let Some(origin) = &write.moved_from else { continue };
        let found = mirrors[write.table].read(sql, &[origin], room).await?;
        let earlier = found.first().map(|(_, row)| row);
        if let Some(image) = write.image.as_mut() {
            super::net::fill_unsent(image, earlier);
        }
        write.moved_from = None;
    }
    Ok(())
}

/// Rows as arrays, one for each of `count` columns.
pub(super) fn columns<'r>(count: usize, rows: impl Iterator<Item = &'r Row>) -> Vec<TextArray> {
    let mut arrays: Vec<TextArray> = (0..count).map(|_| TextArray::default()).collect();
    for row in rows {
        for (array, value) in arrays.iter_mut().zip(row) {
            array.push(match value {
                TupleData::Text(text) => Some(text.clone()),
                // Rows that have held values go by `held::given`.
                TupleData::Null | TupleData::UnchangedToast | TupleData::Held(_) => None,
            });
        }
    }
    arrays
}

fn owned(arrays: Vec<TextArray>) -> Vec<Owned> {
    arrays.into_iter().map(|array| Box::new(array) as Owned).collect()
}

pub(super) fn parameters(arrays: &[TextArray]) -> Vec<&(dyn ToSql + Sync)> {
    arrays.iter().map(|array| array as &(dyn ToSql + Sync)).collect()
}
