//! The canonical text of a SELECT, cut and spliced so that it reads mirrors: pure text and catalog facts.

use super::catalog::{Facts, Relation};
use super::clock;
use super::edits::Edits;
use super::layout::quote;
use super::path::{Level, Origin};
use super::plan::{Table, Template};
use super::select::Variant;
use super::syntax::Reference;
use super::uses::{Parsed, resolve, uses, view};
use crate::error::{Error, Result};

/// The name under which the base's `n`-th key column leaves the SELECT; no application names a column so.
pub(super) fn key_alias(n: usize) -> String {
    format!("\"portalhook key {}\"", n + 1)
}

/// Writes SELECTs over mirrors that live in `schema`.
pub(super) struct Rewriter<'a> {
    pub(super) facts: &'a Facts,
    pub(super) tables: &'a [Table],
    pub(super) schema: &'a str,
}

impl Rewriter<'_> {
    /// The whole SELECT with its hole.
    pub(super) fn template(&self, parsed: &Parsed, variant: Variant) -> Result<Template> {
        let mut pieces = self.pieces(parsed, variant)?;
        let tail = if pieces.len() > 1 { pieces.pop().unwrap_or_default() } else { String::new() };
        Ok(Template { head: pieces.pop().unwrap_or_default(), tail })
    }

    /// The text before and after the hole, or all of it where the base is not in this text.
    fn pieces(&self, parsed: &Parsed, variant: Variant) -> Result<Vec<String>> {
        let statement = &parsed.statement;
        let base = parsed.base();
        let mut edits = Edits::default();
        clock::replace(statement, &mut edits);
        for reference in &parsed.references {
            if base.is_some_and(|base| base.location == reference.location) {
                continue;
            }
            let Some(relation) = resolve(self.facts, statement, reference)? else { continue };
            let text = match &relation.definition {
                Some(definition) => {
                    let inner = view(relation, definition, false)?;
                    format!("({})", self.pieces(&inner, variant)?.concat())
                }
                None => self.joined(relation, reference)?,
            };
            edits.replace(reference.span, text);
            self.alias(&mut edits, relation, reference, 0);
        }
        if let Some(base) = base {
            self.base(&mut edits, parsed, base, variant)?;
        }
        Ok(edits.apply(&statement.text))
    }

    /// The mirror of a table that is joined or looked into.
    fn joined(&self, relation: &Relation, reference: &Reference) -> Result<String> {
        let text = self.table(relation)?.relation(self.schema);
        if reference.sampled && text.starts_with('(') {
            return Err(Error::usage(format!("it has TABLESAMPLE on {}; leave that out", relation.title())));
        }
        Ok(text)
    }

    /// Keeps the alias that columns are printed with: adds the name where there is none, and leaves in a list of column
    /// aliases those of the columns that are there; `keys` names stand before them.
    fn alias(&self, edits: &mut Edits, relation: &Relation, reference: &Reference, keys: usize) {
        if reference.alias.is_none() {
            edits.insert(reference.span.end, format!(" AS {}", quote(&reference.name.name)));
        }
        let Some(list) = reference.list else { return };
        let mut names: Vec<String> = (0..keys).map(key_alias).collect();
        names.extend(self.renamed(relation, reference).into_iter().map(|(_, alias)| quote(&alias)));
        edits.replace(list, format!("({})", names.join(", ")));
    }

    /// The columns that a reference yields, and the names that it gives them.
    fn renamed(&self, relation: &Relation, reference: &Reference) -> Vec<(String, String)> {
        let table = self.table(relation).ok();
        relation
            .columns
            .iter()
            .enumerate()
            .filter(|(_, attribute)| {
                table.is_none_or(|table| table.columns.iter().any(|column| column.name == attribute.name))
            })
            .map(|(place, attribute)| {
                let alias = reference.columns.get(place).unwrap_or(&attribute.name);
                (attribute.name.clone(), alias.clone())
            })
            .collect()
    }

    fn table(&self, relation: &Relation) -> Result<&Table> {
        self.tables
            .iter()
            .find(|table| table.oid == relation.oid)
            .ok_or_else(|| Error::failed(format!("{} is not among the mirrored tables", relation.title())))
    }

    /// Opens the hole, and carries the base's key out through every level.
    fn base(&self, edits: &mut Edits, parsed: &Parsed, base: &Reference, variant: Variant) -> Result<()> {
        let relation =
            resolve(self.facts, &parsed.statement, base)?.ok_or_else(|| parsed.statement.lost("the base table"))?;
        let keys: Vec<String> = match &relation.definition {
            Some(definition) => {
                let inner = view(relation, definition, true)?;
                let (count, pieces) = self.inlined(relation, &inner, variant)?;
                let [head, tail] = <[String; 2]>::try_from(pieces)
                    .map_err(|_| Error::usage(format!("its base {} is a view without a table", relation.title())))?;
                edits.hole(base.span, format!("({head}"), format!("{tail})"));
                self.alias(edits, relation, base, count);
                (0..count).map(key_alias).collect()
            }
            None => {
                let table = self.table(relation)?;
                edits.hole(base.span, String::new(), String::new());
                self.alias(edits, relation, base, 0);
                let renamed = self.renamed(relation, base);
                table
                    .key
                    .iter()
                    .filter_map(|&index| renamed.iter().find(|(name, _)| *name == table.columns[index].name))
                    .map(|(_, alias)| quote(alias))
                    .collect()
            }
        };
        for (index, level) in parsed.path.levels.iter().enumerate() {
            let innermost = index + 1 == parsed.path.levels.len();
            carry(edits, level, &keys, innermost);
            if variant == Variant::Any {
                for &condition in &level.conditions {
                    edits.cut(condition, if level.whole_condition { "" } else { "true" });
                }
            }
        }
        Ok(())
    }

    /// A view that holds the base: how many key columns it gives out, and its text around the hole.
    fn inlined(&self, relation: &Relation, inner: &Parsed, variant: Variant) -> Result<(usize, Vec<String>)> {
        let mut base = inner.base().and_then(|base| resolve(self.facts, &inner.statement, base).ok().flatten());
        let mut deeper;
        while let Some(view_relation) = base
            && let Some(definition) = &view_relation.definition
        {
            deeper = view(view_relation, definition, true)?;
            base = deeper.base().and_then(|base| resolve(self.facts, &deeper.statement, base).ok().flatten());
        }
        let base = base.ok_or_else(|| Error::usage(format!("its base {} has no table", relation.title())))?;
        Ok((self.table(base)?.key.len(), self.pieces(inner, variant)?))
    }
}

