//! The tester against requests signed as delivery signs them.

use std::time::{SystemTime, UNIX_EPOCH};

use super::*;
use crate::deliver::sign::{Encoding, Keys};

const SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
const BODY: &str = r#"{"id":"vg3EGg2wcHgd8nMl","creation_time":"2022-06-01T18:17:37Z","event":"vote.created","data":{"vote":{"id":500,"voter":{"id":48,"name":"Rubenb"}},"post":{"id":99,"title":"This is a great\nidea"},"portal":{"id":4,"title":"Test Portal"}}}"#;

struct Tester {
    url: String,
    deliveries: mpsc::Receiver<Delivery>,
    client: reqwest::Client,
}

async fn tester() -> Tester {
    drop(rustls::crypto::ring::default_provider().install_default());
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let url = format!("http://{}/hooks", listener.local_addr().expect("bound"));
    let (sender, deliveries) = mpsc::channel(16);
    let (stop, shutdown) = watch::channel(false);
    let secrets = vec![Secret::parse(SECRET).expect("a secret")];
    tokio::spawn(async move {
        let stop = stop;
        serve(listener, secrets, Answers::default(), sender, shutdown).await.expect("serve");
        drop(stop);
    });
    Tester { url, deliveries, client: reqwest::Client::builder().no_proxy().build().expect("a client") }
}

impl Tester {
    /// Sends a body signed with `secret`, `late` seconds ago; gives the status and what the tester says.
    async fn send(&mut self, id: &str, sequence: i64, secret: &str, late: u64, sent: &str) -> (u16, Delivery) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
        let timestamp = i64::try_from(now - late).expect("small");
        let keys = Keys { current: Secret::parse(secret).expect("a secret"), previous: None };
        let response = self
            .client
            .post(&self.url)
            .header("webhook-id", id)
            .header("webhook-timestamp", timestamp)
            .header("webhook-signature", keys.webhook_signature(id, timestamp, BODY.as_bytes()))
            .header("signature", keys.body_signature(Encoding::Hex, "", BODY.as_bytes()))
            .header("webhook-sequence", sequence)
            .header("webhook-attempt", 1)
            .body(sent.to_owned())
            .send()
            .await
            .expect("an answer");
        (response.status().as_u16(), self.deliveries.recv().await.expect("serving"))
    }
}

