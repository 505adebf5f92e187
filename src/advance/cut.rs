//! Cuts transactions into batches: within one, every key is written once and what SELECTs join or look into stands still
//! (DESIGN §2, Mapping). Pure.

use std::collections::HashSet;

use crate::mapping::plan::{Entity, Plan};
use crate::mirror::net::{Key, Net};

/// Which tables force a cut.
pub(crate) struct Cuts {
    /// Tables that some SELECT joins or looks into.
    looked_into: HashSet<usize>,
    /// Tables without a key that hold users or portals: without a key a row has no states that a batch could tell apart,
    /// so such rows are found by id, before and after.
    keyless: HashSet<usize>,
    /// A SELECT asks what time it is: every transaction has its own.
    clock: bool,
}

impl Cuts {
    pub(crate) fn new(plan: &Plan) -> Self {
        let keyless = plan
            .entities
            .iter()
            .filter(|entity| matches!(entity.entity, Entity::Users | Entity::Portals))
            .filter_map(|entity| entity.base)
            .filter(|&base| plan.tables[base].key.is_empty())
            .collect();
        Self {
            looked_into: plan.entities.iter().flat_map(|entity| entity.reads.iter().copied()).collect(),
            keyless,
            clock: plan.reads_clock(),
        }
    }

    /// Only keys count: nothing is evaluated.
    pub(crate) fn of_keys() -> Self {
        Self { looked_into: HashSet::new(), keyless: HashSet::new(), clock: false }
    }

    /// The transaction has to be a batch of its own.
    fn alone(&self, net: &Net) -> bool {
        self.clock
            || net
                .writes
                .iter()
                .filter(|write| write.alters)
                .any(|write| self.looked_into.contains(&write.table) || self.keyless.contains(&write.table))
            || net.truncated.iter().any(|(table, _)| self.looked_into.contains(table) || self.keyless.contains(table))
    }

    /// Splits what has arrived into batches, in order.
    pub(crate) fn batches(&self, nets: Vec<Net>) -> Vec<Vec<Net>> {
        let mut batches: Vec<Vec<Net>> = Vec::new();
        let mut written: HashSet<(usize, Key)> = HashSet::new();
        let mut open = false;
        for net in nets {
            let keyed = net.writes.iter().filter(|write| !write.key.is_empty());
            let keys: Vec<(usize, Key)> = keyed.map(|write| (write.table, write.key.clone())).collect();
            let alone = self.alone(&net);
            if !open || alone || keys.iter().any(|key| written.contains(key)) {
                batches.push(Vec::new());
                written.clear();
            }
            written.extend(keys);
            open = !alone;
            if let Some(batch) = batches.last_mut() {
                batch.push(net);
            }
        }
        batches
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::lsn::Lsn;
    use crate::mirror::net::Write;

    fn net(xid: u64, writes: &[(usize, &str)]) -> Net {
        let writes = writes
            .iter()
            .map(|(table, key)| Write {
                table: *table,
                key: Box::new([Bytes::copy_from_slice(key.as_bytes())]),
                existed: true,
                image: None,
                gone: None,
                moved_from: None,
                place: 0,
                alters: true,
            })
            .collect();
        Net {
            xid,
            commit_lsn: Lsn(xid),
            end_lsn: Lsn(xid),
            commit_micros: 0,
            writes,
            operations: Vec::new(),
            truncated: Vec::new(),
        }
    }

    fn cut(nets: Vec<Net>) -> Vec<Vec<u64>> {
        let cuts = Cuts { looked_into: HashSet::from([9]), keyless: HashSet::from([8]), clock: false };
        cuts.batches(nets).into_iter().map(|batch| batch.into_iter().map(|net| net.xid).collect()).collect()
    }

    #[test]
    fn a_second_write_of_a_key_begins_a_batch() {
        let nets = vec![net(1, &[(0, "a")]), net(2, &[(0, "b"), (1, "a")]), net(3, &[(0, "a")]), net(4, &[(0, "b")])];
        assert_eq!(cut(nets), [vec![1, 2], vec![3, 4]]);
    }

    #[test]
    fn a_mapping_that_asks_for_the_time_has_batches_of_one_transaction() {
        let cuts = Cuts { looked_into: HashSet::new(), keyless: HashSet::new(), clock: true };
        assert_eq!(cuts.batches(vec![net(1, &[(0, "a")]), net(2, &[(0, "b")])]).len(), 2);
    }

    #[test]
    fn what_a_select_looks_into_is_written_alone() {
        let nets =
            vec![net(1, &[(0, "a")]), net(2, &[(9, "x")]), net(3, &[(0, "b")]), net(4, &[(8, "x")]), net(5, &[])];
        assert_eq!(cut(nets), [vec![1], vec![2], vec![3], vec![4], vec![5]]);
    }
}
