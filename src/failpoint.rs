//! Named places at which a test can end the process, to see that nothing is lost there.
//!
//! Only a build with the cargo feature `failpoints` has them: there `PORTALHOOK_FAILPOINT=sent:3` aborts the process, as
//! abruptly as a kill, the third time that the place called `sent` is reached. Everywhere else `hit` is empty.

/// The process is at the place called `name`.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub(crate) fn hit(_name: &str) {}

/// The process is at the place called `name`; aborts it if `PORTALHOOK_FAILPOINT` says so.
#[cfg(feature = "failpoints")]
pub(crate) fn hit(name: &str) {
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::sync::{LazyLock, OnceLock};

    static WANTED: OnceLock<Option<(String, u64)>> = OnceLock::new();
    static HITS: LazyLock<AtomicU64> = LazyLock::new(AtomicU64::default);

    let wanted = WANTED.get_or_init(|| std::env::var("PORTALHOOK_FAILPOINT").ok().map(|text| parse(&text)));
    if let Some((place, nth)) = wanted
        && place == name
        && HITS.fetch_add(1, Ordering::Relaxed) + 1 == *nth
    {
        eprintln!("fail point `{name}` reached: aborting");
        std::process::abort();
    }
}

/// A limit called `name`, which a test can lower: `PORTALHOOK_LIMITS=part:300,page:2`.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub(crate) const fn limit(_name: &str, usual: usize) -> usize {
    usual
}

/// A limit called `name`, or what `PORTALHOOK_LIMITS` says.
#[cfg(feature = "failpoints")]
pub(crate) fn limit(name: &str, usual: usize) -> usize {
    use std::collections::HashMap;
    use std::sync::LazyLock;

    static LOWERED: LazyLock<HashMap<String, usize>> = LazyLock::new(|| {
        let text = std::env::var("PORTALHOOK_LIMITS").unwrap_or_default();
        let limits = text.split(',').filter_map(|limit| limit.split_once(':'));
        limits.filter_map(|(name, limit)| Some((name.to_owned(), limit.parse().ok()?))).collect()
    });
    LOWERED.get(name).copied().unwrap_or(usual)
}

/// `name` or `name:n`.
#[cfg(any(test, feature = "failpoints"))]
fn parse(text: &str) -> (String, u64) {
    match text.rsplit_once(':').and_then(|(name, nth)| Some((name, nth.parse().ok()?))) {
        Some((name, nth)) => (name.to_owned(), nth),
        None => (text.to_owned(), 1),
    }
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn a_place_stands_for_its_first_hit_unless_a_number_follows() {
        assert_eq!(parse("sent"), ("sent".to_owned(), 1));
        assert_eq!(parse("sent:3"), ("sent".to_owned(), 3));
    }
}
