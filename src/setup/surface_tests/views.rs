//! What the views tell.

use super::*;

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
        rows("SELECT concat_ws(' ', endpoint, url, event_id, sequence, status, attempts, http_status, duration_ms, next_attempt_in) FROM portalhook.recent_deliveries ORDER BY sequence").await,
        [
            "1 https://a.x/ e1 1 delivered 1 200 12",
            "1 https://a.x/ e2 2 retrying 1 500 20 00:00:00",
            "1 https://a.x/ e3 3 failed 9 15000",
            "1 https://a.x/ e4 4 delivered 1 204 15"
        ]
    );
    assert_eq!(
        rows("SELECT concat_ws(' ', endpoint, event_id, sequence, status, attempts, next_attempt_in, last_error) FROM portalhook.pending").await,
        ["1 e2 2 retrying 1 00:00:00 500 Internal", "2 e4 4 waiting 0", "1 e5 5 waiting 0", "2 e5 5 waiting 0"]
    );
    assert_eq!(
        rows("SELECT concat_ws(' ', status, endpoint, event_id, first_sequence, last_sequence, error) FROM portalhook.failures ORDER BY status").await,
        [
            "failed 1 e3 3 3 no answer in 15s",
            "not evaluated posts: row 7 of public.posts: division by zero (22012)",
            "not sent 2 1 3 endpoint disabled too long"
        ]
    );
    client.batch_execute("UPDATE portalhook.endpoints SET enabled = false WHERE id = 2").await.expect("disable");
    assert_eq!(
        rows("SELECT concat_ws(' ', endpoint, state, waiting, retrying, failed, last_error) FROM portalhook.endpoint_health").await,
        ["1 retrying 1 1 1 no answer in 15s", "2 disabled 5 0 0"]
    );
    assert_eq!(
        rows("SELECT DISTINCT status FROM portalhook.pending WHERE endpoint = 2").await,
        ["waits until the endpoint is enabled"]
    );
    assert_eq!(rows("SELECT portalhook.prepare_partitions((now() AT TIME ZONE 'UTC')::date, 3)::text").await, ["4"]);
}

#[tokio::test]
async fn a_view_of_what_is_recent_does_not_read_a_whole_day() {
    let (_server, client) = migrated().await;
    client
        .batch_execute(
            "SELECT portalhook.prepare_partitions((now() AT TIME ZONE 'UTC')::date, 1);
             INSERT INTO portalhook.endpoints (url) VALUES ('https://a.x/');
             INSERT INTO portalhook.successes
                 SELECT 1, (now() AT TIME ZONE 'UTC')::date, 10 * n, ARRAY(SELECT 10 * n - 9 + i FROM generate_series(0, 9) i),
                        array_fill(now() + n * interval '1 ms', ARRAY[10]), array_fill(200::smallint, ARRAY[10]), array_fill(5, ARRAY[10])
                 FROM generate_series(1, 5000) AS n;
             INSERT INTO portalhook.events
                 SELECT n, (now() AT TIME ZONE 'UTC')::date, lpad(n::text, 16, '0'), 'vote.created', now(), 1, '0/1', '4', '9', 'vote:' || n, '{1}', ARRAY[n], '{}'
                 FROM generate_series(1, 50000) AS n;
             ANALYZE;",
        )
        .await
        .expect("ledger");
    assert_eq!(
        texts(
            &client,
            "SELECT concat_ws(' ', count(*), min(sequence), max(sequence)) FROM portalhook.recent_deliveries"
        )
        .await,
        ["50 49951 50000"]
    );
    let plan = texts(&client, "EXPLAIN SELECT * FROM portalhook.recent_deliveries").await.join("\n");
    for table in ["successes", "events"] {
        assert!(!plan.contains(&format!("Seq Scan on {table}")), "{plan}");
    }
}
