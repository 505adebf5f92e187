//! How the daemon is doing, for whoever asks: the service manager and the admin port. One value lives as long as the
//! process; the parts write into it, and nothing is decided by it.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::capture::Positions;
use crate::deliver::Tally;
use crate::lsn::Lsn;

/// A look at the database that is older than this says nothing about now.
const FRESH: Duration = Duration::from_secs(20);

/// Everything there is to know.
pub(crate) struct Figures {
    state: watch::Sender<State>,
    /// Where the stream is.
    pub(crate) positions: Positions,
    /// What delivery does.
    pub(crate) tally: Arc<Tally>,
    /// Position of the last event: the newest run's.
    committed: Mutex<Option<watch::Receiver<i64>>>,
    seen: Mutex<Option<(Seen, Instant)>>,
    /// Why the stream stands still, and what to type.
    paused: Mutex<Option<String>>,
    restarts: AtomicU64,
    streamed: AtomicBool,
}

/// What the daemon is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Connecting, or loading the checkpoint.
    Starting,
    /// The stream was interrupted: what was missed is being found. The reason.
    Closing(String),
    Streaming,
    /// Waits before it starts again; the fault as a chain.
    Faulty(String),
    Stopping,
}

/// What only the database knows, at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    /// End of the server's write-ahead log.
    pub(crate) end: Lsn,
    /// What the slot has confirmed.
    pub(crate) confirmed: Lsn,
    /// Where the write-ahead log begins that the slot holds.
    pub(crate) restart: Lsn,
    /// Deliveries without an outcome, those of disabled endpoints included.
    pub(crate) pending: i64,
    pub(crate) disabled: i64,
}

impl Seen {
    /// Bytes of the write-ahead log that are not confirmed.
    pub(crate) fn behind(&self) -> u64 {
        self.end.0.saturating_sub(self.confirmed.0)
    }

    /// Bytes of the write-ahead log that the server keeps for the slot.
    pub(crate) fn retained(&self) -> u64 {
        self.end.0.saturating_sub(self.restart.0)
    }
}

impl Default for Figures {
    fn default() -> Self {
        Self {
            state: watch::Sender::new(State::Starting),
            positions: Positions::default(),
            tally: Arc::default(),
            committed: Mutex::default(),
            seen: Mutex::default(),
            paused: Mutex::default(),
            restarts: AtomicU64::new(0),
            streamed: AtomicBool::new(false),
        }
    }
}

impl Figures {
    pub(crate) fn state(&self) -> State {
        self.state.borrow().clone()
    }

    pub(crate) fn set_state(&self, state: State) {
        match state {
            State::Streaming => self.streamed.store(true, Ordering::Relaxed),
            State::Faulty(_) => drop(self.restarts.fetch_add(1, Ordering::Relaxed)),
            State::Starting | State::Closing(_) | State::Stopping => {}
        }
        self.state.send_replace(state);
    }

    /// It has worked: the settings are right, and what fails now is not ours to give up for.
    pub(crate) fn has_streamed(&self) -> bool {
        self.streamed.load(Ordering::Relaxed)
    }

    /// Waits until the daemon has begun its work: before, whoever started it hears of every fault.
    pub(crate) async fn work(&self) {
        drop(self.follow().wait_for(|state| matches!(state, State::Streaming | State::Closing(_))).await);
    }

    /// Waits until the stream flows. What others write beside a gap that is being closed could be in its way.
    pub(crate) async fn flow(&self) {
        drop(self.follow().wait_for(|state| *state == State::Streaming).await);
    }

