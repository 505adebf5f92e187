//! Which database, as which role: `database.url`.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio_postgres::Config;
use tokio_postgres::config::{ChannelBinding, Host};

use super::certificates;
use super::parameters::Parameters;
use super::server::{Address, Server};
use super::settings;
use super::surroundings::{Place, Surroundings};
use super::tls::{Mode, Tls};
use crate::error::{Error, Result};

/// How long one server may take to answer, unless the URL says `connect_timeout`.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Where Debian and most distributions keep the server's socket: what a URL without a host means.
const SOCKET_DIRECTORY: &str = "/var/run/postgresql";

/// A database and the role that connects to it. The password appears in no Debug, Display or error.
#[derive(Clone)]
pub(crate) struct Database {
    /// What tokio-postgres reads of it; where the servers are, and with which password, is in `servers`.
    config: Config,
    role: String,
    name: String,
    servers: Vec<Server>,
    /// Where all of the URL's servers are.
    home: String,
    tls: Tls,
    /// Whether a standby will not do.
    wants_primary: bool,
}

impl Database {
    /// Reads a `postgres://` URL; a missing password is taken from `PGPASSWORD`, the systemd credential
    /// `database_password`, or the password file; missing words about TLS from libpq's variables.
    ///
    /// # Errors
    /// `Kind::Usage` for a malformed URL, an unknown parameter, a missing role, or a certificate or key that is no good.
    pub(crate) fn parse(url: &str) -> Result<Self> {
        Self::parse_with(url, &Surroundings::of_the_process())
    }

    pub(super) fn parse_with(url: &str, around: &Surroundings) -> Result<Self> {
        if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
            return Err(Error::usage("the database URL must begin with postgres://"));
        }
        let (url, parameters) = Parameters::split(url, around)?;
        let config = url.parse::<Config>().map_err(|error| malformed(&error))?;
        Self::complete(config, &parameters, around)
    }

    /// Fills in what the URL left open, and what is ours.
    fn complete(mut config: Config, parameters: &Parameters, around: &Surroundings) -> Result<Self> {
        let Some(role) = config.get_user().filter(|role| !role.is_empty()).map(str::to_owned) else {
            return Err(Error::usage("the database URL names no role (postgres://role@host/database)"));
        };
        // As in libpq, the database is named like the role unless named.
        let name = config.get_dbname().filter(|name| !name.is_empty()).unwrap_or(&role).to_owned();
        config.dbname(&name);
        let mut servers = Vec::new();
        for address in addresses(&config)? {
            let password = match config.get_password() {
                Some(password) => Some(password.to_vec()),
                None => around.password(&place(&address, &name, &role))?.map(String::into_bytes),
            };
            servers.push(Server { address, password });
        }
        let tls = Tls::read(parameters, around.home.as_deref())?;
        let is_tcp = servers.iter().any(|server| server.address.is_tcp());
        if is_tcp && tls.mode != Mode::Disable {
            // Each connection reads the files anew; what is wrong with them now is said now.
            certificates::client(&tls)?;
        }
        config.channel_binding(binding(parameters, &tls)?);
        if config.get_connect_timeout().is_none_or(Duration::is_zero) {
            config.connect_timeout(CONNECT_TIMEOUT);
        }
        find_dead_peers(&mut config);
        let options = settings::options(config.get_options());
        config.options(options);
        let wants_primary = wants_primary(parameters, servers.len())?;
        let home = super::home::of(servers.iter().map(|server| &server.address));
        Ok(Self { config, role, name, servers, home, tls, wants_primary })
    }

    pub(crate) fn role(&self) -> &str {
        &self.role
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// What tells a database from its copy where the server itself cannot: the places that the URL names, also after one of
    /// them was found to be the server.
    pub(crate) fn home(&self) -> &str {
        &self.home
    }

    pub(super) fn config(&self) -> &Config {
        &self.config
    }

    pub(super) fn tls(&self) -> &Tls {
        &self.tls
    }

    pub(super) fn wants_primary(&self) -> bool {
        self.wants_primary
    }

    /// For one attempt at one server, from the first packet to the end of authentication.
    pub(super) fn connect_timeout(&self) -> Duration {
        self.config.get_connect_timeout().copied().unwrap_or(CONNECT_TIMEOUT)
    }

    /// Where the server may be, in the order in which to try.
    pub(super) fn servers(&self) -> &[Server] {
        &self.servers
    }

    /// The same database, at this server alone.
    pub(super) fn at(&self, server: Server) -> Self {
        Self { servers: vec![server], ..self.clone() }
    }

    /// The password for the first server.
    pub(super) fn password(&self) -> Option<&[u8]> {
        self.servers.first().and_then(|server| server.password.as_deref())
    }
}

