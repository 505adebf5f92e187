//! Every shape that a mapping may have, played on a real server.

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
        let endpoint = portal.endpoint_with(&receiver, "events", "'{*}'");
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
