//! Per-user counters: rows of the mirror that follow the events.

use std::collections::{HashMap, HashSet};

use super::array::TextArray;
use super::prepared::{Owned, Prepared};
use crate::error::Result;
use crate::event::body::Counters;
use crate::mapping::plan::Entity;

/// Updated with every vote: room on the page keeps the updates off the index.
pub(crate) const CREATE: &str = "CREATE TABLE portalhook_mirror.counters (
    user_id text PRIMARY KEY, posts bigint NOT NULL DEFAULT 0, votes bigint NOT NULL DEFAULT 0,
    comments bigint NOT NULL DEFAULT 0, comment_votes bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 70)";

/// All of them, for another count in the same transaction.
pub(crate) const EMPTY: &str = "DELETE FROM portalhook_mirror.counters";

const READ: &str = "SELECT user_id, posts, votes, comments, comment_votes FROM portalhook_mirror.counters \
                    WHERE user_id = ANY ($1::text[])";

const WRITE: &str = "INSERT INTO portalhook_mirror.counters (user_id, posts, votes, comments, comment_votes) \
                     SELECT * FROM unnest($1::text[], $2::int8[], $3::int8[], $4::int8[], $5::int8[]) \
                     ON CONFLICT (user_id) DO UPDATE SET posts = excluded.posts, votes = excluded.votes, \
                     comments = excluded.comments, comment_votes = excluded.comment_votes";

/// How many users are remembered between group commits.
const REMEMBERED: usize = 50_000;

/// The counters of the users that the stream is about, as of the batch in hand.
#[derive(Default)]
pub(crate) struct CounterRows {
    known: HashMap<Box<str>, Counters>,
    dirty: HashSet<Box<str>>,
}

impl CounterRows {
    /// Reads what is not known yet.
    pub(crate) async fn load(&mut self, sql: &Prepared<'_>, users: impl Iterator<Item = &str>) -> Result<()> {
        let missing: HashSet<&str> = users.filter(|user| !self.known.contains_key(*user)).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let ids: TextArray = missing.iter().copied().collect();
        for row in sql.query("read counters", READ, &[&ids]).await? {
            let user: &str = row.get(0);
            let counters =
                Counters { posts: row.get(1), votes: row.get(2), comments: row.get(3), comment_votes: row.get(4) };
            self.known.insert(user.into(), counters);
        }
        for user in missing {
            self.known.entry(user.into()).or_default();
        }
        Ok(())
    }

    /// Forgets what is known, if that is much (or at once): all of it must be written.
    pub(crate) fn forget(&mut self, at_once: bool) {
        debug_assert!(self.dirty.is_empty(), "what is forgotten is written");
        if at_once || self.known.len() > REMEMBERED {
            self.known.clear();
        }
    }

    pub(crate) fn get(&self, user: &str) -> Counters {
        self.known.get(user).copied().unwrap_or_default()
    }

    /// Counts a live row that came (+1) or went (-1); the user must be loaded.
    pub(crate) fn add(&mut self, user: &str, entity: Entity, by: i64) {
        self.known.entry(user.into()).or_default().add(entity, by);
        if !self.dirty.contains(user) {
            self.dirty.insert(user.into());
        }
    }

    /// Writes what changed, once in a group commit.
    pub(crate) async fn write(&mut self, sql: &Prepared<'_>) -> Result<()> {
        if self.dirty.is_empty() {
            return Ok(());
        }
        // Sorted, so that two writers could never lock rows crosswise.
        let mut users: Vec<Box<str>> = self.dirty.drain().collect();
        users.sort();
        let all: Vec<Counters> = users.iter().map(|user| self.get(user)).collect();
        let ids: TextArray = users.iter().map(AsRef::as_ref).collect();
        let column = |pick: fn(&Counters) -> i64| all.iter().map(pick).collect::<Vec<i64>>();
        let (posts, votes) = (column(|counters| counters.posts), column(|counters| counters.votes));
        let (comments, comment_votes) =
            (column(|counters| counters.comments), column(|counters| counters.comment_votes));
        let parameters: Vec<Owned> =
            vec![Box::new(ids), Box::new(posts), Box::new(votes), Box::new(comments), Box::new(comment_votes)];
        sql.post("write counters", WRITE, parameters).await?;
        self.forget(false);
        Ok(())
    }
}