/// The servers of a URL. `hostaddr` says where a host is, so that its name needs no name service.
fn addresses(config: &Config) -> Result<Vec<Address>> {
    let (hosts, ips, ports) = (config.get_hosts(), config.get_hostaddrs(), config.get_ports());
    let count = hosts.len().max(ips.len());
    if !hosts.is_empty() && !ips.is_empty() && hosts.len() != ips.len() {
        return Err(Error::usage("the database URL must name as many of hostaddr as of host"));
    }
    if ports.len() > 1 && ports.len() != count {
        return Err(Error::usage("the database URL must name one port, or as many as hosts"));
    }
    let port = |index: usize| ports.get(index).or(ports.first()).copied().unwrap_or(5432);
    if count == 0 {
        let directory = Path::new(SOCKET_DIRECTORY);
        return Ok(vec![if directory.exists() {
            Address::Unix(socket(directory, port(0)))
        } else {
            Address::Tcp { name: "localhost".to_owned(), ip: None, port: port(0) }
        }]);
    }
    let address = |index| match (hosts.get(index), ips.get(index).copied()) {
        (Some(Host::Unix(directory)), None) => Address::Unix(socket(directory, port(index))),
        (Some(Host::Tcp(name)), ip) => {
            Address::Tcp { name: name.clone(), ip: ip.or_else(|| name.parse().ok()), port: port(index) }
        }
        (_, Some(ip)) => Address::Tcp { name: ip.to_string(), ip: Some(ip), port: port(index) },
        (None, None) => Address::Unix(socket(Path::new(SOCKET_DIRECTORY), port(index))),
    };
    Ok((0..count).map(address).collect())
}

fn socket(directory: &Path, port: u16) -> PathBuf {
    directory.join(format!(".s.PGSQL.{port}"))
}

/// `channel_binding`, which needs TLS.
fn binding(parameters: &Parameters, tls: &Tls) -> Result<ChannelBinding> {
    match parameters.get("channel_binding").unwrap_or("prefer") {
        "disable" => Ok(ChannelBinding::Disable),
        "prefer" => Ok(ChannelBinding::Prefer),
        "require" if tls.mode == Mode::Disable => {
            Err(Error::usage("channel_binding=require needs TLS, which sslmode=disable forbids"))
        }
        "require" => Ok(ChannelBinding::Require),
        _ => Err(Error::usage("channel_binding must be one of disable, prefer, require")),
    }
}

/// `target_session_attrs`. We write, so a standby among several servers is of no use; the one server that a URL names is
/// taken as it is, and `check` says what is wrong with it.
fn wants_primary(parameters: &Parameters, servers: usize) -> Result<bool> {
    match parameters.get("target_session_attrs") {
        None => Ok(servers > 1),
        // Our sessions may write wherever they are on a primary: `default_transaction_read_only` is pinned.
        Some("read-write" | "primary") => Ok(true),
        Some("any") => Ok(servers > 1),
        Some(other @ ("read-only" | "standby" | "prefer-standby")) => Err(Error::usage(format!(
            "target_session_attrs={other} asks for a server that cannot be written to: portalhook writes its ledger, so read-write \
             or primary"
        ))),
        Some(_) => Err(Error::usage("target_session_attrs must be one of any, read-write, primary")),
    }
}

/// A server, as a password file names it: its socket's directory, where it has one.
fn place<'a>(address: &'a Address, database: &'a str, role: &'a str) -> Place<'a> {
    let (host, port) = match address {
        Address::Tcp { name, port, .. } => (name.as_str(), *port),
        Address::Unix(path) => {
            let port = path.extension().and_then(|port| port.to_str()?.parse().ok()).unwrap_or(5432);
            match path.parent() {
                Some(directory) if directory == Path::new(SOCKET_DIRECTORY) => ("localhost", port),
                directory => (directory.and_then(Path::to_str).unwrap_or_default(), port),
            }
        }
    };
    Place { host, port, database, role }
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

