//! Which column of a SELECT goes where in a body.

use bytes::Bytes;

use crate::mapping::plan::{Entity, EntityPlan};

/// One row of an entity's SELECT, its values already written as JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// The base row's key; empty where there is none.
    pub(crate) key: Box<[Bytes]>,
    /// The mapped `id` as text.
    pub(crate) id: Box<str>,
    /// The rows that this one names, as text: see `Shape::REFERENCES`.
    pub(crate) references: Box<[Option<Box<str>>]>,
    /// The SELECT's columns, in its order.
    pub(crate) json: Box<[Box<str>]>,
    /// Some of its values are too large to be read: they stand as size and digest, and no body can have them.
    pub(crate) is_cut: bool,
}

impl Entry {
    pub(crate) fn reference(&self, index: usize) -> Option<&str> {
        self.references.get(index).and_then(|reference| reference.as_deref())
    }

    /// About how much memory the entry takes, in bytes.
    pub(crate) fn size(&self) -> usize {
        let texts: usize = self.json.iter().map(|text| text.len() + 16).sum();
        texts + self.key.iter().map(|part| part.len() + 32).sum::<usize>() + 128
    }
}

/// The columns of one entity, by what they mean.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    pub(crate) entity: Entity,
    pub(crate) names: Vec<String>,
    /// Position of `id`; `None` only for comment votes, which may lack it.
    pub(crate) id: Option<usize>,
    /// Positions of the columns that name another row, in the order of `references`.
    pub(crate) references: Vec<usize>,
    /// Columns beyond those that the body knows, in the SELECT's order.
    pub(crate) extras: Vec<usize>,
}

/// The columns that name other rows: positions in `Entry::references`.
fn references(entity: Entity) -> &'static [&'static str] {
    match entity {
        Entity::Posts => &["author", "portal"],
        Entity::Votes => &["post", "voter"],
        Entity::Comments => &["post", "author"],
        Entity::CommentVotes => &["voter"],
        Entity::Users | Entity::Portals => &[],
    }
}

/// The columns with a place of their own in the body.
fn known(entity: Entity) -> &'static [&'static str] {
    match entity {
        Entity::Posts => &["id", "title", "description", "status", "author", "portal", "created_at"],
        Entity::Votes => &["id", "post", "voter", "created_at"],
        Entity::Comments => &["id", "post", "author", "comment", "created_at"],
        Entity::CommentVotes => &["id", "voter"],
        Entity::Users => &[
            "id",
            "name",
            "email",
            "role",
            "counter_votes",
            "counter_comments",
            "counter_posts",
            "counter_comment_votes",
        ],
        Entity::Portals => &["id", "title"],
    }
}

impl Shape {
    pub(crate) fn new(plan: &EntityPlan) -> Self {
        let names: Vec<String> = plan.outputs.iter().map(|output| output.name.clone()).collect();
        let position = |wanted: &str| names.iter().position(|name| name == wanted);
        Self {
            entity: plan.entity,
            id: position("id"),
            references: references(plan.entity).iter().filter_map(|name| position(name)).collect(),
            extras: (0..names.len()).filter(|&index| !known(plan.entity).contains(&names[index].as_str())).collect(),
            names,
        }
    }

    pub(crate) fn position(&self, name: &str) -> Option<usize> {
        self.names.iter().position(|candidate| candidate == name)
    }

    /// The JSON of a named column; `null` where the SELECT has no such column.
    pub(crate) fn json<'a>(&self, entry: &'a Entry, name: &str) -> &'a str {
        self.position(name).and_then(|index| entry.json.get(index)).map_or("null", |json| json)
    }
}
