//! Slots: made, seen, lost, dropped; where the snapshot ends and the stream begins.

use tokio_postgres::error::SqlState;

use super::{Portal, SLOT, inserted, slot};

#[tokio::test]
async fn the_snapshot_and_the_stream_meet_without_gap_or_overlap() {
    let portal = Portal::start(&[]).await;
    portal.sql("INSERT INTO posts VALUES (1, 'before')").await;
    let exported = slot::create(&portal.database, SLOT).await.expect("create");
    portal.sql("INSERT INTO posts VALUES (2, 'after')").await;

    portal.sql("BEGIN ISOLATION LEVEL REPEATABLE READ").await;
    portal.sql(&format!("SET TRANSACTION SNAPSHOT '{}'", exported.snapshot)).await;
    assert_eq!(portal.text("SELECT string_agg(id::text, ',') FROM posts").await, "1");
    portal.sql("COMMIT").await;

    let lsn = exported.consistent_point;
    drop(exported);
    let mut capture = portal.capture(lsn, 1 << 20);
    assert_eq!(inserted(&capture.next().await), ["2"]);
    capture.stop().await;
}

#[tokio::test]
async fn slots_are_created_seen_and_dropped() {
    let portal = Portal::start(&[]).await;
    assert_eq!(slot::read(&portal.admin, SLOT).await.expect("read"), None);
    let lsn = portal.create_slot().await;
    let slot = slot::read(&portal.admin, SLOT).await.expect("read").expect("a slot");
    assert_eq!(slot.name, SLOT);
    assert_eq!((slot.plugin.as_deref(), slot.database.as_deref()), (Some("pgoutput"), Some("portal")));
    assert_eq!((slot.confirmed_flush, slot.wal_status), (Some(lsn), Some(slot::WalStatus::Reserved)));
    assert!(slot.restart.is_some_and(|restart| restart <= lsn));
    assert!(slot.retained_bytes.is_some_and(|bytes| bytes >= 0));
    assert!(!slot.is_lost());

    let error = slot::create(&portal.database, SLOT).await.err().expect("refused");
    assert_eq!(error.sqlstate(), Some(&SqlState::DUPLICATE_OBJECT), "{error:?}");

    let mut first = portal.capture(lsn, 1 << 20);
    first.streaming().await;
    let slot = slot::read(&portal.admin, SLOT).await.expect("read").expect("a slot");
    assert!(slot.active_pid.is_some());
    let error = portal.capture(lsn, 1 << 20).error().await;
    assert_eq!(error.sqlstate(), Some(&SqlState::OBJECT_IN_USE), "{error:?}");
    let error = slot::drop(&portal.admin, SLOT).await.expect_err("refused");
    assert_eq!(error.sqlstate(), Some(&SqlState::OBJECT_IN_USE), "{error:?}");

    // After a shutdown the slot is free at once.
    first.stop().await;
    assert!(slot::drop(&portal.admin, SLOT).await.expect("dropped"));
    assert!(!slot::drop(&portal.admin, SLOT).await.expect("nothing to drop"));
    let error = portal.capture(lsn, 1 << 20).error().await;
    assert_eq!(error.sqlstate(), Some(&SqlState::UNDEFINED_OBJECT), "{error:?}");

    let exported = slot::create(&portal.database, SLOT).await.expect("create");
    exported.discard().await.expect("discard");
    assert_eq!(slot::read(&portal.admin, SLOT).await.expect("read"), None);
}

#[tokio::test]
async fn a_slot_whose_wal_was_removed_is_lost() {
    let portal = Portal::start(&["max_slot_wal_keep_size = '1MB'", "max_wal_size = '32MB'"]).await;
    let lsn = portal.create_slot().await;
    for _ in 0..3 {
        portal.sql("INSERT INTO other VALUES (1); SELECT pg_switch_wal()").await;
    }
    portal.sql("CHECKPOINT").await;
    let slot = slot::read(&portal.admin, SLOT).await.expect("read").expect("a slot");
    assert!(slot.is_lost(), "{slot:?}");
    let error = portal.capture(lsn, 1 << 20).error().await;
    assert_eq!(error.sqlstate(), Some(&SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE), "{error:?}");
}
