//! Which tables a SELECT uses, through the views that it names; and so which tables and columns are mirrored.

use std::collections::BTreeSet;

use super::catalog::{Facts, Relation};
use super::clock;
use super::path::Path;
use super::plan::{Column, Table};
use super::syntax::{Reference, Statement, fields, strings};
use crate::error::{Context, Error, Result};

/// A SELECT with the views that it reads, taken apart.
pub(super) struct Parsed {
    pub(super) statement: Statement,
    pub(super) path: Path,
    pub(super) references: Vec<Reference>,
}

impl Parsed {
    /// Parses the canonical text of a mapping's SELECT.
    pub(super) fn of(text: &str) -> Result<Self> {
        let statement = Statement::parse(text)?;
        let path = Path::find(&statement)?;
        let references = statement.references()?;
        Ok(Self { statement, path, references })
    }

    pub(super) fn base(&self) -> Option<&Reference> {
        self.references.iter().find(|reference| !self.path.levels.is_empty() && reference.location == self.path.base)
    }
}

/// What of the mapping a SELECT uses, as oids.
#[derive(Debug, Default)]
pub(super) struct Uses {
    pub(super) base: Option<u32>,
    /// Without the base, unless the SELECT names it a second time.
    pub(super) reads: BTreeSet<u32>,
    /// Tables that are used as whole rows.
    pub(super) whole: BTreeSet<u32>,
    /// It asks what time it is.
    pub(super) clock: bool,
}

/// Follows a SELECT and the views below it to their tables; refuses what is no table that can be mirrored.
pub(super) fn uses(facts: &Facts, parsed: &Parsed) -> Result<Uses> {
    let mut uses = Uses::default();
    let base = parsed.base().map(|reference| reference.location);
    collect(facts, &parsed.statement, &parsed.references, base, &mut uses)?;
    Ok(uses)
}

fn collect(
    facts: &Facts,
    statement: &Statement,
    references: &[Reference],
    base: Option<usize>,
    uses: &mut Uses,
) -> Result<()> {
    uses.clock |= clock::is_read(statement);
    let mut whole = BTreeSet::new();
    statement.walk(&mut |kind, node| {
        if kind == "ColumnRef"
            && let [name, star] = &fields(node)[..]
            && star == "*"
        {
            whole.insert(name.clone());
        }
    });
    let joined_whole = uses_whole_joins(statement, &whole);
    for reference in references {
        let Some(relation) = resolve(facts, statement, reference)? else { continue };
        let is_base = base == Some(reference.location);
        if let Some(definition) = &relation.definition {
            let inner = view(relation, definition, is_base)?;
            let base = if is_base { inner.base().map(|reference| reference.location) } else { None };
            collect(facts, &inner.statement, &inner.references, base, uses)?;
            continue;
        }
        if whole.contains(reference.correlation()) || joined_whole {
            uses.whole.insert(relation.oid);
        }
        if is_base {
            uses.base = Some(relation.oid);
        } else {
            uses.reads.insert(relation.oid);
        }
    }
    Ok(())
}

/// Whether a join is used as a whole row, or its columns are renamed by position: then its tables need all their columns.
fn uses_whole_joins(statement: &Statement, whole: &BTreeSet<String>) -> bool {
    let mut found = false;
    statement.walk(&mut |kind, node| {
        if kind == "JoinExpr"
            && let Some(alias) = node.get("alias")
            && let Some(name) = alias.get("aliasname").and_then(serde_json::Value::as_str)
        {
            found |= whole.contains(name) || !strings(alias, "colnames").is_empty();
        }
    });
    found
}

/// The view's text; one that holds the base must have a way to it, any other may be any query.
pub(super) fn view(relation: &Relation, definition: &str, holds_base: bool) -> Result<Parsed> {
    let parse = || {
        if holds_base {
            return Parsed::of(definition);
        }
        let statement = Statement::parse(definition)?;
        let references = statement.references()?;
        Ok(Parsed { statement, path: Path::default(), references })
    };
    parse().context(format!("the view {} that it reads", relation.title()))
}

/// The relation that a reference means; none if it is a CTE.
pub(super) fn resolve<'f>(
    facts: &'f Facts,
    statement: &Statement,
    reference: &Reference,
) -> Result<Option<&'f Relation>> {
    let name = &reference.name.name;
    let Some(schema) = &reference.name.schema else {
        let mut is_cte = false;
        statement.walk(&mut |kind, node| {
            is_cte |= kind == "CommonTableExpr"
                && node.get("ctename").and_then(serde_json::Value::as_str).is_some_and(|cte| cte == name);
        });
        if is_cte {
            return Ok(None);
        }
        return Err(Error::usage(format!(
            "it reads pg_catalog.{name}; only tables of the application can be followed"
        )));
    };
    let relation = facts
        .named(schema, name)
        .ok_or_else(|| Error::failed(format!("the catalog does not say that it depends on {schema}.{name}")))?;
    refuse_relation(relation, reference)?;
    Ok(Some(relation))
}

