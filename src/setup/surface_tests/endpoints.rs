//! What an endpoint may be.

use super::*;

#[tokio::test]
async fn a_wrong_url_is_refused_with_what_is_allowed() {
    let (_server, client) = migrated().await;
    let long = format!("https://example.com/{}", "a".repeat(2048));
    let cases = [
        ("", "empty", "https://host/path"),
        ("example.com/hooks", "does not begin with https:// or http://", "https://host/path"),
        ("ftp://example.com/", "does not begin with", "https://host/path"),
        ("javascript:alert(1)", "does not begin with", "https://host/path"),
        ("https://", "names no host", "https://host/path"),
        ("https:///path", "names no host", "https://host/path"),
        ("https://:443/", "names no host", "https://host/path"),
        ("https://user:pw@example.com/", "user name or password", "headers"),
        ("https://example.com/#top", "fragment", "Leave out"),
        ("https://example.com/a b", "a space", "%20"),
        ("https://example.com/\nx", "line break", "https://host/path"),
        ("https://exämple.com/", "'ä'", "xn--"),
        ("https://exa$mple.com/", "not the name or address of a host", "IPv6"),
        ("https://-example.com/", "not the name or address of a host", "IPv6"),
        ("https://[1::2::3]/", "not the name or address of a host", "IPv6"),
        ("https://example.com:0/", "the port '0'", "https://host:8443"),
        ("https://example.com:70000/", "the port '70000'", "https://host:8443"),
        ("https://example.com:/", "the port ''", "https://host:8443"),
        ("https://example.com\\@evil.com/", "user name", "headers"),
        ("https://example.com/a\\b", "backslash", "https://host/path"),
        (&long, "2068 characters", "At most 2048"),
    ];
    for (url, message, hint) in cases {
        let sql = format!("INSERT INTO portalhook.endpoints (url) VALUES ('{url}')");
        all_refused(&client, &[(&sql, message, hint)]).await;
    }
    let password = refused(&client, "INSERT INTO portalhook.endpoints (url) VALUES ('https://u:hunter2@h/')").await;
    assert!(!password.message().contains("hunter2"), "{password}");
    for url in [
        "https://example.com",
        "HTTPS://Example.com/hooks?x=1&y=%20",
        "http://127.0.0.1:8080/in",
        "http://[::1]:9000/",
        "http://my_service:80",
        "https://example.com/a@b:c",
        "https://xn--exmple-cua.com./",
    ] {
        client.batch_execute(&format!("INSERT INTO portalhook.endpoints (url) VALUES ('{url}')")).await.expect(url);
    }
}

