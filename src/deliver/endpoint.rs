//! An endpoint's settings as of now: what the next attempt uses. Where events go is the stream's matter, not this one's.

use std::time::Duration;

use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use tokio_postgres::{Client, Row};
use url::Url;

use super::lanes::Ordering;
use super::sign::{Encoding, Secret};
use crate::error::{Context as _, Result};

/// One enabled row of `portalhook.endpoints`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Endpoint {
    pub(crate) id: i64,
    pub(crate) url: Url,
    /// Its own secret; `None`: the secret of the event's portal signs.
    pub(crate) secret: Option<Secret>,
    pub(crate) max_in_flight: Option<usize>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) headers: HeaderMap,
    pub(crate) signature_header: HeaderName,
    pub(crate) signature_encoding: Encoding,
    pub(crate) signature_prefix: String,
    pub(crate) ordering: Ordering,
    /// Its own retry schedule.
    pub(crate) pauses: Option<Vec<Duration>>,
}

/// Reads the enabled endpoints. One whose settings cannot be used is left out, with a warning: its events wait in the
/// ledger like those of a disabled one. (The table's own checks refuse such settings; this is for what slips past.)
pub(crate) async fn load(client: &Client) -> Result<Vec<Endpoint>> {
    let rows = client
        .query(
            "SELECT id, url, secret, max_in_flight, timeout_ms, headers::text AS headers, signature_header,
                    signature_encoding, signature_prefix, ordering,
                    CASE WHEN retries IS NOT NULL THEN ARRAY(
                        SELECT (extract(epoch FROM pause::interval) * 1000)::bigint
                        FROM unnest(retries) WITH ORDINALITY AS r(pause, number) ORDER BY number) END AS pauses
             FROM portalhook.endpoints WHERE enabled",
            &[],
        )
        .await
        .context("load endpoints")?;
    let mut endpoints = Vec::with_capacity(rows.len());
    for row in rows {
        let id: i64 = row.try_get("id").context("load endpoints")?;
        match read(&row, id).context(format!("read endpoint {id}"))? {
            Ok(endpoint) => endpoints.push(endpoint),
            Err(reason) => tracing::warn!(endpoint = id, "the endpoint's settings cannot be used: {reason}"),
        }
    }
    Ok(endpoints)
}

/// The outer error is the database's, the inner one says which setting is wrong.
fn read(row: &Row, id: i64) -> Result<Result<Endpoint, String>, tokio_postgres::Error> {
    let url: String = row.try_get("url")?;
    let secret: Option<String> = row.try_get("secret")?;
    let max_in_flight: Option<i32> = row.try_get("max_in_flight")?;
    let timeout_ms: Option<i32> = row.try_get("timeout_ms")?;
    let headers: Option<String> = row.try_get("headers")?;
    let signature_header: String = row.try_get("signature_header")?;
    let signature_encoding: String = row.try_get("signature_encoding")?;
    let signature_prefix: String = row.try_get("signature_prefix")?;
    let ordering: String = row.try_get("ordering")?;
    let pauses: Option<Vec<i64>> = row.try_get("pauses")?;
    let build = || {
        Ok(Endpoint {
            id,
            url: Url::parse(&url).map_err(|error| format!("url: {error}"))?,
            secret: secret.as_deref().map(Secret::parse).transpose().map_err(|error| format!("secret: {error}"))?,
            max_in_flight: max_in_flight.and_then(|limit| usize::try_from(limit).ok()).map(|limit| limit.max(1)),
            timeout: timeout_ms.and_then(|ms| u64::try_from(ms).ok()).map(Duration::from_millis),
            headers: headers_from(headers.as_deref())?,
            signature_header: signature_header
                .parse()
                .map_err(|_| format!("signature_header: {signature_header:?} is not a header's name"))?,
            signature_encoding: match signature_encoding.as_str() {
                "base64" => Encoding::Base64,
                _ => Encoding::Hex,
            },
            signature_prefix,
            ordering: match ordering.as_str() {
                "none" => Ordering::None,
                "strict" => Ordering::Strict,
                _ => Ordering::Causal,
            },
            pauses: pauses.map(|pauses| {
                pauses.into_iter().map(|ms| Duration::from_millis(u64::try_from(ms).unwrap_or(0))).collect()
            }),
        })
    };
    Ok(build())
}

/// Headers from `{"x-a": "b"}`.
fn headers_from(json: Option<&str>) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    let Some(json) = json else { return Ok(headers) };
    let given: Option<std::collections::BTreeMap<String, String>> =
        serde_json::from_str(json).map_err(|error| format!("headers: {error}"))?;
    for (name, value) in given.unwrap_or_default() {
        let name: HeaderName = name.parse().map_err(|_| format!("headers: {name:?} is not a header's name"))?;
        // The value may be a token: it is neither printed nor kept readable in Debug.
        let mut value =
            HeaderValue::from_str(&value).map_err(|_| format!("headers: the value of {name} is not valid"))?;
        value.set_sensitive(true);
        headers.insert(name, value);
    }
    Ok(headers)
}
