//! Every shape that a mapping may have, played on a real server.

mod odd_rows;
mod rooms;

use serde_json::{Value, json};

use crate::support::portal::{Portal, name_and_id};
use crate::support::receiver::{Received, Receiver};

const SCHEMA: &str = include_str!("../sql/demo/portal.sql");
const VIEWS: &str = include_str!("../sql/demo/views.sql");

/// So that two plays give the same bodies.
const FIXED_TIMES: &str = "
    ALTER TABLE posts ALTER created_at SET DEFAULT '2024-01-01 00:00:00+00';
    ALTER TABLE votes ALTER created_at SET DEFAULT '2024-01-01 00:00:00+00';
    ALTER TABLE comments ALTER created_at SET DEFAULT '2024-01-01 00:00:00+00';";

/// The sample's views with some of them written otherwise.
fn views(changes: &[(&str, &str)]) -> String {
    let mut all = VIEWS.to_owned();
    for (entity, select) in changes {
        let head = format!("CREATE VIEW portalhook.{entity} AS");
        if let Some(start) = all.find(&head) {
            let end = start + all[start..].find(';').expect("a statement ends") + 1;
            all.replace_range(start..end, "");
        }
        all.push_str(&format!("\n{head} {select};"));
    }
    all
}

fn names(events: &[Received]) -> Vec<String> {
    events.iter().map(name_and_id).collect()
}

/// A value of `data`; null also where there is no such place.
fn value(event: &Received, pointer: &str) -> Value {
    event.json()["data"].pointer(pointer).cloned().unwrap_or(Value::Null)
}

/// What a play comes to: the events, and the failures as `table key message`.
struct Played {
    events: Vec<Received>,
    failures: Vec<String>,
}

impl Played {
    fn names(&self) -> Vec<String> {
        names(&self.events)
    }

    #[track_caller]
    fn values(&self, pointer: &str) -> Vec<Value> {
        self.events.iter().map(|event| value(event, pointer)).collect()
    }
}

/// Plays a script, statement by statement, on the sample portal with further SQL and views: once while the daemon follows,
/// once before it starts. Both must give the same.
#[track_caller]
fn played(schema: &str, changes: &[(&str, &str)], script: &str) -> Played {
    let [live, late] = [true, false].map(|live| {
        let portal = Portal::new(&format!("{SCHEMA}\n{FIXED_TIMES}\n{schema}"), &views(changes));
        let receiver = Receiver::start();
        let endpoint = portal.endpoint_with(&receiver, "events", "'{post.*,vote.*,comment.*}'");
        let early = live.then(|| portal.run());
        portal.sql(script);
        let _daemon = early.unwrap_or_else(|| portal.run());
        let events = portal.events(&receiver, endpoint);
        let failures = portal
            .sql("SELECT DISTINCT entity || ' ' || key || ': ' || message FROM portalhook.row_failures ORDER BY 1");
        Played { events, failures: failures.lines().map(str::to_owned).collect() }
    });
    assert_eq!(live.names(), late.names(), "live and late");
    assert_eq!(live.values(""), late.values(""), "live and late");
    assert_eq!(live.failures, late.failures, "live and late");
    late
}

const KEYLESS: &str = "
    ALTER TABLE users DROP CONSTRAINT users_pkey CASCADE;
    ALTER TABLE portals DROP CONSTRAINT portals_pkey CASCADE;";

#[test]
fn users_and_portals_without_a_key_are_shown_as_of_each_transaction() {
    let played = played(
        KEYLESS,
        &[],
        "INSERT INTO votes (id, post_id, user_id) VALUES (1, 99, 49);
         UPDATE users SET name = 'Mara B.' WHERE id = 49;
         INSERT INTO votes (id, post_id, user_id) VALUES (2, 98, 49);
         UPDATE portals SET title = 'Renamed';
         BEGIN;
         INSERT INTO users (id, name) VALUES (50, 'New');
         INSERT INTO votes (id, post_id, user_id) VALUES (3, 98, 50);
         COMMIT;
         BEGIN;
         DELETE FROM votes WHERE id = 3;
         DELETE FROM users WHERE id = 50;
         COMMIT;
         INSERT INTO votes (id, post_id, user_id) VALUES (4, 98, 50);
         TRUNCATE users, portals;
         DELETE FROM votes WHERE id = 1;",
    );
    assert_eq!(
        played.names(),
        ["vote.created 1", "vote.created 2", "vote.created 3", "vote.deleted 3", "vote.created 4", "vote.deleted 1",]
    );
    let voters = ["Mara", "Mara B.", "New", "New"].map(Value::from).to_vec();
    assert_eq!(played.values("/vote/voter/name"), [voters, vec![Value::Null, Value::Null]].concat());
    let titles = ["Test Portal", "Test Portal", "Renamed", "Renamed", "Renamed"].map(Value::from).to_vec();
    assert_eq!(played.values("/portal/title"), [titles, vec![Value::Null]].concat());
    // A user whose row the transaction removed is shown as just before it, counters included.
    assert_eq!(played.events[3].data("/vote/voter/counter_votes"), 1);
    assert_eq!(played.failures, [""; 0]);
}

