//! A replication connection that streams.

use std::collections::VecDeque;
use std::io;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use postgres_protocol::message::backend::Message;
use postgres_protocol::message::frontend;

use super::wire::{Incoming, Wire, notice, refusal};
use crate::error::{Context, Error, Kind, Result};
use crate::lsn::Lsn;
use crate::pgoutput::{Frame, Sieve, Status};

const READING: &str = "read the replication stream";

/// How long the server may take to let go of the slot when we leave.
const FAREWELL: Duration = Duration::from_secs(2);

/// The stream of a slot: frames in, status updates out. Ends when dropped; `finish` does it in order.
pub(crate) struct WalStream {
    wire: Wire,
    /// The large message that is arriving.
    sieve: Option<Sieve>,
    /// What came of it and was not taken yet.
    sifted: VecDeque<Frame>,
}

impl WalStream {
    pub(super) fn new(wire: Wire) -> Self {
        Self { wire, sieve: None, sifted: VecDeque::new() }
    }

    /// Sends what `status` has left to send and, if `may_read`, waits for a frame; otherwise waits for ever, so that it
    /// can stand in a `select!` while there is no room for more. Cancel-safe.
    ///
    /// # Errors
    /// `Kind::Unavailable` where the server or the connection goes away.
    pub(crate) async fn next(&mut self, may_read: bool) -> Result<Frame> {
        loop {
            if may_read && let Some(frame) = self.sifted.pop_front() {
                return Ok(frame);
            }
            let message = self.wire.receive(may_read).await.context(READING)?;
            if let Some(frame) = self.frame(message)? {
                return Ok(frame);
            }
        }
    }

    /// A large message is arriving.
    pub(crate) fn is_amid(&self) -> bool {
        self.sieve.is_some()
    }

    /// A frame that has arrived already.
    pub(crate) fn buffered(&mut self) -> Result<Option<Frame>> {
        loop {
            if let Some(frame) = self.sifted.pop_front() {
                return Ok(Some(frame));
            }
            let Some(message) = self.wire.buffered().context(READING)? else { return Ok(None) };
            if let Some(frame) = self.frame(message)? {
                return Ok(Some(frame));
            }
        }
    }

    /// What a message of a streaming server means; `None` for remarks.
    fn frame(&mut self, message: Incoming) -> Result<Option<Frame>> {
        match message {
            Incoming::CopyData(content) => decoded(content).map(Some),
            Incoming::Part(bytes, is_last) => {
                self.sift(bytes, is_last)?;
                Ok(self.sifted.pop_front())
            }
            Incoming::Other(Message::ErrorResponse(body)) => Err(refusal(body.fields())).context(READING),
            Incoming::Other(Message::NoticeResponse(body)) => {
                notice(&body);
                Ok(None)
            }
            Incoming::Other(Message::ParameterStatus(_)) => Ok(None),
            Incoming::Other(Message::CopyDone | Message::CommandComplete(_)) => {
                Err(Error::new(Kind::Unavailable, format!("{READING}: the server ended it")))
            }
            Incoming::Other(_) | Incoming::CopyBoth => {
                Err(Error::failed(format!("{READING}: the server sent a message out of turn")))
            }
        }
    }

    fn sift(&mut self, bytes: Bytes, is_last: bool) -> Result<()> {
        let sieve = self.sieve.get_or_insert_with(Sieve::new);
        self.sifted.extend(sieve.push(bytes).into_iter().map(Frame::Value));
        if is_last && let Some(sieve) = self.sieve.take() {
            self.sifted.push_back(match decoded(sieve.finish())? {
                Frame::Data { body } => Frame::Rest { body },
                other => other,
            });
        }
        Ok(())
    }

    /// Says how far we are; `next` sends it.
    pub(crate) fn status(&mut self, received: Lsn, confirmed: Lsn, reply_requested: bool) -> Result<()> {
        let now_micros = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |now| i64::try_from(now.as_micros()).unwrap_or(i64::MAX));
        let status = Status { received, confirmed, now_micros, reply_requested }.encode();
        self.send(&status).context("send the standby status")
    }

    /// Ends the stream in order: when this returns, the slot is free and has heard the last status.
    /// A server that does not answer in time is left as it is.
    pub(crate) async fn finish(mut self) -> Result<()> {
        frontend::copy_done(&mut self.wire.output);
        match tokio::time::timeout(FAREWELL, self.farewell()).await {
            Ok(result) => result.context("end the replication stream"),
            Err(_) => Ok(()),
        }
    }

    /// The server, too, ends the copy, completes the command and is ready; frames on their way are read again next time.
    async fn farewell(&mut self) -> io::Result<()> {
        while !matches!(self.wire.receive(true).await?, Incoming::Other(Message::ReadyForQuery(_))) {}
        frontend::terminate(&mut self.wire.output);
        self.wire.flush().await
    }

    fn send(&mut self, data: &Bytes) -> io::Result<()> {
        frontend::CopyData::new(&data[..])?.write(&mut self.wire.output);
        Ok(())
    }
}

fn decoded(content: Bytes) -> Result<Frame> {
    Frame::decode(content).map_err(|error| Error::because(Kind::Failed, READING, error))
}
