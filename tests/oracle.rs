//! The mirror is exact: random histories, and for each transaction the events that plain SELECTs around its commit imply.
//!
//! `PORTALHOOK_ORACLE_ROUNDS=200` plays so many histories in each test, `PORTALHOOK_ORACLE_SEED=7` that one alone, and
//! `PORTALHOOK_ORACLE_TRANSACTIONS=500` longer ones.

mod history;
mod mapping;
mod model;
mod statements;

use std::rc::Rc;

use serde_json::Value;

use self::history::{Committed, History};
use self::mapping::Mapping;
use self::model::{Counters, State, Told, Transition};
use crate::support::portal::{Portal, distinct};
use crate::support::process::Process;
use crate::support::random::Random;
use crate::support::receiver::{Answer, Received, Receiver, by_sequence};

/// Histories for each test, and transactions in each; more by environment variables.
const ROUNDS: u64 = 3;
const TRANSACTIONS: u64 = 60;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Daemon {
    /// Beside the application all the time.
    Live,
    /// Started when all is over.
    Late,
    /// Ends by SIGKILL at any moment and is started again, at once or later.
    Killed,
    /// Stands still at any moment (SIGSTOP), so that what arrives together is random.
    Paused,
}

#[test]
fn a_daemon_that_keeps_pace_tells_what_each_transaction_did() {
    rounds(Daemon::Live);
}

#[test]
fn a_daemon_that_comes_late_tells_what_each_transaction_did() {
    rounds(Daemon::Late);
}

#[test]
fn a_daemon_that_is_killed_again_and_again_tells_what_each_transaction_did() {
    rounds(Daemon::Killed);
}

#[test]
fn a_daemon_that_stops_and_goes_on_tells_what_each_transaction_did() {
    rounds(Daemon::Paused);
}

fn rounds(daemon: Daemon) {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    let transactions = number("PORTALHOOK_ORACLE_TRANSACTIONS").unwrap_or(TRANSACTIONS);
    let seeds = match number("PORTALHOOK_ORACLE_SEED") {
        Some(seed) => seed..=seed,
        None => 1..=number("PORTALHOOK_ORACLE_ROUNDS").unwrap_or(ROUNDS),
    };
    for seed in seeds {
        Round::play(daemon, seed, transactions).check();
    }
}

/// A history that was played, and what arrived.
struct Round {
    name: String,
    mapping: Mapping,
    portal: Portal,
    first: Rc<State>,
    committed: Vec<Committed>,
    events: Vec<Received>,
    /// Keeps the daemon's last words for a test that fails.
    _daemon: Process,
}

impl Round {
    fn play(how: Daemon, seed: u64, transactions: u64) -> Self {
        let mapping = Mapping::ALL[usize::try_from(seed).expect("a small number") % Mapping::ALL.len()];
        let name =
            format!("{how:?} PORTALHOOK_ORACLE_SEED={seed} PORTALHOOK_ORACLE_TRANSACTIONS={transactions} {mapping:?}");
        let mut random = Random(seed.wrapping_mul(1000) + how as u64);
        let portal = Portal::new(include_str!("oracle/schema.sql"), &mapping.views());
        // Some deliveries arrive twice.
        let receiver =
            Receiver::scripted(
                |request| {
                    if request.arrival % 7 == 3 { Answer::LoseResponse } else { Answer::Status(200) }
                },
            );
        let endpoint = portal.endpoint_with(&receiver, "events", "'{*,post.updated,comment.updated}'");
        let mut daemon = (how != Daemon::Late).then(|| portal.run());
        let mut history = History::begin(&portal.database.owner_url(), mapping);
        let first = history.state();
        let mut committed = Vec::new();
        while (committed.len() as u64) < transactions {
            committed.extend(history.step(&mut random));
            disturb(how, &portal, &mut daemon, &mut random);
        }
        history.end();
        if let Some(daemon) = &daemon {
            daemon.signal("CONT");
        }
        let daemon = daemon.unwrap_or_else(|| portal.run());
        eprintln!("{name}");
        let events = arrived(&portal, &receiver, endpoint);
        Self { name, mapping, portal, first, committed, events, _daemon: daemon }
    }

