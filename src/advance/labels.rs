//! Values of enums that were renamed. A mirror keeps them as text, and so does what the stream has decoded before: PostgreSQL
//! does not know the old name any more, so neither could be evaluated. Renaming changes no row, and so it makes no event.

use std::collections::BTreeMap;

use super::Advance;
use super::group::Group;
use crate::error::{Context as _, Error, Result};
use crate::lsn::Lsn;
use crate::mapping::layout::{literal, quote};
use crate::mirror::catalog::{self, RenamedLabel};
use crate::session::Session;

impl Advance {
    /// Renames them in the mirrors, and from here on in that part of the stream which was written before now.
    pub(super) async fn follow_labels(&mut self, session: &Session) -> Result<()> {
        let renamed = catalog::renamed_labels(session, &self.plan, &self.checkpoint.publication).await?;
        // Two that changed places: only a fresh copy tells them apart, and it is asked for.
        let is_swapped =
            |one: &RenamedLabel| renamed.iter().any(|other| other.table == one.table && other.from == one.to);
        if renamed.is_empty() || renamed.iter().any(is_swapped) {
            return Ok(());
        }
        let row =
            session.query_one("SELECT pg_current_wal_insert_lsn()::text", &[]).await.context("look at the log")?;
        let until: Lsn =
            row.get::<_, &str>(0).parse().map_err(|error| Error::failed(format!("look at the log: {error}")))?;
        let mut columns: BTreeMap<(usize, &str), Vec<&RenamedLabel>> = BTreeMap::new();
        for one in &renamed {
            columns.entry((one.table, &one.column)).or_default().push(one);
        }
        for ((table, column), labels) in columns {
            let column = quote(column);
            let cases: Vec<String> =
                labels.iter().map(|one| format!("WHEN {} THEN {}", literal(&one.from), literal(&one.to))).collect();
            let from: Vec<String> = labels.iter().map(|one| literal(&one.from)).collect();
            let sql = format!(
                "UPDATE {} SET {column} = CASE {column} {} END WHERE {column} IN ({})",
                self.plan.tables[table].mirror_name(),
                cases.join(" "),
                from.join(", ")
            );
            session.batch_execute(&sql).await.context("rename the value of an enum in the mirror")?;
        }
        let in_stream =
            renamed.into_iter().map(|one| ((self.plan.tables[one.table].oid, one.column, one.from), one.to));
        self.netting.rename(in_stream.collect(), until);
        Ok(())
    }

    /// Whether a row could not be evaluated because a value was renamed just now: then nothing of the group counts.
    pub(super) async fn check_labels(&self, session: &Session, group: &Group) -> Result<()> {
        let is_of_enum = |message: &str| message.starts_with("invalid input value for enum");
        if !group.failures.iter().any(|(_, failure)| is_of_enum(&failure.message)) {
            return Ok(());
        }
        let renamed = catalog::renamed_labels(session, &self.plan, &self.checkpoint.publication).await?;
        let is_news = |one: &RenamedLabel| {
            let place = (self.plan.tables[one.table].oid, one.column.clone(), one.from.clone());
            !self.netting.renames(&place)
        };
        match renamed.iter().find(|one| is_news(one)) {
            Some(one) => Err(Error::failed(format!("the enum value {} is called {} now", one.from, one.to))),
            None => Ok(()),
        }
    }
}
