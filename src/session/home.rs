//! Where a URL finds its server: what tells a database from its copy where the server itself cannot.

use std::path::Path;

use super::server::Address;

/// Names this machine, where there is such a file (systemd; containers mostly have none).
const MACHINE: &str = "/etc/machine-id";

/// Hosts and ports of all servers of a URL, comma-separated; a server on this machine is named by the machine, however it is
/// reached.
pub(super) fn of<'a>(addresses: impl Iterator<Item = &'a Address>) -> String {
    let machine = std::fs::read_to_string(MACHINE).unwrap_or_default();
    home(addresses, machine.trim())
}

fn home<'a>(addresses: impl Iterator<Item = &'a Address>, machine: &str) -> String {
    let here = if machine.is_empty() { "localhost" } else { machine };
    let mut places: Vec<String> = addresses
        .map(|address| match address {
            Address::Tcp { name, port, .. } if is_loopback(name) => format!("{here}:{port}"),
            Address::Tcp { name, port, .. } => format!("{}:{port}", name.to_ascii_lowercase()),
            Address::Unix(socket) => format!("{here}:{}", port(socket)),
        })
        .collect();
    places.sort();
    places.dedup();
    places.join(",")
}

/// Whether two homes have a place in common.
pub(crate) fn meet(home: &str, other: &str) -> bool {
    home.split(',').any(|place| other.split(',').any(|there| there == place))
}

fn is_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost") || host.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback())
}

/// The socket `.s.PGSQL.5432` belongs to port 5432.
fn port(socket: &Path) -> &str {
    socket.extension().and_then(|port| port.to_str()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_on_this_machine_has_one_home_however_it_is_reached() {
        let tcp = |host: &str| Address::Tcp { name: host.to_owned(), ip: None, port: 5432 };
        let socket = Address::Unix("/var/run/postgresql/.s.PGSQL.5432".into());
        for address in [tcp("localhost"), tcp("127.0.0.1"), tcp("::1"), socket] {
            assert_eq!(home([&address].into_iter(), "abc"), "abc:5432");
        }
        assert_eq!(home([tcp("LOCALHOST")].iter(), ""), "localhost:5432");
        assert_eq!(home([tcp("db2"), tcp("Db1"), tcp("db1")].iter(), "abc"), "db1:5432,db2:5432");
    }

    #[test]
    fn one_place_in_common_is_enough() {
        assert!(meet("a:1,b:1", "b:1,c:1"));
        assert!(!meet("a:1", "a:2"));
    }
}
