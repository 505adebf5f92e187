//! What is in an event's id.

use super::portal::Portal;
use super::receiver::Received;

/// The 53 bits of hash in an id.
pub(crate) fn hash(id: &str) -> u64 {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => byte - b'0',
        b'A'..=b'Z' => byte - b'A' + 10,
        _ => byte - b'a' + 36,
    };
    let value = id.bytes().fold(0u128, |value, byte| value * 62 + u128::from(digit(byte)));
    u64::try_from(value & ((1 << 53) - 1)).expect("53 bits")
}

/// What they are of: source, transaction, event and mapped id. The next transaction has the number of the snapshot's end, too.
pub(crate) fn hash_of(parts: [&str; 4]) -> u64 {
    use sha2::Digest as _;
    let digest = sha2::Sha256::digest(parts.iter().flat_map(|part| [part, "\0"]).collect::<String>());
    u64::from_be_bytes(digest[..8].try_into().expect("eight bytes")) >> 11
}

/// Panics unless the id of this `vote.created` is made with this source.
#[track_caller]
pub(crate) fn is_of_source(portal: &Portal, event: &Received, source: &str) {
    let vote = event.data("/vote/id").to_string();
    let xid = portal.sql(&format!("SELECT xid FROM portalhook.events WHERE entity = 'vote:{vote}'"));
    assert_eq!(hash(event.id()), hash_of([source, &xid, "vote.created", &vote]), "vote {vote} is not of {source}");
}
