//! What the five SELECTs come to: which tables and columns are mirrored, and the SQL text that evaluates each entity
//! over the mirror. Pure data: setup makes a plan, stores it as JSON in `portalhook.plan`, and `run` loads it.

use serde::{Deserialize, Serialize};

use super::layout::quote;

/// What a mapping describes; the order is the order of events at one place of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Entity {
    Posts,
    Votes,
    Comments,
    CommentVotes,
    Users,
    Portals,
}

impl Entity {
    pub(crate) const ALL: [Self; 6] =
        [Self::Posts, Self::Votes, Self::Comments, Self::CommentVotes, Self::Users, Self::Portals];

    /// The view's name in schema `portalhook`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Posts => "posts",
            Self::Votes => "votes",
            Self::Comments => "comments",
            Self::CommentVotes => "comment_votes",
            Self::Users => "users",
            Self::Portals => "portals",
        }
    }
}

/// The whole mapping, checked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Plan {
    pub(crate) tables: Vec<Table>,
    /// One for each mapped entity, in `Entity` order. `CommentVotes` may be absent; the others are always there.
    pub(crate) entities: Vec<EntityPlan>,
}

impl Plan {
    pub(crate) fn entity(&self, entity: Entity) -> Option<&EntityPlan> {
        self.entities.iter().find(|plan| plan.entity == entity)
    }

    /// Some SELECT asks what time it is: then each transaction is evaluated at its own time.
    pub(crate) fn reads_clock(&self) -> bool {
        self.entities.iter().any(|plan| plan.reads_clock)
    }
}

/// A table of the application that the mapping reads, and its mirror.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Table {
    pub(crate) oid: u32,
    pub(crate) schema: String,
    pub(crate) name: String,
    /// The table as the mapping says it, `public.posts`: it stays so where the table was renamed since. Empty in plans of earlier
    /// versions.
    #[serde(default)]
    pub(crate) said: String,
    /// The mirror's name in schema `portalhook_mirror`, not quoted: `public.posts` (one name, with the dot in it).
    pub(crate) mirror: String,
    /// The mirrored columns in the source's order: those that the mapping reads, and the key's.
    pub(crate) columns: Vec<Column>,
    /// The primary key (or the index that is the replica identity), as indexes into `columns`. Empty: no key.
    pub(crate) key: Vec<usize>,
    /// Tables inherit from it, whose rows are not its own: the SELECTs name it with ONLY.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) only: bool,
}

impl Table {
    /// The table of the application, as a FROM names it.
    pub(crate) fn source(&self) -> String {
        format!("{}{}.{}", self.only(), quote(&self.schema), quote(&self.name))
    }

    /// What stands before its name where its own rows are meant.
    pub(crate) fn only(&self) -> &'static str {
        if self.only { "ONLY " } else { "" }
    }
}

/// A mirrored column.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Column {
    pub(crate) name: String,
    /// Its place in the source's catalog (`pg_attribute.attnum`), by which a renamed column is known; 0: not known.
    #[serde(default)]
    pub(crate) number: i16,
    pub(crate) type_oid: u32,
    /// `format_type(atttypid, atttypmod)` in the source, schema-qualified where the type is not built in.
    pub(crate) source_type: String,
    /// The type in the mirror: the source's where it is PostgreSQL's own, otherwise `text` (output text, cast to
    /// `source_type` when a SELECT reads it), so that nothing of ours pins a type of the application.
    pub(crate) mirror_type: String,
    /// A stored or virtual generated column is not in the stream: its expression over the other mirrored columns.
    /// Such a column is not stored in the mirror; the SELECTs compute it.
    pub(crate) generated: Option<String>,
    /// The column's collation where it is not its type's own, qualified and quoted (`pg_catalog."C"`). The mirror's column
    /// has it where it is PostgreSQL's own; otherwise the SELECTs apply it.
    #[serde(default)]
    pub(crate) collation: Option<String>,
}

