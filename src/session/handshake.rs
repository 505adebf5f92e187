//! Opens a channel: TCP or a Unix socket, the question for TLS, and TLS.
//!
//! Source: the PostgreSQL manual, "Message Flow", SSL Session Encryption.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use postgres_protocol::message::frontend;
use rustls::pki_types::ServerName;
use rustls::{AlertDescription, CertificateError};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio_postgres::Config;
use tokio_rustls::TlsConnector;

use super::binding::tls_server_end_point;
use super::certificates::{self, PROTOCOL};
use super::channel::Channel;
use super::database::Database;
use super::server::Address;
use super::tls::{Mode, Roots, Tls};
use super::verify::{is_authority, is_of_an_old_version};
use crate::error::{Error, Kind, Result};

/// What is wanted of a server over TCP; on a Unix socket there is no TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    Plain,
    IfOffered,
    Encrypted,
}

/// Why there is no connection, as far as it decides about another attempt.
pub(super) enum Failure {
    /// Nobody answers, or nobody who speaks as a server of PostgreSQL does.
    Unreachable(Error),
    /// TLS did not come about.
    Handshake(Error),
    /// What was said over the open channel came to nothing.
    Login { error: Error, encrypted: bool },
}

impl Failure {
    pub(super) fn into_error(self) -> Error {
        let (Self::Unreachable(error) | Self::Handshake(error) | Self::Login { error, .. }) = self;
        error
    }
}

/// Opens a channel to the one server that `database` is at.
pub(super) async fn open(database: &Database, address: &Address, wish: Wish) -> Result<Channel, Failure> {
    let unreachable = |error: io::Error| {
        Failure::Unreachable(Error::because(Kind::Unavailable, format!("connect to {database}"), error))
    };
    let (name, ip, port) = match address {
        Address::Tcp { name, ip, port } => (name, ip, port),
        Address::Unix(path) => return UnixStream::connect(path).await.map(Channel::plain).map_err(unreachable),
    };
    let connected = match ip {
        Some(ip) => TcpStream::connect((*ip, *port)).await,
        None => TcpStream::connect((name.as_str(), *port)).await,
    };
    let mut socket = connected.map_err(unreachable)?;
    prepare(&socket, database.config()).map_err(unreachable)?;
    if wish == Wish::Plain {
        return Ok(Channel::plain(socket));
    }
    let tls = database.tls();
    if !tls.direct {
        match ask(&mut socket).await.map_err(unreachable)? {
            b'S' => {}
            b'N' if wish == Wish::IfOffered => return Ok(Channel::plain(socket)),
            b'N' => return Err(Failure::Handshake(no_tls(database))),
            // Said before anybody knows who says it: not to be repeated (CVE-2024-10977).
            b'E' => {
                return Err(Failure::Handshake(failed(
                    database,
                    "the server answers the question for TLS with an error",
                )));
            }
            _ => {
                let cause = io::Error::new(io::ErrorKind::InvalidData, "what answers there is no PostgreSQL server");
                return Err(unreachable(cause));
            }
        }
    }
    let handshake = Handshake { database, tls, name, ip: ip.as_ref() };
    handshake.run(socket).await.map_err(Failure::Handshake)
}

/// Asks for TLS. Exactly one byte is read: whatever else has been sent in the clear becomes part of the handshake, which it
/// breaks, and never of what the server says afterwards (CVE-2021-23222).
async fn ask(socket: &mut TcpStream) -> io::Result<u8> {
    let mut request = bytes::BytesMut::new();
    frontend::ssl_request(&mut request);
    socket.write_all(&request).await?;
    socket.read_u8().await
}

/// Small messages must not wait for more, and a network that swallows our packets must not hold us.
fn prepare(socket: &TcpStream, config: &Config) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let options = SockRef::from(socket);
    options.set_tcp_user_timeout(config.get_tcp_user_timeout().copied())?;
    if config.get_keepalives() {
        let mut keepalive = TcpKeepalive::new().with_time(config.get_keepalives_idle());
        if let Some(interval) = config.get_keepalives_interval() {
            keepalive = keepalive.with_interval(interval);
        }
        if let Some(retries) = config.get_keepalives_retries() {
            keepalive = keepalive.with_retries(retries);
        }
        options.set_tcp_keepalive(&keepalive)?;
    }
    Ok(())
}

struct Handshake<'a> {
    database: &'a Database,
    tls: &'a Tls,
    name: &'a str,
    ip: Option<&'a IpAddr>,
}

