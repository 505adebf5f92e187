//! When an endpoint's failing and its recovery are worth a line in the log: once per change, and no more often than an
//! operator can read where an endpoint fails every other request.

use std::time::{Duration, Instant};

use url::Url;

/// An endpoint that was said to fail is not said to fail again for so long.
const QUIET: Duration = Duration::from_secs(10 * 60);

/// What was said of one endpoint.
#[derive(Debug, Default)]
pub(crate) struct Health {
    said_failing: bool,
    said_at: Option<Instant>,
}

impl Health {
    /// An attempt failed; true if that is to be said.
    pub(crate) fn failed(&mut self, now: Instant) -> bool {
        if self.said_failing || self.said_at.is_some_and(|at| now < at + QUIET) {
            return false;
        }
        self.said_failing = true;
        self.said_at = Some(now);
        true
    }

    /// An attempt succeeded; true if that is to be said.
    pub(crate) fn succeeded(&mut self) -> bool {
        std::mem::take(&mut self.said_failing)
    }
}

/// The URL as logs may show it: without user, password and query, and without path segments so long that they may be a
/// token (many services put theirs into the path).
pub(crate) fn shown(url: &Url) -> String {
    const LONGEST: usize = 16;
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    let mut text = format!("{}://{}{port}", url.scheme(), url.host_str().unwrap_or_default());
    for segment in url.path().trim_start_matches('/').split('/') {
        text.push('/');
        text.push_str(if segment.len() > LONGEST { "…" } else { segment });
    }
    if url.query().is_some() {
        text.push_str("?…");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_change_is_said_once() {
        let mut health = Health::default();
        let now = Instant::now();
        assert!(!health.succeeded(), "it was well all the time");
        assert!(health.failed(now));
        assert!(!health.failed(now + QUIET * 2), "it still fails");
        assert!(health.succeeded());
        assert!(!health.succeeded());
    }

    #[test]
    fn an_endpoint_that_fails_now_and_then_is_said_to_once_in_ten_minutes() {
        let mut health = Health::default();
        let now = Instant::now();
        let mut said = 0;
        for second in 0..3600 {
            said += u32::from(health.failed(now + Duration::from_secs(second)));
            said += u32::from(health.succeeded());
        }
        assert_eq!(said, 12, "six times that it fails, six times that it recovered");
    }

    #[test]
    fn an_endpoint_s_url_is_shown_without_what_may_be_a_secret() {
        for (url, expected) in [
            ("https://example.com", "https://example.com/"),
            ("http://127.0.0.1:8080/hooks", "http://127.0.0.1:8080/hooks"),
            ("https://user:secret@example.com/in?token=secret", "https://example.com/in?…"),
            (
                "https://hooks.slack.com/services/T0001/B0001/secretsecretsecretsecret",
                "https://hooks.slack.com/services/T0001/B0001/…",
            ),
        ] {
            let shown = shown(&url.parse().expect("a URL"));
            assert_eq!(shown, expected);
            assert!(!shown.contains("secret"), "{shown}");
        }
    }
}
