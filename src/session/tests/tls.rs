//! `sslmode` and its kin against real servers, for both kinds of connection.

use tokio_postgres::error::SqlState;

use super::authority::{Authority, PASSWORD, escaped, self_signed, serve, start};
use super::{ask_both, both, database};
use crate::error::{Error, Kind};
use crate::session::surroundings::Surroundings;
use crate::session::{Database, Replication};
use crate::throwaway::Throwaway;

/// What the server says of the connection.
const HOW: &str =
    "SELECT CASE WHEN ssl THEN 'encrypted' ELSE 'clear' END FROM pg_stat_ssl WHERE pid = pg_backend_pid()";

/// What both kinds of connection come to, which must be the same: how they are, or the line that says why not.
async fn how(url: &str) -> String {
    let [sql, replication] = match Database::parse(url) {
        Ok(database) => ask_both(&database, HOW).await,
        Err(error) => return format!("{error:?}"),
    };
    let line = |answer: Result<String, Error>| answer.unwrap_or_else(|error| format!("{error:?}"));
    let (sql, replication) = (line(sql), line(replication));
    // The message is PostgreSQL's, the words around it differ.
    if !sql.contains("FATAL") && !sql.contains("db error") {
        assert_eq!(sql, replication, "{url}");
    }
    replication
}

/// Asserts what a URL comes to: `encrypted`, `clear`, or a piece of the line that refuses it.
async fn comes_to(url: &str, expected: &str) {
    let came = how(url).await;
    let as_expected =
        if expected == "encrypted" || expected == "clear" { came == expected } else { came.contains(expected) };
    assert!(as_expected, "{url}\n  came to: {came}\n expected: {expected}");
    assert!(!came.contains('\n'), "one line: {came}");
}

#[tokio::test]
async fn each_sslmode_does_what_libpq_does() {
    let (ours, other) = (Authority::new("ours"), Authority::new("another one"));
    let mut server = start();
    let tcp = format!("hostaddr=127.0.0.1&port={}", server.port());
    let url = |host: &str, rest: &str| format!("postgres://by_trust@/portal?host={host}&{tcp}&{rest}");
    // The server offers no TLS.
    for mode in ["disable", "allow", "prefer"] {
        comes_to(&url("db.example", &format!("sslmode={mode}")), "clear").await;
    }
    comes_to(&url("db.example", ""), "clear").await;
    for mode in ["require", "verify-ca", "verify-full"] {
        let expected = format!(
            "at db.example:{} (127.0.0.1): the server does not support TLS, but sslmode={mode} demands it: set ssl = on there",
            server.port()
        );
        comes_to(&url("db.example", &format!("sslmode={mode}&{}", ours.root())), &expected).await;
    }
    // It does; there are no roots, the right ones, and wrong ones; the name is right and wrong.
    serve(&mut server, &ours.sign("unimportant", &["db.example", "127.0.0.1"]), &ours.certificate());
    let unknown = "the server's certificate cannot be trusted: unknown issuer: ";
    let wrong_name = "it is not for other.example, but for db.example, ";
    let missing = "needs sslrootcert: the file with the certificate of the authority";
    let (ours, other) = (ours.root(), other.root());
    let expectations: &[(&str, &str, &str, &str, &str)] = &[
        // mode, without roots, right roots, wrong roots, right roots and wrong name
        ("disable", "clear", "clear", "clear", "clear"),
        ("allow", "clear", "clear", "clear", "clear"),
        ("prefer", "encrypted", "encrypted", "clear", "encrypted"),
        ("require", "encrypted", "encrypted", unknown, "encrypted"),
        ("verify-ca", missing, "encrypted", unknown, "encrypted"),
        ("verify-full", missing, "encrypted", unknown, wrong_name),
    ];
    for (mode, without, right, wrong, other_name) in expectations {
        let mode = format!("sslmode={mode}");
        comes_to(&url("db.example", &mode), without).await;
        comes_to(&url("db.example", &format!("{mode}&{ours}")), right).await;
        comes_to(&url("127.0.0.1", &format!("{mode}&{ours}")), right).await;
        comes_to(&url("db.example", &format!("{mode}&{other}")), wrong).await;
        comes_to(&url("other.example", &format!("{mode}&{ours}")), other_name).await;
    }
    comes_to(&url("db.example", ""), "encrypted").await;
    comes_to(
        &url("db.example", &format!("sslmode=verify-full&{ours}&ssl_min_protocol_version=TLSv1.3&sslsni=0")),
        "encrypted",
    )
    .await;
    // On a Unix socket there is no TLS, whatever the mode.
    let socket = escaped(server.socket_directory());
    comes_to(
        &format!("postgres://by_trust@/portal?host={socket}&port={}&sslmode=verify-full&{other}", server.port()),
        "clear",
    )
    .await;
}