/// "database `portal` as role `portalhook` at 127.0.0.1:5432".
impl fmt::Display for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let addresses: Vec<_> = self.servers.iter().map(|server| server.address.to_string()).collect();
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
    use super::super::surroundings::Hidden;
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
            ("postgres://me@db.example/portal?hostaddr=127.0.0.1", vec!["db.example:5432 (127.0.0.1)"]),
        ] {
            let database = parse(url);
            let places: Vec<_> = database.servers().iter().map(|server| server.address.to_string()).collect();
            assert_eq!(places, expected, "{url}");
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
        assert_eq!(database.password(), Some(&b"s3cret"[..]));
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
            database.password().map(|password| String::from_utf8_lossy(password).into_owned())
        };
        assert_eq!(password("postgres://me@localhost").as_deref(), Some("env"));
        assert_eq!(password("postgres://me:url@localhost").as_deref(), Some("url"));
    }

    #[test]
    fn refuses_what_it_does_not_know() {
        for (url, says) in [
            ("postgres://me@localhost/x?sslmode=maybe", "must be one of"),
            ("postgres://me@localhost/x?sslcrl=/x", "`sslcrl` of the database URL is not supported"),
            ("postgres://me@localhost/x?sslpassword=s3cret", "take the passphrase off"),
            ("postgres://me@localhost/x?gssencmode=require", "`gssencmode`"),
            ("postgres://me@localhost/x?channel_binding=require&sslmode=disable", "needs TLS"),
            ("postgres://me@localhost/x?channel_binding=maybe", "channel_binding must be"),
            ("postgres://me@localhost/x?sslnegotiation=direct", "needs sslmode=require"),
            ("postgres://me@localhost/x?sslmode=verify-full", "sslmode=verify-full needs sslrootcert"),
            ("postgres://me@localhost/x?sslrootcert=system&sslmode=require", "needs sslmode=verify-full"),
            ("postgres://me@localhost/x?sslkey=/x", "sslkey needs sslcert"),
            ("postgres://me@localhost/x?sslcert=/x", "sslcert needs sslkey"),
            ("postgres://me@localhost/x?sslrootcert=/no/such.crt", "sslrootcert /no/such.crt: No such file"),
            ("postgres://me@localhost/x?target_session_attrs=standby", "portalhook writes"),
            ("postgres://me@localhost/x?target_session_attrs=some", "target_session_attrs must be"),
            ("postgres://localhost/x", "names no role"),
            ("host=localhost user=me", "must begin with postgres://"),
            ("postgres://me@/x?port=many", "`port`"),
            ("postgres://me@localhost/x?host=/tmp", "names a host before and after"),
            ("postgres://me@/x?port=1&port=2", "one port"),
            ("postgres://me@one,two/x?hostaddr=127.0.0.1", "as many of hostaddr"),
        ] {
            let refusal = refusal(url);
            assert!(refusal.contains(says) && !refusal.contains("s3cret"), "{url}: {refusal}");
        }
    }

    #[test]
    fn reads_how_to_encrypt() {
        let mode = |parameters: &str| parse(&format!("postgres://me@localhost/x?{parameters}")).tls().mode;
        assert_eq!(mode(""), Mode::Prefer);
        assert_eq!(mode("gssencmode=disable"), Mode::Prefer);
        assert_eq!(mode("ssl=true"), Mode::Require);
        assert_eq!(mode("sslmode=disable&sslmode=allow"), Mode::Allow);
        assert_eq!(mode("sslrootcert=system"), Mode::VerifyFull);
        // A socket needs no files.
        parse("postgres://me@/x?host=/tmp&sslrootcert=/no/such.crt");
    }

    #[test]
    fn takes_from_libpqs_variables_what_the_url_does_not_say() {
        let around = |variable, value: &str| Surroundings {
            libpq: vec![(variable, value.to_owned())],
            ..Surroundings::default()
        };
        let mode = |url, around: &Surroundings| Database::parse_with(url, around).expect(url).tls().mode;
        let required = around("PGSSLMODE", "require");
        assert_eq!(mode("postgres://me@localhost/x", &required), Mode::Require);
        assert_eq!(mode("postgres://me@localhost/x?sslmode=allow", &required), Mode::Allow);
        let error = Database::parse_with("postgres://me@localhost/x", &around("PGSSLCRL", "/x")).expect_err("refused");
        assert_eq!(error.to_string(), "the variable PGSSLCRL is not supported");
    }

    #[test]
    fn each_server_has_the_password_of_its_line() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("pgpass");
        std::fs::write(&file, "one:*:*:*:first\n*:7:*:*:second\n").expect("write");
        std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("set the mode");
        let around = Surroundings { file: Some(file), ..Surroundings::default() };
        let database = Database::parse_with("postgres://me@one,two:7,three/x", &around).expect("a URL");
        let passwords: Vec<_> = database.servers().iter().map(|server| server.password.as_deref()).collect();
        assert_eq!(passwords, [Some(&b"first"[..]), Some(&b"second"[..]), None]);
        assert!(!format!("{:?}", database.servers()).contains("first"));
    }
}
