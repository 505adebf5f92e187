//! portalhook: committed changes of a feedback portal's PostgreSQL as signed webhooks, exact at any lag.

mod change;
mod cli;
mod deliver;
mod error;
mod failpoint;
mod ledger;
mod lsn;
mod mapping;
mod throwaway;

fn main() {}

#[cfg(test)]
mod tests {
    #[test]
    fn a_throwaway_server_answers_and_goes() {
        let server = crate::throwaway::Throwaway::start(&[]).expect("start");
        assert_eq!(server.psql("postgres", "SELECT 1 + 1").expect("psql").trim(), "2");
        let directory = server.socket_directory().to_owned();
        drop(server);
        assert!(!directory.exists());
    }
}
