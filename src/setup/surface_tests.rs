//! What operators touch in SQL: every refusal with its message, and what reaches the stream.

use tokio_postgres::Client;
use tokio_postgres::error::DbError;

use super::migrations;
use crate::throwaway::Throwaway;

/// A migrated database.
async fn migrated() -> (Throwaway, Client) {
    let server = Throwaway::start(&[]).expect("start");
    let mut client = connect(&server, Throwaway::SUPERUSER).await;
    client.batch_execute("CREATE SCHEMA portalhook; CREATE SCHEMA portalhook_ledger").await.expect("schemas");
    let applied = migrations::apply(&mut client).await.expect("migrate");
    assert!(!applied.is_empty());
    (server, client)
}

async fn connect(server: &Throwaway, role: &str) -> Client {
    let (client, connection) =
        tokio_postgres::connect(&server.url(role, "postgres"), tokio_postgres::NoTls).await.expect("connect");
    tokio::spawn(connection);
    client
}

/// The error of a statement that must fail.
async fn refused(client: &Client, sql: &str) -> DbError {
    let error = client.batch_execute(sql).await.expect_err(sql);
    error.as_db_error().unwrap_or_else(|| panic!("{sql}: {error}")).clone()
}

/// Statements that must fail, each with a part of the message and a part of the hint.
async fn all_refused(client: &Client, cases: &[(&str, &str, &str)]) {
    for (sql, message, hint) in cases {
        let error = refused(client, sql).await;
        assert!(error.message().contains(message), "{sql}\n  says: {}", error.message());
        assert!(error.hint().unwrap_or_default().contains(hint), "{sql}\n  hints: {:?}", error.hint());
        assert!(
            ["22023", "23514", "42703", "42P01", "42601"].contains(&error.code().code()),
            "{sql}: {:?}",
            error.code()
        );
    }
}

async fn texts(client: &Client, sql: &str) -> Vec<String> {
    client
        .query(sql, &[])
        .await
        .expect(sql)
        .iter()
        .map(|row| row.get::<_, Option<String>>(0).unwrap_or_default())
        .collect()
}

async fn text(client: &Client, sql: &str) -> String {
    texts(client, sql).await.join("\n")
}

#[tokio::test]
async fn migrations_apply_once_and_know_what_is_missing() {
    let (_server, mut client) = migrated().await;
    assert!(migrations::missing(&client).await.expect("missing").is_empty());
    assert!(migrations::apply(&mut client).await.expect("again").is_empty());
    client.batch_execute("DELETE FROM portalhook.migrations WHERE version = 5").await.expect("forget");
    let missing = migrations::missing(&client).await.expect("missing");
    assert_eq!(missing.iter().map(refinery::Migration::version).collect::<Vec<_>>(), [5]);
}

#[tokio::test]
async fn everything_in_the_schema_is_described_and_no_function_is_for_everyone() {
    let (_server, client) = migrated().await;
    let undescribed = texts(
        &client,
        "SELECT relname::text FROM pg_class WHERE relnamespace = 'portalhook'::regnamespace AND relkind IN ('r', 'p', 'v')
             AND relname <> 'migrations' AND obj_description(oid, 'pg_class') IS NULL
         UNION ALL SELECT proname::text FROM pg_proc WHERE pronamespace = 'portalhook'::regnamespace AND obj_description(oid, 'pg_proc') IS NULL",
    )
    .await;
    assert_eq!(undescribed, Vec::<String>::new());
    let open = texts(
        &client,
        "SELECT proname::text FROM pg_proc WHERE pronamespace = 'portalhook'::regnamespace
             AND has_function_privilege('pg_read_all_stats', oid, 'EXECUTE') ORDER BY 1",
    )
    .await;
    assert_eq!(open, ["mapping_columns", "mapping_search_path", "select_columns"]);
    let unpinned = texts(
        &client,
        "SELECT proname::text FROM pg_proc WHERE pronamespace = 'portalhook'::regnamespace
             AND NOT coalesce(proconfig::text LIKE '%search_path=pg_catalog%', false)",
    )
    .await;
    assert_eq!(unpinned, Vec::<String>::new());
}

