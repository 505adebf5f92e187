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
