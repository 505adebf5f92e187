//! How a connection is to be encrypted, and whom to believe: what the URL says, in libpq's words and with their meaning.
//!
//! Source: the PostgreSQL manual, "Database Connection Control Functions" (sslmode and what follows) and "SSL Support".

use std::path::{Path, PathBuf};

use super::parameters::Parameters;
use crate::error::{Error, Result};

/// `sslmode`, from the weakest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Mode {
    Disable,
    /// Without TLS, unless the server refuses that.
    Allow,
    /// With TLS where the server offers it.
    Prefer,
    /// The certificate counts only where there is a file of roots.
    Require,
    VerifyCa,
    VerifyFull,
}

/// Whose signatures make a server's certificate good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Roots {
    /// What this machine believes: `sslrootcert=system`.
    System,
    File(PathBuf),
}

/// Our own certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) certificate: PathBuf,
    pub(super) key: PathBuf,
}

/// Everything about TLS but the contents of files: those are read for each connection, so that new ones count at once.
#[derive(Clone, Debug)]
pub(super) struct Tls {
    pub(super) mode: Mode,
    /// TLS from the first byte (PostgreSQL 17 and later), instead of asking for it.
    pub(super) direct: bool,
    pub(super) roots: Option<Roots>,
    pub(super) identity: Option<Identity>,
    /// Whether to say in the clear which server is meant.
    pub(super) sni: bool,
    /// Whether TLS 1.2 will not do.
    pub(super) only_newest: bool,
}

impl Tls {
    /// `home` is where libpq's default files are, in `.postgresql`; a service has none.
    ///
    /// # Errors
    /// `Kind::Usage` for a value that does not exist, or that does not go with another one.
    pub(super) fn read(parameters: &Parameters, home: Option<&Path>) -> Result<Self> {
        let roots = match parameters.get("sslrootcert").filter(|value| !value.is_empty()) {
            Some("system") => Some(Roots::System),
            Some(path) => Some(Roots::File(path.into())),
            None => default_file(home, "root.crt").map(Roots::File),
        };
        let tls = Self {
            mode: mode(parameters.get("sslmode"), roots.as_ref())?,
            direct: match parameters.get("sslnegotiation").unwrap_or("postgres") {
                "postgres" => false,
                "direct" => true,
                _ => return Err(Error::usage("sslnegotiation must be one of postgres, direct")),
            },
            roots,
            identity: identity(parameters, home)?,
            sni: match parameters.get("sslsni").unwrap_or("1") {
                "0" => false,
                "1" => true,
                _ => return Err(Error::usage("sslsni must be 0 or 1")),
            },
            only_newest: match parameters.get("ssl_min_protocol_version").unwrap_or("TLSv1.2") {
                // We speak nothing older than 1.2 in any case.
                "TLSv1" | "TLSv1.1" | "TLSv1.2" => false,
                "TLSv1.3" => true,
                _ => return Err(Error::usage("ssl_min_protocol_version must be TLSv1.2 or TLSv1.3")),
            },
        };
        if tls.direct && tls.mode < Mode::Require {
            return Err(Error::usage("sslnegotiation=direct needs sslmode=require, verify-ca or verify-full"));
        }
        Ok(tls)
    }
}

fn mode(written: Option<&str>, roots: Option<&Roots>) -> Result<Mode> {
    let mode = match written.filter(|value| !value.is_empty()) {
        // What any authority of the world has signed says nothing unless the name is looked at.
        None if roots == Some(&Roots::System) => Mode::VerifyFull,
        None => Mode::Prefer,
        Some("disable") => Mode::Disable,
        Some("allow") => Mode::Allow,
        Some("prefer") => Mode::Prefer,
        Some("require") => Mode::Require,
        Some("verify-ca") => Mode::VerifyCa,
        Some("verify-full") => Mode::VerifyFull,
        Some(_) => {
            return Err(Error::usage("sslmode must be one of disable, allow, prefer, require, verify-ca, verify-full"));
        }
    };
    if roots == Some(&Roots::System) && mode != Mode::VerifyFull {
        return Err(Error::usage(format!("sslrootcert=system needs sslmode=verify-full, not sslmode={}", mode.name())));
    }
    if mode >= Mode::VerifyCa && roots.is_none() {
        return Err(Error::usage(format!(
            "sslmode={} needs sslrootcert: the file with the certificate of the authority (CA) that signed the server's, \
             or sslrootcert=system",
            mode.name()
        )));
    }
    Ok(mode)
}

fn identity(parameters: &Parameters, home: Option<&Path>) -> Result<Option<Identity>> {
    let written = |name| parameters.get(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let Some(certificate) = written("sslcert").or_else(|| default_file(home, "postgresql.crt")) else {
        return match written("sslkey") {
            Some(_) => Err(Error::usage("sslkey needs sslcert: the file with the certificate that the key belongs to")),
            None => Ok(None),
        };
    };
    let Some(key) = written("sslkey").or_else(|| default_file(home, "postgresql.key")) else {
        return Err(Error::usage("sslcert needs sslkey: the file with the certificate's private key"));
    };
    Ok(Some(Identity { certificate, key }))
}

fn default_file(home: Option<&Path>, name: &str) -> Option<PathBuf> {
    home.map(|home| home.join(".postgresql").join(name)).filter(|path| path.exists())
}

impl Mode {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Disable => "disable",
            Self::Allow => "allow",
            Self::Prefer => "prefer",
            Self::Require => "require",
            Self::VerifyCa => "verify-ca",
            Self::VerifyFull => "verify-full",
        }
    }
}
