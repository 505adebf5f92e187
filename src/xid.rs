//! Transaction ids: the stream carries 32 bits, everything of ours stores 64.

/// The 64-bit transaction id (`xid8`) nearest to `reference` whose low 32 bits are `xid`.
///
/// PostgreSQL never has transactions more than 2^31 apart alive at once, so any transaction id that was seen shortly
/// before in the same stream is reference enough.
pub(crate) fn widen(xid: u32, reference: u64) -> u64 {
    const EPOCH: u64 = 1 << 32;
    let same_epoch = reference & !(EPOCH - 1) | u64::from(xid);
    [same_epoch.checked_sub(EPOCH), same_epoch.checked_add(EPOCH)]
        .into_iter()
        .flatten()
        .fold(same_epoch, |best, other| if other.abs_diff(reference) < best.abs_diff(reference) { other } else { best })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn widens_to_the_nearest_epoch() {
        for (xid, reference, wide) in [
            (5, 0, 5),
            (700, 740, 700),
            (3, 0xffff_fff0, 0x1_0000_0003),
            (0xffff_fff0, 0x1_0000_0003, 0xffff_fff0),
            (0xffff_fff0, 3, 0xffff_fff0),
            (0x9000_0001, 0x7_1000_0000, 0x6_9000_0001),
            (0x10, u64::MAX, 0xffff_ffff_0000_0010),
        ] {
            assert_eq!(widen(xid, reference), wide, "{xid:#x} near {reference:#x}");
        }
    }
}
