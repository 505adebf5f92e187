//! An authority (CA) of a test's own, and servers with its certificates.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, PKCS_ECDSA_P256_SHA256,
    SignatureAlgorithm,
};

use crate::throwaway::Throwaway;

/// Signs certificates; its own is in a file.
pub(super) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    directory: tempfile::TempDir,
}

/// A certificate and its key, in PEM.
pub(super) struct Signed {
    pub(super) certificate: String,
    pub(super) key: String,
}

fn params(common_name: &str, names: &[&str]) -> CertificateParams {
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    let mut params = CertificateParams::new(names).expect("names");
    params.distinguished_name.push(DnType::CommonName, common_name);
    params
}

impl Authority {
    pub(super) fn new(name: &str) -> Self {
        Self::signing_with(name, &PKCS_ECDSA_P256_SHA256)
    }

    pub(super) fn signing_with(name: &str, algorithm: &'static SignatureAlgorithm) -> Self {
        let mut params = params(name, &[]);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate_for(algorithm).expect("a key");
        let issuer = CertifiedIssuer::self_signed(params, key).expect("a certificate");
        let authority = Self { issuer, directory: tempfile::tempdir().expect("a directory") };
        authority.file("root.crt", &authority.certificate(), 0o644);
        authority
    }

    pub(super) fn certificate(&self) -> String {
        self.issuer.pem()
    }

    /// For these names and IP addresses.
    pub(super) fn sign(&self, common_name: &str, names: &[&str]) -> Signed {
        self.sign_params(&params(common_name, names))
    }

    /// The same, but it was good only long ago.
    pub(super) fn sign_expired(&self, common_name: &str, names: &[&str]) -> Signed {
        let mut params = params(common_name, names);
        params.not_before = rcgen::date_time_ymd(2001, 1, 1);
        params.not_after = rcgen::date_time_ymd(2002, 1, 1);
        self.sign_params(&params)
    }

    fn sign_params(&self, params: &CertificateParams) -> Signed {
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        Signed { certificate: certificate.pem(), key: key.serialize_pem() }
    }

    /// A file beside the authority's certificate.
    pub(super) fn file(&self, name: &str, text: &str, mode: u32) -> PathBuf {
        let path = self.directory.path().join(name);
        fs::write(&path, text).expect("write");
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("set the mode");
        path
    }

    /// The authority's certificate, as a URL's parameter.
    pub(super) fn root(&self) -> String {
        format!("sslrootcert={}", escaped(&self.directory.path().join("root.crt")))
    }

    /// A certificate for a role, as parameters of a URL.
    pub(super) fn client(&self, role: &str) -> String {
        let signed = self.sign(role, &[]);
        let certificate = self.file(&format!("{role}.crt"), &signed.certificate, 0o644);
        let key = self.file(&format!("{role}.key"), &signed.key, 0o600);
        format!("sslcert={}&sslkey={}", escaped(&certificate), escaped(&key))
    }
}

/// Its own authority, as `openssl req -x509` makes one for a server.
pub(super) fn self_signed(common_name: &str, names: &[&str]) -> Signed {
    let mut params = params(common_name, names);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().expect("a key");
    let certificate = params.self_signed(&key).expect("a certificate");
    Signed { certificate: certificate.pem(), key: key.serialize_pem() }
}

pub(super) fn escaped(path: &Path) -> String {
    path.display().to_string().replace('/', "%2F")
}

/// The password of every role that has one.
pub(super) const PASSWORD: &str = "pa%20ss";

/// Makes a server offer TLS with this certificate, believing `clients`; its roles are named by how they get in.
pub(super) fn serve(server: &mut Throwaway, signed: &Signed, clients: &str) {
    let lines = |text: &str, file: &str| {
        let quoted = text.replace('\'', "''");
        // As the server's user, for whom alone the key may be.
        format!("COPY (SELECT regexp_split_to_table('{quoted}', E'\\n')) TO PROGRAM 'umask 077; cat > {file}';\n")
    };
    let rules = "local all all trust\nhost all admin 127.0.0.1/32 trust\n\
                 hostssl all by_certificate all cert\nhostssl all by_both all scram-sha-256 clientcert=verify-full\n\
                 hostssl all only_encrypted all trust\nhostnossl all only_clear all trust\n\
                 host all by_trust all trust\nhost all by_scram all scram-sha-256\nhost all by_md5 all md5\n\
                 host replication all 127.0.0.1/32 trust";
    let script = [
        lines(&signed.certificate, "server.crt"),
        lines(&signed.key, "server.key"),
        lines(clients, "clients.crt"),
        lines(rules, "pg_hba.conf"),
        "ALTER SYSTEM SET ssl = on; ALTER SYSTEM SET ssl_ca_file = 'clients.crt';".to_owned(),
    ];
    server.psql("postgres", &script.concat()).expect("prepare TLS");
    server.stop("fast").expect("stop");
    server.launch().expect("start again");
}

/// A server without TLS, with those roles.
pub(super) fn start() -> Throwaway {
    let server = Throwaway::start(&[]).expect("start");
    server
        .psql(
            "postgres",
            "SET password_encryption = 'scram-sha-256';
             CREATE ROLE by_scram LOGIN REPLICATION PASSWORD 'pa ss'; CREATE ROLE by_both LOGIN REPLICATION PASSWORD 'pa ss';
             CREATE ROLE by_trust LOGIN REPLICATION; CREATE ROLE by_certificate LOGIN REPLICATION;
             CREATE ROLE only_clear LOGIN REPLICATION; CREATE ROLE only_encrypted LOGIN REPLICATION;
             SET password_encryption = 'md5';
             CREATE ROLE by_md5 LOGIN REPLICATION PASSWORD 'pa ss';
             CREATE DATABASE portal",
        )
        .expect("prepare");
    server
}
