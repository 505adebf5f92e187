//! What receivers see, and what the ledger says about it.

use std::collections::BTreeSet;
use std::time::Duration;

use super::world::{Receiver, SECRET, World};

#[tokio::test]
async fn a_delivery_arrives_signed_and_is_recorded() {
    let mut world = World::new().await;
    let mut receiver = Receiver::new().await;
    let id = world.endpoint(&receiver.url, &[("headers", "'{\"x-tenant\": \"blue\"}'")]).await;
    let running = world.start();
    world.commit(&[("vote.created", "vote:500", Some("99"), &[id])]).await;

    let request = receiver.next().await;
    let official = standardwebhooks::Webhook::new(SECRET).expect("a secret");
    official.verify(&request.body, &request.headers).expect("webhook-signature verifies");
    let secret = crate::deliver::sign::Secret::parse(SECRET).expect("a secret");
    let mac = crate::deliver::sign::Encoding::Hex.decode(request.header("signature")).expect("hex");
    assert!(secret.verifies_body(&mac, &request.body));
    assert_eq!(request.header("webhook-id"), "0000000000000001");
    assert_eq!((request.number("webhook-sequence"), request.number("webhook-attempt")), (1, 1));
    assert_eq!(request.header("content-type"), "application/json");
    assert_eq!(request.header("user-agent"), concat!("portalhook/", env!("CARGO_PKG_VERSION")));
    assert_eq!(request.header("x-tenant"), "blue");

    world.stop(running).await;
    assert_eq!(world.value("SELECT positions || http_statuses::bigint[] FROM portalhook.successes").await, "{1,200}");
    assert_eq!(
        world.value("SELECT recorded_on = (now() AT TIME ZONE 'UTC')::date FROM portalhook.successes").await,
        "true"
    );
    assert_eq!(world.value("SELECT (position, sequence) FROM portalhook.cursors").await, "(1,1)");
    assert_eq!(world.value("SELECT count(*) FROM portalhook.deliveries").await, "0");
}

#[tokio::test]
async fn a_failed_delivery_comes_again_with_the_same_bytes_and_sequence() {
    let mut world = World::new().await;
    let mut receiver = Receiver::new().await;
    let id = world.endpoint(&receiver.url, &[]).await;
    receiver.answer_with(&[500, 302]);
    let running = world.start();
    world.commit(&[("vote.created", "vote:1", None, &[id])]).await;

    let requests = receiver.take(3).await;
    world.stop(running).await;
    for (attempt, request) in (1..).zip(&requests) {
        assert_eq!(request.number("webhook-attempt"), attempt);
        assert_eq!(request.body, requests[0].body);
        assert_eq!(request.header("webhook-id"), requests[0].header("webhook-id"));
        assert_eq!(request.number("webhook-sequence"), 1);
    }
    let row = "SELECT (status, attempts, due_at, http_status, error_class, first_attempt_at < last_attempt_at) FROM portalhook.deliveries";
    assert_eq!(world.value(row).await, "(delivered,3,,200,,t)");
}

#[tokio::test]
async fn used_up_attempts_are_a_visible_failure_and_the_next_event_goes_on() {
    let mut world = World::new().await;
    let mut receiver = Receiver::new().await;
    let id = world.endpoint(&receiver.url, &[("retries", "'{1ms,1 millisecond}'")]).await;
    receiver.answer_with(&[500, 503, 302]);
    let running = world.start();
    world.commit(&[("vote.created", "vote:1", None, &[id]), ("vote.deleted", "vote:1", None, &[id])]).await;

    let sequences: Vec<i64> = receiver.take(4).await.iter().map(|request| request.number("webhook-sequence")).collect();
    assert_eq!(sequences, [1, 1, 1, 2]);
    world.stop(running).await;
    let row = "SELECT (status, attempts, http_status, error_class, error, response) FROM portalhook.deliveries";
    let expected =
        r#"(failed,3,302,redirect,"the endpoint answered 302 Found; redirects are not followed","answer 302 Found")"#;
    assert_eq!(world.value(row).await, expected);
    assert_eq!(world.value("SELECT position FROM portalhook.cursors").await, "2");
}

