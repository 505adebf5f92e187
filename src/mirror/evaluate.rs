//! The mapping's SELECTs over the mirror, for the keys that were written or the ids that bodies name.
//!
//! A row that cannot be evaluated stops nobody: it is reported and counts as not there. Of a row that is not live, only what
//! raises is missing.

use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;

use futures_util::future::{join_all, join3};
use tokio_postgres::types::ToSql;

use super::apply::{columns, parameters};
use super::array::TextArray;
use super::held;
use super::net::Key;
use super::prepared::Prepared;
use super::room::Room;
use super::select::{RowFailure, RowText, Select, Target, key_text};
use crate::change::{Row, TupleData};
use crate::error::{Error, Result};
use crate::event::shape::Entry;
use crate::mapping::record;
use crate::mapping::select::{IdLookup, Variant};

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
    /// Rows of a table without a key, as they are given.
    Images(Vec<&'r Row>),
    All,
}

/// What a request comes to.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    pub(crate) entries: Vec<Entry>,
    /// Positions in what was wanted of that which cannot be evaluated.
    pub(crate) failed: Vec<usize>,
}

impl Wanted<'_> {
    fn target(&self) -> Target {
        match self {
            Self::Keys(_) => Target::Keys,
            Self::Ids(_) => Target::Ids,
            Self::Images(_) => Target::Images,
            Self::All => Target::All,
        }
    }

    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Keys(keys) => keys.len(),
            Self::Ids(ids) => ids.len(),
            Self::Images(rows) => rows.len(),
            Self::All => 1,
        }
    }

    /// A part of what is wanted, for finding the row that fails.
    fn part(&self, part: Range<usize>) -> Self {
        match self {
            Self::Keys(keys) => Self::Keys(keys[part].to_vec()),
            Self::Ids(ids) => Self::Ids(ids[part].to_vec()),
            Self::Images(rows) => Self::Images(rows[part].to_vec()),
            Self::All => Self::All,
        }
    }

    fn position(&self, entry: &Entry) -> Option<usize> {
        match self {
            Self::Keys(keys) => keys.iter().position(|key| **key == entry.key),
            Self::Ids(ids) => ids.iter().position(|id| **id == *entry.id),
            Self::Images(_) | Self::All => None,
        }
    }

    /// The one row that is wanted, as a person reads it.
    fn describe(&self) -> String {
        match self {
            Self::Keys(keys) => keys.first().map(|key| key_text(key)).unwrap_or_default(),
            Self::Ids(ids) => ids.first().map(|id| (*id).to_owned()).unwrap_or_default(),
            Self::Images(rows) => rows.first().map(|row| row_text(row)).unwrap_or_default(),
            Self::All => String::new(),
        }
    }

    fn has_held(&self) -> bool {
        matches!(self, Self::Images(rows) if rows.iter().any(|row| held::has_held(row)))
    }

    fn arrays(&self, select: &Select) -> Vec<TextArray> {
        match self {
            Self::Keys(keys) => {
                (0..select.key_columns).map(|part| keys.iter().map(|key| key[part].clone()).collect()).collect()
            }
            Self::Ids(ids) => vec![ids.iter().copied().filter(|id| can_be_id(select.ids, id)).collect()],
            Self::Images(rows) => {
                let arrays = if self.has_held() { held::given } else { columns };
                arrays(rows.first().map_or(0, |row| row.len()), rows.iter().copied())
            }
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
        IdLookup::Text | IdLookup::Function | IdLookup::Computed => true,
    }
}

/// A whole row as a person reads it.
fn row_text(row: &Row) -> String {
    let values = row.iter().map(|value| match value {
        TupleData::Text(text) => String::from_utf8_lossy(text),
        TupleData::Held(held) => Cow::Owned(format!("({} bytes)", held.length)),
        TupleData::Null | TupleData::UnchangedToast => Cow::Borrowed("null"),
    });
    values.collect::<Vec<_>>().join(", ")
}

