//! Both signatures of a request, and the secret that makes them. Pure: no clock, no network.
//!
//! `webhook-signature` follows the Standard Webhooks specification (standardwebhooks.com, "Signature scheme"):
//! `v1,` and the base64 of HMAC-SHA256 over `{id}.{timestamp}.{body}`, keyed by the decoded secret. `Signature` is what
//! portals document to their users: HMAC-SHA256 of the body alone, keyed by the whole text of the secret.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

/// A signing secret, `whsec_<base64>`. It is never printed and never serialised.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret {
    text: String,
    key: Vec<u8>,
}

/// The text is no secret. It says nothing of the text itself.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("a secret is `whsec_` followed by base64")]
pub(crate) struct NotASecret;

impl Secret {
    const PREFIX: &str = "whsec_";

    pub(crate) fn parse(text: &str) -> Result<Self, NotASecret> {
        let encoded = text.strip_prefix(Self::PREFIX).ok_or(NotASecret)?;
        let key = STANDARD.decode(encoded).map_err(|_| NotASecret)?;
        if key.is_empty() {
            return Err(NotASecret);
        }
        Ok(Self { text: text.to_owned(), key })
    }

    /// One `v1,<base64>` of Standard Webhooks; `timestamp` is in seconds since 1970-01-01 UTC.
    fn webhook_signature(&self, id: &str, timestamp: i64, body: &[u8]) -> String {
        format!("v1,{}", STANDARD.encode(self.webhook_mac(id, timestamp, body).finalize().into_bytes()))
    }

    /// True if `signature` (one `v1,<base64>`) is this secret's; compared in constant time.
    pub(crate) fn verifies_webhook(&self, signature: &str, id: &str, timestamp: i64, body: &[u8]) -> bool {
        signature
            .strip_prefix("v1,")
            .and_then(|encoded| STANDARD.decode(encoded).ok())
            .is_some_and(|mac| self.webhook_mac(id, timestamp, body).verify_slice(&mac).is_ok())
    }

    /// True if `mac` is the HMAC of the body alone; compared in constant time.
    pub(crate) fn verifies_body(&self, mac: &[u8], body: &[u8]) -> bool {
        keyed(self.text.as_bytes()).chain_update(body).verify_slice(mac).is_ok()
    }

    fn webhook_mac(&self, id: &str, timestamp: i64, body: &[u8]) -> Hmac<Sha256> {
        keyed(&self.key).chain_update(id).chain_update(format!(".{timestamp}.")).chain_update(body)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

fn keyed(key: &[u8]) -> Hmac<Sha256> {
    Hmac::new_from_slice(key).expect("HMAC takes keys of any length (RFC 2104)")
}

/// What signs a request now: the secret, and the one before it while that is still valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Keys {
    pub(crate) current: Secret,
    pub(crate) previous: Option<Secret>,
}

impl Keys {
    /// The value of `webhook-signature`: one signature per valid secret, separated by spaces, the newest first.
    pub(crate) fn webhook_signature(&self, id: &str, timestamp: i64, body: &[u8]) -> String {
        let newest = self.current.webhook_signature(id, timestamp, body);
        match &self.previous {
            Some(previous) => format!("{newest} {}", previous.webhook_signature(id, timestamp, body)),
            None => newest,
        }
    }

    /// The value of the endpoint's own signature header, by the newest secret alone.
    pub(crate) fn body_signature(&self, encoding: Encoding, prefix: &str, body: &[u8]) -> String {
        let mac = keyed(self.current.text.as_bytes()).chain_update(body).finalize().into_bytes();
        format!("{prefix}{}", encoding.encode(&mac))
    }
}

/// How the endpoint's own signature header is written (`endpoints.signature_encoding`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoding {
    Hex,
    Base64,
}

