//! Large transactions, which come in parts, against the plan: what they need has to be in force before the first part is staged.

use super::place::Piece;
use super::relation::Fit;
use crate::advance::Advance;
use crate::change::Change;
use crate::error::{Error, Result};
use crate::mirror::prepared::Prepared;
use crate::session::Session;

impl Advance {
    /// Brings the plan to where the first part can be staged; says why the stream is paused, where that needs another mapping.
    pub(in crate::advance) async fn prepare_for(
        &mut self,
        sql: &Prepared<'_>,
        session: &Session,
        changes: &[Change],
    ) -> Result<Option<String>> {
        while let Some(relation) = self.stranger(changes) {
            match self.fit(session, &relation).await? {
                Fit::Fits => drop(self.known.insert(relation.oid, relation)),
                Fit::Pause(why) => return Ok(Some(why)),
                Fit::Turn(turn) => {
                    let piece = Piece { turn: Some(turn), ..Piece::default() };
                    self.group(sql, session, piece, &std::collections::HashMap::new()).await?;
                }
            }
        }
        Ok(None)
    }

    /// A later part: a table that is described anew in the middle has to be settled before the transaction, which begins again.
    pub(in crate::advance) async fn check_part(&mut self, session: &Session, changes: &[Change]) -> Result<()> {
        if let Some(recording) = self.recording.take_if(|recording| recording.touches(changes)) {
            recording.give_up("a large transaction wrote a table that was being copied");
        }
        while let Some(relation) = self.stranger(changes) {
            match self.fit(session, &relation).await? {
                Fit::Fits => drop(self.known.insert(relation.oid, relation)),
                Fit::Pause(why) => return Err(Error::failed(why)),
                Fit::Turn(turn) => {
                    self.before_large = Some(turn);
                    return Err(Error::failed(
                        "a table changed in the middle of a large transaction, which begins again",
                    ));
                }
            }
        }
        Ok(())
    }

    /// After a large transaction failed: carries out what has to come before it. The daemon then starts anew.
    pub(in crate::advance) async fn turn_before(
        &mut self,
        sql: &Prepared<'_>,
        session: &Session,
        error: Error,
    ) -> Error {
        let Some(turn) = self.before_large.take() else { return error };
        let piece = Piece { turn: Some(turn), ..Piece::default() };
        let done = match sql.run("leave a large transaction", "ROLLBACK").await {
            Ok(()) => self.group(sql, session, piece, &std::collections::HashMap::new()).await.map(drop),
            failed => failed,
        };
        done.err().unwrap_or(error)
    }
}
