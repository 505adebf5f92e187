//! What changes the plan at the end of a group, inside its commit.

use std::collections::HashMap;

use super::ahead::{Ahead, Copied};
use super::job::{self, Job, Recording};
use super::place::Piece;
use super::rebuild::Rebuild;
use super::{Adoption, Command, OUTRUN, pause, store_plan};
use crate::advance::Advance;
use crate::error::{Error, Kind, Result};
use crate::failpoint;
use crate::lsn::Lsn;
use crate::mapping::plan::Plan;
use crate::mirror::prepared::Prepared;
use crate::mirror::{copy, counters};
use crate::session::Session;

/// The end of a group that is more than its commit.
pub(crate) enum Turn {
    /// Another plan over the mirrors that are there.
    InPlace(Box<InPlace>),
    /// Something has to be copied first: the copier hears of it.
    Request { why: String },
    /// The stream has reached the copy's commit.
    Copied(Box<Recording>),
}

/// A plan that takes effect where it stands.
pub(crate) struct InPlace {
    pub(crate) plan: Plan,
    /// The snapshot in which the mapping was read; `None`: it was not read anew.
    pub(crate) seen: Option<String>,
    pub(crate) why: String,
    /// Mirrors that have to be made from those that are there.
    pub(crate) rebuilds: Vec<Rebuild>,
    /// Rows of `portalhook.switches` that are done with it.
    pub(crate) requests: Vec<i64>,
    /// Mirrors that were copied for it, and are further on than the stream.
    pub(crate) copied: Vec<Copied>,
    /// It is for what stands further on in the stream, in these tables and those that it changes.
    pub(crate) ahead_in: Option<Vec<u32>>,
}

/// The plan that is in force once a group has committed.
#[derive(Clone)]
pub(crate) struct Adopted {
    pub(crate) plan: Plan,
    pub(crate) seen: Option<String>,
    pub(crate) ahead: Ahead,
}

const REQUEST: &str = "INSERT INTO portalhook.switches (kind, why) VALUES ('mapping', $1)";
const DONE_NOW: &str = "INSERT INTO portalhook.switches (kind, state, why, lsn, finished_at) \
                        VALUES ('mapping', 'done', $1, $2::text::pg_lsn, now())";
const DONE: &str = "UPDATE portalhook.switches SET state = 'done', problem = NULL, lsn = $2::text::pg_lsn, finished_at = now() \
                    WHERE id = ANY ($1)";
const FORGET: &str = "DELETE FROM portalhook.catalog WHERE mirror <> ALL ($1)";
const NOTIFY: &str = "SELECT pg_notify('portalhook_switch', '')";

/// Has the copier look at the newest mapping.
pub(in crate::advance) async fn request(sql: &Prepared<'_>, why: &str) -> Result<()> {
    sql.query("ask for a switch", REQUEST, &[&why]).await?;
    sql.query("ask for a switch", NOTIFY, &[]).await.map(drop)
}