    fn check(&self) {
        let mut rest = self.events.as_slice();
        let mut counters = self.first.counters();
        for number in 0..self.committed.len() {
            let committed = &self.committed[number];
            let transition = Transition::new(&committed.before, &committed.after, &counters);
            let own = rest.iter().take_while(|event| xid(event) == committed.xid % (1 << 42)).count();
            let (own, later) = rest.split_at(own);
            rest = later;
            let got = own.iter().map(|event| (event.event(), event.json()["data"].clone())).collect();
            let (missing, unexpected) = without_each_other(transition.events(), got);
            if !missing.is_empty() || !unexpected.is_empty() {
                panic!("{}", self.explain(number, &missing, &unexpected));
            }
            counters = transition.counters_after;
            if !self.mapping.counters_drift() {
                assert_eq!(
                    counters.without_zeros(),
                    committed.after.counters().without_zeros(),
                    "the model itself is wrong: {}",
                    self.explain(number, &[], &[])
                );
            }
        }
        let rest: Vec<&str> = rest.iter().map(Received::text).collect();
        assert!(rest.is_empty(), "{}: events of no transaction: {rest:#?}", self.name);
        self.check_mirror(&counters);
    }

    /// At the end every mirror is its table, and the counters are what the events say.
    fn check_mirror(&self, counters: &Counters) {
        let tables = self.portal.sql("SELECT jsonb_array_elements(plan::jsonb -> 'tables') FROM portalhook.plan");
        let mut checked = 0;
        for table in tables.lines() {
            let table: Value = serde_json::from_str(table).expect("a table of the plan");
            let text = |value: &Value| value.as_str().expect("text").to_owned();
            let columns: Vec<String> = (table["columns"].as_array().expect("columns").iter())
                .map(|column| {
                    format!("CASE WHEN {0} IS NOT NULL THEN format('%s', {0}) END", quote(&text(&column["name"])))
                })
                .collect();
            let rows = |schema: &str, name: &str| {
                format!("SELECT ROW({})::text FROM {}.{}", columns.join(", "), quote(schema), quote(name))
            };
            let source = rows(&text(&table["schema"]), &text(&table["name"]));
            let mirror = rows("portalhook_mirror", &text(&table["mirror"]));
            let differences = self.portal.sql(&format!(
                "SELECT 'only in the table:  ' || row FROM ({source} EXCEPT ALL {mirror}) AS d (row)
                 UNION ALL SELECT 'only in the mirror: ' || row FROM ({mirror} EXCEPT ALL {source}) AS d (row)"
            ));
            assert_eq!(differences, "", "{}: the mirror of {}", self.name, table["name"]);
            checked += 1;
        }
        assert!(checked >= 6, "the plan names every table that the SELECTs read");
        let kept =
            self.portal.sql("SELECT user_id, posts, votes, comments, comment_votes FROM portalhook_mirror.counters");
        let kept = (kept.lines())
            .map(|line| {
                let (user, counts) = line.split_once('|').expect("a user and counters");
                let counts: Vec<i64> = counts.split('|').map(|count| count.parse().expect("a count")).collect();
                (user.to_owned(), counts.try_into().expect("four counters"))
            })
            .collect();
        assert_eq!(Counters(kept).without_zeros(), counters.without_zeros(), "{}: counters", self.name);
        let failures = self.portal.sql("SELECT count(*) FROM portalhook.row_failures");
        assert_eq!(failures, "0", "{}: every row can be evaluated", self.name);
    }

