//! What must come of a transaction: plain set logic over the SELECTs' rows before it and after it. Nothing here knows how
//! the daemon works.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use super::places::At;

/// A row of a base table as the mapping shows it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Row {
    /// The primary key's columns with commas between them.
    pub(super) key: String,
    /// Differs after each write of the row.
    pub(super) version: String,
    pub(super) live: bool,
    pub(super) columns: Map<String, Value>,
}

/// The rows of each entity by their mapped ids.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct State(pub(super) BTreeMap<String, BTreeMap<String, Row>>);

/// Posts, votes, comments and comment votes of each user.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Counters(pub(super) BTreeMap<String, [i64; 4]>);

/// An event.
#[derive(Clone, Debug)]
pub(super) struct Told {
    pub(super) event: String,
    pub(super) data: Value,
    /// The entity whose base row's last write is the event's place, and that row's key.
    pub(super) at: At,
    /// The order of events at one place: deleted, created, status_changed, updated; posts before votes before comments.
    pub(super) rank: (usize, usize),
}

/// An entity whose live rows count, and the column that says for whom.
const COUNTED: [(&str, &str); 4] =
    [("posts", "author"), ("votes", "voter"), ("comments", "author"), ("comment_votes", "voter")];

impl State {
    fn rows(&self, entity: &str) -> impl Iterator<Item = (&String, &Row)> {
        self.0.get(entity).into_iter().flatten()
    }

    fn row(&self, entity: &str, id: &str) -> Option<&Row> {
        self.0.get(entity)?.get(id)
    }

    /// The live rows of each user.
    pub(super) fn counters(&self) -> Counters {
        let mut counters = Counters::default();
        for (place, (entity, column)) in COUNTED.into_iter().enumerate() {
            for (_, row) in self.rows(entity).filter(|(_, row)| row.live) {
                counters.count(reference(row, column), place, 1);
            }
        }
        counters
    }
}

impl Counters {
    fn count(&mut self, user: Option<String>, place: usize, by: i64) {
        if let Some(user) = user {
            self.0.entry(user).or_default()[place] += by;
        }
    }

    /// Without the users who have nothing.
    pub(super) fn without_zeros(&self) -> Self {
        Self(
            self.0
                .iter()
                .filter(|(_, counts)| **counts != [0; 4])
                .map(|(user, counts)| (user.clone(), *counts))
                .collect(),
        )
    }
}

/// A transaction: everything before it and after it.
pub(super) struct Transition<'s> {
    pub(super) before: &'s State,
    pub(super) after: &'s State,
    counters_before: Counters,
    pub(super) counters_after: Counters,
}

impl<'s> Transition<'s> {
    pub(super) fn new(before: &'s State, after: &'s State, counters: &Counters) -> Self {
        let mut counters_after = counters.clone();
        for (place, (entity, column)) in COUNTED.into_iter().enumerate() {
            for (_, old, new) in written(before, after, entity) {
                counters_after.count(old.filter(|row| row.live).and_then(|row| reference(row, column)), place, -1);
                counters_after.count(new.filter(|row| row.live).and_then(|row| reference(row, column)), place, 1);
            }
        }
        Self { before, after, counters_before: counters.clone(), counters_after }
    }

    /// The events, in no order; with `fold` what goes with its post is not told.
    pub(super) fn events(&self, fold: bool) -> Vec<Told> {
        let mut told = Vec::new();
        for (kind, (entity, singular)) in
            [("posts", "post"), ("votes", "vote"), ("comments", "comment")].into_iter().enumerate()
        {
            for (_, old, new) in written(self.before, self.after, entity) {
                let mut tell = |what: &str, row: &Row, changes: Option<Value>| {
                    if fold && what == "deleted" && self.goes_with_its_post(row) {
                        return;
                    }
                    // What was live before and after stands where its row is now.
                    let last = new.filter(|new| new.live).unwrap_or(row);
                    let rank =
                        ["deleted", "created", "status_changed", "updated"].iter().position(|name| *name == what);
                    told.push(Told {
                        event: format!("{singular}.{what}"),
                        data: self.data(singular, row, changes),
                        at: (entity, last.key.clone()),
                        rank: (rank.expect("one of the four"), kind),
                    });
                };
                match (old.filter(|row| row.live), new.filter(|row| row.live)) {
                    (None, None) => {}
                    (None, Some(new)) => tell("created", new, None),
                    (Some(old), None) => tell("deleted", old, None),
                    (Some(old), Some(new)) if entity == "votes" => {
                        if ["post", "voter"].iter().any(|column| old.columns[*column] != new.columns[*column]) {
                            tell("deleted", old, None);
                            tell("created", new, None);
                        }
                    }
                    (Some(old), Some(new)) => {
                        let is_status = |column: &str| entity == "posts" && column == "status";
                        for (what, of_status) in [("status_changed", true), ("updated", false)] {
                            let changes: Map<String, Value> = (new.columns.iter())
                                .filter(|(column, value)| {
                                    is_status(column) == of_status && old.columns[*column] != **value
                                })
                                .map(|(column, to)| (column.clone(), json!({"from": old.columns[column], "to": to})))
                                .collect();
                            if !changes.is_empty() {
                                tell(what, new, Some(Value::Object(changes)));
                            }
                        }
                    }
                }
            }
        }
        told
    }