#[tokio::test]
async fn wrong_events_headers_limits_and_secrets_are_refused_with_what_is_allowed() {
    let (_server, client) = migrated().await;
    let cases = [
        ("events", "'{vote.crated}'", "there is no event 'vote.crated'", "Did you mean vote.created?"),
        ("events", "'{Post.Created}'", "there is no event 'Post.Created'", "Did you mean post.created?"),
        (
            "events",
            "'{nothing.like.it}'",
            "there is no event",
            "Known are post.created, post.deleted, post.status_changed",
        ),
        ("events", "'{}'", "wants no events", "{*}"),
        ("events", "NULL", "wants no events", "{*}"),
        ("events", "'{{vote.created},{post.created}}'", "not a simple list", "{vote.created"),
        ("events", "'{vote.created,NULL}'", "there is no event null", "Known are"),
        ("portal", "''", "portal is empty", "null for all portals"),
        ("max_in_flight", "-1", "max_in_flight is -1", "from 1 to 1000"),
        ("max_in_flight", "0", "max_in_flight is 0", "from 1 to 1000"),
        ("max_in_flight", "100000", "max_in_flight is 100000", "from 1 to 1000"),
        ("timeout_ms", "-5", "timeout_ms is -5", "100 to 300000"),
        ("timeout_ms", "3000000", "timeout_ms is 3000000", "100 to 300000"),
        ("retries", "'{5s,five}'", "'five' is not a wait", "{5s,5m,2h,1d}"),
        ("retries", "'{31d}'", "'31d' is not a wait", "1s to 30d"),
        ("retries", "'{0s}'", "'0s' is not a wait", "1s to 30d"),
        ("retries", "'{-5m}'", "'-5m' is not a wait", "1s to 30d"),
        ("retries", "'{5s,NULL}'", "null is not a wait", "1s to 30d"),
        ("retries", "array_fill('5s'::text, ARRAY[51])", "not a list of at most 50", "{5s,5m,2h}"),
        ("ordering", "'random'", "ordering is 'random'", "none, causal and strict"),
        ("signature_encoding", "'hex64'", "signature_encoding is 'hex64'", "hex and base64"),
        ("signature_header", "'Bad Header'", "not the name of a header", "X-Api-Key"),
        ("signature_header", "'Content-Type'", "cannot be set", "portalhook's to write"),
        ("signature_prefix", "E'a\\nb'", "signature_prefix cannot be sent", "sha256="),
        ("headers", "'[]'", "headers is a json array", "{\"X-Name\""),
        ("headers", "'{\"Host\": \"x\"}'", "the header Host cannot be set", "portalhook's to write"),
        ("headers", "'{\"content-length\": \"1\"}'", "cannot be set", "portalhook's to write"),
        ("headers", "'{\"Webhook-Id\": \"1\"}'", "the header Webhook-Id cannot be set", "Webhook-*"),
        ("headers", "'{\"signature\": \"1\"}'", "carries the signature", "another signature_header"),
        ("headers", "'{\"X A\": \"1\"}'", "not the name of a header", "X-Api-Key"),
        ("headers", "'{\"\": \"1\"}'", "not the name of a header", "X-Api-Key"),
        ("headers", "'{\"X-A\": 1}'", "has a json number", "in double quotes"),
        (
            "headers",
            "'{\"X-A\": \"1\\r\\nHost: evil\"}'",
            "the value of the header X-A cannot be sent",
            "no line break",
        ),
        ("headers", "'{\"X-A\": \"1\", \"x-a\": \"2\"}'", "there twice", "once"),
        ("secret", "'hunter2'", "the secret is not whsec_", "one is made for you"),
        ("secret", "'whsec_====aaaa'", "the secret is not whsec_", "24 to 64"),
        ("secret", "'whsec_AAAAA'", "base64 is not valid", "24 to 64"),
        ("secret", "'whsec_' || encode('short', 'base64')", "the secret has 5 bytes", "24 to 64"),
        ("secret", "'whsec_' || repeat('AAAA', 22)", "the secret has 66 bytes", "24 to 64"),
    ];
    for (column, value, message, hint) in cases {
        let sql = format!("INSERT INTO portalhook.endpoints (url, {column}) VALUES ('https://e.x/', {value})");
        all_refused(&client, &[(&sql, message, hint)]).await;
    }
    client
        .batch_execute(
            r#"INSERT INTO portalhook.custom_events (name) VALUES ('roadmap.published');
            INSERT INTO portalhook.endpoints (url, events, headers, retries, secret, signature_header, signature_encoding, signature_prefix,
                                              max_in_flight, timeout_ms, ordering, portal)
            VALUES ('https://e.x/', '{roadmap.published,post.*,vote.created}', '{"Authorization": "Bearer a b", "X-Empty": ""}', '{5s,5m,2h,1d}',
                    portalhook.new_secret(), 'X-Hub-Signature-256', 'base64', 'sha256=', 5, 1000, 'strict', '4')"#,
        )
        .await
        .expect("a good endpoint");
    // What was allowed when it was written stays: the daemon must be able to disable it.
    client
        .batch_execute("DELETE FROM portalhook.custom_events; UPDATE portalhook.endpoints SET enabled = false, disabled_reason = 'gone'")
        .await
        .expect("an update of something else");
    all_refused(
        &client,
        &[("UPDATE portalhook.endpoints SET id = DEFAULT", "the id of an endpoint cannot change", "Add a new")],
    )
    .await;
    all_refused(&client, &[("UPDATE portalhook.endpoints SET max_in_flight = -1", "max_in_flight is -1", "1 to 1000")])
        .await;
}
