//! Order as tables and as properties: it is never violated, nothing gets stuck, and everything comes out once.

use proptest::prelude::*;

use super::*;

/// `post:1` is a `post.*` event of post 1; `vote:5@1` an event of an entity of post 1; `vote:5` one without a post.
fn place(text: &str) -> Place {
    let (entity, post) = match text.split_once('@') {
        Some((entity, post)) => (entity, Some(post)),
        None => (text, text.strip_prefix("post:")),
    };
    Place { entity: entity.into(), post: post.map(Into::into), of_the_post: entity.starts_with("post:") }
}

fn lane(ordering: Ordering, events: &[&str], now: Instant) -> Lane<()> {
    let mut lane = Lane::new(ordering, 16);
    for (position, event) in (1..).zip(events) {
        lane.admit(position, place(event), 0, (), now);
    }
    lane
}

fn all(lane: &mut Lane<()>, now: Instant) -> Vec<i64> {
    std::iter::from_fn(|| lane.next(now)).collect()
}

#[test]
fn votes_wait_for_their_post_and_for_earlier_events_of_the_same_vote() {
    let now = Instant::now();
    let mut lane = lane(Ordering::Causal, &["post:1", "vote:1@1", "vote:2@2", "vote:1@1", "post:1", "vote:3@1"], now);
    assert_eq!(all(&mut lane, now), [1, 3]);
    lane.delivered(1, now);
    assert_eq!(all(&mut lane, now), [2, 5]);
    lane.delivered(5, now);
    assert_eq!(all(&mut lane, now), [6]);
    lane.delivered(2, now);
    assert_eq!(all(&mut lane, now), [4]);
}

#[test]
fn strict_keeps_a_post_in_one_row_and_none_lets_everything_fly() {
    let now = Instant::now();
    let events = ["vote:1@1", "vote:2@1", "vote:3@2"];
    assert_eq!(all(&mut lane(Ordering::None, &events, now), now), [1, 2, 3]);
    let mut strict = lane(Ordering::Strict, &events, now);
    assert_eq!(all(&mut strict, now), [1, 3]);
    assert_eq!(strict.next_wake(), None);
    assert_eq!(all(&mut strict, now + 10 * LONGEST_WAIT), Vec::<i64>::new());
    strict.delivered(1, now);
    assert_eq!(all(&mut strict, now), [2]);
}

#[test]
fn in_causal_order_a_failing_event_holds_the_others_back_for_five_minutes() {
    let now = Instant::now();
    let mut lane = lane(Ordering::Causal, &["post:1", "vote:1@1"], now);
    assert_eq!(all(&mut lane, now), [1]);
    lane.failed(1, now);
    lane.rest(1, now + 2 * LONGEST_WAIT);
    assert_eq!(lane.next_wake(), Some(now + LONGEST_WAIT));
    assert_eq!(all(&mut lane, now + LONGEST_WAIT - Duration::from_millis(1)), Vec::<i64>::new());
    assert_eq!(all(&mut lane, now + LONGEST_WAIT), [2]);
    assert_eq!(all(&mut lane, now + 2 * LONGEST_WAIT), [1]);
}

#[test]
fn giving_up_lets_the_others_go_and_a_failure_does_not() {
    let now = Instant::now();
    let mut lane = lane(Ordering::Causal, &["vote:1", "vote:1"], now);
    assert_eq!(all(&mut lane, now), [1]);
    lane.failed(1, now);
    assert_eq!(all(&mut lane, now), Vec::<i64>::new());
    lane.given_up(1, now);
    assert_eq!(all(&mut lane, now), [2]);
}

#[test]
fn no_more_fly_at_once_than_the_endpoint_stands() {
    let now = Instant::now();
    let mut lane = lane(Ordering::None, &["a:1", "a:2", "a:3"], now);
    lane.adjust(Ordering::None, 2, now);
    assert_eq!(all(&mut lane, now), [1, 2]);
    lane.delivered(2, now);
    assert_eq!(all(&mut lane, now), [3]);
}

#[test]
fn a_dead_endpoint_s_backlog_stays_where_it_is_while_its_retries_go_on() {
    let now = Instant::now();
    let events: Vec<String> = (0..40).map(|number| format!("vote:{number}")).collect();
    let mut lane = lane(Ordering::Causal, &events.iter().map(String::as_str).collect::<Vec<_>>(), now);
    let mut started = 0;
    for _ in 0..5 {
        for position in all(&mut lane, now) {
            started += 1;
            lane.failed(position, now);
            lane.rest(position, now + Duration::from_secs(1800));
        }
    }
    assert_eq!(started, 16, "the first round; after that, probes only");
    assert_eq!(all(&mut lane, now + Duration::from_secs(1)), [17]);
    lane.failed(17, now);
    assert_eq!(all(&mut lane, now + Duration::from_secs(1800)).len(), 16, "retries, and one of the limit for a probe");
    lane.delivered(1, now);
    assert!(lane.next(now + Duration::from_secs(1800)).is_some());
}

