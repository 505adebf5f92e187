//! The mirror is exact: random histories, and for each transaction the events that plain SELECTs around its commit imply.
//!
//! `PORTALHOOK_ORACLE_ROUNDS=200` plays so many histories in each test, `PORTALHOOK_ORACLE_SEED=7` that one alone (with
//! both: so many from that one on), and `PORTALHOOK_ORACLE_TRANSACTIONS=500` longer ones.

mod history;
mod mapping;
mod model;
mod places;
mod robbed;
mod statements;

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use serde_json::Value;

use self::history::{Committed, History};
use self::mapping::Mapping;
use self::model::{Counters, State, Told, Transition};
use self::places::Places;
use crate::support::mirror;
use crate::support::portal::{Portal, distinct, name_and_id};
use crate::support::process::Process;
use crate::support::random::Random;
use crate::support::receiver::{Answer, Received, Receiver, by_sequence};

/// Histories for each test, and transactions in each; more by environment variables.
const ROUNDS: u64 = 2;
const TRANSACTIONS: usize = 60;

const EVERYTHING: &str = "'{*,post.updated,comment.updated}'";

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
    /// Loses its slot at any moment, while it runs or not.
    Robbed,
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

#[test]
fn a_daemon_whose_slot_is_dropped_again_and_again_tells_before_it_all_and_then_how_everything_ended() {
    rounds(Daemon::Robbed);
}

fn rounds(daemon: Daemon) {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    let transactions = number("PORTALHOOK_ORACLE_TRANSACTIONS")
        .map_or(TRANSACTIONS, |number| usize::try_from(number).expect("a small number"));
    let seed = number("PORTALHOOK_ORACLE_SEED");
    let first = seed.unwrap_or(1);
    let rounds = number("PORTALHOOK_ORACLE_ROUNDS").unwrap_or(if seed.is_some() { 1 } else { ROUNDS });
    let mut slots: Vec<String> = Vec::new();
    for seed in first..first + rounds {
        let round = Round::play(daemon, seed, transactions);
        round.check();
        // The last round's daemon is gone by now, and a server has only so many slots.
        slots.retain(|slot| round.portal.sql(&drop_slot(slot)).is_empty());
        slots.push(round.portal.sql("SELECT slot_name FROM pg_replication_slots WHERE database = current_database()"));
    }
}

/// A history that was played, and what arrived.
struct Round {
    name: String,
    mapping: Mapping,
    fold: bool,
    portal: Portal,
    first: Rc<State>,
    committed: Vec<Committed>,
    places: Places,
    /// At an endpoint of all portals.
    events: Vec<Received>,
    /// At an endpoint of portal 2.
    second: Vec<Received>,
    /// At an endpoint that was added after so many of the transactions.
    newcomer: (usize, Vec<Received>),
    /// How many of the events had been recorded when the slot was dropped for the first time.
    whole: Option<usize>,
    /// Keeps the daemon's last words for a test that fails.
    _daemon: Process,
}

impl Round {
    fn play(how: Daemon, seed: u64, transactions: usize) -> Self {
        let turn = usize::try_from(seed).expect("a small number") + how as usize;
        // What happens to joined rows alone is silent: only where it decides nothing do events say how everything ended.
        let mappings = if how == Daemon::Robbed { &Mapping::ALL[..2] } else { &Mapping::ALL[..] };
        let mapping = mappings[turn % mappings.len()];
        let fold = turn % 4 == 1;
        let mut random = Random(seed * 1000 + how as u64);
        let limits = limits(&mut random, mapping);
        let name = format!(
            "{how:?} PORTALHOOK_ORACLE_SEED={seed} PORTALHOOK_ORACLE_TRANSACTIONS={transactions} {mapping:?} fold: {fold} {limits}"
        );
        let portal = Portal::new(include_str!("oracle/schema.sql"), &mapping.views());
        let receivers = [Receiver::scripted(loses_some), Receiver::start(), Receiver::start()];
        let mut endpoints = vec![
            portal.endpoint_with(&receivers[0], "events", EVERYTHING),
            portal.endpoint_with(&receivers[1], "portal, events", "'2', '{post.*,vote.*,comment.*}'"),
        ];
        Places::watch(&portal);
        let cascades = ("PORTALHOOK_MAPPING__CASCADES", if fold { "fold" } else { "emit" });
        let start = || portal.spawn(&[cascades, ("PORTALHOOK_LIMITS", &limits)]);
        let mut daemon = (how != Daemon::Late).then(start);
        if let Some(daemon) = &daemon {
            daemon.wait_for_line("streaming");
        }
        let mut history = History::begin(&portal.database.owner_url(), mapping);
        let first = history.state();
        let mut committed = Vec::new();
        let comes_after = random.below(transactions);
        let mut whole = None;
        while committed.len() < transactions {
            if committed.len() == comes_after && endpoints.len() == 2 {
                endpoints.push(portal.endpoint_with(&receivers[2], "events", EVERYTHING));
            }
            committed.extend(history.step(&mut random));
            disturb(how, &portal, start, &mut daemon, &mut random);
            if how == Daemon::Robbed {
                robbed::rob(&portal, endpoints[0], start, &mut daemon, &mut whole, &mut random);
            }
        }
        history.end();
        if let Some(daemon) = &daemon {
            daemon.signal("CONT");
        }
        let daemon = daemon.unwrap_or_else(start);
        eprintln!("{name}");
        let places = Places::read(&portal, mapping);
        for endpoint in endpoints {
            portal.sql(&format!("SELECT portalhook.test({endpoint})"));
        }
        let [events, second, newcomer] = receivers.each_ref().map(arrived);
        // A copy that a TRUNCATE has called for would take a mirror away while it is compared.
        daemon.signal("STOP");
        let newcomer = (comes_after, newcomer);
        let round = Self {
            name,
            mapping,
            fold,
            portal,
            first,
            committed,
            places,
            events,
            second,
            newcomer,
            whole,
            _daemon: daemon,
        };
        assert!(how != Daemon::Robbed || round.whole.is_some(), "{}: the slot was never dropped", round.name);
        round
    }

