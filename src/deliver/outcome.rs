//! What became of one attempt: a value, classified once. An `Err` would mean that we broke; a failed delivery does not.

use std::error::Error as StdError;
use std::time::Duration;

use super::network::{RefusedAddress, Unresolved};

/// The result of one attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The endpoint answered 2xx.
    Delivered {
        status: u16,
        duration: Duration,
    },
    Failed(Failure),
}

/// A failed attempt, as the ledger shows it. It holds no secret: neither URL nor request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) class: Class,
    /// The HTTP status, if there was an answer.
    pub(crate) status: Option<u16>,
    /// One line for people.
    pub(crate) error: String,
    pub(crate) duration: Duration,
    /// The beginning of the answer's body, at most 4 KiB.
    pub(crate) response: Option<String>,
    /// `Retry-After` of a 429 or 503.
    pub(crate) retry_after: Option<Duration>,
}

impl Failure {
    /// A failure without an answer.
    pub(crate) fn without_answer(class: Class, error: impl Into<String>, duration: Duration) -> Self {
        Self { class, status: None, error: error.into(), duration, response: None, retry_after: None }
    }
}

/// Why an attempt failed; the words of `deliveries.error_class`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// The name has no address.
    Dns,
    /// No connection, or it broke.
    Connect,
    Tls,
    /// No complete answer in time.
    Timeout,
    /// An address that endpoints may not live at.
    RefusedAddress,
    /// 3xx: redirects are not followed.
    Redirect,
    /// Any other status than 2xx.
    Status,
    /// The body is over `deliver.max_body`: it is never sent.
    BodyTooLarge,
    /// The ledger has no body for the event.
    BodyMissing,
    /// The endpoint's own settings (URL, secret, headers) cannot be used.
    Settings,
    /// The answer is not HTTP.
    Protocol,
}

impl Class {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Dns => "dns",
            Self::Connect => "connect",
            Self::Tls => "tls",
            Self::Timeout => "timeout",
            Self::RefusedAddress => "refused_address",
            Self::Redirect => "redirect",
            Self::Status => "status",
            Self::BodyTooLarge => "body_too_large",
            Self::BodyMissing => "body_missing",
            Self::Settings => "settings",
            Self::Protocol => "protocol",
        }
    }

    /// Another attempt cannot help: the bytes of a body never change.
    pub(crate) fn is_final(self) -> bool {
        matches!(self, Self::BodyTooLarge | Self::BodyMissing)
    }

    /// The class of an error of the HTTP client, by what lies deepest in its chain.
    pub(crate) fn of(error: &reqwest::Error) -> Self {
        if error.is_timeout() {
            return Self::Timeout;
        }
        for cause in chain(error) {
            if cause.is::<RefusedAddress>() {
                return Self::RefusedAddress;
            } else if cause.is::<Unresolved>() {
                return Self::Dns;
            } else if cause.is::<rustls::Error>() {
                return Self::Tls;
            }
        }
        let broken = chain(error).any(<dyn StdError>::is::<std::io::Error>);
        if error.is_builder() {
            Self::Settings
        } else if error.is_connect() || broken || error.is_request() {
            Self::Connect
        } else {
            Self::Protocol
        }
    }
}

/// The error and its causes. An `io::Error` hides the error that it wraps from `source`, so that one is unwrapped too.
fn chain<'a>(error: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |error: &&'a (dyn StdError + 'static)| {
        let error: &'a (dyn StdError + 'static) = *error;
        let wrapped = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        match wrapped {
            Some(inner) => Some(inner as &(dyn StdError + 'static)),
            None => error.source(),
        }
    })
}

/// The causes of a client's error on one line, without its URL (which may hold a token).
pub(crate) fn describe(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut line = String::new();
    for cause in chain(&error) {
        let text = cause.to_string();
        if line.ends_with(&text) {
            continue;
        }
        if !line.is_empty() {
            line.push_str(": ");
        }
        line.push_str(&text);
    }
    line
}
