//! Values of 50 MB wherever they may stand: in large transactions, in tables without a key, where keys change, in copies and
//! gaps. The daemon holds none of them.

use crate::large_values::{BUDGET, play, text};
use crate::support::mirror;
use crate::support::portal::Portal;
use crate::support::process::Process;
use crate::support::receiver::Receiver;
use crate::support::session::Holder;

/// Without compression, here and in the mirror: it is the server's time.
const PLAIN: &str = "
    ALTER TABLE posts ALTER description SET STORAGE EXTERNAL;
    ALTER TABLE comments ALTER body SET STORAGE EXTERNAL;
    ALTER TABLE users ALTER name SET STORAGE EXTERNAL;";

/// More than is kept in memory of one transaction.
const VOTES: &str =
    "INSERT INTO votes (id, post_id, user_id) SELECT n, 98, 48 FROM generate_series(1001, 7000) AS n;\n";

/// The sample portal, maybe with users that have no key.
fn portal(keyless: bool, rows: &str) -> Portal {
    let sample = include_str!("../sql/demo/portal.sql");
    let schema = if keyless {
        let users = sample.replace("REFERENCES users", "");
        users.replace(
            "CREATE TABLE users (\n    id            integer PRIMARY KEY,",
            "CREATE TABLE users (\n    id integer,",
        )
    } else {
        sample.to_owned()
    };
    assert_eq!(keyless, !schema.contains("REFERENCES users"), "the sample's tables changed");
    let portal = Portal::new(&format!("{schema}{PLAIN}{rows}"), include_str!("../sql/demo/views.sql"));
    let names = [("posts", "description"), ("comments", "body"), ("users", "name")];
    for (table, column) in names {
        portal.sql(&format!("ALTER TABLE portalhook_mirror.\"public.{table}\" ALTER {column} SET STORAGE EXTERNAL"));
    }
    portal
}

fn post(id: u32, seed: &str) -> String {
    let description = text(50, seed);
    format!(
        "INSERT INTO posts (id, title, user_id, portal_id, description) VALUES ({id}, 'Large', 48, 4, {description});\n"
    )
}

fn describe(id: u32, seed: &str) -> String {
    format!("UPDATE posts SET description = {} WHERE id = {id};\n", text(50, seed))
}

fn user(id: u32, seed: &str) -> String {
    format!("INSERT INTO users (id, name) VALUES ({id}, {});\n", text(50, seed))
}

/// The daemon was never larger than it may be, and had no fault that beginning anew would hide.
#[track_caller]
fn fits(daemon: &Process, what: &str) {
    let fault =
        daemon.said().into_iter().find(|line| line.contains("ERROR") && !line.contains("what was committed after"));
    assert_eq!(fault, None, "after {what:.60}");
    let peak = daemon.peak_memory_kib();
    println!("{peak} KiB after {what:.60}");
    assert!(peak <= BUDGET, "{peak} KiB after {what:.60}");
}

#[track_caller]
fn mirror_is_exact(portal: &Portal) {
    assert_eq!(mirror::differences(portal).chars().take(1000).collect::<String>(), "");
}

/// Events but those of votes, each with `-` where it has no body.
fn told(portal: &Portal) -> String {
    portal.sql(
        "SELECT string_agg(concat(event, ' ', entity, CASE WHEN body IS NULL THEN ' -' END), ', ' ORDER BY position)
         FROM portalhook.events WHERE event NOT LIKE 'vote.%' AND event NOT LIKE 'webhook.%'",
    )
}

