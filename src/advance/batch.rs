//! One batch: evaluate what it writes, apply it, evaluate again, and say what happened.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;

use super::Advance;
use super::group::Group;
use super::operations::Operation;
use super::rivals::Rivals;
use super::states::{States, evaluate_side};
use super::surroundings::{Seen, Surroundings};
use crate::error::{Error, Kind, Result};
use crate::event::body::{self, Counters, Person};
use crate::event::diff::{self, Event, Located, What};
use crate::event::id::event_id;
use crate::event::shape::Entry;
use crate::ledger::record::Recorded;
use crate::mapping::clock::COMMIT_TIME;
use crate::mapping::plan::Entity;
use crate::mirror::apply::apply;
use crate::mirror::net::{Net, Write};
use crate::mirror::prepared::Prepared;
use crate::mirror::room::{Room, is_too_much};
use crate::mirror::select::RowFailure;
use crate::route::Routed;

/// What `now()` means in the mapping's SELECTs until the group ends or another transaction says otherwise.
pub(super) async fn tell_time(sql: &Prepared<'_>, net: &Net) -> Result<()> {
    let time = jiff::Timestamp::from_microsecond(net.commit_micros)
        .map_err(|error| Error::because(Kind::Failed, "read a commit time", error))?;
    sql.query("tell the time", "SELECT set_config($1, $2, true)", &[&COMMIT_TIME, &time.to_string()]).await?;
    Ok(())
}

/// What one transaction of the batch comes to.
#[derive(Default)]
pub(super) struct Happened {
    pub(super) events: Vec<Event>,
    pub(super) counts: Vec<(Entity, Box<str>, i64)>,
}

impl Happened {
    /// Drops the events of a transaction that called `portalhook.mute()`, wherever in it that was; what is counted stays. Says how
    /// many they are, and why.
    fn mute<'o>(&mut self, net: &Net, operations: &'o HashMap<i64, Operation>) -> Option<(usize, Option<&'o str>)> {
        let reason = net.operations.iter().find_map(|at| match operations.get(&at.number) {
            Some(Operation::Mute { reason }) => Some(reason.as_deref()),
            _ => None,
        })?;
        Some((std::mem::take(&mut self.events).len(), reason))
    }
}

pub(super) fn say_muted(net: &Net, events: usize, reason: Option<&str>) {
    let reason = reason.unwrap_or("no reason given");
    tracing::info!(xid = net.xid, "muted: {events} events are not told ({reason})");
}

/// The posts, users and portals that some events name.
#[derive(Default)]
pub(super) struct Named {
    pub(super) posts: HashSet<Box<str>>,
    pub(super) users: HashSet<Box<str>>,
    pub(super) portals: HashSet<Box<str>>,
}

impl Named {
    pub(super) fn by_events<'e>(events: impl Iterator<Item = &'e Event>) -> Self {
        let mut named = Self::default();
        for event in events {
            let entry = &event.entry;
            if event.entity == Entity::Posts {
                named.users.extend(entry.reference(0).map(Box::from));
                named.portals.extend(entry.reference(1).map(Box::from));
            } else {
                named.posts.extend(entry.reference(0).map(Box::from));
                named.users.extend(entry.reference(1).map(Box::from));
            }
        }
        named
    }

    /// Adds what the posts name: those of transaction number `number`'s votes and comments.
    pub(super) fn by_posts(&mut self, events: &[Event], surroundings: &Surroundings, number: usize) {
        for event in events.iter().filter(|event| event.entity != Entity::Posts) {
            let Some(id) = event.entry.reference(0) else { continue };
            let Some(Seen { entry: post, .. }) = surroundings.see(Entity::Posts, id, number) else { continue };
            self.users.extend(post.reference(0).map(Box::from));
            self.portals.extend(post.reference(1).map(Box::from));
        }
    }
}

impl Advance {
    /// Takes the mirror past the batch and adds its events to the group. Where its rows are too much to be in memory together,
    /// it is several batches; a transaction alone is staged.
    pub(super) async fn batch(
        &mut self,
        sql: &Prepared<'_>,
        nets: Vec<Net>,
        operations: &HashMap<i64, Operation>,
        group: &mut Group,
    ) -> Result<()> {
        let mut open = vec![nets];
        while let Some(mut nets) = open.pop() {
            let writes: usize = nets.iter().map(|net| net.writes.len()).sum();
            if nets.len() == 1 || self.fits.of(writes) == writes {
                let done = self.try_batch(sql, &mut nets, &Room::batch(writes), operations, group).await;
                if self.fits.tried(writes, done)?.is_some() {
                    group.batches += 1;
                    continue;
                }
            }
            if nets.len() > 1 {
                let rest = nets.split_off(nets.len() / 2);
                open.extend([rest, nets]);
                continue;
            }
            for net in nets {
                self.stage_whole(sql, net, Vec::new(), group).await?;
            }
        }
        Ok(())
    }

