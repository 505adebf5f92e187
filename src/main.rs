//! portalhook: committed changes of a feedback portal's PostgreSQL as signed webhooks, exact at any lag.

mod capture;
mod change;
mod cli;
mod error;
mod lsn;
mod mapping;
mod mirror;
mod pgoutput;
mod session;
mod setup;
mod throwaway;
mod xid;

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
