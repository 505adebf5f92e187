//! A server that a URL names: where it listens, and the password for it.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;

/// One place at which the server may listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Address {
    Tcp {
        /// As the URL names it: what a certificate must be for.
        name: String,
        /// Where that is: from `hostaddr`, or looked up.
        ip: Option<IpAddr>,
        port: u16,
    },
    /// The path of a socket.
    Unix(PathBuf),
}

impl Address {
    /// Each address that the name has now; itself where nothing is to be looked up.
    pub(super) async fn resolve(&self) -> io::Result<Vec<Self>> {
        match self {
            Self::Tcp { name, ip: None, port } => {
                let found = tokio::net::lookup_host((name.as_str(), *port)).await?;
                Ok(found.map(|at| Self::Tcp { name: name.clone(), ip: Some(at.ip()), port: *port }).collect())
            }
            known => Ok(vec![known.clone()]),
        }
    }

    pub(super) fn is_tcp(&self) -> bool {
        matches!(self, Self::Tcp { .. })
    }
}

/// `db.example:5432`, `[::1]:5432`, `db.example:5432 (10.0.0.7)`, `/run/postgresql/.s.PGSQL.5432`.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, ip, port) = match self {
            Self::Tcp { name, ip, port } => (name, ip, port),
            Self::Unix(path) => return write!(f, "{}", path.display()),
        };
        if name.contains(':') {
            write!(f, "[{name}]:{port}")?;
        } else {
            write!(f, "{name}:{port}")?;
        }
        match ip {
            Some(ip) if ip.to_string() != *name => write!(f, " ({ip})"),
            _ => Ok(()),
        }
    }
}

/// A server and the password for it: a password file may hold another one for each.
#[derive(Clone)]
pub(super) struct Server {
    pub(super) address: Address,
    pub(super) password: Option<Vec<u8>>,
}

/// Without the password.
impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Server({})", self.address)
    }
}
