//! The stream stands still where the mapping cannot be evaluated any more. Nothing is lost meanwhile: the slot is held, the
//! connection lives, deliveries go on.

use std::collections::HashMap;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::Command;
use super::place::{Piece, needs_copies};
use super::rebuild::Unfit;
use crate::advance::durable::Durable;
use crate::advance::{Advance, told};
use crate::error::{Context as _, Error, Kind, Result};
use crate::lsn::Lsn;
use crate::mapping::clock::COMMIT_TIME;
use crate::mapping::layout::literal;
use crate::mapping::mirrors::Mirrors;
use crate::mapping::plan::{Entity, Plan};
use crate::mapping::select::Variant;
use crate::mapping::{read, stored};
use crate::mirror::prepared::Prepared;
use crate::session::Session;

/// How often the mapping is looked at while the stream waits for it to be changed.
const LOOK: Duration = Duration::from_millis(500);

const IS_PAUSED: &str = "SELECT EXISTS (SELECT FROM portalhook.switches WHERE kind = 'pause' AND state <> 'done')";

/// Seconds since a pause began, if there is one.
const AGE: &str = "SELECT extract(epoch FROM now() - requested_at)::float8 FROM portalhook.switches
    WHERE kind = 'pause' AND state <> 'done' ORDER BY id LIMIT 1";

const BEGIN: &str = "
    WITH there AS (
        UPDATE portalhook.switches SET why = $1, problem = $1, lsn = $2::text::pg_lsn WHERE kind = 'pause' AND state <> 'done' RETURNING 1
    )
    INSERT INTO portalhook.switches (kind, why, problem, lsn) SELECT 'pause', $1, $1, $2::text::pg_lsn WHERE NOT EXISTS (SELECT FROM there)";

/// `$1` is where the stream goes on.
pub(in crate::advance) const OVER: &str =
    "UPDATE portalhook.switches SET state = 'done', problem = NULL, lsn = $1::text::pg_lsn, finished_at = now()
    WHERE kind = 'pause' AND state <> 'done'";

const ASK: &str = "
    WITH asked AS (
        INSERT INTO portalhook.switches (kind, why) SELECT 'mapping', 'the mapping was changed while the stream was paused'
        WHERE NOT EXISTS (SELECT FROM portalhook.switches WHERE kind = 'mapping' AND state <> 'done') RETURNING id
    ) SELECT pg_notify('portalhook_switch', id::text) FROM asked";

/// What goes on while the stream stands still.
pub(in crate::advance) struct Meanwhile<'a> {
    pub(in crate::advance) commands: &'a mut mpsc::Receiver<Command>,
    pub(in crate::advance) shutdown: &'a mut watch::Receiver<bool>,
    pub(in crate::advance) durable: &'a mut Durable,
    pub(in crate::advance) confirmed: &'a watch::Sender<Lsn>,
}

/// Whether the stream is paused.
pub(super) async fn is_paused(session: &Session) -> Result<bool> {
    Ok(session.query_one(IS_PAUSED, &[]).await.context("look for a pause")?.get(0))
}

impl Advance {
    /// Says once why, in the log and in `portalhook.switches`.
    pub(in crate::advance) async fn pause(&mut self, session: &Session, why: &str) -> Result<()> {
        if self.paused.as_deref() == Some(why) {
            return Ok(());
        }
        let lsn = self.checkpoint.lsn;
        tracing::error!("at {lsn}: {why}");
        session.execute(BEGIN, &[&why, &lsn.to_string()]).await.context("note a pause")?;
        (self.paused, self.is_paused) = (Some(why.to_owned()), true);
        Ok(())
    }

    /// A group was committed: what it could not be is over.
    pub(in crate::advance) async fn goes_on(&mut self, session: &Session) -> Result<()> {
        if self.is_paused {
            let lsn = self.checkpoint.lsn.to_string();
            session.execute(OVER, &[&lsn]).await.context("end a pause")?;
            tracing::info!(%lsn, "the pause is over");
            (self.paused, self.is_paused) = (None, false);
        }
        Ok(())
    }

    /// Waits a moment while the stream is paused, doing what the copier asks for; true: an end is wanted.
    pub(in crate::advance) async fn wait(
        &mut self,
        sql: &Prepared<'_>,
        session: &Session,
        why: &str,
        meanwhile: &mut Meanwhile<'_>,
    ) -> Result<bool> {
        self.pause(session, why).await?;
        tokio::select! {
            biased;
            () = told(meanwhile.shutdown) => return Ok(true),
            Some(command) = meanwhile.commands.recv() => self.obey(sql, session, command).await?,
            () = tokio::time::sleep(LOOK) => {}
        }
        meanwhile.durable.look(sql, meanwhile.confirmed).await?;
        Ok(false)
    }

