//! Overflow, lost offers, restarts and kills: nothing is lost, and what comes twice is the same.

use std::collections::BTreeMap;
use std::time::Duration;

use super::world::{Received, Receiver, Spec, World};
use crate::error::Kind;

fn sequences(requests: &[Received]) -> Vec<i64> {
    let mut sequences: Vec<i64> = requests.iter().map(|request| request.number("webhook-sequence")).collect();
    sequences.sort_unstable();
    sequences
}

#[tokio::test]
async fn what_does_not_fit_into_memory_is_read_back_from_the_ledger() {
    let mut world = World::new().await;
    let mut receiver = Receiver::new().await;
    let id = world.endpoint(&receiver.url, &[]).await;
    let running = world.start();
    for _ in 0..5 {
        world.votes(700, &[id]).await;
    }
    assert_eq!(sequences(&receiver.take(3500).await), (1..=3500).collect::<Vec<_>>());
    world.stop(running).await;
    assert!(receiver.is_quiet());
    assert_eq!(world.value("SELECT (position, sequence) FROM portalhook.cursors").await, "(3500,3500)");
    assert_eq!(world.value("SELECT sum(cardinality(positions)) FROM portalhook.successes").await, "3500");
}

#[tokio::test]
async fn a_lost_offer_is_noticed_and_read_from_the_ledger() {
    let mut world = World::new().await;
    let mut receiver = Receiver::new().await;
    let id = world.endpoint(&receiver.url, &[]).await;
    let running = world.start();
    world.votes(1, &[id]).await;
    receiver.next().await;
    let lost = world
        .commit_silently(&[("vote.created", "vote:a", None, &[id]), ("vote.created", "vote:b", None, &[id])])
        .await;
    world.lose(lost);
    world.votes(1, &[id]).await;
    assert_eq!(sequences(&receiver.take(3).await), [2, 3, 4]);
    world.stop(running).await;
    assert!(receiver.is_quiet());
}

#[tokio::test]
async fn a_restart_goes_on_at_the_cursor() {
    let mut world = World::new().await;
    let mut receiver = Receiver::new().await;
    let id = world.endpoint(&receiver.url, &[]).await;
    let running = world.start();
    world.votes(20, &[id]).await;
    receiver.take(20).await;
    world.stop(running).await;
    world.votes(20, &[id]).await;
    let running = world.start();
    assert_eq!(sequences(&receiver.take(20).await), (21..=40).collect::<Vec<_>>());
    world.stop(running).await;
    assert!(receiver.is_quiet());
}

#[tokio::test]
async fn after_a_kill_everything_arrives_and_duplicates_are_the_same() {
    let mut world = World::new().await;
    let mut receiver = Receiver::new().await;
    receiver.answer_with(&[200, 500, 200, 500]);
    let id = world.endpoint(&receiver.url, &[]).await;
    let mut seen: BTreeMap<i64, (String, Vec<u8>)> = BTreeMap::new();
    let mut total = 0;
    for round in 0..6 {
        let running = world.start();
        world.votes(200, &[id]).await;
        total += 200;
        // Killed at different moments, with attempts in flight and outcomes not recorded.
        let count = if round == 5 { usize::MAX } else { 37 * (round + 1) };
        let mut taken = 0;
        while taken < count && (round < 5 || seen.len() < total) {
            let request = receiver.next().await;
            let this = (request.header("webhook-id").to_owned(), request.body.to_vec());
            let sequence = request.number("webhook-sequence");
            assert_eq!(seen.entry(sequence).or_insert_with(|| this.clone()), &this, "sequence {sequence}");
            taken += 1;
        }
        if round < 5 { world.kill(running).await } else { world.stop(running).await }
    }
    assert_eq!(seen.keys().copied().collect::<Vec<_>>(), (1..=1200).collect::<Vec<_>>());
    assert_eq!(world.value("SELECT (position, sequence) FROM portalhook.cursors").await, "(1200,1200)");
}

#[tokio::test]
async fn a_shutdown_costs_no_attempt() {
    let mut world = World::new().await;
    world.settings.drain = Duration::ZERO;
    let mut receiver = Receiver::gated().await;
    let id = world.endpoint(&receiver.url, &[]).await;
    let running = world.start();
    world.votes(1, &[id]).await;
    assert_eq!(receiver.next().await.number("webhook-attempt"), 1);
    world.stop(running).await;
    assert_eq!(world.value("SELECT count(*) FROM portalhook.deliveries").await, "0");
    receiver.release(2);
    let running = world.start();
    assert_eq!(receiver.next().await.number("webhook-attempt"), 1);
    world.stop(running).await;
}

