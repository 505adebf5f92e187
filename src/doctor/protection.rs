//! Who could read what goes to and from the server.

use super::Finding;
use crate::session::{Database, Protection};

/// `database` is at the server that the connection was made to.
pub(super) fn finding(database: &Database, protection: &Protection) -> Finding {
    const FIX: &str = "sslmode=verify-full&sslrootcert=FILE in database.url, with the file of the authority (CA) that signed the server's \
                       certificate";
    match protection {
        Protection::Local => Finding::pass("the connection does not leave this machine"),
        Protection::Proven(by) => {
            Finding::pass(format!("the connection is encrypted, and the server proves who it is ({by})"))
        }
        Protection::Encrypted(mode) => Finding::warn(
            format!(
                "the connection is encrypted, but nothing proves that it ends at the right server (sslmode={mode})"
            ),
            FIX,
        ),
        Protection::Clear { password } => {
            let too = if *password { ", and what proves the password" } else { "" };
            Finding::warn(format!("all rows{too} go unencrypted over the network: {database}"), FIX)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Verdict;

    #[test]
    fn whoever_can_be_listened_to_is_warned() {
        let database = Database::parse("postgres://me:s3cret@10.0.0.7/portal?sslmode=disable").expect("a URL");
        for (protection, verdict, says) in [
            (Protection::Local, Verdict::Pass, "does not leave this machine"),
            (Protection::Proven("sslmode=verify-full"), Verdict::Pass, "(sslmode=verify-full)"),
            (Protection::Encrypted("prefer"), Verdict::Warn, "nothing proves"),
            (
                Protection::Clear { password: true },
                Verdict::Warn,
                "the password go unencrypted over the network: database `portal`",
            ),
            (Protection::Clear { password: false }, Verdict::Warn, "all rows go unencrypted"),
        ] {
            let finding = finding(&database, &protection);
            assert_eq!(finding.verdict, verdict);
            assert!(finding.what.contains(says) && !finding.to_string().contains("s3cret"), "{finding}");
        }
    }
}
