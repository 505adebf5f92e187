//! A random history: interleaved sessions that write, take back and commit; after each commit everything is looked at.

use std::rc::Rc;

use serde_json::Value;
use tokio::runtime::Runtime;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

use super::mapping::Mapping;
use super::model::{Row, State};
use super::statements;
use crate::support::random::Random;

/// How many sessions are interleaved.
const SESSIONS: usize = 4;

/// Statements wait for no other session: what is locked fails, and its transaction or savepoint is undone. So a history
/// never hangs, and comes again with its seed.
const SETTINGS: &str = "SET lock_timeout = '1ms'; SET client_min_messages = warning";

/// A transaction that committed, and the database around it.
pub(super) struct Committed {
    pub(super) xid: u64,
    pub(super) statements: Vec<String>,
    pub(super) before: Rc<State>,
    pub(super) after: Rc<State>,
}

struct Session {
    client: Client,
    /// What the open transaction has done; `None`: none is open.
    open: Option<Vec<String>>,
    savepoints: usize,
}

/// Plays one step after another.
pub(super) struct History {
    runtime: Runtime,
    sessions: Vec<Session>,
    observer: Client,
    observation: String,
    state: Rc<State>,
}

impl History {
    pub(super) fn begin(url: &str, mapping: Mapping) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("start a runtime");
        let connect = |settings: &'static str| {
            runtime.block_on(async {
                let (client, connection) = tokio_postgres::connect(url, NoTls).await.expect("connect");
                tokio::spawn(connection);
                client.batch_execute(settings).await.expect("set");
                client
            })
        };
        let sessions =
            (0..SESSIONS).map(|_| Session { client: connect(SETTINGS), open: None, savepoints: 0 }).collect();
        let observer = connect("SET TimeZone = 'UTC'");
        let mut history =
            Self { runtime, sessions, observer, observation: mapping.observation(), state: Rc::default() };
        history.state = history.look();
        history
    }

    pub(super) fn state(&self) -> Rc<State> {
        Rc::clone(&self.state)
    }

    /// One step of one session; a transaction if it committed one that wrote anything.
    pub(super) fn step(&mut self, random: &mut Random) -> Option<Committed> {
        let number = random.below(SESSIONS);
        if self.sessions[number].open.is_none() {
            return self.open(number, random);
        }
        match random.below(100) {
            0..64 => self.write(number, random),
            64..72 => {
                self.sessions[number].savepoints += 1;
                let savepoint = format!("SAVEPOINT s{}", self.sessions[number].savepoints);
                self.say(number, &savepoint);
            }
            72..78 => self.end_savepoint(number, "ROLLBACK TO"),
            78..81 => self.end_savepoint(number, "RELEASE"),
            81..86 => self.roll_back(number),
            _ => return self.commit(number),
        }
        None
    }

    /// Rolls back what is open.
    pub(super) fn end(&mut self) {
        for number in 0..SESSIONS {
            if self.sessions[number].open.is_some() {
                self.roll_back(number);
            }
        }
    }

    fn open(&mut self, number: usize, random: &mut Random) -> Option<Committed> {
        // A single statement without BEGIN, a transaction, one that sees only its own snapshot, or a TRUNCATE: that one
        // locks out all others, also whoever looks, and so goes to its end at once.
        match random.below(40) {
            0..8 => {
                self.begin_with(number, "BEGIN");
                self.write(number, random);
                self.sessions[number].open.is_some().then(|| self.commit(number)).flatten()
            }
            8 => {
                self.begin_with(number, "BEGIN");
                for _ in 0..=random.below(6) {
                    let truncate = random.below(2) == 0;
                    let statement = if truncate { statements::truncate(random) } else { statements::any(random) };
                    if self.sessions[number].open.is_some() {
                        self.guarded(number, &statement);
                    }
                }
                self.commit(number)
            }
            9..12 => {
                self.begin_with(number, "BEGIN ISOLATION LEVEL REPEATABLE READ");
                None
            }
            _ => {
                self.begin_with(number, "BEGIN");
                None
            }
        }
    }

    fn begin_with(&mut self, number: usize, begin: &str) {
        self.sessions[number].open = Some(Vec::new());
        self.sessions[number].savepoints = 0;
        self.say(number, begin);
    }

    fn write(&mut self, number: usize, random: &mut Random) {
        let statement = statements::any(random);
        if random.below(4) == 0 {
            if !self.say(number, &statement) {
                self.roll_back(number);
            }
        } else {
            self.guarded(number, &statement);
        }
    }

    /// Where the statement fails it alone is undone.
    fn guarded(&mut self, number: usize, statement: &str) {
        self.say(number, "SAVEPOINT guard");
        if self.say(number, statement) {
            self.say(number, "RELEASE guard");
        } else {
            self.say(number, "ROLLBACK TO guard");
        }
    }

    fn end_savepoint(&mut self, number: usize, how: &str) {
        let session = &mut self.sessions[number];
        if session.savepoints > 0 {
            let statement = format!("{how} s{}", session.savepoints);
            if how == "RELEASE" {
                session.savepoints -= 1;
            }
            self.say(number, &statement);
        }
    }

    fn roll_back(&mut self, number: usize) {
        self.say(number, "ROLLBACK");
        self.sessions[number].open = None;
    }

    fn commit(&mut self, number: usize) -> Option<Committed> {
        let client = &self.sessions[number].client;
        let xid: Option<u64> = self.runtime.block_on(async {
            let row = client.query_one("SELECT pg_current_xact_id_if_assigned()::text", &[]).await.expect("ask");
            row.get::<_, Option<String>>(0).map(|xid| xid.parse().expect("a transaction id"))
        });
        let done = self.say(number, "COMMIT");
        let statements = self.sessions[number].open.take().expect("a transaction");
        let xid = xid.filter(|_| done)?;
        let before = self.state();
        self.state = self.look();
        Some(Committed { xid, statements, before, after: self.state() })
    }

    /// Whether it succeeded.
    fn say(&mut self, number: usize, statement: &str) -> bool {
        let session = &mut self.sessions[number];
        let result = self.runtime.block_on(session.client.batch_execute(statement));
        let error = result.err().map(|error| {
            let known = error.as_db_error().unwrap_or_else(|| panic!("{error} after {statement}"));
            assert_ne!(known.code().code(), "42601", "{known} in {statement}");
            format!("   -- {known}")
        });
        let text = format!("{statement}{}", error.as_deref().unwrap_or_default());
        session.open.as_mut().expect("a transaction").push(text);
        error.is_none()
    }

    fn look(&self) -> Rc<State> {
        let rows = self.runtime.block_on(self.observer.simple_query(&self.observation)).expect("look at everything");
        let mut state = State::default();
        for row in rows {
            let SimpleQueryMessage::Row(row) = row else { continue };
            let text = |index: usize| row.get(index).unwrap_or_else(|| panic!("{row:?} is incomplete")).to_owned();
            let Ok(Value::Object(columns)) = serde_json::from_str(&text(5)) else { panic!("not an object: {row:?}") };
            let entry = Row { key: text(2), version: text(3), live: text(4) == "t", columns };
            let double = state.0.entry(text(0)).or_default().insert(text(1), entry);
            assert!(double.is_none(), "two rows for one id: {row:?}");
        }
        Rc::new(state)
    }
}