#[tokio::test]
async fn a_dead_and_a_hanging_endpoint_cost_the_others_nothing() {
    let mut world = World::new().await;
    world.settings.drain = Duration::ZERO;
    let (hanging, mut alive) = (Receiver::gated().await, Receiver::new().await);
    let hangs = world.endpoint(&hanging.url, &[]).await;
    let dead = world.endpoint("http://127.0.0.1:1/", &[]).await;
    let lives = world.endpoint(&alive.url, &[]).await;
    let running = world.start();
    for _ in 0..4 {
        world.votes(100, &[hangs, dead, lives]).await;
    }
    let sequences: BTreeSet<i64> =
        alive.take(400).await.iter().map(|request| request.number("webhook-sequence")).collect();
    assert_eq!(sequences, (1..=400).collect());
    world.until(&format!("SELECT count(*) > 0 FROM portalhook.deliveries WHERE endpoint = {dead}")).await;
    world.stop(running).await;
    assert_eq!(world.value(&format!("SELECT position FROM portalhook.cursors WHERE endpoint = {hangs}")).await, "0");
    let classes = format!("SELECT array_agg(DISTINCT error_class) FROM portalhook.deliveries WHERE endpoint = {dead}");
    assert_eq!(world.value(&classes).await, "{connect}");
}

#[tokio::test]
async fn an_event_waits_for_its_post_and_for_earlier_events_of_its_entity() {
    let mut world = World::new().await;
    let mut receiver = Receiver::gated().await;
    let id = world.endpoint(&receiver.url, &[]).await;
    let running = world.start();
    world
        .commit(&[
            ("post.created", "post:99", Some("99"), &[id]),
            ("vote.created", "vote:1", Some("99"), &[id]),
            ("vote.deleted", "vote:1", Some("99"), &[id]),
            ("vote.created", "vote:2", Some("7"), &[id]),
        ])
        .await;
    let first: BTreeSet<i64> =
        receiver.take(2).await.iter().map(|request| request.number("webhook-sequence")).collect();
    assert_eq!(first, [1, 4].into());
    receiver.release(2);
    assert_eq!(receiver.next().await.number("webhook-sequence"), 2);
    receiver.release(1);
    assert_eq!(receiver.next().await.number("webhook-sequence"), 3);
    receiver.release(1);
    world.stop(running).await;
    assert_eq!(world.value("SELECT sum(cardinality(positions)) FROM portalhook.successes").await, "4");
}

#[tokio::test]
async fn a_private_address_is_refused_and_the_refusal_is_visible() {
    let mut world = World::new().await;
    world.settings.allow_networks.clear();
    let mut receiver = Receiver::new().await;
    let literal = world.endpoint(&receiver.url, &[]).await;
    let name = world.endpoint(&receiver.url.replace("127.0.0.1", "localhost"), &[]).await;
    let running = world.start();
    world.commit(&[("vote.created", "vote:1", None, &[literal, name])]).await;
    world.until("SELECT count(*) = 2 FROM portalhook.deliveries WHERE error_class = 'refused_address'").await;
    world.stop(running).await;
    assert!(receiver.is_quiet());
    let error = format!("SELECT error FROM portalhook.deliveries WHERE endpoint = {literal}");
    assert_eq!(world.value(&error).await, "127.0.0.1 is loopback; deliver.allow_networks can allow it");
}