impl Advance {
    /// Carries it out at `lsn`; gives the plan that is in force once the group has committed.
    pub(in crate::advance) async fn turn(
        &self,
        sql: &Prepared<'_>,
        session: &Session,
        turn: &Turn,
        lsn: Lsn,
    ) -> Result<Option<Adopted>> {
        sql.settle().await?;
        match turn {
            Turn::Request { why } => {
                request(sql, why).await?;
                Ok(None)
            }
            Turn::InPlace(change) => {
                self.make_functions(sql, &change.plan).await?;
                for rebuild in &change.rebuilds {
                    rebuild.run(sql).await?;
                }
                let mut plan = change.plan.clone();
                if !change.rebuilds.is_empty() {
                    plan.settle_kinds(session).await?;
                }
                let is_copied = |&place: &usize| change.copied.iter().any(|one| one.table == plan.tables[place].oid);
                let copied: Vec<usize> = (0..plan.tables.len()).filter(is_copied).collect();
                self.index(sql, session, &plan, &copied).await?;
                if change.requests.is_empty() {
                    sql.query("note a switch", DONE_NOW, &[&change.why, &lsn.to_string()]).await?;
                } else {
                    sql.query("note a switch", DONE, &[&change.requests, &lsn.to_string()]).await?;
                }
                let ahead = match &change.ahead_in {
                    Some(tables) => Ahead::of(lsn, &self.plan, &plan, tables, change.copied.clone()).after(&self.ahead),
                    None => self.ahead.copies_alone(),
                };
                let adopted = Adopted { plan, seen: change.seen.clone(), ahead };
                self.enforce(sql, session, &adopted, lsn).await?;
                Ok(Some(adopted))
            }
            Turn::Copied(recording) => {
                if let Some(why) = &recording.useless {
                    tracing::warn!("the copy is of no use and is made again: {why}");
                    return Ok(None);
                }
                failpoint::hit("caught_up");
                let job = &recording.job;
                self.make_functions(sql, &job.plan).await?;
                self.index(sql, session, &job.plan, &job.copied).await?;
                sql.query("note a switch", DONE, &[&job.requests, &lsn.to_string()]).await?;
                let ahead = self.ahead.copies_alone();
                let adopted = Adopted { plan: job.plan.clone(), seen: job.seen.clone(), ahead };
                self.enforce(sql, session, &adopted, lsn).await?;
                Ok(Some(adopted))
            }
        }
    }

    /// Functions of another definition have another name: those of the old plan stay until nothing uses them.
    async fn make_functions(&self, sql: &Prepared<'_>, plan: &Plan) -> Result<()> {
        for text in plan.id_functions_sql() {
            sql.run("create a function that computes ids", &text).await?;
        }
        Ok(())
    }

    /// Indexes that the new plan looks up by; a copy has its own already.
    async fn index(&self, sql: &Prepared<'_>, session: &Session, plan: &Plan, copied: &[usize]) -> Result<()> {
        let there: Vec<String> = copy::indexes(session, &self.plan).await?.into_iter().map(|(_, sql)| sql).collect();
        for (table, text) in copy::indexes(session, plan).await? {
            if !copied.contains(&table) && !there.contains(&text) {
                sql.run("index a mirror", &text).await?;
            }
        }
        Ok(())
    }

    /// The plan takes effect: it is stored, and what users have done is counted by it. No event comes of it.
    async fn enforce(&self, sql: &Prepared<'_>, session: &Session, adopted: &Adopted, lsn: Lsn) -> Result<()> {
        store_plan(sql, adopted).await?;
        let plan = &adopted.plan;
        let mirrors: Vec<&str> = plan.tables.iter().map(|table| table.mirror.as_str()).collect();
        sql.query("forget old mirrors", FORGET, &[&mirrors]).await?;
        sql.query("end a pause", pause::OVER, &[&lsn.to_string()]).await?;
        sql.query("have old mirrors removed", NOTIFY, &[]).await?;
        sql.run("prepare to count", "SET LOCAL enable_seqscan = on").await?;
        sql.run("forget the counters", counters::EMPTY).await?;
        let mut progress = |line: String| tracing::info!("switching: {line}");
        copy::count(session, plan, lsn, &mut progress).await?;
        sql.run("have counted", "SET LOCAL enable_seqscan = off").await
    }

    /// Once the group has committed: goes on with the new plan, and tells whoever waits for it.
    pub(in crate::advance) fn turned(
        &mut self,
        sql: &Prepared<'_>,
        turn: Turn,
        adopted: Option<Adopted>,
    ) -> Result<()> {
        let lsn = self.checkpoint.lsn;
        let was_adopted = adopted.is_some();
        if let Some(adopted) = adopted {
            sql.forget()?;
            self.adopt(adopted)?;
            // Its copy was made for the plan before.
            if let Some(recording) = self.recording.take() {
                recording.give_up(OUTRUN);
            }
            failpoint::hit("switched");
        }
        match turn {
            Turn::Request { .. } => {}
            Turn::InPlace(change) => tracing::info!(%lsn, "{}: in force from here on", change.why),
            Turn::Copied(recording) => {
                if was_adopted {
                    self.skipped.retain(|table| !recording.job.compared.contains(table));
                }
                let ended = if was_adopted { Ok(lsn) } else { Err(Error::failed("the copy is of no use")) };
                // A copier that is gone makes no difference: the switch has happened.
                drop(recording.job.done.send(ended));
            }
        }
        Ok(())
    }