#[tokio::test]
async fn a_shutdown_waits_for_attempts_in_flight_and_records_them() {
    let mut world = World::new().await;
    let mut receiver = Receiver::gated().await;
    let id = world.endpoint(&receiver.url, &[]).await;
    let running = world.start();
    world.votes(1, &[id]).await;
    receiver.next().await;
    let (stopped, ()) = tokio::join!(world.stop(running), async {
        tokio::task::yield_now().await;
        receiver.release(1);
    });
    let () = stopped;
    assert_eq!(world.value("SELECT positions FROM portalhook.successes").await, "{1}");
}

#[tokio::test]
async fn a_retry_that_was_due_before_a_restart_is_made_after_it() {
    let mut world = World::new().await;
    let mut receiver = Receiver::new().await;
    receiver.answer_with(&[503]);
    let id = world.endpoint(&receiver.url, &[("retries", "'{1 hour}'")]).await;
    let running = world.start();
    world.commit(&[("post.created", "post:1", Some("1"), &[id]), ("vote.created", "vote:1", Some("1"), &[id])]).await;
    receiver.next().await;
    world.stop(running).await;
    assert_eq!(world.value("SELECT (status, attempts) FROM portalhook.deliveries").await, "(pending,1)");
    // Order survives the restart: the vote still waits for its post's retry.
    let running = world.start();
    world
        .client
        .batch_execute("UPDATE portalhook.deliveries SET due_at = now(); NOTIFY portalhook")
        .await
        .expect("due");
    let retried = receiver.next().await;
    assert_eq!((retried.number("webhook-sequence"), retried.number("webhook-attempt")), (1, 2));
    assert_eq!(receiver.next().await.number("webhook-sequence"), 2);
    world.stop(running).await;
}

#[tokio::test]
async fn a_post_that_fails_holds_up_no_other_post_however_many_of_its_events_wait() {
    let mut world = World::new().await;
    let mut receiver = Receiver::new().await;
    receiver.answer_with(&[500]);
    let columns = [("retries", "'{1 hour}'"), ("ordering", "'strict'")];
    let id = world.endpoint(&receiver.url, &columns).await;
    let running = world.start();
    world.commit(&[("post.created", "post:1", Some("1"), &[id])]).await;
    receiver.next().await;
    let votes: Vec<String> = (0..3000).map(|number| format!("vote:{number}")).collect();
    let only = [id];
    let votes: Vec<Spec<'_>> = votes.iter().map(|vote| ("vote.created", vote.as_str(), Some("1"), &only[..])).collect();
    world.commit(&votes).await;
    world.commit(&[("vote.created", "vote:x", Some("2"), &[id])]).await;
    assert_eq!(receiver.next().await.number("webhook-sequence"), 3002);
    world.until("SELECT count(*) = 1 FROM portalhook.successes").await;
    assert!(receiver.is_quiet());
    // The post goes through, and all that waited follows, in order.
    world
        .client
        .batch_execute("UPDATE portalhook.deliveries SET due_at = now(); NOTIFY portalhook")
        .await
        .expect("due");
    let sequences: Vec<i64> =
        receiver.take(3001).await.iter().map(|request| request.number("webhook-sequence")).collect();
    assert_eq!(sequences, (1..=3001).collect::<Vec<_>>());
    world.stop(running).await;
    assert_eq!(world.value("SELECT (position, sequence) FROM portalhook.cursors").await, "(3002,3002)");
}

#[tokio::test]
async fn a_lost_database_ends_the_dispatcher_and_the_next_one_goes_on_with_the_same_feed() {
    let mut world = World::new().await;
    let mut receiver = Receiver::new().await;
    let id = world.endpoint(&receiver.url, &[]).await;
    let running = world.start();
    world.votes(3, &[id]).await;
    receiver.take(3).await;
    world.until("SELECT sum(cardinality(positions)) = 3 FROM portalhook.successes").await;
    let sql = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
               WHERE datname = current_database() AND pid <> pg_backend_pid()";
    assert_eq!(world.value(sql).await, "2");
    let error = world.ended(running).await.expect_err("the database went away");
    assert_eq!(error.kind(), Kind::Unavailable, "{error:?}");
    world.votes(3, &[id]).await;
    let running = world.start();
    assert_eq!(sequences(&receiver.take(3).await), [4, 5, 6]);
    world.stop(running).await;
    assert!(receiver.is_quiet());
}
