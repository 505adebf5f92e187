//! What a mapping must have, and what no mapping can have: refused with the reason and a way out.

use super::catalog::{Dependencies, Facts, Relation, ViewColumn};
use super::plan::{Entity, EntityPlan, Table};
use super::syntax::{Statement, fields, strings};
use super::uses::{Parsed, Uses};
use crate::error::{Error, Result};

/// The columns that an entity's SELECT must give.
pub(super) fn required(entity: Entity) -> &'static [&'static str] {
    match entity {
        Entity::Posts => &["id", "title", "description", "status", "author", "portal", "created_at"],
        Entity::Votes => &["id", "post", "voter", "created_at"],
        Entity::Comments => &["id", "post", "author", "comment", "created_at"],
        Entity::CommentVotes => &["voter"],
        Entity::Users => &["id", "name", "email", "role"],
        Entity::Portals => &["id", "title"],
    }
}

/// Every column that is required is there, and `created_at` is a time.
pub(super) fn columns(entity: Entity, outputs: &[ViewColumn]) -> Result<()> {
    let there = || outputs.iter().map(|output| output.name.as_str()).collect::<Vec<_>>().join(", ");
    for name in required(entity) {
        let Some(output) = outputs.iter().find(|output| output.name == *name) else {
            return Err(Error::usage(format!(
                "it has no column {name}; it needs {}, and has {} (name columns with AS; NULL::text AS {name} if there is no such thing)",
                required(entity).join(", "),
                there()
            )));
        };
        if *name == "created_at" && output.type_name != "date" && !output.type_name.starts_with("timestamp") {
            return Err(Error::usage(format!(
                "its created_at is of type {}; it must be timestamp with time zone, timestamp (read as UTC) or date",
                output.type_name
            )));
        }
    }
    Ok(())
}

/// No output has a name of the kind that our own columns have.
pub(super) fn names(outputs: &[ViewColumn]) -> Result<()> {
    match outputs.iter().find(|output| output.name.starts_with("portalhook")) {
        Some(output) => {
            Err(Error::usage(format!("it has a column {}; names that begin with portalhook are ours", output.name)))
        }
        None => Ok(()),
    }
}

/// All entities but `CommentVotes` are there, none twice.
pub(super) fn entities(given: impl Iterator<Item = Entity> + Clone) -> Result<()> {
    for entity in Entity::ALL {
        match given.clone().filter(|other| *other == entity).count() {
            0 if entity == Entity::CommentVotes => {}
            1 => {}
            0 => {
                return Err(Error::usage(format!(
                    "the mapping has no view portalhook.{0}; it needs {1}, and may have portalhook.comment_votes",
                    entity.name(),
                    Entity::ALL
                        .into_iter()
                        .filter(|entity| *entity != Entity::CommentVotes)
                        .map(|entity| format!("portalhook.{}", entity.name()))
                        .collect::<Vec<_>>()
                        .join(", ")
                )));
            }
            _ => return Err(Error::usage(format!("the mapping has the view portalhook.{} twice", entity.name()))),
        }
    }
    Ok(())
}

/// What the catalog knows about a SELECT that cannot be followed. Returns warnings.
pub(super) fn dependencies(facts: &Facts, found: &Dependencies) -> Result<Vec<String>> {
    if let Some((oid, _)) = found.columns.iter().find(|(_, number)| *number < 0) {
        let table = facts.relations.get(oid).map(Relation::title).unwrap_or_default();
        return Err(Error::usage(format!(
            "it reads a system column of {table} (ctid, xmin, tableoid and the like), which a mirror cannot have; leave it out"
        )));
    }
    let mut warnings = Vec::new();
    for function in &found.functions {
        if let Some(table) = &function.takes_row_of {
            return Err(Error::usage(format!(
                "it passes a whole row of {table} to {}, which would break when that table changes; \
                 write what the function does, or a function that takes columns",
                function.signature
            )));
        }
        match function.volatility.as_str() {
            "v" => {
                return Err(Error::usage(format!(
                    "it calls {}, which is VOLATILE: its result could differ each time; \
                     declare it STABLE or IMMUTABLE if that is what it is",
                    function.signature
                )));
            }
            "s" => warnings.push(format!(
                "calls {}, which is not IMMUTABLE: it sees the database as of now, not as of the event",
                function.signature
            )),
            _ => {}
        }
    }
    if let Some(table) = found.row_types.first() {
        return Err(Error::usage(format!(
            "it uses {table} as a type (a whole row), which would break when that table changes; name the columns that you need"
        )));
    }
    warnings.sort();
    warnings.dedup();
    Ok(warnings)
}

