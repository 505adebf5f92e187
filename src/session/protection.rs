//! What somebody on the way to the server could see or pretend.

use tokio_postgres::config::ChannelBinding;

use super::database::Database;
use super::server::Address;
use super::tls::Mode;

/// How a connection is protected, from the best.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Protection {
    /// It does not leave this machine.
    Local,
    /// Nobody can read it, and the server has proved to be the right one; by what.
    Proven(&'static str),
    /// Nobody who only listens can read it; who stands between can. With which sslmode.
    Encrypted(&'static str),
    /// Everybody on the way can read it; with the password, where there is one.
    Clear { password: bool },
}

/// Judges a connection to the one server that `database` is at.
pub(super) fn judge(database: &Database, encrypted: bool) -> Protection {
    if database.servers().iter().all(|server| server.address.is_local()) {
        return Protection::Local;
    }
    let mode = database.tls().mode;
    match (encrypted, mode, database.config().get_channel_binding()) {
        (false, ..) => Protection::Clear { password: database.password().is_some() },
        (true, Mode::VerifyFull, _) => Protection::Proven("sslmode=verify-full"),
        // The server knows what the password makes, and has the certificate's key.
        (true, _, ChannelBinding::Require) => Protection::Proven("channel_binding=require"),
        // Whoever holds another certificate of that authority could stand between; with an authority of one's own, nobody.
        (true, Mode::VerifyCa, _) => Protection::Proven("sslmode=verify-ca"),
        (true, ..) => Protection::Encrypted(mode.name()),
    }
}

impl Address {
    /// Whether what is sent there stays on this machine.
    fn is_local(&self) -> bool {
        match self {
            Self::Tcp { ip, .. } => ip.is_some_and(|ip| ip.to_canonical().is_loopback()),
            Self::Unix(_) => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::surroundings::Surroundings;
    use super::*;

    #[test]
    fn only_what_leaves_the_machine_needs_protection_and_only_a_proven_server_gives_it() {
        for (url, encrypted, expected) in [
            ("postgres://me:x@127.0.0.1/db", false, Protection::Local),
            ("postgres://me:x@[::1]/db", false, Protection::Local),
            ("postgres://me:x@[::ffff:127.0.0.1]/db", false, Protection::Local),
            ("postgres://me:x@/db?host=/tmp", false, Protection::Local),
            ("postgres://me:x@10.0.0.7/db", false, Protection::Clear { password: true }),
            ("postgres://me@10.0.0.7/db", false, Protection::Clear { password: false }),
            ("postgres://me@10.0.0.7/db", true, Protection::Encrypted("prefer")),
            ("postgres://me@10.0.0.7/db?sslmode=require", true, Protection::Encrypted("require")),
            ("postgres://me@10.0.0.7/db?channel_binding=require", true, Protection::Proven("channel_binding=require")),
        ] {
            let database = Database::parse_with(url, &Surroundings::default()).expect(url);
            assert_eq!(judge(&database, encrypted), expected, "{url}");
        }
    }
}