#[test]
fn a_large_transaction_may_have_large_values() {
    let rows = [post(95, "e"), post(96, "f"), post(97, "g")].concat();
    let portal = portal(false, &rows);
    let receiver = Receiver::start();
    let endpoint = portal.endpoint_with(&receiver, "events", "'{post.*,comment.*}'");
    let daemon = portal.run();
    let changes = [
        post(100, "a"),
        describe(99, "b"),
        "UPDATE posts SET status = 'planned' WHERE id = 97; DELETE FROM posts WHERE id = 96;\n".to_owned(),
        "UPDATE posts SET id = 195 WHERE id = 95;\n".to_owned(),
        VOTES.to_owned(),
        format!("INSERT INTO comments (id, post_id, user_id, body) VALUES (1, 98, 49, {});\n", text(50, "c")),
        format!("UPDATE users SET name = {} WHERE id = 49;\n", text(50, "d")),
        // Once more, and one that is there already.
        describe(100, "h"),
        describe(97, "a"),
    ];
    play(&portal, &receiver, endpoint, &format!("BEGIN;\n{}COMMIT", changes.concat()));
    fits(&daemon, "a large transaction");
    mirror_is_exact(&portal);
    assert_eq!(
        told(&portal),
        "post.updated post:99 -, post.deleted post:96 -, post.deleted post:95 -, post.created post:195 -, \
         comment.created comment:1 -, post.created post:100 -, post.status_changed post:97 -, post.updated post:97 -"
    );
}

#[test]
fn a_table_without_a_key_may_have_large_values() {
    let portal = portal(true, "");
    let receiver = Receiver::start();
    let endpoint = portal.endpoint_with(&receiver, "events", "'{post.*,comment.*}'");
    let daemon = portal.run();
    let comment =
        |id: u32| format!("INSERT INTO comments (id, post_id, user_id, body) VALUES ({id}, 98, 50, 'Yes');\n");
    let another = format!("UPDATE users SET name = {} WHERE id = 50;\n", text(50, "b"));
    for sql in [
        [user(50, "a"), comment(1)].concat(),
        // Its old row and its new one are in one message.
        another.clone(),
        "UPDATE users SET role = 'admin' WHERE id = 50".to_owned(),
        comment(2),
        "DELETE FROM users WHERE id = 50".to_owned(),
        format!(
            "{}{}{}{}",
            comment(3),
            user(50, "c"),
            user(50, "c"),
            "DELETE FROM users WHERE ctid = (SELECT max(ctid) FROM users)"
        ),
        format!(
            "BEGIN;\n{VOTES}{}{another}{}{}UPDATE users SET role = 'admin' WHERE id = 50; COMMIT",
            user(50, "d"),
            user(51, "e"),
            comment(4)
        ),
        "BEGIN; DELETE FROM votes; DELETE FROM users WHERE id = 50; COMMIT".to_owned(),
    ] {
        play(&portal, &receiver, endpoint, &sql);
        fits(&daemon, &sql);
    }
    mirror_is_exact(&portal);
    assert_eq!(
        told(&portal),
        "comment.created comment:1 -, comment.created comment:2 -, comment.created comment:3, comment.created comment:4 -"
    );
}

#[test]
fn a_table_without_a_key_and_with_large_values_may_be_emptied() {
    let portal = portal(true, &user(50, "a"));
    let receiver = Receiver::start();
    let endpoint = portal.endpoint_with(&receiver, "events", "'{post.*}'");
    for sql in [
        format!("BEGIN; {} TRUNCATE users; {} COMMIT", user(51, "b"), user(52, "c")),
        format!("BEGIN;\n{VOTES}TRUNCATE users; COMMIT"),
    ] {
        let daemon = portal.run();
        play(&portal, &receiver, endpoint, &sql);
        let peak = daemon.peak_memory_kib();
        // It may copy the table afresh, which is another matter.
        daemon.terminate();
        mirror_is_exact(&portal);
        assert!(peak <= BUDGET, "{peak} KiB after {sql:.60}");
    }
}

#[test]
fn a_row_with_a_large_value_may_get_another_key() {
    let portal = portal(false, &[post(100, "a"), post(101, "b")].concat());
    let receiver = Receiver::start();
    let endpoint = portal.endpoint_with(&receiver, "events", "'{post.*,comment.*}'");
    let daemon = portal.run();
    for sql in [
        "UPDATE posts SET id = 102 WHERE id = 100",
        "BEGIN; UPDATE posts SET id = 0 WHERE id = 101; UPDATE posts SET id = 101 WHERE id = 102; UPDATE posts SET id = 102 WHERE id = 0; COMMIT",
        "DELETE FROM posts WHERE id > 100",
    ] {
        play(&portal, &receiver, endpoint, sql);
        fits(&daemon, sql);
    }
    mirror_is_exact(&portal);
    assert_eq!(
        told(&portal),
        "post.deleted post:100 -, post.created post:102 -, post.updated post:101 -, post.updated post:102 -, post.deleted post:101 -, post.deleted post:102 -"
    );
}

