//! Evaluated posts, users and portals in memory, within a byte budget. Only the stream changes them.

use std::collections::HashMap;
use std::sync::Arc;

use crate::event::shape::Entry;
use crate::mapping::plan::Entity;

type Id = (Entity, Box<str>);

/// A row that takes a larger part of the budget than one in so many is not kept: where rows are that large, reading one again
/// costs little beside its bodies, and memory for large rows of many sizes would be mostly gaps.
const LARGE: usize = 512;

/// Two generations: what is used stays in the young one, what is not falls out with the old one.
pub(crate) struct Cache {
    budget: usize,
    young: HashMap<Id, Arc<Entry>>,
    young_bytes: usize,
    old: HashMap<Id, Arc<Entry>>,
}

impl Cache {
    /// `budget` in bytes.
    pub(crate) fn new(budget: usize) -> Self {
        Self { budget, young: HashMap::new(), young_bytes: 0, old: HashMap::new() }
    }

    pub(crate) fn get(&mut self, entity: Entity, id: &str) -> Option<Arc<Entry>> {
        let at = (entity, Box::from(id));
        if let Some(entry) = self.young.get(&at) {
            return Some(Arc::clone(entry));
        }
        let entry = self.old.remove(&at)?;
        self.keep(at, Arc::clone(&entry));
        Some(entry)
    }

    pub(crate) fn put(&mut self, entity: Entity, entry: Arc<Entry>) {
        self.keep((entity, entry.id.clone()), entry);
    }

    pub(crate) fn drop_id(&mut self, entity: Entity, id: &str) {
        let at = (entity, Box::from(id));
        self.old.remove(&at);
        if let Some(entry) = self.young.remove(&at) {
            self.young_bytes -= entry.size();
        }
    }

    pub(crate) fn drop_all(&mut self, entity: Entity) {
        self.old.retain(|(kind, _), _| *kind != entity);
        self.young.retain(|(kind, _), _| *kind != entity);
        self.young_bytes = self.young.values().map(|entry| entry.size()).sum();
    }

    fn keep(&mut self, at: Id, entry: Arc<Entry>) {
        let size = entry.size();
        if size > self.budget / LARGE {
            return;
        }
        if self.young_bytes + size > self.budget / 2 {
            self.old = std::mem::take(&mut self.young);
            self.young_bytes = 0;
        }
        self.young_bytes += size;
        if let Some(replaced) = self.young.insert(at, entry) {
            self.young_bytes -= replaced.size();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(id: &str, bytes: usize) -> Arc<Entry> {
        Arc::new(Entry {
            key: Box::new([]),
            id: id.into(),
            references: Box::new([]),
            json: Box::new(["x".repeat(bytes).into()]),
            is_cut: false,
        })
    }

    #[test]
    fn what_is_used_stays_and_the_budget_holds() {
        let mut cache = Cache::new(512_000);
        for number in 0..5_000 {
            cache.put(Entity::Users, entry(&number.to_string(), 500));
            assert!(cache.get(Entity::Users, "0").is_some(), "used all the time, gone at {number}");
        }
        assert!(cache.get(Entity::Users, "500").is_none());
        let held: usize = cache.young.values().chain(cache.old.values()).map(|entry| entry.size()).sum();
        assert!(held <= 512_000, "{held}");
        cache.put(Entity::Posts, entry("large", 1_000));
        assert!(cache.get(Entity::Posts, "large").is_none());
    }

    #[test]
    fn what_the_stream_wrote_is_dropped() {
        let mut cache = Cache::new(100_000);
        cache.put(Entity::Users, entry("1", 10));
        cache.put(Entity::Users, entry("2", 10));
        cache.put(Entity::Posts, entry("1", 10));
        cache.drop_id(Entity::Users, "1");
        assert!(cache.get(Entity::Users, "1").is_none());
        assert!(cache.get(Entity::Users, "2").is_some());
        cache.drop_all(Entity::Users);
        assert!(cache.get(Entity::Users, "2").is_none());
        assert!(cache.get(Entity::Posts, "1").is_some());
    }
}
