//! Two applications, Fider and Astuto, played against the daemon and matched event for event.

use crate::support::application::Application;
use crate::support::portal::Portal;
use crate::support::random::Random;
use crate::support::receiver::{Answer, Receiver};

#[test]
fn fider_is_followed_live() {
    live("fider");
}

#[test]
fn astuto_is_followed_live() {
    live("astuto");
}

#[test]
fn fider_is_caught_up_with_after_everything_happened_while_the_daemon_was_down() {
    caught_up("fider");
}

#[test]
fn astuto_is_caught_up_with_after_everything_happened_while_the_daemon_was_down() {
    caught_up("astuto");
}

#[test]
fn fider_survives_kills_of_the_daemon_at_any_moment() {
    for seed in [1, 2, 3] {
        killed("fider", seed);
    }
}

#[test]
fn astuto_survives_kills_of_the_daemon_at_any_moment() {
    for seed in [4, 5, 6] {
        killed("astuto", seed);
    }
}

fn live(name: &str) {
    let application = Application::load(name);
    let portal = Portal::new(&application.schema, &application.views);
    let receiver = Receiver::start();
    let endpoint = portal.endpoint(&receiver);
    let daemon = portal.run();
    for action in &application.actions {
        portal.sql(&action.sql);
    }
    application.check(&portal.events(&receiver, endpoint));
    says_no_secret(&daemon.said());
    daemon.terminate();
}

/// The mirror stands where the daemon stopped, so events say what was then, not what is now.
fn caught_up(name: &str) {
    let application = Application::load(name);
    let portal = Portal::new(&application.schema, &application.views);
    let receiver = Receiver::start();
    let endpoint = portal.endpoint(&receiver);
    for action in &application.actions {
        portal.sql(&action.sql);
    }
    let daemon = portal.run();
    application.check(&portal.events(&receiver, endpoint));
    says_no_secret(&daemon.said());
}

/// After each action the daemon may be killed: at once, or when a chosen number of its deliveries has come; some of its
/// requests are accepted without an answer.
fn killed(name: &str, seed: u64) {
    let application = Application::load(name);
    let portal = Portal::new(&application.schema, &application.views);
    let receiver = Receiver::scripted(move |request| {
        let mut random = Random(seed << 32 | request.arrival as u64);
        if random.below(5) == 0 { Answer::LoseResponse } else { Answer::Status(200) }
    });
    let endpoint = portal.endpoint(&receiver);
    let mut random = Random(seed);
    let mut daemon = portal.run();
    for (number, action) in application.actions.iter().enumerate() {
        portal.sql(&action.sql);
        if random.below(3) == 0 {
            // Never more than can come, so that the wait ends.
            let coming = application.expected_until(number).saturating_sub(receiver.distinct());
            receiver.wait_for_distinct(receiver.distinct() + random.below(coming + 1));
            portal.kill(daemon);
            daemon = portal.spawn(&[]);
            if random.below(2) == 0 {
                daemon.wait_for_line("streaming");
            }
        }
    }
    application.check(&portal.events(&receiver, endpoint));
    portal.kill(daemon);
    says_no_secret(&portal.said());
}

fn says_no_secret(log: &[String]) {
    let told = log.iter().find(|line| line.contains("never-send") || line.contains("whsec_"));
    assert_eq!(told, None, "a secret in the log");
}