#[test]
fn several_large_values_may_come_together() {
    let portal = portal(false, "");
    let receiver = Receiver::start();
    let endpoint = portal.endpoint_with(&receiver, "events", "'{post.*,comment.*}'");
    let daemon = portal.run();
    let both = format!("UPDATE posts SET title = {}, description = {} WHERE id = 99;\n", text(50, "a"), text(50, "b"));
    let equal =
        ["BEGIN;\n", &describe(98, "c"), &post(100, "c"), &describe(98, "c"), &user(50, "c"), "COMMIT"].concat();
    let silent = "UPDATE posts SET description = description || '' WHERE id = 98".to_owned();
    let comment = format!("INSERT INTO comments (id, post_id, user_id, body) VALUES (1, 98, 50, {})", text(50, "d"));
    let deletes = "BEGIN; DELETE FROM posts WHERE id = 98; DELETE FROM posts WHERE id = 99; DELETE FROM posts WHERE id = 100; COMMIT";
    for sql in [both, equal, silent, comment, deletes.to_owned()] {
        play(&portal, &receiver, endpoint, &sql);
        fits(&daemon, &sql);
    }
    // What is not in the publication, or of another program, is nobody's.
    play(
        &portal,
        &receiver,
        endpoint,
        "SELECT pg_logical_emit_message(true, 'another', repeat('x', 50000000)) \\g /dev/null",
    );
    fits(&daemon, "a message of another program");
    mirror_is_exact(&portal);
    assert_eq!(
        told(&portal),
        "post.updated post:99 -, post.created post:100 -, post.updated post:98 -, comment.created comment:1 -, \
         post.deleted post:98 -, comment.deleted comment:1 -, post.deleted post:99 -, post.deleted post:100 -"
    );
    assert_eq!(portal.sql("SELECT count(*) FROM pg_class WHERE relname = 'portalhook pieces'"), "0");
}

#[test]
fn what_a_copy_has_missed_may_have_large_values() {
    let portal = portal(false, &post(100, "a"));
    let receiver = Receiver::start();
    let endpoint = portal.endpoint_with(&receiver, "events", "'{post.*,comment.*}'");
    let daemon = portal.run();
    let copies = Holder::of(&portal, "LOCK portalhook.catalog IN EXCLUSIVE MODE");
    portal.sql("SELECT portalhook.request_copy(ARRAY['posts'::regclass::oid], 'the test wants it')");
    portal.wait_for_outcome("SELECT bool_or(state = 'copying') FROM portalhook.switches");
    for sql in [
        post(101, "b"),
        post(102, "c"),
        describe(100, "d"),
        "UPDATE posts SET id = 103 WHERE id = 102".to_owned(),
        "UPDATE posts SET status = 'planned' WHERE id = 100".to_owned(),
        format!("BEGIN;\n{VOTES}{}COMMIT", post(104, "e")),
    ] {
        play(&portal, &receiver, endpoint, &sql);
        fits(&daemon, &sql);
    }
    drop(copies);
    portal.wait_for_outcome("SELECT count(*) > 0 AND bool_and(state = 'done') FROM portalhook.switches");
    play(&portal, &receiver, endpoint, "UPDATE posts SET status = 'done' WHERE id = 101");
    fits(&daemon, "a copy");
    mirror_is_exact(&portal);
    assert_eq!(portal.sql("SELECT count(*) FROM portalhook_mirror.\"public.posts 2\""), "6", "the copy is in force");
}

