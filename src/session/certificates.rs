//! Certificates and keys from files, and what a TLS client makes of them.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use super::tls::{Identity, Mode, Roots, Tls};
use super::verify::{Trust, Verifier};
use crate::error::{Error, Result};

/// What PostgreSQL 17 and later are called in TLS (ALPN); older ones do not look at it.
pub(super) const PROTOCOL: &[u8] = b"postgresql";

/// Reads the files anew.
///
/// # Errors
/// `Kind::Usage` for a file that is missing, unreadable, not what it should be, or open to others.
pub(super) fn client(tls: &Tls) -> Result<ClientConfig> {
    let trust = match &tls.roots {
        Some(Roots::System) => Some(system_roots()?),
        Some(Roots::File(path)) => Some(roots(path)?),
        None => None,
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let algorithms = provider.signature_verification_algorithms;
    let verifier = Verifier { trust, name: tls.mode == Mode::VerifyFull, algorithms };
    let versions = if tls.only_newest { &[&rustls::version::TLS13][..] } else { rustls::ALL_VERSIONS };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .map_err(|error| Error::failed(format!("prepare TLS: {error}")))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut client = match &tls.identity {
        None => builder.with_no_client_auth(),
        Some(identity) => {
            let chain = certificates(&identity.certificate, "sslcert")?;
            builder.with_client_auth_cert(chain, key(&identity.key)?).map_err(|error| mismatch(identity, &error))?
        }
    };
    client.alpn_protocols = vec![PROTOCOL.to_vec()];
    client.enable_sni = tls.sni;
    Ok(client)
}

fn roots(path: &Path) -> Result<Trust> {
    let named = certificates(path, "sslrootcert")?;
    let mut anchors = RootCertStore::empty();
    for certificate in &named {
        anchors.add(certificate.clone()).map_err(|error| {
            Error::usage(format!("sslrootcert {}: a certificate is damaged ({error})", path.display()))
        })?;
    }
    Ok(Trust { anchors, named })
}

fn system_roots() -> Result<Trust> {
    let found = rustls_native_certs::load_native_certs();
    let mut anchors = RootCertStore::empty();
    // Some systems keep certificates that nobody can read; the others count.
    anchors.add_parsable_certificates(found.certs);
    if anchors.is_empty() {
        return Err(Error::usage(
            "sslrootcert=system: this machine has no trusted certificates (on Debian and Ubuntu: apt-get install ca-certificates)",
        ));
    }
    Ok(Trust { anchors, named: Vec::new() })
}

fn certificates(path: &Path, parameter: &str) -> Result<Vec<CertificateDer<'static>>> {
    let text = read(path, parameter)?;
    let certificates: std::result::Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    match certificates {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        _ => Err(Error::usage(format!(
            "{parameter} {}: not a certificate in PEM form (-----BEGIN CERTIFICATE-----)",
            path.display()
        ))),
    }
}

fn key(path: &Path) -> Result<PrivateKeyDer<'static>> {
    only_ours(path)?;
    let text = read(path, "sslkey")?;
    PrivateKeyDer::from_pem_slice(&text).map_err(|_| {
        let path = path.display();
        // Says nothing of the contents.
        if text.windows(9).any(|word| word == b"ENCRYPTED") {
            Error::usage(format!("sslkey {path}: the key has a passphrase: take it off (openssl pkey -in {path})"))
        } else {
            Error::usage(format!("sslkey {path}: not a private key in PEM form (-----BEGIN PRIVATE KEY-----)"))
        }
    })
}

/// libpq's rule: 0600 or less, or 0640 or less where root owns the file (so that a group may read it, as credentials of
/// systemd have it).
fn only_ours(path: &Path) -> Result<()> {
    let Ok(file) = fs::metadata(path) else { return Ok(()) };
    let forbidden = if file.uid() == 0 { 0o037 } else { 0o077 };
    if file.mode() & forbidden == 0 {
        return Ok(());
    }
    Err(Error::usage(format!("sslkey {} can be read by others: chmod 600 it", path.display())))
}

fn read(path: &Path, parameter: &str) -> Result<Vec<u8>> {
    fs::read(path).map_err(|error| Error::usage(format!("{parameter} {}: {error}", path.display())))
}

fn mismatch(identity: &Identity, error: &rustls::Error) -> Error {
    let (certificate, key) = (identity.certificate.display(), identity.key.display());
    if matches!(error, rustls::Error::InconsistentKeys(_)) {
        Error::usage(format!("sslkey {key} is not the key of sslcert {certificate}"))
    } else {
        Error::usage(format!("sslcert {certificate} with sslkey {key}: {error}"))
    }
}