#[test]
fn everything_removed_at_once_is_shown_as_it_was_also_without_a_key() {
    let played = played(
        &format!("{KEYLESS} INSERT INTO votes (id, post_id, user_id) VALUES (1, 99, 49);"),
        &[("users", "SELECT id, name, email, role FROM users WHERE role <> 'user'")],
        "BEGIN;
         UPDATE users SET email = 'late@example.com' WHERE id = 49;
         TRUNCATE users, portals, votes, comments, posts;
         COMMIT;",
    );
    assert_eq!(played.names(), ["post.deleted 98", "post.deleted 99", "vote.deleted 1"]);
    assert_eq!(played.values("/portal/title"), ["Test Portal"; 3]);
    assert_eq!(played.events[2].data("/vote/voter/email"), "mara@example.com", "as just before, live or not");
    assert_eq!(played.events[2].data("/post/author/name"), "Rubenb");
}

/// Equal rows are counted: each statement takes away one of them, or all.
#[test]
fn of_equal_rows_in_a_table_without_a_key_one_delete_removes_one() {
    let long = "(SELECT string_agg(md5(n::text), '') FROM generate_series(1, 200) AS n)";
    let one = "DELETE FROM tags WHERE ctid = (SELECT ctid FROM tags WHERE name = 'a' LIMIT 1);
               UPDATE posts SET status = status || '.' WHERE id = 99;";
    let played = played(
        &format!(
            "CREATE TABLE tags (post integer, name text, note text);
             INSERT INTO tags SELECT 99, name, note FROM (VALUES ('a'), ('a'), ('a'), ('b'), (NULL)) AS t(name), (VALUES (NULL), ({long})) AS n(note);"
        ),
        &[(
            "posts",
            "SELECT id, title, description, status, user_id AS author, portal_id AS portal, created_at,
                    (SELECT string_agg(coalesce(t.name, '-') || length(t.note), ' ' ORDER BY t.name, t.note) FROM tags t WHERE t.post = posts.id) AS long,
                    (SELECT string_agg(coalesce(t.name, '-'), ' ' ORDER BY t.name) FROM tags t WHERE t.post = posts.id AND t.note IS NULL) AS short
             FROM posts",
        )],
        &format!(
            "UPDATE posts SET status = 'x' WHERE id = 99;
             {one}{one}{one}
             DELETE FROM tags WHERE name IS NULL;
             UPDATE posts SET status = 'y' WHERE id = 99;
             BEGIN;
             INSERT INTO tags VALUES (99, 'c'), (99, 'c'), (99, 'd');
             DELETE FROM tags WHERE name = 'd';
             UPDATE tags SET name = 'e' WHERE ctid = (SELECT ctid FROM tags WHERE name = 'c' LIMIT 1);
             UPDATE tags SET post = 98 WHERE name = 'b';
             UPDATE posts SET status = 'z';
             COMMIT;"
        ),
    );
    let of_99: Vec<(Value, Value)> = played
        .events
        .iter()
        .filter(|event| event.event() == "post.status_changed" && event.data("/post/id") == 99)
        .map(|event| (event.data("/post/long"), event.data("/post/short")))
        .collect();
    // Which of the equal names goes first is the heap's order: the short ones were inserted in turn with the long.
    let counted: Vec<usize> = of_99
        .iter()
        .map(|(long, short)| {
            let count = |value: &Value| value.as_str().map_or(0, |text| text.matches('a').count());
            count(long) + count(short)
        })
        .collect();
    assert_eq!(counted, [6, 5, 4, 3, 3, 3], "{of_99:?}");
    assert_eq!(of_99[0].0, "a6400 a6400 a6400 b6400 -6400", "{of_99:?}");
    let last = |pointer| {
        played.events.iter().rev().find(|event| event.data("/post/id") == 98).map(|event| event.data(pointer))
    };
    assert_eq!(last("/post/long"), Some(json!("b6400")), "a long value that an update left alone goes with its row");
    assert_eq!(of_99[5].1.as_str().map(|text| text.replace("a ", "")), Some("c e".to_owned()), "{of_99:?}");
    assert_eq!(played.failures, [""; 0]);
}