    /// Takes the transactions as one batch, if there is room for its rows; else all is as it was.
    async fn try_batch(
        &mut self,
        sql: &Prepared<'_>,
        nets: &mut [Net],
        room: &Room,
        operations: &HashMap<i64, Operation>,
        group: &mut Group,
    ) -> Result<()> {
        if !room.is_bounded() {
            return self.one_batch(sql, nets, room, operations, group).await;
        }
        let failures = group.failures.len();
        sql.post_plain("begin a batch", "SAVEPOINT batch").await?;
        let done = self.one_batch(sql, nets, room, operations, group).await;
        match &done {
            Ok(()) => {}
            Err(error) if is_too_much(error) => {
                sql.settle().await?;
                sql.run("leave a batch", "ROLLBACK TO SAVEPOINT batch").await?;
                group.failures.truncate(failures);
            }
            Err(_) => return done,
        }
        sql.post_plain("end a batch", "RELEASE SAVEPOINT batch").await?;
        done
    }

    /// Evaluates, applies, evaluates, compares, and tells. Nothing is told before all that is read has found room.
    async fn one_batch(
        &mut self,
        sql: &Prepared<'_>,
        nets: &mut [Net],
        room: &Room,
        operations: &HashMap<i64, Operation>,
        group: &mut Group,
    ) -> Result<()> {
        let mut failures = Vec::new();
        if let Some(net) = nets.first().filter(|_| self.plan.reads_clock()) {
            tell_time(sql, net).await?;
        }
        let before = evaluate_side(sql, &self.selects, nets, |write| write.existed, room, &mut failures).await?;
        let mut writes: Vec<&mut Write> = nets.iter_mut().flat_map(|net| &mut net.writes).collect();
        apply(sql, &self.plan, &self.mirrors, &mut writes, room).await?;
        let after = evaluate_side(sql, &self.selects, nets, |write| write.image.is_some(), room, &mut failures).await?;
        let states: Vec<States> =
            before.into_iter().zip(after).map(|(before, after)| States { before, after }).collect();

        let mut surroundings = Surroundings::new(&self.selects, nets, &states);
        surroundings.forget(&self.selects, &mut self.cache);
        self.forget_joined(nets);

        let rivals = Rivals::find(sql, &self.selects, nets, &states, room, &mut failures).await?;
        let mut happened: Vec<Happened> =
            nets.iter().enumerate().map(|(number, net)| self.compare(number, net, &states, &rivals, group)).collect();
        surroundings.add_others(rivals.into_others());
        let muted: Vec<_> = nets.iter().zip(&mut happened).map(|(net, one)| one.mute(net, operations)).collect();
        self.surround(sql, &happened, &mut surroundings, room, &mut failures).await?;
        for (net, muted) in nets.iter().zip(muted) {
            if let Some((events, reason)) = muted {
                say_muted(net, events, reason);
            }
        }
        let lsn = nets.last().map(|net| net.commit_lsn).unwrap_or_default();
        group.failures.extend(failures.into_iter().map(|failure| (lsn, failure)));
        for (number, (net, happened)) in nets.iter().zip(happened).enumerate() {
            self.tell(number, net, happened, &surroundings, operations, group);
            if group.is_full() {
                group.flush(sql, &self.plan, &self.day).await?;
            }
        }
        Ok(())
    }

    /// A change in a table that a SELECT joins or looks into may change any row of that SELECT.
    fn forget_joined(&mut self, nets: &[Net]) {
        let altered: HashSet<usize> = nets
            .iter()
            .flat_map(|net| {
                let written = net.writes.iter().filter(|write| write.alters).map(|write| write.table);
                written.chain(net.truncated.iter().map(|(table, _)| *table))
            })
            .collect();
        for select in &self.selects {
            if select.reads_clock() || select.reads().iter().any(|table| altered.contains(table)) {
                self.cache.drop_all(select.entity());
            }
        }
    }

    /// One transaction's rows before and after, entity by entity.
    fn compare(&self, number: usize, net: &Net, states: &[States], rivals: &Rivals, group: &mut Group) -> Happened {
        let mut happened = Happened::default();
        for (select, states) in self.selects.iter().zip(states) {
            let writes = || net.writes.iter().filter(|write| Some(write.table) == select.base());
            let located =
                |write: &Write, entry: Option<Arc<Entry>>| entry.map(|entry| Located { entry, place: write.place });
            let mut before = writes().filter_map(|write| located(write, states.before.live(&write.key))).collect();
            let mut after = writes().filter_map(|write| located(write, states.after.live(&write.key))).collect();
            rivals.join(select.entity(), number, &mut before, &mut after);
            let difference = diff::difference(&select.shape, before, after);
            happened.events.extend(difference.events);
            happened.counts.extend(difference.counts.into_iter().map(|(user, by)| (select.entity(), user, by)));
            group.doubles(net.commit_lsn, select.entity(), &difference.doubles);
        }
        diff::sort(&mut happened.events);
        happened
    }

