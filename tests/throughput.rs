//! Work is done in batches, never an event at a time.

use std::fmt::Write as _;

use crate::support::portal::{Portal, distinct};
use crate::support::receiver::{Received, Receiver};

const VOTES: usize = 10_000;

#[test]
fn ten_thousand_transactions_go_through_in_batches() {
    let portal = Portal::sample();
    portal.sql("CREATE EXTENSION pg_stat_statements;");
    let receiver = Receiver::start();
    portal.endpoint(&receiver);
    // Committed one by one while the daemon is down: it meets them all at once.
    let script = (1..=VOTES).fold(String::new(), |mut script, number| {
        writeln!(script, "INSERT INTO votes (id, post_id, user_id) VALUES ({number}, 99, 49);").expect("a String");
        script
    });
    portal.sql(&script);
    portal.sql("SELECT pg_stat_statements_reset();");
    let daemon = portal.run();
    let received =
        receiver.wait_for("every vote", |received| received.len() >= VOTES && last_sequence(received) >= VOTES);
    portal.wait_for_outcome("SELECT count(*) = 0 FROM portalhook.pending");
    daemon.terminate();
    assert_eq!(distinct(&received).len(), VOTES);
    let calls: usize = portal
        .sql(&format!(
            "SELECT coalesce(sum(s.calls), 0) FROM pg_stat_statements AS s
             JOIN pg_roles AS r ON r.oid = s.userid JOIN pg_database AS d ON d.oid = s.dbid
             WHERE r.rolname = '{}' AND d.datname = current_database()",
            portal.database.role()
        ))
        .parse()
        .expect("a number");
    assert!(calls > 0, "the daemon's statements are counted");
    assert!(calls < VOTES / 5, "{calls} statements for {VOTES} transactions");
}

fn last_sequence(received: &[Received]) -> usize {
    let last = received.iter().map(Received::sequence).max().unwrap_or_default();
    usize::try_from(last).expect("fits")
}