#[derive(Clone, Debug)]
enum Step {
    Start,
    Deliver(prop::sample::Index),
    DeliverOldest,
    Fail(prop::sample::Index, u64),
    GiveUp(prop::sample::Index),
    Pass(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let any = any::<prop::sample::Index>;
    prop_oneof![
        4 => Just(Step::Start),
        2 => any().prop_map(Step::Deliver),
        2 => (any(), 1u64..400).prop_map(|(which, seconds)| Step::Fail(which, seconds)),
        1 => any().prop_map(Step::GiveUp),
        1 => (1u64..200).prop_map(Step::Pass),
    ]
}

/// The rule itself, written without any index.
fn goes_before(ordering: Ordering, earlier: &Place, later: &Place) -> bool {
    let same_post = earlier.post.is_some() && earlier.post == later.post;
    match ordering {
        Ordering::None => false,
        Ordering::Causal => earlier.entity == later.entity || (same_post && earlier.of_the_post),
        Ordering::Strict => earlier.entity == later.entity || same_post,
    }
}

proptest! {
    #[test]
    fn order_holds_nothing_sticks_and_everything_comes_out_once(
        ordering in prop_oneof![Just(Ordering::None), Just(Ordering::Causal), Just(Ordering::Strict)],
        kinds in prop::collection::vec((0..3u8, 0..4u8, 0..3u8), 1..40),
        steps in prop::collection::vec(step(), 0..150),
    ) {
        let places: Vec<Place> = kinds.iter().map(|(kind, entity, post)| match kind {
            0 => place(&format!("post:{post}")),
            1 => place(&format!("vote:{entity}@{post}")),
            _ => place(&format!("operation:{entity}")),
        }).collect();
        let mut now = Instant::now();
        let mut lane = Lane::new(ordering, 3);
        // What waits since when; None once it is settled.
        let mut since: Vec<Option<Instant>> = vec![Some(now); places.len()];
        for (position, place) in (0..).zip(&places) {
            lane.admit(position, place.clone(), 0, position, now);
        }
        let mut flying: Vec<i64> = Vec::new();
        let finish = [Step::Start, Step::DeliverOldest].into_iter().cycle().take(10_000);
        let mut settled = 0;
        for step in steps.into_iter().chain(finish) {
            match step {
                Step::Start => match lane.next(now) {
                    Some(position) => {
                        let this = usize::try_from(position).expect("small");
                        prop_assert!(since[this].is_some(), "{position} came out again");
                        prop_assert!(flying.len() < 3);
                        let waited = now - since[this].expect("unsettled");
                        for earlier in 0..this {
                            let holds = since[earlier].is_some() && goes_before(ordering, &places[earlier], &places[this]);
                            let over = ordering == Ordering::Causal && waited >= LONGEST_WAIT;
                            prop_assert!(!holds || over, "{position} overtook {earlier}");
                        }
                        flying.push(position);
                    }
                    // Nothing to start and nothing in flight: time must help, or everything is done.
                    None if flying.is_empty() && settled < places.len() => {
                        let wake = lane.next_wake();
                        prop_assert!(wake.is_some(), "stuck with {settled} of {} settled", places.len());
                        now = now.max(wake.expect("checked"));
                    }
                    None => {}
                },
                Step::Deliver(which) if !flying.is_empty() => {
                    let position = flying.swap_remove(which.index(flying.len()));
                    prop_assert_eq!(lane.delivered(position, now), Some(position));
                    since[usize::try_from(position).expect("small")] = None;
                    settled += 1;
                }
                Step::DeliverOldest if !flying.is_empty() => {
                    let position = flying.remove(0);
                    prop_assert_eq!(lane.delivered(position, now), Some(position));
                    since[usize::try_from(position).expect("small")] = None;
                    settled += 1;
                }
                Step::GiveUp(which) if !flying.is_empty() => {
                    let position = flying.swap_remove(which.index(flying.len()));
                    lane.failed(position, now);
                    prop_assert_eq!(lane.given_up(position, now), Some(position));
                    since[usize::try_from(position).expect("small")] = None;
                    settled += 1;
                }
                Step::Fail(which, seconds) if !flying.is_empty() => {
                    let position = flying.swap_remove(which.index(flying.len()));
                    lane.failed(position, now);
                    lane.rest(position, now + Duration::from_secs(seconds));
                    since[usize::try_from(position).expect("small")] = Some(now + Duration::from_secs(seconds));
                }
                Step::Pass(seconds) => now += Duration::from_secs(seconds),
                _ => {}
            }
        }
        prop_assert_eq!(settled, places.len());
        prop_assert!(lane.entries.is_empty() && lane.by_entity.is_empty() && lane.by_post.is_empty() && lane.of_post.is_empty());
        prop_assert!(lane.fresh.is_empty() && lane.again.is_empty() && lane.blocked.is_empty() && lane.in_flight() == 0);
    }
}

/// The dispatcher would look again and again, and never hear of the outcome that makes room.
#[test]
fn a_probe_that_is_due_asks_for_no_look_while_there_is_no_place_for_it() {
    let now = Instant::now();
    let mut lane = Lane::new(Ordering::None, 10);
    for position in 1..=20 {
        lane.admit(position, place(&format!("vote:{position}")), 0, (), now);
    }
    for position in all(&mut lane, now) {
        lane.failed(position, now);
        lane.rest(position, now);
    }
    assert_eq!(all(&mut lane, now).len(), 10, "the retries take every place");
    let later = now + Duration::from_secs(2);
    assert_eq!(lane.next(later), None);
    assert_eq!(lane.next_wake(), None);
    lane.given_up(1, later);
    assert_eq!(lane.next(later), Some(11), "the probe");
}
