//! Which database, as which role: `database.url`.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio_postgres::Config;
use tokio_postgres::config::{ChannelBinding, Host, SslMode, TargetSessionAttrs};

use super::password::{Place, Surroundings};
use super::settings;
use crate::error::{Error, Result};

/// Parameters of a URL that we understand; the rest of libpq's is refused by name rather than ignored.
const PARAMETERS: [&str; 18] = [
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
    "target_session_attrs",
    "channel_binding",
    "load_balance_hosts",
    "sslmode",
];

/// How long one server may take to answer, unless the URL says `connect_timeout`.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Where Debian and most distributions keep the server's socket: what a URL without a host means.
const SOCKET_DIRECTORY: &str = "/var/run/postgresql";

/// A database and the role that connects to it. The password appears in no Debug, Display or error.
#[derive(Clone)]
pub(crate) struct Database {
    config: Config,
    role: String,
    name: String,
}

/// One place at which the server may listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Address {
    /// A host name or IP address, and a port.
    Tcp(String, u16),
    /// The path of a socket.
    Unix(PathBuf),
}

impl Database {
    /// Reads a `postgres://` URL; a missing password is taken from `PGPASSWORD`, the systemd credential
    /// `database_password`, or `PGPASSFILE`.
    ///
    /// # Errors
    /// `Kind::Usage` for a malformed URL, an unknown parameter, a missing role, or a demand for TLS.
    pub(crate) fn parse(url: &str) -> Result<Self> {
        Self::parse_with(url, &Surroundings::of_the_process())
    }

    fn parse_with(url: &str, around: &Surroundings) -> Result<Self> {
        if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
            return Err(Error::usage("the database URL must begin with postgres://"));
        }
        let (base, query) = url.split_once('?').unwrap_or((url, ""));
        let (_, rest) = base.split_once("//").unwrap_or_default();
        let (_, rest) = rest.split_once('@').unwrap_or(("", rest));
        let names_server = !rest.is_empty() && !rest.starts_with('/');
        let mut kept = Vec::new();
        for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            match name {
                "sslmode" => without_tls(value)?,
                "host" | "port" if names_server => {
                    return Err(Error::usage(format!("the database URL names a {name} before and after its `?`")));
                }
                name if PARAMETERS.contains(&name) => kept.push(parameter),
                name => return Err(unknown(name)),
            }
        }
        let config = format!("{base}?{}", kept.join("&")).parse::<Config>().map_err(|error| malformed(&error))?;
        Self::complete(config, around)
    }

    /// Fills in what the URL left open, and what is ours.
    fn complete(mut config: Config, around: &Surroundings) -> Result<Self> {
        let Some(role) = config.get_user().filter(|role| !role.is_empty()).map(str::to_owned) else {
            return Err(Error::usage("the database URL names no role (postgres://role@host/database)"));
        };
        // As in libpq, the database is named like the role unless named.
        let name = config.get_dbname().filter(|name| !name.is_empty()).unwrap_or(&role).to_owned();
        config.dbname(&name);
        if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
            if Path::new(SOCKET_DIRECTORY).exists() {
                config.host_path(SOCKET_DIRECTORY);
            } else {
                config.host("localhost");
            }
        }
        if config.get_password().is_none()
            && let Some(password) = around.password(&place(&config, &name, &role))?
        {
            config.password(password);
        }
        if config.get_channel_binding() == ChannelBinding::Require {
            return Err(Error::usage("channel_binding=require needs TLS, which is not supported yet"));
        }
        if config.get_hosts().len().max(config.get_hostaddrs().len()) > 1 {
            // We write: a standby among several hosts is of no use.
            config.target_session_attrs(TargetSessionAttrs::ReadWrite);
        }
        if config.get_connect_timeout().is_none_or(Duration::is_zero) {
            config.connect_timeout(CONNECT_TIMEOUT);
        }
        find_dead_peers(&mut config);
        let options = settings::options(config.get_options());
        config.options(options).ssl_mode(SslMode::Disable);
        let database = Self { config, role, name };
        let ports = database.config.get_ports().len();
        if ports > 1 && ports != database.config.get_hosts().len().max(database.config.get_hostaddrs().len()) {
            return Err(Error::usage("the database URL must name one port, or as many as hosts"));
        }
        Ok(database)
    }

    pub(crate) fn role(&self) -> &str {
        &self.role
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn config(&self) -> &Config {
        &self.config
    }

    /// For one server, from the first packet to the end of authentication.
    pub(super) fn connect_timeout(&self) -> Duration {
        self.config.get_connect_timeout().copied().unwrap_or(CONNECT_TIMEOUT)
    }

    /// Where the server may be, in the order in which to try.
    pub(super) fn addresses(&self) -> Vec<Address> {
        let port = |index: usize| {
            let ports = self.config.get_ports();
            ports.get(index).or(ports.first()).copied().unwrap_or(5432)
        };
        let addresses = self.config.get_hostaddrs();
        if addresses.is_empty() {
            let host = |(index, host): (usize, &Host)| match host {
                Host::Tcp(name) => Address::Tcp(name.clone(), port(index)),
                Host::Unix(directory) => Address::Unix(directory.join(format!(".s.PGSQL.{}", port(index)))),
            };
            self.config.get_hosts().iter().enumerate().map(host).collect()
        } else {
            addresses.iter().enumerate().map(|(index, ip)| Address::Tcp(ip.to_string(), port(index))).collect()
        }
    }
}