/// Puts the key columns at the front of a level's target list.
fn carry(edits: &mut Edits, level: &Level, keys: &[String], innermost: bool) {
    let mut list = String::new();
    for (n, key) in keys.iter().enumerate() {
        let source = if innermost { key.clone() } else { key_alias(n) };
        // A subquery may be without alias from PostgreSQL 16 on; our names are unique without one.
        let qualifier = if level.qualifier.is_empty() { String::new() } else { quote(&level.qualifier) + "." };
        list.push_str(&format!(" {qualifier}{source} AS {},", key_alias(n)));
    }
    edits.insert(level.target_list, list);
    let names: Vec<String> = (0..keys.len()).map(|n| format!("{}, ", key_alias(n))).collect();
    for &place in &level.alias_lists {
        edits.insert(place, names.concat());
    }
}

/// The base table's column that is the SELECT's id, as an index into the mirror's columns; nothing where the id is computed
/// from the base row, and the reason where it is not made of that row alone.
pub(super) fn id_column(facts: &Facts, parsed: &Parsed, tables: &[Table]) -> Result<Option<usize>, String> {
    let origin = origin(facts, parsed, "id")?;
    let [name] = &origin.columns[..] else { return Ok(None) };
    let Some(table) =
        uses(facts, parsed).ok().and_then(|uses| tables.iter().find(|table| Some(table.oid) == uses.base))
    else {
        return Ok(None);
    };
    let column = table.columns.iter().position(|column| column.name == *name && column.is_stored());
    Ok(column.filter(|_| origin.unchanged))
}

/// Columns of the base, as indexes into the mirror's, that are unique in the source.
pub(super) fn unique_columns(facts: &Facts, table: &Table) -> Vec<usize> {
    let Some(relation) = facts.relations.get(&table.oid) else { return Vec::new() };
    let names = relation.columns.iter().filter(|column| relation.unique.contains(&column.number)).map(|one| &one.name);
    names.filter_map(|name| table.columns.iter().position(|column| column.name == *name)).collect()
}

/// Follows an output through subqueries and views to the columns of the base table.
fn origin(facts: &Facts, parsed: &Parsed, name: &str) -> Result<Origin, String> {
    let mut found = parsed.path.origin(name)?;
    let Some(base) = parsed.base() else { return Ok(found) };
    let Some(relation) = resolve(facts, &parsed.statement, base).map_err(|error| error.to_string())? else {
        return Ok(found);
    };
    for name in &mut found.columns {
        let place = base.columns.iter().position(|alias| alias == name);
        if let Some(attribute) = place.and_then(|place| relation.columns.get(place)) {
            name.clone_from(&attribute.name);
        }
    }
    let Some(definition) = &relation.definition else { return Ok(found) };
    let inner = view(relation, definition, true).map_err(|error| error.to_string())?;
    let mut below = Origin { columns: Vec::new(), unchanged: found.unchanged };
    for name in &found.columns {
        let deeper = origin(facts, &inner, name)?;
        below.columns.extend(deeper.columns);
        below.unchanged &= deeper.unchanged;
    }
    Ok(below)
}