#[tokio::test]
async fn a_wrong_url_is_refused_with_what_is_allowed() {
    let (_server, client) = migrated().await;
    let long = format!("https://example.com/{}", "a".repeat(2048));
    let cases = [
        ("", "empty", "https://host/path"),
        ("example.com/hooks", "does not begin with https:// or http://", "https://host/path"),
        ("ftp://example.com/", "does not begin with", "https://host/path"),
        ("javascript:alert(1)", "does not begin with", "https://host/path"),
        ("https://", "names no host", "https://host/path"),
        ("https:///path", "names no host", "https://host/path"),
        ("https://:443/", "names no host", "https://host/path"),
        ("https://user:pw@example.com/", "user name or password", "headers"),
        ("https://example.com/#top", "fragment", "Leave out"),
        ("https://example.com/a b", "a space", "%20"),
        ("https://example.com/\nx", "line break", "https://host/path"),
        ("https://exämple.com/", "'ä'", "xn--"),
        ("https://exa$mple.com/", "not the name or address of a host", "IPv6"),
        ("https://-example.com/", "not the name or address of a host", "IPv6"),
        ("https://[1::2::3]/", "not the name or address of a host", "IPv6"),
        ("https://example.com:0/", "the port '0'", "https://host:8443"),
        ("https://example.com:70000/", "the port '70000'", "https://host:8443"),
        ("https://example.com:/", "the port ''", "https://host:8443"),
        ("https://example.com\\@evil.com/", "user name", "headers"),
        ("https://example.com/a\\b", "backslash", "https://host/path"),
        (&long, "2068 characters", "At most 2048"),
    ];
    for (url, message, hint) in cases {
        let sql = format!("INSERT INTO portalhook.endpoints (url) VALUES ('{url}')");
        all_refused(&client, &[(&sql, message, hint)]).await;
    }
    let password = refused(&client, "INSERT INTO portalhook.endpoints (url) VALUES ('https://u:hunter2@h/')").await;
    assert!(!password.message().contains("hunter2"), "{password}");
    for url in [
        "https://example.com",
        "HTTPS://Example.com/hooks?x=1&y=%20",
        "http://127.0.0.1:8080/in",
        "http://[::1]:9000/",
        "http://my_service:80",
        "https://example.com/a@b:c",
        "https://xn--exmple-cua.com./",
    ] {
        client.batch_execute(&format!("INSERT INTO portalhook.endpoints (url) VALUES ('{url}')")).await.expect(url);
    }
}

