//! Another mapping, interruptions, and data that a mapping cannot take.

use super::*;

#[tokio::test]
async fn a_changed_mapping_is_left_to_the_daemon_unless_everything_is_to_be_copied() {
    let server = application(FIDER);
    report(&options(&server)).await.expect("setup");
    server
        .psql(
            "portal",
            "INSERT INTO portalhook.endpoints (url) VALUES ('https://a.x/'), ('https://b.x/');
             UPDATE portalhook.checkpoint SET position = 7; INSERT INTO portalhook.routes VALUES (1, '{*}', NULL, 5); INSERT INTO portalhook.cursors VALUES (1, 6, 4);
             UPDATE posts SET title = 'Renamed' WHERE id = 1",
        )
        .expect("a daemon's traces");
    let source = lines(&server, "SELECT source FROM portalhook.checkpoint");
    let file = tempfile::NamedTempFile::new().expect("file");
    std::fs::write(file.path(), concat_views("slug")).expect("write");
    let mut changed = Options { views: file.path().to_str().map(str::to_owned), ..options(&server) };
    let said = report(&changed).await.expect("setup");
    assert!(said.contains("the daemon takes the mapping over"), "{said}");
    assert!(lines(&server, "SELECT query FROM portalhook.mapping").join(" ").contains("slug"));
    assert_eq!(
        lines(
            &server,
            "SELECT count(*) FROM portalhook.operations WHERE kind = 'mapping' AND payload::text LIKE '%slug%'"
        ),
        ["1"]
    );
    assert_eq!(lines(&server, "SELECT has_column_privilege('portalhook', 'public.posts', 'slug', 'SELECT')"), ["t"]);
    assert_eq!(lines(&server, "SELECT count(*) FROM portalhook.plan WHERE plan::text LIKE '%slug%'"), ["0"]);

    changed.afresh = true;
    let said = report(&changed).await.expect("afresh");
    assert!(said.contains("give no events"), "{said}");
    assert_mirrors_equal(&server);
    assert_eq!(lines(&server, "SELECT title, slug FROM portalhook.posts"), ["Renamed|keyboard-shortcuts"]);
    assert_eq!(
        lines(&server, "SELECT position, epoch, source FROM portalhook.checkpoint"),
        [format!("7|2|{}", source[0])]
    );
    assert_eq!(lines(&server, "SELECT endpoint, sequence FROM portalhook.routes ORDER BY 1"), ["1|5", "2|0"]);
    assert_eq!(
        lines(&server, "SELECT endpoint, position, sequence FROM portalhook.cursors ORDER BY 1"),
        ["1|6|4", "2|7|0"]
    );
    // The columns that went are no longer the role's to read.
    let back = Options { views: Some("fider".to_owned()), afresh: true, ..options(&server) };
    report(&back).await.expect("back");
    assert_eq!(lines(&server, "SELECT has_column_privilege('portalhook', 'public.posts', 'slug', 'SELECT')"), ["f"]);
}

#[tokio::test]
async fn a_setup_that_was_interrupted_is_mended_by_the_next() {
    let server = application(FIDER);
    report(&options(&server)).await.expect("setup");
    // As after a crash between the slot's creation and the commit of the copy.
    server
        .psql(
            "portal",
            "DELETE FROM portalhook.checkpoint; DELETE FROM portalhook.plan;
             DO $$ DECLARE t text; BEGIN FOR t IN SELECT oid::regclass FROM pg_class WHERE relnamespace = 'portalhook_mirror'::regnamespace AND relkind = 'r'
             LOOP EXECUTE 'DROP TABLE ' || t; END LOOP; END $$",
        )
        .expect("interrupt");
    let said = report(&options(&server)).await.expect("mend");
    assert!(said.contains("removed the old one"), "{said}");
    assert_mirrors_equal(&server);
    assert_eq!(lines(&server, "SELECT count(*) FROM pg_replication_slots"), ["1"]);
}

#[tokio::test]
async fn a_copy_that_fails_leaves_no_slot_and_no_mirror() {
    let server = application(FIDER);
    server
        .psql(
            "portal",
            "CREATE FUNCTION boom(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN RAISE 'no such luck'; END $$",
        )
        .expect("function");
    let views = include_str!("../../../tests/portals/fider/views.sql")
        .replace("p.user_id   AS author", "public.boom(p.user_id) AS author");
    let file = tempfile::NamedTempFile::new().expect("file");
    std::fs::write(file.path(), views).expect("write");
    let failing = Options { views: file.path().to_str().map(str::to_owned), ..options(&server) };
    let error = report(&failing).await.expect_err("raised");
    assert!(format!("{error:?}").contains("no such luck"), "{error:?}");
    assert_eq!(lines(&server, "SELECT count(*) FROM pg_replication_slots"), ["0"]);
    assert_eq!(lines(&server, "SELECT count(*) FROM portalhook.checkpoint"), ["0"]);
    assert_eq!(
        lines(&server, "SELECT count(*) FROM pg_class WHERE relnamespace = 'portalhook_mirror'::regnamespace"),
        ["0"]
    );
    report(&Options { views: Some("fider".to_owned()), ..options(&server) })
        .await
        .expect("and with a good mapping it works");
}

#[tokio::test]
async fn a_row_that_cannot_be_evaluated_stops_nobody_and_counts_as_not_live() {
    let server = application(FIDER);
    server
        .psql(
            "portal",
            "INSERT INTO posts (id, tenant_id, number, title, slug, description, user_id, status, is_approved, language, created_at)
             VALUES (2, 1, 2, 'Two', 'two', 'd', 2, 0, true, 'english', now())",
        )
        .expect("second post");
    let views = include_str!("../../../tests/portals/fider/views.sql")
        .replace("p.title,", "(100 / (p.id - 1))::text AS title,");
    let file = tempfile::NamedTempFile::new().expect("file");
    std::fs::write(file.path(), views).expect("write");
    let failing = Options { views: file.path().to_str().map(str::to_owned), ..options(&server) };
    report(&failing).await.expect("setup");
    assert_eq!(
        lines(
            &server,
            "SELECT concat_ws(' ', user_id, posts, votes, comments, comment_votes) FROM portalhook_mirror.counters ORDER BY 1"
        ),
        ["1 0 1 0 0", "2 1 1 0 0", "3 0 0 1 0"]
    );
    assert_eq!(
        lines(
            &server,
            "SELECT entity, table_name, key, sqlstate, message, lsn = (SELECT lsn FROM portalhook.checkpoint) FROM portalhook.row_failures"
        ),
        ["posts|public.posts|1|22012|division by zero|t"]
    );
}

#[tokio::test]
async fn another_wording_of_the_same_mapping_needs_no_copy() {
    let server = application(FIDER);
    report(&options(&server)).await.expect("setup");
    server
        .psql("portal", "UPDATE portalhook.mapping SET query = query || ' -- says why' WHERE entity = 'posts'")
        .expect("comment");
    let said = report(&options(&server)).await.expect("again");
    assert!(said.contains("already there, and the mirror with it"), "{said}");
    assert_eq!(lines(&server, "SELECT count(*) FROM portalhook.plan WHERE plan::text LIKE '%says why%'"), ["1"]);
    assert_eq!(lines(&server, "SELECT id FROM portalhook.posts"), ["1"]);
}
