//! Which row of a copy was which of the mirror before it, where the table has lost columns of the mirror: those rows belong
//! together that agree in everything that both have, or else in what is left of the mirror's key.

use crate::error::Result;
use crate::mapping::layout::{literal, quote};
use crate::mapping::plan::{Column, Table};
use crate::mirror::prepared::Prepared;

/// A copy beside the mirror that it takes the place of.
pub(super) struct Pairing<'a> {
    mirror: &'a Table,
    copy: &'a Table,
    /// For each stored column of the mirror the copy's value as of its type; `None`: the copy has none.
    values: Vec<Option<String>>,
    /// Tells the tables of one switch apart.
    number: usize,
}

impl<'a> Pairing<'a> {
    /// Looks which values of the copy are ones that the mirror could hold.
    pub(super) async fn of(sql: &Prepared<'_>, mirror: &'a Table, copy: &'a Table, number: usize) -> Result<Self> {
        let mut values: Vec<Option<String>> = Vec::new();
        let mut castable = Vec::new();
        for column in stored(mirror) {
            let there = stored(copy).find(|there| there.name == column.name);
            let (name, of) = (format!("c.{}", quote(&column.name)), &column.mirror_type);
            values.push(match there {
                Some(there) if there.mirror_type == *of => Some(name),
                Some(_) => {
                    let text = text(&name);
                    let can = format!("{name} IS NULL OR portalhook.castable({text}, {}) IS NOT NULL", literal(of));
                    castable.push((values.len(), format!("coalesce(bool_and({can}), true)")));
                    Some(format!("({text})::{of}"))
                }
                None => None,
            });
        }
        if !castable.is_empty() {
            let asked: Vec<&str> = castable.iter().map(|(_, can)| can.as_str()).collect();
            let query = format!("SELECT {} FROM {} AS c", asked.join(", "), copy.mirror_name());
            let rows = sql.query_once("read a copy as what its mirror was", &query, &[]).await?;
            for (at, (place, _)) in castable.iter().enumerate() {
                if !rows.first().is_some_and(|row| row.get(at)) {
                    values[*place] = None;
                }
            }
        }
        Ok(Self { mirror, copy, values, number })
    }

    /// The copy with the columns and types of the mirror, if it has all of them.
    pub(super) fn whole(&self) -> Option<String> {
        let named = stored(self.mirror).zip(&self.values);
        let columns: Vec<String> = named
            .map(|(column, value)| value.as_ref().map(|value| format!("{value} AS {}", quote(&column.name))))
            .collect::<Option<_>>()?;
        Some(format!("(SELECT {} FROM {} AS c) AS copied", columns.join(", "), self.copy.mirror_name()))
    }

    /// Whether the two have anything in common.
    pub(super) fn is_possible(&self) -> bool {
        self.values.iter().any(Option::is_some)
    }

