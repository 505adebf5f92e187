//! Writes of the stream → rows of the mirror: deletes first (keys may swap), then puts.

use bytes::Bytes;
use tokio_postgres::types::ToSql;

use super::array::TextArray;
use super::net::{Key, Mirrored, Write, stored_columns};
use super::pieces;
use super::prepared::{Owned, Prepared, quote};
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
    /// What stands for the rows in `insert` and `update`.
    rows: String,
    flagged_rows: String,
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
        let identifying = if key.is_empty() { &all } else { &key };
        let first_key = key.first().map(|&position| name(position)).unwrap_or_default();
        Self {
            name: format!("{}.{}", table.schema, table.name),
            oid: table.oid,
            columns: stored.len(),
            rows: format!("unnest({all_arrays}) AS u({all_names})"),
            flagged_rows: format!("unnest({flagged_arrays}) AS u({flagged_names})"),
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
            read: format!(
                "SELECT ROW({})::text FROM {mirror} m JOIN unnest({key_arrays}) AS u({key_names}) ON {on_key}",
                list(&all, &|position| format!("m.{}", name(position)), ", ")
            ),
            all: format!(
                "SELECT ROW({})::text FROM {mirror} m",
                list(identifying, &|position| format!("m.{}", name(position)), ", ")
            ),
            key,
        }
    }

    /// Which of these rows differ from the mirror, by position, and whether it lacks them.
    pub(crate) async fn differing(&self, sql: &Prepared<'_>, rows: &[&Row]) -> Result<Vec<(usize, bool)>> {
        let Some(differs) = &self.differs else { return Ok(Vec::new()) };
        let arrays = self.flagged(rows.iter().copied());
        let found = sql.query(&format!("compare {} with its mirror", self.name), differs, &parameters(&arrays)).await?;
        found
            .iter()
            .map(|row| {
                let ordinal: i64 = row.get(0);
                let place = usize::try_from(ordinal - 1);
                Ok((place.map_err(|_| Error::failed("PostgreSQL counted from below one"))?, row.get(1)))
            })
            .collect()
    }

    pub(crate) async fn delete(&self, sql: &Prepared<'_>, keys: &[&Key]) -> Result<()> {
        let arrays = self.key_arrays(keys);
        sql.post(format!("delete from the mirror of {}", self.name), &self.delete, owned(arrays)).await
    }

    /// Puts rows, each with values that are sent apart from it.
    async fn put_large(&self, sql: &Prepared<'_>, rows: &[&Row], existed: bool) -> Result<()> {
        let (text, source) = if existed { (&self.update, &self.flagged_rows) } else { (&self.insert, &self.rows) };
        for row in rows {
            let (rest, places) = pieces::send(sql, row).await?;
            let value = |place| if places.contains(&place) { pieces::value(place) } else { format!("c{place}") };
            let values: Vec<String> = (0..self.columns).map(|place| format!("{} AS c{place}", value(place))).collect();
            let flags: &[String] = if existed { &["sent".to_owned()] } else { &[] };
            let list = [&values, flags].concat().join(", ");
            let text = text.replacen(source, &format!("(SELECT {list} FROM {source} OFFSET 0) AS u"), 1);
            let one = std::iter::once(&rest);
            let arrays = if existed { self.flagged(one) } else { self.row_arrays(one) };
            let touched =
                sql.execute_once(&format!("put a large row of {}", self.name), &text, &parameters(&arrays)).await?;
            self.all_were_there(touched, 1, "writes")?;
            pieces::forget(sql).await?;
        }
        Ok(())
    }

    pub(crate) async fn insert(&self, sql: &Prepared<'_>, rows: &[&Row]) -> Result<()> {
        let arrays = self.row_arrays(rows.iter().copied());
        sql.post(format!("insert into the mirror of {}", self.name), &self.insert, owned(arrays)).await
    }

    pub(crate) async fn update(&self, sql: &Prepared<'_>, rows: &[&Row]) -> Result<()> {
        let arrays = self.flagged(rows.iter().copied());
        let touched =
            sql.execute(&format!("update the mirror of {}", self.name), &self.update, &parameters(&arrays)).await?;
        self.all_were_there(touched, rows.len(), "updates")
    }

    /// The mirrored rows with these keys.
    pub(crate) async fn read(&self, sql: &Prepared<'_>, keys: &[&Key]) -> Result<Vec<(Key, Row)>> {
        let arrays = self.key_arrays(keys);
        let found = sql.query(&format!("read the mirror of {}", self.name), &self.read, &parameters(&arrays)).await?;
        found
            .iter()
            .map(|row| {
                let image = image(row.get(0))?;
                Ok((self.key_of(&image)?, image))
            })
            .collect()
    }

    /// The keys of all mirrored rows; where there is no key, the rows.
    pub(crate) async fn keys(&self, sql: &Prepared<'_>) -> Result<Mirrored> {
        let found = sql.query(&format!("read the keys of {}", self.name), &self.all, &[]).await?;
        self.read_all(found.iter().map(|row| row.get(0)))
    }

    /// The query for the keys of all mirrored rows, or for the rows: `read_all` reads its records.
    pub(crate) fn all_sql(&self) -> &str {
        &self.all
    }

    pub(crate) fn read_all<'r>(&self, records: impl Iterator<Item = &'r str>) -> Result<Mirrored> {
        if self.whole.is_some() {
            return Ok(Mirrored::Rows(records.map(image).collect::<Result<_>>()?));
        }
        let keys = records.map(|record| {
            Ok(record::parse(record)?
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
        for (rows, text) in [(rest, &whole.delete), (null, &whole.delete_null)] {
            if rows.is_empty() {
                continue;
            }
            let arrays = self.row_arrays(rows.iter().copied());
            let what = format!("delete from the mirror of {}", self.name);
            let touched = sql.execute(&what, text, &parameters(&arrays)).await?;
            self.all_were_there(touched, rows.len(), "removes")?;
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
    fn flagged<'r>(&self, rows: impl Iterator<Item = &'r Row> + Clone) -> Vec<TextArray> {
        let mut arrays = self.row_arrays(rows.clone());
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

/// A row of a mirror out of the record that PostgreSQL prints.
fn image(text: &str) -> Result<Row> {
    let fields = record::parse(text)?.into_iter();
    Ok(fields
        .map(|field| match field {
            Some(text) => TupleData::Text(Bytes::copy_from_slice(text.as_bytes())),
            None => TupleData::Null,
        })
        .collect())
}

/// Applies a batch's altering writes, table by table: within a batch a key is written once, so their order is free.
pub(crate) async fn apply(
    sql: &Prepared<'_>,
    plan: &Plan,
    mirrors: &[MirrorSql],
    writes: &mut [&mut Write],
) -> Result<()> {
    fill_moved(sql, mirrors, writes).await?;
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
                Some(image) if pieces::has_large(image) => large[usize::from(write.existed)].push(image),
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
pub(crate) async fn fill_moved(sql: &Prepared<'_>, mirrors: &[MirrorSql], writes: &mut [&mut Write]) -> Result<()> {
    for write in writes.iter_mut().filter(|write| write.has_unsent()) {
        let Some(origin) = &write.moved_from else { continue };
        let found = mirrors[write.table].read(sql, &[origin]).await?;
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
                TupleData::Null | TupleData::UnchangedToast => None,
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
