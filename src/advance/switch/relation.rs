//! A table as the stream describes it, against the plan: it may have other columns, types, a new name or key.
//!
//! The description comes before the first row that needs it, so that is the position at which the mirror follows.

use std::sync::Arc;

use tokio::time::Instant;

use super::pause::{is_copied_first, patience};
use super::place::needs_copies;
use super::rebuild::{Rebuild, Unfit};
use super::turn::{InPlace, Turn};
use crate::advance::Advance;
use crate::change::{Change, Relation, ReplicaIdentity};
use crate::error::{Context as _, Result};
use crate::mapping::mirrors::Mirrors;
use crate::mapping::plan::{Column, Plan, Table};
use crate::mapping::stored::{self, Source};
use crate::mapping::{mirrors, read};
use crate::session::Session;

/// A mapping that was tried where columns are missing, and was of no help. The server's log has a line for each such try: the longer
/// nobody changes the mapping, the less often it is tried.
pub(in crate::advance) struct Unhelped {
    table: u32,
    missing: Vec<String>,
    sources: Vec<Source>,
    why: String,
    since: Instant,
    next: Instant,
}

impl Unhelped {
    /// Why the stream still waits, unless it is time to try again.
    fn still(&self, table: u32, missing: &[String], sources: &[Source]) -> Option<&str> {
        (self.is_of(table, missing, sources) && Instant::now() < self.next).then_some(&self.why)
    }

    fn is_of(&self, table: u32, missing: &[String], sources: &[Source]) -> bool {
        self.table == table && self.missing == missing && self.sources == sources
    }

    /// After a try; `before`: the last one.
    fn again(before: Option<Self>, table: u32, missing: &[String], sources: Vec<Source>, why: &str) -> Self {
        let now = Instant::now();
        let since = before.filter(|one| one.is_of(table, missing, &sources)).map_or(now, |one| one.since);
        let next = now + patience(now - since);
        Self { table, missing: missing.to_vec(), sources, why: why.to_owned(), since, next }
    }
}

/// What a description means for the plan.
pub(in crate::advance) enum Fit {
    Fits,
    /// The plan is ahead of it: its rows are read in the plan's words.
    Earlier,
    /// The plan has to change first.
    Turn(Turn),
    /// The stream stands still until the mapping was changed: what is wrong, and what to type.
    Pause(String),
    /// Its rows cannot be found in the mirror, and this is why: the table is left out until it was copied.
    Resync(String),
}

/// A description that was held against the plan.
pub(in crate::advance) struct Known {
    pub(super) relation: Arc<Relation>,
    /// It is what the plan follows.
    pub(super) serves: bool,
}

/// A described column: its name, its type as the catalog spells it, whether that is PostgreSQL's own, whether it is in the key.
pub(super) struct Described {
    name: String,
    pub(super) spelled: String,
    is_builtin: bool,
    type_oid: u32,
    is_key: bool,
}

impl Described {
    fn mirror_type(&self) -> &str {
        if self.is_builtin { &self.spelled } else { "text" }
    }
}

/// `???` is how PostgreSQL spells a type that is gone.
const SPELL: &str = "
    SELECT format_type(o, m), coalesce(t.typnamespace = 'pg_catalog'::regnamespace AND t.typname !~ '^_?reg', false)
    FROM unnest($1::oid[], $2::int[]) WITH ORDINALITY AS u (o, m, n) LEFT JOIN pg_type AS t ON t.oid = u.o ORDER BY n";

impl Advance {
    /// A description of a mapped table in these changes that was not held against the plan yet: of each table the last.
    pub(super) fn stranger(&self, changes: &[Change], xid: u64) -> Option<Arc<Relation>> {
        let mut last: Option<&Arc<Relation>> = None;
        let mut found: Option<&Arc<Relation>> = None;
        for change in changes {
            let Some(relation) = change.relation() else { continue };
            if last.is_some_and(|last| Arc::ptr_eq(last, relation)) {
                continue;
            }
            last = Some(relation);
            let is_known = self.known.get(&relation.oid).is_some_and(|known| Arc::ptr_eq(&known.relation, relation));
            let is_mapped =
                self.plan.tables.iter().any(|table| table.oid == relation.oid) && !self.leaves_out(relation.oid, xid);
            if is_mapped && (found.is_none() || found.is_some_and(|found| found.oid == relation.oid)) {
                found = if is_known { None } else { Some(relation) };
            }
        }
        found.map(Arc::clone)
    }

