//! What a mirror table looks like.

use super::plan::Table;

/// The schema that holds the mirrors.
pub(crate) const MIRROR_SCHEMA: &str = "portalhook_mirror";

/// The name as an SQL identifier, always quoted.
pub(crate) fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// The name as it may be typed: in quotes only where it needs them. A word of SQL's own is not known here.
pub(crate) fn shown(name: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    let is_word = name.bytes().all(is_plain) && !name.starts_with(|one: char| one.is_ascii_digit()) && !name.is_empty();
    if is_word { name.to_owned() } else { quote(name) }
}

/// The text as an SQL literal that means the same whatever `standard_conforming_strings` says.
pub(crate) fn literal(text: &str) -> String {
    let quoted = text.replace('\'', "''");
    if quoted.contains('\\') { format!("E'{}'", quoted.replace('\\', "\\\\")) } else { format!("'{quoted}'") }
}

impl Table {
    /// The table's name in the mapping, as `public.posts`; in plans of earlier versions that of its mirror, where a copy's has a number
    /// behind it.
    pub(crate) fn called(&self) -> &str {
        match self.mirror.rsplit_once(' ') {
            _ if !self.said.is_empty() => &self.said,
            Some((name, number)) if !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()) => name,
            _ => &self.mirror,
        }
    }

    /// The mirror's name with its schema, quoted.
    pub(crate) fn mirror_name(&self) -> String {
        self.mirror_in(MIRROR_SCHEMA)
    }

    /// The same in another schema: the proof builds the mirrors apart, beside those that live.
    pub(super) fn mirror_in(&self, schema: &str) -> String {
        format!("{}.{}", quote(schema), quote(&self.mirror))
    }

    /// The statement that creates the mirror, empty.
    pub(crate) fn create_sql(&self) -> String {
        self.create_in(MIRROR_SCHEMA)
    }

    pub(super) fn create_in(&self, schema: &str) -> String {
        let mut parts: Vec<String> = self
            .columns
            .iter()
            .filter(|column| column.is_stored())
            .map(|column| {
                let collation = match &column.collation {
                    Some(collation) if column.is_collated_in_mirror() => format!(" COLLATE {collation}"),
                    _ => String::new(),
                };
                format!("{} {}{collation}", quote(&column.name), column.mirror_type)
            })
            .collect();
        if !self.key.is_empty() {
            let key: Vec<String> = self.key.iter().map(|&index| quote(&self.columns[index].name)).collect();
            parts.push(format!("PRIMARY KEY ({})", key.join(", ")));
        }
        // Room on each page, so that an update of what is not indexed stays on it (HOT).
        format!("CREATE TABLE {} ({}) WITH (fillfactor = 90)", self.mirror_in(schema), parts.join(", "))
    }
    /// Where there is no key, the column by which a row's candidates are found: one whose equal values print alike.
    pub(crate) fn probe(&self) -> Option<usize> {
        if !self.key.is_empty() {
            return None;
        }
        let usable = |types: &[&str]| {
            let found = self.columns.iter().enumerate().filter(|(_, column)| {
                column.is_stored()
                    && column.mirror_type == column.source_type
                    && column.collation.is_none()
                    && types.contains(&column.mirror_type.split('(').next().unwrap_or_default())
            });
            found.min_by_key(|(_, column)| column.name != "id").map(|(index, _)| index)
        };
        usable(&["smallint", "integer", "bigint", "uuid"]).or_else(|| usable(&["text", "character varying"]))
    }

    /// The index for `probe`; by hash, because a text may be too long for any other.
    pub(crate) fn probe_index_sql(&self) -> Option<String> {
        let column = quote(&self.columns[self.probe()?].name);
        Some(format!("CREATE INDEX ON {} USING hash ({column})", self.mirror_name()))
    }
}
