//! Where in the stream the plan changes: transactions that arrived together are split there.

use std::collections::{HashMap, VecDeque};

use super::job::{Kept, Recording};
use super::relation::Fit;
use super::snapshot::Snapshot;
use super::turn::{InPlace, Turn};
use crate::advance::Advance;
use crate::advance::operations::Operation;
use crate::change::{Change, Transaction};
use crate::error::{Context as _, Error, Result};
use crate::mapping::mirrors::Mirrors;
use crate::mapping::plan::{Entity, Plan};
use crate::mapping::read;
use crate::mapping::stored::Source;
use crate::mirror::net::Net;
use crate::session::Session;

/// Transactions under one plan, and what changes it after the last of them.
#[derive(Default)]
pub(in crate::advance) struct Piece {
    pub(in crate::advance) nets: Vec<Net>,
    pub(in crate::advance) kept: Vec<Kept>,
    pub(in crate::advance) turn: Option<Turn>,
    /// Why nothing can be taken until the mapping is changed, and what to type.
    pub(in crate::advance) pause: Option<String>,
}

/// What a transaction's operations announce for the plan.
#[derive(Default)]
pub(in crate::advance) struct Announced {
    /// Copies that are complete.
    attempts: Vec<String>,
    /// SELECTs of the mapping, each as the transaction leaves it.
    mapping: Vec<Remapped>,
}

struct Remapped {
    entity: String,
    /// `None`: it was removed.
    query: Option<String>,
    search_path: Option<String>,
}

impl Announced {
    /// Takes the transaction's next operation.
    pub(in crate::advance) fn note(&mut self, operation: &Operation) {
        match operation {
            Operation::Switch { attempt } => self.attempts.push(attempt.clone()),
            Operation::Mapping { entity, query, search_path } => {
                self.mapping.retain(|one| one.entity != *entity);
                self.mapping.push(Remapped {
                    entity: entity.clone(),
                    query: query.clone(),
                    search_path: search_path.clone(),
                });
            }
            _ => {}
        }
    }
}

const ARE_OPEN: &str = "SELECT EXISTS (SELECT FROM portalhook.switches WHERE state <> 'done' AND kind <> 'pause')";

impl Advance {
    /// Takes from the front what goes into one group commit.
    pub(in crate::advance) async fn piece(
        &mut self,
        session: &Session,
        rest: &mut VecDeque<Transaction>,
        operations: &HashMap<i64, Operation>,
    ) -> Result<Piece> {
        let mut piece = Piece { nets: Vec::with_capacity(rest.len()), ..Piece::default() };
        while let Some(mut transaction) = rest.pop_front() {
            if let Some(relation) = self.stranger(&transaction.changes, transaction.xid) {
                rest.push_front(transaction);
                // What comes before it is under the plan as it is.
                if !piece.nets.is_empty() {
                    break;
                }
                match self.fit(session, &relation).await? {
                    Fit::Fits => self.accept(relation, true),
                    Fit::Earlier => self.accept(relation, false),
                    Fit::Resync(why) => self.resync(session, relation.oid, &why).await?,
                    Fit::Turn(turn) => {
                        piece.turn = Some(turn);
                        break;
                    }
                    Fit::Pause(why) => {
                        piece.pause = Some(why);
                        break;
                    }
                }
                continue;
            }
            if self.has_earlier(&transaction.changes, transaction.xid) {
                self.read_earlier(session, &mut transaction.changes, transaction.xid).await?;
            }
            piece.kept.extend(self.keep(transaction.xid, &transaction.changes)?);
            let mut announced = Announced::default();
            for change in &transaction.changes {
                if let Change::Operation { number } = change
                    && let Some(operation) = operations.get(number)
                {
                    announced.note(operation);
                }
            }
            piece.turn = self.turn_after(session, transaction.xid, announced, false).await?;
            self.leave_out(&mut transaction.changes, transaction.xid);
            piece.nets.push(self.netting.net(transaction)?);
            if piece.turn.is_some() {
                break;
            }
        }
        Ok(piece)
    }

