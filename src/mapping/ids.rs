//! Computed ids: whether two rows can share one, and how rows are found by one.
//!
//! Both need an expression of a kind that we know: columns of the base row, constants, `||`, casts to text and a few
//! functions that cannot raise, because an index computes it for every row that the stream brings.

use pg_query::protobuf::Token;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::layout::{MIRROR_SCHEMA, literal, quote};
use super::plan::{Entity, IdFunction, Plan, Table};
use super::syntax::{Statement, fields, strings};
use super::uses::Parsed;

/// Functions of pg_catalog that take texts, never raise, and depend on their arguments alone.
const FUNCTIONS: [&str; 8] = ["lower", "upper", "md5", "btrim", "concat", "concat_ws", "replace", "reverse"];

/// Types whose values print alike where they are equal, and without what stands between them in an id.
const PLAIN: [&str; 4] = ["smallint", "integer", "bigint", "uuid"];

/// Other types that such an expression may read.
const READABLE: [&str; 6] = ["text", "character varying", "numeric", "date", "character", "boolean"];

/// The id's expression in the canonical text, if that is one SELECT right over the base table.
fn expression(parsed: &Parsed) -> Option<String> {
    let [level] = &parsed.path.levels[..] else { return None };
    let statement = &parsed.statement;
    let tokens = &statement.tokens;
    let first = tokens.iter().position(|token| token.span.start >= level.target_list)?;
    let depth = tokens[first.checked_sub(1)?].depth;
    let end =
        (first..tokens.len()).find(|&index| tokens[index].depth == depth && tokens[index].token == Token::From)?;
    let commas = (first..end).filter(|&index| tokens[index].depth == depth && tokens[index].token == Token::Ascii44);
    let mut start = first;
    for stop in commas.chain([end]) {
        let named = stop >= start + 3 && tokens[stop - 2].token == Token::As && tokens[stop - 2].depth == depth;
        let text = |index: usize| &statement.text[tokens[index].span.start..tokens[index].span.end];
        if named && text(stop - 1).trim_matches('"') == "id" {
            return Some(statement.text[tokens[start].span.start..tokens[stop - 3].span.end].to_owned());
        }
        start = stop + 1;
    }
    None
}

/// A part of a concatenation.
#[derive(Debug, PartialEq)]
enum Part {
    Column(String),
    Constant(String),
    /// Something that is safe to compute, but does not show what it is made of.
    Other,
}

/// Takes an expression apart; none if it is not of the kind that we know.
fn parts(node: &Value, parts_: &mut Vec<Part>) -> Option<()> {
    let (kind, inner) = node.get("node")?.as_object()?.iter().next()?;
    match kind.as_str() {
        "ColumnRef" => {
            let name = fields(inner).pop().filter(|name| name != "*")?;
            parts_.push(Part::Column(name));
        }
        "AConst" => {
            let text = inner.get("val")?.get("Sval")?.get("sval")?.as_str()?;
            parts_.push(Part::Constant(text.to_owned()));
        }
        "AExpr" if strings(inner, "name") == ["||"] => {
            parts(inner.get("lexpr")?, parts_)?;
            parts(inner.get("rexpr")?, parts_)?;
        }
        "TypeCast" => {
            let of = strings(inner.get("type_name")?, "names");
            if !matches!(of.last().map(String::as_str), Some("text" | "varchar")) {
                return None;
            }
            parts(inner.get("arg")?, parts_)?;
        }
        "FuncCall" | "CoalesceExpr" => {
            let path = strings(inner, "funcname");
            let known = kind == "CoalesceExpr" || path.len() == 1 && FUNCTIONS.contains(&path[0].as_str());
            let mut within = Vec::new();
            for argument in inner.get("args")?.as_array().filter(|_| known)? {
                parts(argument, &mut within)?;
            }
            parts_.push(Part::Other);
            parts_.extend(within.into_iter().filter(|part| matches!(part, Part::Column(_))));
            parts_.push(Part::Other);
        }
        _ => return None,
    }
    Some(())
}