    /// A group failed. Where the mapping itself cannot be run any more (SQLSTATE class 42: a function or a type is gone), the
    /// stream is paused until it is another, or can be run again. The group's transactions then come once more.
    ///
    /// # Errors
    /// Always but where an end is wanted: the group's own, or that everything begins again.
    pub(in crate::advance) async fn stand_still(
        &mut self,
        sql: &Prepared<'_>,
        session: &Session,
        error: Error,
        meanwhile: Meanwhile<'_>,
    ) -> Result<()> {
        if session.is_closed() {
            return Err(error);
        }
        let error = self.lacking(sql, session, error).await;
        if !is_of_the_mapping(&error) {
            return Err(error);
        }
        let why = self.pause_after(sql, session, &error).await?;
        // The probe may not meet what the group met: the longer it lasts, the less often it is tried.
        let age: f64 = session.query_opt(AGE, &[]).await.context("look for a pause")?.map_or(0.0, |row| row.get(0));
        let since = Instant::now();
        let age = Duration::from_secs_f64(age.max(0.0));
        let mut next = since + patience(age);
        loop {
            // What the copier asks for waits: of what the group left in memory nothing may be used.
            tokio::select! {
                biased;
                () = told(meanwhile.shutdown) => return Ok(()),
                () = tokio::time::sleep(LOOK) => {}
            }
            meanwhile.durable.look(sql, meanwhile.confirmed).await?;
            let newest = self.newest(session).await?;
            let is_time = Instant::now() >= next;
            if matches!(newest, Newest::Plan(..)) || is_time && self.can_be_run(session).await? {
                return Err(Error::new(Kind::Again, "the mapping can be run again"));
            }
            if is_time {
                next = Instant::now() + patience(age + since.elapsed());
            }
            if let Newest::Broken(problem) = newest {
                self.pause(session, &format!("{why} As it stands it is of no help: {problem}")).await?;
            }
        }
    }

    /// Leaves a group that failed because the mapping cannot be run, and says so.
    async fn pause_after(&mut self, sql: &Prepared<'_>, session: &Session, error: &Error) -> Result<String> {
        sql.run("leave a group", "ROLLBACK").await?;
        let why = format!(
            "the mapping cannot be run any more: {error:?}. The stream is paused before that, deliveries go on. Change the mapping: \
             UPDATE portalhook.mapping SET query = 'SELECT …' WHERE entity = '…';"
        );
        self.pause(session, &why).await?;
        Ok(why)
    }

    /// A gap could not be closed: notes a pause where the mapping is to blame.
    pub(in crate::advance) async fn cannot_close(
        &mut self,
        sql: &Prepared<'_>,
        session: &Session,
        error: Error,
    ) -> Error {
        if !is_of_the_mapping(&error) || session.is_closed() {
            return error;
        }
        self.pause_after(sql, session, &error).await.err().unwrap_or(error)
    }

    /// Where the stream was paused, the newest mapping takes effect where it stands, if it is another and can be run; what it
    /// still lacks.
    pub(in crate::advance) async fn take_newest(
        &mut self,
        sql: &Prepared<'_>,
        session: &Session,
    ) -> Result<Option<Unfit>> {
        self.is_paused = is_paused(session).await?;
        if !self.is_paused {
            return Ok(None);
        }
        let (plan, seen) = match self.newest(session).await? {
            Newest::Same => return Ok(None),
            Newest::Broken(problem) => {
                tracing::debug!("the newest mapping cannot be run either: {problem}");
                return Ok(None);
            }
            Newest::Plan(plan, seen) => (*plan, seen),
        };
        let rebuilds = match self.rebuilds(session, &plan, &[]).await? {
            Ok(rebuilds) => rebuilds,
            Err(unfit) => return Ok(Some(unfit)),
        };
        let why = "the mapping was changed while the stream was paused".to_owned();
        let turn = super::relation::in_place(plan, Some(seen), why, rebuilds, &[]);
        let piece = Piece { turn: Some(turn), ..Piece::default() };
        self.group(sql, session, piece, &HashMap::new()).await?;
        Ok(None)
    }