#[tokio::test]
async fn wrong_events_headers_limits_and_secrets_are_refused_with_what_is_allowed() {
    let (_server, client) = migrated().await;
    let cases = [
        ("events", "'{vote.crated}'", "there is no event 'vote.crated'", "Did you mean vote.created?"),
        ("events", "'{Post.Created}'", "there is no event 'Post.Created'", "Did you mean post.created?"),
        (
            "events",
            "'{nothing.like.it}'",
            "there is no event",
            "Known are post.created, post.deleted, post.status_changed",
        ),
        ("events", "'{}'", "wants no events", "{*}"),
        ("events", "NULL", "wants no events", "{*}"),
        ("events", "'{{vote.created},{post.created}}'", "not a simple list", "{vote.created"),
        ("events", "'{vote.created,NULL}'", "there is no event null", "Known are"),
        ("portal", "''", "portal is empty", "null for all portals"),
        ("max_in_flight", "-1", "max_in_flight is -1", "from 1 to 1000"),
        ("max_in_flight", "0", "max_in_flight is 0", "from 1 to 1000"),
        ("max_in_flight", "100000", "max_in_flight is 100000", "from 1 to 1000"),
        ("timeout_ms", "-5", "timeout_ms is -5", "100 to 300000"),
        ("timeout_ms", "3000000", "timeout_ms is 3000000", "100 to 300000"),
        ("retries", "'{5s,five}'", "'five' is not a wait", "{5s,5m,2h,1d}"),
        ("retries", "'{31d}'", "'31d' is not a wait", "1s to 30d"),
        ("retries", "'{0s}'", "'0s' is not a wait", "1s to 30d"),
        ("retries", "'{-5m}'", "'-5m' is not a wait", "1s to 30d"),
        ("retries", "'{5s,NULL}'", "null is not a wait", "1s to 30d"),
        ("retries", "array_fill('5s'::text, ARRAY[51])", "not a list of at most 50", "{5s,5m,2h}"),
        ("ordering", "'random'", "ordering is 'random'", "none, causal and strict"),
        ("signature_encoding", "'hex64'", "signature_encoding is 'hex64'", "hex and base64"),
        ("signature_header", "'Bad Header'", "not the name of a header", "X-Api-Key"),
        ("signature_header", "'Content-Type'", "cannot be set", "portalhook's to write"),
        ("signature_prefix", "E'a\\nb'", "signature_prefix cannot be sent", "sha256="),
        ("headers", "'[]'", "headers is a json array", "{\"X-Name\""),
        ("headers", "'{\"Host\": \"x\"}'", "the header Host cannot be set", "portalhook's to write"),
        ("headers", "'{\"content-length\": \"1\"}'", "cannot be set", "portalhook's to write"),
        ("headers", "'{\"Webhook-Id\": \"1\"}'", "the header Webhook-Id cannot be set", "Webhook-*"),
        ("headers", "'{\"signature\": \"1\"}'", "carries the signature", "another signature_header"),
        ("headers", "'{\"X A\": \"1\"}'", "not the name of a header", "X-Api-Key"),
        ("headers", "'{\"\": \"1\"}'", "not the name of a header", "X-Api-Key"),
        ("headers", "'{\"X-A\": 1}'", "has a json number", "in double quotes"),
        (
            "headers",
            "'{\"X-A\": \"1\\r\\nHost: evil\"}'",
            "the value of the header X-A cannot be sent",
            "no line break",
        ),
        ("headers", "'{\"X-A\": \"1\", \"x-a\": \"2\"}'", "there twice", "once"),
        ("secret", "'hunter2'", "the secret is not whsec_", "one is made for you"),
        ("secret", "'whsec_====aaaa'", "the secret is not whsec_", "24 to 64"),
        ("secret", "'whsec_AAAAA'", "base64 is not valid", "24 to 64"),
        ("secret", "'whsec_' || encode('short', 'base64')", "the secret has 5 bytes", "24 to 64"),
        ("secret", "'whsec_' || repeat('AAAA', 22)", "the secret has 66 bytes", "24 to 64"),
    ];
    for (column, value, message, hint) in cases {
        let sql = format!("INSERT INTO portalhook.endpoints (url, {column}) VALUES ('https://e.x/', {value})");
        all_refused(&client, &[(&sql, message, hint)]).await;
    }
    client
        .batch_execute(
            r#"INSERT INTO portalhook.custom_events (name) VALUES ('roadmap.published');
            INSERT INTO portalhook.endpoints (url, events, headers, retries, secret, signature_header, signature_encoding, signature_prefix,
                                              max_in_flight, timeout_ms, ordering, portal)
            VALUES ('https://e.x/', '{roadmap.published,post.*,vote.created}', '{"Authorization": "Bearer a b", "X-Empty": ""}', '{5s,5m,2h,1d}',
                    portalhook.new_secret(), 'X-Hub-Signature-256', 'base64', 'sha256=', 5, 1000, 'strict', '4')"#,
        )
        .await
        .expect("a good endpoint");
    all_refused(
        &client,
        &[("UPDATE portalhook.endpoints SET id = DEFAULT", "the id of an endpoint cannot change", "Add a new")],
    )
    .await;
    all_refused(&client, &[("UPDATE portalhook.endpoints SET max_in_flight = -1", "max_in_flight is -1", "1 to 1000")])
        .await;
}