#[test]
fn setup_gives_a_table_without_a_key_its_identity_and_says_so() {
    let portal = Portal::without_setup(
        crate::support::cluster::Database::create(),
        &format!("{SCHEMA}\n{KEYLESS} ALTER TABLE portals REPLICA IDENTITY NOTHING;"),
    );
    let output = portal.try_setup(VIEWS);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("ALTER TABLE public.portals REPLICA IDENTITY FULL"), "{said}");
    assert_eq!(output.status.code(), Some(64), "{said}");
    portal.sql("ALTER TABLE portals REPLICA IDENTITY DEFAULT");
    let output = portal.try_setup(VIEWS);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    for table in ["public.users", "public.portals"] {
        assert!(
            said.lines().any(|line| line.starts_with("identity") && line.contains(&format!("{table}: set to FULL"))),
            "{said}"
        );
    }
    let identities = portal.sql("SELECT string_agg(relname || relreplident::text, ' ' ORDER BY relname) FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relname IN ('users', 'portals', 'posts')");
    assert_eq!(identities, "portalsf postsd usersf");
    portal.sql("UPDATE users SET name = 'The application works on'; DELETE FROM portals;");
}

#[test]
fn a_portal_may_be_a_constant_and_a_voter_may_have_no_row() {
    let played = played(
        "ALTER TABLE votes DROP CONSTRAINT votes_user_id_fkey;
         CREATE TABLE likes (comment_id integer, user_id integer, PRIMARY KEY (comment_id, user_id));
         ALTER TABLE users ADD COLUMN karma integer DEFAULT 7;
         INSERT INTO likes VALUES (1, 48);",
        &[
            ("portals", "SELECT 1 AS id, 'My portal' AS title"),
            (
                "posts",
                "SELECT id, title, description, status, user_id AS author, 1 AS portal, created_at FROM posts WHERE deleted_at IS NULL",
            ),
            ("users", "SELECT id, name, email, role, karma AS counter_posts FROM users"),
            ("comment_votes", "SELECT user_id AS voter FROM likes"),
        ],
        "INSERT INTO votes (id, post_id, user_id) VALUES (1, 99, 777);
         INSERT INTO likes VALUES (2, 48), (2, 49);
         INSERT INTO votes (id, post_id, user_id) VALUES (2, 99, 48);
         DELETE FROM likes WHERE comment_id = 2;
         UPDATE users SET karma = 8 WHERE id = 48;
         DELETE FROM votes WHERE id = 2;",
    );
    assert_eq!(played.names(), ["vote.created 1", "vote.created 2", "vote.deleted 2"]);
    assert_eq!(played.values("/portal"), vec![json!({"id": 1, "title": "My portal"}); 3]);
    assert_eq!(played.values("/vote/voter/name"), [json!(null), json!("Rubenb"), json!("Rubenb")]);
    let counters = |pointer: &str| played.values(&format!("/post/author/{pointer}"));
    assert_eq!(counters("counter_comment_votes"), [1, 2, 1], "likes given");
    assert_eq!(counters("counter_posts"), [7, 7, 8], "the view's own column overrides what is counted");
    assert_eq!(counters("counter_votes"), [0, 1, 0]);
    assert_eq!(played.failures, [""; 0]);
}