fn taken_apart(text: &str) -> Option<Vec<Part>> {
    let statement = Statement::parse(&format!("SELECT {text}")).ok()?;
    let target = serde_json::to_value(statement.tree.target_list.first()?).ok()?;
    let mut found = Vec::new();
    parts(target.get("node")?.get("ResTarget")?.get("val")?, &mut found)?;
    Some(found)
}

/// Whether a computed id tells all rows of the table apart: it shows the whole key, each part of which can be read out again.
pub(super) fn shows_key(parsed: &Parsed, table: &Table) -> bool {
    let Some(parts) = expression(parsed).and_then(|text| taken_apart(&text)) else { return false };
    shows(&parts, table)
}

fn shows(parts: &[Part], table: &Table) -> bool {
    let column = |name: &str| table.columns.iter().position(|column| column.name == *name);
    let plain = |name: &str| {
        column(name).is_some_and(|index| {
            table.columns[index].is_stored() && PLAIN.contains(&table.columns[index].mirror_type.as_str())
        })
    };
    // What stands between two columns has a character that neither of them can print.
    let separates = |text: &str| text.chars().any(|character| !character.is_ascii_hexdigit() && character != '-');
    let readable = parts.iter().enumerate().all(|(index, part)| match part {
        Part::Column(name) => plain(name) && !matches!(parts.get(index + 1), Some(Part::Column(_))),
        Part::Constant(text) => index == 0 || index + 1 == parts.len() || separates(text),
        Part::Other => false,
    });
    let shown = |&key: &usize| parts.iter().any(|part| matches!(part, Part::Column(name) if column(name) == Some(key)));
    !table.key.is_empty() && readable && table.key.iter().all(shown)
}

/// The function by which an index finds rows by a computed id; none where we do not know that it never raises.
pub(super) fn function(entity: Entity, parsed: &Parsed, table: &Table) -> Option<IdFunction> {
    let base = parsed.base().filter(|base| base.columns.is_empty())?;
    let text = expression(parsed)?;
    let mut columns: Vec<usize> = Vec::new();
    for part in taken_apart(&text)? {
        let Part::Column(name) = part else { continue };
        let index = table.columns.iter().position(|column| column.name == name && column.is_stored())?;
        let of = table.columns[index].mirror_type.split('(').next().unwrap_or_default();
        if !PLAIN.contains(&of) && !READABLE.contains(&of) {
            return None;
        }
        if !columns.contains(&index) {
            columns.push(index);
        }
    }
    let arguments: Vec<String> = columns
        .iter()
        .enumerate()
        .map(|(place, &index)| format!("${} AS {}", place + 1, quote(&table.columns[index].name)))
        .collect();
    let body = format!(
        "SELECT CASE WHEN id IS NOT NULL THEN format('%s', id) END FROM (SELECT {text} AS id FROM (SELECT {}) AS {}) AS ids",
        arguments.join(", "),
        quote(base.correlation())
    );
    let types: Vec<&str> = columns.iter().map(|&index| table.columns[index].mirror_type.as_str()).collect();
    let digest = Sha256::digest(format!("{}\n{body}", types.join(",")));
    let digest: String = digest.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    Some(IdFunction { name: format!("id_of_{}_{digest}", entity.name()), columns, body })
}

impl IdFunction {
    /// With its schema, quoted.
    fn qualified(&self) -> String {
        format!("{}.{}", quote(MIRROR_SCHEMA), quote(&self.name))
    }
}

impl Plan {
    /// The call that gives the computed id of a row of the mirror, where there is a function for it.
    pub(super) fn id_call(&self, entity: Entity) -> Option<String> {
        let plan = self.entity(entity)?;
        let table = &self.tables[plan.base?];
        let function = plan.id_function.as_ref()?;
        let arguments: Vec<String> = function.columns.iter().map(|&index| quote(&table.columns[index].name)).collect();
        Some(format!("{}({})", function.qualified(), arguments.join(", ")))
    }

