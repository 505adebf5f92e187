//! A connection as a sequence of messages, for the part of the protocol that tokio-postgres does not speak.

use std::io;

use bytes::{Buf, Bytes, BytesMut};
use fallible_iterator::FallibleIterator;
use postgres_protocol::message::backend::{ErrorFields, Header, Message, NoticeResponseBody};
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio_postgres::error::SqlState;

use super::channel::Channel;
use crate::error::Refusal;

/// What is read at once. Values are slices of such a chunk, so it is also what a small transaction can hold in memory.
const CHUNK: usize = 64 << 10;

/// No message of a server that we have not come to know yet is larger; libpq sets a similar limit.
const GREETING_LIMIT: usize = 64 << 10;

/// PostgreSQL makes no message above 1 GiB (`MaxAllocSize`).
const MESSAGE_LIMIT: usize = 1 << 30;

/// A CopyData message above this comes in parts.
const LARGE: usize = 1 << 20;

/// Tag and length.
const HEADER: usize = 5;

/// A message from the server.
pub(super) enum Incoming {
    /// The answer to START_REPLICATION, which postgres-protocol does not know.
    CopyBoth,
    /// The content of a CopyData message, not copied.
    CopyData(Bytes),
    /// The next bytes of a large CopyData message, and whether they are its last.
    Part(Bytes, bool),
    Other(Message),
}

/// Buffers in both directions. All waiting is cancel-safe: what has been read or is to be written stays here.
pub(super) struct Wire {
    reader: ReadHalf<Channel>,
    writer: WriteHalf<Channel>,
    input: BytesMut,
    /// What is to be sent; any `receive` or `flush` sends it.
    pub(super) output: BytesMut,
    /// Whether what was written may still be held by TLS.
    unflushed: bool,
    limit: usize,
    /// What is to come of a large message.
    left: usize,
}

impl Wire {
    pub(super) fn new(channel: Channel) -> Self {
        let (reader, writer) = tokio::io::split(channel);
        Self {
            reader,
            writer,
            input: BytesMut::new(),
            output: BytesMut::new(),
            unflushed: false,
            limit: GREETING_LIMIT,
            left: 0,
        }
    }

    /// The server has proved to be one: it may send large messages.
    pub(super) fn trust(&mut self) {
        self.limit = MESSAGE_LIMIT;
    }

    /// Sends all of `output`.
    pub(super) async fn flush(&mut self) -> io::Result<()> {
        while self.unflushed || !self.output.is_empty() {
            send(&mut self.writer, &mut self.output, &mut self.unflushed).await?;
        }
        Ok(())
    }

    /// Sends `output` and, if `may_read`, waits for a message; otherwise never ends (except in an error).
    pub(super) async fn receive(&mut self, may_read: bool) -> io::Result<Incoming> {
        loop {
            if may_read && let Some(message) = self.buffered()? {
                return Ok(message);
            }
            if may_read && self.input.capacity() - self.input.len() < CHUNK / 8 {
                self.input.reserve(CHUNK);
            }
            tokio::select! {
                biased;
                // What we have to say is short, and the server may be waiting for it.
                sent = send(&mut self.writer, &mut self.output, &mut self.unflushed),
                    if self.unflushed || !self.output.is_empty() => sent?,
                read = self.reader.read_buf(&mut self.input), if may_read => if read? == 0 {
                    return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the server closed the connection"));
                },
                else => std::future::pending().await,
            }
        }
    }

    /// A message that has arrived whole, or what has arrived of a large one.
    pub(super) fn buffered(&mut self) -> io::Result<Option<Incoming>> {
        if self.left > 0 {
            return Ok(self.part());
        }
        let Some(header) = Header::parse(&self.input)? else { return Ok(None) };
        let length = usize::try_from(header.len()).map_err(|_| invalid("a message has a negative length"))? + 1;
        if length > self.limit {
            return Err(invalid("a message is too long to come from a PostgreSQL server"));
        }
        if header.tag() == b'd' && length > LARGE {
            self.input.advance(HEADER);
            self.left = length - HEADER;
            return Ok(self.part());
        }
        if self.input.len() < length {
            self.input.reserve(length - self.input.len());
            return Ok(None);
        }
        match header.tag() {
            b'W' => {
                self.input.advance(length);
                Ok(Some(Incoming::CopyBoth))
            }
            b'd' => {
                let mut content = self.input.split_to(length).freeze();
                content.advance(HEADER);
                Ok(Some(Incoming::CopyData(content)))
            }
            _ => Ok(Message::parse(&mut self.input)?.map(Incoming::Other)),
        }
    }

    fn part(&mut self) -> Option<Incoming> {
        let length = self.left.min(self.input.len());
        self.left -= length;
        (length > 0).then(|| Incoming::Part(self.input.split_to(length).freeze(), self.left == 0))
    }
}

/// One step of sending: writes, or flushes what TLS still holds.
async fn send(writer: &mut WriteHalf<Channel>, output: &mut BytesMut, unflushed: &mut bool) -> io::Result<()> {
    if output.is_empty() {
        writer.flush().await?;
        *unflushed = false;
    } else if writer.write_buf(output).await? == 0 {
        return Err(io::ErrorKind::WriteZero.into());
    } else {
        *unflushed = true;
    }
    Ok(())
}

pub(super) fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// Logs what the server says beside its answers. Warnings matter: PostgreSQL 18 only warns of a missing publication.
pub(super) fn notice(body: &NoticeResponseBody) {
    let warning = body.fields().any(|field| Ok(field.type_() == b'V' && field.value_bytes() == b"WARNING"));
    let notice = refusal(body.fields());
    if matches!(warning, Ok(true)) {
        tracing::warn!(%notice, "postgresql warns");
    } else {
        tracing::debug!(%notice, "postgresql says");
    }
}

/// Reads the fields of an ErrorResponse or NoticeResponse; a damaged one says so.
pub(super) fn refusal(mut fields: ErrorFields<'_>) -> Refusal {
    let (mut code, mut message, mut hint) = (String::new(), String::new(), None);
    while let Ok(Some(field)) = fields.next() {
        let value = String::from_utf8_lossy(field.value_bytes()).into_owned();
        match field.type_() {
            b'C' => code = value,
            b'M' => message = value,
            b'H' => hint = Some(value),
            _ => {}
        }
    }
    if message.is_empty() {
        message.push_str("the server sent an error without a message");
    }
    Refusal { code: SqlState::from_code(&code), message, hint }
}