#[tokio::test]
async fn where_pg_hba_conf_wants_it_otherwise_prefer_and_allow_follow() {
    let authority = Authority::new("ours");
    let mut server = start();
    serve(&mut server, &authority.sign("db", &["127.0.0.1"]), &authority.certificate());
    let url = |role: &str, mode: &str| server.url(role, &format!("portal?sslmode={mode}"));
    for (role, mode, expected) in [
        ("only_encrypted", "allow", "encrypted"),
        ("only_encrypted", "prefer", "encrypted"),
        ("only_clear", "prefer", "clear"),
        ("only_clear", "allow", "clear"),
        ("only_encrypted", "disable", "no encryption"),
        ("only_clear", "require", "SSL encryption"),
    ] {
        comes_to(&url(role, mode), expected).await;
    }
    for answer in both(&url("only_clear", "require")).await {
        let error = answer.expect_err("refused");
        assert_eq!(error.sqlstate(), Some(&SqlState::INVALID_AUTHORIZATION_SPECIFICATION), "{error:?}");
    }
    // A wrong password is not tried again in the clear.
    let url = server.url("by_scram:wr0ng", "portal?sslmode=prefer");
    for answer in both(&url).await {
        let error = answer.expect_err("refused");
        assert_eq!((error.kind(), error.sqlstate()), (Kind::Usage, Some(&SqlState::INVALID_PASSWORD)), "{error:?}");
        assert!(!format!("{error:?}").contains("wr0ng"), "{error:?}");
    }
    assert_eq!(server.said().matches("password authentication failed for user \"by_scram\"").count(), 2);
}

#[tokio::test]
async fn a_login_is_bound_to_the_servers_certificate_where_both_sides_can() {
    let mut server = start();
    let url = |server: &Throwaway, role: &str, rest: &str| {
        server.url(&format!("{role}:{PASSWORD}"), &format!("portal?{rest}"))
    };
    let refused = "channel_binding=require, but the server does not bind the login to TLS";
    comes_to(&url(&server, "by_scram", "channel_binding=require"), refused).await;
    for (algorithm, binds) in [
        (&rcgen::PKCS_ECDSA_P256_SHA256, true),
        (&rcgen::PKCS_ECDSA_P384_SHA384, true),
        // Names no hash: nothing to bind to.
        (&rcgen::PKCS_ED25519, false),
    ] {
        let authority = Authority::signing_with("ours", algorithm);
        serve(&mut server, &authority.sign("db", &["127.0.0.1"]), &authority.certificate());
        for (binding, expected) in
            [("disable", "encrypted"), ("prefer", "encrypted"), ("require", if binds { "encrypted" } else { refused })]
        {
            let rest = format!("sslmode=verify-full&{}&channel_binding={binding}", authority.root());
            comes_to(&url(&server, "by_scram", &rest), expected).await;
        }
    }
    // Whoever lets us in otherwise does not bind.
    for role in ["by_md5", "by_trust"] {
        comes_to(&url(&server, role, "sslmode=require&channel_binding=require"), refused).await;
        comes_to(&url(&server, role, "sslmode=require"), "encrypted").await;
    }
}