    /// The functions that compute ids. IMMUTABLE is what they are for us: only sessions with our settings write the mirror,
    /// and their bodies, which are text, pin nothing of the application.
    pub(crate) fn id_functions_sql(&self) -> Vec<String> {
        let mut sql = Vec::new();
        for plan in &self.entities {
            let (Some(function), Some(base)) = (&plan.id_function, plan.base) else { continue };
            let types: Vec<&str> =
                function.columns.iter().map(|&index| self.tables[base].columns[index].mirror_type.as_str()).collect();
            sql.push(format!(
                "CREATE OR REPLACE FUNCTION {}({}) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS {}",
                function.qualified(),
                types.join(", "),
                literal(&function.body)
            ));
        }
        sql
    }

    /// The statement that removes an entity's function, after the mirror that uses it.
    pub(crate) fn drop_id_functions_sql(&self) -> Vec<String> {
        let functions = self.entities.iter().filter_map(|plan| plan.id_function.as_ref());
        functions.map(|function| format!("DROP FUNCTION IF EXISTS {}", function.qualified())).collect()
    }

    /// The indexes over computed ids, by hash: an id may be too long for any other. Each with its table.
    pub(crate) fn id_function_indexes(&self) -> Vec<(usize, String)> {
        self.entities
            .iter()
            .filter_map(|plan| {
                let call = self.id_call(plan.entity)?;
                let base = plan.base?;
                Some((base, format!("CREATE INDEX ON {} USING hash ({call})", self.tables[base].mirror_name())))
            })
            .collect()
    }
}

/// What a mapping's id makes of its rows: whether two can share one, and the function by which they are found.
pub(super) fn settle(
    entity: Entity,
    parsed: &Parsed,
    table: &Table,
    id_column: Option<usize>,
    unique: &[usize],
) -> (bool, Option<IdFunction>) {
    let is_unique = match id_column {
        Some(column) => table.key == [column] || unique.contains(&column),
        None => shows_key(parsed, table),
    };
    let looked_up = matches!(entity, Entity::Posts | Entity::Users | Entity::Portals) || !is_unique;
    let function = if id_column.is_none() && looked_up { function(entity, parsed, table) } else { None };
    (is_unique && !table.key.is_empty(), function)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mapping::plan::Column;

    fn table(key: &[usize]) -> Table {
        let column = |name: &str, of: &str| Column {
            name: name.into(),
            number: 0,
            type_oid: 0,
            source_type: of.into(),
            mirror_type: of.into(),
            generated: None,
            collation: None,
        };
        Table {
            oid: 1,
            schema: "public".into(),
            name: "votes".into(),
            said: "public.votes".into(),
            mirror: "public.votes".into(),
            columns: vec![column("post", "integer"), column("voter", "bigint"), column("name", "text")],
            key: key.to_vec(),
            only: false,
        }
    }

    #[test]
    fn an_id_shows_its_key_where_the_parts_can_be_told_apart() {
        for (text, expected) in [
            ("(v.post || ':'::text) || v.voter", true),
            ("((v.post)::text || '/'::text) || (v.voter)::text", true),
            ("(('v'::text || v.post) || ':'::text) || v.voter", true),
            ("(v.post)::text || v.voter", false),
            ("(v.post || '-'::text) || v.voter", false),
            ("(v.post || '1'::text) || v.voter", false),
            ("(v.post || ':'::text) || v.name", false),
            ("v.post || ':'::text", false),
            ("(lower(v.name) || ':'::text) || v.voter", false),
        ] {
            assert_eq!(shows(&taken_apart(text).expect(text), &table(&[0, 1])), expected, "{text}");
        }
        assert_eq!(taken_apart("(v.name)::integer"), None, "a cast that may raise");
        assert_eq!(taken_apart("v.post / v.voter"), None, "a division may raise");
    }
}
