//! What a mapping may be.

use super::*;

#[tokio::test]
async fn a_mapping_that_postgresql_cannot_run_or_that_lacks_columns_is_refused() {
    let (_server, client) = migrated().await;
    client
        .batch_execute("CREATE TABLE public.posts (id int PRIMARY KEY, title text, made int); CREATE TYPE public.mood AS ENUM ('ok')")
        .await
        .expect("application");
    let cases = [
        (
            "posts",
            "SELECT id, title FROM public.posts",
            "posts: the SELECT has no column description, status, author, portal, created_at; it returns id, title",
            "null::text AS description",
        ),
        (
            "posts",
            "SELECT id, titel FROM public.posts",
            "posts: PostgreSQL cannot run this SELECT: column \"titel\" does not exist",
            "",
        ),
        (
            "votes",
            "SELECT 1 AS id, 2 AS post, 3 AS voter, made AS created_at FROM public.posts",
            "votes: created_at is of type integer",
            "date or a timestamp",
        ),
        (
            "comments",
            "SELECT id FROM public.missing",
            "comments: PostgreSQL cannot run this SELECT: relation \"public.missing\" does not exist",
            "schema",
        ),
        ("users", "SELEC 1", "users: PostgreSQL cannot run this SELECT: syntax error", "CREATE VIEW accepts"),
        ("users", "", "users: the mapping is empty", "id, name, email, role"),
        ("users", " ; ", "users: the mapping is empty", "id, name, email, role"),
        ("users", "SELECT 1 AS id; DROP TABLE public.posts", "users: the mapping is not one SELECT", "one SELECT"),
        ("users", "DELETE FROM public.posts", "users: the mapping is not one SELECT", "one SELECT"),
        (
            "portals",
            "DELETE FROM public.posts RETURNING id, title",
            "portals: PostgreSQL cannot run this SELECT",
            "CREATE VIEW accepts",
        ),
        ("comment_votes", "SELECT 1 AS id", "comment_votes: the SELECT has no column voter", "voter"),
        ("likes", "SELECT 1 AS id", "there is no entity 'likes'", "posts, votes, comments, users, portals"),
    ];
    for (entity, query, message, hint) in cases {
        let sql = format!("INSERT INTO portalhook.mapping VALUES ('{entity}', '{query}')");
        all_refused(&client, &[(&sql, message, hint)]).await;
    }
    assert_eq!(text(&client, "SELECT count(*)::text FROM public.posts").await, "0");
    client
        .batch_execute(
            "INSERT INTO portalhook.mapping VALUES ('portals', 'SELECT 1 AS id, ''Feedback'' AS title;'),
                 ('votes', 'SELECT id, id AS post, null AS voter, date ''2024-01-01'' AS created_at, ''ok''::public.mood AS mood FROM public.posts');
             UPDATE portalhook.mapping SET query = query;
             UPDATE portalhook.mapping SET query = query || ' -- again' WHERE entity = 'votes'",
        )
        .await
        .expect("good mappings");
    assert_eq!(
        text(&client, "SELECT query FROM portalhook.mapping WHERE entity = 'portals'").await,
        "SELECT 1 AS id, 'Feedback' AS title"
    );
    assert_eq!(
        texts(&client, "SELECT payload ->> 'entity' FROM portalhook.operations WHERE kind = 'mapping' ORDER BY id")
            .await,
        ["portals", "votes", "votes"]
    );
    all_refused(
        &client,
        &[
            ("DELETE FROM portalhook.mapping WHERE entity = 'votes'", "the mapping needs", "only comment_votes"),
            ("TRUNCATE portalhook.mapping", "the mapping needs", "only comment_votes"),
        ],
    )
    .await;
    // Nothing of ours depends on the application's tables and types.
    client.batch_execute("DROP TABLE public.posts; DROP TYPE public.mood").await.expect("drop");
}

#[tokio::test]
async fn a_mapping_is_checked_with_the_rights_of_whoever_writes_it() {
    let (server, client) = migrated().await;
    client
        .batch_execute(
            "CREATE TABLE public.hidden (id int); CREATE SCHEMA closed; CREATE TABLE closed.users (id int, name text, email text, role text);
             INSERT INTO portalhook.mapping VALUES ('users', 'SELECT 1 AS id, 2 AS name, 3 AS email, 4 AS role FROM hidden');
             CREATE ROLE operator LOGIN; GRANT USAGE ON SCHEMA portalhook TO operator; GRANT SELECT, UPDATE ON portalhook.mapping TO operator;
             GRANT INSERT ON portalhook.endpoints TO operator",
        )
        .await
        .expect("operator");
    let operator = connect(&server, "operator").await;
    let error = refused(&operator, "UPDATE portalhook.mapping SET query = 'SELECT * FROM closed.users'").await;
    assert!(error.message().contains("permission denied for schema closed"), "{error}");
    operator
        .batch_execute(
            "UPDATE portalhook.mapping SET query = 'SELECT 1 AS id, 2 AS name, 3 AS email, 5 AS role';
             INSERT INTO portalhook.endpoints (url) VALUES ('https://a.x/')",
        )
        .await
        .expect("what was granted is enough");
    let error = refused(&operator, "SELECT portalhook.secret('4')").await;
    assert_eq!(error.code().code(), "42501");
}
