//! A value of any size passes through bounded memory, and what cannot be sent is a visible failure.

use crate::support::portal::{Portal, name_and_id};
use crate::support::receiver::{Received, Receiver};
use crate::support::session::{CATALOG_IS_WAITED_FOR, Holder, once};

/// The budget that the daemon keeps, in KiB.
pub(crate) const BUDGET: usize = 96 << 10;

/// Text of so many MiB that hardly compresses, as an expression.
pub(crate) fn text(mebibytes: usize, seed: &str) -> String {
    format!("(SELECT repeat(string_agg(md5('{seed}' || n), 'é'), {mebibytes}) FROM generate_series(1, 30840) AS n)")
}

/// Runs a statement and waits until the daemon is through with it.
pub(crate) fn play(portal: &Portal, receiver: &Receiver, endpoint: i64, sql: &str) {
    let tests = |received: &[Received]| received.iter().filter(|request| request.event() == "webhook.test").count();
    let before = tests(&receiver.received());
    portal.sql(sql);
    portal.sql(&format!("SELECT portalhook.test({endpoint})"));
    receiver.wait_for(&format!("the test after {sql:.60}"), |received| tests(received) > before);
}

#[test]
fn a_description_of_50_megabytes_fits_the_budget_and_its_events_fail_visibly() {
    // Without compression: it is the server's time.
    let portal = Portal::sample_with("ALTER TABLE posts ALTER COLUMN description SET STORAGE EXTERNAL;");
    let receiver = Receiver::start();
    let endpoint = portal.endpoint_with(&receiver, "events", "'{*,post.updated}'");
    let daemon = portal.run();
    portal.sql("ALTER TABLE portalhook_mirror.\"public.posts\" ALTER COLUMN description SET STORAGE EXTERNAL");
    let equal = "SELECT p.description = m.description FROM posts AS p JOIN portalhook_mirror.\"public.posts\" AS m USING (id) WHERE id = 100";
    let insert = format!(
        "INSERT INTO posts (id, title, user_id, portal_id, description) VALUES (100, 'Large', 48, 4, {})",
        text(50, "a")
    );
    let update = |seed: &str| format!("UPDATE posts SET description = {} WHERE id = 100;\n", text(50, seed));
    let mut peaks = Vec::new();
    for sql in [
        insert,
        "UPDATE posts SET status = 'planned' WHERE id = 100".to_owned(),
        "INSERT INTO votes (id, post_id, user_id) VALUES (2, 100, 49)".to_owned(),
        "UPDATE posts SET description = description || '' WHERE id = 100".to_owned(),
        [update("b"), update("c")].concat(),
    ] {
        play(&portal, &receiver, endpoint, &sql);
        assert_eq!(portal.sql(equal), "t", "the mirror after {sql:.60}");
        peaks.push(daemon.peak_memory_kib());
    }
    play(&portal, &receiver, endpoint, "DELETE FROM posts WHERE id = 100");
    play(&portal, &receiver, endpoint, "INSERT INTO comments (id, post_id, user_id, body) VALUES (1, 99, 49, 'Small')");
    peaks.push(daemon.peak_memory_kib());
    portal.wait_for_outcome("SELECT count(*) = 0 FROM portalhook.pending");
    let failed = portal.sql(
        "SELECT string_agg(concat_ws(' ', event, entity, status, error_class), ', ' ORDER BY position)
         FROM portalhook.deliveries AS d JOIN portalhook.events AS e USING (position)",
    );
    assert_eq!(
        failed.replace(" failed body_missing", ""),
        "post.created post:100, post.status_changed post:100, vote.created vote:2, post.updated post:100, post.updated post:100, \
         post.deleted post:100, vote.deleted vote:2"
    );
    let received = receiver.received();
    let arrived: Vec<String> =
        received.iter().filter(|request| request.event() != "webhook.test").map(name_and_id).collect();
    assert_eq!(arrived, ["comment.created 1"]);
    let small = received.iter().find(|request| request.event() == "comment.created").expect("it arrived");
    assert_eq!(small.data("/post/author/counter_posts"), 1, "the large post is gone from the counters, too");
    println!("peaks in KiB: {peaks:?}");
    assert!(peaks.iter().all(|peak| *peak <= BUDGET), "{peaks:?}");
}

