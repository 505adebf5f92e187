//! Writes of the stream → rows of the mirror: deletes first (keys may swap), then puts.

use bytes::Bytes;
use tokio_postgres::types::ToSql;

use super::array::TextArray;
use super::net::{Key, Write, stored_columns};
use super::prepared::{Owned, Prepared, quote};
use crate::change::{Row, TupleData};
use crate::error::{Error, Result};
use crate::mapping::plan::{Plan, Table};
use crate::mapping::record;

/// The texts of one mirror's statements. Every parameter is an array, one element a row.
pub(crate) struct MirrorSql {
    name: String,
    columns: usize,
    /// Positions of the key's columns among the stored ones.
    key: Vec<usize>,
    delete: String,
    insert: String,
    update: String,
    differs: Option<String>,
    read: String,
    keys: String,
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
        let arrays = |columns: &[usize], flags: &[usize]| {
            let count = columns.len() + flags.len();
            let parameters: Vec<String> = (1..=count)
                .map(|number| format!("${number}::{}", if number > columns.len() { "bool[]" } else { "text[]" }))
                .collect();
            let mut names: Vec<String> = columns.iter().map(|position| format!("c{position}")).collect();
            names.extend(flags.iter().map(|position| format!("s{position}")));
            (parameters.join(", "), names.join(", "))
        };
        let on_key = list(&key, &|position| format!("m.{} = {}", name(position), cast(position)), " AND ");
        let (key_arrays, key_names) = arrays(&key, &[]);
        let (all_arrays, all_names) = arrays(&all, &[]);
        let (flagged_arrays, flagged_names) = arrays(&all, &rest);
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
                format!(
                    "{0} = CASE WHEN u.s{position} IS NOT FALSE THEN {1} ELSE m.{0} END",
                    name(position),
                    cast(position)
                )
            },
            ", ",
        );
        // Output text decides: two numerics can be equal and print differently.
        let differs = list(
            &rest,
            &|position| {
                format!(
                    "(u.s{position} IS NOT FALSE AND CASE WHEN m.{0} IS NOT NULL THEN format('%s', m.{0}) END \
                     IS DISTINCT FROM u.c{position})",
                    name(position)
                )
            },
            " OR ",
        );
        let first_key = key.first().map(|&position| name(position)).unwrap_or_default();
        Self {
            name: format!("{}.{}", table.schema, table.name),
            columns: stored.len(),
            delete: format!("DELETE FROM {mirror} m USING unnest({key_arrays}) AS u({key_names}) WHERE {on_key}"),
            insert: format!(
                "INSERT INTO {mirror} ({}) SELECT {} FROM unnest({all_arrays}) AS u({all_names}) \
                 ON CONFLICT ({}) DO {conflict}",
                list(&all, &name, ", "),
                list(&all, &cast, ", "),
                list(&key, &name, ", "),
            ),
            update: format!(
                "UPDATE {mirror} m SET {set} FROM unnest({flagged_arrays}) AS u({flagged_names}) WHERE {on_key}"
            ),
            differs: (!rest.is_empty()).then(|| {
                format!(
                    "SELECT u.n FROM unnest({flagged_arrays}) WITH ORDINALITY AS u({flagged_names}, n) \
                     LEFT JOIN {mirror} m ON {on_key} WHERE m.{first_key} IS NULL OR {differs}"
                )
            }),
            read: format!(
                "SELECT ROW({})::text FROM {mirror} m JOIN unnest({key_arrays}) AS u({key_names}) ON {on_key}",
                list(&all, &|position| format!("m.{}", name(position)), ", ")
            ),
            keys: format!(
                "SELECT ROW({})::text FROM {mirror} m",
                list(&key, &|position| format!("m.{}", name(position)), ", ")
            ),
            key,
        }
    }

    /// Which of these rows differ from the mirror, by position; a row that the mirror lacks differs.
    pub(crate) async fn differing(&self, sql: &Prepared<'_>, rows: &[&Row]) -> Result<Vec<usize>> {
        let Some(differs) = &self.differs else { return Ok(Vec::new()) };
        let arrays = self.flagged(rows.iter().copied());
        let found = sql.query(&format!("compare {} with its mirror", self.name), differs, &parameters(&arrays)).await?;
        found
            .iter()
            .map(|row| {
                let ordinal: i64 = row.get(0);
                usize::try_from(ordinal - 1).map_err(|_| Error::failed("PostgreSQL counted from below one"))
            })
            .collect()
    }

    pub(crate) async fn delete(&self, sql: &Prepared<'_>, keys: &[&Key]) -> Result<()> {
        let arrays = self.key_arrays(keys);
        sql.post(format!("delete from the mirror of {}", self.name), &self.delete, owned(arrays)).await
    }

    pub(crate) async fn insert(&self, sql: &Prepared<'_>, rows: &[&Row]) -> Result<()> {
        let arrays = self.row_arrays(rows.iter().copied());
        sql.post(format!("insert into the mirror of {}", self.name), &self.insert, owned(arrays)).await
    }

    pub(crate) async fn update(&self, sql: &Prepared<'_>, rows: &[&Row]) -> Result<()> {
        let arrays = self.flagged(rows.iter().copied());
        let touched =
            sql.execute(&format!("update the mirror of {}", self.name), &self.update, &parameters(&arrays)).await?;
        if touched != rows.len() as u64 {
            return Err(Error::failed(format!(
                "the mirror of {} lacks {} of the {} rows that the stream updates: run portalhook setup to copy it afresh",
                self.name,
                rows.len() as u64 - touched,
                rows.len()
            )));
        }
        Ok(())
    }

    /// The mirrored rows with these keys.
    pub(crate) async fn read(&self, sql: &Prepared<'_>, keys: &[&Key]) -> Result<Vec<(Key, Row)>> {
        let arrays = self.key_arrays(keys);
        let found = sql.query(&format!("read the mirror of {}", self.name), &self.read, &parameters(&arrays)).await?;
        found
            .iter()
            .map(|row| {
                let image: Row = record::parse(row.get(0))?
                    .into_iter()
                    .map(|field| match field {
                        Some(text) => TupleData::Text(Bytes::copy_from_slice(text.as_bytes())),
                        None => TupleData::Null,
                    })
                    .collect();
                Ok((self.key_of(&image)?, image))
            })
            .collect()
    }

    /// The keys of all mirrored rows.
    pub(crate) async fn keys(&self, sql: &Prepared<'_>) -> Result<Vec<Key>> {
        let found = sql.query(&format!("read the keys of {}", self.name), &self.keys, &[]).await?;
        found
            .iter()
            .map(|row| {
                Ok(record::parse(row.get(0))?
                    .into_iter()
                    .map(|field| Bytes::copy_from_slice(field.unwrap_or_default().as_bytes()))
                    .collect())
            })
            .collect()
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
        let mut arrays: Vec<TextArray> = (0..self.columns).map(|_| TextArray::default()).collect();
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

    /// The rows, then for each column outside the key whether it was sent.
    fn flagged<'r>(&self, rows: impl Iterator<Item = &'r Row> + Clone) -> Vec<TextArray> {
        let mut arrays = self.row_arrays(rows.clone());
        for position in (0..self.columns).filter(|position| !self.key.contains(position)) {
            let sent = |row: &Row| row[position] != TupleData::UnchangedToast;
            // All sent is said by an empty array: unnest fills up with NULL.
            let flags = if rows.clone().all(sent) {
                TextArray::default()
            } else {
                rows.clone().map(|row| if sent(row) { "t" } else { "f" }).collect()
            };
            arrays.push(flags);
        }
        arrays
    }
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
        let mut inserted = Vec::new();
        let mut updated = Vec::new();
        for write in writes.iter().filter(|write| write.table == table && write.alters) {
            match &write.image {
                None => gone.push(&write.key),
                Some(image) if write.existed => updated.push(image),
                Some(image) => inserted.push(image),
            }
        }
        if !gone.is_empty() {
            mirror.delete(sql, &gone).await?;
        }
        if !updated.is_empty() && mirror.differs.is_some() {
            mirror.update(sql, &updated).await?;
        }
        if !inserted.is_empty() {
            mirror.insert(sql, &inserted).await?;
        }
    }
    Ok(())
}

/// A row that moved to another key with unsent values takes them from its old key, before that is deleted.
async fn fill_moved(sql: &Prepared<'_>, mirrors: &[MirrorSql], writes: &mut [&mut Write]) -> Result<()> {
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

fn owned(arrays: Vec<TextArray>) -> Vec<Owned> {
    arrays.into_iter().map(|array| Box::new(array) as Owned).collect()
}

pub(super) fn parameters(arrays: &[TextArray]) -> Vec<&(dyn ToSql + Sync)> {
    arrays.iter().map(|array| array as &(dyn ToSql + Sync)).collect()
}