#[tokio::test]
async fn an_answer_that_takes_too_long_is_a_timeout() {
    let mut world = World::new().await;
    let mut receiver = Receiver::gated().await;
    let id = world.endpoint(&receiver.url, &[("timeout_ms", "30"), ("retries", "'{}'")]).await;
    let running = world.start();
    world.commit(&[("vote.created", "vote:1", None, &[id])]).await;
    receiver.next().await;
    world.until("SELECT count(*) = 1 FROM portalhook.deliveries").await;
    world.stop(running).await;
    let row = "SELECT (status, error_class, error) FROM portalhook.deliveries";
    assert_eq!(world.value(row).await, r#"(failed,timeout,"no complete answer within 30ms")"#);
}

#[tokio::test]
async fn an_endpoint_that_answers_gone_is_disabled_and_catches_up_when_enabled() {
    let mut world = World::new().await;
    let mut receiver = Receiver::new().await;
    let id = world.endpoint(&receiver.url, &[("ordering", "'strict'")]).await;
    receiver.answer_with(&[410]);
    let running = world.start();
    world.commit(&[("vote.created", "vote:1", Some("1"), &[id])]).await;
    world.until("SELECT NOT enabled FROM portalhook.endpoints").await;
    world.until("SELECT count(*) = 1 FROM portalhook.deliveries").await;
    receiver.next().await;
    assert_eq!(world.value("SELECT disabled_reason FROM portalhook.endpoints").await, "the endpoint answered 410 Gone");
    // While it is disabled nothing arrives, and its backlog is no row anywhere.
    for _ in 0..30 {
        world.commit(&[("vote.created", "vote:2", Some("1"), &[id])]).await;
    }
    assert_eq!(world.value("SELECT count(*) FROM portalhook.deliveries").await, "1");
    assert!(receiver.is_quiet());
    world.client.batch_execute("UPDATE portalhook.endpoints SET enabled = true").await.expect("enable");
    let sequences: Vec<i64> =
        receiver.take(31).await.iter().map(|request| request.number("webhook-sequence")).collect();
    assert_eq!(sequences, (1..=31).collect::<Vec<_>>());
    world.stop(running).await;
    assert_eq!(world.value("SELECT (position, sequence) FROM portalhook.cursors").await, "(31,31)");
}

#[tokio::test]
async fn five_deliveries_in_a_row_that_use_up_their_attempts_disable_the_endpoint() {
    let mut world = World::new().await;
    let receiver = Receiver::new().await;
    receiver.answer_with(&[500; 100]);
    let id = world.endpoint(&receiver.url, &[("retries", "'{1ms}'"), ("max_in_flight", "1")]).await;
    let running = world.start();
    world.votes(8, &[id]).await;
    world.until("SELECT NOT enabled FROM portalhook.endpoints").await;
    world.stop(running).await;
    let reason =
        "5 deliveries in a row used up their attempts; the last error: the endpoint answered 500 Internal Server Error";
    assert_eq!(world.value("SELECT disabled_reason FROM portalhook.endpoints").await, reason);
    assert_eq!(world.value("SELECT count(*) FROM portalhook.deliveries WHERE status = 'failed'").await, "5");
}

#[tokio::test]
async fn deliveries_to_a_deleted_endpoint_are_cancelled() {
    let mut world = World::new().await;
    let mut receiver = Receiver::new().await;
    receiver.answer_with(&[500]);
    let id = world.endpoint(&receiver.url, &[("retries", "'{1 hour}'"), ("ordering", "'strict'")]).await;
    let running = world.start();
    world.commit(&[("post.created", "post:1", Some("1"), &[id])]).await;
    receiver.next().await;
    world.until("SELECT count(*) = 1 FROM portalhook.deliveries WHERE status = 'pending'").await;
    world.client.batch_execute("DELETE FROM portalhook.endpoints").await.expect("delete");
    // The stream has not reached the deletion yet, so it still routes events there.
    for vote in ["vote:1", "vote:2", "vote:3"] {
        world.commit(&[("vote.created", vote, Some("1"), &[id])]).await;
    }
    world.until("SELECT count(*) = 1 FROM portalhook.settled_ranges").await;
    assert_eq!(world.value("SELECT (status, due_at) FROM portalhook.deliveries").await, "(cancelled,)");
    let range = "SELECT (first_sequence, last_sequence, reason) FROM portalhook.settled_ranges";
    assert_eq!(world.value(range).await, r#"(2,4,"cancelled: the endpoint was deleted")"#);
    world.client.batch_execute("DELETE FROM portalhook.routes; NOTIFY portalhook").await.expect("the stream passes");
    world.until("SELECT count(*) = 0 FROM portalhook.cursors").await;
    world.stop(running).await;
    assert!(receiver.is_quiet());
    assert_eq!(world.value("SELECT count(*) FROM portalhook.settled_ranges").await, "1");
}

#[tokio::test]
async fn a_missing_and_an_oversized_body_are_visible_failures_that_cost_no_attempt_on_the_wire() {
    let mut world = World::new().await;
    world.settings.max_body = 60;
    let mut receiver = Receiver::new().await;
    let id = world.endpoint(&receiver.url, &[]).await;
    let committed = world
        .commit_silently(&[("vote.created", "vote:1", None, &[id]), ("vote.created", &"v".repeat(99), None, &[id])])
        .await;
    world.client.batch_execute("UPDATE portalhook.events SET body = NULL WHERE position = 1").await.expect("prune");
    let running = world.start();
    world.lose(committed);
    world.until("SELECT count(*) = 2 FROM portalhook.deliveries").await;
    world.stop(running).await;
    let rows = "SELECT array_agg((status, error_class) ORDER BY position) FROM portalhook.deliveries";
    assert_eq!(world.value(rows).await, r#"{"(failed,body_missing)","(failed,body_too_large)"}"#);
    assert!(receiver.is_quiet());
}

#[tokio::test]
async fn while_a_secret_rotates_old_and_new_verify() {
    let mut world = World::new().await;
    let mut receiver = Receiver::new().await;
    let id = world.endpoint(&receiver.url, &[]).await;
    let new = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYX";
    let sql = "INSERT INTO portalhook.secrets VALUES ('4', $1, $2, now() + interval '1 hour')";
    world.client.execute(sql, &[&new, &SECRET]).await.expect("rotate");
    let running = world.start();
    world.commit(&[("vote.created", "vote:1", None, &[id])]).await;
    let request = receiver.next().await;
    for secret in [new, SECRET] {
        let official = standardwebhooks::Webhook::new(secret).expect("a secret");
        official.verify(&request.body, &request.headers).expect("verifies");
    }
    world.stop(running).await;
}

#[tokio::test]
async fn a_redelivery_has_the_same_bytes_and_sequence() {
    let mut world = World::new().await;
    let mut receiver = Receiver::new().await;
    let id = world.endpoint(&receiver.url, &[]).await;
    let running = world.start();
    world.votes(2, &[id]).await;
    let first = receiver.take(2).await;
    world.until("SELECT sum(cardinality(positions)) = 2 FROM portalhook.successes").await;
    let redeliver = "INSERT INTO portalhook.deliveries (endpoint, position, recorded_on, sequence, event_id, status, attempts, due_at)
                     SELECT endpoints[1], position, recorded_on, sequences[1], id, 'pending', 0, now()
                     FROM portalhook.events WHERE position = 2; NOTIFY portalhook";
    world.client.batch_execute(redeliver).await.expect("redeliver");
    let again = receiver.next().await;
    let original = first.iter().find(|request| request.number("webhook-sequence") == 2).expect("arrived");
    assert_eq!(again.body, original.body);
    assert_eq!(again.number("webhook-sequence"), 2);
    world.until("SELECT status = 'delivered' FROM portalhook.deliveries").await;
    world.stop(running).await;
    assert!(receiver.is_quiet());
}

#[tokio::test]
async fn what_retention_gave_up_is_not_sent_and_nobody_minds_that_its_day_is_gone() {
    let mut world = World::new().await;
    let (mut receiver, mut other) = (Receiver::gated().await, Receiver::new().await);
    receiver.answer_with(&[500]);
    let id = world.endpoint(&receiver.url, &[("max_in_flight", "1"), ("retries", "'{1 hour}'")]).await;
    let running = world.start();
    // The second waits for a place while the first is in flight.
    world.commit(&[("vote.created", "vote:1", None, &[id]), ("vote.created", "vote:2", None, &[id])]).await;
    receiver.next().await;
    let retention =
        "UPDATE portalhook.cursors SET position = 2, sequence = 2; DROP TABLE portalhook_ledger.deliveries_20260131";
    world.client.batch_execute(retention).await.expect("give up");
    // Once the other endpoint gets something, the settings were read, and the cursors with them.
    let second = world.endpoint(&other.url, &[]).await;
    world.commit(&[("vote.created", "vote:3", None, &[id, second])]).await;
    other.next().await;
    receiver.release(3);
    assert_eq!(receiver.next().await.number("webhook-sequence"), 3);
    world.until("SELECT count(*) = 2 FROM portalhook.successes").await;
    world.stop(running).await;
    assert!(receiver.is_quiet());
    assert_eq!(world.value("SELECT count(*) FROM portalhook.deliveries").await, "0");
}
