//! The mapping's SELECTs over the mirror, for the keys that were written or the ids that bodies name.
//!
//! A row that cannot be evaluated stops nobody: it is reported and counts as not there.

use std::collections::HashMap;

use bytes::Bytes;
use futures_util::future::{join_all, join3};
use tokio_postgres::types::ToSql;

use super::apply::parameters;
use super::array::TextArray;
use super::net::Key;
use super::prepared::Prepared;
use crate::error::{Error, Result};
use crate::event::shape::{Entry, Shape};
use crate::mapping::plan::{Entity, EntityPlan, Plan};
use crate::mapping::record;
use crate::mapping::select::{IdLookup, Restriction, Variant};

/// A row, named by its table's key, that the mapping cannot evaluate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RowFailure {
    pub(crate) entity: Entity,
    pub(crate) key: String,
    pub(crate) sqlstate: String,
    pub(crate) message: String,
}

/// One entity's SELECT, its texts made once.
pub(crate) struct Select {
    pub(crate) shape: Shape,
    plan: EntityPlan,
    key_columns: usize,
    ids: IdLookup,
    /// WHERE keeps something out: rows that are not live have to be asked for apart.
    pub(crate) has_dead_rows: bool,
    texts: HashMap<(Variant, Target), String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Target {
    Keys,
    Ids,
    All,
}

/// What to evaluate.
pub(crate) struct Request<'r> {
    pub(crate) select: &'r Select,
    pub(crate) variant: Variant,
    pub(crate) wanted: Wanted<'r>,
}

#[derive(Clone, Debug)]
pub(crate) enum Wanted<'r> {
    Keys(Vec<&'r Key>),
    Ids(Vec<&'r str>),
    All,
}

impl Select {
    pub(crate) fn new(plan: &Plan, entity: &EntityPlan) -> Self {
        let base = entity.base.and_then(|base| plan.tables.get(base));
        let mut texts = HashMap::new();
        for variant in [Variant::Live, Variant::Any] {
            let mut add = |target, restriction| {
                texts.insert((variant, target), plan.select(entity.entity, variant, &restriction));
            };
            add(Target::All, Restriction::All);
            if base.is_some() {
                add(Target::Keys, Restriction::Keys);
                add(Target::Ids, Restriction::Ids);
            }
        }
        Self {
            shape: Shape::new(entity),
            key_columns: base.map_or(0, |table| table.key.len()),
            ids: plan.id_lookup(entity),
            has_dead_rows: entity.live != entity.any,
            plan: entity.clone(),
            texts,
        }
    }

    pub(crate) fn entity(&self) -> Entity {
        self.plan.entity
    }

    pub(crate) fn base(&self) -> Option<usize> {
        self.plan.base
    }

    pub(crate) fn reads(&self) -> &[usize] {
        &self.plan.reads
    }

    /// Reads one record of the SELECT: the key's columns, then the outputs.
    fn entry(&self, text: &str) -> Result<std::result::Result<Entry, RowFailure>> {
        let fields = record::parse(text)?;
        if fields.len() != self.key_columns + self.plan.outputs.len() {
            return Err(Error::failed(format!("the SELECT of {} gave a row of another shape", self.entity().name())));
        }
        let (key, outputs) = fields.split_at(self.key_columns);
        let key: Key =
            key.iter().map(|part| Bytes::copy_from_slice(part.as_deref().unwrap_or_default().as_bytes())).collect();
        let own = |index: usize| outputs[index].as_deref().map(Box::from);
        let id: Option<Box<str>> = match self.shape.id {
            Some(index) => own(index),
            None => Some(key_text(&key).into()),
        };
        let Some(id) = id else {
            return Ok(Err(RowFailure {
                entity: self.entity(),
                key: key_text(&key),
                sqlstate: "23502".to_owned(),
                message: "its id is null".to_owned(),
            }));
        };
        let json = outputs
            .iter()
            .zip(&self.plan.outputs)
            .map(|(field, output)| {
                let mut json = String::new();
                output.kind.write(field.as_deref(), &mut json);
                json.into_boxed_str()
            })
            .collect();
        let references = self.shape.references.iter().map(|&index| own(index)).collect();
        Ok(Ok(Entry { key, id, references, json }))
    }
}

impl Wanted<'_> {
    fn target(&self) -> Target {
        match self {
            Self::Keys(_) => Target::Keys,
            Self::Ids(_) => Target::Ids,
            Self::All => Target::All,
        }
    }

    /// One request for each row, for finding the one that fails.
    fn singles(&self) -> Vec<Self> {
        match self {
            Self::Keys(keys) => keys.iter().map(|key| Self::Keys(vec![key])).collect(),
            Self::Ids(ids) => ids.iter().map(|id| Self::Ids(vec![id])).collect(),
            Self::All => vec![Self::All],
        }
    }

    fn describe(&self) -> String {
        match self {
            Self::Keys(keys) => keys.first().map(|key| key_text(key)).unwrap_or_default(),
            Self::Ids(ids) => ids.first().map(|id| (*id).to_owned()).unwrap_or_default(),
            Self::All => String::new(),
        }
    }

    fn arrays(&self, select: &Select) -> Vec<TextArray> {
        match self {
            Self::Keys(keys) => {
                (0..select.key_columns).map(|part| keys.iter().map(|key| key[part].clone()).collect()).collect()
            }
            Self::Ids(ids) => vec![ids.iter().copied().filter(|id| can_be_id(select.ids, id)).collect()],
            Self::All => Vec::new(),
        }
    }
}

