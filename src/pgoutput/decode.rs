//! Bytes → `Message`, by checked reads.

use bytes::{Buf, Bytes};

use super::message::{Message, OldRow};
use super::sieve::HELD;
use crate::change::{Column, Held, Relation, ReplicaIdentity, Row, TupleData};
use crate::lsn::Lsn;

/// Microseconds from 1970-01-01 to 2000-01-01, where PostgreSQL's clock begins.
pub(super) const POSTGRES_EPOCH_MICROS: i64 = 946_684_800_000_000;

/// Why bytes are not a message of the protocol.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Malformed {
    #[error("the message ends early")]
    Truncated,
    #[error("{0} bytes are left over after the message")]
    LeftOver(usize),
    #[error("unknown message tag `{}`", char::from(*.0).escape_default())]
    UnknownTag(u8),
    #[error("unknown tag `{}` of {what}", char::from(*.tag).escape_default())]
    UnknownPart { what: &'static str, tag: u8 },
    #[error("a value came in binary format although text was asked for")]
    Binary,
    #[error("unknown flags {0:#x} of a commit")]
    CommitFlags(u8),
    #[error("a name is not valid UTF-8")]
    NotUtf8,
    #[error("a time is out of range")]
    Time,
}

impl From<bytes::TryGetError> for Malformed {
    fn from(_: bytes::TryGetError) -> Self {
        Self::Truncated
    }
}

type Result<T> = std::result::Result<T, Malformed>;

impl Message {
    /// Decodes one whole message; values are slices of `input`, not copies.
    ///
    /// An unknown tag, a message that ends early and bytes left over are errors.
    pub(crate) fn decode(input: Bytes) -> Result<Self> {
        Self::read(Reader { input, may_hold: false })
    }

    /// The same for what a `Sieve` has left.
    pub(crate) fn decode_rest(input: Bytes) -> Result<Self> {
        Self::read(Reader { input, may_hold: true })
    }

    fn read(mut reader: Reader) -> Result<Self> {
        let message = match reader.u8()? {
            b'B' => Self::Begin { final_lsn: reader.lsn()?, commit_micros: reader.time()?, xid: reader.u32()? },
            b'M' => {
                let transactional = reader.u8()? & 1 == 1;
                let (lsn, prefix) = (reader.lsn()?, reader.string()?);
                let content = reader.counted_bytes()?;
                Self::Logical { transactional, lsn, prefix, content }
            }
            b'C' => {
                // PostgreSQL's own reader refuses flags here, too.
                match reader.u8()? {
                    0 => {}
                    flags => return Err(Malformed::CommitFlags(flags)),
                }
                Self::Commit { commit_lsn: reader.lsn()?, end_lsn: reader.lsn()?, commit_micros: reader.time()? }
            }
            b'O' => Self::Origin { commit_lsn: reader.lsn()?, name: reader.string()? },
            b'R' => Self::Relation(reader.relation()?),
            b'Y' => Self::Type { oid: reader.u32()?, schema: reader.schema()?, name: reader.string()? },
            b'I' => {
                let relation = reader.u32()?;
                let new = match reader.u8()? {
                    b'N' => reader.row()?,
                    tag => return Err(Malformed::UnknownPart { what: "an insert", tag }),
                };
                Self::Insert { relation, new }
            }
            b'U' => reader.update()?,
            b'D' => {
                let relation = reader.u32()?;
                let old = match reader.u8()? {
                    b'K' => OldRow::Key(reader.row()?),
                    b'O' => OldRow::Full(reader.row()?),
                    tag => return Err(Malformed::UnknownPart { what: "a delete", tag }),
                };
                Self::Delete { relation, old }
            }
            b'T' => reader.truncate()?,
            tag => return Err(Malformed::UnknownTag(tag)),
        };
        match reader.input.len() {
            0 => Ok(message),
            left => Err(Malformed::LeftOver(left)),
        }
    }
}

pub(super) struct Reader {
    pub(super) input: Bytes,
    /// Values may stand as what they are called: see `sieve`.
    pub(super) may_hold: bool,
}

impl Reader {
    pub(super) fn u8(&mut self) -> Result<u8> {
        Ok(self.input.try_get_u8()?)
    }

    fn u16(&mut self) -> Result<u16> {
        Ok(self.input.try_get_u16()?)
    }

    fn u32(&mut self) -> Result<u32> {
        Ok(self.input.try_get_u32()?)
    }

    pub(super) fn i64(&mut self) -> Result<i64> {
        Ok(self.input.try_get_i64()?)
    }

    pub(super) fn lsn(&mut self) -> Result<Lsn> {
        Ok(Lsn(self.input.try_get_u64()?))
    }

    /// Microseconds since 1970, from PostgreSQL's microseconds since 2000.
    fn time(&mut self) -> Result<i64> {
        self.i64()?.checked_add(POSTGRES_EPOCH_MICROS).ok_or(Malformed::Time)
    }

    fn bytes(&mut self, length: usize) -> Result<Bytes> {
        if length > self.input.len() {
            return Err(Malformed::Truncated);
        }
        Ok(self.input.split_to(length))
    }

    /// A length of 32 bits, then so many bytes.
    fn counted_bytes(&mut self) -> Result<Bytes> {
        let length = usize::try_from(self.u32()?).map_err(|_| Malformed::Truncated)?;
        self.bytes(length)
    }

    /// A string that ends with a zero byte.
    fn string(&mut self) -> Result<String> {
        let length = self.input.iter().position(|byte| *byte == 0).ok_or(Malformed::Truncated)?;
        let text = self.bytes(length)?;
        self.u8()?;
        std::str::from_utf8(&text).map(str::to_owned).map_err(|_| Malformed::NotUtf8)
    }