    /// Looks up what the bodies name: posts first, then the users and portals that those and the events name.
    async fn surround(
        &mut self,
        sql: &Prepared<'_>,
        happened: &[Happened],
        surroundings: &mut Surroundings,
        room: &Room,
        failures: &mut Vec<RowFailure>,
    ) -> Result<()> {
        let mut named = Named::by_events(happened.iter().flat_map(|happened| &happened.events));
        let wanted = [(Entity::Posts, std::mem::take(&mut named.posts))];
        surroundings.look_up(sql, &self.selects, &mut self.cache, &wanted, room, failures).await?;
        for (number, happened) in happened.iter().enumerate() {
            named.by_posts(&happened.events, surroundings, number);
        }
        let Named { users, portals, .. } = named;
        let counted: HashSet<Box<str>> = users
            .iter()
            .cloned()
            .chain(happened.iter().flat_map(|happened| happened.counts.iter().map(|(_, user, _)| user.clone())))
            .collect();
        let wanted = [(Entity::Users, users), (Entity::Portals, portals)];
        surroundings.look_up(sql, &self.selects, &mut self.cache, &wanted, room, failures).await?;
        self.counters.load(sql, counted.iter().map(AsRef::as_ref)).await
    }

    /// Counts, routes and writes the events of one transaction.
    fn tell(
        &mut self,
        number: usize,
        net: &Net,
        happened: Happened,
        surroundings: &Surroundings,
        operations: &HashMap<i64, Operation>,
        group: &mut Group,
    ) {
        // A user whose row the transaction removed is shown as just before it, counters included.
        let earlier: HashMap<Box<str>, Counters> =
            happened.counts.iter().map(|(_, user, _)| (user.clone(), self.counters.get(user))).collect();
        for (entity, user, by) in &happened.counts {
            self.counters.add(user, *entity, *by);
        }
        let mut operations: Vec<(usize, i64, &Operation)> =
            net.operations.iter().filter_map(|at| Some((at.place, at.number, operations.get(&at.number)?))).collect();
        operations.sort_by_key(|(place, number, _)| (*place, *number));
        let mut due = operations.iter().peekable();
        for event in &happened.events {
            while let Some((_, operation, what)) = due.next_if(|(place, ..)| *place < event.place) {
                self.tell_own(net, *operation, what, group);
            }
            if !self.is_folded(event, surroundings, number) {
                self.tell_one(number, net, event, surroundings, &earlier, group);
            }
        }
        for (_, operation, what) in due {
            self.tell_own(net, *operation, what, group);
        }
        // Endpoints get what commits after the transaction that added them; a test names its endpoint.
        for (_, _, what) in &operations {
            self.change_routes(what, group);
        }
        for (_, operation, what) in &operations {
            self.tell_test(net, *operation, what, group);
        }
    }

    pub(super) fn tell_test(&mut self, net: &Net, number: i64, operation: &Operation, group: &mut Group) {
        if let Operation::Test { endpoint, url } = operation {
            let routes = self.routes.route_to(*endpoint);
            let data = body::endpoint_data(*endpoint, url, None);
            self.record(net, "webhook.test", number, None, routes, &data, group);
        }
    }

    /// `mapping.cascades = "fold"`: a vote or comment that goes with its post gives no event.
    pub(super) fn is_folded(&self, event: &Event, surroundings: &Surroundings, number: usize) -> bool {
        self.settings.fold_cascades
            && event.what == What::Deleted
            && event.entity != Entity::Posts
            && event.entry.reference(0).is_some_and(|post| surroundings.removes(Entity::Posts, post, number))
    }