    /// Whether a row that is gone names a post that this transaction removed.
    fn goes_with_its_post(&self, row: &Row) -> bool {
        row.columns.contains_key("post")
            && self.see("posts", reference(row, "post")).is_some_and(|(_, removed)| removed)
    }

    fn data(&self, singular: &str, row: &Row, changes: Option<Value>) -> Value {
        let own = singular == "post";
        let mut data = Map::new();
        let entity = match singular {
            "post" => self.post(row, true),
            "vote" => {
                let known = ["id", "created_at"];
                object(row, &known, &["post", "voter"], [("voter", self.person(row, "voter"))])
            }
            _ => {
                let known = ["id", "created_at", "comment"];
                object(row, &known, &["post", "author"], [("author", self.person(row, "author"))])
            }
        };
        data.insert(singular.to_owned(), entity);
        let post = if own { Some(row) } else { self.see("posts", reference(row, "post")).map(|(row, _)| row) };
        if !own {
            data.insert("post".to_owned(), post.map_or(Value::Null, |post| self.post(post, false)));
        }
        let portal = post.and_then(|post| self.see("portals", reference(post, "portal")));
        data.insert("portal".to_owned(), portal.map_or(Value::Null, |(row, _)| object(row, &["id", "title"], &[], [])));
        data.extend(changes.map(|changes| ("changes".to_owned(), changes)));
        Value::Object(data)
    }

    fn post(&self, row: &Row, own: bool) -> Value {
        let known: &[&str] =
            if own { &["id", "title", "description", "status", "created_at"] } else { &["id", "title", "description"] };
        object(row, known, &["status", "created_at", "author", "portal"], [("author", self.person(row, "author"))])
    }

    fn person(&self, row: &Row, column: &str) -> Value {
        let Some(id) = reference(row, column) else { return Value::Null };
        let Some((user, removed)) = self.see("users", Some(id.clone())) else { return Value::Null };
        let counters = if removed { &self.counters_before } else { &self.counters_after };
        let [posts, votes, comments, comment_votes] =
            counters.0.get(&id).copied().unwrap_or_default().map(|count| count.max(0).into());
        let counters = [
            ("counter_votes", votes),
            ("counter_comments", comments),
            ("counter_posts", posts),
            ("counter_comment_votes", comment_votes),
        ];
        object(user, &["id", "name", "email", "role"], &[], counters)
    }

    /// A row that a body names: as after the transaction, or, where that removed it, as before; and which of the two.
    fn see(&self, entity: &str, id: Option<String>) -> Option<(&Row, bool)> {
        let id = id?;
        let after = self.after.row(entity, &id).map(|row| (row, false));
        after.or_else(|| self.before.row(entity, &id).map(|row| (row, true)))
    }
}

/// The ids whose row the transaction wrote, with the row before and after.
fn written<'s>(
    before: &'s State,
    after: &'s State,
    entity: &'s str,
) -> impl Iterator<Item = (&'s str, Option<&'s Row>, Option<&'s Row>)> {
    let ids: BTreeSet<&str> = before.rows(entity).chain(after.rows(entity)).map(|(id, _)| id.as_str()).collect();
    ids.into_iter()
        .map(move |id| (id, before.row(entity, id), after.row(entity, id)))
        .filter(|(_, old, new)| old.map(|row| &row.version) != new.map(|row| &row.version))
}

/// The named columns, `more`, and then what the operator added: every column that is neither named nor `elsewhere`.
fn object<const N: usize>(row: &Row, known: &[&str], elsewhere: &[&str], more: [(&str, Value); N]) -> Value {
    let mut object: Map<String, Value> =
        known.iter().map(|name| ((*name).to_owned(), row.columns[*name].clone())).collect();
    object.extend(more.map(|(name, value)| (name.to_owned(), value)));
    let extra =
        row.columns.iter().filter(|(name, _)| !known.contains(&name.as_str()) && !elsewhere.contains(&name.as_str()));
    object.extend(extra.map(|(name, value)| (name.clone(), value.clone())));
    Value::Object(object)
}

/// The id that a column names, as text.
fn reference(row: &Row, column: &str) -> Option<String> {
    match &row.columns[column] {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    }
}
