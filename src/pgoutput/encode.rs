//! `Message` → bytes, for tests of the decoder and of what stands on it.

use bytes::{BufMut, Bytes, BytesMut};

use super::decode::POSTGRES_EPOCH_MICROS;
use super::message::{Message, OldRow};
use crate::change::{Relation, ReplicaIdentity, TupleData};

impl Message {
    pub(crate) fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        match self {
            Self::Begin { final_lsn, commit_micros, xid } => {
                out.put_u8(b'B');
                out.put_u64(final_lsn.0);
                out.put_i64(commit_micros - POSTGRES_EPOCH_MICROS);
                out.put_u32(*xid);
            }
            Self::Logical { transactional, lsn, prefix, content } => {
                out.put_u8(b'M');
                out.put_u8(u8::from(*transactional));
                out.put_u64(lsn.0);
                string(&mut out, prefix);
                counted(&mut out, content);
            }
            Self::Commit { commit_lsn, end_lsn, commit_micros } => {
                out.put_u8(b'C');
                out.put_u8(0);
                out.put_u64(commit_lsn.0);
                out.put_u64(end_lsn.0);
                out.put_i64(commit_micros - POSTGRES_EPOCH_MICROS);
            }
            Self::Origin { commit_lsn, name } => {
                out.put_u8(b'O');
                out.put_u64(commit_lsn.0);
                string(&mut out, name);
            }
            Self::Relation(table) => relation(&mut out, table),
            Self::Type { oid, schema, name } => {
                out.put_u8(b'Y');
                out.put_u32(*oid);
                string(&mut out, schema);
                string(&mut out, name);
            }
            Self::Insert { relation, new } => {
                out.put_u8(b'I');
                out.put_u32(*relation);
                row(&mut out, b'N', new);
            }
            Self::Update { relation, old, new } => {
                out.put_u8(b'U');
                out.put_u32(*relation);
                if let Some(old) = old {
                    old_row(&mut out, old);
                }
                row(&mut out, b'N', new);
            }
            Self::Delete { relation, old } => {
                out.put_u8(b'D');
                out.put_u32(*relation);
                old_row(&mut out, old);
            }
            Self::Truncate { relations, cascade, restart_identity } => {
                out.put_u8(b'T');
                out.put_u32(u32::try_from(relations.len()).expect("a test's list is short"));
                out.put_u8(u8::from(*cascade) | u8::from(*restart_identity) << 1);
                relations.iter().for_each(|oid| out.put_u32(*oid));
            }
        }
        out.freeze()
    }
}

fn relation(out: &mut BytesMut, relation: &Relation) {
    out.put_u8(b'R');
    out.put_u32(relation.oid);
    string(out, &relation.schema);
    string(out, &relation.name);
    out.put_u8(match relation.identity {
        ReplicaIdentity::Default => b'd',
        ReplicaIdentity::Nothing => b'n',
        ReplicaIdentity::Full => b'f',
        ReplicaIdentity::Index => b'i',
    });
    out.put_u16(u16::try_from(relation.columns.len()).expect("a test's table is narrow"));
    for column in &relation.columns {
        out.put_u8(u8::from(column.key));
        string(out, &column.name);
        out.put_u32(column.type_oid);
        out.put_i32(column.type_modifier);
    }
}

fn old_row(out: &mut BytesMut, old: &OldRow) {
    match old {
        OldRow::Key(values) => row(out, b'K', values),
        OldRow::Full(values) => row(out, b'O', values),
    }
}

fn row(out: &mut BytesMut, tag: u8, row: &[TupleData]) {
    out.put_u8(tag);
    out.put_u16(u16::try_from(row.len()).expect("a test's row is narrow"));
    for value in row {
        match value {
            TupleData::Null => out.put_u8(b'n'),
            TupleData::UnchangedToast => out.put_u8(b'u'),
            TupleData::Text(text) => {
                out.put_u8(b't');
                counted(out, text);
            }
            TupleData::Held(_) => panic!("no server names a value"),
        }
    }
}

fn string(out: &mut BytesMut, text: &str) {
    out.put_slice(text.as_bytes());
    out.put_u8(0);
}

fn counted(out: &mut BytesMut, bytes: &[u8]) {
    out.put_u32(u32::try_from(bytes.len()).expect("a test's value is short"));
    out.put_slice(bytes);
}
