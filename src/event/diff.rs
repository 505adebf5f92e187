//! One transaction's states before and after → its events (DESIGN §1, Rules).

use std::collections::BTreeMap;
use std::sync::Arc;

use super::shape::{Entry, Shape};
use crate::mapping::plan::Entity;

/// A live row and the place of its base row's last write.
#[derive(Clone, Debug)]
pub(crate) struct Located {
    pub(crate) entry: Arc<Entry>,
    pub(crate) place: usize,
}

/// What happened to an entity; the order is the order of events at one place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum What {
    Deleted,
    Created,
    StatusChanged,
    Updated,
}

/// What one transaction did to one post, vote or comment.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    pub(crate) place: usize,
    pub(crate) what: What,
    pub(crate) entity: Entity,
    /// The row that the body shows: as before the transaction for `Deleted`, as after it otherwise.
    pub(crate) entry: Arc<Entry>,
    /// For a change: the row before, and the columns that differ.
    pub(crate) changed: Option<(Arc<Entry>, Vec<usize>)>,
}

impl Event {
    pub(crate) fn name(&self) -> &'static str {
        match (self.entity, self.what) {
            (Entity::Posts, What::Created) => "post.created",
            (Entity::Posts, What::Deleted) => "post.deleted",
            (Entity::Posts, What::StatusChanged) => "post.status_changed",
            (Entity::Posts, What::Updated) => "post.updated",
            (Entity::Votes, What::Deleted) => "vote.deleted",
            (Entity::Votes, _) => "vote.created",
            (Entity::Comments, What::Created) => "comment.created",
            (Entity::Comments, What::Deleted) => "comment.deleted",
            (Entity::Comments, _) => "comment.updated",
            // `events` makes none for these.
            (Entity::CommentVotes | Entity::Users | Entity::Portals, _) => "",
        }
    }
}

/// What a transaction did to one entity kind.
#[derive(Debug, Default)]
pub(crate) struct Difference {
    pub(crate) events: Vec<Event>,
    /// Who gained (+1) or lost (-1) a live row.
    pub(crate) counts: Vec<(Box<str>, i64)>,
    /// Live rows that share an id with another one: they count as not live.
    pub(crate) doubles: Vec<Arc<Entry>>,
}

/// The position among `Entry::references` of the user whose counter a row feeds.
fn owner(entity: Entity) -> Option<usize> {
    match entity {
        Entity::Posts | Entity::CommentVotes => Some(0),
        Entity::Votes | Entity::Comments => Some(1),
        Entity::Users | Entity::Portals => None,
    }
}

/// The order among rows that share an id, of which the first counts: by key, shorter texts first, as numbers are.
pub(crate) fn rank(entry: &Entry) -> impl Ord + '_ {
    entry.key.iter().map(|part| (part.len(), part)).collect::<Vec<_>>()
}

/// Compares the live rows of one transaction's written keys before and after, by their mapped id.
///
/// Of rows that share an id the first by `rank` counts, so that what counts follows from the state alone.
pub(crate) fn difference(shape: &Shape, mut before: Vec<Located>, mut after: Vec<Located>) -> Difference {
    for side in [&mut before, &mut after] {
        side.sort_by(|a, b| rank(&a.entry).cmp(&rank(&b.entry)));
    }
    let mut result = Difference::default();
    let mut states: BTreeMap<Box<str>, (Option<Located>, Option<Located>)> = BTreeMap::new();
    for located in before {
        states.entry(located.entry.id.clone()).or_default().0.get_or_insert(located);
    }
    for located in after {
        let state = states.entry(located.entry.id.clone()).or_default();
        if state.1.is_some() {
            result.doubles.push(located.entry);
        } else {
            state.1 = Some(located);
        }
    }
    for (before, after) in states.into_values() {
        count(shape.entity, before.as_ref(), after.as_ref(), &mut result.counts);
        compare(shape, before, after, &mut result.events);
    }
    result
}

fn count(entity: Entity, before: Option<&Located>, after: Option<&Located>, counts: &mut Vec<(Box<str>, i64)>) {
    let Some(owner) = owner(entity) else { return };
    let old = before.and_then(|located| located.entry.reference(owner));
    let new = after.and_then(|located| located.entry.reference(owner));
    if old != new {
        counts.extend(old.map(|user| (user.into(), -1)));
        counts.extend(new.map(|user| (user.into(), 1)));
    }
}

fn compare(shape: &Shape, before: Option<Located>, after: Option<Located>, events: &mut Vec<Event>) {
    let entity = shape.entity;
    if matches!(entity, Entity::CommentVotes | Entity::Users | Entity::Portals) {
        return;
    }
    let event = |located: &Located, what, changed| Event {
        place: located.place,
        what,
        entity,
        entry: Arc::clone(&located.entry),
        changed,
    };
    match (before, after) {
        (None, None) => {}
        (None, Some(after)) => events.push(event(&after, What::Created, None)),
        (Some(before), None) => events.push(event(&before, What::Deleted, None)),
        (Some(before), Some(after)) => {
            let differs: Vec<usize> = (0..shape.names.len())
                .filter(|&index| before.entry.json.get(index) != after.entry.json.get(index))
                .collect();
            if entity == Entity::Votes {
                if before.entry.references != after.entry.references {
                    events.push(Event { place: after.place, ..event(&before, What::Deleted, None) });
                    events.push(event(&after, What::Created, None));
                }
                return;
            }
            let status = (entity == Entity::Posts).then(|| shape.position("status")).flatten();
            let (status, rest): (Vec<_>, Vec<_>) = differs.into_iter().partition(|index| Some(*index) == status);
            for (what, columns) in [(What::StatusChanged, status), (What::Updated, rest)] {
                if !columns.is_empty() {
                    events.push(event(&after, what, Some((Arc::clone(&before.entry), columns))));
                }
            }
        }
    }
}

