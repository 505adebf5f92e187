//! What SCRAM binds to: `tls-server-end-point` (RFC 5929, section 4.1), the hash of the server's certificate.

use sha2::{Digest as _, Sha224, Sha256, Sha384, Sha512};

type Hash = fn(&[u8]) -> Vec<u8>;

/// Object identifiers as DER has them, and the hash that a certificate signed so is bound with. MD5 and SHA-1 are replaced
/// by SHA-256 (RFC 5929). What names no hash, such as Ed25519, has no binding; nor has PostgreSQL one for it.
const SIGNATURES: [(&[u8], Hash); 11] = [
    (RSA_MD5, sha256),
    (RSA_SHA1, sha256),
    (&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0e], sha224),
    (&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0b], sha256),
    (&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0c], sha384),
    (&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0d], sha512),
    (&[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x01], sha256),
    (&[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x01], sha224),
    (&[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02], sha256),
    (&[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x03], sha384),
    (&[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x04], sha512),
];
const RSA_MD5: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x04];
const RSA_SHA1: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x05];

const SEQUENCE: u8 = 0x30;
const OBJECT_IDENTIFIER: u8 = 0x06;

/// The binding for a certificate in DER; `None` where its signature names no hash that we know.
pub(super) fn tls_server_end_point(certificate: &[u8]) -> Option<Vec<u8>> {
    let signature = signature_algorithm(certificate)?;
    let (_, hash) = SIGNATURES.iter().find(|(known, _)| *known == signature)?;
    Some(hash(certificate))
}

/// RFC 5280: `Certificate ::= SEQUENCE { tbsCertificate, signatureAlgorithm SEQUENCE { OID, … }, signatureValue }`.
fn signature_algorithm(certificate: &[u8]) -> Option<&[u8]> {
    let (certificate, _) = element(certificate, SEQUENCE)?;
    let (_, rest) = element(certificate, SEQUENCE)?;
    let (algorithm, _) = element(rest, SEQUENCE)?;
    element(algorithm, OBJECT_IDENTIFIER).map(|(identifier, _)| identifier)
}

/// The content of the first element, which must have this tag, and what comes after it.
fn element(bytes: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&first, rest) = bytes.split_first()?;
    let (&length, rest) = rest.split_first()?;
    let (length, rest) = if length < 0x80 {
        (usize::from(length), rest)
    } else {
        // The long form: so many bytes of length. No certificate needs more than four.
        let (digits, rest) =
            rest.split_at_checked(usize::from(length & 0x7f)).filter(|(digits, _)| digits.len() <= 4)?;
        (digits.iter().fold(0_usize, |length, &digit| length << 8 | usize::from(digit)), rest)
    };
    (first == tag).then(|| rest.split_at_checked(length)).flatten()
}

fn sha224(bytes: &[u8]) -> Vec<u8> {
    Sha224::digest(bytes).to_vec()
}

fn sha256(bytes: &[u8]) -> Vec<u8> {
    Sha256::digest(bytes).to_vec()
}

fn sha384(bytes: &[u8]) -> Vec<u8> {
    Sha384::digest(bytes).to_vec()
}

fn sha512(bytes: &[u8]) -> Vec<u8> {
    Sha512::digest(bytes).to_vec()
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// A certificate's outermost shape.
    fn certificate(signature: &[u8]) -> Vec<u8> {
        let wrap = |tag: u8, content: &[u8]| {
            let mut bytes = vec![tag, 0x82];
            bytes.extend(u16::try_from(content.len()).expect("short").to_be_bytes());
            bytes.extend(content);
            bytes
        };
        let parts = [wrap(SEQUENCE, &[7; 300]), wrap(SEQUENCE, &wrap(OBJECT_IDENTIFIER, signature)), wrap(3, &[0; 70])];
        wrap(SEQUENCE, &parts.concat())
    }

    #[test]
    fn the_hash_is_that_of_the_signature_and_never_weaker_than_sha_256() {
        for (signature, length) in [
            (RSA_MD5, 32),
            (RSA_SHA1, 32),
            (SIGNATURES[3].0, 32),
            (SIGNATURES[4].0, 48),
            (SIGNATURES[5].0, 64),
            (SIGNATURES[8].0, 32),
            (SIGNATURES[9].0, 48),
        ] {
            let certificate = certificate(signature);
            assert_eq!(tls_server_end_point(&certificate).expect("known").len(), length, "{signature:x?}");
        }
        let one = certificate(RSA_MD5);
        assert_eq!(tls_server_end_point(&one), Some(sha256(&one)));
        // Ed25519 signs without naming a hash.
        assert_eq!(tls_server_end_point(&certificate(&[0x2b, 0x65, 0x70])), None);
    }

    proptest! {
        #[test]
        fn any_bytes_end_in_a_value(bytes in vec(any::<u8>(), 0..80)) {
            drop(tls_server_end_point(&bytes));
        }

        #[test]
        fn a_certificate_cut_short_or_altered_ends_in_a_value(at in 0_usize..400, byte in any::<u8>()) {
            let mut bytes = certificate(RSA_SHA1);
            let at = at % bytes.len();
            prop_assert_eq!(tls_server_end_point(&bytes[..at]), None);
            bytes[at] = byte;
            drop(tls_server_end_point(&bytes));
        }
    }
}
