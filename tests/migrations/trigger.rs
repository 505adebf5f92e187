//! The event trigger of `setup --event-trigger`, which mends inside the application's own transaction.

use super::*;

/// Setup with `--event-trigger`.
fn with_event_trigger(portal: &Portal) {
    let config = portal.config().display().to_string();
    let admin = portal.database.owner_url();
    let output = process::output(&["--config", &config, "setup", "--admin-url", &admin, "--event-trigger"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(String::from_utf8_lossy(&output.stdout).contains("event trigger portalhook_mend: mends mapped tables"));
}

#[test]
fn with_the_event_trigger_no_update_fails_whatever_becomes_of_the_key() {
    let portal = Portal::sample_with(
        "INSERT INTO votes (id, post_id, user_id) VALUES (1, 99, 49);
         CREATE ROLE owner_of_the_portal; GRANT owner_of_the_portal TO CURRENT_USER;
         GRANT CREATE ON SCHEMA public TO owner_of_the_portal; ALTER TABLE votes OWNER TO owner_of_the_portal; GRANT SELECT ON posts, users TO owner_of_the_portal;",
    );
    assert!(check(&portal).contains("pass  no event trigger: after a migration that drops a primary key"));
    with_event_trigger(&portal);
    assert!(check(&portal).contains("pass  the event trigger portalhook_mend mends what migrations do at once"));
    let receiver = Receiver::start();
    let endpoint = portal.endpoint(&receiver);
    let _daemon = portal.run();
    // As the application's owner, who may nothing of ours.
    portal.sql(
        "SET ROLE owner_of_the_portal; SET client_min_messages = error;
         BEGIN; ALTER TABLE votes DROP CONSTRAINT votes_pkey; UPDATE votes SET user_id = 48 WHERE id = 1; COMMIT;
         UPDATE votes SET user_id = 49 WHERE id = 1;
         ALTER TABLE votes ADD PRIMARY KEY (id);
         UPDATE votes SET user_id = 48 WHERE id = 1;
         BEGIN; ALTER TABLE votes DROP CONSTRAINT votes_pkey; ALTER TABLE votes ADD PRIMARY KEY (id); COMMIT;
         DELETE FROM votes;",
    );
    let [there, back] = [["vote.deleted 1", "vote.created 1"]; 2].map(|pair| pair.to_vec());
    assert_eq!(portal.event_names(&receiver, endpoint), [there, back.clone(), back, vec!["vote.deleted 1"]].concat());
    assert_eq!(portal.sql("SELECT relreplident FROM pg_class WHERE oid = 'votes'::regclass"), "d");
    portal.sql("RESET ROLE; DROP EVENT TRIGGER portalhook_mend; REASSIGN OWNED BY owner_of_the_portal TO CURRENT_USER; DROP OWNED BY owner_of_the_portal; DROP ROLE owner_of_the_portal;");
}

#[test]
fn with_the_event_trigger_no_update_fails_when_the_index_that_was_the_identity_goes() {
    let portal = Portal::sample_with(
        "INSERT INTO votes (id, post_id, user_id) VALUES (1, 99, 49), (2, 99, 49);
         CREATE UNIQUE INDEX votes_by_id ON votes (id); ALTER TABLE votes REPLICA IDENTITY USING INDEX votes_by_id;",
    );
    with_event_trigger(&portal);
    let receiver = Receiver::start();
    let endpoint = portal.endpoint(&receiver);
    let _daemon = portal.run();
    portal.sql("BEGIN; DROP INDEX votes_by_id; UPDATE votes SET user_id = 48 WHERE id = 1; COMMIT; DELETE FROM votes WHERE id = 2;");
    assert_eq!(portal.event_names(&receiver, endpoint), ["vote.deleted 1", "vote.created 1", "vote.deleted 2"]);
}

/// A migration has many statements, and few of them are about mapped tables.
#[test]
fn the_event_trigger_looks_only_at_tables_that_a_statement_was_about() {
    let portal = Portal::sample_with(
        "CREATE TABLE asked (of text);
         ALTER TABLE votes RENAME TO votes_1; CREATE TABLE votes (LIKE votes_1 INCLUDING ALL) PARTITION BY RANGE (id);
         ALTER TABLE votes ATTACH PARTITION votes_1 FOR VALUES FROM (0) TO (1000);",
    );
    with_event_trigger(&portal);
    portal.sql(
        "CREATE OR REPLACE FUNCTION portalhook.mend_identity(of regclass) RETURNS text LANGUAGE plpgsql
             AS $$ BEGIN INSERT INTO public.asked VALUES (of::text); RETURN ''; END $$;",
    );
    for (statement, asked) in [
        ("CREATE TABLE other (id int PRIMARY KEY, post_id int REFERENCES posts)", ""),
        (
            "CREATE TABLE another (id int PRIMARY KEY); ALTER TABLE another ADD COLUMN a int; CREATE INDEX gone ON posts (title); DROP INDEX gone;",
            "",
        ),
        ("CREATE TEMP TABLE votes_2 (id int)", ""),
        ("ALTER TABLE users ADD COLUMN a int", "public.users"),
        ("CREATE TABLE votes_2 PARTITION OF votes FOR VALUES FROM (1000) TO (2000)", "votes"),
        ("ALTER TABLE votes_1 ADD CHECK (id > 0)", "votes"),
    ] {
        portal.sql(&format!("TRUNCATE asked; SET client_min_messages = error; {statement};"));
        let told = portal.sql("SELECT string_agg(DISTINCT replace(of, 'public.', ''), ' ' ORDER BY replace(of, 'public.', '')) FROM asked");
        assert_eq!(told, asked.replace("public.", ""), "{statement}");
    }
}

#[test]
fn an_event_trigger_that_cannot_work_fails_no_migration() {
    let portal = Portal::sample();
    with_event_trigger(&portal);
    for harm in [
        "DROP PUBLICATION portalhook; ALTER TABLE votes DROP CONSTRAINT votes_pkey",
        "DROP TABLE portalhook.mapped_tables CASCADE; ALTER TABLE comments DROP CONSTRAINT comments_pkey",
        "DROP FUNCTION portalhook.mend_identity; ALTER TABLE users DROP CONSTRAINT users_pkey CASCADE",
        "DROP SCHEMA portalhook CASCADE; CREATE TABLE another (id int)",
    ] {
        portal.sql(&format!("SET client_min_messages = error; {harm}; UPDATE posts SET views = views + 1;"));
    }
    assert_eq!(portal.sql("SELECT count(*) FROM pg_event_trigger"), "0");
}
