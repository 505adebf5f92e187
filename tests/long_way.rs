//! The long way round: the mirror stands where the daemon stopped, so however late an event is made, it carries everything as
//! it was right after its own transaction.

use serde_json::{Value, json};

use crate::support::portal::{Portal, name_and_id};
use crate::support::receiver::{Answer, Receiver};

/// The sample portal with what a grown one has: statuses and boards in tables of their own, tags, a settings table without
/// a key.
fn portal() -> Portal {
    let schema = format!(
        "{}
         ALTER TABLE posts ALTER created_at SET DEFAULT '2024-01-01 00:00:00+00';
         ALTER TABLE votes ALTER created_at SET DEFAULT '2024-01-01 00:00:00+00';
         ALTER TABLE comments ALTER created_at SET DEFAULT '2024-01-01 00:00:00+00';
         CREATE TABLE statuses (id integer PRIMARY KEY, name text);
         CREATE TABLE boards (id integer PRIMARY KEY, name text);
         CREATE TABLE tags (post_id integer, name text, PRIMARY KEY (post_id, name));
         CREATE TABLE settings (name text, value text);
         INSERT INTO statuses VALUES (1, 'Open'), (2, 'Planned');
         INSERT INTO boards VALUES (1, 'Ideas');
         INSERT INTO tags VALUES (99, 'ui');
         INSERT INTO settings VALUES ('prefix', 'A'), ('other', 'x');
         ALTER TABLE posts ADD COLUMN status_id integer DEFAULT 1, ADD COLUMN board_id integer DEFAULT 1;",
        include_str!("../sql/demo/portal.sql")
    );
    let views = include_str!("../sql/demo/views.sql").replace(
        "SELECT id, title, description, status, user_id AS author, portal_id AS portal, created_at\nFROM public.posts\nWHERE deleted_at IS NULL",
        "SELECT p.id, p.title, p.description, s.name AS status, p.user_id AS author, p.portal_id AS portal, p.created_at,
                b.name AS board,
                (SELECT string_agg(t.name, ' ' ORDER BY t.name) FROM public.tags t WHERE t.post_id = p.id) AS tags,
                (SELECT max(x.value) FROM public.settings x WHERE x.name = 'prefix') || p.id AS label
         FROM public.posts p
         LEFT JOIN public.statuses s ON s.id = p.status_id LEFT JOIN public.boards b ON b.id = p.board_id
         WHERE p.deleted_at IS NULL",
    );
    assert!(views.contains("public.settings"), "the sample's views changed");
    Portal::new(&schema, &views)
}

/// Each a transaction of its own.
const SCRIPT: [&str; 16] = [
    "INSERT INTO votes (id, post_id, user_id) VALUES (1, 99, 49)",
    "UPDATE users SET name = 'Mara B.', email = NULL WHERE id = 49",
    "UPDATE posts SET title = 'Edited' WHERE id = 99",
    "UPDATE statuses SET name = 'New' WHERE id = 1",
    "UPDATE boards SET name = 'Wishes'",
    "INSERT INTO comments (id, post_id, user_id, body) VALUES (1, 99, 49, 'Yes')",
    "INSERT INTO tags VALUES (99, 'api')",
    "UPDATE settings SET value = 'B' WHERE name = 'prefix'",
    "UPDATE posts SET status_id = 2 WHERE id = 99",
    "DELETE FROM settings; DELETE FROM tags WHERE name = 'ui'; DELETE FROM comments",
    "INSERT INTO votes (id, post_id, user_id) VALUES (2, 99, 48)",
    "DELETE FROM votes WHERE id = 1",
    "DELETE FROM votes",
    "DELETE FROM posts",
    "DELETE FROM users",
    "DELETE FROM statuses; DELETE FROM boards; DELETE FROM tags; DELETE FROM portals",
];

/// How a play goes.
#[derive(Clone, Copy, Debug)]
enum How {
    /// The daemon follows.
    Live,
    /// It starts when all is over.
    Late,
    /// It starts when all is over, and is killed each time when some more has arrived.
    LateWithKills,
}