    /// At the start: `take_newest`, waiting for what it lacks. True: an end is wanted meanwhile.
    pub(in crate::advance) async fn resume(
        &mut self,
        sql: &Prepared<'_>,
        session: &Session,
        mut meanwhile: Meanwhile<'_>,
    ) -> Result<bool> {
        while let Some(unfit) = self.take_newest(sql, session).await? {
            let why = match unfit {
                Unfit::NotMirrored(title) => {
                    self.ask_for_tables(session).await?;
                    is_copied_first(&title)
                }
                // The copy that it is compared with brings the mapping.
                Unfit::Apart(table, why) => {
                    self.resync(session, table, &why).await?;
                    return Ok(false);
                }
            };
            if self.wait(sql, session, &why, &mut meanwhile).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Has the copier copy tables that the newest mapping names and nobody has mirrored yet.
    pub(super) async fn ask_for_tables(&mut self, session: &Session) -> Result<()> {
        // A copy that waits for the stream would wait for ever.
        if let Some(recording) = self.recording.take_if(|recording| !recording.job.at_pause) {
            recording.give_up("the stream is paused");
        }
        session.execute(ASK, &[]).await.context("ask for copies").map(drop)
    }

    /// Whether these are the SELECTs of the plan.
    pub(super) fn runs(&self, sources: &[stored::Source]) -> bool {
        let is_its = |source: &stored::Source| {
            self.plan.entity(source.entity).is_some_and(|entity| entity.query == source.query)
        };
        self.plan.entities.len() == sources.len() && sources.iter().all(is_its)
    }

    async fn newest(&self, session: &Session) -> Result<Newest> {
        if let Err(error) = session.execute("SELECT portalhook.follow_mapping()", &[]).await {
            tracing::debug!(%error, "follow the mapping while paused");
        }
        let newest = stored::read(session).await?;
        if self.runs(&newest.sources) {
            return Ok(Newest::Same);
        }
        let mirrors = Mirrors { before: Some(&self.plan), afresh: &[], by_daemon: true };
        match read::read_over(session, &newest.sources, &mirrors).await {
            Ok(plan) => Ok(Newest::Plan(Box::new(plan), newest.seen)),
            Err(error) if session.is_closed() => Err(error),
            Err(error) => Ok(Newest::Broken(format!("{error:?}"))),
        }
    }

    /// Whether PostgreSQL runs the SELECTs as they stand, over some rows of the mirrors.
    async fn can_be_run(&self, session: &Session) -> Result<bool> {
        session.batch_execute("BEGIN").await.context("try the mapping")?;
        let mut can = Ok(());
        let rows = Entity::ALL.into_iter().filter_map(|entity| self.plan.rows(entity, Variant::Live));
        for (query, names) in rows {
            let time = format!("SELECT set_config({}, now()::text, true)", literal(COMMIT_TIME));
            can = session
                .batch_execute(&format!(
                    "{time}; SELECT count(q) FROM (SELECT * FROM ({query}) AS q ({names}) LIMIT 100) AS q"
                ))
                .await;
            if can.is_err() {
                break;
            }
        }
        let rolled_back = session.batch_execute("ROLLBACK").await.context("try the mapping");
        match can {
            Err(error) if error.code().is_some_and(|state| state.code().starts_with("42")) => {
                rolled_back.map(|()| false)
            }
            Ok(()) | Err(_) => rolled_back.map(|()| true),
        }
    }
}

/// How long to wait after a try, where it has been so for this long.
pub(super) fn patience(age: Duration) -> Duration {
    (age / 2).clamp(LOOK, Duration::from_secs(60))
}

/// Whether no other session and no other row would help: SQLSTATE class 42.
pub(super) fn is_of_the_mapping(error: &Error) -> bool {
    error.sqlstate().is_some_and(|state| state.code().starts_with("42"))
}

/// Why the stream still waits although the mapping was changed.
pub(super) fn is_copied_first(title: &str) -> String {
    format!(
        "the mapping newly names {title}, which is copied first: the stream is paused until it is there, deliveries go on"
    )
}

/// What `portalhook.mapping` holds, against the plan that runs.
enum Newest {
    Same,
    /// It cannot be run, and this is why.
    Broken(String),
    /// With the snapshot in which it was read.
    Plan(Box<Plan>, String),
}

/// Of the tables that a plan needs copied those that nobody has mirrored yet: at a pause the others are made of what is there.
pub(super) fn needs_tables(before: &Plan, plan: &Plan) -> Vec<usize> {
    let is_new = |&place: &usize| before.tables.iter().all(|old| old.oid != plan.tables[place].oid);
    needs_copies(before, plan).into_iter().filter(is_new).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_help_is_tried_less_and_less_often() {
        for (age, wait) in [(0, 500), (800, 500), (4_000, 2_000), (60_000, 30_000), (86_400_000, 60_000)] {
            assert_eq!(patience(Duration::from_millis(age)), Duration::from_millis(wait), "{age}");
        }
    }
}
