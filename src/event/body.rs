//! The bytes of a body: exactly the shape and key order of DESIGN §1, from values that are JSON already.

use std::fmt::Write as _;
use std::ops::Range;

use super::shape::{Entry, Shape};
use crate::mapping::plan::Entity;
use crate::mapping::value::write_string;

/// Live posts, votes, comments and comment votes of a user.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counters {
    pub(crate) posts: i64,
    pub(crate) votes: i64,
    pub(crate) comments: i64,
    pub(crate) comment_votes: i64,
}

impl Counters {
    pub(crate) fn without(self, gained: Self) -> Self {
        Self {
            posts: self.posts - gained.posts,
            votes: self.votes - gained.votes,
            comments: self.comments - gained.comments,
            comment_votes: self.comment_votes - gained.comment_votes,
        }
    }

    pub(crate) fn add(&mut self, entity: Entity, by: i64) {
        match entity {
            Entity::Posts => self.posts += by,
            Entity::Votes => self.votes += by,
            Entity::Comments => self.comments += by,
            Entity::CommentVotes => self.comment_votes += by,
            Entity::Users | Entity::Portals => {}
        }
    }
}

/// The shapes of all entities that bodies show.
#[derive(Clone, Debug)]
pub(crate) struct Shapes {
    pub(crate) posts: Shape,
    pub(crate) votes: Shape,
    pub(crate) comments: Shape,
    pub(crate) users: Shape,
    pub(crate) portals: Shape,
}

/// A user with the counters of the event's transaction.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Person<'a> {
    pub(crate) entry: &'a Entry,
    pub(crate) counters: Counters,
}

/// What stands around the changed row.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Surroundings<'a> {
    /// The voter, or the author of the comment or post that changed.
    pub(crate) person: Option<Person<'a>>,
    /// The post of a vote or comment, with its author.
    pub(crate) post: Option<(&'a Entry, Option<Person<'a>>)>,
    pub(crate) portal: Option<&'a Entry>,
}

impl Surroundings<'_> {
    /// Something of it is too large for any body.
    pub(crate) fn is_cut(&self) -> bool {
        let author = self.post.and_then(|(_, author)| author);
        let people = self.person.into_iter().chain(author).map(|person| person.entry);
        people.chain(self.post.map(|(post, _)| post)).chain(self.portal).any(|entry| entry.is_cut)
    }
}

