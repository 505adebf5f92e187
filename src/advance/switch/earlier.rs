//! Rows that were written under another description of their table than the plan follows: before an ALTER TABLE of their own
//! transaction, or before a pause at which the plan went ahead. They are read under the names and types of now.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;

use super::relation::{Known, describe, of_now};
use crate::advance::Advance;
use crate::change::{Change, Held, Relation, ReplicaIdentity, Row, TupleData};
use crate::error::{Context as _, Result};
use crate::mapping::plan::{Column, Table};
use crate::mirror::net::stored_columns;
use crate::session::Session;

/// Values as they can be cast, in order; null where one cannot.
const CASTABLE: &str =
    "SELECT portalhook.castable(u.value, $2) FROM unnest($1::text[]) WITH ORDINALITY AS u (value, n) ORDER BY u.n";
const CASTABLE_HELD: &str = "SELECT portalhook.castable(pg_temp.portalhook_given($1), $2) IS NOT NULL";
const COPY: &str = "SELECT portalhook.request_copy(ARRAY[$1::oid], $2)
    WHERE NOT EXISTS (SELECT FROM portalhook.switches AS s WHERE s.kind = 'copy' AND s.state <> 'done' AND $1::oid = ANY (s.tables))";

/// How rows of an earlier description become rows of a mirror.
struct Words {
    relation: Arc<Relation>,
    /// For each stored column its place in the description; `None`: it was not there.
    places: Vec<Option<usize>>,
    /// Places whose values have to be read as another type, and whether they find the row.
    converted: Vec<(usize, String, bool)>,
}

impl Advance {
    /// Whether some of these rows are of a description that the plan does not follow.
    pub(super) fn has_earlier(&self, changes: &[Change], xid: u64) -> bool {
        !self.earlier(changes, xid).is_empty()
    }

    fn earlier(&self, changes: &[Change], xid: u64) -> Vec<Arc<Relation>> {
        let mut found: Vec<Arc<Relation>> = Vec::new();
        let mut last: Option<&Arc<Relation>> = None;
        for relation in changes.iter().filter_map(Change::relation) {
            if last.is_some_and(|last| Arc::ptr_eq(last, relation)) {
                continue;
            }
            last = Some(relation);
            let follows = |known: &Known| known.serves && Arc::ptr_eq(&known.relation, relation);
            if self.plan.tables.iter().any(|table| table.oid == relation.oid)
                && !self.known.get(&relation.oid).is_some_and(follows)
                && !self.leaves_out(relation.oid, xid)
                && !found.iter().any(|one| Arc::ptr_eq(one, relation))
            {
                found.push(Arc::clone(relation));
            }
        }
        found
    }

    /// Makes earlier rows readable, with their values as the plan's types; a table for which that cannot be done is left out
    /// until it has been copied.
    pub(super) async fn read_earlier(&mut self, session: &Session, changes: &mut [Change], xid: u64) -> Result<()> {
        let mut accepted = Vec::new();
        for relation in self.earlier(changes, xid) {
            let Some(table) = self.plan.tables.iter().find(|table| table.oid == relation.oid) else { continue };
            let (oid, title) = (table.oid, format!("{}.{}", table.schema, table.name));
            let words = self.words(session, table, &relation).await?;
            let is_whole = table.key.is_empty();
            let lacks = words.places.contains(&None);
            let converted = match convert(session, &words, changes).await? {
                Some(lost) if !is_keyed_otherwise(table, &words) && !(is_whole && (lacks || lost)) => lost,
                _ => {
                    let why = format!(
                        "{title} changed between rows of one transaction, and those before cannot be told by its key of now"
                    );
                    self.resync(session, oid, &why).await?;
                    continue;
                }
            };
            if lacks || converted {
                let why = format!(
                    "{title} changed between rows of one transaction, and not all values of those before are known"
                );
                session.execute(COPY, &[&oid, &why]).await.context("ask for a fresh copy")?;
            }
            accepted.push((words.relation, words.places));
        }
        self.netting.accept(accepted);
        Ok(())
    }

    async fn words(&self, session: &Session, table: &Table, relation: &Arc<Relation>) -> Result<Words> {
        let described = describe(session, relation).await?;
        // What a large transaction comes to is not read yet: then the table as it is has to do.
        let now = match self.known.get(&relation.oid).filter(|known| known.serves) {
            Some(known) => Arc::clone(&known.relation),
            None => of_now(session, &[relation.oid]).await?.pop().map_or_else(|| Arc::clone(relation), Arc::new),
        };
        let place = |name: &str| relation.columns.iter().position(|column| column.name == name);
        let find = |column: &Column| {
            place(&column.name)
                .or_else(|| self.ahead.was(table.oid, &column.name).and_then(place))
                .or_else(|| renamed(relation, &now, &column.name))
        };
        let is_key = |index: usize| table.key.is_empty() || table.key.contains(&index);
        let stored: Vec<(usize, &Column)> = stored_columns(table).collect();
        let places: Vec<Option<usize>> = stored.iter().map(|(_, column)| find(column)).collect();
        let converted = stored.iter().zip(&places).filter_map(|(&(index, column), place)| {
            let place = (*place)?;
            let is_other = column.mirror_type != "text" && described[place].spelled != column.source_type;
            is_other.then(|| (place, column.mirror_type.clone(), is_key(index)))
        });
        Ok(Words { relation: Arc::clone(relation), converted: converted.collect(), places })
    }
}