/// The first server, as a password file names it; its socket's directory, where it has one.
fn place<'a>(config: &'a Config, database: &'a str, role: &'a str) -> Place<'a> {
    let host = match config.get_hosts().first() {
        Some(Host::Tcp(name)) => name,
        Some(Host::Unix(directory)) if directory == Path::new(SOCKET_DIRECTORY) => "localhost",
        Some(Host::Unix(directory)) => directory.to_str().unwrap_or_default(),
        None => "",
    };
    Place { host, port: config.get_ports().first().copied().unwrap_or(5432), database, role }
}

/// A network that swallows our packets must not hold a query for the kernel's two hours; what the URL says stands.
fn find_dead_peers(config: &mut Config) {
    const KERNEL_DEFAULT: Duration = Duration::from_secs(2 * 60 * 60);
    if config.get_keepalives_idle() == KERNEL_DEFAULT {
        config.keepalives_idle(Duration::from_secs(30));
    }
    if config.get_keepalives_interval().is_none() {
        config.keepalives_interval(Duration::from_secs(10));
    }
    if config.get_keepalives_retries().is_none() {
        config.keepalives_retries(3);
    }
    if config.get_tcp_user_timeout().is_none() {
        config.tcp_user_timeout(Duration::from_secs(60));
    }
}

/// Accepts the modes that can do without TLS.
fn without_tls(mode: &str) -> Result<()> {
    match mode {
        "disable" | "allow" | "prefer" => Ok(()),
        "require" | "verify-ca" | "verify-full" => Err(Error::usage(format!(
            "sslmode={mode} needs TLS, which is not supported yet: use a Unix socket, or sslmode=prefer in a trusted network"
        ))),
        _ => Err(Error::usage("sslmode must be one of disable, allow, prefer, require, verify-ca, verify-full")),
    }
}

/// Names a parameter only if it looks like one: where a password holds an unescaped `?`, this is a piece of it.
fn unknown(name: &str) -> Error {
    if name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_') && name.len() < 32 && name.contains("ssl") {
        Error::usage(format!("the parameter `{name}` of the database URL is not supported"))
    } else {
        Error::usage(format!(
            "the database URL holds an unknown parameter after its `?` (a `?` in a password is written %3F); known are {}",
            PARAMETERS.join(", ")
        ))
    }
}