    /// A description that needs nothing more.
    pub(super) fn accept(&mut self, relation: Arc<Relation>, serves: bool) {
        self.known.insert(relation.oid, Known { relation, serves });
    }

    /// Whether the plan was changed for what stands further on, and the stream has not come to it yet.
    pub(in crate::advance) fn is_ahead(&self) -> bool {
        self.ahead.is_at(self.checkpoint.lsn)
    }

    /// Whether rows of a description can be read as the plan is; `None`: something has to change first.
    pub(super) async fn fits_as_it_is(&self, session: &Session, relation: &Relation) -> Result<Option<Fit>> {
        let Some(table) = self.plan.tables.iter().find(|table| table.oid == relation.oid) else {
            return Ok(Some(Fit::Fits));
        };
        let described = describe(session, relation).await?;
        let is_there = |column: &Column| described.iter().any(|one| one.name == column.name);
        let fits = table.schema == relation.schema
            && table.name == relation.name
            && table.columns.iter().filter(|column| column.is_stored()).all(is_there)
            && serves(table, relation, &described);
        if fits {
            return Ok(Some(Fit::Fits));
        }
        let was_reached = self.known.get(&relation.oid).is_some_and(|known| known.serves);
        let is_ahead = self.is_ahead() && self.ahead.is_of(relation.oid);
        Ok((is_ahead && !was_reached).then_some(Fit::Earlier))
    }

    /// Whether anybody may want the value of a column (from 0) in a row of this description that is about to come. For certain
    /// nobody does only where the plan follows the description and no other is on its way. (Where the plan has to change right
    /// before that row, the value comes again: `has_what_it_names`.)
    pub(in crate::advance) async fn may_want(
        &self,
        session: &Session,
        relation: &Arc<Relation>,
        column: usize,
    ) -> Result<bool> {
        let Some(column) = relation.columns.get(column).filter(|_| self.recording.is_none()) else {
            return Ok(true);
        };
        let Some(table) = self.plan.tables.iter().find(|table| table.oid == relation.oid) else { return Ok(false) };
        if table.columns.iter().any(|one| one.is_stored() && one.name == column.name) {
            return Ok(true);
        }
        let known = self.known.get(&relation.oid).filter(|known| Arc::ptr_eq(&known.relation, relation));
        let follows = match known {
            Some(known) => known.serves,
            None => matches!(self.fits_as_it_is(session, relation).await?, Some(Fit::Fits)),
        };
        Ok(!follows)
    }

    /// Holds a description against the plan.
    pub(super) async fn fit(&mut self, session: &Session, relation: &Relation) -> Result<Fit> {
        match self.fits_as_it_is(session, relation).await? {
            Some(fit) => Ok(fit),
            None => self.follow(session, relation).await,
        }
    }

    /// Holds the description that is in force now against the plan: no earlier one can come any more.
    pub(in crate::advance) async fn fit_now(&mut self, session: &Session, relation: &Relation) -> Result<Fit> {
        match self.fits_as_it_is(session, relation).await? {
            Some(Fit::Fits) => Ok(Fit::Fits),
            _ => self.follow(session, relation).await,
        }
    }

