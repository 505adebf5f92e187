//! What a message says.

use bytes::Bytes;

use crate::change::{Relation, Row};
use crate::lsn::Lsn;

/// One message of the stream. Tables are named by their oid, which an earlier `Relation` message described.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Message {
    Begin {
        /// Where the commit record begins.
        final_lsn: Lsn,
        /// Commit time, microseconds since 1970-01-01 UTC.
        commit_micros: i64,
        xid: u32,
    },
    /// Written by `pg_logical_emit_message`; one that is not transactional stands outside of Begin and Commit.
    Logical {
        transactional: bool,
        lsn: Lsn,
        prefix: String,
        content: Bytes,
    },
    Commit {
        commit_lsn: Lsn,
        /// Just past the commit record.
        end_lsn: Lsn,
        commit_micros: i64,
    },
    Origin {
        commit_lsn: Lsn,
        name: String,
    },
    Relation(Relation),
    Type {
        oid: u32,
        schema: String,
        name: String,
    },
    Insert {
        relation: u32,
        new: Row,
    },
    Update {
        relation: u32,
        old: Option<OldRow>,
        new: Row,
    },
    Delete {
        relation: u32,
        old: OldRow,
    },
    Truncate {
        relations: Vec<u32>,
        cascade: bool,
        restart_identity: bool,
    },
}

/// The old row of an UPDATE or DELETE, as far as the replica identity carries it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum OldRow {
    /// `K`: the identity's columns; all others are null, whatever they were.
    Key(Row),
    /// `O`: every column (replica identity FULL).
    Full(Row),
}

impl OldRow {
    pub(crate) fn into_row(self) -> Row {
        match self {
            Self::Key(row) | Self::Full(row) => row,
        }
    }
}