/// Puts the events of a transaction into their order: by place; at one place deleted, created, status_changed, updated, and
/// posts before votes before comments.
pub(crate) fn sort(events: &mut [Event]) {
    events.sort_by(|a, b| (a.place, a.what, a.entity, &a.entry.id).cmp(&(b.place, b.what, b.entity, &b.entry.id)));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mapping::plan::{EntityPlan, Output, Template, ValueKind};

    fn shape(entity: Entity, names: &[&str]) -> Shape {
        Shape::new(&EntityPlan {
            entity,
            query: String::new(),
            canonical: String::new(),
            base: Some(0),
            outputs: names.iter().map(|name| Output { name: (*name).into(), kind: ValueKind::Text }).collect(),
            reads: Vec::new(),
            id_column: None,
            id_is_unique: true,
            id_function: None,
            reads_clock: false,
            live: Template { head: String::new(), tail: String::new() },
            any: Template { head: String::new(), tail: String::new() },
        })
    }

    fn posts() -> Shape {
        shape(Entity::Posts, &["id", "title", "description", "status", "author", "portal", "created_at"])
    }

    fn located(shape: &Shape, place: usize, values: &[&str]) -> Located {
        Located {
            place,
            entry: Arc::new(Entry {
                key: Box::new([]),
                id: values[0].into(),
                references: shape.references.iter().map(|&index| Some(values[index].into())).collect(),
                json: values.iter().map(|value| Box::from(*value)).collect(),
                is_cut: false,
            }),
        }
    }

    fn names(difference: &Difference) -> Vec<&'static str> {
        difference.events.iter().map(Event::name).collect()
    }

    #[test]
    fn a_post_enters_leaves_and_changes() {
        let shape = posts();
        let open = located(&shape, 3, &["1", "t", "d", "open", "7", "4", "x"]);
        let planned = located(&shape, 5, &["1", "t", "d", "planned", "7", "4", "x"]);
        let retitled = located(&shape, 6, &["1", "T", "d", "planned", "8", "4", "x"]);
        let same = |located: &Located| vec![located.clone()];
        assert_eq!(names(&difference(&shape, vec![], same(&open))), ["post.created"]);
        assert_eq!(names(&difference(&shape, same(&open), vec![])), ["post.deleted"]);
        assert_eq!(names(&difference(&shape, same(&open), same(&planned))), ["post.status_changed"]);
        let both = difference(&shape, same(&open), same(&retitled));
        assert_eq!(names(&both), ["post.status_changed", "post.updated"]);
        assert_eq!(both.counts, [("7".into(), -1), ("8".into(), 1)]);
        assert!(names(&difference(&shape, same(&open), same(&open))).is_empty());
    }

    #[test]
    fn a_vote_that_moves_leaves_and_comes_and_its_date_is_silent() {
        let shape = shape(Entity::Votes, &["id", "post", "voter", "created_at"]);
        let here = located(&shape, 1, &["9", "1", "7", "a"]);
        let there = located(&shape, 2, &["9", "2", "7", "a"]);
        let later = located(&shape, 2, &["9", "1", "7", "b"]);
        let moved = difference(&shape, vec![here.clone()], vec![there]);
        assert_eq!(names(&moved), ["vote.deleted", "vote.created"]);
        assert!(moved.counts.is_empty());
        assert!(names(&difference(&shape, vec![here], vec![later])).is_empty());
    }

    #[test]
    fn two_live_rows_with_one_id_are_found() {
        let shape = posts();
        let one = located(&shape, 1, &["1", "a", "d", "open", "7", "4", "x"]);
        let other = located(&shape, 2, &["1", "b", "d", "open", "7", "4", "x"]);
        let result = difference(&shape, vec![], vec![one, other]);
        assert_eq!(names(&result), ["post.created"]);
        assert_eq!(result.doubles.len(), 1);
    }

    #[test]
    fn at_one_place_deleted_comes_before_created_and_posts_before_votes() {
        let posts = posts();
        let votes = shape(Entity::Votes, &["id", "post", "voter", "created_at"]);
        let gone = difference(&votes, vec![located(&votes, 4, &["v", "1", "7", "a"])], vec![]);
        let come = difference(&votes, vec![], vec![located(&votes, 4, &["w", "1", "7", "a"])]);
        let post = difference(&posts, vec![], vec![located(&posts, 4, &["1", "a", "d", "open", "7", "4", "x"])]);
        let first = difference(&votes, vec![], vec![located(&votes, 2, &["z", "1", "7", "a"])]);
        let mut events: Vec<Event> =
            [come, gone, post, first].into_iter().flat_map(|difference| difference.events).collect();
        sort(&mut events);
        let order: Vec<_> = events.iter().map(|event| (event.place, event.name())).collect();
        assert_eq!(order, [(2, "vote.created"), (4, "vote.deleted"), (4, "post.created"), (4, "vote.created")]);
    }
}
