//! Virtual generated columns (PostgreSQL 18): no stream has them, and with identity FULL the server refuses updates.

use crate::support::mirror;
use crate::support::portal::{Portal, name_and_id};
use crate::support::receiver::Receiver;

const SCHEMA: &str = include_str!("../sql/demo/portal.sql");
const VIEWS: &str = include_str!("../sql/demo/views.sql");
const LOUD: &str = "ADD COLUMN loud text GENERATED ALWAYS AS (upper(title) || coalesce(description, '-')) VIRTUAL";

/// Where the server has no virtual columns, that is said.
fn has_virtual_columns(portal: &Portal) -> bool {
    let has = portal.sql("SELECT current_setting('server_version_num')::int >= 180000") == "t";
    if !has {
        eprintln!("skipped: virtual generated columns came with PostgreSQL 18 (PORTALHOOK_PG_BIN names another)");
    }
    has
}

#[test]
fn a_mapped_virtual_column_is_as_of_each_event_and_after_a_gap() {
    let portal = Portal::without_setup(crate::support::cluster::Database::create(), SCHEMA);
    if !has_virtual_columns(&portal) {
        return;
    }
    portal.sql(&format!("ALTER TABLE posts {LOUD}"));
    portal.setup(&VIEWS.replace("created_at\nFROM public.posts", "created_at, loud\nFROM public.posts"));
    let receiver = Receiver::start();
    let endpoint = portal.endpoint_with(&receiver, "events", "'{*,post.updated}'");
    let daemon = portal.run();
    portal.sql(
        "INSERT INTO posts (id, title, user_id, portal_id) VALUES (100, 'New', 49, 4);
         INSERT INTO votes (id, post_id, user_id) VALUES (1, 100, 49);
         UPDATE posts SET title = 'Newer' WHERE id = 100;
         UPDATE posts SET views = 1 WHERE id = 100;
         DELETE FROM votes WHERE id = 1;",
    );
    portal.events(&receiver, endpoint);
    daemon.terminate();
    portal.sql("UPDATE posts SET description = '!' WHERE id = 100");
    portal.sql("SELECT pg_drop_replication_slot(slot) FROM portalhook.checkpoint \\g /dev/null");
    let _daemon = portal.run();
    let events = portal.events(&receiver, endpoint);
    let told: Vec<String> = events.iter().map(name_and_id).collect();
    assert_eq!(told, ["post.created 100", "vote.created 1", "post.updated 100", "vote.deleted 1", "post.updated 100"]);
    let loud: Vec<String> = events.iter().map(|event| event.data("/post/loud").to_string()).collect();
    assert_eq!(loud, ["\"NEW-\"", "\"NEW-\"", "\"NEWER-\"", "\"NEWER-\"", "\"NEWER!\""]);
    assert_eq!(events[2].data("/changes/loud"), serde_json::json!({"from": "NEW-", "to": "NEWER-"}));
    assert_eq!(mirror::differences(&portal), "");
}

#[test]
fn a_table_without_a_key_and_with_a_virtual_column_never_fails_the_application() {
    let schema = format!(
        "{SCHEMA} CREATE TABLE tags (post_id integer, name text); INSERT INTO tags VALUES (98, 'ui'), (98, 'ui');"
    );
    let tags = "(SELECT string_agg(t.name, ' ' ORDER BY t.name) FROM public.tags t WHERE t.post_id = posts.id) AS tags";
    let views = VIEWS.replace("created_at\nFROM public.posts", &format!("created_at, {tags}\nFROM public.posts"));
    let virtual_column = "ALTER TABLE tags ADD COLUMN loud text GENERATED ALWAYS AS (upper(name)) VIRTUAL";
    let portal = Portal::without_setup(crate::support::cluster::Database::create(), &schema);
    if !has_virtual_columns(&portal) {
        return;
    }
    // It is there before: setup says what is missing, and changes nothing.
    portal.sql(virtual_column);
    let refused = portal.try_setup(&views);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(64), "{said}");
    assert!(said.contains("the generated column loud") && said.contains("ADD PRIMARY KEY"), "{said}");
    portal.sql("UPDATE tags SET name = 'ux'; UPDATE tags SET name = 'ui'; ALTER TABLE tags DROP COLUMN loud");

    // It comes later: the table leaves the publication at once, and comes back when it can.
    portal.setup(&views);
    assert!(portal.setup_with(&["--event-trigger"]).status.success());
    let receiver = Receiver::start();
    let endpoint = portal.endpoint(&receiver);
    let daemon = portal.run();
    portal.sql(&format!("{virtual_column}; UPDATE tags SET name = 'new' WHERE ctid = (SELECT min(ctid) FROM tags);"));
    daemon.wait_for_line("public.tags");
    portal.sql("ALTER TABLE tags DROP COLUMN loud");
    daemon.wait_for_line(
        "was out of the publication for a while: changes of that time were not seen: in force from here on",
    );
    portal.sql("UPDATE tags SET name = 'newer' WHERE name = 'ui'; UPDATE posts SET status = 'planned' WHERE id = 98");
    let events = portal.events(&receiver, endpoint);
    assert_eq!(events.iter().map(name_and_id).collect::<Vec<_>>(), ["post.status_changed 98"]);
    assert_eq!(events[0].data("/post/tags"), "new newer");
    assert_eq!(mirror::differences(&portal), "");
}