#[tokio::test]
async fn a_client_certificate_proves_the_role() {
    let (ours, other) = (Authority::new("ours"), Authority::new("another one"));
    let mut server = start();
    serve(&mut server, &ours.sign("db", &["127.0.0.1"]), &ours.certificate());
    let url = |role: &str, rest: &str| server.url(role, &format!("portal?sslmode=verify-full&{}&{rest}", ours.root()));
    let by_both = format!("by_both:{PASSWORD}");
    let good = ours.client("by_certificate");
    comes_to(&url("by_certificate", &good), "encrypted").await;
    comes_to(&url(&by_both, &ours.client("by_both")), "encrypted").await;
    // None, one for another role, one of another authority.
    comes_to(&url("by_certificate", ""), "requires a valid client certificate").await;
    comes_to(&url("by_certificate", &ours.client("somebody")), "certificate authentication failed for user").await;
    comes_to(&url(&by_both, &ours.client("somebody")), "authentication failed for user").await;
    let foreign = other.client("by_certificate");
    comes_to(&url("by_certificate", &foreign), "the server refuses our certificate (UnknownCA): sslcert ").await;

    // Files that are no good.
    let signed = ours.sign("by_certificate", &[]);
    let certificate = escaped(&ours.file("good.crt", &signed.certificate, 0o644));
    let key = |name: &str, text: &str, mode: u32| {
        format!("sslcert={certificate}&sslkey={}", escaped(&ours.file(name, text, mode)))
    };
    for (rest, expected) in [
        (key("open.key", &signed.key, 0o644), "open.key can be read by others: chmod 600 it"),
        (key("other.key", &ours.sign("x", &[]).key, 0o600), "other.key is not the key of sslcert "),
        (key("none.key", "s3cret", 0o600), "none.key: not a private key in PEM form"),
        (
            key("locked.key", &signed.key.replace("PRIVATE", "ENCRYPTED PRIVATE"), 0o600),
            "the key has a passphrase: take it off",
        ),
        (format!("sslcert={certificate}&sslkey=/no/such.key"), "sslkey /no/such.key: No such file"),
        (format!("sslcert=/no/such.crt&sslkey={certificate}"), "sslcert /no/such.crt: No such file"),
        (good.replace(".crt", ".key"), "not a certificate in PEM form"),
    ] {
        let error = Database::parse(&url("by_certificate", &rest)).expect_err("refused");
        assert_eq!(error.kind(), Kind::Usage);
        let text = format!("{error:?}");
        assert!(text.contains(expected), "{rest}: {text}");
        assert!(!text.contains("s3cret"), "{text}");
    }
    // Readable for a group only where root owns it, as systemd hands out credentials.
    let parsed = Database::parse(&url("by_certificate", &key("group.key", &signed.key, 0o440)));
    assert_eq!(parsed.is_ok(), crate::throwaway::is_root());
    let debug = format!("{:?}", database(&url(&by_both, &good)));
    assert!(!debug.contains("pa ss") && !debug.contains(PASSWORD), "{debug}");
}

