//! Whether a server is the one that it says it is.

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

/// Whom to believe.
#[derive(Debug)]
pub(super) struct Trust {
    pub(super) anchors: RootCertStore,
    /// The certificates that the operator named one by one.
    pub(super) named: Vec<CertificateDer<'static>>,
}

/// Looks at the chain where there is somebody to believe, and at the name where that is wanted. That the server has the
/// certificate's key is looked at always: channel binding rests on it.
#[derive(Debug)]
pub(super) struct Verifier {
    pub(super) trust: Option<Trust>,
    pub(super) name: bool,
    pub(super) algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(trust) = &self.trust else { return Ok(ServerCertVerified::assertion()) };
        let parsed = ParsedCertificate::try_from(certificate)?;
        match verify_server_cert_signed_by_trust_anchor(
            &parsed,
            &trust.anchors,
            intermediates,
            now,
            self.algorithms.all,
        ) {
            // `openssl req -x509` makes a server's own certificate an authority, too. OpenSSL takes one that is named as
            // its own root. Its time was looked at before.
            Err(error) if is_authority(&error) && trust.named.contains(certificate) => {}
            checked => checked?,
        }
        if self.name {
            verify_server_name(&parsed, name)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// A server's certificate that may sign others. rustls hands webpki's words on only as text.
pub(super) fn is_authority(error: &Error) -> bool {
    said_by_webpki(error, "CaUsedAsEndEntity")
}

/// OpenSSL, asked for no extensions, makes certificates of X.509 version 1.
pub(super) fn is_of_an_old_version(error: &Error) -> bool {
    said_by_webpki(error, "UnsupportedCertVersion")
}

fn said_by_webpki(error: &Error, word: &str) -> bool {
    matches!(error, Error::InvalidCertificate(CertificateError::Other(other)) if other.0.to_string() == word)
}