    pub(super) fn tell_one(
        &mut self,
        number: usize,
        net: &Net,
        event: &Event,
        surroundings: &Surroundings,
        earlier: &HashMap<Box<str>, Counters>,
        group: &mut Group,
    ) {
        let see = |entity, id: Option<&str>| surroundings.see(entity, id?, number);
        let own = event.entity == Entity::Posts;
        let post = if own { None } else { see(Entity::Posts, event.entry.reference(0)) };
        let post_entry = if own { Some(&event.entry) } else { post.as_ref().map(|seen| &seen.entry) };
        let portal_id = post_entry.and_then(|post| post.reference(1));
        let name = event.name();
        let routes = self.routes.route(name, portal_id);
        let data = if routes.is_empty() {
            None
        } else {
            let person = see(Entity::Users, event.entry.reference(if own { 0 } else { 1 }));
            let author = post.as_ref().and_then(|seen| see(Entity::Users, seen.entry.reference(0)));
            let portal = see(Entity::Portals, portal_id);
            let around = body::Surroundings {
                person: self.person(person.as_ref(), earlier),
                post: post.as_ref().map(|seen| (&*seen.entry, self.person(author.as_ref(), earlier))),
                portal: portal.as_ref().map(|seen| &*seen.entry),
            };
            let changed = event.changed.as_ref().map(|(before, columns)| (&**before, columns.as_slice()));
            let is_cut = event.entry.is_cut || around.is_cut() || changed.is_some_and(|(before, _)| before.is_cut);
            if is_cut {
                let lsn = net.commit_lsn;
                tracing::warn!(event = name, %lsn, "a body with a value far over deliver.max_body will not be delivered");
            }
            (!is_cut).then(|| body::data(&self.shapes, event.entity, &event.entry, &around, changed))
        };
        let subject = &event.entry.id;
        let kind = match event.entity {
            Entity::Posts => "post",
            Entity::Votes => "vote",
            _ => "comment",
        };
        let id = event_id(group.source(net), net.xid, name, subject);
        let body = data.map(|(data, around)| {
            let body = body::envelope(&id, net.commit_micros, name, &data);
            // The data ends one brace before the body.
            let at = body.len() - 1 - data.len();
            (Bytes::from(body), at + around.start..at + around.end)
        });
        group.push(
            net,
            self.settings.max_body,
            Recorded {
                position: 0,
                event: name.into(),
                commit_micros: net.commit_micros,
                xid: net.xid,
                lsn: net.commit_lsn,
                portal: portal_id.map(Into::into),
                post: if own { Some(Arc::from(&**subject)) } else { event.entry.reference(0).map(Into::into) },
                entity: format!("{kind}:{subject}").into(),
                body: None,
                id: id.into(),
                routes,
            },
            body,
        );
    }

    fn person<'s>(&self, seen: Option<&'s Seen>, earlier: &HashMap<Box<str>, Counters>) -> Option<Person<'s>> {
        let Seen { entry, removed } = seen?;
        let before = removed.then(|| earlier.get(&entry.id).copied()).flatten();
        Some(Person { entry, counters: before.unwrap_or_else(|| self.counters.get(&entry.id)) })
    }

    /// The events that operations are: `emit` and a disabled endpoint.
    pub(super) fn tell_own(&mut self, net: &Net, number: i64, operation: &Operation, group: &mut Group) {
        match operation {
            Operation::Emit { event, data, portal } => {
                let routes = self.routes.route(event, portal.as_deref());
                self.record(net, event, number, portal.clone(), routes, data, group);
            }
            Operation::Disabled { endpoint, url, portal, reason } => {
                let routes = self.routes.route_but("endpoint.disabled", portal.as_deref(), *endpoint);
                let data = body::endpoint_data(*endpoint, url, Some(reason));
                self.record(net, "endpoint.disabled", number, portal.clone(), routes, &data, group);
            }
            Operation::PutEndpoint { .. }
            | Operation::DeleteEndpoint { .. }
            | Operation::Test { .. }
            | Operation::Mapping { .. }
            | Operation::Switch { .. }
            | Operation::Mute { .. } => {}
        }
    }

    pub(super) fn change_routes(&mut self, operation: &Operation, group: &mut Group) {
        match operation {
            Operation::PutEndpoint { endpoint, events, portal } => {
                self.routes.put(*endpoint, events.clone(), portal.clone());
                group.routes_changed = true;
            }
            Operation::DeleteEndpoint { endpoint } => {
                self.routes.remove(*endpoint);
                group.routes_changed = true;
            }
            // Where the mapping changes, the group ends.
            Operation::Mapping { .. }
            | Operation::Switch { .. }
            | Operation::Test { .. }
            | Operation::Emit { .. }
            | Operation::Disabled { .. }
            | Operation::Mute { .. } => {}
        }
    }

    /// Adds an event that is not about a row: the operation's number is its subject.
    #[expect(clippy::too_many_arguments, reason = "an event has that many parts, and two callers")]
    fn record(
        &self,
        net: &Net,
        name: &str,
        number: i64,
        portal: Option<String>,
        routes: Vec<Routed>,
        data: &str,
        group: &mut Group,
    ) {
        let id = event_id(group.source(net), net.xid, name, &number.to_string());
        let body =
            (!routes.is_empty()).then(|| (Bytes::from(body::envelope(&id, net.commit_micros, name, data)), 0..0));
        group.push(
            net,
            self.settings.max_body,
            Recorded {
                position: 0,
                id: id.into(),
                event: name.into(),
                commit_micros: net.commit_micros,
                xid: net.xid,
                lsn: net.commit_lsn,
                portal: portal.map(Into::into),
                post: None,
                entity: format!("operation:{number}").into(),
                routes,
                body: None,
            },
            body,
        );
    }
}