#[test]
fn one_table_may_hold_votes_and_comments_as_columns_of_an_upserted_row() {
    let upsert = |columns: &str, values: &str, set: &str| {
        format!(
            "INSERT INTO ratings (post_id, user_id, {columns}) VALUES (99, 49, {values})
             ON CONFLICT (post_id, user_id) DO UPDATE SET {set};"
        )
    };
    let script = [
        upsert("liked", "true", "liked = true"),
        upsert("liked", "true", "liked = true"),
        upsert("note", "'Good'", "note = excluded.note"),
        upsert("liked", "false", "liked = excluded.liked"),
        upsert("note", "'Better'", "note = excluded.note"),
        upsert("note", "NULL", "note = excluded.note, liked = true"),
        "DELETE FROM ratings;".to_owned(),
    ];
    let played = played(
        "CREATE TABLE ratings (post_id integer, user_id integer, liked boolean, note text, PRIMARY KEY (post_id, user_id));",
        &[
            (
                "votes",
                "SELECT post_id || ':' || user_id AS id, post_id AS post, user_id AS voter, NULL::timestamptz AS created_at,
                        (SELECT u.role FROM users u WHERE u.id = ratings.user_id) AS of_a
                 FROM ratings WHERE liked",
            ),
            (
                "comments",
                "SELECT post_id || ':' || user_id AS id, post_id AS post, user_id AS author, note AS comment, NULL::timestamptz AS created_at
                 FROM ratings WHERE note IS NOT NULL",
            ),
        ],
        &script.concat(),
    );
    let expected = [
        "vote.created 99:49",
        "comment.created 99:49",
        "vote.deleted 99:49",
        "comment.updated 99:49",
        "comment.deleted 99:49",
        "vote.created 99:49",
        "vote.deleted 99:49",
    ];
    assert_eq!(played.names(), expected);
    assert_eq!(played.events[0].data("/vote/of_a"), "user");
    assert_eq!(played.failures, [""; 0]);
}

#[test]
fn ids_may_be_computed_texts_and_types_of_the_application() {
    let portal = Portal::new(
        &format!(
            "{SCHEMA}
             CREATE TYPE kind AS ENUM ('public portal', 'private');
             ALTER TABLE posts DROP CONSTRAINT posts_portal_id_fkey, ADD COLUMN parent integer, ADD COLUMN kind kind DEFAULT 'private', ADD COLUMN email text;
             ALTER TABLE votes ADD COLUMN email text, DROP CONSTRAINT votes_post_id_fkey;
             DROP TABLE portals;
             CREATE TABLE portals (kind kind PRIMARY KEY, title text);
             INSERT INTO portals VALUES ('private', 'Inside');
             UPDATE posts SET email = 'Ruben@ABC.nl';"
        ),
        &views(&[
            (
                "posts",
                "SELECT 'P-' || p.id AS id, p.title, p.description, p.status, lower(p.email) AS author, p.kind AS portal, p.created_at,
                        above.title AS parent
                 FROM posts p LEFT JOIN posts above ON above.id = p.parent",
            ),
            ("votes", "SELECT id, 'P-' || post_id AS post, lower(email) AS voter, created_at FROM votes"),
            ("users", "SELECT lower(email) AS id, name, email, role FROM users"),
            ("portals", "SELECT kind AS id, title FROM portals"),
        ]),
    );
    let receiver = Receiver::start();
    let endpoint = portal.endpoint_with(&receiver, "portal", "'private'");
    let _daemon = portal.run();
    portal.sql(
        "INSERT INTO posts (id, title, email, portal_id, parent) VALUES (100, 'Child', 'MARA@example.com', 4, 99);
         INSERT INTO votes (id, post_id, email) VALUES (1, 100, 'ruben@abc.NL');
         BEGIN; UPDATE posts SET title = 'Parent' WHERE id = 99; UPDATE posts SET status = 'planned' WHERE id = 100; COMMIT;
         UPDATE users SET name = 'R.' WHERE id = 48;
         DELETE FROM votes;
         INSERT INTO votes (id, post_id, email) VALUES (2, 7, 'nobody@example.com');",
    );
    let events = portal.events(&receiver, endpoint);
    assert_eq!(names(&events), ["post.created P-100", "vote.created 1", "post.status_changed P-100", "vote.deleted 1"]);
    assert_eq!(events[0].data("/post/parent"), "This is a great idea");
    assert_eq!(events[0].data("/post/author/name"), "Mara");
    assert_eq!(events[0].data("/portal"), json!({"id": "private", "title": "Inside"}));
    assert_eq!(events[1].data("/vote/voter/name"), "Rubenb");
    assert_eq!(events[2].data("/post/parent"), "Parent");
    assert_eq!(events[3].data("/vote/voter/name"), "R.");
    let indexed = portal.sql(
        "SELECT string_agg(replace(c.relname, 'public.', ''), ' ' ORDER BY c.relname)
         FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid
         WHERE pg_get_indexdef(i.indexrelid) LIKE '%id_of_%' AND i.indisvalid",
    );
    assert_eq!(indexed, "posts users", "computed ids are found by an index");
    // The application's type is not pinned.
    portal.sql("BEGIN; ALTER TABLE portals ALTER kind TYPE text; ALTER TABLE posts DROP COLUMN kind; DROP TYPE kind; ROLLBACK;");
}