    /// A schema's name; the protocol shortens `pg_catalog` to nothing.
    fn schema(&mut self) -> Result<String> {
        let name = self.string()?;
        Ok(if name.is_empty() { "pg_catalog".to_owned() } else { name })
    }

    fn relation(&mut self) -> Result<Relation> {
        let (oid, schema, name) = (self.u32()?, self.schema()?, self.string()?);
        let identity = match self.u8()? {
            b'd' => ReplicaIdentity::Default,
            b'n' => ReplicaIdentity::Nothing,
            b'f' => ReplicaIdentity::Full,
            b'i' => ReplicaIdentity::Index,
            tag => return Err(Malformed::UnknownPart { what: "a replica identity", tag }),
        };
        let count = usize::from(self.u16()?);
        let mut columns = Vec::with_capacity(count.min(self.input.len()));
        for _ in 0..count {
            let key = self.u8()? & 1 == 1;
            let name = self.string()?;
            let (type_oid, type_modifier) = (self.u32()?, self.input.try_get_i32()?);
            columns.push(Column { name, type_oid, type_modifier, key });
        }
        Ok(Relation { oid, schema, name, identity, columns })
    }

    fn update(&mut self) -> Result<Message> {
        let relation = self.u32()?;
        let (old, next) = match self.u8()? {
            b'K' => (Some(OldRow::Key(self.row()?)), self.u8()?),
            b'O' => (Some(OldRow::Full(self.row()?)), self.u8()?),
            tag => (None, tag),
        };
        match next {
            b'N' => Ok(Message::Update { relation, old, new: self.row()? }),
            tag => Err(Malformed::UnknownPart { what: "an update", tag }),
        }
    }

    fn truncate(&mut self) -> Result<Message> {
        let count = usize::try_from(self.u32()?).map_err(|_| Malformed::Truncated)?;
        let options = self.u8()?;
        // A hostile count must not reserve more than the bytes could hold.
        let mut relations = Vec::with_capacity(count.min(self.input.len() / size_of::<u32>()));
        for _ in 0..count {
            relations.push(self.u32()?);
        }
        Ok(Message::Truncate { relations, cascade: options & 1 == 1, restart_identity: options & 2 == 2 })
    }

    fn held(&mut self) -> Result<Held> {
        let length = self.input.try_get_u64()?;
        let mut digest = [0; 32];
        self.input.try_copy_to_slice(&mut digest)?;
        Ok(Held { digest, length })
    }

    /// TupleData: a count of columns, then each with its kind.
    fn row(&mut self) -> Result<Row> {
        let count = usize::from(self.u16()?);
        let mut row = Vec::with_capacity(count.min(self.input.len()));
        for _ in 0..count {
            row.push(match self.u8()? {
                b'n' => TupleData::Null,
                b'u' => TupleData::UnchangedToast,
                b't' => TupleData::Text(self.counted_bytes()?),
                HELD if self.may_hold => TupleData::Held(Box::new(self.held()?)),
                b'b' => return Err(Malformed::Binary),
                tag => return Err(Malformed::UnknownPart { what: "a value", tag }),
            });
        }
        Ok(row)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_an_unknown_message_with_its_tag() {
        // Protocol 2's "stream start".
        let error = Message::decode(Bytes::from_static(b"S\0\0\0\x01\x01")).expect_err("refused");
        assert_eq!(error.to_string(), "unknown message tag `S`");
        assert_eq!(Message::decode(Bytes::from_static(b"\x01")).expect_err("refused"), Malformed::UnknownTag(1));
    }

    #[test]
    fn refuses_binary_values() {
        let error = Message::decode(Bytes::from_static(b"I\0\0\0\x01N\0\x01b\0\0\0\x01x")).expect_err("refused");
        assert_eq!(error.to_string(), "a value came in binary format although text was asked for");
    }

    #[test]
    fn refuses_bytes_after_the_message() {
        let error = Message::decode(Bytes::from_static(b"I\0\0\0\x01N\0\x01nxx")).expect_err("refused");
        assert_eq!(error, Malformed::LeftOver(2));
    }

    #[test]
    fn reads_a_message_as_the_manual_describes_it() {
        let bytes = b"B\0\0\0\0\x01\x9a\xbc\xde\0\0\0\0\0\0\0\x01\0\0\x02\xa0";
        let message = Message::decode(Bytes::from_static(bytes)).expect("valid");
        let begin = Message::Begin { final_lsn: Lsn(0x019a_bcde), commit_micros: 946_684_800_000_001, xid: 672 };
        assert_eq!(message, begin);

        let bytes = b"U\0\0\x40\x01K\0\x02t\0\0\0\x017nN\0\x02t\0\0\0\x018u";
        let message = Message::decode(Bytes::from_static(bytes)).expect("valid");
        let text = |value| TupleData::Text(Bytes::from_static(value));
        let update = Message::Update {
            relation: 16385,
            old: Some(OldRow::Key(vec![text(b"7"), TupleData::Null])),
            new: vec![text(b"8"), TupleData::UnchangedToast],
        };
        assert_eq!(message, update);
    }

    #[test]
    fn values_are_slices_of_the_input() {
        let input = Bytes::from_static(b"I\0\0\0\x01N\0\x01t\0\0\0\x05hello");
        let Ok(Message::Insert { new, .. }) = Message::decode(input.clone()) else { panic!("an insert") };
        let Some(TupleData::Text(value)) = new.first() else { panic!("a text") };
        assert!(input.as_ptr_range().contains(&value.as_ptr()));
    }
}
