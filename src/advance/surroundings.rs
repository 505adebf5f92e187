//! The posts, users and portals that a batch's bodies name, each as of its own transaction.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::states::States;
use crate::error::Result;
use crate::event::shape::Entry;
use crate::mapping::plan::Entity;
use crate::mapping::select::Variant;
use crate::mirror::cache::Cache;
use crate::mirror::evaluate::{Request, RowFailure, Select, Wanted, evaluate};
use crate::mirror::net::Net;
use crate::mirror::prepared::Prepared;

/// A row that the batch writes: earlier transactions see it as before, later ones as after.
struct Version {
    writer: usize,
    before: Option<Arc<Entry>>,
    after: Option<Arc<Entry>>,
}

/// A row as one transaction sees it.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) entry: Arc<Entry>,
    /// The transaction itself removed it, or gave it another id: this is the row as just before.
    pub(crate) removed: bool,
}

/// Everything that bodies of one batch may name.
#[derive(Default)]
pub(crate) struct Surroundings {
    versions: HashMap<Entity, Vec<Version>>,
    by_id: HashMap<(Entity, Box<str>), Vec<usize>>,
    /// Rows that the batch does not write; `None`: there is none.
    found: HashMap<(Entity, Box<str>), Option<Arc<Entry>>>,
}

impl Surroundings {
    /// Takes the states of the rows that the batch writes.
    pub(crate) fn new(selects: &[Select], nets: &[Net], states: &[States]) -> Self {
        let mut result = Self::default();
        for (select, states) in selects.iter().zip(states) {
            let entity = select.entity();
            if !matches!(entity, Entity::Posts | Entity::Users | Entity::Portals) {
                continue;
            }
            for (writer, net) in nets.iter().enumerate() {
                for write in net.writes.iter().filter(|write| Some(write.table) == select.base()) {
                    let version =
                        Version { writer, before: states.before.row(&write.key), after: states.after.row(&write.key) };
                    result.add(entity, version);
                }
            }
        }
        result
    }

    fn add(&mut self, entity: Entity, version: Version) {
        let versions = self.versions.entry(entity).or_default();
        let ids: HashSet<&str> =
            [&version.before, &version.after].into_iter().flatten().map(|entry| &*entry.id).collect();
        for id in ids {
            self.by_id.entry((entity, id.into())).or_default().push(versions.len());
        }
        versions.push(version);
    }

    /// Forgets in the cache what the batch wrote.
    pub(crate) fn forget(&self, cache: &mut Cache) {
        for (entity, id) in self.by_id.keys() {
            cache.drop_id(*entity, id);
        }
    }

    /// The row with this mapped id as the batch's transaction number `transaction` sees it.
    pub(crate) fn see(&self, entity: Entity, id: &str, transaction: usize) -> Option<Seen> {
        let at = (entity, Box::from(id));
        let Some(versions) = self.by_id.get(&at) else {
            let entry = self.found.get(&at)?.clone()?;
            return Some(Seen { entry, removed: false });
        };
        let all = self.versions.get(&entity)?;
        let seen: Vec<Seen> = versions.iter().filter_map(|&index| all.get(index)?.seen_by(transaction, id)).collect();
        // A transaction may give the id of a row that it removes to another (a changed key, a swap, a row written anew).
        seen.iter().find(|seen| !seen.removed).or_else(|| seen.first()).cloned()
    }

    /// Whether the transaction removed the row with this mapped id.
    pub(crate) fn removes(&self, entity: Entity, id: &str, transaction: usize) -> bool {
        self.see(entity, id, transaction).is_some_and(|seen| seen.removed)
    }

    /// Looks up rows that the batch does not write: in the cache, then in the mirror.
    pub(crate) async fn look_up(
        &mut self,
        sql: &Prepared<'_>,
        selects: &[Select],
        cache: &mut Cache,
        wanted: &[(Entity, HashSet<Box<str>>)],
        failures: &mut Vec<RowFailure>,
    ) -> Result<()> {
        let mut missing: Vec<(Entity, HashSet<Box<str>>)> = Vec::new();
        for (entity, ids) in wanted {
            let mut rest = HashSet::new();
            for id in ids {
                let at = (*entity, id.clone());
                if self.by_id.contains_key(&at) || self.found.contains_key(&at) {
                    continue;
                }
                match cache.get(*entity, id) {
                    Some(entry) => drop(self.found.insert(at, Some(entry))),
                    None => drop(rest.insert(id.clone())),
                }
            }
            if !rest.is_empty() {
                missing.push((*entity, rest));
            }
        }
        for variant in [Variant::Live, Variant::Any] {
            self.ask(sql, selects, cache, &mut missing, variant, failures).await?;
        }
        for (entity, ids) in missing {
            self.found.extend(ids.into_iter().map(|id| ((entity, id), None)));
        }
        Ok(())
    }

