//! What a URL says after its `?`, and what libpq's environment variables say where the URL is silent.

use percent_encoding::percent_decode_str;

use super::surroundings::Surroundings;
use crate::error::{Error, Result};

/// What tokio-postgres reads for us.
const THEIRS: [&str; 15] = [
    "user",
    "password",
    "dbname",
    "options",
    "application_name",
    "host",
    "hostaddr",
    "port",
    "connect_timeout",
    "tcp_user_timeout",
    "keepalives",
    "keepalives_idle",
    "keepalives_interval",
    "keepalives_retries",
    // Only a primary is taken, so the order in which servers are tried makes no difference.
    "load_balance_hosts",
];

/// What we read, and libpq's variable for it.
const OURS: [(&str, &str); 9] = [
    ("sslmode", "PGSSLMODE"),
    ("sslrootcert", "PGSSLROOTCERT"),
    ("sslcert", "PGSSLCERT"),
    ("sslkey", "PGSSLKEY"),
    ("sslnegotiation", "PGSSLNEGOTIATION"),
    ("sslsni", "PGSSLSNI"),
    ("ssl_min_protocol_version", "PGSSLMINPROTOCOLVERSION"),
    ("channel_binding", "PGCHANNELBINDING"),
    ("target_session_attrs", "PGTARGETSESSIONATTRS"),
];

/// What somebody who sets it relies on, and we cannot do: refused, not passed over.
const REFUSED: [(&str, &str); 8] = [
    ("sslcrl", "PGSSLCRL"),
    ("sslcrldir", "PGSSLCRLDIR"),
    ("sslpassword", ""),
    ("sslcertmode", "PGSSLCERTMODE"),
    ("ssl_max_protocol_version", "PGSSLMAXPROTOCOLVERSION"),
    ("requirepeer", "PGREQUIREPEER"),
    ("require_auth", "PGREQUIREAUTH"),
    ("gssencmode", "PGGSSENCMODE"),
];

/// The variables of libpq that count, for `Surroundings` to look at.
pub(super) fn variables() -> impl Iterator<Item = &'static str> {
    OURS.iter().chain(&REFUSED).map(|(_, variable)| *variable).filter(|variable| !variable.is_empty())
}

/// Our parameters: name and value.
#[derive(Debug, Default)]
pub(super) struct Parameters(Vec<(&'static str, String)>);

impl Parameters {
    /// Splits a URL into what tokio-postgres reads and what we read.
    ///
    /// # Errors
    /// `Kind::Usage` for a parameter that is unknown, or that says twice what the URL has said.
    pub(super) fn split(url: &str, around: &Surroundings) -> Result<(String, Self)> {
        let (base, query) = url.split_once('?').unwrap_or((url, ""));
        let (_, rest) = base.split_once("//").unwrap_or_default();
        let (_, rest) = rest.split_once('@').unwrap_or(("", rest));
        let names_server = !rest.is_empty() && !rest.starts_with('/');
        let (mut theirs, mut ours) = (Vec::new(), Self::default());
        for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            match name {
                "host" | "port" if names_server => {
                    return Err(Error::usage(format!("the database URL names a {name} before and after its `?`")));
                }
                name if THEIRS.contains(&name) => theirs.push(parameter),
                // As JDBC's URLs have it; libpq, too, reads it so.
                "ssl" if value == "true" => ours.set("sslmode", "require".to_owned()),
                name => ours.take(name, value)?,
            }
        }
        ours.complete(around)?;
        Ok((format!("{base}?{}", theirs.join("&")), ours))
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| *known == name).map(|(_, value)| value.as_str())
    }

    /// The last one counts, as in libpq.
    fn set(&mut self, name: &'static str, value: String) {
        self.0.retain(|(known, _)| *known != name);
        self.0.push((name, value));
    }

    fn take(&mut self, name: &str, value: &str) -> Result<()> {
        if let Some((name, _)) = OURS.iter().find(|(known, _)| *known == name) {
            let value = percent_decode_str(value).decode_utf8().map_err(|_| {
                Error::usage(format!(
                    "the database URL is malformed: {name} is not UTF-8 (special characters are written %XX)"
                ))
            })?;
            self.set(name, value.into_owned());
            return Ok(());
        }
        match REFUSED.iter().find(|(known, _)| *known == name) {
            // We never ask for it, which is all that these want.
            Some(("gssencmode", _)) if matches!(value, "disable" | "prefer") => Ok(()),
            Some((name, _)) => Err(unsupported(&format!("the parameter `{name}` of the database URL"), name)),
            None => Err(unknown()),
        }
    }

    /// An empty variable is none.
    fn complete(&mut self, around: &Surroundings) -> Result<()> {
        for (name, variable) in OURS {
            if self.get(name).is_none()
                && let Some(value) = around.libpq(variable)
            {
                self.set(name, value.to_owned());
            }
        }
        for (name, variable) in REFUSED {
            match around.libpq(variable) {
                None | Some("disable" | "prefer") if name == "gssencmode" => {}
                None => {}
                Some(_) => return Err(unsupported(&format!("the variable {variable}"), name)),
            }
        }
        Ok(())
    }
}

fn unsupported(what: &str, name: &str) -> Error {
    let instead = if name == "sslpassword" { ": take the passphrase off the key (openssl pkey -in KEY)" } else { "" };
    Error::usage(format!("{what} is not supported{instead}"))
}

/// Does not repeat the name: where a password holds an unescaped `?`, this is a piece of it.
fn unknown() -> Error {
    let known: Vec<&str> = THEIRS.into_iter().chain(OURS.into_iter().map(|(name, _)| name)).collect();
    Error::usage(format!(
        "the database URL holds an unknown parameter after its `?` (a `?` in a password is written %3F); known are {}",
        known.join(", ")
    ))
}
