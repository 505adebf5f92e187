//! One attempt: a signed POST, and what became of it.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use reqwest::{Client, Response, redirect};

use super::endpoint::Endpoint;
use super::network;
use super::outcome::{Class, Failure, Outcome, describe};
use super::retry;
use super::sign::Keys;
use crate::error::{Error, Kind, Result};
use crate::failpoint;

/// Response bodies are read up to here; the ledger shows them.
const RESPONSE_EXCERPT: usize = 4096;

/// What one attempt sends.
pub(crate) struct Request<'a> {
    pub(crate) endpoint: &'a Endpoint,
    pub(crate) id: &'a str,
    pub(crate) sequence: i64,
    /// From 1.
    pub(crate) attempt: u32,
    pub(crate) body: Bytes,
    pub(crate) keys: &'a Keys,
}

/// The HTTP client with our rules: no redirects, no proxy from the environment, no private addresses.
#[derive(Clone)]
pub(crate) struct Sender {
    client: Client,
    policy: network::Policy,
    timeout: Duration,
    max_body: usize,
}

impl Sender {
    /// `timeout` is for a whole attempt of an endpoint without its own; `max_body` in bytes.
    pub(crate) fn new(policy: network::Policy, timeout: Duration, max_body: usize) -> Result<Self> {
        // An error means that a provider is installed already, which is what we want.
        drop(rustls::crypto::ring::default_provider().install_default());
        let client = Client::builder()
            .user_agent(concat!("portalhook/", env!("CARGO_PKG_VERSION")))
            .redirect(redirect::Policy::none())
            .retry(reqwest::retry::never())
            .referer(false)
            .no_proxy()
            .pool_max_idle_per_host(16)
            .pool_idle_timeout(Duration::from_secs(60))
            .dns_resolver(policy.clone())
            .build()
            .map_err(|error| Error::new(Kind::Failed, format!("prepare the HTTP client: {}", describe(error))))?;
        Ok(Self { client, policy, timeout, max_body })
    }

    /// Makes one attempt. It ends after the endpoint's timeout at the latest.
    pub(crate) async fn send(&self, request: Request<'_>) -> Outcome {
        let started = Instant::now();
        let timeout = request.endpoint.timeout.unwrap_or(self.timeout);
        match tokio::time::timeout(timeout, self.attempt(request, started)).await {
            Ok(outcome) => outcome,
            Err(_) => {
                let error = format!("no complete answer within {timeout:?}");
                Outcome::Failed(Failure::without_answer(Class::Timeout, error, started.elapsed()))
            }
        }
    }

    async fn attempt(&self, request: Request<'_>, started: Instant) -> Outcome {
        let failed = |class, error: String| Outcome::Failed(Failure::without_answer(class, error, started.elapsed()));
        let size = request.body.len();
        if size > self.max_body {
            return failed(Class::BodyTooLarge, format!("the body has {size} bytes, more than deliver.max_body"));
        }
        if let Err(refused) = self.policy.check_url(&request.endpoint.url) {
            return failed(Class::RefusedAddress, refused.to_string());
        }
        let headers = match headers(&request) {
            Ok(headers) => headers,
            Err(error) => return failed(Class::Settings, error),
        };
        let sent = self.client.post(request.endpoint.url.clone()).headers(headers).body(request.body).send().await;
        match sent {
            Ok(response) => {
                // The client tells no earlier that the request is written; the answer is not read yet.
                failpoint::hit("sent");
                let outcome = judge(response, started).await;
                failpoint::hit("answered");
                outcome
            }
            Err(error) => failed(Class::of(&error), describe(error)),
        }
    }
}

/// The headers of DESIGN §1; the operator's own come first, so that they cannot replace ours.
fn headers(request: &Request<'_>) -> Result<HeaderMap, String> {
    let Request { endpoint, id, sequence, attempt, body, keys } = request;
    let timestamp = seconds_now();
    let mut headers = endpoint.headers.clone();
    let mut put = |name: HeaderName, value: &str| {
        let value = HeaderValue::from_str(value).map_err(|_| format!("the value of header {name} is not valid"))?;
        headers.insert(name, value);
        Ok::<(), String>(())
    };
    let own = endpoint.signature_header.clone();
    put(own, &keys.body_signature(endpoint.signature_encoding, &endpoint.signature_prefix, body))?;
    put(CONTENT_TYPE, "application/json")?;
    put(HeaderName::from_static("webhook-id"), id)?;
    put(HeaderName::from_static("webhook-timestamp"), &timestamp.to_string())?;
    put(HeaderName::from_static("webhook-signature"), &keys.webhook_signature(id, timestamp, body))?;
    put(HeaderName::from_static("webhook-sequence"), &sequence.to_string())?;
    put(HeaderName::from_static("webhook-attempt"), &attempt.to_string())?;
    Ok(headers)
}

/// Reads the answer and says what it means: 2xx is delivered, everything else is not.
async fn judge(mut response: Response, started: Instant) -> Outcome {
    let status = response.status();
    let asked = match status.as_u16() {
        429 | 503 => response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()).map(str::to_owned),
        _ => None,
    };
    let mut excerpt = Vec::new();
    let mut broken = None;
    while excerpt.len() < RESPONSE_EXCERPT {
        match response.chunk().await {
            Ok(Some(chunk)) => excerpt.extend_from_slice(&chunk[..chunk.len().min(RESPONSE_EXCERPT - excerpt.len())]),
            Ok(None) => break,
            Err(error) => {
                broken = Some(describe(error));
                break;
            }
        }
    }
    let duration = started.elapsed();
    if status.is_success() {
        // The endpoint said yes; a body that breaks off after that takes nothing back.
        return Outcome::Delivered { status: status.as_u16(), duration };
    }
    let (class, mut error) = match status.as_u16() {
        300..=399 => (Class::Redirect, format!("the endpoint answered {status}; redirects are not followed")),
        _ => (Class::Status, format!("the endpoint answered {status}")),
    };
    if let Some(broken) = broken {
        error.push_str(&format!(" (and then: {broken})"));
    }
    Outcome::Failed(Failure {
        class,
        status: Some(status.as_u16()),
        error,
        duration,
        response: Some(printable(&excerpt)),
        retry_after: asked.and_then(|value| retry::retry_after(&value, seconds_now())),
    })
}

/// Text that PostgreSQL stores: UTF-8 without zero bytes.
fn printable(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).replace('\0', "\u{fffd}")
}

/// Seconds since 1970-01-01 UTC.
fn seconds_now() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_secs()).unwrap_or(i64::MAX)
}