    /// Asks the mirror for what is missing; what it finds is missing no longer.
    async fn ask(
        &mut self,
        sql: &Prepared<'_>,
        selects: &[Select],
        cache: &mut Cache,
        missing: &mut [(Entity, HashSet<Box<str>>)],
        variant: Variant,
        failures: &mut Vec<RowFailure>,
    ) -> Result<()> {
        let asked: Vec<(usize, &Select)> = missing
            .iter()
            .enumerate()
            .filter(|(_, (_, ids))| !ids.is_empty())
            .filter_map(|(index, (entity, _))| {
                let select = selects.iter().find(|select| select.entity() == *entity)?;
                (variant == Variant::Live || select.has_dead_rows).then_some((index, select))
            })
            .collect();
        let requests: Vec<Request<'_>> = asked
            .iter()
            .map(|(index, select)| {
                let wanted = match select.base() {
                    Some(_) => Wanted::Ids(missing[*index].1.iter().map(AsRef::as_ref).collect()),
                    None => Wanted::All,
                };
                Request { select, variant, wanted }
            })
            .collect();
        let answers = evaluate(sql, &requests, failures).await?;
        drop(requests);
        for ((index, select), entries) in asked.into_iter().zip(answers) {
            let entity = select.entity();
            for entry in entries {
                let Some(id) = missing[index].1.take(&entry.id) else { continue };
                let entry = Arc::new(entry);
                cache.put(entity, Arc::clone(&entry));
                self.found.insert((entity, id), Some(entry));
            }
        }
        Ok(())
    }
}

impl Version {
    /// The row as a transaction sees it, if it has this mapped id there.
    fn seen_by(&self, transaction: usize, id: &str) -> Option<Seen> {
        let is_it = |entry: &&Arc<Entry>| &*entry.id == id;
        let (before, after) = (self.before.as_ref().filter(is_it), self.after.as_ref().filter(is_it));
        let (entry, removed) = match transaction.cmp(&self.writer) {
            std::cmp::Ordering::Less => (before?, false),
            std::cmp::Ordering::Greater => (after?, false),
            std::cmp::Ordering::Equal => match after {
                Some(after) => (after, false),
                // The row is gone, or has another id now.
                None => (before?, true),
            },
        };
        Some(Seen { entry: Arc::clone(entry), removed })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(id: &str, name: &str) -> Arc<Entry> {
        Arc::new(Entry { key: Box::new([]), id: id.into(), references: Box::new([]), json: Box::new([name.into()]) })
    }

    fn name(surroundings: &Surroundings, id: &str, transaction: usize) -> Option<(String, bool)> {
        let seen = surroundings.see(Entity::Users, id, transaction)?;
        Some((seen.entry.json[0].to_string(), seen.removed))
    }

    #[test]
    fn earlier_transactions_see_a_row_as_before_and_later_ones_as_after() {
        let mut surroundings = Surroundings::default();
        let version = Version { writer: 1, before: Some(entry("7", "old")), after: Some(entry("7", "new")) };
        surroundings.add(Entity::Users, version);
        let seen: Vec<_> = (0..3).map(|transaction| name(&surroundings, "7", transaction)).collect();
        assert_eq!(seen, [Some(("old".into(), false)), Some(("new".into(), false)), Some(("new".into(), false))]);
    }

    #[test]
    fn a_removed_row_is_seen_by_its_own_transaction_and_a_new_owner_of_its_id_by_later_ones() {
        let mut surroundings = Surroundings::default();
        surroundings.add(Entity::Users, Version { writer: 1, before: Some(entry("7", "old")), after: None });
        surroundings.add(Entity::Users, Version { writer: 3, before: None, after: Some(entry("7", "heir")) });
        let seen: Vec<_> = (0..5).map(|transaction| name(&surroundings, "7", transaction)).collect();
        assert_eq!(
            seen,
            [
                Some(("old".into(), false)),
                Some(("old".into(), true)),
                None,
                Some(("heir".into(), false)),
                Some(("heir".into(), false))
            ]
        );
    }

    #[test]
    fn an_id_that_moves_to_another_row_in_one_transaction_is_seen_there() {
        let mut surroundings = Surroundings::default();
        surroundings
            .add(Entity::Users, Version { writer: 1, before: Some(entry("7", "old")), after: Some(entry("8", "old")) });
        surroundings.add(
            Entity::Users,
            Version { writer: 1, before: Some(entry("9", "other")), after: Some(entry("7", "heir")) },
        );
        let seen = ["7", "8", "9"].map(|id| name(&surroundings, id, 1));
        assert_eq!(seen, [Some(("heir".into(), false)), Some(("old".into(), false)), Some(("other".into(), true))]);
    }
}
