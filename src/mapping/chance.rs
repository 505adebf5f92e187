//! Where a SELECT leaves to PostgreSQL which row it takes, or in what order: the same rows may then give another result.

use pg_query::protobuf::SubLinkType;
use serde_json::Value;

use super::syntax::{Statement, strings};

/// Aggregates whose result shows the order of their rows.
const ORDERED: [&str; 6] = ["string_agg", "array_agg", "json_agg", "jsonb_agg", "json_object_agg", "xmlagg"];

/// Warnings, each once.
pub(super) fn choices(statement: &Statement) -> Vec<String> {
    let mut found = Vec::new();
    select(statement.root(), &mut found);
    statement.walk(&mut |kind, node| match kind {
        "SelectStmt" => select(node, &mut found),
        "SubLink" if number(node, "sub_link_type") == Some(SubLinkType::ArraySublink as i64) => {
            if let Some(rows) = node.pointer("/subselect/node/SelectStmt").filter(|rows| !is_ordered(rows)) {
                warn("ARRAY(SELECT …)", "in what order", rows, &mut found);
            }
        }
        _ => {}
    });
    found.sort();
    found.dedup();
    found
}

fn select(node: &Value, found: &mut Vec<String>) {
    let is_limited = ["limit_count", "limit_offset"].iter().any(|part| !is_null(node, part));
    if is_limited && !is_ordered(node) && !list(node, "target_list").iter().all(is_constant) {
        warn("LIMIT or OFFSET", "which rows it takes", node, found);
    }
    if list(node, "distinct_clause").iter().any(|one| !is_null(one, "node")) && !is_ordered(node) {
        warn("DISTINCT ON", "which rows it takes", node, found);
    }
    for part in ["target_list", "having_clause", "sort_clause"] {
        aggregates(node.get(part).unwrap_or(&Value::Null), &mut |call, name| {
            let is_open = list(call, "agg_order").is_empty() && is_null(call, "over") && call["agg_distinct"] != true;
            if is_open && ORDERED.contains(&name) && !reads_in_order(node) {
                warn(&format!("{name}()"), "in what order", node, found);
            }
        });
    }
}

/// Says it where there are rows of tables to choose from.
fn warn(what: &str, open: &str, select: &Value, found: &mut Vec<String>) {
    if list(select, "from_clause").iter().any(|item| item.pointer("/node/RangeFunction").is_none()) {
        found.push(format!("has {what} without ORDER BY: {open} may be another each time"));
    }
}

/// Function calls of this SELECT alone.
fn aggregates(part: &Value, visit: &mut dyn FnMut(&Value, &str)) {
    match part {
        Value::Array(items) => items.iter().for_each(|item| aggregates(item, visit)),
        Value::Object(members) => {
            for (name, member) in members {
                match name.as_str() {
                    "SelectStmt" => continue,
                    "FuncCall" => {
                        if let Some(name) = strings(member, "funcname").last() {
                            visit(member, name);
                        }
                    }
                    _ => {}
                }
                aggregates(member, visit);
            }
        }
        _ => {}
    }
}

/// Its rows come out of one subquery that sorts them.
fn reads_in_order(select: &Value) -> bool {
    match list(select, "from_clause") {
        [only] => only.pointer("/node/RangeSubselect/subquery/node/SelectStmt").is_some_and(is_ordered),
        _ => false,
    }
}

fn is_ordered(select: &Value) -> bool {
    !list(select, "sort_clause").is_empty()
}

fn is_constant(target: &Value) -> bool {
    target.pointer("/node/ResTarget/val/node/AConst").is_some()
}

fn is_null(node: &Value, field: &str) -> bool {
    node.get(field).is_none_or(Value::is_null)
}

fn list<'v>(node: &'v Value, field: &str) -> &'v [Value] {
    node.get(field).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

fn number(node: &Value, field: &str) -> Option<i64> {
    node.get(field).and_then(Value::as_i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(sql: &str) -> Vec<String> {
        choices(&Statement::parse(sql).expect(sql))
    }

    #[test]
    fn what_is_left_to_chance_is_named() {
        for (sql, expected) in [
            ("SELECT (SELECT t.name FROM tags t WHERE t.post = p.id LIMIT 1) FROM posts p", "LIMIT or OFFSET"),
            ("SELECT DISTINCT ON (p.id) p.id, p.title FROM posts p", "DISTINCT ON"),
            ("SELECT (SELECT string_agg(t.name, ',') FROM tags t) FROM posts p", "string_agg()"),
            ("SELECT (SELECT upper(pg_catalog.array_agg(t.name)::text) FROM tags t) FROM posts p", "array_agg()"),
            ("SELECT ARRAY(SELECT t.name FROM tags t) FROM posts p", "ARRAY(SELECT …)"),
            (
                "SELECT x.names FROM posts p JOIN LATERAL (SELECT json_agg(t.name) AS names FROM tags t) x ON true",
                "json_agg()",
            ),
        ] {
            let found = of(sql);
            assert_eq!(found.len(), 1, "{sql}: {found:?}");
            assert!(found[0].contains(expected), "{sql}: {found:?}");
        }
    }

    #[test]
    fn what_is_settled_is_not() {
        for sql in [
            "SELECT (SELECT t.name FROM tags t ORDER BY t.id LIMIT 1) FROM posts p",
            "SELECT DISTINCT p.id FROM posts p",
            "SELECT DISTINCT ON (p.id) p.id FROM posts p ORDER BY p.id, p.title",
            "SELECT (SELECT string_agg(t.name, ',' ORDER BY t.name) FROM tags t) FROM posts p",
            "SELECT (SELECT string_agg(DISTINCT t.name, ',') FROM tags t) FROM posts p",
            "SELECT (SELECT string_agg(s.name, ',') FROM (SELECT t.name FROM tags t ORDER BY t.id) s) FROM posts p",
            "SELECT ARRAY(SELECT t.name FROM tags t ORDER BY 1), ARRAY(SELECT e FROM unnest(p.list) e) FROM posts p",
            "SELECT EXISTS (SELECT 1 FROM tags t LIMIT 1), count(*) FROM posts p",
            "SELECT first_value(p.id) OVER (ORDER BY p.id), (SELECT max(t.id) FROM tags t) FROM posts p",
        ] {
            assert_eq!(of(sql), Vec::<String>::new(), "{sql}");
        }
    }
}