    /// Tables were copied for a mapping that the paused stream waits for: it takes effect where the stream stands, the mirrors
    /// that are there made into its own.
    async fn land(&mut self, sql: &Prepared<'_>, session: &Session, attempt: &str) -> Result<()> {
        let is_it = |recording: &mut Recording| recording.job.attempt == attempt;
        let Some(recording) = self.recording.take_if(is_it) else { return Ok(()) };
        let Recording { job, .. } = recording;
        // The application may have gone on since the copy was asked for: what does not fit any more is found where the stream stands.
        let made = self.rebuilds(session, &job.plan, &job.copied).await?;
        let (Ok(rebuilds), Some(seen), true) = (made, job.snapshot.get(), self.paused.is_some()) else {
            drop(job.done.send(Err(Error::failed("the stream has gone on meanwhile"))));
            return Ok(());
        };
        let mut copied = Vec::with_capacity(job.copied.len());
        for table in job.copied.iter().map(|&place| &job.plan.tables[place]) {
            tracing::warn!(
                from = %self.checkpoint.lsn,
                "{} has its rows of now: between here and now they may be newer than the events that show them",
                table.called()
            );
            copied.push(Copied { table: table.oid, seen: seen.clone() });
        }
        let why = "the mapping was changed while the stream was paused".to_owned();
        let Job { plan, seen, requests, done, .. } = job;
        let change = InPlace { plan, seen, why, rebuilds, requests, copied, ahead_in: Some(Vec::new()) };
        let piece = Piece { turn: Some(Turn::InPlace(Box::new(change))), ..Piece::default() };
        self.group(sql, session, piece, &HashMap::new()).await?;
        // A copier that is gone makes no difference: the switch has happened.
        drop(done.send(Ok(self.checkpoint.lsn)));
        Ok(())
    }

    /// Does what the copier asks for.
    pub(in crate::advance) async fn obey(
        &mut self,
        sql: &Prepared<'_>,
        session: &Session,
        command: Command,
    ) -> Result<()> {
        let changed = || Err(Error::new(Kind::Again, OUTRUN));
        match command {
            Command::Forget => self.recording = None,
            Command::Record(job, answer) => {
                // What was left out must be compared.
                let forgets = |table: &u32| job.copies(*table) && !job.compared.contains(table);
                let answered = if job.before == self.plan && !self.skipped.iter().any(forgets) {
                    sql.run("keep what a copy does not see", job::CREATE).await?;
                    self.recording = Some(Recording::new(*job));
                    sql.forget()?;
                    Ok(())
                } else {
                    changed()
                };
                drop(answer.send(answered));
            }
            Command::Landed(attempt) => self.land(sql, session, &attempt).await?,
            Command::Adopt(adoption, answer) => {
                let Adoption { before, plan, seen, requests } = *adoption;
                let answered = if before == self.plan {
                    let why = "the mapping was changed".to_owned();
                    let turn = Turn::InPlace(Box::new(InPlace {
                        plan,
                        seen,
                        why,
                        rebuilds: Vec::new(),
                        requests,
                        copied: Vec::new(),
                        ahead_in: None,
                    }));
                    let piece = Piece { turn: Some(turn), ..Piece::default() };
                    self.group(sql, session, piece, &HashMap::new()).await?;
                    Ok(())
                } else {
                    changed()
                };
                drop(answer.send(answered));
            }
        }
        Ok(())
    }
}
