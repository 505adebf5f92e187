//! Tables and columns under other names, several at once, and what is said of them.

use super::*;

/// What the mapping names is looked up while a migration holds the table: before it has another name, and after it has.
#[test]
fn a_table_that_is_swapped_just_when_the_mapping_is_read_is_not_forgotten() {
    let portal = Portal::sample();
    let role = portal.database.role();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            portal.sql(&format!(
                "BEGIN; CREATE TABLE votes_new (LIKE votes INCLUDING ALL); ALTER TABLE votes RENAME TO votes_old; ALTER TABLE votes_new RENAME TO votes;
                 {} COMMIT;",
                once("SELECT FROM pg_locks WHERE relation = 'votes_old'::regclass AND NOT granted")
            ))
        });
        portal.sql(&format!(
            "{} SET ROLE {role}; SELECT portalhook.forget_tables() \\g /dev/null",
            once(
                "SELECT FROM pg_locks WHERE relation = 'votes'::regclass AND mode = 'AccessExclusiveLock' AND granted"
            )
        ));
    });
    assert_eq!(portal.sql("SELECT count(*) FROM portalhook.mapped_tables WHERE table_name = 'votes'"), "1");
    assert_eq!(portal.sql("SELECT count(*) FROM portalhook.mapped_tables"), "5");
}

/// The mirror keeps the name that the table had when it was copied; what the mapping says now is what counts.
#[test]
fn a_table_that_was_renamed_and_mapped_anew_is_followed_when_it_is_swapped() {
    let portal = Portal::sample_with("INSERT INTO votes (id, post_id, user_id) VALUES (1, 99, 49);");
    let receiver = Receiver::start();
    let endpoint = portal.endpoint(&receiver);
    let daemon = portal.run();
    portal.sql(
        "ALTER TABLE votes RENAME TO likes;
         INSERT INTO likes (id, post_id, user_id) VALUES (2, 99, 49);",
    );
    daemon.wait_for_line("is called");
    portal.sql("UPDATE portalhook.mapping SET query = replace(query, 'votes', 'likes') WHERE entity = 'votes'");
    portal.sql("INSERT INTO likes (id, post_id, user_id) VALUES (3, 99, 49)");
    assert_eq!(portal.event_names(&receiver, endpoint), ["vote.created 2", "vote.created 3"]);
    daemon.wait_for_line("portalhook.votes shows");
    assert!(!check(&portal).contains("is called"), "{}", check(&portal));
    portal.sql(&format!(
        "{PATIENCE} BEGIN; CREATE TABLE likes_new (LIKE likes INCLUDING ALL); INSERT INTO likes_new SELECT * FROM likes;
         ALTER TABLE likes RENAME TO likes_old; ALTER TABLE likes_new RENAME TO likes; COMMIT;
         INSERT INTO likes (id, post_id, user_id) VALUES (4, 99, 49); DELETE FROM likes WHERE id = 1;"
    ));
    daemon.wait_for_line("public.likes is another table than before");
    portal.wait_for_outcome(
        "SELECT count(*) > 0 AND bool_and(state = 'done') FROM portalhook.switches WHERE kind = 'copy'",
    );
    portal.sql("INSERT INTO likes (id, post_id, user_id) VALUES (5, 99, 49)");
    let mut told = portal.event_names(&receiver, endpoint).split_off(2);
    told[..2].sort_unstable();
    assert_eq!(told, ["vote.created 4", "vote.deleted 1", "vote.created 5"]);
    assert_eq!(mirror::differences(&portal), "");
}