    fn explain(&self, number: usize, missing: &[Told], unexpected: &[Told]) -> String {
        let committed = &self.committed[number];
        let list = |events: &[Told]| -> String {
            events.iter().map(|(event, data)| format!("  {event} {}\n", shortened(&data.to_string()))).collect()
        };
        let mut rows = String::new();
        let entities: std::collections::BTreeSet<&String> =
            committed.before.0.keys().chain(committed.after.0.keys()).collect();
        for entity in entities {
            let side = |state: &State| state.0.get(entity).cloned().unwrap_or_default();
            let (before, after) = (side(&committed.before), side(&committed.after));
            let ids: std::collections::BTreeSet<&String> = before.keys().chain(after.keys()).collect();
            for id in ids.into_iter().filter(|id| before.get(*id) != after.get(*id)) {
                let show = |row: Option<&model::Row>| {
                    row.map_or("-".to_owned(), |row| {
                        let columns = shortened(&Value::Object(row.columns.clone()).to_string());
                        format!("{} {} {columns}", row.version, if row.live { "live" } else { "not live" })
                    })
                };
                rows += &format!("  {entity} {id}: {}\n    -> {}\n", show(before.get(id)), show(after.get(id)));
            }
        }
        format!(
            "{}\ntransaction {number} (xid {}), its statements:\n  {}\nits rows:\n{rows}expected, but did not come:\n{}came, but not expected:\n{}",
            self.name,
            committed.xid,
            shortened(&committed.statements.join("\n  ")),
            list(missing),
            list(unexpected)
        )
    }
}

/// Does to the daemon what this test does to it, now and then.
fn disturb(how: Daemon, portal: &Portal, daemon: &mut Option<Process>, random: &mut Random) {
    match how {
        Daemon::Live | Daemon::Late => {}
        Daemon::Killed => match daemon.take() {
            Some(alive) if random.below(60) == 0 => portal.kill(alive),
            None if random.below(12) == 0 => *daemon = Some(portal.spawn(&[])),
            unchanged => *daemon = unchanged,
        },
        Daemon::Paused => {
            if let (Some(daemon), 0) = (daemon, random.below(12)) {
                daemon.signal(if random.below(3) == 0 { "CONT" } else { "STOP" });
            }
        }
    }
}

/// Everything up to a marker, which stands after the whole history.
fn arrived(portal: &Portal, receiver: &Receiver, endpoint: i64) -> Vec<Received> {
    portal.sql(&format!("SELECT portalhook.test({endpoint})"));
    let is_marker = |request: &Received| request.text().contains(r#""event":"webhook.test","#);
    let received = receiver.wait_for("the marker and all before it", |received| {
        let marker = received.iter().rev().find(|request| is_marker(request)).map(Received::sequence);
        marker.is_some_and(|last| {
            let all = by_sequence(received);
            (1..=last).all(|sequence| all.contains_key(&sequence))
        })
    });
    let mut events = distinct(&received);
    assert!(events.pop().is_some_and(|last| is_marker(&last)), "nothing comes after the marker");
    events
}

/// What is only in the one and what is only in the other, each as often as it is there more often.
fn without_each_other(expected: Vec<Told>, got: Vec<Told>) -> (Vec<Told>, Vec<Told>) {
    let mut unexpected = got;
    let missing = expected
        .into_iter()
        .filter(|wanted| match unexpected.iter().position(|told| told == wanted) {
            Some(found) => {
                unexpected.remove(found);
                false
            }
            None => true,
        })
        .collect();
    (missing, unexpected)
}

/// The transaction that an event's id names (DESIGN: 42 bits of it before 53 bits of hash, in base 62).
fn xid(event: &Received) -> u64 {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => byte - b'0',
        b'A'..=b'Z' => byte - b'A' + 10,
        _ => byte - b'a' + 36,
    };
    let value = event.id().bytes().fold(0u128, |value, byte| value * 62 + u128::from(digit(byte)));
    u64::try_from(value >> 53).expect("42 bits")
}

/// Long texts repeat one md5; a few of its characters tell them apart.
fn shortened(text: &str) -> String {
    let mut result = String::new();
    let mut run = 0;
    for character in text.chars() {
        run = if character.is_ascii_hexdigit() { run + 1 } else { 0 };
        if run <= 8 {
            result.push(character);
        } else if run == 9 {
            result.push('…');
        }
    }
    result
}

fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
