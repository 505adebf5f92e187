//! Reads a slot's stream for as long as it flows.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::assemble::{Assembled, Assembler};
use super::channel::{Closed, Sender};
use super::progress::{Positions, Progress};
use crate::change::{Arrival, Piece};
use crate::error::{Error, Kind, Result};
use crate::failpoint;
use crate::lsn::Lsn;
use crate::pgoutput::{Frame, Malformed, Message};
use crate::session::{Database, Replication, WalStream, literal};

/// The name in `pg_stat_replication`.
const APPLICATION_NAME: &str = "portalhook capture";

/// The longest time between two status updates.
const FEEDBACK: Duration = Duration::from_secs(10);

/// The shortest time between two that say something new.
const NEWS: Duration = Duration::from_secs(1);

/// While the writer is behind, the stream gathers for so long between two looks at it: the server sends every message by
/// itself, and reading each by itself costs the more.
const GATHER: Duration = Duration::from_millis(2);

/// Every status at `FEEDBACK` asks for an answer: a server that gives none for so long, and sends nothing else, is gone.
/// Generous, since a server that decodes one large transaction of other tables may say nothing for minutes.
const SILENCE: Duration = Duration::from_secs(300);

/// Where to read from.
#[derive(Clone, Debug)]
pub(crate) struct Start {
    pub(crate) slot: String,
    pub(crate) publication: String,
    /// Transactions that end here or earlier are known and are left out.
    pub(crate) lsn: Lsn,
    /// The 64-bit id of a transaction from shortly before.
    pub(crate) xid_reference: u64,
}

/// Reads the slot's stream and hands on every transaction that has changes, in commit order, large ones in parts, until `shutdown` is true
/// (`Ok`: the server has heard what is confirmed, the slot is free) or something fails (the caller connects again).
///
/// `confirmed` is what the consumer has made durable; the slot never moves past a transaction that it has not.
/// `streaming` is called once the server has accepted us. While `transactions` is full nothing is read, but status
/// updates go on. The channel ends with this call: after a fault, start a new one from what is durable.
///
/// # Errors
/// Those of `session::connect` and `Replication::start`, where 42704 means the slot; a missing publication has none.
pub(crate) async fn run(
    database: &Database,
    start: &Start,
    transactions: Sender,
    mut confirmed: watch::Receiver<Lsn>,
    positions: &Positions,
    streaming: impl FnOnce(),
    mut shutdown: watch::Receiver<bool>,
) -> Result<()> {
    let (stream, interval) = tokio::select! {
        biased;
        () = told(&mut shutdown) => return Ok(()),
        opened = open(database, start) => opened?,
    };
    streaming();
    let mut reader = Reader::new(stream, start, transactions, positions, interval);
    let ended = reader.read(&mut confirmed, &mut shutdown).await;
    ended?;
    reader.progress.durable(*confirmed.borrow_and_update());
    reader.feedback(false)?;
    reader.stream.finish().await
}

/// Connects and starts the stream; gives the time between status updates that this server needs.
async fn open(database: &Database, start: &Start) -> Result<(WalStream, Duration)> {
    // The server hangs up after `wal_sender_timeout` without a status, and one that asks for a status cannot be heard
    // while the channel is full.
    const TIMEOUT: &str = "SELECT setting FROM pg_catalog.pg_settings WHERE name = 'wal_sender_timeout'";
    let mut connection = Replication::connect(database, APPLICATION_NAME).await?;
    // PostgreSQL 18 would only warn, and send nothing; older ones fail at the first change.
    let query = format!("SELECT 1 FROM pg_catalog.pg_publication WHERE pubname = {}", literal(&start.publication));
    if connection.query(&query, "look for the publication").await?.is_empty() {
        return Err(Error::failed(format!("publication `{}` does not exist", start.publication)));
    }
    let rows = connection.query(TIMEOUT, "read wal_sender_timeout").await?;
    let millis: Option<u64> = rows.into_iter().flatten().next().flatten().and_then(|setting| setting.parse().ok());
    let interval = match millis {
        Some(millis @ 1..) => FEEDBACK.min(Duration::from_millis(millis) / 4),
        Some(0) | None => FEEDBACK,
    };
    Ok((connection.start(&start.slot, &start.publication, start.lsn).await?, interval))
}

/// Ends when shutdown is wanted; a sender that is gone wants it, too.
async fn told(shutdown: &mut watch::Receiver<bool>) {
    drop(shutdown.wait_for(|now| *now).await);
}

/// The state of one stream.
struct Reader<'a> {
    stream: WalStream,
    transactions: Sender,
    positions: &'a Positions,
    assembler: Assembler,
    progress: Progress,
    /// What there was no room for: while it waits, nothing is read.
    waiting: Option<Assembled>,
    /// Until then the stream gathers.
    gathers: Option<Instant>,
    interval: Duration,
    said: Instant,
    said_confirmed: Lsn,
    heard: Instant,
}

impl<'a> Reader<'a> {
    fn new(
        stream: WalStream,
        start: &Start,
        transactions: Sender,
        positions: &'a Positions,
        interval: Duration,
    ) -> Self {
        Self {
            stream,
            transactions,
            positions,
            assembler: Assembler::new(start.lsn, start.xid_reference),
            progress: Progress::new(start.lsn),
            waiting: None,
            gathers: None,
            interval,
            said: Instant::now(),
            said_confirmed: start.lsn,
            heard: Instant::now(),
        }
    }