/// What tokio-postgres says of a value names the parameter, never the value; of other faults we say no details.
fn malformed(error: &tokio_postgres::Error) -> Error {
    use std::error::Error as _;
    let cause = error.source().map(ToString::to_string).unwrap_or_default();
    if cause.starts_with("invalid value for option") {
        Error::usage(format!("the database URL is malformed: {cause}"))
    } else {
        Error::usage(
            "the database URL is malformed: expected postgres://role:password@host:port/database \
             (special characters are written %XX)",
        )
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(host, port) if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp(host, port) => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

/// "database `portal` as role `portalhook` at 127.0.0.1:5432".
impl fmt::Display for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let addresses: Vec<_> = self.addresses().iter().map(Address::to_string).collect();
        write!(f, "database `{}` as role `{}` at {}", self.name, self.role, addresses.join(", "))
    }
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Database({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::super::password::Hidden;
    use super::*;
    use crate::error::Kind;

    fn parse(url: &str) -> Database {
        Database::parse_with(url, &Surroundings::default()).expect(url)
    }

    fn refusal(url: &str) -> String {
        let error = Database::parse_with(url, &Surroundings::default()).expect_err(url);
        assert_eq!(error.kind(), Kind::Usage);
        format!("{error:?}")
    }

    #[test]
    fn reads_tcp_and_socket_addresses() {
        for (url, expected) in [
            ("postgres://me@db.example:5433/portal", vec!["db.example:5433"]),
            ("postgresql://me@[::1]/portal", vec!["[::1]:5432"]),
            ("postgres://me@%2Ftmp%2Fpg:5433/portal", vec!["/tmp/pg/.s.PGSQL.5433"]),
            ("postgres://me@/portal?host=/tmp/pg&port=5434", vec!["/tmp/pg/.s.PGSQL.5434"]),
            ("postgres:///portal?host=%2Ftmp%2Fpg&user=me", vec!["/tmp/pg/.s.PGSQL.5432"]),
            ("postgres://me@one:1,two:2/portal", vec!["one:1", "two:2"]),
            ("postgres://me@/portal?host=/tmp/pg", vec!["/tmp/pg/.s.PGSQL.5432"]),
            ("postgres://me@/portal?hostaddr=127.0.0.1&port=7", vec!["127.0.0.1:7"]),
        ] {
            let database = parse(url);
            assert_eq!(database.addresses().iter().map(Address::to_string).collect::<Vec<_>>(), expected, "{url}");
            assert_eq!((database.role(), database.name()), ("me", "portal"), "{url}");
        }
    }

    #[test]
    fn a_database_is_named_like_the_role_unless_named() {
        assert_eq!(parse("postgres://me@localhost").name(), "me");
    }

    #[test]
    fn says_no_password() {
        let database = parse("postgres://me:s3cret@localhost/portal");
        assert_eq!(database.config().get_password(), Some(&b"s3cret"[..]));
        assert_eq!(format!("{database:?}"), "Database(database `portal` as role `me` at localhost:5432)");
        for url in [
            "postgres://me:s3cret@localhost:x/portal",
            "postgres://me:?s3cret@localhost/portal",
            "postgres://me:&s3cret=1@localhost/portal",
            "postgres://me:s3cret%@localhost/portal",
            "postgres://me:s3cret@localhost/portal?port=s3cret",
            "postgres://:s3cret@localhost/portal",
            "mysql://me:s3cret@localhost/portal",
        ] {
            assert!(!refusal_or_debug(url).contains("s3cret"), "{url}: {}", refusal_or_debug(url));
        }
    }

    fn refusal_or_debug(url: &str) -> String {
        Database::parse_with(url, &Surroundings::default())
            .map_or_else(|error| format!("{error:?}"), |database| format!("{database:?}"))
    }

    #[test]
    fn takes_the_password_of_the_environment_only_where_the_url_has_none() {
        let password = |url| {
            let around = Surroundings { variable: Some(Hidden("env".to_owned())), ..Surroundings::default() };
            let database = Database::parse_with(url, &around).expect(url);
            database.config().get_password().map(|password| String::from_utf8_lossy(password).into_owned())
        };
        assert_eq!(password("postgres://me@localhost").as_deref(), Some("env"));
        assert_eq!(password("postgres://me:url@localhost").as_deref(), Some("url"));
    }

    #[test]
    fn refuses_what_needs_tls_and_what_it_does_not_know() {
        for mode in ["require", "verify-ca", "verify-full"] {
            assert!(refusal(&format!("postgres://me@localhost/x?sslmode={mode}")).contains("needs TLS"));
        }
        for mode in ["disable", "allow", "prefer"] {
            parse(&format!("postgres://me@localhost/x?sslmode={mode}"));
        }
        assert!(refusal("postgres://me@localhost/x?sslmode=maybe").contains("must be one of"));
        assert!(refusal("postgres://me@localhost/x?sslrootcert=/x").contains("`sslrootcert`"));
        assert!(refusal("postgres://me@localhost/x?channel_binding=require").contains("needs TLS"));
        assert!(refusal("postgres://localhost/x").contains("names no role"));
        assert!(refusal("host=localhost user=me").contains("must begin with postgres://"));
        assert!(refusal("postgres://me@/x?port=many").contains("`port`"));
        assert!(refusal("postgres://me@localhost/x?host=/tmp").contains("names a host before and after"));
        assert!(refusal("postgres://me@/x?port=1&port=2").contains("one port"));
    }
}