    /// Finds the pairs, and takes the other rows out of the copy.
    pub(super) async fn make(&self, sql: &Prepared<'_>) -> Result<()> {
        let what = format!("compare {} with what its mirror was", self.copy.called());
        let (pairs, apart) = (self.pairs(), self.apart());
        let side = |table: &str, alias: &str, whole: &[String], part: &[String]| {
            let part = if part.is_empty() { "NULL".to_owned() } else { digest(part) };
            format!("SELECT ctid AS at, {} AS whole, {part} AS part FROM {table} AS {alias}", digest(whole))
        };
        let (old, new) = self.common(|_| true);
        let key: Vec<&str> = self.mirror.key.iter().map(|&index| self.mirror.columns[index].name.as_str()).collect();
        let (old_part, new_part) = self.common(|column| key.contains(&column.name.as_str()));
        let nth = |of: &str, by: &str| format!("row_number() OVER (PARTITION BY {by} ORDER BY {of}.at) AS nth");
        let rest = |of: &str| {
            format!(
                "(SELECT at, part, {} FROM {of} WHERE part IS NOT NULL AND NOT EXISTS (SELECT FROM same WHERE same.{of} = {of}.at))",
                nth(of, "part")
            )
        };
        let sql_text = format!(
            "CREATE TEMPORARY TABLE {pairs} ON COMMIT DROP AS
             WITH mirrored AS MATERIALIZED ({mirrored}), copied AS MATERIALIZED ({copied}),
             same AS MATERIALIZED (
                 SELECT m.at AS mirrored, c.at AS copied FROM (SELECT at, whole, {nth_mirrored} FROM mirrored) AS m
                 JOIN (SELECT at, whole, {nth_copied} FROM copied) AS c USING (whole, nth))
             SELECT mirrored, copied FROM same
             UNION ALL SELECT m.at, c.at FROM {rest_mirrored} AS m JOIN {rest_copied} AS c USING (part, nth);
             CREATE TEMPORARY TABLE {apart} ON COMMIT DROP AS
                 SELECT * FROM {copy} AS c WHERE NOT EXISTS (SELECT FROM {pairs} AS p WHERE p.copied = c.ctid);
             DELETE FROM {copy} AS c WHERE NOT EXISTS (SELECT FROM {pairs} AS p WHERE p.copied = c.ctid)",
            mirrored = side(&self.mirror.mirror_name(), "m", &old, &old_part),
            copied = side(&self.copy.mirror_name(), "c", &new, &new_part),
            nth_mirrored = nth("mirrored", "whole"),
            nth_copied = nth("copied", "whole"),
            rest_mirrored = rest("mirrored"),
            rest_copied = rest("copied"),
            copy = self.copy.mirror_name(),
        );
        sql.run(&what, "SET LOCAL enable_seqscan = on").await?;
        sql.run(&what, &sql_text).await?;
        sql.run(&what, "SET LOCAL enable_seqscan = off").await
    }

    /// The mirror's rows that are still there, as they are now as far as the copy tells.
    pub(super) fn stayed(&self) -> String {
        let value = |(column, value): (&Column, &Option<String>)| {
            let name = quote(&column.name);
            format!("{} AS {name}", value.clone().unwrap_or_else(|| format!("m.{name}")))
        };
        let columns: Vec<String> = stored(self.mirror).zip(&self.values).map(value).collect();
        format!(
            "(SELECT {} FROM {} AS p JOIN {} AS m ON m.ctid = p.mirrored JOIN {} AS c ON c.ctid = p.copied) AS stayed",
            columns.join(", "),
            self.pairs(),
            self.mirror.mirror_name(),
            self.copy.mirror_name()
        )
    }

    /// The copy with the rows that `make` took out.
    pub(super) fn complete(&self) -> String {
        format!("(SELECT * FROM {} UNION ALL SELECT * FROM {}) AS complete", self.copy.mirror_name(), self.apart())
    }

    /// Columns that both have, as the mirror and as the copy have them.
    fn common(&self, is_wanted: impl Fn(&Column) -> bool) -> (Vec<String>, Vec<String>) {
        let common = stored(self.mirror).zip(&self.values).filter(|(column, _)| is_wanted(column));
        common.filter_map(|(column, value)| Some((format!("m.{}", quote(&column.name)), value.clone()?))).unzip()
    }

    fn pairs(&self) -> String {
        format!("pg_temp.switch_pairs_{}", self.number)
    }

    fn apart(&self) -> String {
        format!("pg_temp.switch_apart_{}", self.number)
    }
}

fn stored(table: &Table) -> impl Iterator<Item = &Column> {
    table.columns.iter().filter(|column| column.is_stored())
}

/// Output text decides, as in the stream.
fn text(value: &str) -> String {
    format!("CASE WHEN {value} IS DISTINCT FROM NULL THEN format('%s', {value}) END")
}

fn digest(values: &[String]) -> String {
    let texts: Vec<String> = values.iter().map(|value| text(value)).collect();
    format!("sha256(convert_to(ROW({})::text, 'UTF8'))", texts.join(", "))
}