/// Whether the text is how PostgreSQL prints an id of this kind: a lookup casts it to the column's type.
fn can_be_id(kind: IdLookup, text: &str) -> bool {
    match kind {
        IdLookup::Integer => text.parse::<i64>().is_ok_and(|number| number.to_string() == text),
        IdLookup::Uuid => {
            text.len() == 36
                && text.bytes().enumerate().all(|(index, byte)| match index {
                    8 | 13 | 18 | 23 => byte == b'-',
                    _ => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
                })
        }
        IdLookup::Text | IdLookup::Computed => true,
    }
}

/// A key as a person reads it.
pub(crate) fn key_text(key: &Key) -> String {
    key.iter().map(|part| String::from_utf8_lossy(part)).collect::<Vec<_>>().join(", ")
}

/// Evaluates the requests, all sent at once; an answer for each, in order.
pub(crate) async fn evaluate(
    sql: &Prepared<'_>,
    requests: &[Request<'_>],
    failures: &mut Vec<RowFailure>,
) -> Result<Vec<Vec<Entry>>> {
    if requests.is_empty() {
        return Ok(Vec::new());
    }
    for request in requests {
        sql.prepare(&request.what(), request.text()).await?;
    }
    let (saved, answers, released) = join3(
        sql.run("open an evaluation", "SAVEPOINT evaluation"),
        join_all(requests.iter().map(|request| request.ask(sql))),
        sql.run("close an evaluation", "RELEASE SAVEPOINT evaluation"),
    )
    .await;
    saved?;
    let mut texts = Vec::with_capacity(requests.len());
    for answer in answers {
        match answer {
            Ok(text) => texts.push(text),
            Err(error) if is_about_a_row(&error) => return one_by_one(sql, requests, failures).await,
            Err(error) => return Err(error),
        }
    }
    released?;
    requests.iter().zip(texts).map(|(request, texts)| request.entries(&texts, failures)).collect()
}

/// After an error on some row: every row alone, under a savepoint of its own.
async fn one_by_one(
    sql: &Prepared<'_>,
    requests: &[Request<'_>],
    failures: &mut Vec<RowFailure>,
) -> Result<Vec<Vec<Entry>>> {
    sql.run("leave a failed evaluation", "ROLLBACK TO SAVEPOINT evaluation").await?;
    let mut all = Vec::with_capacity(requests.len());
    for request in requests {
        let mut texts = Vec::new();
        for wanted in request.wanted.singles() {
            let single = Request { select: request.select, variant: request.variant, wanted };
            match single.ask(sql).await {
                Ok(found) => {
                    texts.extend(found);
                    sql.run("keep a row", "RELEASE SAVEPOINT evaluation; SAVEPOINT evaluation").await?;
                }
                Err(error) if is_about_a_row(&error) => {
                    sql.run("leave a row", "ROLLBACK TO SAVEPOINT evaluation").await?;
                    failures.push(RowFailure {
                        entity: request.select.entity(),
                        key: single.wanted.describe(),
                        sqlstate: error.sqlstate().map(|state| state.code().to_owned()).unwrap_or_default(),
                        message: error.postgres().map(|db| db.message().to_owned()).unwrap_or_default(),
                    });
                }
                Err(error) => return Err(error),
            }
        }
        all.push(request.entries(&texts, failures)?);
    }
    sql.run("close an evaluation", "RELEASE SAVEPOINT evaluation").await?;
    Ok(all)
}

/// SQLSTATE classes 21, 22 and 23: the data of a row. Anything else is about the server and is tried again.
fn is_about_a_row(error: &Error) -> bool {
    error.sqlstate().is_some_and(|state| matches!(&state.code()[..2], "21" | "22" | "23"))
}

impl Request<'_> {
    fn what(&self) -> String {
        format!("evaluate {}", self.select.entity().name())
    }

    fn text(&self) -> &str {
        self.select.texts.get(&(self.variant, self.wanted.target())).map_or("", String::as_str)
    }

    async fn ask(&self, sql: &Prepared<'_>) -> Result<Vec<String>> {
        let arrays = self.wanted.arrays(self.select);
        let parameters: Vec<&(dyn ToSql + Sync)> = parameters(&arrays);
        let rows = sql.query(&self.what(), self.text(), &parameters).await?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    /// The rows as entries; two rows for one key are a failure and neither counts.
    fn entries(&self, texts: &[String], failures: &mut Vec<RowFailure>) -> Result<Vec<Entry>> {
        let mut entries: Vec<Entry> = Vec::with_capacity(texts.len());
        let mut seen: HashMap<Key, bool> = HashMap::with_capacity(texts.len());
        for text in texts {
            match self.select.entry(text)? {
                Ok(entry) => {
                    let double = seen.entry(entry.key.clone()).and_modify(|double| *double = true).or_insert(false);
                    if self.select.key_columns == 0 || !*double {
                        entries.push(entry);
                    }
                }
                Err(failure) => failures.push(failure),
            }
        }
        if self.select.key_columns > 0 {
            for key in seen.iter().filter(|(_, double)| **double).map(|(key, _)| key) {
                entries.retain(|entry| entry.key != *key);
                failures.push(RowFailure {
                    entity: self.select.entity(),
                    key: key_text(key),
                    sqlstate: "21000".to_owned(),
                    message: "the SELECT gives more than one row for this key".to_owned(),
                });
            }
        }
        Ok(entries)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_postgresql_prints_is_looked_up() {
        for (kind, text, accepted) in [
            (IdLookup::Integer, "99", true),
            (IdLookup::Integer, "-5", true),
            (IdLookup::Integer, "099", false),
            (IdLookup::Integer, "+9", false),
            (IdLookup::Integer, "", false),
            (IdLookup::Integer, "abc", false),
            (IdLookup::Integer, "9223372036854775807", true),
            (IdLookup::Integer, "9223372036854775808", false),
            (IdLookup::Uuid, "00000000-0000-0000-0000-0000000000ab", true),
            (IdLookup::Uuid, "00000000-0000-0000-0000-0000000000AB", false),
            (IdLookup::Uuid, "00000000", false),
            (IdLookup::Text, "", true),
        ] {
            assert_eq!(can_be_id(kind, text), accepted, "{kind:?} {text:?}");
        }
    }
}