    /// Hears of every change of the state.
    pub(crate) fn follow(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    /// Faults that were waited out.
    pub(crate) fn restarts(&self) -> u64 {
        self.restarts.load(Ordering::Relaxed)
    }

    /// Position of the last recorded event; zero before the first start.
    pub(crate) fn committed(&self) -> i64 {
        lock(&self.committed).as_ref().map_or(0, |committed| *committed.borrow())
    }

    pub(crate) fn set_committed(&self, committed: watch::Receiver<i64>) {
        *lock(&self.committed) = Some(committed);
    }

    /// The newest look at the database, unless it is too old to say anything.
    pub(crate) fn seen(&self) -> Option<Seen> {
        lock(&self.seen).filter(|(_, at)| at.elapsed() < FRESH).map(|(seen, _)| seen)
    }

    /// `None`: the database did not answer.
    pub(crate) fn set_seen(&self, seen: Option<Seen>) {
        *lock(&self.seen) = seen.map(|seen| (seen, Instant::now()));
    }

    /// `None`: the stream flows.
    pub(crate) fn set_paused(&self, why: Option<String>) {
        *lock(&self.paused) = why;
    }

    /// Why the daemon is not well; `None` when it streams and the database answers.
    pub(crate) fn trouble(&self) -> Option<String> {
        match self.state() {
            State::Streaming if self.seen().is_some() => lock(&self.paused).clone(),
            State::Streaming => Some("the database does not answer".to_owned()),
            State::Starting => Some("starting: not streaming yet".to_owned()),
            State::Closing(why) => {
                let paused = lock(&self.paused).as_ref().map(|paused| format!("; {paused}")).unwrap_or_default();
                Some(format!("finding what was missed, since {why}{paused}"))
            }
            State::Faulty(fault) => Some(format!("starting again after: {fault}")),
            State::Stopping => Some("stopping".to_owned()),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A value is replaced whole: one who panicked left the old one.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One line for people: `streaming, 0 B behind; 1,234 delivered, 2 pending, 1 endpoint failing`.
impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (load, _) = self.tally.load();
        let seen = self.seen();
        match (self.state(), seen) {
            (State::Streaming, Some(seen)) if lock(&self.paused).is_some() => {
                write!(f, "PAUSED (portalhook status says why), {} behind", bytes(seen.behind()))?;
            }
            (State::Streaming, Some(seen)) => write!(f, "streaming, {} behind", bytes(seen.behind()))?,
            (State::Streaming, None) => write!(f, "streaming")?,
            (State::Starting, _) => write!(f, "starting")?,
            (State::Closing(_), _) if lock(&self.paused).is_some() => {
                write!(f, "PAUSED after a lost slot (portalhook status says why)")?;
            }
            (State::Closing(why), _) => write!(f, "finding what was missed, since {why}")?,
            (State::Faulty(fault), _) => write!(f, "starting again after: {fault}")?,
            (State::Stopping, _) => write!(f, "stopping, {} in flight", requests(load.in_flight))?,
        }
        write!(f, "; {} delivered", grouped(self.tally.delivered()))?;
        if let Some(seen) = seen {
            write!(f, ", {} pending", grouped(seen.pending.unsigned_abs()))?;
        }
        if load.failing > 0 {
            write!(f, ", {} failing", endpoints(load.failing as u64))?;
        }
        match seen.map_or(0, |seen| seen.disabled.unsigned_abs()) {
            0 => Ok(()),
            disabled => write!(f, ", {} disabled", endpoints(disabled)),
        }
    }
}

fn endpoints(number: u64) -> String {
    format!("{} endpoint{}", grouped(number), if number == 1 { "" } else { "s" })
}

fn requests(number: usize) -> String {
    format!("{number} request{}", if number == 1 { "" } else { "s" })
}

/// `1,234,567`
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `0 B`, `12.5 kB`, `1.2 GB`; 1 kB is 1024 bytes, as PostgreSQL has it.
pub(crate) fn bytes(number: u64) -> String {
    const UNITS: [&str; 5] = ["kB", "MB", "GB", "TB", "PB"];
    if number < 1024 {
        return format!("{number} B");
    }
    let mut value = number as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen() -> Seen {
        Seen { end: Lsn(5000), confirmed: Lsn(5000), restart: Lsn(1000), pending: 2, disabled: 0 }
    }

    #[test]
    fn a_line_says_how_the_daemon_is_doing() {
        let figures = Figures::default();
        assert_eq!(figures.to_string(), "starting; 0 delivered");
        figures.set_state(State::Streaming);
        assert_eq!(figures.to_string(), "streaming; 0 delivered");
        figures.set_seen(Some(seen()));
        assert_eq!(figures.to_string(), "streaming, 0 B behind; 0 delivered, 2 pending");
        figures.set_seen(Some(Seen { confirmed: Lsn(1928), disabled: 1, ..seen() }));
        assert_eq!(figures.to_string(), "streaming, 3.0 kB behind; 0 delivered, 2 pending, 1 endpoint disabled");
        figures.set_state(State::Faulty("connect: refused".to_owned()));
        figures.set_seen(None);
        assert_eq!(figures.to_string(), "starting again after: connect: refused; 0 delivered");
    }

    #[test]
    fn the_daemon_is_well_while_it_streams_and_the_database_answers() {
        let figures = Figures::default();
        assert_eq!(figures.trouble().as_deref(), Some("starting: not streaming yet"));
        figures.set_state(State::Closing("slot x is gone".to_owned()));
        assert_eq!(figures.trouble().as_deref(), Some("finding what was missed, since slot x is gone"));
        figures.set_state(State::Streaming);
        assert_eq!(figures.trouble().as_deref(), Some("the database does not answer"));
        figures.set_seen(Some(seen()));
        assert_eq!(figures.trouble(), None);
        figures.set_state(State::Faulty("connect: refused".to_owned()));
        assert_eq!(figures.trouble().as_deref(), Some("starting again after: connect: refused"));
    }

    #[test]
    fn numbers_are_written_for_people() {
        for (number, text) in [(0, "0"), (999, "999"), (1234, "1,234"), (1_234_567, "1,234,567")] {
            assert_eq!(grouped(number), text);
        }
        for (number, text) in [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 kB"), (8 << 30, "8.0 GB")] {
            assert_eq!(bytes(number), text);
        }
    }
}
