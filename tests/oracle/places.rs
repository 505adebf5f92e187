//! Where in its transaction each row was written last: from a second slot, decoded by PostgreSQL's own `test_decoding`.

use std::collections::{BTreeMap, HashMap};

use super::mapping::Mapping;
use super::model::Told;
use crate::support::portal::Portal;
use crate::support::receiver::Received;

/// An entity, and the key of a row of its base table.
pub(super) type At = (&'static str, String);

/// For each transaction the place of each written row's last write; nothing for one that truncates: that names no rows.
pub(super) struct Places(HashMap<u64, Option<BTreeMap<At, usize>>>);

impl Places {
    /// Begins to keep what is written from here on.
    pub(super) fn watch(portal: &Portal) {
        portal.sql(&format!("SELECT pg_create_logical_replication_slot('{}', 'test_decoding')", slot(portal)));
    }

    /// Reads what was written, and keeps no more.
    pub(super) fn read(portal: &Portal, mapping: Mapping) -> Self {
        let slot = slot(portal);
        let changes = portal.sql(&format!(
            "SELECT xid, data FROM pg_logical_slot_get_changes('{slot}', NULL, NULL, 'skip-empty-xacts', '1', 'include-xids', '0')
             WHERE data LIKE 'table public.%';
             SELECT pg_drop_replication_slot('{slot}')"
        ));
        let mut places = Self(HashMap::new());
        for (place, line) in changes.lines().enumerate() {
            let Some((xid, data)) = line.split_once('|') else { continue };
            let written =
                places.0.entry(xid.parse().expect("a transaction id")).or_insert_with(|| Some(BTreeMap::new()));
            if data.contains(": TRUNCATE:") {
                *written = None;
            }
            for entity in mapping.entities() {
                let Some(row) = data.strip_prefix(&format!("table public.{}: ", entity.table)) else { continue };
                let (old, new) = row.split_once("new-tuple:").unwrap_or((row, row));
                for image in [old, new] {
                    if let Some(written) = written {
                        written.insert((entity.name, key(image, entity.key)), place);
                    }
                }
            }
        }
        places
    }

    pub(super) fn of(&self, xid: u64) -> Option<&BTreeMap<At, usize>> {
        self.0.get(&xid)?.as_ref()
    }

    /// Whether the events stand in the order of their places, and at one place in that of their kinds.
    pub(super) fn are_in_order(&self, xid: u64, expected: &[Told], got: &[Received]) -> bool {
        let Some(written) = self.of(xid) else { return true };
        got.iter()
            .filter_map(|event| expected.iter().find(|told| super::is(told, event)))
            .map(|told| {
                (written.get(&told.at).unwrap_or_else(|| panic!("{told:?} is nowhere in {written:?}")), told.rank)
            })
            .is_sorted()
    }
}

fn slot(portal: &Portal) -> String {
    format!("oracle_{}", portal.database.role())
}

/// The key's columns come before every text that could look like one: `pk[bigint]:9`.
fn key(image: &str, columns: &[&str]) -> String {
    let value = |column: &&str| {
        let (_, rest) = image.split_once(&format!("{column}[")).unwrap_or_else(|| panic!("no {column} in {image}"));
        let (_, value) = rest.split_once("]:").unwrap_or_else(|| panic!("no value in {image}"));
        match value.strip_prefix('\'') {
            // Quotes are doubled, nothing else is; no key of a history ends with one.
            Some(text) => text.split("' ").next().unwrap_or_default().trim_end_matches('\'').replace("''", "'"),
            None => value.split(' ').next().unwrap_or_default().to_owned(),
        }
    };
    columns.iter().map(value).collect::<Vec<_>>().join(",")
}
