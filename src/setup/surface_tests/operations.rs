//! What reaches the stream, and secrets.

use super::*;

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
