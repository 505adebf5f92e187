//! Rows that a mapping cannot evaluate, or that are two with one id: visible failures, and everything else goes on.

use super::*;

#[test]
fn a_row_that_cannot_be_evaluated_is_a_failure_and_counts_as_not_live() {
    let played = played(
        "UPDATE posts SET views = 1;
         ALTER TABLE comments ALTER body DROP NOT NULL;
         CREATE TABLE labels (id integer PRIMARY KEY, post_id integer, name text);",
        &[
            (
                "posts",
                "SELECT p.id, p.title, p.description, p.status, p.user_id AS author, p.portal_id AS portal, p.created_at,
                        100 / p.views AS share, l.name AS label
                 FROM posts p LEFT JOIN labels l ON l.post_id = p.id WHERE p.deleted_at IS NULL",
            ),
            ("votes", "SELECT nullif(id, 13) AS id, post_id AS post, user_id AS voter, created_at FROM votes"),
            (
                "comments",
                "SELECT id, post_id AS post, user_id AS author, body::integer AS comment, created_at FROM comments",
            ),
        ],
        "UPDATE posts SET views = 0 WHERE id = 99;
         INSERT INTO votes (id, post_id, user_id) VALUES (1, 99, 49), (13, 98, 48);
         UPDATE posts SET views = 4 WHERE id = 99;
         INSERT INTO comments (id, post_id, body) VALUES (1, 99, 'many'), (2, 99, '12');
         UPDATE comments SET body = '13' WHERE id = 1;
         UPDATE posts SET views = 0, deleted_at = '2024-02-02' WHERE id = 98;
         INSERT INTO votes (id, post_id, user_id) VALUES (2, 98, 49);
         BEGIN;
         INSERT INTO labels VALUES (1, 99, 'a'), (2, 99, 'b');
         UPDATE posts SET title = 'Twice' WHERE id = 99;
         COMMIT;
         BEGIN;
         DELETE FROM labels WHERE id = 2;
         UPDATE posts SET title = 'Once' WHERE id = 99;
         COMMIT;",
    );
    assert_eq!(
        played.names(),
        [
            "post.deleted 99",
            "vote.created 1",
            "post.created 99",
            "comment.created 2",
            "comment.created 1",
            "post.deleted 98",
            "vote.created 2",
            "post.deleted 99",
            "post.created 99",
        ]
    );
    assert_eq!(value(&played.events[1], "/post"), json!(null), "it would be embedded, and cannot be evaluated");
    assert_eq!(played.events[2].data("/post/share"), 25);
    let kept_out = &played.events[6];
    assert_eq!(
        kept_out.data("/post/title"),
        "Keyboard shortcuts",
        "of a row that is not live only what raises is null"
    );
    assert_eq!(kept_out.data("/post/share"), json!(null));
    assert_eq!(kept_out.data("/post/author/name"), "Mara");
    assert_eq!(played.events[8].data("/post/label"), "a");
    assert_eq!(
        played.failures,
        [
            "comments 1: invalid input syntax for type integer: \"many\"",
            "posts 98: column share: division by zero",
            "posts 99: division by zero",
            "posts 99: the SELECT gives more than one row for this key",
            "votes 13: its id is null",
        ]
    );
}

#[test]
fn of_two_live_rows_with_one_id_the_first_counts_and_the_other_is_a_failure() {
    let played = played(
        "ALTER TABLE posts ADD COLUMN slug text;
         UPDATE posts SET slug = 'post-' || id;
         ALTER TABLE votes ADD COLUMN slug text; ALTER TABLE votes ALTER post_id DROP NOT NULL;",
        &[
            (
                "posts",
                "SELECT slug AS id, title, description, status, user_id AS author, portal_id AS portal, created_at FROM posts WHERE deleted_at IS NULL",
            ),
            ("votes", "SELECT id, slug AS post, user_id AS voter, created_at FROM votes"),
        ],
        "INSERT INTO posts (id, slug, title, user_id, portal_id) VALUES (100, 'a', 'First', 48, 4);
         INSERT INTO posts (id, slug, title, user_id, portal_id) VALUES (101, 'a', 'Second', 48, 4);
         UPDATE posts SET title = 'Second still' WHERE id = 101;
         INSERT INTO votes (id, slug) VALUES (1, 'a');
         DELETE FROM posts WHERE id = 100;
         INSERT INTO votes (id, slug) VALUES (2, 'a');
         UPDATE posts SET deleted_at = '2024-02-02' WHERE id = 101;
         INSERT INTO posts (id, slug, title, user_id, portal_id) VALUES (102, 'a', 'Third', 48, 4);
         UPDATE posts SET views = 1, description = 'dead' WHERE id = 101;
         INSERT INTO votes (id, slug) VALUES (3, 'a');
         DELETE FROM posts WHERE slug = 'a';",
    );
    assert_eq!(
        played.names(),
        [
            "post.created a",
            "vote.created 1",
            "post.updated a",
            "vote.created 2",
            "post.deleted a",
            "post.created a",
            "vote.created 3",
            "post.deleted a",
        ]
    );
    let titles =
        ["First", "First", "Second still", "Second still", "Second still", "Third", "Third", "Third"].map(Value::from);
    assert_eq!(played.values("/post/title"), titles);
    // The counter follows the id, not the rows.
    assert_eq!(played.values("/post/author/counter_posts"), [2, 2, 2, 2, 1, 2, 2, 1]);
    assert_eq!(played.failures, ["posts 101: another live row has the id a"]);
}

