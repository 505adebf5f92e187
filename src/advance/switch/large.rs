//! Large transactions, which come in parts, against the plan: what they need has to be in force before the first part is staged.

use super::job::Kept;
use super::pause::Meanwhile;
use super::place::Piece;
use super::relation::Fit;
use crate::advance::Advance;
use crate::change::Change;
use crate::error::{Error, Kind, Result};
use crate::mirror::prepared::Prepared;
use crate::session::Session;

impl Advance {
    /// Brings the plan to where the first part can be staged; says why the stream is paused, where that needs another mapping.
    pub(in crate::advance) async fn prepare_for(
        &mut self,
        sql: &Prepared<'_>,
        session: &Session,
        changes: &[Change],
        xid: u64,
    ) -> Result<Option<String>> {
        while let Some(relation) = self.stranger(changes, xid) {
            match self.fit(session, &relation).await? {
                Fit::Fits => self.accept(relation, true),
                Fit::Earlier => self.accept(relation, false),
                Fit::Pause(why) => return Ok(Some(why)),
                Fit::Resync(why) => self.resync(session, relation.oid, &why).await?,
                Fit::Turn(turn) => {
                    let piece = Piece { turn: Some(turn), ..Piece::default() };
                    self.group(sql, session, piece, &std::collections::HashMap::new()).await?;
                }
            }
        }
        Ok(None)
    }

    /// A part, inside the transaction that stages it: a table that is described anew in the middle has to be settled before
    /// the whole, which then begins again. Gives what a copy that is under way does not see.
    pub(in crate::advance) async fn check_part(
        &mut self,
        session: &Session,
        changes: &mut Vec<Change>,
        xid: u64,
    ) -> Result<Option<Kept>> {
        while let Some(relation) = self.stranger(changes, xid) {
            match self.fits_as_it_is(session, &relation).await? {
                Some(Fit::Earlier) => self.accept(relation, false),
                Some(_) => self.accept(relation, true),
                None => {
                    self.stopped = Some(relation);
                    return Err(Error::new(
                        Kind::Again,
                        "a table changed in the middle of a large transaction, which is read again",
                    ));
                }
            }
        }
        if self.has_earlier(changes, xid) {
            self.read_earlier(session, changes, xid).await?;
        }
        let kept = self.keep(xid, changes)?;
        self.leave_out(changes, xid);
        Ok(kept)
    }

    /// After a large transaction failed: carries out what has to come before it, for which the stream may have to wait.
    /// `None`: an end is wanted meanwhile.
    pub(in crate::advance) async fn turn_before(
        &mut self,
        sql: &Prepared<'_>,
        session: &Session,
        error: Error,
        mut meanwhile: Meanwhile<'_>,
    ) -> Result<()> {
        let Some(relation) = self.stopped.take() else { return self.stand_still(sql, session, error, meanwhile).await };
        sql.run("leave a large transaction", "ROLLBACK").await?;
        loop {
            match self.fit(session, &relation).await? {
                Fit::Fits | Fit::Earlier => return Err(error),
                Fit::Resync(why) => {
                    self.resync(session, relation.oid, &why).await?;
                    return Err(error);
                }
                Fit::Pause(why) => {
                    if self.wait(sql, session, &why, &mut meanwhile).await? {
                        return Ok(());
                    }
                }
                Fit::Turn(turn) => {
                    let piece = Piece { turn: Some(turn), ..Piece::default() };
                    self.group(sql, session, piece, &std::collections::HashMap::new()).await?;
                    return Err(error);
                }
            }
        }
    }
}