#[test]
fn large_values_of_other_types_reach_the_mirror_as_they_are() {
    let portal = Portal::new(
        &format!(
            "{}\nALTER TABLE posts ADD COLUMN document jsonb, ADD COLUMN raw bytea, ADD COLUMN parts text[];",
            include_str!("../sql/demo/portal.sql")
        ),
        &include_str!("../sql/demo/views.sql").replace("status,", "status, document, raw, parts,"),
    );
    let receiver = Receiver::start();
    let endpoint = portal.endpoint(&receiver);
    let _daemon = portal.run();
    let set = format!(
        "UPDATE posts SET document = jsonb_build_object('a', {0}), raw = convert_to({0}, 'UTF8'), parts = ARRAY[{0}, NULL, E'\\\\\\\\\"'] WHERE id = 99",
        text(2, "a")
    );
    play(&portal, &receiver, endpoint, &set);
    play(
        &portal,
        &receiver,
        endpoint,
        &format!(
            "INSERT INTO posts SELECT 100, title, {}, status, user_id, portal_id, views, created_at, NULL, document, raw, parts FROM posts WHERE id = 99",
            text(3, "b")
        ),
    );
    let differing = portal.sql(
        "SELECT count(*) FROM posts AS p JOIN portalhook_mirror.\"public.posts\" AS m USING (id)
         WHERE (p.description, p.document, p.raw, p.parts) IS DISTINCT FROM (m.description, m.document, m.raw, m.parts)",
    );
    assert_eq!(differing, "0");
    // Small again: what it says is whole again.
    play(&portal, &receiver, endpoint, "UPDATE posts SET document = '{}', raw = NULL, parts = NULL WHERE id = 99");
    play(&portal, &receiver, endpoint, "INSERT INTO votes (id, post_id, user_id) VALUES (1, 99, 49)");
    let vote = receiver.received().into_iter().find(|request| request.event() == "vote.created").expect("it arrived");
    assert_eq!(vote.data("/post/description"), "Wow. This is the best idea I have ever seen!");
}

/// Whether the write session has ever held a value.
const HOLDS: &str = "SELECT count(*) > 0 FROM pg_class WHERE relname = 'portalhook_values'";

/// A post, with an attachment that no SELECT names, and a daemon with these limits.
fn passes_by(limits: &str) {
    let portal = Portal::sample_with("ALTER TABLE posts ADD COLUMN attachment bytea;");
    let receiver = Receiver::start();
    let endpoint = portal.endpoint_with(&receiver, "events", "'{post.status_changed}'");
    let daemon = portal.spawn(&[("PORTALHOOK_LIMITS", limits)]);
    daemon.wait_for_line("streaming");
    let attach = |seed: &str| {
        format!("UPDATE posts SET attachment = convert_to({}, 'UTF8'), title = '{seed}' WHERE id = 99;", text(2, seed))
    };
    play(&portal, &receiver, endpoint, &attach("a"));
    play(&portal, &receiver, endpoint, &format!("BEGIN; {} {} COMMIT;", attach("b"), attach("c")));
    assert_eq!(portal.sql(HOLDS), "f");
    // One that is named is held, beside one that is not.
    let both = format!(
        "UPDATE posts SET description = {}, attachment = convert_to({}, 'UTF8') WHERE id = 99",
        text(2, "d"),
        text(2, "e")
    );
    play(&portal, &receiver, endpoint, &both);
    assert_eq!(portal.sql(HOLDS), "t");
    assert_eq!(crate::support::mirror::differences(&portal), "");
    // Named from here on, it is not passed by any more.
    portal.sql("UPDATE portalhook.mapping SET query = replace(query, 'created_at', 'created_at, octet_length(attachment) AS size') WHERE entity = 'posts'");
    daemon.wait_for_line("in force from here on");
    portal.sql(&format!(
        "{} UPDATE posts SET description = ''; UPDATE posts SET status = 'planned' WHERE id = 99",
        attach("f")
    ));
    is_told_with_its_size(&portal, &receiver, endpoint);
}

