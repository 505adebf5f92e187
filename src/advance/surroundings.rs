//! The posts, users and portals that a batch's bodies name, each as of its own transaction.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::rivals::Others;
use super::states::{Row, States};
use crate::error::Result;
use crate::event::diff::rank;
use crate::event::shape::Entry;
use crate::mapping::plan::Entity;
use crate::mapping::select::Variant;
use crate::mirror::cache::Cache;
use crate::mirror::evaluate::{Request, Wanted, evaluate};
use crate::mirror::net::Net;
use crate::mirror::prepared::Prepared;
use crate::mirror::room::Room;
use crate::mirror::select::{RowFailure, Select, key_text};

/// A row that the batch writes: earlier transactions see it as before, later ones as after.
struct Version {
    writer: usize,
    before: Option<Row>,
    after: Option<Row>,
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
    /// Rows that the batch does not write and that share their id with one that it writes, with whether they are live.
    others: Others,
    /// Rows of tables without a key that the batch takes away, as before it; where its one transaction leaves no row with
    /// that id, it removed it. `None`: two such rows differ.
    gone: HashMap<(Entity, Box<str>), Option<Arc<Entry>>>,
    /// Entities whose table has no key and is written: any row may be another now.
    rewritten: HashSet<Entity>,
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
            if select.is_keyless() {
                result.add_gone(entity, states.before.gone.iter().map(|row| &row.entry));
                if nets.iter().flat_map(|net| &net.writes).any(|write| Some(write.table) == select.base()) {
                    result.rewritten.insert(entity);
                }
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
            [&version.before, &version.after].into_iter().flatten().map(|row| &*row.entry.id).collect();
        for id in ids {
            self.by_id.entry((entity, id.into())).or_default().push(versions.len());
        }
        versions.push(version);
    }

    /// A row that the one transaction in hand writes, on one side of it.
    pub(super) fn add_side(&mut self, entity: Entity, row: Row, is_before: bool) {
        let (before, after) = if is_before { (Some(row), None) } else { (None, Some(row)) };
        self.add(entity, Version { writer: 0, before, after });
    }