    fn check(&self) {
        if let Some(whole) = self.whole {
            return self.check_robbed(whole);
        }
        let mut rest = self.events.as_slice();
        let mut for_newcomer = Vec::new();
        let mut counters = self.first.counters();
        for number in 0..self.committed.len() {
            let committed = &self.committed[number];
            let transition = Transition::new(&committed.before, &committed.after, &counters);
            let own = rest.iter().take_while(|event| xid(event) == committed.xid % (1 << 42)).count();
            let (own, later) = rest.split_at(own);
            rest = later;
            if number >= self.newcomer.0 {
                for_newcomer.extend(own);
            }
            let expected = transition.events(self.fold);
            let (missing, unexpected) = without_each_other(&expected, own);
            let in_order = self.places.are_in_order(committed.xid, &expected, own);
            if !missing.is_empty() || !unexpected.is_empty() || !in_order {
                panic!("{}", self.explain(number, own, &missing, &unexpected));
            }
            counters = transition.counters_after;
            if !self.mapping.counters_drift() {
                assert_eq!(
                    counters.without_zeros(),
                    committed.after.counters().without_zeros(),
                    "the model itself is wrong: {}",
                    self.explain(number, own, &[], &[])
                );
            }
        }
        let rest: Vec<&str> = rest.iter().map(Received::text).collect();
        assert!(rest.is_empty(), "{}: events of no transaction: {rest:#?}", self.name);
        let second = self.events.iter().filter(|event| event.json()["data"]["portal"]["id"] == 2).collect();
        self.check_the_same("portal 2", second, &self.second);
        self.check_the_same("an endpoint that came later", for_newcomer, &self.newcomer.1);
        self.check_mirror(&counters);
    }

    fn check_the_same(&self, whose: &str, expected: Vec<&Received>, got: &[Received]) {
        let texts = |event: &Received| event.text().to_owned();
        let (expected, got): (Vec<String>, Vec<String>) =
            (expected.into_iter().map(texts).collect(), got.iter().map(texts).collect());
        assert_eq!(got, expected, "{}: the events of {whose}", self.name);
    }