/// Evaluates the requests, all sent at once; an answer for each, in order. The rows take up `room`.
pub(crate) async fn evaluate(
    sql: &Prepared<'_>,
    requests: &[Request<'_>],
    room: &Room,
    failures: &mut Vec<RowFailure>,
) -> Result<Vec<Answer>> {
    if requests.is_empty() {
        return Ok(Vec::new());
    }
    for request in requests {
        sql.prepare(&request.what(), &request.text()).await?;
    }
    let (saved, answers, released) = join3(
        sql.run("open an evaluation", "SAVEPOINT evaluation"),
        join_all(requests.iter().map(|request| request.ask(sql, room))),
        sql.run("close an evaluation", "RELEASE SAVEPOINT evaluation"),
    )
    .await;
    saved?;
    let mut texts = Vec::with_capacity(requests.len());
    for answer in answers {
        match answer {
            Ok(text) => texts.push(text),
            Err(error) if is_about_a_row(&error) => return in_parts(sql, requests, room, failures).await,
            Err(error) => return Err(error),
        }
    }
    released?;
    requests.iter().zip(texts).map(|(request, texts)| request.answer(&texts, Vec::new(), failures)).collect()
}

/// After an error on some row: what is wanted is halved until the row that fails is alone.
async fn in_parts(
    sql: &Prepared<'_>,
    requests: &[Request<'_>],
    room: &Room,
    failures: &mut Vec<RowFailure>,
) -> Result<Vec<Answer>> {
    sql.run("leave a failed evaluation", LEAVE).await?;
    let mut all = Vec::with_capacity(requests.len());
    for request in requests {
        let mut texts = Vec::new();
        let mut failed = Vec::new();
        let mut rescued = Vec::new();
        let mut open: Vec<Range<usize>> = std::iter::once(0..request.wanted.len()).collect();
        while let Some(range) = open.pop() {
            let part = Request { wanted: request.wanted.part(range.clone()), ..*request };
            match part.ask(sql, room).await {
                Ok(found) => texts.extend(found),
                Err(error) if is_about_a_row(&error) => {
                    sql.run("leave a row", LEAVE).await?;
                    if range.len() > 1 {
                        let middle = range.start + range.len() / 2;
                        open.extend([middle..range.end, range.start..middle]);
                    } else if request.variant == Variant::Any {
                        rescued.extend(part.by_columns(sql, &error, failures).await?);
                    } else {
                        failed.push(range.start);
                        failures.push(part.failure(&error));
                    }
                }
                Err(error) => return Err(error),
            }
        }
        let mut answer = request.answer(&texts, failed, failures)?;
        answer.entries.extend(rescued);
        all.push(answer);
    }
    sql.run("close an evaluation", "RELEASE SAVEPOINT evaluation").await?;
    Ok(all)
}

/// An evaluation only reads, so going back loses nothing.
const LEAVE: &str = "ROLLBACK TO SAVEPOINT evaluation";

/// SQLSTATE classes 21, 22 and 23: the data of a row. Anything else is about the server and is tried again.
fn is_about_a_row(error: &Error) -> bool {
    error.sqlstate().is_some_and(|state| matches!(&state.code()[..2], "21" | "22" | "23"))
}

impl Request<'_> {
    fn what(&self) -> String {
        format!("evaluate {}", self.select.entity().name())
    }

    fn text(&self) -> Cow<'_, str> {
        self.taking(self.select.texts.get(&(self.variant, self.wanted.target())).map_or("", String::as_str))
    }

    /// A text for the arrays of what is wanted.
    fn taking<'t>(&self, text: &'t str) -> Cow<'t, str> {
        if self.wanted.has_held() { Cow::Owned(held::taking(text)) } else { Cow::Borrowed(text) }
    }

    async fn ask(&self, sql: &Prepared<'_>, room: &Room) -> Result<Vec<RowText>> {
        let arrays = self.wanted.arrays(self.select);
        let parameters: Vec<&(dyn ToSql + Sync)> = parameters(&arrays);
        let rows = sql.query_within(&self.what(), &self.text(), &parameters, room).await?;
        let whole: Option<Vec<RowText>> =
            rows.iter().map(|row| Some(RowText { text: row.get::<_, Option<String>>(0)?, is_cut: false })).collect();
        if let Some(whole) = whole {
            return Ok(whole);
        }
        // Some row is too large: all are read again, without what makes one so.
        let cut = self.select.cut.get(&(self.variant, self.wanted.target())).map_or("", String::as_str);
        let rows = sql.query_within(&self.what(), &self.taking(cut), &parameters, room).await?;
        Ok(rows.iter().map(|row| RowText { text: row.get(0), is_cut: true }).collect())
    }

    fn failure(&self, error: &Error) -> RowFailure {
        self.select.failure(self.wanted.describe(), sqlstate(error), message(error))
    }

    /// One row, one output after the other: what raises is null, and reported. None if there is no one row.
    async fn by_columns(
        &self,
        sql: &Prepared<'_>,
        error: &Error,
        failures: &mut Vec<RowFailure>,
    ) -> Result<Option<Entry>> {
        let select = self.select;
        let Some(by_column) = select.by_column.get(&self.wanted.target()) else { return Ok(None) };
        let arrays = self.wanted.arrays(select);
        let mut key: Option<Vec<Option<String>>> = None;
        let mut outputs: Vec<Option<String>> = Vec::with_capacity(select.shape.names.len());
        let mut raised = Vec::new();
        let mut is_cut = false;
        for (place, output) in select.shape.names.iter().enumerate() {
            let text = select.bounded(&by_column.text(place));
            match sql.query_once(&self.what(), &self.taking(&text), &parameters(&arrays)).await {
                Ok(rows) => {
                    let [row] = rows.as_slice() else {
                        failures.push(self.failure(error));
                        return Ok(None);
                    };
                    let Some(record) = row.get(0) else {
                        is_cut = true;
                        outputs.push(None);
                        continue;
                    };
                    let mut fields: Vec<Option<String>> =
                        record::parse(record)?.into_iter().map(|field| field.map(Cow::into_owned)).collect();
                    outputs.push(fields.pop().flatten());
                    key = Some(fields);
                }
                Err(error) if is_about_a_row(&error) => {
                    sql.run("leave a column", LEAVE).await?;
                    let message = format!("column {output}: {}", message(&error));
                    raised.push(select.failure(self.wanted.describe(), sqlstate(&error), message));
                    outputs.push(None);
                }
                Err(error) => return Err(error),
            }
        }
        let Some(mut fields) = key.filter(|_| !raised.is_empty()) else {
            // What raises is no output alone: a join, or all of them.
            failures.push(self.failure(error));
            return Ok(None);
        };
        failures.extend(raised);
        fields.extend(outputs);
        let fields: Vec<Option<Cow<'_, str>>> = fields.into_iter().map(|field| field.map(Cow::Owned)).collect();
        match select.entry_of(&fields) {
            Ok(entry) => Ok(Some(Entry { is_cut, ..entry })),
            Err(failure) => {
                failures.extend(Some(failure).filter(|_| self.variant == Variant::Live));
                Ok(None)
            }
        }
    }

    /// The rows as entries; two rows for one key are a failure and neither counts.
    fn answer(&self, texts: &[RowText], failed: Vec<usize>, failures: &mut Vec<RowFailure>) -> Result<Answer> {
        let mut entries: Vec<Entry> = Vec::with_capacity(texts.len());
        let mut seen: HashMap<Key, bool> = HashMap::with_capacity(texts.len());
        let mut answer = Answer { entries: Vec::new(), failed };
        for text in texts {
            match self.select.entry(text)? {
                Ok(entry) => {
                    let double = seen.entry(entry.key.clone()).and_modify(|double| *double = true).or_insert(false);
                    if self.select.key_columns == 0 || !*double {
                        entries.push(entry);
                    }
                }
                // What is not live need not be a row of this entity at all: nobody can name it by an id that it has not.
                Err(_) if self.variant == Variant::Any => {}
                Err(failure) => failures.push(failure),
            }
        }
        if self.select.key_columns > 0 && seen.values().any(|double| *double) {
            let (doubles, rest): (Vec<Entry>, Vec<Entry>) =
                entries.into_iter().partition(|entry| seen.get(&entry.key).is_some_and(|double| *double));
            entries = rest;
            for entry in doubles {
                answer.failed.extend(self.wanted.position(&entry));
                let message = "the SELECT gives more than one row for this key";
                failures.push(self.select.failure(key_text(&entry.key), "21000", message));
            }
        }
        answer.entries = entries;
        Ok(answer)
    }
}

fn sqlstate(error: &Error) -> &str {
    error.sqlstate().map_or("", |state| state.code())
}

fn message(error: &Error) -> String {
    error.postgres().map(|db| db.message().to_owned()).unwrap_or_default()
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
