//! Batches that have too little room for their rows are taken in less, or staged: wherever that is noticed, they tell the same.

use super::*;

/// What becomes of the same history, from the evaluation before it (300) to what its bodies name (the others).
#[test]
fn whatever_room_a_batch_has_it_tells_the_same() {
    let schema = format!(
        "{SCHEMA}\n{FIXED_TIMES}
         ALTER TABLE posts ADD COLUMN slug text; ALTER TABLE votes ADD COLUMN slug text; ALTER TABLE votes ALTER post_id DROP NOT NULL;
         UPDATE posts SET slug = 'post-' || id;
         INSERT INTO posts (id, slug, title, description, user_id, portal_id)
             SELECT n, 'post-' || n, 'Idea', repeat('x', 300), 48, 4 FROM generate_series(101, 110) AS n;"
    );
    let views = views(&[
        (
            "posts",
            "SELECT slug AS id, title, description, status, user_id AS author, portal_id AS portal, created_at FROM posts WHERE deleted_at IS NULL",
        ),
        ("votes", "SELECT id, slug AS post, user_id AS voter, created_at FROM votes"),
        (
            "comments",
            "SELECT id, 'post-' || post_id AS post, user_id AS author, body AS comment, created_at FROM comments",
        ),
    ]);
    let history = "
        INSERT INTO votes (id, slug, user_id) VALUES (1, 'post-101', 48);
        INSERT INTO votes (id, slug, user_id) VALUES (2, 'post-102', 48);
        INSERT INTO votes (id, slug, user_id) VALUES (3, 'post-103', 49);
        INSERT INTO votes (id, slug, user_id) SELECT n, 'post-' || n, 49 FROM generate_series(101, 110) AS n;
        UPDATE posts SET slug = 'post-101' WHERE id IN (102, 103);
        UPDATE posts SET title = 'Mine' WHERE id IN (101, 102, 104);
        INSERT INTO votes (id, slug, user_id) VALUES (4, 'post-104', 48), (5, 'post-101', 48);
        INSERT INTO comments (id, post_id, user_id, body) SELECT n, n, 49, 'Yes' FROM generate_series(104, 110) AS n;
        BEGIN; DELETE FROM posts WHERE id > 108; UPDATE posts SET deleted_at = '2024-01-01' WHERE id = 101; COMMIT;
        BEGIN; SELECT portalhook.mute('a test'); DELETE FROM votes WHERE id = 105; UPDATE posts SET status = 'done'; COMMIT;
        UPDATE posts SET deleted_at = NULL;
        TRUNCATE votes;
        DELETE FROM comments;";
    let play = |room: usize| {
        let portal = Portal::new(&schema, &views);
        let receiver = Receiver::start();
        let endpoint = portal.endpoint_with(&receiver, "events", "'{post.*,vote.*,comment.*}'");
        portal.sql(history);
        let _daemon = portal.spawn(&[("PORTALHOOK_LIMITS", &format!("room:{room}"))]);
        let events: Vec<(String, Value)> = portal
            .events(&receiver, endpoint)
            .iter()
            .map(|event| (event.event().to_owned(), value(event, "")))
            .collect();
        let failures = portal
            .sql("SELECT DISTINCT entity || ' ' || key || ': ' || message FROM portalhook.row_failures ORDER BY 1");
        (events, failures)
    };
    let (events, failures) = play(1 << 20);
    assert_eq!(events.len(), 49, "{:?}", events.iter().map(|(name, _)| name).collect::<Vec<_>>());
    assert!(failures.contains("another live row has the id post-101"), "{failures}");
    for room in [300, 1000, 2500, 4000] {
        let (other_events, other_failures) = play(room);
        assert_eq!(other_events, events, "with room for {room} bytes");
        assert_eq!(other_failures, failures, "with room for {room} bytes");
    }
}
