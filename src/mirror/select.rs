//! One entity's SELECT over the mirror: its texts, and how a row of it is read.

use std::borrow::Cow;
use std::collections::HashMap;

use bytes::Bytes;

use super::net::Key;
use crate::error::{Error, Result};
use crate::event::shape::{Entry, Shape};
use crate::mapping::plan::{Entity, EntityPlan, Plan};
use crate::mapping::record;
use crate::mapping::select::{ByColumn, IdLookup, Restriction, Variant};

/// A row, named by its table's key, that the mapping cannot evaluate.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct RowFailure {
    pub(crate) entity: Entity,
    pub(crate) key: String,
    pub(crate) sqlstate: String,
    pub(crate) message: String,
}

/// One entity's SELECT, its texts made once.
pub(crate) struct Select {
    pub(crate) shape: Shape,
    pub(super) plan: EntityPlan,
    pub(super) key_columns: usize,
    pub(super) ids: IdLookup,
    /// WHERE keeps something out: rows that are not live have to be asked for apart.
    pub(crate) has_dead_rows: bool,
    /// Bytes of the largest row that is read as it is.
    limit: usize,
    pub(super) texts: HashMap<(Variant, Target), String>,
    /// For rows that are too large to be read.
    pub(super) cut: HashMap<(Variant, Target), String>,
    /// For rows that are not live, each output alone: one of them may raise.
    pub(super) by_column: HashMap<Target, ByColumn>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Target {
    Keys,
    Ids,
    Images,
    All,
}

/// One row of a SELECT as PostgreSQL prints a record.
pub(super) struct RowText {
    pub(super) text: String,
    /// As `Plan::select_cut` has it.
    pub(super) is_cut: bool,
}

impl Select {
    /// Rows of more than `limit` bytes are read without their large values.
    pub(crate) fn new(plan: &Plan, entity: &EntityPlan, limit: usize) -> Self {
        let base = entity.base.and_then(|base| plan.tables.get(base));
        let mut targets = vec![(Target::All, Restriction::All)];
        match base {
            Some(base) if base.key.is_empty() => {
                targets.extend([(Target::Ids, Restriction::Ids), (Target::Images, Restriction::Images)]);
            }
            Some(_) => targets.extend([(Target::Ids, Restriction::Ids), (Target::Keys, Restriction::Keys)]),
            None => {}
        }
        let mut texts = HashMap::new();
        let mut cut = HashMap::new();
        let mut by_column = HashMap::new();
        for (target, restriction) in &targets {
            for variant in [Variant::Live, Variant::Any] {
                let whole = plan.select(entity.entity, variant, restriction);
                texts.insert((variant, *target), bounded(&whole, limit));
                cut.insert((variant, *target), plan.select_cut(entity.entity, variant, restriction));
            }
            by_column.insert(*target, plan.select_by_column(entity.entity, Variant::Any, restriction));
        }
        Self {
            shape: Shape::new(entity),
            key_columns: base.map_or(0, |table| table.key.len()),
            ids: plan.id_lookup(entity),
            has_dead_rows: entity.live != entity.any,
            plan: entity.clone(),
            limit,
            texts,
            cut,
            by_column,
        }
    }

    /// A text whose record is null where it is too large to be read.
    pub(super) fn bounded(&self, text: &str) -> String {
        bounded(text, self.limit)
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

    pub(crate) fn reads_clock(&self) -> bool {
        self.plan.reads_clock
    }

    /// Two rows may have the same id, and an index finds them.
    pub(crate) fn may_have_rivals(&self) -> bool {
        self.key_columns > 0 && self.shape.id.is_some() && !self.plan.id_is_unique && self.ids != IdLookup::Computed
    }

    /// Two rows may have the same id, and only reading all of them would find the other one.
    pub(crate) fn has_unknown_rivals(&self) -> bool {
        self.key_columns > 0 && self.shape.id.is_some() && !self.plan.id_is_unique && self.ids == IdLookup::Computed
    }

    /// The base table has no key: its rows are found by id, or given as they are.
    pub(crate) fn is_keyless(&self) -> bool {
        self.plan.base.is_some() && self.key_columns == 0
    }

    /// Reads one record of the SELECT: the key's columns, then the outputs.
    pub(super) fn entry(&self, text: &RowText) -> Result<std::result::Result<Entry, RowFailure>> {
        let mut fields = record::parse(&text.text)?;
        if fields.len() != self.key_columns + self.plan.outputs.len() {
            return Err(Error::failed(format!("the SELECT of {} gave a row of another shape", self.entity().name())));
        }
        if !text.is_cut {
            return Ok(self.entry_of(&fields));
        }
        let mut is_cut = false;
        for field in fields.iter_mut().flatten() {
            if field.starts_with('s') {
                *field = Cow::Owned(field[1..].to_owned());
            } else {
                is_cut = true;
            }
        }
        Ok(self.entry_of(&fields).map(|entry| Entry { is_cut, ..entry }))
    }

    pub(super) fn entry_of(&self, fields: &[Option<Cow<'_, str>>]) -> std::result::Result<Entry, RowFailure> {
        let (key, outputs) = fields.split_at(self.key_columns);
        let key: Key =
            key.iter().map(|part| Bytes::copy_from_slice(part.as_deref().unwrap_or_default().as_bytes())).collect();
        let own = |index: usize| outputs[index].as_deref().map(Box::from);
        let id: Option<Box<str>> = match self.shape.id {
            Some(index) => own(index),
            None => Some(key_text(&key).into()),
        };
        let Some(id) = id else {
            return Err(self.failure(key_text(&key), "23502", "its id is null"));
        };
        // Written aside: what a text grew by would stay with it.
        let mut written = String::new();
        let json = outputs
            .iter()
            .zip(&self.plan.outputs)
            .map(|(field, output)| {
                written.clear();
                output.kind.write(field.as_deref(), &mut written);
                Box::from(written.as_str())
            })
            .collect();
        let references = self.shape.references.iter().map(|&index| own(index)).collect();
        Ok(Entry { key, id, references, json, is_cut: false })
    }

    pub(crate) fn failure(&self, key: String, sqlstate: &str, message: impl Into<String>) -> RowFailure {
        RowFailure { entity: self.entity(), key, sqlstate: sqlstate.to_owned(), message: message.into() }
    }
}

fn bounded(text: &str, limit: usize) -> String {
    format!("SELECT CASE WHEN octet_length(r.t) <= {limit} THEN r.t END FROM ({text} OFFSET 0) AS r (t)")
}

/// A key as a person reads it.
pub(crate) fn key_text(key: &Key) -> String {
    key.iter().map(|part| String::from_utf8_lossy(part)).collect::<Vec<_>>().join(", ")
}