#[test]
fn what_a_gap_has_missed_may_have_large_values() {
    for keyless in [false, true] {
        let portal =
            portal(keyless, &[post(95, "a"), post(96, "b"), post(97, "c"), user(50, "d"), user(51, "e")].concat());
        let receiver = Receiver::start();
        let endpoint = portal.endpoint_with(&receiver, "events", "'{post.*,comment.*}'");
        portal.run().terminate();
        portal.sql(
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = current_database() \\g /dev/null",
        );
        portal.sql(&[post(100, "f"), describe(99, "g"), describe(97, "h"), user(52, "i")].concat());
        portal.sql("UPDATE posts SET status = 'planned' WHERE id = 96; DELETE FROM posts WHERE id = 95");
        portal.sql("UPDATE users SET role = 'admin' WHERE id = 50; DELETE FROM users WHERE id = 51");
        let daemon = portal.run();
        play(
            &portal,
            &receiver,
            endpoint,
            "INSERT INTO comments (id, post_id, user_id, body) VALUES (1, 98, 52, 'Small')",
        );
        fits(&daemon, "a gap");
        mirror_is_exact(&portal);
        assert_eq!(
            told(&portal),
            "post.deleted post:95 -, post.status_changed post:96 -, post.updated post:97 -, post.updated post:99 -, \
             post.created post:100 -, comment.created comment:1 -"
        );
    }
}

#[test]
fn large_values_from_before_a_change_of_their_type_are_read_as_what_they_are_now() {
    let sample = include_str!("../sql/demo/portal.sql");
    let schema = format!("{sample}ALTER TABLE posts ADD COLUMN document json;");
    let views = include_str!("../sql/demo/views.sql").replace("status,", "status, document,");
    let portal = Portal::new(&schema, &views);
    let receiver = Receiver::start();
    let endpoint = portal.endpoint(&receiver);
    let daemon = portal.run();
    let document = format!("json_build_object('b', {}, 'a', 1)", text(2, "a"));
    play(
        &portal,
        &receiver,
        endpoint,
        &format!(
            "BEGIN; UPDATE posts SET document = {document} WHERE id = 99;
             ALTER TABLE posts ALTER document TYPE jsonb; UPDATE posts SET status = 'planned' WHERE id = 98; COMMIT"
        ),
    );
    fits(&daemon, "a change of a type");
    mirror_is_exact(&portal);
}

/// None of them is large enough to be left out, all together are some 80 MB; and so they are before, after, and around others.
#[test]
fn many_rows_are_never_in_memory_together() {
    const ROWS: &str = "
        INSERT INTO posts (id, title, user_id, portal_id, description)
        SELECT n, 'Large', 48, 4, repeat(md5(n::text), 200 * 32) FROM generate_series(1001, 1400) AS n;
        INSERT INTO comments (id, post_id, user_id, body) SELECT n, n, 48, 'Yes' FROM generate_series(1001, 1300) AS n;";
    let portal = portal(false, ROWS);
    let receiver = Receiver::start();
    let endpoint = portal.endpoint_with(&receiver, "events", "'{webhook.test}'");
    let daemon = portal.run();
    for sql in [
        "UPDATE posts SET status = 'planned' WHERE id > 1000",
        "UPDATE comments SET body = 'No' WHERE id > 1000",
        "UPDATE posts SET id = id + 1000 WHERE id > 1300",
    ] {
        play(&portal, &receiver, endpoint, sql);
        fits(&daemon, sql);
    }
    portal.wait_for_outcome("SELECT count(*) = 0 FROM portalhook.pending");
    drop(daemon);
    let votes = (1001..=1200).map(|id| format!("INSERT INTO votes (id, post_id, user_id) VALUES ({id}, {id}, 49);\n"));
    let titles = (1001..=1200).map(|id| format!("UPDATE posts SET title = 'Late' WHERE id = {id};\n"));
    portal.sql(&votes.chain(titles).collect::<String>());
    let daemon = portal.run();
    play(&portal, &receiver, endpoint, "SELECT");
    fits(&daemon, "many transactions");
    mirror_is_exact(&portal);
    let told = "SELECT string_agg(concat(event, ' ', n), ', ' ORDER BY event) FROM (
                    SELECT event, count(*) AS n FROM portalhook.events WHERE event NOT LIKE 'webhook.%' GROUP BY event) AS e";
    assert_eq!(
        portal.sql(told),
        "comment.updated 300, post.created 100, post.deleted 100, post.status_changed 400, post.updated 200, vote.created 200"
    );
}