    pub(super) fn add_gone<'e>(&mut self, entity: Entity, gone: impl Iterator<Item = &'e Arc<Entry>>) {
        for entry in gone {
            self.gone
                .entry((entity, entry.id.clone()))
                .and_modify(|other| *other = other.take().filter(|other| other.json == entry.json))
                .or_insert_with(|| Some(Arc::clone(entry)));
        }
    }

    /// Forgets in the cache what the batch wrote.
    pub(crate) fn forget(&self, selects: &[Select], cache: &mut Cache) {
        for entity in &self.rewritten {
            cache.drop_all(*entity);
        }
        for at in self.by_id.keys() {
            let is_another = |entry: &Arc<Entry>| !self.rows(at).any(|row| row.entry.key == entry.key);
            let (entity, id) = at;
            if !(self.may_be_another(selects, at) && cache.get(*entity, id).as_ref().is_some_and(is_another)) {
                cache.drop_id(*entity, id);
            }
        }
    }

    /// The written rows with this id, as they were and are.
    fn rows(&self, at: &(Entity, Box<str>)) -> impl Iterator<Item = &Row> {
        let all = self.versions.get(&at.0).map(Vec::as_slice).unwrap_or_default();
        let versions = self.by_id.get(at).into_iter().flatten().filter_map(|&index| all.get(index));
        versions.flat_map(|version| [&version.before, &version.after]).flatten().filter(|row| row.entry.id == at.1)
    }

    /// Only rows that are not live have this id among those that the batch writes, and which others have it is not known: in a
    /// table of many kinds of things the one that is meant may be of the right kind, and these of another.
    fn may_be_another(&self, selects: &[Select], at: &(Entity, Box<str>)) -> bool {
        let select = selects.iter().find(|select| select.entity() == at.0);
        select.is_some_and(Select::has_unknown_rivals) && !self.rows(at).any(|row| row.live)
    }

    /// The row with this mapped id as the batch's transaction number `transaction` sees it.
    pub(crate) fn see(&self, entity: Entity, id: &str, transaction: usize) -> Option<Seen> {
        let at = (entity, Box::from(id));
        // Of ids that are written, it is a live row that was looked for.
        let found = self.found.get(&at).and_then(Option::as_ref).filter(|_| self.by_id.contains_key(&at));
        if let Some(entry) = found {
            return Some(Seen { entry: Arc::clone(entry), removed: false });
        }
        let Some(versions) = self.by_id.get(&at) else {
            if let Some(entry) = self.found.get(&at)? {
                return Some(Seen { entry: Arc::clone(entry), removed: false });
            }
            let entry = self.gone.get(&at)?.clone()?;
            return Some(Seen { entry, removed: true });
        };
        let all = self.versions.get(&entity)?;
        let written = versions.iter().filter_map(|&index| all.get(index)?.seen_by(transaction, id));
        let others = self.others.get(&at).into_iter().flatten();
        let others = others.map(|(entry, live)| (Seen { entry: Arc::clone(entry), removed: false }, *live));
        // A live row before one that is not; and a transaction may give the id of a row that it removes to another (a changed
        // key, a swap, a row written anew).
        written
            .chain(others)
            .min_by(|(a, a_lives), (b, b_lives)| {
                (a.removed, !a_lives, rank(&a.entry)).cmp(&(b.removed, !b_lives, rank(&b.entry)))
            })
            .map(|(seen, _)| seen)
    }

    /// Takes rows that share their id with a written one.
    pub(super) fn add_others(&mut self, others: Others) {
        self.others.extend(others);
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
        room: &Room,
        failures: &mut Vec<RowFailure>,
    ) -> Result<()> {
        let mut missing: Vec<(Entity, HashSet<Box<str>>)> = Vec::new();
        for (entity, ids) in wanted {
            let mut rest = HashSet::new();
            for id in ids {
                let at = (*entity, id.clone());
                let is_written = self.by_id.contains_key(&at) && !self.may_be_another(selects, &at);
                if is_written || self.found.contains_key(&at) {
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
            self.ask(sql, selects, cache, &mut missing, variant, room, failures).await?;
            // Where there is no live one, the written rows are what there is.
            for (entity, ids) in &mut missing {
                ids.retain(|id| !self.by_id.contains_key(&(*entity, id.clone())));
            }
        }
        for (entity, ids) in missing {
            self.found.extend(ids.into_iter().map(|id| ((entity, id), None)));
        }
        Ok(())
    }

    /// Asks the mirror for what is missing; what it finds is missing no longer.
    #[expect(clippy::too_many_arguments, reason = "what is asked, of whom, and where it goes: one caller")]
    async fn ask(
        &mut self,
        sql: &Prepared<'_>,
        selects: &[Select],
        cache: &mut Cache,
        missing: &mut [(Entity, HashSet<Box<str>>)],
        variant: Variant,
        room: &Room,
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
        let answers = evaluate(sql, &requests, room, failures).await?;
        let doubtful: Vec<Vec<Box<str>>> = asked
            .iter()
            .zip(&requests)
            .zip(&answers)
            .map(|((_, request), answer)| match &request.wanted {
                Wanted::Ids(ids) => answer.failed.iter().map(|&failed| Box::from(ids[failed])).collect(),
                _ => Vec::new(),
            })
            .collect();
        drop(requests);
        for (((index, select), answer), mut doubtful) in asked.into_iter().zip(answers).zip(doubtful) {
            let entity = select.entity();
            let (entries, contested) = one_for_each_id(select, variant, answer.entries, failures);
            // What cannot be evaluated is null, and not asked for again.
            doubtful.extend(contested);
            for id in doubtful {
                missing[index].1.remove(&id);
                self.gone.remove(&(entity, id.clone()));
                self.found.insert((entity, id), None);
            }
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

/// Of rows that share an id, the one with the least key, and a failure for each other one. Without a key nothing says which
/// of them is meant: then none is, unless they are alike.
fn one_for_each_id(
    select: &Select,
    variant: Variant,
    mut entries: Vec<Entry>,
    failures: &mut Vec<RowFailure>,
) -> (Vec<Entry>, HashSet<Box<str>>) {
    entries.sort_by(|a, b| (&a.id, rank(a)).cmp(&(&b.id, rank(b))));
    let mut result: Vec<Entry> = Vec::with_capacity(entries.len());
    let mut contested: HashSet<Box<str>> = HashSet::new();
    for entry in entries {
        match result.last() {
            Some(first) if first.id == entry.id && (first.json != entry.json || !select.is_keyless()) => {
                let key = if select.is_keyless() { entry.id.to_string() } else { key_text(&entry.key) };
                // In the words of whoever else meets the same rows: a failure is told once.
                let another = if variant == Variant::Live { "another live row" } else { "another row" };
                failures.push(select.failure(key, "21000", format!("{another} has the id {}", entry.id)));
                if select.is_keyless() {
                    contested.insert(entry.id);
                }
            }
            Some(first) if first.id == entry.id => {}
            _ => result.push(entry),
        }
    }
    result.retain(|entry| !contested.contains(&entry.id));
    (result, contested)
}

impl Version {
    /// The row as a transaction sees it, and whether it is live, if it has this mapped id there.
    fn seen_by(&self, transaction: usize, id: &str) -> Option<(Seen, bool)> {
        let is_it = |row: &&Row| &*row.entry.id == id;
        let (before, after) = (self.before.as_ref().filter(is_it), self.after.as_ref().filter(is_it));
        let (row, removed) = match transaction.cmp(&self.writer) {
            std::cmp::Ordering::Less => (before?, false),
            std::cmp::Ordering::Greater => (after?, false),
            std::cmp::Ordering::Equal => match after {
                Some(after) => (after, false),
                // The row is gone, or has another id now.
                None => (before?, true),
            },
        };
        Some((Seen { entry: Arc::clone(&row.entry), removed }, row.live))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(id: &str, name: &str) -> Row {
        let entry = Entry {
            key: Box::new([]),
            id: id.into(),
            references: Box::new([]),
            json: Box::new([name.into()]),
            is_cut: false,
        };
        Row { entry: Arc::new(entry), live: true }
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
    fn a_live_row_is_seen_before_one_that_is_not_and_has_the_same_id() {
        let mut surroundings = Surroundings::default();
        let closed = Row { live: false, ..entry("7", "closed") };
        surroundings.add(Entity::Users, Version { writer: 1, before: Some(entry("7", "open")), after: Some(closed) });
        let other = entry("7", "other").entry;
        surroundings.add_others(HashMap::from([((Entity::Users, "7".into()), vec![(other, true)])]));
        let seen: Vec<_> = (1..3).map(|transaction| name(&surroundings, "7", transaction)).collect();
        assert_eq!(seen, [Some(("other".into(), false)), Some(("other".into(), false))]);
    }

    #[test]
    fn a_row_that_has_the_id_now_is_seen_before_one_that_is_removed_whether_it_is_live_or_not() {
        let mut surroundings = Surroundings::default();
        let closed = Row { live: false, ..entry("7", "heir") };
        surroundings.add(Entity::Users, Version { writer: 1, before: Some(entry("7", "old")), after: None });
        surroundings.add(Entity::Users, Version { writer: 1, before: None, after: Some(closed) });
        assert_eq!(name(&surroundings, "7", 1), Some(("heir".into(), false)));
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
