//! The events of a staged transaction, told in their order with what they name.

use std::collections::{HashMap, HashSet};

use super::writes::{BYTES, ROWS};
use super::{Staged, count, events, operations};
use crate::advance::Advance;
use crate::advance::batch::{Named, say_muted};
use crate::advance::group::Group;
use crate::advance::surroundings::Surroundings;
use crate::error::Result;
use crate::event::body::Counters;
use crate::event::diff::Event;
use crate::mapping::plan::Entity;
use crate::mirror::prepared::Prepared;
use crate::mirror::room::Room;
use crate::mirror::select::RowFailure;

impl Advance {
    /// Tells the events and operations in their order, page by page.
    pub(super) async fn tell_staged(&mut self, staged: &mut Staged<'_, '_>, group: &mut Group) -> Result<()> {
        let has_operations = staged.writes.operations > 0;
        let events = events::InOrder::new(staged.sql).await?;
        let mut all = count(events.count);
        let mut operations = None;
        if has_operations {
            if let Some(reason) = staged.muted().await? {
                say_muted(&staged.net, all, reason.as_deref());
                all = 0;
            }
            operations = Some(staged.operations("told").await?);
        }
        let mut told = 0;
        while told < all {
            let page = events.next().await?;
            if page.is_empty() {
                break;
            }
            self.tell_page(staged, &page, &mut operations, group).await?;
            told += page.len();
            staged.pace.say("events are written", told, all);
        }
        let Some(mut operations) = operations else { return Ok(()) };
        while let Some((number, operation)) = operations.next_before(usize::MAX).await? {
            self.tell_own(&staged.net, number, &operation, group);
            self.write_page(staged.sql, group).await?;
        }
        // Endpoints get what commits after the transaction that added them; a test names its endpoint.
        let mut routes = staged.operations("routed").await?;
        while let Some((_, operation)) = routes.next_before(usize::MAX).await? {
            self.change_routes(&operation, group);
            staged.announced.note(&operation);
        }
        let mut tests = staged.operations("tested").await?;
        while let Some((number, operation)) = tests.next_before(usize::MAX).await? {
            self.tell_test(&staged.net, number, &operation, group);
            self.write_page(staged.sql, group).await?;
        }
        operations::take(staged.sql).await
    }

    /// Tells events of a page, as many at a time as what they name has room for.
    async fn tell_page<'s>(
        &mut self,
        staged: &mut Staged<'s, '_>,
        mut events: &[Event],
        operations: &mut Option<operations::InOrder<'s, '_>>,
        group: &mut Group,
    ) -> Result<()> {
        while !events.is_empty() {
            let (some, rest) = events.split_at(staged.fits.of(events.len()));
            let surrounded = self.surround_staged(staged, some, group).await;
            let Some((surroundings, earlier)) = staged.fits.tried(some.len(), surrounded)? else { continue };
            events = rest;
            for event in some {
                if let Some(operations) = operations {
                    while let Some((number, operation)) = operations.next_before(event.place).await? {
                        self.tell_own(&staged.net, number, &operation, group);
                        self.write_page(staged.sql, group).await?;
                    }
                }
                if !self.is_folded(event, &surroundings, 0) {
                    self.tell_one(0, &staged.net, event, &surroundings, &earlier, group);
                    self.write_page(staged.sql, group).await?;
                }
            }
            self.counters.forget(false);
        }
        Ok(())
    }

    /// Writes a page of events, if there is one.
    async fn write_page(&self, sql: &Prepared<'_>, group: &mut Group) -> Result<()> {
        if group.has_page(ROWS, BYTES) {
            group.flush(sql, &self.plan, &self.day).await?;
        }
        Ok(())
    }

    /// What a page of events names, and the counters as before the transaction of users that it removed.
    async fn surround_staged(
        &mut self,
        staged: &mut Staged<'_, '_>,
        events: &[Event],
        group: &mut Group,
    ) -> Result<(Surroundings, HashMap<Box<str>, Counters>)> {
        let room = Room::page(events.len());
        let mut failures = Vec::new();
        let mut surroundings = Surroundings::default();
        let mut named = Named::by_events(events.iter());
        let posts = [(Entity::Posts, std::mem::take(&mut named.posts))];
        self.see_staged(staged, &posts, &mut surroundings, &room, &mut failures).await?;
        named.by_posts(events, &surroundings, 0);
        let people = [(Entity::Users, named.users), (Entity::Portals, named.portals)];
        self.see_staged(staged, &people, &mut surroundings, &room, &mut failures).await?;
        self.fail_once(staged, failures, group).await?;
        let [(_, users), _] = people;
        self.counters.load(staged.sql, users.iter().map(AsRef::as_ref)).await?;
        let removed: Vec<&str> =
            users.iter().map(AsRef::as_ref).filter(|user| surroundings.removes(Entity::Users, user, 0)).collect();
        let mut earlier = HashMap::new();
        if !removed.is_empty() {
            for (user, gained) in events::sums(staged.sql, removed.into_iter()).await? {
                let counters = self.counters.get(&user).without(gained);
                earlier.insert(user, counters);
            }
        }
        Ok((surroundings, earlier))
    }

    /// Adds these rows to what is seen: as they are staged, or as the mirror has them.
    async fn see_staged(
        &mut self,
        staged: &mut Staged<'_, '_>,
        wanted: &[(Entity, HashSet<Box<str>>)],
        surroundings: &mut Surroundings,
        room: &Room,
        failures: &mut Vec<RowFailure>,
    ) -> Result<()> {
        for (entity, ids) in wanted.iter().filter(|(_, ids)| !ids.is_empty()) {
            let Some(select) = self.selects.iter().find(|select| select.entity() == *entity) else { continue };
            if staged.writes(select) {
                staged.see(select, ids, surroundings, room, failures).await?;
            }
        }
        surroundings.look_up(staged.sql, &self.selects, &mut self.cache, wanted, room, failures).await
    }
}