    /// Reads until shutdown is wanted.
    async fn read(&mut self, confirmed: &mut watch::Receiver<Lsn>, shutdown: &mut watch::Receiver<bool>) -> Result<()> {
        self.progress.durable(*confirmed.borrow_and_update());
        loop {
            let due = self.due();
            let room = self.waiting.as_ref().map(|waiting| waiting.bytes);
            tokio::select! {
                biased;
                // 1. Whoever wants us to end must not wait for a stream that never pauses.
                () = told(shutdown) => return Ok(()),
                // 2. The server hangs up on silence: a status that is due comes before all work.
                () = sleep_until(due) => self.feedback_due()?,
                // 3. What is durable: cheap, and it is what the next status says.
                changed = confirmed.changed() => {
                    changed.map_err(|_| nobody())?;
                    self.progress.durable(*confirmed.borrow_and_update());
                }
                // 4. Before more is read, what was read must find room.
                room = self.transactions.room(room.unwrap_or_default()), if room.is_some() => {
                    room.map_err(|Closed| nobody())?;
                    self.hand_on_waiting()?;
                }
                () = sleep_until(self.gathers.unwrap_or(due)), if self.gathers.is_some() => self.gathers = None,
                // 5. The stream; with a transaction waiting this only sends.
                frame = self.stream.next(room.is_none() && self.gathers.is_none()) => {
                    self.take_all(frame?)?;
                    let gathers = self.transactions.is_behind() && !self.stream.is_amid();
                    self.gathers = gathers.then(|| Instant::now() + GATHER);
                },
            }
        }
    }

    /// When the next status must be sent; sooner if it says something new.
    fn due(&mut self) -> Instant {
        let news = self.progress.confirm() > self.said_confirmed;
        self.said + if news { NEWS.min(self.interval) } else { self.interval }
    }

    fn feedback_due(&mut self) -> Result<()> {
        if self.waiting.is_none() && self.heard.elapsed() > SILENCE {
            return Err(Error::new(
                Kind::Unavailable,
                format!("read the replication stream: the server has said nothing for {SILENCE:?}"),
            ));
        }
        self.feedback(true)
    }

    fn feedback(&mut self, reply_requested: bool) -> Result<()> {
        let confirmed = self.progress.confirm();
        self.stream.status(self.progress.received(), confirmed, reply_requested)?;
        self.positions.set_confirmed(confirmed);
        if confirmed > self.said_confirmed {
            failpoint::hit("confirmed");
        }
        (self.said, self.said_confirmed) = (Instant::now(), confirmed);
        Ok(())
    }

    /// Takes this frame and those that have arrived with it, as long as there is room.
    fn take_all(&mut self, first: Frame) -> Result<()> {
        self.heard = Instant::now();
        let mut frame = Some(first);
        while let Some(next) = frame {
            self.take(next)?;
            frame = if self.waiting.is_none() { self.stream.buffered()? } else { None };
        }
        self.positions.set_received(self.progress.received());
        Ok(())
    }

    fn take(&mut self, frame: Frame) -> Result<()> {
        match frame {
            Frame::Data { body } => self.take_message(Message::decode(body)),
            Frame::Rest { body } => self.take_message(Message::decode_rest(body)),
            // Nobody needs it again.
            Frame::Value(_) if self.assembler.is_known() => Ok(()),
            Frame::Value(piece) => {
                let bytes = match &piece {
                    Piece::Bytes(bytes) => bytes.len(),
                    Piece::Of(..) | Piece::End(_) => size_of::<Piece>(),
                };
                let arrival = match piece {
                    Piece::Of(relation, column) => Arrival::ValueOf(self.assembler.described(relation)?, column),
                    piece => Arrival::Value(piece),
                };
                self.hand_on(Assembled { arrival, bytes })
            }
            Frame::Keepalive { wal_end, reply_requested } => {
                if !self.assembler.is_open() {
                    self.progress.pass(wal_end);
                }
                if reply_requested { self.feedback(false) } else { Ok(()) }
            }
        }
    }

    fn take_message(&mut self, decoded: Result<Message, Malformed>) -> Result<()> {
        let message = decoded.map_err(|error| Error::because(Kind::Failed, "read the replication stream", error))?;
        if matches!(message, Message::Relation(_)) {
            self.positions.set_described();
        }
        match self.assembler.take(message)? {
            Some(assembled) => self.hand_on(assembled),
            None => Ok(()),
        }
    }

    fn hand_on(&mut self, assembled: Assembled) -> Result<()> {
        let Assembled { arrival, bytes } = assembled;
        match &arrival {
            Arrival::Whole(transaction) if transaction.changes.is_empty() => {
                self.progress.pass(transaction.end_lsn);
                return Ok(());
            }
            Arrival::Whole(transaction) | Arrival::Last(transaction) => self.progress.hand(transaction.end_lsn),
            // Its end is not known yet; nothing passes before that.
            Arrival::Part(..) | Arrival::ValueOf(..) | Arrival::Value(_) => {}
        }
        let refused = self.transactions.try_send(arrival, bytes).map_err(|Closed| nobody())?;
        self.waiting = refused.map(|arrival| Assembled { arrival, bytes });
        Ok(())
    }

    fn hand_on_waiting(&mut self) -> Result<()> {
        // What the server said while we did not listen is no silence.
        self.heard = Instant::now();
        self.waiting.take().map_or(Ok(()), |waiting| self.hand_on(waiting))
    }
}

fn nobody() -> Error {
    Error::failed("hand on transactions: nobody takes them any more")
}