#[track_caller]
fn is_told_with_its_size(portal: &Portal, receiver: &Receiver, endpoint: i64) {
    let events = portal.events(receiver, endpoint);
    let size = portal.sql("SELECT octet_length(attachment) FROM posts WHERE id = 99");
    assert_eq!(events.last().expect("an event").data("/post/size").to_string(), size);
    assert_eq!(crate::support::mirror::differences(portal), "");
}

#[test]
fn a_large_value_of_a_column_that_no_select_names_is_written_nowhere() {
    passes_by("");
}

#[cfg(feature = "failpoints")]
#[test]
fn a_large_value_in_a_large_transaction_that_no_select_names_is_written_nowhere() {
    passes_by("part:1,page:2");
}

/// The plan in force does not name it, the one that the copy is for does.
#[test]
fn a_large_value_that_comes_while_its_column_is_copied_is_there() {
    let portal = Portal::sample_with("ALTER TABLE posts ADD COLUMN attachment bytea;");
    let receiver = Receiver::start();
    let endpoint = portal.endpoint_with(&receiver, "events", "'{post.status_changed}'");
    let daemon = portal.run();
    play(&portal, &receiver, endpoint, "UPDATE posts SET title = 'Before' WHERE id = 99");
    // The copy has looked, and cannot end.
    let ours = Holder::of(&portal, "LOCK portalhook.catalog IN EXCLUSIVE MODE");
    portal.sql(
        "UPDATE portalhook.mapping SET query = replace(query, 'created_at', 'created_at, octet_length(attachment) AS size') WHERE entity = 'posts'",
    );
    portal.sql(&once(CATALOG_IS_WAITED_FOR));
    play(
        &portal,
        &receiver,
        endpoint,
        &format!("UPDATE posts SET attachment = convert_to({}, 'UTF8') WHERE id = 99", text(2, "a")),
    );
    drop(ours);
    daemon.wait_for_line("in force from here on");
    portal.sql("UPDATE posts SET status = 'planned' WHERE id = 99");
    is_told_with_its_size(&portal, &receiver, endpoint);
    let again: Vec<String> = daemon.said().into_iter().filter(|line| line.contains("again")).collect();
    assert_eq!(again, [""; 0], "neither the copy nor the daemon");
}

/// The row came before anybody knew that it is wanted: it comes again.
#[test]
fn a_large_value_that_a_mapping_names_only_at_a_pause_is_there() {
    let portal = Portal::sample_with("ALTER TABLE posts ADD COLUMN attachment text;");
    let receiver = Receiver::start();
    let endpoint = portal.endpoint_with(&receiver, "events", "'{post.status_changed}'");
    let daemon = portal.run();
    // From now on the daemon knows how the table is described.
    play(&portal, &receiver, endpoint, "UPDATE posts SET title = 'Before' WHERE id = 99");
    portal.sql(&format!(
        "BEGIN; UPDATE posts SET attachment = {}, description = {} WHERE id = 99;
         ALTER TABLE posts RENAME title TO headline; ALTER TABLE posts RENAME description TO body;
         UPDATE posts SET headline = 'After' WHERE id = 99; COMMIT;",
        text(2, "a"),
        text(2, "b")
    ));
    daemon.wait_for_line("is called headline now");
    portal.sql(
        "UPDATE portalhook.mapping SET query = replace(query, 'title, description,', 'headline AS title, body AS description, octet_length(attachment) AS size,')
         WHERE entity = 'posts'",
    );
    daemon.wait_for_line("in force from here on");
    portal.sql("UPDATE posts SET body = '' WHERE id = 99; UPDATE posts SET status = 'planned' WHERE id = 99");
    is_told_with_its_size(&portal, &receiver, endpoint);
    let faults: Vec<String> = daemon.said().into_iter().filter(|line| line.contains("starting again")).collect();
    assert_eq!(faults, [""; 0]);
}
