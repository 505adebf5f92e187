//! Frames and messages of the replication stream: whatever the bytes are, decoding ends, and ends in a value.
#![no_main]
#![allow(dead_code, unused_imports)]

#[path = "../../../src/change.rs"]
mod change;
#[path = "../../../src/lsn.rs"]
mod lsn;
#[path = "../../../src/pgoutput/mod.rs"]
mod pgoutput;

use bytes::Bytes;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let bytes = Bytes::copy_from_slice(data);
    drop(pgoutput::Frame::decode(bytes.clone()));
    let mut sieve = pgoutput::Sieve::new();
    drop(sieve.push(bytes.clone()));
    drop(pgoutput::Message::decode_rest(sieve.finish()));
    drop(pgoutput::Message::decode(bytes));
});