    /// At the end every mirror is its table, and the counters are what the events say.
    fn check_mirror(&self, counters: &Counters) {
        assert_eq!(mirror::differences(&self.portal), "", "{}", self.name);
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

    fn explain(&self, number: usize, got: &[Received], missing: &[&Told], unexpected: &[&Received]) -> String {
        let committed = &self.committed[number];
        let list =
            |events: Vec<String>| -> String { events.iter().map(|text| format!("  {}\n", shortened(text))).collect() };
        let missing = list(missing.iter().map(|told| format!("{} {}", told.event, told.data)).collect());
        let unexpected = list(unexpected.iter().map(|event| event.text().to_owned()).collect());
        let got = list(got.iter().map(name_and_id).collect());
        // What goes wrong in a batch may have its cause in what came shortly before.
        let statements: String = (number.saturating_sub(2)..=number)
            .map(|number| {
                let Committed { xid, statements, .. } = &self.committed[number];
                format!("transaction {number} (xid {xid}):\n  {}\n", shortened(&statements.join("\n  ")))
            })
            .collect();
        format!(
            "{}\n{statements}its rows:\n{rows}expected, but did not come:\n{missing}came, but not expected:\n{unexpected}\
             all that came, in its order:\n{got}places: {:?}",
            self.name,
            self.places.of(committed.xid),
            rows = differing_rows(committed),
        )
    }
}

/// Every row of the mapping that a transaction wrote or changed, before and after.
fn differing_rows(committed: &Committed) -> String {
    let show = |row: Option<&model::Row>| {
        row.map_or("-".to_owned(), |row| {
            let columns = shortened(&Value::Object(row.columns.clone()).to_string());
            format!("{} {} {columns}", row.version, if row.live { "live" } else { "not live" })
        })
    };
    let (before, after) = (&committed.before.0, &committed.after.0);
    let mut rows = String::new();
    for entity in before.keys().chain(after.keys()).collect::<BTreeSet<_>>() {
        let side =
            |state: &BTreeMap<String, BTreeMap<String, model::Row>>| state.get(entity).cloned().unwrap_or_default();
        let (before, after) = (side(before), side(after));
        let ids: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
        for id in ids.into_iter().filter(|id| before.get(*id) != after.get(*id)) {
            rows += &format!("  {entity} {id}: {}\n    -> {}\n", show(before.get(id)), show(after.get(id)));
        }
    }
    rows
}

/// From how many bytes on a transaction is too large for memory, and in which pages it is worked on then: in half of the
/// histories some of them are, or all. How many bytes of rows a batch has room for, and how many transactions one commit takes
/// at most.
///
/// A TRUNCATE looks like a rewrite to whoever watches the catalog, and a copy counts again: counters that drift would depend
/// on when that was.
fn limits(random: &mut Random, mapping: Mapping) -> String {
    const PARTS: [usize; 8] = [1, 1, 500, 2000, 1 << 20, 1 << 20, 1 << 20, 1 << 20];
    const PAGES: [usize; 4] = [1, 2, 5, 500];
    const ROOMS: [usize; 6] = [1, 500, 2000, 1 << 20, 1 << 20, 1 << 20];
    const GROUPS: [usize; 6] = [1, 2, 3, 7, 500, 500];
    format!(
        "part:{},page:{},room:{},group:{},looks:{}",
        PARTS[random.below(PARTS.len())],
        PAGES[random.below(PAGES.len())],
        ROOMS[random.below(ROOMS.len())],
        GROUPS[random.below(GROUPS.len())],
        u8::from(!mapping.counters_drift())
    )
}

/// Some deliveries arrive twice.
fn loses_some(request: &Received) -> Answer {
    if request.arrival % 7 == 3 { Answer::LoseResponse } else { Answer::Status(200) }
}

/// Does to the daemon what this test does to it, now and then.
fn disturb(
    how: Daemon,
    portal: &Portal,
    start: impl Fn() -> Process,
    daemon: &mut Option<Process>,
    random: &mut Random,
) {
    match how {
        Daemon::Live | Daemon::Late | Daemon::Robbed => {}
        Daemon::Killed => match daemon.take() {
            Some(alive) if random.below(60) == 0 => portal.kill(alive),
            None if random.below(12) == 0 => *daemon = Some(start()),
            unchanged => *daemon = unchanged,
        },
        Daemon::Paused => {
            if let (Some(daemon), 0) = (daemon, random.below(12)) {
                daemon.signal(if random.below(3) == 0 { "CONT" } else { "STOP" });
            }
        }
    }
}

/// Answers with nothing while somebody still reads the slot.
fn drop_slot(name: &str) -> String {
    format!(
        "SELECT 'gone', pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = '{name}' AND NOT active"
    )
}

/// Everything up to a marker, which stands after the whole history.
fn arrived(receiver: &Receiver) -> Vec<Received> {
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
fn without_each_other<'e>(expected: &'e [Told], got: &'e [Received]) -> (Vec<&'e Told>, Vec<&'e Received>) {
    let mut unexpected: Vec<&Received> = got.iter().collect();
    let mut missing = Vec::new();
    for told in expected {
        match unexpected.iter().position(|event| is(told, event)) {
            Some(found) => drop(unexpected.remove(found)),
            None => missing.push(told),
        }
    }
    (missing, unexpected)
}

fn is(told: &Told, event: &Received) -> bool {
    event.event() == told.event && event.json()["data"] == told.data
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
