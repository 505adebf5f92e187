//! The statements that evaluate an entity: its template with the base table restricted to what is asked for.

use super::layout::{MIRROR_SCHEMA, quote};
use super::plan::{Entity, EntityPlan, Plan, Table, Template};

/// Which rows of the base an evaluation shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Variant {
    /// Those that are live.
    Live,
    /// All, whatever their state.
    Any,
}

/// Which rows of the base are evaluated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Restriction {
    All,
    /// Rows by key: one array parameter for each key column, of the mirror's column type.
    Keys,
    /// Rows by mapped id: `$1` is an array as `IdLookup` says.
    Ids,
    /// The rows whose output texts are given, whether the mirror has them or not: one `text[]` parameter for each stored
    /// column; equal ones count once.
    Images,
}

/// Outputs that say which row this is, and which ones it belongs to.
const NAMING: [&str; 5] = ["id", "post", "voter", "author", "portal"];

/// How rows are found by mapped id, and so what `$1` of `Restriction::Ids` is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IdLookup {
    /// `int8[]`, compared with a smallint, integer or bigint column: leave out texts that are no such number.
    Integer,
    /// `uuid[]`: leave out texts that are no UUID.
    Uuid,
    /// `text[]`, compared with the column.
    Text,
    /// `text[]`, compared with what a function of ours computes, by an index.
    Function,
    /// `text[]`, compared with the computed id of every row.
    Computed,
}

impl Plan {
    /// The SELECT that evaluates an entity: one text column, which holds the whole row as PostgreSQL prints a record
    /// (`record::parse` reads it): the base's key, then the outputs.
    ///
    /// # Panics
    /// If the plan does not have the entity (only `CommentVotes` may be absent).
    pub(crate) fn select(&self, entity: Entity, variant: Variant, restriction: &Restriction) -> String {
        let plan = self.entity(entity).expect("the caller asks for an entity that is mapped");
        let template = match variant {
            Variant::Live => &plan.live,
            Variant::Any => &plan.any,
        };
        let base = plan.base.map(|index| &self.tables[index]);
        let by_column = *restriction == Restriction::Ids && self.id_lookup(plan) != IdLookup::Computed;
        let query = match base {
            Some(base) => template.over(&self.hole(base, plan, restriction, by_column)),
            None => template.head.clone(),
        };
        let filter = match restriction {
            Restriction::Ids if !by_column => " WHERE format('%s', \"portalhook row\".id) = ANY ($1::text[])",
            _ => "",
        };
        let with = match (restriction, base) {
            (Restriction::Images, Some(base)) => base.images(),
            _ => String::new(),
        };
        format!("{with}SELECT (\"portalhook row\".*)::text FROM ({query}) AS \"portalhook row\"{filter}")
    }

    /// The same with values cut short, for rows that are too large to be read: each field of the record is `s` and its value,
    /// or `l` with the size and SHA-256 of one over `CUT` bytes. Keys, ids and references are left as they are.
    pub(crate) fn select_cut(&self, entity: Entity, variant: Variant, restriction: &Restriction) -> String {
        const CUT: usize = 4096;
        let whole = self.select(entity, variant, restriction);
        let Some(plan) = self.entity(entity) else { return whole };
        let keys = (0..plan.base.map_or(0, |base| self.tables[base].key.len())).map(|place| format!("k{place}"));
        let outputs = plan.outputs.iter().enumerate().map(|(place, output)| (format!("o{place}"), output));
        let names: Vec<String> = keys.clone().chain(outputs.clone().map(|(name, _)| name)).collect();
        let text = |name: &str| format!("CASE WHEN {name} IS DISTINCT FROM NULL THEN 's' || format('%s', {name}) END");
        let cut = |name: &str| {
            format!(
                "CASE WHEN {name} IS DISTINCT FROM NULL THEN (SELECT CASE WHEN octet_length(v) <= {CUT} THEN 's' || v ELSE 'l' || \
                 octet_length(v) || ' ' || encode(sha256(convert_to(v, 'UTF8')), 'hex') END \
                 FROM (SELECT format('%s', {name}) OFFSET 0) AS f(v)) END"
            )
        };
        let fields: Vec<String> =
            keys.map(|name| text(&name))
                .chain(outputs.map(
                    |(name, output)| if NAMING.contains(&output.name.as_str()) { text(&name) } else { cut(&name) },
                ))
                .collect();
        let id = plan.outputs.iter().position(|output| output.name == "id").map(|place| format!("o{place}"));
        whole
            .replacen("(\"portalhook row\".*)::text", &format!("ROW({})::text", fields.join(", ")), 1)
            .replace("\"portalhook row\".id)", &format!("{})", id.as_deref().unwrap_or("NULL")))
            .replace(" AS \"portalhook row\"", &format!(" AS \"portalhook row\"({})", names.join(", ")))
    }

    /// The same for one output at a time, whose record has the base's key and that output alone. PostgreSQL does not compute
    /// what is not asked for, so what raises in one output leaves the others be.
    pub(crate) fn select_by_column(&self, entity: Entity, variant: Variant, restriction: &Restriction) -> ByColumn {
        let whole = self.select(entity, variant, restriction);
        let Some(plan) = self.entity(entity) else { return ByColumn { keys: String::new(), rest: whole } };
        let keys: Vec<String> =
            (0..plan.base.map_or(0, |base| self.tables[base].key.len())).map(|place| format!("k{place}, ")).collect();
        let keys = keys.concat();
        let outputs: Vec<String> = (0..plan.outputs.len()).map(|place| format!("o{place}")).collect();
        let id = plan.outputs.iter().position(|output| output.name == "id").map(|place| format!("o{place}"));
        let rest = whole
            .replace("\"portalhook row\".id)", &format!("{})", id.as_deref().unwrap_or("NULL")))
            .replace(" AS \"portalhook row\"", &format!(" AS \"portalhook row\"({keys}{})", outputs.join(", ")));
        ByColumn { keys, rest }
    }