/// `{"id": …, "creation_time": …, "event": …, "data": …}`; `commit_micros` since 1970, cut to whole seconds.
pub(crate) fn envelope(id: &str, commit_micros: i64, name: &str, data: &str) -> String {
    let mut body = String::with_capacity(data.len() + name.len() + 96);
    body.push_str(r#"{"id":""#);
    body.push_str(id);
    body.push_str(r#"","creation_time":""#);
    push_time(&mut body, commit_micros);
    body.push_str(r#"","event":"#);
    write_string(name, &mut body);
    body.push_str(r#","data":"#);
    body.push_str(data);
    body.push('}');
    body
}

/// The `data` of an event about a post, vote or comment, and where in it stands what is the same for every vote and comment
/// of a post: the post and its portal.
pub(crate) fn data(
    shapes: &Shapes,
    entity: Entity,
    entry: &Entry,
    around: &Surroundings<'_>,
    changed: Option<(&Entry, &[usize])>,
) -> (String, Range<usize>) {
    let mut out = String::with_capacity(1024);
    out.push('{');
    let shape = match entity {
        Entity::Votes => {
            push_vote(&mut out, shapes, entry, around.person);
            &shapes.votes
        }
        Entity::Comments => {
            push_comment(&mut out, shapes, entry, around.person);
            &shapes.comments
        }
        _ => {
            push_key(&mut out, "post");
            push_post(&mut out, shapes, entry, around.person, true);
            &shapes.posts
        }
    };
    let start = out.len();
    if entity != Entity::Posts {
        push_key(&mut out, "post");
        match around.post {
            Some((post, author)) => push_post(&mut out, shapes, post, author, false),
            None => out.push_str("null"),
        }
    }
    push_key(&mut out, "portal");
    match around.portal {
        Some(portal) => push_portal(&mut out, shapes, portal),
        None => out.push_str("null"),
    }
    let around = start..if entity == Entity::Posts { start } else { out.len() };
    if let Some((before, columns)) = changed {
        push_changes(&mut out, shape, before, entry, columns);
    }
    out.push('}');
    (out, around)
}

/// `{"endpoint": {"id": …, "url": …}}` with a reason for `endpoint.disabled`.
pub(crate) fn endpoint_data(id: i64, url: &str, reason: Option<&str>) -> String {
    let mut out = format!(r#"{{"endpoint":{{"id":{id},"url":"#);
    write_string(url, &mut out);
    out.push('}');
    if let Some(reason) = reason {
        push_key(&mut out, "reason");
        write_string(reason, &mut out);
    }
    out.push('}');
    out
}

fn push_vote(out: &mut String, shapes: &Shapes, entry: &Entry, voter: Option<Person<'_>>) {
    push_key(out, "vote");
    out.push('{');
    push_columns(out, &shapes.votes, entry, &["id", "created_at"]);
    push_key(out, "voter");
    push_person(out, shapes, voter);
    push_extras(out, &shapes.votes, entry);
    out.push('}');
}

fn push_comment(out: &mut String, shapes: &Shapes, entry: &Entry, author: Option<Person<'_>>) {
    push_key(out, "comment");
    out.push('{');
    push_columns(out, &shapes.comments, entry, &["id", "created_at", "comment"]);
    push_key(out, "author");
    push_person(out, shapes, author);
    push_extras(out, &shapes.comments, entry);
    out.push('}');
}

/// A post; its own events also say its status and when it was made.
fn push_post(out: &mut String, shapes: &Shapes, entry: &Entry, author: Option<Person<'_>>, own: bool) {
    out.push('{');
    push_columns(out, &shapes.posts, entry, &["id", "title", "description"]);
    if own {
        push_columns(out, &shapes.posts, entry, &["status", "created_at"]);
    }
    push_key(out, "author");
    push_person(out, shapes, author);
    push_extras(out, &shapes.posts, entry);
    out.push('}');
}

fn push_portal(out: &mut String, shapes: &Shapes, entry: &Entry) {
    out.push('{');
    push_columns(out, &shapes.portals, entry, &["id", "title"]);
    push_extras(out, &shapes.portals, entry);
    out.push('}');
}

fn push_person(out: &mut String, shapes: &Shapes, person: Option<Person<'_>>) {
    let Some(Person { entry, counters }) = person else {
        out.push_str("null");
        return;
    };
    out.push('{');
    push_columns(out, &shapes.users, entry, &["id", "name", "email", "role"]);
    for (name, count) in [
        ("counter_votes", counters.votes),
        ("counter_comments", counters.comments),
        ("counter_posts", counters.posts),
        ("counter_comment_votes", counters.comment_votes),
    ] {
        push_key(out, name);
        match shapes.users.position(name).and_then(|index| entry.json.get(index)) {
            Some(own) => out.push_str(own),
            None => push_number(out, count.max(0)),
        }
    }
    push_extras(out, &shapes.users, entry);
    out.push('}');
}

fn push_changes(out: &mut String, shape: &Shape, before: &Entry, after: &Entry, columns: &[usize]) {
    push_key(out, "changes");
    out.push('{');
    for &column in columns {
        let (Some(name), Some(from), Some(to)) =
            (shape.names.get(column), before.json.get(column), after.json.get(column))
        else {
            continue;
        };
        push_key(out, name);
        out.push_str(r#"{"from":"#);
        out.push_str(from);
        out.push_str(r#","to":"#);
        out.push_str(to);
        out.push('}');
    }
    out.push('}');
}

fn push_columns(out: &mut String, shape: &Shape, entry: &Entry, names: &[&str]) {
    for name in names {
        push_key(out, name);
        out.push_str(shape.json(entry, name));
    }
}

fn push_extras(out: &mut String, shape: &Shape, entry: &Entry) {
    for &index in &shape.extras {
        push_key(out, &shape.names[index]);
        out.push_str(entry.json.get(index).map_or("null", |json| json));
    }
}

/// `"name":`, after a comma where something stands before it in the object.
fn push_key(out: &mut String, name: &str) {
    if !out.ends_with('{') {
        out.push(',');
    }
    write_string(name, out);
    out.push(':');
}

fn push_number(out: &mut String, number: i64) {
    write!(out, "{number}").expect("a String takes everything");
}

fn push_time(out: &mut String, micros: i64) {
    match jiff::Timestamp::from_second(micros.div_euclid(1_000_000)) {
        Ok(time) => write!(out, "{time}").expect("a String takes everything"),
        Err(_) => out.push_str("9999-12-30T22:00:00Z"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_envelope_is_cut_to_whole_seconds() {
        assert_eq!(
            envelope("vg3EGg2wcHgd8nMl", 1_654_107_457_999_999, "vote.created", "{}"),
            r#"{"id":"vg3EGg2wcHgd8nMl","creation_time":"2022-06-01T18:17:37Z","event":"vote.created","data":{}}"#
        );
    }

    #[test]
    fn a_disabled_endpoint_says_why() {
        assert_eq!(
            endpoint_data(3, "https://a.example/\"x", Some("410")),
            r#"{"endpoint":{"id":3,"url":"https://a.example/\"x"},"reason":"410"}"#
        );
        assert_eq!(endpoint_data(3, "u", None), r#"{"endpoint":{"id":3,"url":"u"}}"#);
    }
}
