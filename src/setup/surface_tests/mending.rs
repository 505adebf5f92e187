//! Sending again, as far as the ledger shows it, and what is refused.

use super::*;

/// Two endpoints and five events, of which the first was answered at once, the second failed and the third waits for a retry,
/// all at endpoint 1; endpoint 1 has not been sent the rest, endpoint 2 nothing. Event 5 has no body, and 6 no endpoint.
const LEDGER: &str = "
    SELECT portalhook.prepare_partitions((now() AT TIME ZONE 'UTC')::date, 2);
    INSERT INTO portalhook.endpoints (url) VALUES ('https://a.x/'), ('https://b.x/');
    INSERT INTO portalhook.routes VALUES (1, '{*}', NULL, 5), (2, '{*}', NULL, 5);
    INSERT INTO portalhook.cursors VALUES (1, 3, 3), (2, 0, 0);
    INSERT INTO portalhook.events
        SELECT n, (now() AT TIME ZONE 'UTC')::date, 'e' || n, 'vote.created', now() - n * interval '1 minute', 1, '0/1', '4', '9', 'vote:' || n,
               CASE WHEN n < 6 THEN '{1,2}' ELSE '{}' END::bigint[], CASE WHEN n < 6 THEN ARRAY[n, n] ELSE '{}' END, CASE WHEN n < 5 THEN '{}' END
        FROM generate_series(1, 6) AS n;
    INSERT INTO portalhook.successes VALUES (1, (now() AT TIME ZONE 'UTC')::date, 1, '{1}', ARRAY[now()], '{200}', '{12}');
    INSERT INTO portalhook.deliveries VALUES
        (1, 2, (now() AT TIME ZONE 'UTC')::date, 2, 'e2', 'failed', 9, NULL, now(), now(), 500, 'status', '500', 20, NULL),
        (1, 3, (now() AT TIME ZONE 'UTC')::date, 3, 'e3', 'pending', 1, now() + interval '1 day', now(), now(), 500, 'status', '500', 20, NULL);";

const DUE: &str = "SELECT concat_ws(' ', endpoint, position, sequence, event_id, status, attempts, due_at <= now(), http_status) FROM portalhook.deliveries ORDER BY endpoint, position";

#[tokio::test]
async fn what_is_redelivered_is_due_now_with_its_old_sequence_however_often_one_asks() {
    let (server, client) = migrated().await;
    client.batch_execute(LEDGER).await.expect("ledger");
    for _ in 0..2 {
        assert_eq!(texts(&client, "SELECT portalhook.redeliver('e1', 1)::text").await, ["1"]);
        assert_eq!(texts(&client, "SELECT portalhook.redeliver('e2', 1)::text").await, ["1"]);
        assert_eq!(texts(&client, "SELECT portalhook.redeliver('e3', 1)::text").await, ["1"]);
        // Not sent yet: about to be, anyway.
        assert_eq!(texts(&client, "SELECT portalhook.redeliver('e4')::text").await, ["2"]);
        assert_eq!(
            texts(&client, DUE).await,
            ["1 1 1 e1 pending 0 t", "1 2 2 e2 pending 0 t 500", "1 3 3 e3 pending 1 t 500"]
        );
    }
    let seen =
        server.psql("postgres", "LISTEN portalhook;\nSELECT portalhook.redeliver('e1');\nSELECT;\n").expect("psql");
    assert!(seen.contains("\"portalhook\" with payload \"deliveries\""), "{seen}");
}

#[tokio::test]
async fn what_cannot_be_redelivered_is_refused_with_the_reason() {
    let (_server, client) = migrated().await;
    all_refused(
        &client,
        &[("SELECT portalhook.redeliver('e1')", "there is no event 'e1' in the ledger", "No event was recorded yet")],
    )
    .await;
    client.batch_execute(LEDGER).await.expect("ledger");
    client.batch_execute("INSERT INTO portalhook.endpoints (url) VALUES ('https://c.x/')").await.expect("a third");
    client
        .batch_execute("UPDATE portalhook.endpoints SET enabled = false, disabled_reason = 'answered 410' WHERE id = 2")
        .await
        .expect("disable");
    all_refused(
        &client,
        &[
            (
                "SELECT portalhook.redeliver('e7')",
                "there is no event 'e7' in the ledger",
                "Events are kept for ledger.retention (7 days unless set otherwise); the oldest that is there is of 20",
            ),
            ("SELECT portalhook.redeliver(NULL)", "there is no event null", "kept for"),
            (
                "SELECT portalhook.redeliver('e5')",
                "the body of event e5 (vote.created) was not kept",
                "deliver.max_body",
            ),
            (
                "SELECT portalhook.redeliver('e6')",
                "event e6 (vote.created) was wanted by no endpoint",
                "after it was added",
            ),
            ("SELECT portalhook.redeliver('e1', 9)", "there is no endpoint 9", "SELECT id, url"),
            (
                "SELECT portalhook.redeliver('e1', 3)",
                "event e1 (vote.created) was not for endpoint 3",
                "It went to 1, 2.",
            ),
            (
                "SELECT portalhook.redeliver('e1', 2)",
                "endpoint 2 (https://b.x/) is disabled: answered 410",
                "SET enabled = true WHERE id = 2; then redeliver",
            ),
        ],
    )
    .await;
    assert_eq!(texts(&client, "SELECT portalhook.redeliver('e1')::text").await, ["1"], "where it can go, it goes");
    client.batch_execute("DELETE FROM portalhook.endpoints WHERE id = 1").await.expect("delete");
    all_refused(
        &client,
        &[(
            "SELECT portalhook.redeliver('e1')",
            "event e1 (vote.created) can go nowhere: endpoint 1 was deleted, endpoint 2 (https://b.x/) is disabled",
            "enabled = true",
        )],
    )
    .await;
}

#[tokio::test]
async fn a_replay_makes_due_what_was_settled_in_a_time_and_leaves_the_rest() {
    let (_server, client) = migrated().await;
    client.batch_execute(LEDGER).await.expect("ledger");
    let replay = |span: &str| format!("SELECT portalhook.replay(1, {span})::text");
    assert_eq!(texts(&client, &replay("now() - interval '150 s', now() - interval '90 s'")).await, ["1"]);
    assert_eq!(texts(&client, DUE).await, ["1 2 2 e2 pending 0 t 500", "1 3 3 e3 pending 1 f 500"]);
    assert_eq!(
        texts(&client, &replay("since => now() - interval '1 hour'")).await,
        ["1"],
        "only the first is settled and not due"
    );
    assert_eq!(texts(&client, &replay("'-infinity'")).await, ["0"]);
    assert_eq!(
        texts(&client, DUE).await,
        ["1 1 1 e1 pending 0 t", "1 2 2 e2 pending 0 t 500", "1 3 3 e3 pending 1 f 500"]
    );
    all_refused(
        &client,
        &[
            ("SELECT portalhook.replay(9, now())", "there is no endpoint 9", "SELECT id, url"),
            ("SELECT portalhook.replay(1, NULL)", "a replay needs a time to begin at", "interval '1 hour'"),
            ("SELECT portalhook.replay(1, now(), now() - interval '1 day')", "is after until", "interval '1 hour'"),
        ],
    )
    .await;
}