impl Column {
    /// Whether the mirror has this column: a generated one is computed when it is read.
    pub(crate) fn is_stored(&self) -> bool {
        self.generated.is_none()
    }

    /// The expression that turns the mirror's value into the source's, where that is not the column itself.
    pub(crate) fn cast(&self) -> Option<String> {
        let name = quote(&self.name);
        let cast =
            if self.mirror_type == self.source_type { None } else { Some(format!("{name}::{}", self.source_type)) };
        match &self.collation {
            Some(collation) if !self.is_collated_in_mirror() => {
                Some(format!("({}) COLLATE {collation}", cast.unwrap_or(name)))
            }
            _ => cast,
        }
    }

    /// Whether the collation can stand in the mirror: nothing of ours may depend on a collation of the application.
    pub(crate) fn is_collated_in_mirror(&self) -> bool {
        self.mirror_type == self.source_type
            && self.collation.as_deref().is_some_and(|collation| collation.starts_with("pg_catalog."))
    }
}

/// How a value of a SELECT is written into a body.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ValueKind {
    /// int2/4/8, numeric, float4/8, oid: as printed; NaN and infinities as strings.
    Number,
    Bool,
    /// Without zone: read as UTC.
    Timestamp,
    TimestampTz,
    /// json and jsonb.
    Json,
    Bytea,
    Array(Box<ValueKind>),
    Text,
}

/// A column of an entity's SELECT.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Output {
    pub(crate) name: String,
    pub(crate) kind: ValueKind,
}

/// One SELECT of the mapping, as the operator wrote it and as we run it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct EntityPlan {
    pub(crate) entity: Entity,
    /// As the operator wrote it.
    pub(crate) query: String,
    /// As PostgreSQL normalised it (`pg_get_viewdef` under an empty search_path).
    pub(crate) canonical: String,
    /// Index into `Plan::tables` of the first table in FROM; `None` for a constant (portals without FROM).
    pub(crate) base: Option<usize>,
    /// The columns of the SELECT, in its order.
    pub(crate) outputs: Vec<Output>,
    /// Indexes into `Plan::tables` of the tables that the SELECT joins or looks into; holds `base` only where the SELECT
    /// names the base table a second time.
    pub(crate) reads: Vec<usize>,
    /// The `id` is this column of the base table, unchanged (index into its `columns`): a lookup by id can use it directly.
    pub(crate) id_column: Option<usize>,
    /// No two rows of the base can have the same id.
    #[serde(default)]
    pub(crate) id_is_unique: bool,
    /// Finds rows by a computed id, by an index.
    #[serde(default)]
    pub(crate) id_function: Option<IdFunction>,
    /// The SELECT asks what time it is, which means the commit time (`clock::COMMIT_TIME`).
    #[serde(default)]
    pub(crate) reads_clock: bool,
    /// With the WHERE in place: what it returns is live.
    pub(crate) live: Template,
    /// Without the WHERE: the row, whatever its state. Equal to `live` where the SELECT has no WHERE.
    pub(crate) any: Template,
}

/// A function of ours that computes an entity's id as text from columns of the mirror.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct IdFunction {
    /// In schema `portalhook_mirror`: another one for another definition, so that an old and a new mirror can stand side by side.
    pub(crate) name: String,
    /// Its arguments, as indexes into the base's columns.
    pub(crate) columns: Vec<usize>,
    /// Its body, in SQL.
    pub(crate) body: String,
}

/// A SELECT over the mirror with a hole where the base table stood:
/// `head` + a parenthesised query or a table of the base's mirrored shape + `tail`.
///
/// `head` ends with ` FROM ` (or wherever the base stood), `tail` starts with the base's alias (` AS p`). The target list
/// starts with the base's key columns as stored in the mirror (as many as `Table::key`; none for a constant), then the
/// `outputs` in order; all other tables are mirrors. A constant has everything in `head`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Template {
    pub(crate) head: String,
    pub(crate) tail: String,
}