impl Handshake<'_> {
    async fn run(&self, socket: TcpStream) -> Result<Channel> {
        let client = Arc::new(self.client()?);
        let stream = TlsConnector::from(client)
            .connect(self.server_name()?, socket)
            .await
            .map_err(|error| self.explain(&error))?;
        let (_, session) = stream.get_ref();
        if self.tls.direct && session.alpn_protocol() != Some(PROTOCOL) {
            return Err(failed(
                self.database,
                "what answers there is no PostgreSQL server (sslnegotiation=direct needs version 17)",
            ));
        }
        let certificate = session.peer_certificates().and_then(<[_]>::first);
        let binding = certificate.and_then(|certificate| tls_server_end_point(certificate));
        Ok(Channel::encrypted(stream, binding))
    }

    /// The files were good when the URL was read: what is wrong with them now, such as a new one that is being written, can
    /// pass.
    fn client(&self) -> Result<rustls::ClientConfig> {
        certificates::client(self.tls).map_err(|error| failed(self.database, &error.to_string()))
    }

    fn server_name(&self) -> Result<ServerName<'static>> {
        match (ServerName::try_from(self.name.to_owned()), self.ip) {
            (Ok(name), _) => Ok(name),
            // Nobody is going to look at the name.
            (Err(_), Some(ip)) if self.tls.mode != Mode::VerifyFull => Ok(ServerName::from(*ip)),
            (Err(_), _) => Err(failed(self.database, &format!("no certificate can be for the name {}", self.name))),
        }
    }

    /// What went wrong, and what to type.
    fn explain(&self, error: &io::Error) -> Error {
        let Some(cause) = error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>()) else {
            return failed(self.database, &format!("the server ended the TLS handshake ({error})"));
        };
        let why = match cause {
            rustls::Error::InvalidCertificate(why) => self.explain_certificate(why, cause),
            rustls::Error::AlertReceived(alert) => refused_by_server(*alert, self.tls),
            rustls::Error::PeerIncompatible(why) => {
                format!("TLS has no version or cipher that both sides know: TLS 1.2 or 1.3 is needed ({why:?})")
            }
            rustls::Error::NoApplicationProtocol => "what answers there is no PostgreSQL server".to_owned(),
            other => format!("the TLS handshake failed ({other})"),
        };
        failed(self.database, &why)
    }

    fn explain_certificate(&self, why: &CertificateError, whole: &rustls::Error) -> String {
        let reason = match why {
            CertificateError::UnknownIssuer | CertificateError::BadSignature => match &self.tls.roots {
                Some(Roots::File(path)) => format!(
                    "unknown issuer: {} does not hold the authority (CA) that signed it; name the right file in sslrootcert",
                    path.display()
                ),
                _ => "unknown issuer: this machine does not know the authority (CA) that signed it; name the file with its certificate in \
                      sslrootcert"
                    .to_owned(),
            },
            CertificateError::NotValidForNameContext { presented, .. } => format!(
                "it is not for {}, but for {}: connect by a name that it is for, or sslmode=verify-ca to pass over the name",
                self.name,
                names(presented)
            ),
            CertificateError::ExpiredContext { .. } | CertificateError::Expired => {
                "it has expired: the server needs a new one".to_owned()
            }
            CertificateError::NotValidYetContext { .. } | CertificateError::NotValidYet => {
                "it is not valid yet: look at this machine's clock".to_owned()
            }
            _ if is_authority(whole) => {
                "it is an authority (CA) itself, and not one that sslrootcert holds: name its own file there".to_owned()
            }
            _ if is_of_an_old_version(whole) => {
                "it is of X.509 version 1: the server needs one with a subjectAltName (openssl req -addext)".to_owned()
            }
            other => format!("{other}"),
        };
        format!("the server's certificate cannot be trusted: {reason}")
    }
}

/// `DnsName("db.example")` as rustls says it, or nothing.
fn names(presented: &[String]) -> String {
    if presented.is_empty() {
        return "no name (only names under subjectAltName count)".to_owned();
    }
    let bare = |name: &String| name.split('"').nth(1).unwrap_or(name).to_owned();
    presented.iter().map(bare).collect::<Vec<_>>().join(", ")
}

/// Why a server ends a handshake is one word; mostly it is about our own certificate.
pub(super) fn refused_by_server(alert: AlertDescription, tls: &Tls) -> String {
    match (alert, &tls.identity) {
        (
            AlertDescription::UnknownCA
            | AlertDescription::BadCertificate
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::CertificateRevoked
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::DecryptError
            | AlertDescription::CertificateRequired,
            Some(identity),
        ) => format!(
            "the server refuses our certificate ({alert:?}): sslcert {} must be signed by an authority in the server's ssl_ca_file",
            identity.certificate.display()
        ),
        (AlertDescription::CertificateRequired, None) => {
            "the server wants a certificate of ours: name its file in sslcert and its key's in sslkey".to_owned()
        }
        _ => format!("the server ended the TLS handshake ({alert:?})"),
    }
}

fn no_tls(database: &Database) -> Error {
    failed(
        database,
        &format!(
            "the server does not support TLS, but sslmode={} demands it: set ssl = on there, or sslmode=prefer in a network that is \
             trusted",
            database.tls().mode.name()
        ),
    )
}

/// A matter of waiting for a daemon that was well before: certificates are renewed, servers configured.
fn failed(database: &Database, why: &str) -> Error {
    Error::new(Kind::Unavailable, format!("connect to {database}: {why}"))
}