#[tokio::test]
async fn says_what_is_wrong_with_a_servers_certificate() {
    let authority = Authority::new("ours");
    let mut server = start();
    let verify = |server: &Throwaway, root: &str| {
        server.url("by_trust", &format!("portal?sslmode=verify-full&sslrootcert={root}"))
    };
    let root = authority.root().replace("sslrootcert=", "");
    serve(&mut server, &authority.sign_expired("db", &["127.0.0.1"]), &authority.certificate());
    comes_to(&verify(&server, &root), "cannot be trusted: it has expired: the server needs a new one").await;
    serve(&mut server, &authority.sign("db", &[]), &authority.certificate());
    comes_to(&verify(&server, &root), "it is not for 127.0.0.1, but for no name (only names under").await;
    // What the documentation's `openssl req -x509` makes: an authority of its own. Named itself, it is good.
    let signed = self_signed("db", &["127.0.0.1"]);
    let itself = escaped(&authority.file("itself.crt", &signed.certificate, 0o644));
    serve(&mut server, &signed, &authority.certificate());
    comes_to(&verify(&server, &itself), "encrypted").await;
    let unknown = "cannot be trusted: it is an authority (CA) itself, and not one that sslrootcert holds";
    comes_to(&verify(&server, &root), unknown).await;
    let another = self_signed("db", &["127.0.0.1"]);
    serve(&mut server, &another, &authority.certificate());
    comes_to(&verify(&server, &itself), unknown).await;
}

#[tokio::test]
async fn tls_from_the_first_byte_is_there_from_version_17_on() {
    let authority = Authority::new("ours");
    let mut server = start();
    serve(&mut server, &authority.sign("db", &["127.0.0.1"]), &authority.certificate());
    let version = server.psql("postgres", "SHOW server_version_num").expect("psql");
    let url = server.url("by_trust", &format!("portal?sslmode=verify-full&sslnegotiation=direct&{}", authority.root()));
    let expected = if version.trim() >= "170000" { "encrypted" } else { "the server ended the TLS handshake" };
    comes_to(&url, expected).await;
}

#[tokio::test]
async fn default_files_are_those_in_the_home() {
    let authority = Authority::new("ours");
    let mut server = start();
    serve(&mut server, &authority.sign("db", &["127.0.0.1"]), &authority.certificate());
    let home = tempfile::tempdir().expect("a directory");
    let files = home.path().join(".postgresql");
    std::fs::create_dir(&files).expect("make");
    let around = Surroundings { home: Some(home.path().to_owned()), ..Surroundings::default() };
    let parse =
        |mode: &str| Database::parse_with(&server.url("by_certificate", &format!("portal?sslmode={mode}")), &around);
    assert!(parse("verify-full").is_err(), "there is no root.crt yet");
    std::fs::write(files.join("root.crt"), authority.certificate()).expect("write");
    let signed = authority.sign("by_certificate", &[]);
    std::fs::write(files.join("postgresql.crt"), &signed.certificate).expect("write");
    std::fs::write(files.join("postgresql.key"), &signed.key).expect("write");
    std::fs::set_permissions(files.join("postgresql.key"), std::os::unix::fs::PermissionsExt::from_mode(0o600))
        .expect("set the mode");
    for answer in ask_both(&parse("verify-full").expect("a URL"), HOW).await {
        assert_eq!(answer.expect("connected"), "encrypted");
    }
    // Files are read for each connection: a new root counts at once.
    let database = parse("require").expect("a URL");
    std::fs::write(files.join("root.crt"), Authority::new("another one").certificate()).expect("write");
    for answer in ask_both(&database, HOW).await {
        let error = answer.expect_err("refused");
        assert!(format!("{error:?}").contains("unknown issuer"), "{error:?}");
    }
}

#[tokio::test]
async fn a_stream_over_tls_brings_large_and_small_messages() {
    let authority = Authority::new("ours");
    let mut server = start();
    serve(&mut server, &authority.sign("db", &["127.0.0.1"]), &authority.certificate());
    let url = server.url(Throwaway::SUPERUSER, &format!("portal?sslmode=verify-full&{}", authority.root()));
    let mut connection = Replication::connect(&database(&url), super::NAME).await.expect("connect");
    // Larger than any record of TLS, both ways.
    let rows = connection.query(&format!("SELECT md5('{}'), repeat('y', 3000000)", "x".repeat(3_000_000)), "ask").await;
    let rows = rows.expect("rows");
    assert_eq!(rows[0][1].as_ref().map(String::len), Some(3_000_000));
    assert_eq!(rows[0][0].as_ref().map(String::len), Some(32));
}