fn refuse_relation(relation: &Relation, reference: &Reference) -> Result<()> {
    let title = relation.title();
    let reason = match relation.kind.as_str() {
        _ if matches!(relation.schema.as_str(), "portalhook" | "portalhook_mirror") => {
            "which is ours: describe the application's tables"
        }
        _ if matches!(relation.schema.as_str(), "information_schema" | "pg_catalog" | "pg_toast") => {
            "which is the server's; only tables of the application can be followed"
        }
        "v" => return Ok(()),
        "m" => "which is a materialized view: its changes cannot be followed; read the tables below it",
        "f" => "which is a foreign table: its changes cannot be followed",
        "S" => "which is a sequence",
        "r" | "p" if relation.persistence != "p" => "which is unlogged or temporary: its changes cannot be followed",
        "r" if relation.inherited && !reference.only => {
            "which has tables that inherit from it: write ONLY, or a SELECT for one of them"
        }
        "p" if reference.only => "with ONLY, though it is partitioned and has no rows of its own; leave ONLY out",
        "r" | "p" => return Ok(()),
        _ => "which is no table",
    };
    Err(Error::usage(format!("it reads {title}, {reason}")))
}

/// The tables that the mapping mirrors, ordered by name, out of what its SELECTs use.
pub(super) fn tables(facts: &Facts, used: &[&Uses]) -> Result<Vec<Table>> {
    let mut oids: BTreeSet<u32> = BTreeSet::new();
    for uses in used {
        oids.extend(uses.base);
        oids.extend(&uses.reads);
    }
    let whole: BTreeSet<u32> = used.iter().flat_map(|uses| uses.whole.iter().copied()).collect();
    let mut tables: Vec<Table> = oids
        .into_iter()
        .map(|oid| table(facts, &facts.relations[&oid], whole.contains(&oid)))
        .collect::<Result<_>>()?;
    tables.sort_by(|a, b| (&a.schema, &a.name).cmp(&(&b.schema, &b.name)));
    Ok(tables)
}

fn table(facts: &Facts, relation: &Relation, whole: bool) -> Result<Table> {
    let mut names: BTreeSet<String> = BTreeSet::new();
    for attribute in &relation.columns {
        let used = facts.used.get(&relation.oid).is_some_and(|columns| columns.contains(&attribute.number));
        if !(whole || used || relation.key.contains(&attribute.number)) {
            continue;
        }
        names.insert(attribute.name.clone());
        if let Some(expression) = &attribute.generated {
            if relation.key.contains(&attribute.number) {
                return Err(Error::usage(format!(
                    "the key of {} has the generated column {}, which the server does not send",
                    relation.title(),
                    attribute.name
                )));
            }
            names.extend(columns_of(expression)?);
        }
    }
    // `count(*)` names no column, but a mirror without columns could not be written row by row.
    if names.is_empty() {
        names.extend(relation.columns.iter().find(|attribute| attribute.generated.is_none()).map(|a| a.name.clone()));
    }
    let attributes: Vec<_> = relation.columns.iter().filter(|attribute| names.contains(&attribute.name)).collect();
    let key = relation
        .key
        .iter()
        .filter_map(|number| attributes.iter().position(|attribute| attribute.number == *number))
        .collect();
    let columns = attributes
        .iter()
        .map(|attribute| Column {
            name: attribute.name.clone(),
            number: attribute.number,
            type_oid: attribute.type_oid,
            source_type: attribute.type_name.clone(),
            mirror_type: if attribute.builtin { attribute.type_name.clone() } else { "text".to_owned() },
            generated: attribute.generated.clone(),
            collation: attribute.collation.clone(),
        })
        .collect();
    Ok(Table {
        oid: relation.oid,
        schema: relation.schema.clone(),
        name: relation.name.clone(),
        said: relation.title(),
        mirror: relation.title(),
        columns,
        key,
        only: relation.kind == "r" && relation.inherited,
    })
}

/// The columns that a generation expression reads.
fn columns_of(expression: &str) -> Result<Vec<String>> {
    let statement = Statement::parse(&format!("SELECT {expression}"))?;
    let mut names = Vec::new();
    statement.walk(&mut |kind, node| {
        if kind == "ColumnRef" {
            names.extend(fields(node).pop());
        }
    });
    Ok(names)
}
