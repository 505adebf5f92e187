//! How an operator writes an amount: `15s`, `7d`, `32MB`.

use std::time::Duration;

/// Reads `500ms`, `15s`, `5m`, `2h` or `7d`: a whole number and its unit, nothing between them.
///
/// A number without a unit is refused: whether `15` means seconds or milliseconds differs from program to program.
pub(crate) fn duration(text: &str) -> Option<Duration> {
    let (number, unit) = split(text)?;
    let millis = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60 * 1000,
        "h" => 60 * 60 * 1000,
        "d" => 24 * 60 * 60 * 1000,
        _ => return None,
    };
    number.checked_mul(millis).map(Duration::from_millis)
}

/// Reads `512B`, `64kB`, `1MB`, `8GB` or `1TB` as bytes.
///
/// Units are powers of 1024, as in PostgreSQL's own settings (PostgreSQL manual, "Parameter Names and Values"), so that
/// `capture.max_wal = "8GB"` and `max_slot_wal_keep_size = '8GB'` mean the same number.
pub(crate) fn size(text: &str) -> Option<u64> {
    let (number, unit) = split(text)?;
    let bytes = match unit {
        "B" => 1,
        "kB" | "KB" => 1 << 10,
        "MB" => 1 << 20,
        "GB" => 1 << 30,
        "TB" => 1 << 40,
        _ => return None,
    };
    number.checked_mul(bytes)
}

fn split(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(end);
    Some((number.parse().ok()?, unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_need_a_whole_number_and_a_unit() {
        for (text, millis) in [
            ("0s", Some(0)),
            ("500ms", Some(500)),
            ("15s", Some(15_000)),
            ("5m", Some(300_000)),
            ("2h", Some(7_200_000)),
            ("7d", Some(604_800_000)),
            ("15", None),
            ("s", None),
            ("", None),
            ("1.5s", None),
            ("-1s", None),
            ("15 s", None),
            ("15S", None),
            ("1w", None),
            ("99999999999999999999s", None),
            ("999999999999999999d", None),
        ] {
            assert_eq!(duration(text), millis.map(Duration::from_millis), "{text}");
        }
    }

    #[test]
    fn sizes_are_powers_of_1024_as_in_postgresql() {
        for (text, bytes) in [
            ("512B", Some(512)),
            ("64kB", Some(65_536)),
            ("1MB", Some(1_048_576)),
            ("32MB", Some(33_554_432)),
            ("8GB", Some(8_589_934_592)),
            ("1TB", Some(1_099_511_627_776)),
            ("8", None),
            ("8G", None),
            ("8 GB", None),
            ("99999999999TB", None),
        ] {
            assert_eq!(size(text), bytes, "{text}");
        }
    }
}