#[test]
fn now_in_a_mapping_is_the_time_of_the_commit() {
    let portal = Portal::new(
        SCHEMA,
        &views(&[(
            "posts",
            "SELECT id, title, description, status, user_id AS author, portal_id AS portal, created_at,
                    now() AS seen, CURRENT_DATE AS day, LOCALTIMESTAMP(0) AS local, age(created_at) AS age
             FROM posts WHERE created_at <= now() AND (deleted_at IS NULL OR deleted_at > transaction_timestamp())",
        )]),
    );
    let receiver = Receiver::start();
    let endpoint = portal.endpoint_with(&receiver, "events", "'{post.*,vote.*,comment.*}'");
    portal.sql(
        "UPDATE posts SET deleted_at = clock_timestamp() + interval '1 hour' WHERE id = 99;
         INSERT INTO posts (id, title, user_id, portal_id, created_at) VALUES (100, 'Past', 48, 4, clock_timestamp());
         INSERT INTO posts (id, title, user_id, portal_id, created_at) VALUES (101, 'Future', 48, 4, clock_timestamp() + interval '1 hour');
         UPDATE posts SET status = 'planned' WHERE id = 100;
         INSERT INTO votes (id, post_id, user_id) VALUES (1, 100, 49);",
    );
    // All of it is evaluated later, and at once.
    let _daemon = portal.run();
    let events = portal.events(&receiver, endpoint);
    assert_eq!(names(&events), ["post.created 100", "post.status_changed 100", "vote.created 1"]);
    let seen: Vec<String> =
        events.iter().map(|event| event.data("/post/seen").as_str().unwrap_or_default().to_owned()).collect();
    assert!(seen[0] < seen[1] && seen[1] < seen[2], "each at its own time: {seen:?}");
    for (event, seen) in events.iter().zip(&seen) {
        let time = event.json()["creation_time"].as_str().unwrap_or_default().trim_end_matches('Z').to_owned();
        assert!(seen.starts_with(&time), "{seen} {time}");
        assert_eq!(event.data("/post/day"), time[..10]);
    }
    assert!(!portal.sql("SELECT seen FROM portalhook.posts WHERE id = 100").is_empty(), "a view shows the time of now");
}

/// A WHERE by which rows are joined is no liveness; what it says of the base row alone is.
#[test]
fn a_post_that_is_not_live_is_embedded_also_where_where_joins() {
    let played = played(
        "CREATE TABLE states (name text PRIMARY KEY, label text); INSERT INTO states VALUES ('open', 'Open'), ('planned', 'Planned');",
        &[(
            "posts",
            "SELECT p.id, p.title, p.description, s.label AS status, p.user_id AS author, p.portal_id AS portal, p.created_at
             FROM posts p, states s WHERE s.name = p.status AND p.deleted_at IS NULL",
        )],
        "UPDATE posts SET deleted_at = '2024-02-02' WHERE id = 99;
         INSERT INTO votes (id, post_id, user_id) VALUES (1, 99, 49);
         UPDATE posts SET status = 'unknown' WHERE id = 98;
         INSERT INTO votes (id, post_id, user_id) VALUES (2, 98, 49);",
    );
    assert_eq!(played.names(), ["post.deleted 99", "vote.created 1", "post.deleted 98", "vote.created 2"]);
    assert_eq!(played.values("/post/title")[1], "This is a great idea");
    assert_eq!(played.values("/portal/id")[1], 4);
    assert_eq!(value(&played.events[3], "/post"), json!(null), "there is no such row");
    assert_eq!(played.failures, [""; 0]);
}