/// A key's column that has another name is the same key: nothing has to be mended or copied.
#[test]
fn a_column_of_the_key_that_is_renamed_with_its_table_is_the_same_key() {
    let portal = Portal::new(
        &format!(
            "{SCHEMA} CREATE TABLE supports (user_id int, idea_id int REFERENCES posts, created_on timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (user_id, idea_id));
             INSERT INTO supports VALUES (48, 99), (49, 99);"
        ),
        &VIEWS.replace(
            "SELECT id, post_id AS post, user_id AS voter, created_at\nFROM public.votes",
            "SELECT s.idea_id || '-' || s.user_id AS id, s.idea_id AS post, s.user_id AS voter, created_on AS created_at\nFROM supports s",
        ),
    );
    let receiver = Receiver::start();
    let endpoint = portal.endpoint_with(&receiver, "events", "'{post.*,vote.*}'");
    let daemon = portal.run();
    portal.sql(&format!(
        "{PATIENCE} BEGIN; ALTER TABLE supports RENAME idea_id TO post_id; ALTER TABLE supports RENAME TO likes;
         ALTER TABLE likes RENAME created_on TO created_at; ALTER TABLE posts RENAME title TO headline; COMMIT;
         DELETE FROM likes WHERE user_id = 48; UPDATE likes SET user_id = 48; UPDATE posts SET headline = 'After' WHERE id = 99;"
    ));
    daemon.wait_for_line("Change the mapping: ");
    let said = daemon.said();
    let line = said.iter().find_map(|line| line.split_once("Change the mapping: "));
    // As the line says it, character for character.
    let statements = line.expect("what to type").1;
    for command in ["check", "status"] {
        let said = String::from_utf8_lossy(&portal.command(&[command]).stdout).into_owned();
        assert!(said.contains(statements), "{command}: {said}");
    }
    portal.sql(statements);
    assert_eq!(
        portal.event_names(&receiver, endpoint),
        ["vote.deleted 99-48", "vote.deleted 99-49", "vote.created 99-48", "post.updated 99"]
    );
    assert_eq!(portal.sql("SELECT count(*) FROM portalhook.switches WHERE kind = 'copy'"), "0");
    assert_eq!(portal.sql("SELECT relreplident FROM pg_class WHERE oid = 'likes'::regclass"), "d");
    assert_eq!(mirror::differences(&portal), "");
    assert!(check(&portal).contains("failures: 0"), "{}", check(&portal));
}

/// Names that need quotes, a table that moves, a column that is given and asked for under its old name, and one that is gone.
#[test]
fn what_is_renamed_in_several_places_is_mended_by_the_statements_that_the_pause_says() {
    let portal = Portal::new(
        &format!(r#"{SCHEMA} ALTER TABLE posts RENAME title TO "postTitle"; ALTER TABLE posts RENAME TO "Post"; CREATE SCHEMA app;"#),
        &VIEWS.replace(
            "SELECT id, title, description, status, user_id AS author, portal_id AS portal, created_at\nFROM public.posts\nWHERE deleted_at IS NULL",
            r#"SELECT p.id, p."postTitle" AS title, description, status, user_id AS author, portal_id AS portal, created_at
               FROM public."Post" p WHERE deleted_at IS NULL AND coalesce(description, status) <> status"#,
        ),
    );
    let receiver = Receiver::start();
    let endpoint = portal.endpoint_with(&receiver, "events", "'{post.*,vote.*,comment.*}'");
    let daemon = portal.run();
    portal.sql(
        r#"ALTER TABLE "Post" RENAME "postTitle" TO "headLine"; ALTER TABLE "Post" RENAME description TO text; ALTER TABLE "Post" SET SCHEMA app;
           ALTER TABLE app."Post" RENAME TO "Topic"; ALTER TABLE comments DROP body;
           UPDATE app."Topic" SET "headLine" = 'After' WHERE id = 99; INSERT INTO comments (id, post_id, user_id) VALUES (1, 99, 49);"#,
    );
    let statements = |text: &str| {
        daemon.wait_for_line(text);
        let said = daemon.said();
        let line =
            said.iter().rfind(|line| line.contains(text)).and_then(|line| line.split_once("Change the mapping: "));
        line.expect("what to type").1.to_owned()
    };
    let said = statements("postTitle");
    // Of what is gone nobody knows the meaning, but which SELECT it is about.
    let (renamed, gone) = said.split_once("; ").expect("two statements");
    assert_eq!(gone, "UPDATE portalhook.mapping SET query = 'SELECT …' WHERE entity = 'comments';");
    portal.sql(renamed);
    assert_eq!(statements("of no help"), gone);
    daemon.wait_for_line("column \"body\" does not exist");
    portal.sql(
        "UPDATE portalhook.mapping SET query = replace(query, 'body AS comment', $$'gone' AS comment$$) WHERE entity = 'comments'",
    );
    assert_eq!(portal.event_names(&receiver, endpoint), ["post.updated 99", "comment.created 1"]);
    assert_eq!(mirror::differences(&portal), "");
}
