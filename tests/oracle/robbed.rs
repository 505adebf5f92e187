//! A slot that is gone takes its stretch of the history with it: what came before is told exactly, and afterwards what was told
//! adds up to what is there.

use std::collections::BTreeMap;

use serde_json::Value;

use super::model::Transition;
use super::{Round, without_each_other, xid};
use crate::support::mirror;
use crate::support::portal::Portal;
use crate::support::process::Process;
use crate::support::random::Random;
use crate::support::receiver::Received;

/// Drops the slot now and then, with the daemon killed or standing still, and starts a daemon that is not there. `whole`: how
/// many events had been recorded the first time.
pub(super) fn rob(
    portal: &Portal,
    endpoint: i64,
    start: impl Fn() -> Process,
    daemon: &mut Option<Process>,
    whole: &mut Option<usize>,
    random: &mut Random,
) {
    match daemon.take() {
        Some(alive) if random.below(80) == 0 => {
            portal.kill(alive);
            drop_slot(portal, endpoint, whole);
        }
        // One that has never streamed ends at a fault: whoever started it starts it again.
        Some(alive) if random.below(80) == 0 && alive.said().iter().any(|line| line.contains("streaming")) => {
            alive.signal("STOP");
            drop_slot(portal, endpoint, whole);
            alive.signal("CONT");
            *daemon = Some(alive);
        }
        None if random.below(12) == 0 => *daemon = Some(start()),
        unchanged => *daemon = unchanged,
    }
}

/// Whatever the daemon had sent may still be committed until its sessions are gone.
fn drop_slot(portal: &Portal, endpoint: i64, whole: &mut Option<usize>) {
    let role = portal.database.role();
    portal.sql(&format!(
        "DO $$ BEGIN
             LOOP
                 PERFORM pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{role}';
                 EXIT WHEN NOT FOUND;
                 PERFORM pg_stat_clear_snapshot();
             END LOOP;
         END $$;
         SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots
         WHERE slot_name = (SELECT slot FROM portalhook.checkpoint) \\g /dev/null"
    ));
    let sequence =
        portal.sql(&format!("SELECT coalesce(max(sequence), 0) FROM portalhook.routes WHERE endpoint = {endpoint}"));
    whole.get_or_insert(sequence.parse().expect("a number"));
}

impl Round {
    pub(super) fn check_robbed(&self, whole: usize) {
        self.check_before(&self.events[..whole.min(self.events.len())]);
        self.check_ends();
        let second = self.events.iter().filter(|event| event.json()["data"]["portal"]["id"] == 2).collect();
        self.check_the_same("portal 2", second, &self.second);
        self.check_newcomer();
        assert_eq!(mirror::differences(&self.portal), "", "{}", self.name);
        // The last gap counted, and the stream went on from there.
        self.check_mirror(&self.last().counters());
    }

    fn last(&self) -> &super::model::State {
        self.committed.last().map_or(&self.first, |last| &last.after)
    }

    /// Every transaction up to the last that was recorded whole.
    fn check_before(&self, mut rest: &[Received]) {
        let mut counters = self.first.counters();
        for number in 0..self.committed.len() {
            if rest.is_empty() {
                return;
            }
            let committed = &self.committed[number];
            let transition = Transition::new(&committed.before, &committed.after, &counters);
            let own = rest.iter().take_while(|event| xid(event) == committed.xid % (1 << 42)).count();
            let (own, later) = rest.split_at(own);
            rest = later;
            let expected = transition.events(self.fold);
            let (missing, unexpected) = without_each_other(&expected, own);
            if !missing.is_empty() || !unexpected.is_empty() {
                panic!("{}", self.explain(number, own, &missing, &unexpected));
            }
            counters = transition.counters_after;
        }
        assert!(rest.is_empty(), "{}: events of no transaction before the slot was dropped", self.name);
    }

    /// Created where it was not, deleted or changed where it was, and in the end what is there, as it is there.
    fn check_ends(&self) {
        for (entity, singular) in [("posts", "post"), ("votes", "vote"), ("comments", "comment")] {
            let live = |state: &super::model::State| -> BTreeMap<String, Option<Value>> {
                let rows = state.0.get(entity).into_iter().flatten().filter(|(_, row)| row.live);
                rows.map(|(id, row)| (id.clone(), Some(Value::Object(row.columns.clone())))).collect()
            };
            let mut told: BTreeMap<String, Option<Value>> = live(&self.first);
            for event in &self.events {
                let name = event.event();
                let Some(what) = name.strip_prefix(&format!("{singular}.")) else { continue };
                let data = event.data(&format!("/{singular}"));
                let id = data["id"].as_str().map_or_else(|| data["id"].to_string(), str::to_owned);
                let before = told.remove(&id);
                assert_eq!(before.is_some(), what != "created", "{}: {} of {id}", self.name, name);
                if what != "deleted" {
                    told.insert(id, Some(data));
                }
            }
            let there = live(self.last());
            let ids = |all: &BTreeMap<String, Option<Value>>| all.keys().cloned().collect::<Vec<_>>();
            if !self.fold {
                assert_eq!(ids(&told), ids(&there), "{}: {entity} in the end", self.name);
            }
            // A vote's own columns change in silence.
            for (id, is) in there.iter().filter(|_| entity != "votes") {
                let (Some(Some(told)), Some(is)) = (told.get(id), is) else { continue };
                for (column, value) in is.as_object().expect("columns") {
                    // So does what is joined.
                    if told.get(column).is_some() && !["author", "status", "label"].contains(&column.as_str()) {
                        assert_eq!(&told[column], value, "{}: {column} of {singular} {id}", self.name);
                    }
                }
            }
        }
    }

    /// From its own place on it gets everything: in a gap, everything that the gap held.
    fn check_newcomer(&self) {
        let (comes_after, newcomer) = &self.newcomer;
        let texts = |events: &[Received]| events.iter().map(|event| event.text().to_owned()).collect::<Vec<_>>();
        let first = self.events.len() - newcomer.len();
        assert_eq!(texts(newcomer), texts(&self.events[first..]), "{}: the newcomer's events", self.name);
        let later: Vec<u64> = self.committed[*comes_after..].iter().map(|one| one.xid % (1 << 42)).collect();
        let missed = self.events[..first].iter().find(|event| later.contains(&xid(event)));
        assert!(missed.is_none(), "{}: the newcomer lacks {missed:?}", self.name);
    }
}