/// What the text of a SELECT shows that cannot be followed.
pub(super) fn syntax(facts: &Facts, parsed: &Parsed, volatile: &[String]) -> Result<()> {
    if let Some(table) = row_value(facts, &parsed.statement) {
        return Err(Error::usage(format!(
            "it uses a whole row of {} as a value of that table's type; name the columns that you need",
            table.title()
        )));
    }
    if locks_rows(&parsed.statement) {
        return Err(Error::usage("it locks rows (FOR UPDATE, FOR SHARE); leave that out"));
    }
    if let Some(name) = volatile.first() {
        return Err(Error::usage(format!("it calls {name}(), which is VOLATILE: its result differs each time")));
    }
    Ok(())
}

/// Events need a row to hang on, and a way to find it again.
pub(super) fn base(entity: Entity, uses: &Uses, tables: &[Table]) -> Result<()> {
    let needs_key = !matches!(entity, Entity::Users | Entity::Portals);
    let Some(oid) = uses.base else {
        if entity == Entity::Portals {
            return Ok(());
        }
        return Err(Error::usage("it has no FROM; only portals may be a constant"));
    };
    let table = tables.iter().find(|table| table.oid == oid);
    if let Some(table) = table.filter(|table| needs_key && table.key.is_empty()) {
        return Err(Error::usage(format!(
            "its base table {0} has no primary key (only users, portals and joined tables may be without): \
             ALTER TABLE {0} ADD PRIMARY KEY (…), or ALTER TABLE {0} REPLICA IDENTITY USING INDEX … with a unique index",
            format_args!("{}.{}", table.schema, table.name)
        )));
    }
    Ok(())
}

/// What is allowed, but silent in a way that may surprise. Returns warnings.
pub(super) fn joins(entity: Entity, parsed: &Parsed) -> Vec<String> {
    let mut warnings = Vec::new();
    if parsed.path.filters_by_joined_rows() {
        warnings.push(
            "has a WHERE that looks at other rows than the base table's: what happens to those alone makes no event, \
             and counters may drift"
                .to_owned(),
        );
    }
    for (article, name) in [("an", "author"), ("a", "voter")] {
        if required(entity).contains(&name)
            && let Err(reason) = parsed.path.origin(name)
        {
            warnings.push(format!(
                "has {article} {name} that is not a column of the base row ({reason}): counters may drift"
            ));
        }
    }
    warnings
}

/// How rows are found by their id, where that is slow. Returns a warning.
pub(super) fn lookup(plan: &EntityPlan) -> Option<String> {
    let looked_up = matches!(plan.entity, Entity::Posts | Entity::Users);
    (looked_up && plan.base.is_some() && plan.id_column.is_none() && plan.id_function.is_none()).then(|| {
        "has an id that no index can find, so every look-up reads the whole table: use a column, or columns and constants \
         with ||, casts to text, lower(), upper() or md5()"
            .to_owned()
    })
}

/// The functions that a SELECT calls without schema or in pg_catalog, by name.
pub(super) fn builtin_calls(statement: &Statement) -> Vec<String> {
    let mut names = Vec::new();
    statement.walk(&mut |kind, node| {
        if kind == "FuncCall" {
            match &strings(node, "funcname")[..] {
                [name] => names.push(name.clone()),
                [schema, name] if schema == "pg_catalog" => names.push(name.clone()),
                _ => {}
            }
        }
    });
    names
}

/// Whether a SELECT locks rows, at any depth.
fn locks_rows(statement: &Statement) -> bool {
    let mut found = false;
    statement.walk(&mut |kind, _| found |= kind == "LockingClause");
    found
}

/// A table whose row a SELECT uses as a value of the table's own type (`(SELECT u FROM app.users u …).name`): PostgreSQL
/// prints such a row with a cast to that type.
fn row_value<'f>(facts: &'f Facts, statement: &Statement) -> Option<&'f Relation> {
    let mut found = None;
    statement.walk(&mut |kind, node| {
        if kind == "TypeCast"
            && node.get("arg").and_then(|arg| arg.get("node")?.get("ColumnRef")).is_some_and(is_star)
            && let Some(name) = node.get("type_name")
            && let [schema, name] = &strings(name, "names")[..]
        {
            found = found.or(facts.named(schema, name));
        }
    });
    found
}

fn is_star(column: &serde_json::Value) -> bool {
    fields(column).last().is_some_and(|field| field == "*")
}