fn play(how: How) -> Vec<(String, Value)> {
    let portal = portal();
    let receiver = Receiver::scripted(move |request| match how {
        How::LateWithKills if request.arrival % 3 == 0 => Answer::LoseResponse,
        _ => Answer::Status(200),
    });
    let endpoint = portal.endpoint_with(&receiver, "events", "'{*}'");
    let live = matches!(how, How::Live).then(|| portal.run());
    for transaction in SCRIPT {
        portal.sql(&format!("BEGIN; {transaction}; COMMIT;"));
    }
    if matches!(how, How::LateWithKills) {
        for count in [1, 3, 6] {
            let daemon = portal.spawn(&[]);
            receiver.wait_for_distinct(count);
            portal.kill(daemon);
        }
    }
    let _daemon = live.unwrap_or_else(|| portal.run());
    let events = portal.events(&receiver, endpoint);
    events.iter().map(|event| (name_and_id(event), event.json()["data"].clone())).collect()
}

#[test]
fn every_event_is_as_right_after_its_own_transaction_live_late_and_killed() {
    let late = play(How::Late);
    let names: Vec<&str> = late.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(
        names,
        [
            "vote.created 1",
            "post.updated 99",
            "comment.created 1",
            "post.status_changed 99",
            "comment.deleted 1",
            "vote.created 2",
            "vote.deleted 1",
            "vote.deleted 2",
            "post.deleted 98",
            "post.deleted 99",
        ]
    );
    let at = |event: usize, pointer: &str| late[event].1.pointer(pointer).cloned().unwrap_or(Value::Null);
    let post = |event: usize| ["title", "board", "tags", "label"].map(|name| at(event, &format!("/post/{name}")));
    for (event, expected) in [
        (0, ["This is a great idea", "Ideas", "ui", "A99"].map(Value::from)),
        (1, ["Edited", "Ideas", "ui", "A99"].map(Value::from)),
        (2, ["Edited", "Wishes", "ui", "A99"].map(Value::from)),
        (3, ["Edited", "Wishes", "api ui", "B99"].map(Value::from)),
        (5, [json!("Edited"), json!("Wishes"), json!("api"), json!(null)]),
        (9, [json!("Edited"), json!("Wishes"), json!("api"), json!(null)]),
    ] {
        assert_eq!(post(event), expected, "{}", names[event]);
    }
    assert_eq!(at(3, "/changes"), json!({"status": {"from": "New", "to": "Planned"}}), "the renamed status");
    assert_eq!(at(1, "/changes"), json!({"title": {"from": "This is a great idea", "to": "Edited"}}));
    let person = |event: usize, who: &str| {
        ["name", "email", "counter_votes", "counter_comments", "counter_posts"]
            .map(|name| at(event, &format!("{who}/{name}")))
    };
    assert_eq!(person(0, "/vote/voter"), [json!("Mara"), json!("mara@example.com"), json!(1), json!(0), json!(1)]);
    assert_eq!(person(2, "/comment/author"), [json!("Mara B."), json!(null), json!(1), json!(1), json!(1)]);
    assert_eq!(person(4, "/comment/author"), [json!("Mara B."), json!(null), json!(1), json!(0), json!(1)]);
    assert_eq!(person(5, "/vote/voter"), [json!("Rubenb"), json!("ruben@abc.nl"), json!(1), json!(0), json!(1)]);
    assert_eq!(person(6, "/vote/voter"), [json!("Mara B."), json!(null), json!(0), json!(0), json!(1)]);
    assert_eq!(person(9, "/post/author"), [json!("Rubenb"), json!("ruben@abc.nl"), json!(0), json!(0), json!(0)]);
    assert_eq!(at(9, "/portal/title"), json!("Test Portal"));

    for how in [How::Live, How::LateWithKills] {
        let other = play(how);
        assert_eq!(other.len(), late.len(), "{how:?}");
        for (other, late) in other.iter().zip(&late) {
            assert_eq!(other, late, "{how:?}");
        }
    }
}