    /// What comes after a transaction that announced this. `is_open`: the session is in that transaction's group.
    pub(in crate::advance) async fn turn_after(
        &mut self,
        session: &Session,
        xid: u64,
        announced: Announced,
        is_open: bool,
    ) -> Result<Option<Turn>> {
        let is_it = |recording: &mut Recording| announced.attempts.contains(&recording.job.attempt);
        if let Some(recording) = self.recording.take_if(is_it) {
            return Ok(Some(Turn::Copied(Box::new(recording))));
        }
        if announced.mapping.is_empty() || self.knows(xid)? {
            return Ok(None);
        }
        self.mapping_turn(session, &announced.mapping, is_open).await.map(Some)
    }

    /// Whether the mapping was read so late that it has this transaction's change already, for this plan or the coming one.
    fn knows(&self, xid: u64) -> Result<bool> {
        let coming = self.recording.as_ref().and_then(|recording| recording.job.seen.as_deref());
        for seen in self.seen.as_deref().into_iter().chain(coming) {
            if seen.parse::<Snapshot>()?.sees(xid) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// What a change of the mapping comes to, where it stands: another plan at once if it names nothing new.
    async fn mapping_turn(&self, session: &Session, changed: &[Remapped], is_open: bool) -> Result<Turn> {
        let names: Vec<&str> = changed.iter().map(|one| one.entity.as_str()).collect();
        let why = format!("the mapping of {} was changed", names.join(", "));
        let are_open: bool = session.query_one(ARE_OPEN, &[]).await.context("look for open switches")?.get(0);
        let Some(sources) = sources(&self.plan, changed)?.filter(|_| !are_open && self.recording.is_none()) else {
            return Ok(Turn::Request { why });
        };
        let mirrors = Mirrors { before: Some(&self.plan), afresh: &[], by_daemon: true };
        let read = match is_open {
            true => read::read_within(session, &sources, &mirrors).await,
            false => read::read_over(session, &sources, &mirrors).await,
        };
        match read {
            Ok(plan) if needs_copies(&self.plan, &plan).is_empty() => Ok(Turn::InPlace(Box::new(InPlace {
                plan,
                seen: None,
                why,
                rebuilds: Vec::new(),
                requests: Vec::new(),
                copied: Vec::new(),
                ahead_in: None,
            }))),
            Ok(_) => Ok(Turn::Request { why }),
            Err(error) if session.is_closed() => Err(error),
            // Something new that we may not read yet, or that is gone again: the copier sees to it, and says so.
            Err(error) => {
                tracing::debug!("the mapping cannot be taken at once: {error:?}");
                Ok(Turn::Request { why })
            }
        }
    }
}

/// The mapping in force with these changes; none where an operation does not tell its text.
fn sources(plan: &Plan, changed: &[Remapped]) -> Result<Option<Vec<Source>>> {
    let mut sources = Source::all_settled(plan);
    for Remapped { entity: name, query, search_path } in changed {
        let entity = crate::mapping::stored::entity(name)
            .ok_or_else(|| Error::failed(format!("an operation changes the mapping of {name}, which is no entity")))?;
        sources.retain(|source| source.entity != entity);
        match query {
            Some(query) => {
                sources.push(Source { search_path: search_path.clone(), ..Source::new(entity, query.clone()) });
            }
            None if entity == Entity::CommentVotes => {}
            None => return Ok(None),
        }
    }
    Ok(Some(sources))
}

/// The tables of a new plan whose mirrors are not there yet.
pub(super) fn needs_copies(before: &Plan, plan: &Plan) -> Vec<usize> {
    let is_new = |mirror: &str| !before.tables.iter().any(|table| table.mirror == mirror);
    plan.tables.iter().enumerate().filter(|(_, table)| is_new(&table.mirror)).map(|(place, _)| place).collect()
}