/// Without a key nothing says which of them is meant: none is, unless they are alike, before and after it is gone.
#[test]
fn of_rows_without_a_key_that_share_an_id_one_is_shown_only_where_they_are_alike() {
    let played = played(
        &format!(
            "{KEYLESS}
             INSERT INTO users (id, name) VALUES (50, 'A'), (50, 'B'), (50, 'C'), (51, 'X'), (51, 'Y'), (52, 'Same'), (52, 'Same');"
        ),
        &[],
        "BEGIN; DELETE FROM users WHERE name = 'A'; INSERT INTO votes (id, post_id, user_id) VALUES (1, 99, 50); COMMIT;
         BEGIN; DELETE FROM users WHERE id = 51; INSERT INTO votes (id, post_id, user_id) VALUES (2, 99, 51); COMMIT;
         INSERT INTO votes (id, post_id, user_id) VALUES (3, 99, 52);
         BEGIN; DELETE FROM users WHERE id = 52; INSERT INTO votes (id, post_id, user_id) VALUES (4, 99, 52); COMMIT;
         DELETE FROM users WHERE name = 'B';
         INSERT INTO votes (id, post_id, user_id) VALUES (5, 99, 50);",
    );
    let voters = [Value::Null, Value::Null, "Same".into(), "Same".into(), "C".into()];
    assert_eq!(played.values("/vote/voter/name"), voters);
    assert_eq!(played.failures, ["users 50: another live row has the id 50"]);
}

/// Also where they are alike: with a key they are two.
#[test]
fn two_live_rows_with_one_id_and_the_same_values_are_told() {
    let played = played(
        "UPDATE users SET name = 'One', email = NULL, role = 'user';",
        &[
            ("users", "SELECT 'shared' AS id, name, email, role FROM users"),
            ("votes", "SELECT id, post_id AS post, 'shared'::text AS voter, created_at FROM votes"),
        ],
        "INSERT INTO votes (id, post_id, user_id) VALUES (1, 99, 48);",
    );
    assert_eq!(played.values("/vote/voter/name"), ["One"]);
    assert_eq!(played.failures, ["users 49: another live row has the id shared"]);
}

/// In one statement, and row by row where some row raises.
#[test]
fn what_the_first_copy_cannot_count_is_a_failure_and_everything_else_goes_on() {
    for raises in [false, true] {
        let portal = Portal::new(
            &format!(
                "{SCHEMA}\n{FIXED_TIMES}
                 ALTER TABLE posts ADD COLUMN slug text;
                 UPDATE posts SET slug = 'post-' || id;
                 INSERT INTO posts (id, slug, title, user_id, portal_id) VALUES (100, 'a', 'First', 48, 4), (101, 'a', 'Second', 48, 4);
                 INSERT INTO votes (id, post_id, user_id) VALUES (1, 99, 49), (13, 98, 49);
                 INSERT INTO comments (id, post_id, user_id, body) VALUES (1, 99, 49, '{}'), (2, 99, 49, '7');
                 CREATE TABLE labels (id int PRIMARY KEY, post int, name text);
                 INSERT INTO labels VALUES (1, 98, 'x'), (2, 98, 'y'), (3, 99, 'z');",
                if raises { "many" } else { "1" }
            ),
            &views(&[
                (
                    "posts",
                    "SELECT p.slug AS id, p.title, p.description, p.status, p.user_id AS author, p.portal_id AS portal, p.created_at, l.name AS label
                     FROM posts p LEFT JOIN labels l ON l.post = p.id",
                ),
                ("votes", "SELECT nullif(id, 13) AS id, 'post-' || post_id AS post, user_id AS voter, created_at FROM votes"),
                ("comments", "SELECT id, 'post-' || post_id AS post, user_id AS author, body::int AS comment, created_at FROM comments"),
            ]),
        );
        let mut expected = vec![
            "posts 101 21000 another live row has the id a",
            "posts 98 21000 the SELECT gives more than one row for this key",
            "votes 13 23502 its id is null",
        ];
        if raises {
            expected.insert(0, "comments 1 22P02 invalid input syntax for type integer: \"many\"");
        }
        let failures =
            portal.sql("SELECT concat_ws(' ', entity, key, sqlstate, message) FROM portalhook.row_failures ORDER BY 1");
        assert_eq!(failures.lines().collect::<Vec<_>>(), expected);
        let counters = portal.sql(
            "SELECT user_id, posts, votes, comments FROM portalhook_mirror.counters WHERE posts + votes + comments > 0 ORDER BY 1",
        );
        let comments = if raises { 1 } else { 2 };
        assert_eq!(counters, format!("48|2|0|0\n49|0|1|{comments}"));
        let receiver = Receiver::start();
        let endpoint = portal.endpoint_with(&receiver, "events", "'{*,post.updated}'");
        let daemon = portal.run();
        portal.sql(
            "INSERT INTO votes (id, post_id, user_id) VALUES (2, 99, 49);
             BEGIN; DELETE FROM labels WHERE id = 2; UPDATE posts SET views = 1, title = 'Once' WHERE id = 98; COMMIT;
             DELETE FROM votes WHERE id = 13;
             DELETE FROM posts WHERE id = 100;",
        );
        let events = portal.events(&receiver, endpoint);
        assert_eq!(names(&events), ["vote.created 2", "post.created post-98", "post.updated a"]);
        assert_eq!(events[0].data("/vote/voter/counter_votes"), 2);
        assert_eq!(events[1].data("/post/author/counter_posts"), 1);
        assert_eq!(
            (events[2].data("/post/title"), events[2].data("/post/author/counter_posts")),
            ("Second".into(), 2.into())
        );
        daemon.terminate();
    }
}