    /// What has to change for a description that does not fit.
    async fn follow(&mut self, session: &Session, relation: &Relation) -> Result<Fit> {
        let Some(table) = self.plan.tables.iter().find(|table| table.oid == relation.oid) else { return Ok(Fit::Fits) };
        let described = describe(session, relation).await?;
        let missing: Vec<&str> = table
            .columns
            .iter()
            .filter(|column| column.is_stored() && !described.iter().any(|one| one.name == column.name))
            .map(|column| column.name.as_str())
            .collect();
        if !missing.is_empty() {
            let (table, missing) = (table.clone(), missing.into_iter().map(str::to_owned).collect::<Vec<_>>());
            return self.without(session, &table, &described, &missing).await;
        }
        if !serves(table, relation, &described) {
            return self.converted(session, relation, &described).await;
        }
        let mut plan = self.plan.clone();
        let why = format!("{}.{} is now {}.{}", table.schema, table.name, relation.schema, relation.name);
        rename(&mut plan, relation);
        Ok(Fit::Turn(in_place(plan, None, why, Vec::new(), &[relation.oid])))
    }

    /// Other types, or another key, of columns that are all there.
    async fn converted(&self, session: &Session, relation: &Relation, described: &[Described]) -> Result<Fit> {
        let mirrors = Mirrors { before: Some(&self.plan), afresh: &[], by_daemon: true };
        // Under its old name the table may not be found any more, and other tables may be further on than the stream is: then
        // the table's own description has to do.
        let plan = match read::read_over(session, &Source::all_settled(&self.plan), &mirrors).await {
            Ok(plan) if has(&plan, relation, described) && self.others_stay(&plan, relation) => plan,
            Err(error) if session.is_closed() => return Err(error),
            _ => patched(&self.plan, relation, described),
        };
        let title = format!("{}.{}", relation.schema, relation.name);
        let rebuilds = match self.rebuilds(session, &plan, &[]).await? {
            Ok(rebuilds) => rebuilds,
            Err(Unfit::Apart(_, why)) => return Ok(Fit::Resync(why)),
            Err(_) => return Ok(Fit::Resync(format!("{title} has another key, which the mirror does not have"))),
        };
        Ok(Fit::Turn(in_place(
            plan,
            None,
            format!("the columns of {title} changed their types or its key changed"),
            rebuilds,
            &[relation.oid],
        )))
    }

    /// Whether the mirrors of all other tables serve a plan as they are: their turn comes where the stream describes them.
    fn others_stay(&self, plan: &Plan, relation: &Relation) -> bool {
        needs_copies(&self.plan, plan).iter().all(|&table| plan.tables[table].oid == relation.oid)
    }

    /// Mapped columns are not there any more: only another mapping can help.
    async fn without(
        &mut self,
        session: &Session,
        table: &Table,
        described: &[Described],
        missing: &[String],
    ) -> Result<Fit> {
        let newest = stored::read(session).await?;
        if let Some(why) = self.unhelped.as_ref().and_then(|one| one.still(table.oid, missing, &newest.sources)) {
            return Ok(Fit::Pause(why.to_owned()));
        }
        // What it names newly may have to be made readable first.
        let followed = session.execute("SELECT portalhook.follow_mapping()", &[]).await;
        let followed = followed.context("follow the mapping to its tables");
        let mirrors = Mirrors { before: Some(&self.plan), afresh: &[], by_daemon: true };
        let problem = match read::read_over(session, &newest.sources, &mirrors).await {
            Err(error) if session.is_closed() => return Err(error),
            // Where it could not be made readable, that is why.
            Err(error) => format!("{:?}", followed.err().unwrap_or(error)),
            // Also where the description is older than what the mapping names: its rows are earlier ones then.
            Ok(plan) => match self.rebuilds(session, &plan, &[]).await? {
                Ok(rebuilds) => {
                    for column in rebuilds.iter().flat_map(|rebuild| &rebuild.copied) {
                        tracing::warn!(
                            from = %self.checkpoint.lsn,
                            "{column} has for rows that were not written since the value of now: between here and now it may be newer than its event"
                        );
                    }
                    let why = "the mapping was changed while the stream was paused".to_owned();
                    return Ok(Fit::Turn(in_place(plan, Some(newest.seen), why, rebuilds, &[table.oid])));
                }
                Err(Unfit::NotMirrored(title)) => {
                    self.ask_for_tables(session).await?;
                    return Ok(Fit::Pause(is_copied_first(&title)));
                }
                Err(Unfit::Apart(oid, why)) if oid == table.oid => return Ok(Fit::Resync(why)),
                // Only a copy brings the mapping then, and this table's rows cannot wait for it.
                Err(Unfit::Apart(_, why)) => {
                    let title = table.called();
                    return Ok(Fit::Resync(format!(
                        "{title} has lost columns, and the mapping waits for a copy ({why})"
                    )));
                }
            },
        };
        tracing::debug!("the newest mapping does not help: {problem}");
        let columns = described.iter().map(|one| &*one.name);
        let unfit = (!self.runs(&newest.sources)).then_some(problem.as_str());
        let advice = super::advice::advise(session, &self.plan, table, missing, columns, unfit).await?;
        let tried = Unhelped::again(self.unhelped.take(), table.oid, missing, newest.sources, &advice);
        self.unhelped = Some(tried);
        Ok(Fit::Pause(advice))
    }

