//! Setup beside an application at work.

use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use tokio::sync::Notify;

use super::*;

/// Setup's output, and a bell for each line.
#[derive(Clone, Default)]
struct Heard {
    text: Arc<Mutex<String>>,
    bell: Arc<Notify>,
}

impl Write for Heard {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.text.lock().expect("lock").push_str(&String::from_utf8_lossy(bytes));
        self.bell.notify_one();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Heard {
    async fn until(&self, part: &str) {
        while !self.text.lock().expect("lock").contains(part) {
            self.bell.notified().await;
        }
    }
}

#[tokio::test]
async fn a_locked_table_makes_setup_wait_and_not_the_application() {
    let server = application(FIDER);
    let blocker = connect(&server, Throwaway::SUPERUSER).await;
    // What a long CREATE INDEX or an ALTER takes; the mapping can be checked, the publication cannot be made.
    blocker.batch_execute("BEGIN; LOCK TABLE public.comments IN SHARE MODE").await.expect("lock");
    let heard = Heard::default();
    let options = options(&server);
    let mut out = heard.clone();
    let setup = tokio::spawn(async move { run(&options, &mut out).await });
    heard.until("trying again").await;
    blocker.batch_execute("ROLLBACK").await.expect("unlock");
    setup.await.expect("join").expect("setup");
    assert_mirrors_equal(&server);
}

#[tokio::test]
async fn the_copy_is_one_moment_of_a_database_that_is_being_written() {
    let server = application(FIDER);
    server.psql("portal", "CREATE TABLE pulse (n int)").expect("pulse");
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let started = Arc::new(Notify::new());
    // Every transaction writes a post, its vote and a user together: a copy must have all three or none.
    let writer = connect(&server, Throwaway::SUPERUSER).await;
    let (stopping, start) = (Arc::clone(&stop), Arc::clone(&started));
    let writing = tokio::spawn(async move {
        let mut n = 1000;
        while !stopping.load(std::sync::atomic::Ordering::Relaxed) {
            writer
                .batch_execute(&format!(
                    "BEGIN;
                     INSERT INTO users (id, tenant_id, name, email, role, status, created_at) VALUES ({n}, 1, 'U', 'u{n}@x.y', 1, 1, now());
                     INSERT INTO posts (id, tenant_id, number, title, slug, description, user_id, status, is_approved, language, created_at)
                         VALUES ({n}, 1, {n}, 't', 's{n}', 'd', {n}, 0, true, 'english', now());
                     SAVEPOINT s; DELETE FROM post_votes; ROLLBACK TO s;
                     INSERT INTO post_votes (user_id, post_id, tenant_id, created_at) VALUES ({n}, {n}, 1, now());
                     COMMIT"
                ))
                .await
                .expect("write");
            if n == 1020 {
                start.notify_one();
            }
            n += 1;
        }
        n - 1000
    });
    started.notified().await;
    let said = report(&options(&server)).await;
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    let written = writing.await.expect("join");
    said.expect("setup");
    let copied = lines(
        &server,
        "SELECT (SELECT count(*) FROM portalhook_mirror.\"public.posts\" WHERE id >= 1000),
                (SELECT count(*) FROM portalhook_mirror.\"public.users\" WHERE id >= 1000),
                (SELECT count(*) FROM portalhook_mirror.\"public.post_votes\" WHERE post_id >= 1000),
                (SELECT count(*) FROM portalhook_mirror.counters WHERE posts = 1 AND votes = 1 AND user_id::int >= 1000)",
    );
    let counts: Vec<i32> = copied[0].split('|').map(|count| count.parse().expect("count")).collect();
    assert!(counts.iter().all(|count| *count == counts[0]), "{counts:?}");
    assert!(counts[0] >= 21 && counts[0] < written, "{counts:?} of {written}");
    // What the copy does not have, the slot has: three inserts a transaction, none twice, none missing.
    let in_slot = lines(
        &server,
        "SELECT count(*) FROM pg_logical_slot_peek_binary_changes((SELECT slot FROM portalhook.checkpoint), NULL, NULL,
             'proto_version', '1', 'publication_names', 'portalhook') WHERE get_byte(data, 0) = ascii('I')",
    );
    assert_eq!(in_slot, [(3 * (written - counts[0])).to_string()]);
}
