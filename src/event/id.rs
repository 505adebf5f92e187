//! The id of an event: the same change has the same id on every retry, after a crash, with a new slot and after a failover.

use sha2::{Digest, Sha256};

/// ASCII order, so that ids sort by transaction under the C collation.
const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// 62^16 is a little more than 2^95: 42 bits of the transaction id before 53 bits of the hash fit exactly.
const LENGTH: usize = 16;
const XID_BITS: u32 = 42;
const HASH_BITS: u32 = 53;

/// The id of the event `name` about the entity with the mapped id `subject` in transaction `xid` of `source`.
///
/// The hash is SHA-256 over the four as text, each followed by a zero byte (which no text of PostgreSQL holds).
pub(crate) fn event_id(source: &str, xid: u64, name: &str, subject: &str) -> String {
    let mut hash = Sha256::new();
    for part in [source, &xid.to_string(), name, subject] {
        hash.update(part.as_bytes());
        hash.update([0]);
    }
    let digest = hash.finalize();
    let mut first = [0; 8];
    first.copy_from_slice(&digest[..8]);
    let hash = u64::from_be_bytes(first) >> (64 - HASH_BITS);
    let xid = xid & ((1 << XID_BITS) - 1);
    let mut value = u128::from(xid) << HASH_BITS | u128::from(hash);
    let mut text = [b'0'; LENGTH];
    for digit in text.iter_mut().rev() {
        *digit = ALPHABET[(value % 62) as usize];
        value /= 62;
    }
    text.iter().map(|&byte| char::from(byte)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_fixed_for_ever() {
        // A promise: no release may give an old change another id. The value was computed apart, from the words above.
        let id = event_id("source", 734, "vote.created", "500");
        assert_eq!(id, "000007st6Qrah8Gt");
        assert_eq!(id.len(), LENGTH);
    }

    #[test]
    fn ids_sort_by_transaction_and_differ_in_every_part() {
        let base = event_id("s", 41, "vote.created", "5");
        assert!(base < event_id("s", 42, "vote.created", "5"));
        assert!(event_id("s", (1 << 42) - 1, "a", "b") > event_id("s", 1 << 41, "a", "b"));
        for other in [
            event_id("t", 41, "vote.created", "5"),
            event_id("s", 41, "vote.deleted", "5"),
            event_id("s", 41, "vote.created", "6"),
        ] {
            assert_ne!(base, other);
        }
        // A part cannot borrow from its neighbour.
        assert_ne!(event_id("a", 1, "b", "c"), event_id("a1", 1, "b", "c"));
    }
}