/// One table for everything, as key-value stores on PostgreSQL have it: what a row is, its key says.
fn of_many_kinds(id: impl Fn(&str, &str) -> String) -> Played {
    let schema = r#"
        ALTER TABLE votes DROP CONSTRAINT votes_user_id_fkey, DROP CONSTRAINT votes_post_id_fkey;
        CREATE TABLE things (key text PRIMARY KEY, data jsonb NOT NULL);
        INSERT INTO things VALUES ('user:1', '{"user": 1, "name": "Ann"}'), ('user:2', '{"user": 2, "name": "Bob"}'), ('portal:1', '{"portal": 1, "name": "Main"}'),
            ('topic:1', '{"topic": 1, "user": 1, "portal": 1, "title": "First"}'), ('topic:2', '{"topic": 2, "user": 2, "portal": 1, "title": "Second"}');"#;
    let view = |kind: &str, columns: &str| {
        format!(
            "SELECT {}, {columns} FROM things t WHERE t.key ~ '^{kind}:' AND t.data ->> 'gone' IS NULL",
            id(kind, kind)
        )
    };
    let posts = view(
        "topic",
        "t.data ->> 'title' AS title, NULL AS description, 'open' AS status, (t.data ->> 'user')::int AS author, (t.data ->> 'portal')::int AS portal, NULL::timestamptz AS created_at",
    );
    let comments = view(
        "reply",
        "(t.data ->> 'topic')::int AS post, (t.data ->> 'user')::int AS author, t.data ->> 'text' AS comment, NULL::timestamptz AS created_at",
    );
    let users = view("user", "t.data ->> 'name' AS name, NULL AS email, 'user' AS role");
    let portals = view("portal", "t.data ->> 'name' AS title");
    played(
        schema,
        &[("posts", &posts), ("comments", &comments), ("users", &users), ("portals", &portals)],
        r#"INSERT INTO things VALUES ('topic:3', '{"topic": 3, "user": 1, "portal": 1, "title": "Third"}');
           INSERT INTO things VALUES ('reply:7', '{"reply": 7, "topic": 1, "user": 2, "portal": 1, "text": "Yes"}');
           UPDATE things SET data = data || '{"name": "Bobby"}' WHERE key = 'user:2';
           BEGIN;
           INSERT INTO things VALUES ('reply:8', '{"reply": 8, "topic": 2, "user": 2, "portal": 1, "text": "No"}');
           UPDATE things SET data = data || '{"title": "Second?"}' WHERE key = 'topic:2';
           COMMIT;
           INSERT INTO votes (id, post_id, user_id) VALUES (1, 2, 1);
           UPDATE things SET data = data || '{"topic": 3}' WHERE key = 'reply:8';
           UPDATE things SET data = data || '{"gone": 1}' WHERE key = 'reply:7';
           DELETE FROM things WHERE key = 'topic:3';"#,
    )
}

/// What everybody sees of it, however the ids are written.
#[track_caller]
fn shows_each_as_what_it_is(played: &Played) {
    assert_eq!(
        played.names(),
        [
            "post.created 3",
            "comment.created 7",
            "comment.created 8",
            "post.updated 2",
            "vote.created 1",
            "comment.updated 8",
            "comment.deleted 7",
            "post.deleted 3"
        ]
    );
    let titles = ["Third", "First", "Second?", "Second?", "Second?", "Third", "First", "Third"];
    let shown =
        played.values("/post/title").iter().map(|title| title.as_str().unwrap_or("-").to_owned()).collect::<Vec<_>>();
    assert_eq!(shown, titles);
    let names = ["Ann", "Ann", "Bobby", "Bobby", "Bobby", "Ann", "Ann", "Ann"];
    let shown = played
        .values("/post/author/name")
        .iter()
        .map(|name| name.as_str().unwrap_or("-").to_owned())
        .collect::<Vec<_>>();
    assert_eq!(shown, names);
    assert_eq!(played.events[1].data("/comment/author/name"), "Bob");
    assert_eq!(played.events[4].data("/vote/voter/name"), "Ann");
    assert_eq!(played.events[6].data("/portal/title"), "Main");
    assert_eq!(played.failures, [""; 0]);
}

#[test]
fn rows_of_another_kind_in_the_same_table_are_no_failures_where_only_the_right_kind_has_an_id() {
    let played =
        of_many_kinds(|kind, field| format!("CASE WHEN t.key ~ '^{kind}:' THEN (t.data ->> '{field}')::int END AS id"));
    shows_each_as_what_it_is(&played);
}

/// A reply names its topic, its author and its portal in fields of the names that those have their own ids in.
#[test]
fn rows_of_another_kind_that_have_the_id_of_a_live_row_are_never_shown_for_it() {
    let played = of_many_kinds(|_, field| format!("(t.data ->> '{field}')::int AS id"));
    shows_each_as_what_it_is(&played);
}