    /// How the mirrors that are there become those of another plan, for which `copied` (indexes into its tables) are there.
    pub(super) async fn rebuilds(
        &self,
        session: &Session,
        plan: &Plan,
        copied: &[usize],
    ) -> Result<Result<Vec<Rebuild>, Unfit>> {
        let (mut rebuilds, mut not_mirrored) = (Vec::new(), None);
        for table in needs_copies(&self.plan, plan).into_iter().filter(|table| !copied.contains(table)) {
            match Rebuild::of(&self.plan, &plan.tables[table]) {
                // Rows that cannot be told apart need a copy of everything: then it is no use to copy this alone.
                Err(unfit @ Unfit::NotMirrored(_)) => {
                    not_mirrored.get_or_insert(unfit);
                }
                Err(unfit) => return Ok(Err(unfit)),
                Ok(rebuild) if rebuild.keeps_rows_apart(session).await? => rebuilds.push(rebuild),
                Ok(rebuild) => return Ok(Err(rebuild.unfit())),
            }
        }
        Ok(not_mirrored.map_or(Ok(rebuilds), Err))
    }
}

/// A change of the plan for what stands further on in the stream.
/// Rows of `tables` may come that are older, also where the plan changes nothing of them.
pub(super) fn in_place(plan: Plan, seen: Option<String>, why: String, rebuilds: Vec<Rebuild>, tables: &[u32]) -> Turn {
    let change = InPlace {
        plan,
        seen,
        why,
        rebuilds,
        requests: Vec::new(),
        copied: Vec::new(),
        ahead_in: Some(tables.to_vec()),
    };
    Turn::InPlace(Box::new(change))
}

/// Tables (`pg_class.oid`) as the catalog describes them now; one that is gone is left out.
pub(in crate::advance) async fn of_now(session: &Session, oids: &[u32]) -> Result<Vec<Relation>> {
    const TABLES: &str = "
        SELECT c.oid, n.nspname::text, c.relname::text, c.relreplident::text, a.attname::text, a.atttypid, a.atttypmod,
               coalesce(a.attnum = ANY (i.indkey::int2[]), c.relreplident = 'f')
        FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
        JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
        LEFT JOIN pg_index AS i ON i.indrelid = c.oid AND CASE c.relreplident WHEN 'd' THEN i.indisprimary WHEN 'i' THEN i.indisreplident END
        WHERE c.oid = ANY ($1) ORDER BY c.oid, a.attnum";
    let mut relations: Vec<Relation> = Vec::new();
    for row in session.query(TABLES, &[&oids]).await.context("describe the mapped tables")? {
        let oid: u32 = row.get(0);
        if relations.last().is_none_or(|last| last.oid != oid) {
            let identity = match row.get(3) {
                "f" => ReplicaIdentity::Full,
                "i" => ReplicaIdentity::Index,
                "n" => ReplicaIdentity::Nothing,
                _ => ReplicaIdentity::Default,
            };
            relations.push(Relation { oid, schema: row.get(1), name: row.get(2), identity, columns: Vec::new() });
        }
        if let Some(relation) = relations.last_mut() {
            relation.columns.push(crate::change::Column {
                name: row.get(4),
                type_oid: row.get(5),
                type_modifier: row.get(6),
                key: row.get(7),
            });
        }
    }
    Ok(relations)
}