/// Whether the description finds rows by other columns than the mirror does.
fn is_keyed_otherwise(table: &Table, words: &Words) -> bool {
    let stored: Vec<usize> = stored_columns(table).map(|(index, _)| index).collect();
    let place_of = |index: &usize| stored.iter().position(|one| one == index).and_then(|one| words.places[one]);
    let mut key: Vec<Option<usize>> = table.key.iter().map(place_of).collect();
    if words.relation.identity == ReplicaIdentity::Full {
        return key.contains(&None);
    }
    let shown = words.relation.columns.iter().enumerate().filter(|(_, column)| column.key);
    let mut shown: Vec<Option<usize>> = shown.map(|(place, _)| Some(place)).collect();
    key.sort_unstable();
    shown.sort_unstable();
    key != shown
}

/// Reads values as other types; whether some could not be. `None`: one of those that find the row.
async fn convert(session: &Session, words: &Words, changes: &mut [Change]) -> Result<Option<bool>> {
    let mut lost = false;
    for (place, to, is_key) in &words.converted {
        let mut casts: HashMap<Bytes, Option<Bytes>> = HashMap::new();
        for value in values(changes, &words.relation, *place) {
            if let TupleData::Text(text) = value {
                casts.insert(text.clone(), None);
            }
        }
        let texts: Vec<String> = casts.keys().map(|text| String::from_utf8_lossy(text).into_owned()).collect();
        let rows = session.query(CASTABLE, &[&texts, to]).await.context("read values as another type")?;
        for (text, row) in texts.into_iter().zip(rows) {
            let cast = row.get::<_, Option<&str>>(0).map(|cast| Bytes::copy_from_slice(cast.as_bytes()));
            casts.insert(Bytes::from(text), cast);
        }
        for value in values(changes, &words.relation, *place) {
            match value {
                TupleData::Text(text) => {
                    if let Some(Some(cast)) = casts.get(text) {
                        *text = cast.clone();
                        continue;
                    }
                }
                TupleData::Held(held) if is_castable(session, held, to).await? => continue,
                TupleData::Held(_) => {}
                TupleData::Null | TupleData::UnchangedToast => continue,
            }
            if *is_key {
                return Ok(None);
            }
            lost = true;
            *value = TupleData::UnchangedToast;
        }
    }
    Ok(Some(lost))
}

async fn is_castable(session: &Session, held: &Held, to: &str) -> Result<bool> {
    let field = format!("h{held}");
    let row = session.query_one(CASTABLE_HELD, &[&field, &to]).await.context("read a large value as another type")?;
    Ok(row.get(0))
}

/// What stands at a place in rows of this description.
fn values<'c>(
    changes: &'c mut [Change],
    relation: &'c Arc<Relation>,
    place: usize,
) -> impl Iterator<Item = &'c mut TupleData> {
    let of = |change: &'c mut Change| -> Vec<&'c mut Row> {
        match change {
            Change::Insert { relation: of, new } if Arc::ptr_eq(of, relation) => vec![new],
            Change::Update { relation: of, old, new } if Arc::ptr_eq(of, relation) => {
                old.iter_mut().chain(std::iter::once(new)).collect()
            }
            Change::Delete { relation: of, old } if Arc::ptr_eq(of, relation) => vec![old],
            _ => Vec::new(),
        }
    };
    changes.iter_mut().flat_map(of).filter_map(move |row| row.get_mut(place))
}

/// Where a column of `now` stood in an earlier description, if it was only renamed. A renamed column keeps its place: it stands
/// between the same columns, as one of as many, with its type.
fn renamed(earlier: &Relation, now: &Relation, name: &str) -> Option<usize> {
    let position = |of: &Relation, name: &str| of.columns.iter().position(|column| column.name == name);
    let at = position(now, name)?;
    let anchor = |column: &crate::change::Column| position(earlier, &column.name);
    let before = now.columns[..at].iter().rposition(|column| anchor(column).is_some());
    let after = now.columns[at..].iter().position(|column| anchor(column).is_some()).map(|offset| at + offset);
    let from = before.map_or(Some(0), |place| anchor(&now.columns[place]).map(|found| found + 1))?;
    let to = after.map_or(Some(earlier.columns.len()), |place| anchor(&now.columns[place]))?;
    let run = after.unwrap_or(now.columns.len()) - before.map_or(0, |place| place + 1);
    let found = from + (at - before.map_or(0, |place| place + 1));
    let is_alike = to.checked_sub(from) == Some(run)
        && earlier
            .columns
            .get(found)
            .is_some_and(|column| column.type_oid == now.columns[at].type_oid && position(now, &column.name).is_none());
    is_alike.then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::Column;

    fn relation(columns: &[(&str, u32)]) -> Relation {
        let column =
            |&(name, type_oid): &(&str, u32)| Column { name: name.into(), type_oid, type_modifier: -1, key: false };
        Relation {
            oid: 1,
            schema: "public".into(),
            name: "posts".into(),
            identity: ReplicaIdentity::Default,
            columns: columns.iter().map(column).collect(),
        }
    }

    #[test]
    fn a_renamed_column_is_known_by_its_place() {
        let now = relation(&[("id", 23), ("headline", 25), ("status", 25), ("more", 25)]);
        let found = |earlier: &[(&str, u32)], name| renamed(&relation(earlier), &now, name);
        assert_eq!(found(&[("id", 23), ("title", 25), ("status", 25)], "headline"), Some(1));
        assert_eq!(found(&[("id", 23), ("title", 25), ("status", 25)], "more"), None, "added");
        assert_eq!(found(&[("id", 23), ("title", 23), ("status", 25)], "headline"), None, "another type");
        assert_eq!(found(&[("id", 23), ("a", 25), ("b", 25), ("status", 25)], "headline"), None, "which of them?");
        assert_eq!(found(&[("id", 23), ("status", 25)], "headline"), None);
        assert_eq!(found(&[("id", 23), ("title", 25), ("state", 25), ("more", 25)], "status"), Some(2));
    }
}
