//! What carries the messages: the streams of CopyData in both directions (manual, "Streaming Replication Protocol").

use bytes::{BufMut, Bytes, BytesMut};

use super::decode::{Malformed, POSTGRES_EPOCH_MICROS, Reader};
use crate::change::Piece;
use crate::lsn::Lsn;

/// The content of a CopyData message from the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Frame {
    /// XLogData: one pgoutput message.
    Data { body: Bytes },
    /// A large value of the next message.
    Value(Piece),
    /// The message whose large values have come: `Message::decode_rest` reads it.
    Rest { body: Bytes },
    /// Primary keepalive.
    Keepalive {
        /// How far the server has sent: every transaction that commits before it has come already.
        wal_end: Lsn,
        /// The server gives the connection up soon unless a status comes.
        reply_requested: bool,
    },
}

impl Frame {
    pub(crate) fn decode(input: Bytes) -> Result<Self, Malformed> {
        let mut reader = Reader { input, may_hold: false };
        match reader.u8()? {
            b'w' => {
                // Start, end and clock: the message inside says the same and more.
                reader.lsn()?;
                reader.lsn()?;
                reader.i64()?;
                Ok(Self::Data { body: reader.input })
            }
            b'k' => {
                let wal_end = reader.lsn()?;
                reader.i64()?;
                let reply_requested = reader.u8()? == 1;
                match reader.input.len() {
                    0 => Ok(Self::Keepalive { wal_end, reply_requested }),
                    left => Err(Malformed::LeftOver(left)),
                }
            }
            tag => Err(Malformed::UnknownTag(tag)),
        }
    }
}

/// Standby status update: what the server may forget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Status {
    /// Received up to here.
    pub(crate) received: Lsn,
    /// Durable up to here: the slot moves to it.
    pub(crate) confirmed: Lsn,
    /// Our clock, microseconds since 1970-01-01 UTC.
    pub(crate) now_micros: i64,
    /// Asks the server for a keepalive.
    pub(crate) reply_requested: bool,
}

impl Status {
    pub(crate) fn encode(self) -> Bytes {
        let mut bytes = BytesMut::with_capacity(34);
        bytes.put_u8(b'r');
        bytes.put_u64(self.received.0);
        // Flushed and applied are one to us.
        bytes.put_u64(self.confirmed.0);
        bytes.put_u64(self.confirmed.0);
        bytes.put_i64(self.now_micros.saturating_sub(POSTGRES_EPOCH_MICROS));
        bytes.put_u8(u8::from(self.reply_requested));
        bytes.freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_both_frames_and_refuses_others() {
        let data = Frame::decode(Bytes::from_static(b"w\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\x03C..."));
        assert_eq!(data, Ok(Frame::Data { body: Bytes::from_static(b"C...") }));
        let keepalive = Frame::decode(Bytes::from_static(b"k\0\0\0\x01\0\0\0\x02\0\0\0\0\0\0\0\0\x01"));
        assert_eq!(keepalive, Ok(Frame::Keepalive { wal_end: Lsn(0x1_0000_0002), reply_requested: true }));
        assert_eq!(Frame::decode(Bytes::from_static(b"k\0")), Err(Malformed::Truncated));
        assert_eq!(Frame::decode(Bytes::from_static(b"z")), Err(Malformed::UnknownTag(b'z')));
    }

    #[test]
    fn writes_the_status_as_the_manual_describes_it() {
        let status = Status {
            received: Lsn(3),
            confirmed: Lsn(2),
            now_micros: POSTGRES_EPOCH_MICROS + 5,
            reply_requested: true,
        };
        let expected: &[u8] = b"r\0\0\0\0\0\0\0\x03\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\x05\x01";
        assert_eq!(&status.encode()[..], expected);
    }
}