    /// How `Restriction::Ids` finds rows of this entity.
    pub(crate) fn id_lookup(&self, plan: &EntityPlan) -> IdLookup {
        let column = plan.base.zip(plan.id_column).map(|(base, column)| &self.tables[base].columns[column]);
        match column.map(|column| column.mirror_type.as_str()) {
            Some("smallint" | "integer" | "bigint") => IdLookup::Integer,
            Some("uuid") => IdLookup::Uuid,
            // A type of the application is kept as its output text, which is what references compare with.
            Some(name) if name == "text" || name.starts_with("character varying") => IdLookup::Text,
            None if plan.id_function.is_some() => IdLookup::Function,
            _ => IdLookup::Computed,
        }
    }

    fn hole(&self, base: &Table, plan: &EntityPlan, restriction: &Restriction, by_column: bool) -> String {
        match restriction {
            Restriction::All => base.rows(&base.mirror_in(MIRROR_SCHEMA), None),
            Restriction::Images => base.rows("\"portalhook rows\"", None),
            Restriction::Keys => base.rows(&base.mirror_in(MIRROR_SCHEMA), Some(&base.key_condition())),
            Restriction::Ids if by_column && plan.id_function.is_some() => {
                let call = self.id_call(plan.entity).unwrap_or_default();
                base.rows(&base.mirror_in(MIRROR_SCHEMA), Some(&format!("{call} = ANY ($1::text[])")))
            }
            Restriction::Ids if by_column => {
                let column = plan.id_column.map(|index| quote(&base.columns[index].name)).unwrap_or_default();
                let array = match self.id_lookup(plan) {
                    IdLookup::Integer => "int8",
                    IdLookup::Uuid => "uuid",
                    IdLookup::Text | IdLookup::Function | IdLookup::Computed => "text",
                };
                base.rows(&base.mirror_in(MIRROR_SCHEMA), Some(&format!("{column} = ANY ($1::{array}[])")))
            }
            Restriction::Ids => base.rows(&base.mirror_in(MIRROR_SCHEMA), None),
        }
    }
}

/// The SELECT of an entity for one output at a time: a text for each would be many times a wide table's columns.
pub(crate) struct ByColumn {
    /// The key's columns, each with a comma behind it.
    keys: String,
    /// The SELECT, which gives the whole record.
    rest: String,
}

impl ByColumn {
    /// The text for the output at a place.
    pub(crate) fn text(&self, place: usize) -> String {
        self.rest.replacen("(\"portalhook row\".*)::text", &format!("ROW({}o{place})::text", self.keys), 1)
    }
}

impl Template {
    /// The SELECT with `base` where the base table stood.
    pub(super) fn over(&self, base: &str) -> String {
        format!("{}{base}{}", self.head, self.tail)
    }
}

impl Table {
    /// A parenthesised query that yields the table's columns as the source has them, out of `from`, which has the mirror's.
    pub(super) fn rows(&self, from: &str, condition: Option<&str>) -> String {
        let condition = condition.map(|condition| format!(" WHERE {condition}")).unwrap_or_default();
        let stored: Vec<String> = self
            .columns
            .iter()
            .filter(|column| column.is_stored())
            .map(|column| match column.cast() {
                Some(cast) => format!("{cast} AS {}", quote(&column.name)),
                None => quote(&column.name),
            })
            .collect();
        let stored = format!("(SELECT {} FROM {from}{condition})", stored.join(", "));
        if self.columns.iter().all(super::plan::Column::is_stored) {
            return stored;
        }
        // A generated column is an expression over the source's columns, so it stands above the casts.
        let all: Vec<String> = self
            .columns
            .iter()
            .map(|column| match &column.generated {
                Some(expression) => format!("{expression} AS {}", quote(&column.name)),
                None => quote(&column.name),
            })
            .collect();
        format!("(SELECT {} FROM {stored} AS stored)", all.join(", "))
    }

    /// What stands for the table where a SELECT joins it: the mirror itself if that has the source's columns as they are.
    pub(super) fn relation(&self, schema: &str) -> String {
        let mirror = self.mirror_in(schema);
        if self.columns.iter().all(|column| column.is_stored() && column.cast().is_none()) {
            mirror
        } else {
            self.rows(&mirror, None)
        }
    }

    /// The WITH clause of `Restriction::Images`.
    fn images(&self) -> String {
        let stored: Vec<_> = self.columns.iter().filter(|column| column.is_stored()).collect();
        let list = |each: &dyn Fn(usize) -> String| (0..stored.len()).map(each).collect::<Vec<_>>().join(", ");
        format!(
            "WITH \"portalhook rows\" AS (SELECT {} FROM (SELECT DISTINCT * FROM unnest({}) AS u({})) AS u) ",
            list(&|place| format!("c{place}::{} AS {}", stored[place].mirror_type, quote(&stored[place].name))),
            list(&|place| format!("${}::text[]", place + 1)),
            list(&|place| format!("c{place}")),
        )
    }

    fn key_condition(&self) -> String {
        let names: Vec<String> = self.key.iter().map(|&index| quote(&self.columns[index].name)).collect();
        let arrays: Vec<String> = self
            .key
            .iter()
            .enumerate()
            .map(|(place, &index)| format!("${}::{}[]", place + 1, self.columns[index].mirror_type))
            .collect();
        match &names[..] {
            [name] => format!("{name} = ANY ({})", arrays[0]),
            _ => format!("({}) IN (SELECT * FROM unnest({}))", names.join(", "), arrays.join(", ")),
        }
    }
}