#[tokio::test]
async fn own_events_have_names_of_their_own_and_are_emitted_only_when_registered() {
    let (_server, client) = migrated().await;
    let insert = |name: &str| format!("INSERT INTO portalhook.custom_events (name) VALUES ('{name}')");
    for (name, message) in [
        ("Roadmap.published", "cannot be the name"),
        ("roadmap", "cannot be the name"),
        ("roadmap..x", "cannot be the name"),
        ("post.pinned", "events that begin with post."),
        ("webhook.sent", "events that begin with webhook."),
        ("endpoint.added", "events that begin with endpoint."),
    ] {
        all_refused(&client, &[(&insert(name), message, "roadmap.published")]).await;
    }
    all_refused(
        &client,
        &[(
            "SELECT portalhook.emit('roadmap.published')",
            "no event 'roadmap.published' of your own",
            "Register it first",
        )],
    )
    .await;
    client.batch_execute(&insert("roadmap.published")).await.expect("register");
    all_refused(
        &client,
        &[
            ("SELECT portalhook.emit('roadmap.publshed')", "no event", "Did you mean roadmap.published?"),
            (
                "SELECT portalhook.emit('vote.created')",
                "no event 'vote.created' of your own",
                "Registered are roadmap.published.",
            ),
            (
                "SELECT portalhook.emit('roadmap.published', portal => '')",
                "portal is empty",
                "null for an event of no portal",
            ),
        ],
    )
    .await;
    client.batch_execute(r#"SELECT portalhook.emit('roadmap.published', '{"b": 1.10,  "a": [2]}', '4'), portalhook.emit('roadmap.published')"#).await.expect("emit");
    assert_eq!(
        texts(&client, "SELECT payload::text FROM portalhook.operations ORDER BY id").await,
        [
            r#"{"event":"roadmap.published","data":{"b": 1.10,  "a": [2]},"portal":"4"}"#,
            r#"{"event":"roadmap.published","data":{},"portal":null}"#
        ]
    );
}

#[tokio::test]
async fn operations_say_what_routing_needs_and_stand_in_the_stream_of_their_transaction() {
    let (_server, client) = migrated().await;
    client.batch_execute("SELECT pg_create_logical_replication_slot('seen', 'test_decoding')").await.expect("slot");
    client
        .batch_execute(
            "INSERT INTO portalhook.endpoints (url) VALUES ('https://a.x/');
             UPDATE portalhook.endpoints SET url = 'https://b.x/', timeout_ms = 500, secret = portalhook.new_secret();
             UPDATE portalhook.endpoints SET events = '{vote.*}', portal = 'a\"b';
             SELECT portalhook.test(1);
             UPDATE portalhook.endpoints SET enabled = false;
             UPDATE portalhook.endpoints SET enabled = true;
             UPDATE portalhook.endpoints SET enabled = false, disabled_reason = 'answered 410';",
        )
        .await
        .expect("changes");
    let settled = client
        .query_one("SELECT disabled_reason, disabled_at IS NOT NULL FROM portalhook.endpoints", &[])
        .await
        .expect("row");
    assert_eq!((settled.get::<_, Option<&str>>(0), settled.get(1)), (Some("answered 410"), true));
    all_refused(
        &client,
        &[
            ("SELECT portalhook.test(7)", "there is no endpoint 7", "SELECT id, url"),
            ("SELECT portalhook.test(NULL)", "there is no endpoint null", "SELECT id, url"),
            (
                "SELECT portalhook.test(1)",
                "endpoint 1 (https://b.x/) is disabled: answered 410",
                "SET enabled = true WHERE id = 1",
            ),
        ],
    )
    .await;
    client
        .batch_execute("BEGIN; DELETE FROM portalhook.endpoints; ROLLBACK; TRUNCATE portalhook.endpoints")
        .await
        .expect("removal");
    let expected = [
        r#"endpoint {"op":"put","endpoint":1,"events":["*"],"portal":null}"#,
        r#"endpoint {"op":"put","endpoint":1,"events":["vote.*"],"portal":"a\"b"}"#,
        r#"test {"endpoint":1,"url":"https://b.x/"}"#,
        r#"disabled {"endpoint":1,"url":"https://b.x/","portal":"a\"b","reason":"answered 410"}"#,
        r#"endpoint {"op":"delete","endpoint":1}"#,
    ];
    assert_eq!(texts(&client, "SELECT kind || ' ' || payload FROM portalhook.operations ORDER BY id").await, expected);
    let in_stream = texts(
        &client,
        "SELECT xid || ' ' || substring(data FROM 'content:(.*)') FROM pg_logical_slot_get_changes('seen', NULL, NULL)
         WHERE data LIKE 'message: transactional: 1 prefix: portalhook,%'",
    )
    .await;
    assert_eq!(in_stream, texts(&client, "SELECT xid || ' ' || id FROM portalhook.operations ORDER BY id").await);
}

#[tokio::test]
async fn a_change_of_endpoints_or_secrets_wakes_whoever_listens() {
    let (server, client) = migrated().await;
    for (sql, payload) in [
        ("INSERT INTO portalhook.endpoints (url) VALUES ('https://a.x/')", "endpoints"),
        ("UPDATE portalhook.endpoints SET timeout_ms = 500", "endpoints"),
        ("DELETE FROM portalhook.endpoints", "endpoints"),
        ("SELECT portalhook.rotate_secret('4')", "secrets"),
    ] {
        // psql prints a notification after the statement that brought it.
        let seen = server.psql("postgres", &format!("LISTEN portalhook;\n{sql};\nSELECT;\n")).expect("psql");
        assert!(seen.contains(&format!("\"portalhook\" with payload \"{payload}\"")), "{sql}: {seen}");
    }
    drop(client);
}

#[tokio::test]
async fn a_secret_is_made_once_however_many_ask_and_rotates() {
    let (server, client) = migrated().await;
    let mut asking = Vec::new();
    for _ in 0..8 {
        let other = connect(&server, Throwaway::SUPERUSER).await;
        asking.push(tokio::spawn(async move { text(&other, "SELECT portalhook.secret('4')").await }));
    }
    let mut seen = Vec::new();
    for one in asking {
        seen.push(one.await.expect("join"));
    }
    let first = seen[0].clone();
    assert!(seen.iter().all(|one| *one == first));
    assert_eq!(text(&client, &format!("SELECT length(decode(substr('{first}', 7), 'base64'))::text")).await, "32");
    assert_ne!(text(&client, "SELECT portalhook.secret('')").await, first);
    let second = text(&client, "SELECT portalhook.rotate_secret('4', keep_old_for => '1 hour')").await;
    assert_ne!(second, first);
    let row = client.query_one("SELECT secret, previous, previous_until - now() BETWEEN '0' AND '1 hour' FROM portalhook.secrets WHERE portal = '4'", &[]).await.expect("row");
    assert_eq!((row.get::<_, String>(0), row.get::<_, String>(1), row.get(2)), (second.clone(), first, true));
    client.batch_execute("SELECT portalhook.rotate_secret('4', '0')").await.expect("at once");
    assert_eq!(
        text(&client, "SELECT coalesce(previous, 'none') FROM portalhook.secrets WHERE portal = '4'").await,
        "none"
    );
    all_refused(
        &client,
        &[
            ("SELECT portalhook.secret(NULL)", "no portal was given", "portalhook.secret('4')"),
            ("SELECT portalhook.rotate_secret('4', '-1 hour')", "keep_old_for is -01:00:00", "'24 hours'"),
            ("UPDATE portalhook.secrets SET secret = 'hunter2'", "the secret is not whsec_", "24 to 64"),
        ],
    )
    .await;
}

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

#[tokio::test]
async fn the_views_tell_what_was_sent_what_waits_and_what_went_wrong() {
    let (_server, client) = migrated().await;
    client
        .batch_execute(
            "SELECT portalhook.prepare_partitions((now() AT TIME ZONE 'UTC')::date, 2);
             INSERT INTO portalhook.endpoints (url) VALUES ('https://a.x/'), ('https://b.x/');
             INSERT INTO portalhook.routes VALUES (1, '{*}', NULL, 5), (2, '{*}', NULL, 5);
             INSERT INTO portalhook.cursors VALUES (1, 2, 2), (2, 0, 0);
             INSERT INTO portalhook.events
                 SELECT n, (now() AT TIME ZONE 'UTC')::date, 'e' || n, 'vote.created', now(), 1, '0/1', '4', '9', 'vote:' || n, '{1,2}', ARRAY[n, n], '{}'
                 FROM generate_series(1, 5) AS n;
             INSERT INTO portalhook.successes VALUES
                 (1, (now() AT TIME ZONE 'UTC')::date, 4, '{1,4}', ARRAY[now(), now()], '{200,204}', '{12,15}');
             INSERT INTO portalhook.deliveries VALUES
                 (1, 2, (now() AT TIME ZONE 'UTC')::date, 2, 'e2', 'pending', 1, now(), now() - interval '1 minute', now() - interval '1 minute', 500, 'status', '500 Internal', 20, 'oops'),
                 (1, 3, (now() AT TIME ZONE 'UTC')::date, 3, 'e3', 'failed', 9, NULL, now(), now(), NULL, 'timeout', 'no answer in 15s', 15000, NULL);
             INSERT INTO portalhook.settled_ranges VALUES (2, 1, 3, 'endpoint disabled too long');
             INSERT INTO portalhook.row_failures VALUES (now(), '0/1', 'posts', 'public.posts', '7', '22012', 'division by zero');",
        )
        .await
        .expect("ledger");
    let rows = |sql: &'static str| texts(&client, sql);
    assert_eq!(
        rows("SELECT concat_ws(' ', endpoint, url, event_id, sequence, status, attempts, http_status, duration_ms) FROM portalhook.recent_deliveries ORDER BY position").await,
        [
            "1 https://a.x/ e1 1 delivered 1 200 12",
            "1 https://a.x/ e2 2 pending 1 500 20",
            "1 https://a.x/ e3 3 failed 9 15000",
            "1 https://a.x/ e4 4 delivered 1 204 15"
        ]
    );
    assert_eq!(
        rows("SELECT concat_ws(' ', endpoint, event_id, sequence, attempts) FROM portalhook.pending").await,
        ["1 e2 2 1", "2 e4 4 0", "1 e5 5 0", "2 e5 5 0"]
    );
    assert_eq!(
        rows("SELECT concat_ws(' ', status, endpoint, error) FROM portalhook.failures ORDER BY status").await,
        [
            "failed 1 no answer in 15s",
            "given up 2 endpoint disabled too long",
            "not evaluated posts, row 7 of public.posts: division by zero"
        ]
    );
    assert_eq!(
        rows("SELECT concat_ws(' ', endpoint, waiting, retrying, delivered, failed, last_error) FROM portalhook.endpoint_health").await,
        ["1 3 1 2 1 no answer in 15s", "2 5 0 0 0"]
    );
    assert_eq!(rows("SELECT portalhook.prepare_partitions((now() AT TIME ZONE 'UTC')::date, 3)::text").await, ["3"]);
}
