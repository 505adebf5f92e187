//! What capture yields: committed transactions, in commit order. Pure words, shared by both capture modes.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use bytes::Bytes;

use crate::lsn::Lsn;

/// One column's value in a row of the stream, in PostgreSQL's text output under our pinned settings.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum TupleData {
    Null,
    /// A TOASTed value that the UPDATE did not touch: the stream does not carry it. It is not null.
    UnchangedToast,
    /// Output text in the database's client encoding (UTF-8, pinned).
    Text(Bytes),
    /// Such a text that is not in memory: the write session holds it (`mirror::held`).
    Held(Box<Held>),
}

/// Bytes above which a value of the stream is not kept in memory.
pub(crate) const LARGE: usize = 1 << 20;

/// What is known of a value that the write session holds. Equal values are one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Held {
    /// SHA-256.
    pub(crate) digest: [u8; 32],
    /// In bytes.
    pub(crate) length: u64,
}

/// `<digest in hex><length>`
impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.digest.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        write!(f, "{}", self.length)
    }
}

/// A text that names no held value.
#[derive(Debug)]
pub(crate) struct NotHeld;

impl FromStr for Held {
    type Err = NotHeld;

    fn from_str(text: &str) -> Result<Self, NotHeld> {
        let (hex, length) = text.split_at_checked(64).ok_or(NotHeld)?;
        let mut digest = [0; 32];
        for (place, byte) in digest.iter_mut().enumerate() {
            let pair = hex.get(2 * place..2 * place + 2).ok_or(NotHeld)?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| NotHeld)?;
        }
        Ok(Self { digest, length: length.parse().map_err(|_| NotHeld)? })
    }
}

/// A large value on its way to where it is held: whose it is, its bytes in order, then what it is called. The change that has it
/// comes later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    /// Of this column (from 0) in a row of this table, by oid.
    Of(u32, usize),
    Bytes(Bytes),
    End(Held),
}

/// The columns of one row, in the order of its `Relation`.
pub(crate) type Row = Vec<TupleData>;

/// Which old values a table's UPDATE and DELETE carry (`pg_class.relreplident`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReplicaIdentity {
    /// The primary key.
    Default,
    Nothing,
    Full,
    /// A unique index that the application chose.
    Index,
}

/// A column as a Relation message describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Column {
    pub(crate) name: String,
    pub(crate) type_oid: u32,
    pub(crate) type_modifier: i32,
    /// Part of the replica identity (under FULL every column is).
    pub(crate) key: bool,
}

/// A table as of a point in the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Relation {
    pub(crate) oid: u32,
    pub(crate) schema: String,
    pub(crate) name: String,
    pub(crate) identity: ReplicaIdentity,
    pub(crate) columns: Vec<Column>,
}

/// One thing that a transaction did, in the order in which it did it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Insert {
        relation: Arc<Relation>,
        new: Row,
    },
    /// `old`: the old row as far as the identity carries it (all columns under FULL; key columns only, others `Null`,
    /// and only when the key changed, under DEFAULT). `None`: the key is as in `new`.
    Update {
        relation: Arc<Relation>,
        old: Option<Row>,
        new: Row,
    },
    /// `old` as for Update: columns outside the identity are `Null`.
    Delete {
        relation: Arc<Relation>,
        old: Row,
    },
    Truncate {
        relations: Vec<Arc<Relation>>,
    },
    /// A row of `portalhook.operations` with this number was written here.
    Operation {
        number: i64,
    },
}

impl Change {
    /// The table of a row; a TRUNCATE has several, an operation none.
    pub(crate) fn relation(&self) -> Option<&Arc<Relation>> {
        match self {
            Self::Insert { relation, .. } | Self::Update { relation, .. } | Self::Delete { relation, .. } => {
                Some(relation)
            }
            Self::Truncate { .. } | Self::Operation { .. } => None,
        }
    }
}

/// Committed transactions as capture hands them on: whole, or in pieces where one is too large for memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Arrival {
    Whole(Transaction),
    /// Changes of a large transaction with this id (64 bits), of which more follow; nothing else comes in between. It has
    /// committed.
    Part(u64, Vec<Change>),
    /// The last changes of a large transaction, maybe none.
    Last(Transaction),
    /// A large value in what comes next is of this column; its pieces follow.
    ValueOf(Arc<Relation>, usize),
    /// Of that value.
    Value(Piece),
}

/// A committed transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Transaction {
    /// The 64-bit transaction id (`xid8`).
    pub(crate) xid: u64,
    /// Where the commit record begins.
    pub(crate) commit_lsn: Lsn,
    /// Just past the commit record: what is confirmed and where reading goes on.
    pub(crate) end_lsn: Lsn,
    /// Commit time, microseconds since 1970-01-01 UTC.
    pub(crate) commit_micros: i64,
    pub(crate) changes: Vec<Change>,
}
