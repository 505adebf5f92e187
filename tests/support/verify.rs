//! A receiver's checks, with code that is not ours where there is some.

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use super::receiver::Received;

/// Checks both signatures and the fixed headers; panics with what is wrong.
#[track_caller]
pub(crate) fn verify(request: &Received, secret: &str) {
    let webhook = standardwebhooks::Webhook::new(secret).expect("a secret");
    if let Err(error) = webhook.verify(&request.body, &request.headers) {
        panic!("webhook-signature: {error}\n{:?}\n{}", request.headers, request.text());
    }
    assert_eq!(request.header("signature"), hex_hmac(secret, &request.body), "Signature\n{}", request.text());
    assert_eq!(request.header("content-type"), "application/json");
    assert_eq!(request.header("user-agent"), concat!("portalhook/", env!("CARGO_PKG_VERSION")));
    assert_eq!(request.json()["id"].as_str(), Some(request.id()), "webhook-id is the body's id");
    assert!(
        request.id().len() == 16 && request.id().bytes().all(|byte| byte.is_ascii_alphanumeric()),
        "{}",
        request.id()
    );
    assert!(request.attempt() >= 1);
}

/// The scheme that portals document: HMAC-SHA256 of the body, keyed with the whole text of the secret.
fn hex_hmac(secret: &str, body: &[u8]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("a key of any length");
    mac.update(body);
    mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
}
