//! The canonical text of a SELECT, cut and spliced so that it reads mirrors: pure text and catalog facts.

use std::collections::BTreeSet;

use super::catalog::{Facts, Relation};
use super::layout::quote;
use super::path::{Level, Origin, Path};
use super::plan::{Column, Table, Template};
use super::select::Variant;
use super::syntax::{Reference, Span, Statement, fields};
use crate::error::{Context, Error, Result};

/// The name under which the base's `n`-th key column leaves the SELECT; no application names a column so.
pub(super) fn key_alias(n: usize) -> String {
    format!("\"portalhook key {}\"", n + 1)
}

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

    fn base(&self) -> Option<&Reference> {
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
            found |= whole.contains(name) || !super::syntax::strings(alias, "colnames").is_empty();
        }
    });
    found
}

/// The view's text; one that holds the base must have a way to it, any other may be any query.
fn view(relation: &Relation, definition: &str, holds_base: bool) -> Result<Parsed> {
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
fn resolve<'f>(facts: &'f Facts, statement: &Statement, reference: &Reference) -> Result<Option<&'f Relation>> {
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
        mirror: relation.title(),
        columns,
        key,
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
            if variant == Variant::Any
                && let Some(condition) = level.condition
            {
                edits.cut(condition);
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

/// Where the id of a SELECT comes from: the column of the base table, or nothing where it is computed from the base row.
pub(super) fn id_column(facts: &Facts, parsed: &Parsed, tables: &[Table]) -> Result<Option<usize>, String> {
    let Origin::Column(name) = parsed.path.origin("id")? else { return Ok(None) };
    let Some(base) = parsed.base() else { return Ok(None) };
    let Some(relation) = resolve(facts, &parsed.statement, base).ok().flatten() else { return Ok(None) };
    if let Some(definition) = &relation.definition {
        // In a view on the way, the id is the view's column of that name.
        let inner = view(relation, definition, true).map_err(|error| error.to_string())?;
        return match inner.path.origin(&name)? {
            Origin::Column(_) | Origin::Row => Ok(None),
        };
    }
    let name = match base.columns.iter().position(|alias| *alias == name) {
        Some(place) => relation.columns.get(place).map(|attribute| attribute.name.clone()),
        None => Some(name),
    };
    let table = tables.iter().find(|table| table.oid == relation.oid);
    let column = table.and_then(|table| table.columns.iter().position(|column| Some(&column.name) == name.as_ref()));
    Ok(column.filter(|&index| table.is_some_and(|table| table.columns[index].is_stored())))
}

/// Changes of a text, each at its place; applied at once, so that places stay what they are.
#[derive(Default)]
struct Edits {
    edits: Vec<(Span, Edit)>,
}

enum Edit {
    Text(String),
    /// What stands before and after the hole.
    Hole(String, String),
    /// Nothing; also takes away all edits within.
    Cut,
}

impl Edits {
    fn replace(&mut self, span: Span, text: String) {
        self.edits.push((span, Edit::Text(text)));
    }

    fn insert(&mut self, place: usize, text: String) {
        self.edits.push((Span { start: place, end: place }, Edit::Text(text)));
    }

    fn hole(&mut self, span: Span, before: String, after: String) {
        self.edits.push((span, Edit::Hole(before, after)));
    }

    fn cut(&mut self, span: Span) {
        self.edits.push((span, Edit::Cut));
    }

    /// The edited text, in two pieces where it has the hole.
    fn apply(mut self, text: &str) -> Vec<String> {
        // A cut comes before what it covers; an insertion at the end of a replacement comes after it.
        self.edits.sort_by_key(|(span, edit)| (span.start, !matches!(edit, Edit::Cut), span.end));
        let mut pieces = vec![String::new()];
        let mut done = 0;
        for (span, edit) in self.edits {
            if span.start < done {
                continue;
            }
            let piece = pieces.last_mut().expect("there is one from the start");
            piece.push_str(&text[done..span.start]);
            done = span.end;
            match edit {
                Edit::Text(new) => piece.push_str(&new),
                Edit::Hole(before, after) => {
                    piece.push_str(&before);
                    pieces.push(after);
                }
                Edit::Cut => {}
            }
        }
        let piece = pieces.last_mut().expect("there is one from the start");
        piece.push_str(&text[done..]);
        pieces
    }
}

/// The functions that a SELECT calls without schema or in pg_catalog, by name.
pub(super) fn builtin_calls(statement: &Statement) -> Vec<String> {
    let mut names = Vec::new();
    statement.walk(&mut |kind, node| {
        if kind == "FuncCall" {
            match &super::syntax::strings(node, "funcname")[..] {
                [name] => names.push(name.clone()),
                [schema, name] if schema == "pg_catalog" => names.push(name.clone()),
                _ => {}
            }
        }
    });
    names
}

/// Whether a SELECT locks rows, at any depth.
pub(super) fn locks_rows(statement: &Statement) -> bool {
    let mut found = false;
    statement.walk(&mut |kind, _| found |= kind == "LockingClause");
    found
}

/// A table whose row a SELECT uses as a value of the table's own type (`(SELECT u FROM app.users u …).name`): PostgreSQL
/// prints such a row with a cast to that type.
pub(super) fn row_value<'f>(facts: &'f Facts, statement: &Statement) -> Option<&'f Relation> {
    let mut found = None;
    statement.walk(&mut |kind, node| {
        if kind == "TypeCast"
            && node.get("arg").and_then(|arg| arg.get("node")?.get("ColumnRef")).is_some_and(is_star)
            && let Some(name) = node.get("type_name")
            && let [schema, name] = &super::syntax::strings(name, "names")[..]
        {
            found = found.or(facts.named(schema, name));
        }
    });
    found
}

fn is_star(column: &serde_json::Value) -> bool {
    fields(column).last().is_some_and(|field| field == "*")
}
