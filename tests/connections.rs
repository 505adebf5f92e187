//! The daemon over TLS, from the vote to the webhook.

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

use crate::support::cluster::Database;
use crate::support::portal::Portal;
use crate::support::receiver::Receiver;

const RULES: &str = "local all all trust\nhost all admin 127.0.0.1/32 trust\n\
                     hostssl all all 127.0.0.1/32 scram-sha-256 clientcert=verify-full";

struct Files {
    directory: tempfile::TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Files {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "an authority");
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("a certificate");
        let files = Self { directory: tempfile::tempdir().expect("a directory"), issuer };
        files.write("ca.crt", &files.issuer.pem());
        files
    }

    /// A certificate and its key.
    fn sign(&self, common_name: &str, name: &str) -> (String, String) {
        let mut params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
        params.distinguished_name.push(DnType::CommonName, common_name);
        let key = KeyPair::generate().expect("a key");
        (params.signed_by(&key, &self.issuer).expect("a certificate").pem(), key.serialize_pem())
    }

    fn write(&self, name: &str, text: &str) {
        use std::os::unix::fs::PermissionsExt as _;
        let path = self.directory.path().join(name);
        std::fs::write(&path, text).expect("write");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("set the mode");
    }

    fn path(&self) -> &str {
        self.directory.path().to_str().expect("UTF-8")
    }
}

/// Everything at once, as a careful operator has it: the server proves itself by its certificate and the login is bound to
/// it; the daemon proves itself by a certificate and a password; all files are the service's credentials.
#[test]
fn a_vote_arrives_from_a_server_that_lets_nobody_in_without_certificates() {
    let files = Files::new();
    let mut portal = Portal::without_setup(Database::on_its_own_server(&[]), include_str!("../sql/demo/portal.sql"));
    let role = portal.database.role();
    portal.sql(&format!("CREATE ROLE {role} LOGIN REPLICATION PASSWORD 'pa ss'"));
    let (certificate, key) = files.sign("db", "db.example");
    for (name, text) in
        [("server.crt", &*certificate), ("server.key", &*key), ("ca.crt", &*files.issuer.pem()), ("pg_hba.conf", RULES)]
    {
        portal.sql(&format!(
            "COPY (SELECT regexp_split_to_table('{text}', E'\\n')) TO PROGRAM 'umask 077; cat > {name}'"
        ));
    }
    portal.sql("ALTER SYSTEM SET ssl = on; ALTER SYSTEM SET ssl_ca_file = 'ca.crt'");
    portal.database.restart();
    let (certificate, key) = files.sign(&role, "unimportant");
    files.write("client.crt", &certificate);
    files.write("client.key", &key);
    files.write("database_password", "pa ss\n");
    let tail = portal.database.role_url().split_once("127.0.0.1").expect("an address").1.to_owned();
    let url = |password: &str, host: &str| {
        format!(
            "postgres://{role}{password}@{host}{tail}?hostaddr=127.0.0.1&sslmode=verify-full&channel_binding=require\
             &sslrootcert={0}/ca.crt&sslcert={0}/client.crt&sslkey={0}/client.key",
            files.path()
        )
    };
    portal.configure(&url(":pa%20ss", "db.example"));
    portal.setup(include_str!("../sql/demo/views.sql"));
    let check = portal.command(&["check"]);
    assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stdout));

    portal.configure(&url("", "db.example"));
    let receiver = Receiver::start();
    let endpoint = portal.endpoint(&receiver);
    let daemon = portal.spawn(&[("CREDENTIALS_DIRECTORY", files.path())]);
    daemon.wait_for_line("streaming");
    portal.sql("INSERT INTO votes (id, post_id, user_id) VALUES (1, 99, 49);");
    assert_eq!(portal.event_names(&receiver, endpoint), ["vote.created 1"]);
    let clear = portal.sql(&format!(
        "SELECT count(*) FILTER (WHERE NOT ssl), bool_or(s.application_name ILIKE '%capture%' OR s.backend_type = 'walsender')
         FROM pg_stat_ssl JOIN pg_stat_activity AS s USING (pid) WHERE usename = '{role}'"
    ));
    assert_eq!(clear, "0|t", "connections in the clear, and whether there is one for the stream");
    daemon.terminate();

    // Another name, and nothing is said to that server.
    portal.configure(&url(":pa%20ss", "other.example"));
    let mut daemon = portal.spawn(&[]);
    assert_eq!(daemon.wait_for_end().code(), Some(69));
    let said = daemon.said().join("\n");
    assert!(said.contains("it is not for other.example, but for db.example"), "{said}");
    assert!(!said.contains("pa ss") && !said.contains("pa%20ss") && !said.contains("PRIVATE"), "{said}");
}