impl Encoding {
    fn encode(self, bytes: &[u8]) -> String {
        match self {
            Self::Base64 => STANDARD.encode(bytes),
            Self::Hex => bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
                text.push(char::from(b"0123456789abcdef"[usize::from(byte >> 4)]));
                text.push(char::from(b"0123456789abcdef"[usize::from(byte & 15)]));
                text
            }),
        }
    }

    /// The bytes that a header's text stands for, if it is written in this encoding.
    pub(crate) fn decode(self, text: &str) -> Option<Vec<u8>> {
        match self {
            Self::Base64 => STANDARD.decode(text).ok(),
            Self::Hex => {
                let digits = text.chars().map(|digit| digit.to_digit(16)).collect::<Option<Vec<u32>>>()?;
                let pairs = digits.chunks_exact(2);
                pairs.remainder().is_empty().then(|| {
                    pairs.map(|pair| u8::try_from(pair[0] << 4 | pair[1]).expect("two digits are a byte")).collect()
                })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
    const OTHER: &str = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYX";

    fn secret(text: &str) -> Secret {
        Secret::parse(text).expect("valid")
    }

    #[test]
    fn signs_as_the_official_crate_does() {
        let body = br#"{"id":"vg3EGg2wcHgd8nMl","data":{"title":"gr\u00fc\u00df dich"}}"#;
        let official = standardwebhooks::Webhook::new(TEXT).expect("valid");
        let ours =
            Keys { current: secret(TEXT), previous: None }.webhook_signature("vg3EGg2wcHgd8nMl", 1654107457, body);
        assert_eq!(ours, official.sign("vg3EGg2wcHgd8nMl", 1654107457, body).expect("sign"));
        assert!(secret(TEXT).verifies_webhook(&ours, "vg3EGg2wcHgd8nMl", 1654107457, body));
        assert!(!secret(TEXT).verifies_webhook(&ours, "vg3EGg2wcHgd8nMl", 1654107458, body));
        assert!(!secret(OTHER).verifies_webhook(&ours, "vg3EGg2wcHgd8nMl", 1654107457, body));
    }

    #[test]
    fn while_a_secret_rotates_both_sign_and_the_newest_comes_first() {
        let keys = Keys { current: secret(OTHER), previous: Some(secret(TEXT)) };
        let value = keys.webhook_signature("id", 1, b"{}");
        let parts: Vec<&str> = value.split(' ').collect();
        assert_eq!(parts.len(), 2);
        assert!(secret(OTHER).verifies_webhook(parts[0], "id", 1, b"{}"));
        assert!(secret(TEXT).verifies_webhook(parts[1], "id", 1, b"{}"));
    }

    #[test]
    fn the_portals_own_signature_is_keyed_by_the_whole_text() {
        // From Python: hmac.new(b"whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD", b'{"a":1}', "sha256").hexdigest()
        let keys = Keys { current: secret(TEXT), previous: Some(secret(OTHER)) };
        let hex = keys.body_signature(Encoding::Hex, "", br#"{"a":1}"#);
        assert_eq!(hex, "03048224d6df6ae681e2c17f2cbc069167fbe9f7d79b487d5a213faad40300a2");
        let mac = Encoding::Hex.decode(&hex).expect("hex");
        assert!(secret(TEXT).verifies_body(&mac, br#"{"a":1}"#));
        assert!(!secret(TEXT).verifies_body(&mac, br#"{"a":2}"#));
        let base64 = keys.body_signature(Encoding::Base64, "sha256=", br#"{"a":1}"#);
        assert_eq!(Encoding::Base64.decode(base64.strip_prefix("sha256=").expect("prefix")), Some(mac));
    }

    #[test]
    fn a_secret_is_never_printed() {
        assert_eq!(
            format!("{:?}", Keys { current: secret(TEXT), previous: None }),
            "Keys { current: Secret(…), previous: None }"
        );
        for bad in ["", "whsec_", "whsec_?", "C2FVsBQIhrscChlQIMV+b5sSYspob7oD"] {
            let refused = Secret::parse(bad).expect_err(bad);
            assert_eq!(refused.to_string(), "a secret is `whsec_` followed by base64");
        }
    }
}
