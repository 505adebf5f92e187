//! The body, key for key.

use crate::support::portal::Portal;
use crate::support::receiver::Receiver;

/// Makes user 48 of the sample portal what the sample says: before the vote one vote, 18 comments and 12 posts.
const HISTORY: &str = "
    INSERT INTO posts (id, title, user_id, portal_id) SELECT n, 'Post ' || n, 48, 4 FROM generate_series(201, 211) AS n;
    INSERT INTO votes (id, post_id, user_id) VALUES (499, 98, 48);
    INSERT INTO comments (id, post_id, user_id, body) SELECT n, 98, 48, 'Comment ' || n FROM generate_series(301, 318) AS n;";

const VOTE: &str =
    "INSERT INTO votes (id, post_id, user_id, created_at) VALUES (500, 99, 48, '2022-06-01 18:17:37.808782+00');";

#[test]
fn the_sample_of_the_documentation_comes_key_for_key() {
    let portal = Portal::sample_with(HISTORY);
    let receiver = Receiver::start();
    let endpoint = portal.endpoint(&receiver);
    let _daemon = portal.run();
    portal.sql(VOTE);
    let events = portal.events(&receiver, endpoint);
    assert_eq!(events.len(), 1);
    let body = events[0].json();
    let time = body["creation_time"].as_str().expect("a time");
    assert!(time.len() == 20 && time.ends_with('Z'), "{time}: UTC, whole seconds");
    let author = r#"{"id":48,"name":"Rubenb","email":"ruben@abc.nl","role":"admin","counter_votes":2,"counter_comments":18,"counter_posts":12,"counter_comment_votes":0}"#;
    let expected = format!(
        r#"{{"id":"{}","creation_time":"{time}","event":"vote.created","data":{{"vote":{{"id":500,"created_at":"2022-06-01T18:17:37.808782Z","voter":{author}}},"post":{{"id":99,"title":"This is a great idea","description":"Wow. This is the best idea I have ever seen!","author":{author}}},"portal":{{"id":4,"title":"Test Portal"}}}}}}"#,
        events[0].id(),
    );
    assert_eq!(events[0].text(), expected);
}

#[test]
fn a_post_and_a_comment_carry_what_is_theirs() {
    let portal = Portal::sample();
    let receiver = Receiver::start();
    let endpoint = portal.endpoint(&receiver);
    let _daemon = portal.run();
    portal.sql(
        "INSERT INTO comments (id, post_id, user_id, body, created_at) VALUES (7, 99, 49, 'Yes, \"please\"', '2024-01-02 03:04:05+00');
         UPDATE posts SET status = 'planned' WHERE id = 99;",
    );
    let events = portal.events(&receiver, endpoint);
    let mara = r#"{"id":49,"name":"Mara","email":"mara@example.com","role":"user","counter_votes":0,"counter_comments":1,"counter_posts":1,"counter_comment_votes":0}"#;
    let ruben = r#"{"id":48,"name":"Rubenb","email":"ruben@abc.nl","role":"admin","counter_votes":0,"counter_comments":0,"counter_posts":1,"counter_comment_votes":0}"#;
    let data = |number: usize| events[number].text().split_once(r#""data":"#).expect("data").1.to_owned();
    assert_eq!(
        data(0),
        format!(
            r#"{{"comment":{{"id":7,"created_at":"2024-01-02T03:04:05.000000Z","comment":"Yes, \"please\"","author":{mara}}},"post":{{"id":99,"title":"This is a great idea","description":"Wow. This is the best idea I have ever seen!","author":{ruben}}},"portal":{{"id":4,"title":"Test Portal"}}}}}}"#
        )
    );
    assert_eq!(events[1].event(), "post.status_changed");
    let post = events[1].data("/post");
    let keys: Vec<&str> = post.as_object().expect("an object").keys().map(String::as_str).collect();
    let mut sorted = keys.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, ["author", "created_at", "description", "id", "status", "title"]);
    assert_eq!(events[1].data("/changes").to_string(), r#"{"status":{"from":"open","to":"planned"}}"#);
}

#[test]
fn the_same_change_has_the_same_id_and_bytes_for_every_endpoint() {
    let portal = Portal::sample();
    let (one, other) = (Receiver::start(), Receiver::start());
    let (first, second) = (portal.endpoint(&one), portal.endpoint(&other));
    let _daemon = portal.run();
    portal.sql(VOTE);
    let (here, there) = (portal.events(&one, first), portal.events(&other, second));
    assert_eq!((here.len(), there.len()), (1, 1));
    assert_eq!(here[0].id(), there[0].id());
    assert_eq!(here[0].body, there[0].body);
}

#[test]
fn numbers_times_and_text_are_written_as_the_database_has_them() {
    let portal = Portal::new(
        "CREATE TABLE things (id bigint PRIMARY KEY, title text, exact numeric, inexact float8, local timestamp, flag boolean,
                              labels text[], document jsonb, raw bytea, big bigint);",
        "CREATE VIEW portalhook.posts AS
             SELECT id, title, title AS description, 'open'::text AS status, NULL::int AS author, 1 AS portal,
                    local AT TIME ZONE 'UTC' AS created_at, exact, inexact, local, flag, labels, document, raw, big
             FROM public.things;
         CREATE VIEW portalhook.votes AS SELECT id, id AS post, id AS voter, now() AS created_at FROM public.things WHERE false;
         CREATE VIEW portalhook.comments AS SELECT id, id AS post, id AS author, title AS comment, now() AS created_at FROM public.things WHERE false;
         CREATE VIEW portalhook.users AS SELECT id, title AS name, title AS email, title AS role FROM public.things WHERE false;
         CREATE VIEW portalhook.portals AS SELECT 1 AS id, 'Only one'::text AS title;",
    );
    let receiver = Receiver::start();
    let endpoint = portal.endpoint(&receiver);
    let _daemon = portal.run();
    portal.sql(
        r#"INSERT INTO things VALUES (9007199254740993, E'Zoë\n"\\\t\u0001', 1.10, 'NaN', '2024-02-29 12:00:00.5', true,
           '{a,NULL,"b c"}', '{"b": 1.50, "a": [null]}', '\x00ff', -9223372036854775808);"#,
    );
    let events = portal.events(&receiver, endpoint);
    assert_eq!(events.len(), 1);
    let text = events[0].text();
    for part in [
        r#""id":9007199254740993"#,
        r#""title":"Zoë\n\"\\\t\u0001""#,
        r#""created_at":"2024-02-29T12:00:00.500000Z""#,
        r#""author":null"#,
        r#""exact":1.10"#,
        r#""inexact":"NaN""#,
        r#""local":"2024-02-29T12:00:00.500000Z""#,
        r#""flag":true"#,
        r#""labels":["a",null,"b c"]"#,
        r#""raw":"AP8=""#,
        r#""big":-9223372036854775808"#,
        r#""portal":{"id":1,"title":"Only one"}"#,
    ] {
        assert!(text.contains(part), "no {part} in {text}");
    }
    assert!(text.replace(' ', "").contains(r#""document":{"a":[null],"b":1.50}"#), "{text}");
}