#[tokio::test]
async fn a_signed_delivery_is_verified_and_told_readably() {
    let mut tester = tester().await;
    let (status, delivery) = tester.send("vg3EGg2wcHgd8nMl", 1, SECRET, 0, BODY).await;
    assert_eq!((status, &delivery.verdict), (200, &Ok(())));
    let text = print::text(&delivery, false);
    let (first, second) = text.split_once('\n').expect("two lines");
    assert!(first.ends_with(r#"  verified  vote.created  Rubenb → "This is a great idea""#), "{first}");
    assert_eq!(second.trim(), "id vg3EGg2wcHgd8nMl  sequence 1  attempt 1");
    let json: serde_json::Value = serde_json::from_str(&print::json(&delivery)).expect("JSON");
    assert_eq!((&json["verified"], &json["body"]["data"]["post"]["id"]), (&true.into(), &99.into()));
}

#[tokio::test]
async fn what_is_forged_altered_or_old_is_not_verified() {
    let mut tester = tester().await;
    let other = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYX";
    let altered = BODY.replace("500", "501");
    for (secret, late, body, reason) in [
        (other, 0, BODY, "webhook-signature was not made with this secret for this body"),
        (SECRET, 0, altered.as_str(), "webhook-signature was not made with this secret for this body"),
        (SECRET, 400, BODY, "webhook-timestamp is 400 s off"),
    ] {
        let (status, delivery) = tester.send("a", 1, secret, late, body).await;
        assert_eq!(status, 401);
        let said = delivery.verdict.as_ref().expect_err(reason);
        // A second may pass between sending and receiving.
        assert_eq!(said.replace("401 s", "400 s"), reason);
        assert!(print::text(&delivery, false).contains("NOT VERIFIED (webhook-"), "{said}");
    }
}

#[tokio::test]
async fn duplicates_and_gaps_are_told() {
    let mut tester = tester().await;
    tester.send("a", 1, SECRET, 0, BODY).await;
    let (_, again) = tester.send("a", 1, SECRET, 0, BODY).await;
    assert!(again.duplicate && again.skipped.is_none());
    assert!(print::text(&again, false).ends_with("duplicate: this id came before"));
    let (_, later) = tester.send("b", 4, SECRET, 0, BODY).await;
    assert!(!later.duplicate);
    assert!(print::text(&later, false).ends_with("not seen yet: 2-3"));
    let (_, filled) = tester.send("c", 2, SECRET, 0, BODY).await;
    assert!(!filled.duplicate && filled.skipped.is_none());
}

/// A request whose headers verify.
fn signed(id: &str, sequence: i64) -> HeaderMap {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    let timestamp = i64::try_from(now).expect("small");
    let keys = Keys { current: Secret::parse(SECRET).expect("a secret"), previous: None };
    let headers = [
        ("webhook-id", id.to_owned()),
        ("webhook-timestamp", timestamp.to_string()),
        ("webhook-signature", keys.webhook_signature(id, timestamp, BODY.as_bytes())),
        ("signature", keys.body_signature(Encoding::Hex, "", BODY.as_bytes())),
        ("webhook-sequence", sequence.to_string()),
    ];
    headers.into_iter().map(|(name, value)| (name.parse().expect("a name"), value.parse().expect("a value"))).collect()
}

/// Requests overtake each other between arriving and being printed.
#[tokio::test]
async fn what_was_printed_before_is_not_missing() {
    let (deliveries, mut printed) = mpsc::channel(16);
    let secrets = vec![Secret::parse(SECRET).expect("a secret")];
    let (mut answers, came) = (Answers::default(), AtomicU64::new(0));
    answers.delay = Some(Duration::from_millis(50));
    let desk = Arc::new(Desk { secrets, answers, came, deliveries, seen: Mutex::default() });
    let path = Uri::from_static("/hooks");
    let request = |id: &str, sequence| {
        Box::pin(receive(
            State(Arc::clone(&desk)),
            path.clone(),
            signed(id, sequence),
            Bytes::from_static(BODY.as_bytes()),
        ))
    };
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    request("a", 4).await;
    let (mut later, earlier) = (request("c", 7), request("b", 5));
    assert!(later.as_mut().poll(&mut context).is_pending(), "it arrives first");
    earlier.await;
    later.await;
    let mut skipped = Vec::new();
    while let Ok(delivery) = printed.try_recv() {
        skipped.push((delivery.sequence, delivery.skipped));
    }
    assert_eq!(skipped, [(Some(4), None), (Some(5), None), (Some(7), Some((6, 6)))]);
}

#[tokio::test]
async fn the_command_ends_with_zero_after_enough_verified_deliveries_and_with_one_before() {
    let options = |count| Options {
        listen: "127.0.0.1:0".parse().expect("an address"),
        port: None,
        secrets: vec![Secret::parse(SECRET).expect("a secret")],
        count,
        timeout: None,
        answers: Answers::default(),
        json: true,
        verbose: false,
    };
    let (stop, shutdown) = watch::channel(false);
    stop.send(true).expect("listening");
    assert_eq!(run(options(Some(1)), shutdown.clone()).await.expect("runs"), ExitCode::FAILURE);
    assert_eq!(run(options(None), shutdown.clone()).await.expect("runs"), ExitCode::SUCCESS);
    assert_eq!(run(options(Some(0)), shutdown).await.expect("runs"), ExitCode::SUCCESS);
}

#[tokio::test]
async fn the_command_ends_with_one_when_its_time_is_over_before_enough_came() {
    let options = Options {
        listen: "127.0.0.1:0".parse().expect("an address"),
        port: None,
        secrets: vec![Secret::parse(SECRET).expect("a secret")],
        count: Some(1),
        timeout: Some(Duration::from_millis(1)),
        answers: Answers::default(),
        json: true,
        verbose: false,
    };
    let (_stop, shutdown) = watch::channel(false);
    assert_eq!(run(options, shutdown).await.expect("runs"), ExitCode::FAILURE);
}