/// Its columns, in order, with their types as the catalog spells them.
pub(super) async fn describe(session: &Session, relation: &Relation) -> Result<Vec<Described>> {
    let types: Vec<u32> = relation.columns.iter().map(|column| column.type_oid).collect();
    let modifiers: Vec<i32> = relation.columns.iter().map(|column| column.type_modifier).collect();
    let rows = session.query(SPELL, &[&types, &modifiers]).await.context("spell the types of a table")?;
    let column = |(row, column): (&tokio_postgres::Row, &crate::change::Column)| Described {
        name: column.name.clone(),
        spelled: row.get(0),
        is_builtin: row.get(1),
        type_oid: column.type_oid,
        is_key: column.key,
    };
    Ok(rows.iter().zip(&relation.columns).map(column).collect())
}

/// Whether rows of this description can be written to the table's mirror as it is.
fn serves(table: &Table, relation: &Relation, described: &[Described]) -> bool {
    let fits = |column: &Column| {
        described
            .iter()
            .find(|one| one.name == column.name)
            .is_some_and(|one| one.spelled == "???" || one.spelled == "-" || one.spelled == column.source_type)
    };
    let key: Vec<&str> = table.key.iter().map(|&index| table.columns[index].name.as_str()).collect();
    let is_key = |one: &&Described| one.is_key;
    let same_key = match relation.identity {
        // It shows no key, or every column as one; without any, whoever mends the identity comes first.
        ReplicaIdentity::Full | ReplicaIdentity::Nothing => true,
        ReplicaIdentity::Default | ReplicaIdentity::Index => {
            let shown = described.iter().filter(is_key).count();
            shown == 0
                || (shown == key.len() && described.iter().filter(is_key).all(|one| key.contains(&one.name.as_str())))
        }
    };
    same_key && table.columns.iter().filter(|column| column.is_stored()).all(fits)
}

/// Whether a plan's table is as described.
fn has(plan: &Plan, relation: &Relation, described: &[Described]) -> bool {
    plan.tables.iter().find(|table| table.oid == relation.oid).is_none_or(|table| {
        let stored = || table.columns.iter().filter(|column| column.is_stored());
        serves(table, relation, described) && stored().all(|column| described.iter().any(|one| one.name == column.name))
    })
}

fn rename(plan: &mut Plan, relation: &Relation) {
    for table in plan.tables.iter_mut().filter(|table| table.oid == relation.oid) {
        table.schema.clone_from(&relation.schema);
        table.name.clone_from(&relation.name);
    }
}

/// The plan with a table's types as described, where the catalog is further on: the SELECTs stay as they are.
fn patched(before: &Plan, relation: &Relation, described: &[Described]) -> Plan {
    let mut plan = before.clone();
    rename(&mut plan, relation);
    for table in plan.tables.iter_mut().filter(|table| table.oid == relation.oid) {
        for column in table.columns.iter_mut().filter(|column| column.is_stored()) {
            let Some(one) = described.iter().find(|one| one.name == column.name && one.spelled != "???") else {
                continue;
            };
            column.type_oid = one.type_oid;
            column.source_type.clone_from(&one.spelled);
            one.mirror_type().clone_into(&mut column.mirror_type);
        }
        let old = before.tables.iter().find(|old| old.oid == table.oid);
        if old.is_some_and(|old| !mirrors::covers(old, table)) {
            // SELECTs name mirrors; the one of this table keeps its place under its name.
            table.mirror = mirrors::free_name(&before.tables, &table.mirror);
        }
    }
    let renamed: Vec<(String, String)> = before
        .tables
        .iter()
        .zip(&plan.tables)
        .filter(|(old, new)| old.mirror != new.mirror)
        .map(|(old, new)| (old.mirror_name(), new.mirror_name()))
        .collect();
    for entity in &mut plan.entities {
        for template in [&mut entity.live, &mut entity.any] {
            for (old, new) in &renamed {
                template.head = template.head.replace(old, new);
                template.tail = template.tail.replace(old, new);
            }
        }
    }
    plan
}
