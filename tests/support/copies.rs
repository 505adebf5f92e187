//! Copies of a database and of a whole server, in the ways in which operators make them.

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::cluster::{Database, Throwaway, free_port};
use super::session::once;

/// Runs a program, which must succeed.
#[track_caller]
fn succeed(command: &mut Command) -> Vec<u8> {
    let output = command.stdin(Stdio::null()).output().expect("start a program");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

impl Database {
    /// Another database of the same server.
    pub(crate) fn beside(&self, name: &str) -> Self {
        Self { server: Arc::clone(&self.server), name: name.to_owned() }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The way into this database for a role of another one's.
    pub(crate) fn url_of(&self, role: &str) -> String {
        self.server.url(role, &self.name)
    }

    /// The way to this server or another, whichever accepts writes.
    pub(crate) fn role_url_with(&self, other: &Self) -> String {
        let (port, other) = (self.server.port, other.server.port);
        let role = self.role();
        format!("postgres://{role}@127.0.0.1:{port},127.0.0.1:{other}/{}?target_session_attrs=read-write", self.name)
    }

    /// A dump, as SQL.
    pub(crate) fn dump(&self) -> String {
        let url = self.owner_url();
        let dump = succeed(self.server.command("pg_dump").args(["--dbname", &url]));
        String::from_utf8(dump).expect("a dump in UTF-8")
    }

    /// A server of its own with a database of the same name in which `dump` was restored, by somebody who looks away
    /// from errors where `role` is not there.
    pub(crate) fn restored_elsewhere(&self, dump: &str, role: Option<&str>) -> Self {
        let server = Arc::new(Throwaway::start(&[]).expect("start PostgreSQL"));
        let copy = Self { server, name: self.name.clone() };
        let role = role.map(|role| format!("CREATE ROLE {role} LOGIN REPLICATION;")).unwrap_or_default();
        copy.server.psql("postgres", &format!("{role} CREATE DATABASE {};", copy.name)).expect("create the database");
        copy.sql(&format!("\\set ON_ERROR_STOP 0\n{dump}"));
        copy
    }

    /// Its port on loopback.
    pub(crate) fn port(&self) -> u16 {
        self.server.port
    }

    /// A standby of this server (which is stopped for a moment) that can keep its logical slots. Needs nothing but the server's
    /// own programs.
    pub(crate) fn standby_that_keeps_slots(&self) -> Self {
        self.sql("SELECT pg_create_physical_replication_slot('standby', true) \\g /dev/null");
        self.standby_of_files(&|server| {
            // What was copied are the primary's slots.
            let slots = server.data().join("pg_replslot");
            for slot in std::fs::read_dir(&slots).expect("read").map_while(Result::ok) {
                std::fs::remove_dir_all(slot.path()).expect("remove");
            }
            "primary_slot_name = 'standby'\nhot_standby_feedback = on\n"
        })
    }

    /// A standby made of all files of this server (which is stopped for a moment), its slots as they are now included.
    pub(crate) fn standby_with_stale_slots(&self) -> Self {
        self.standby_of_files(&|_| "")
    }

    /// `prepare` gives further settings.
    fn standby_of_files(&self, prepare: &dyn Fn(&Throwaway) -> &'static str) -> Self {
        self.stop();
        let url = self.server.url(Throwaway::SUPERUSER, &self.name);
        let copy = self.copied(&|server| {
            succeed(Command::new("cp").arg("-a").arg(self.server.data()).arg(server.data()));
            self.start();
            let settings = server.data().join("postgresql.auto.conf");
            let text = std::fs::read_to_string(&settings).expect("read");
            let more = format!("primary_conninfo = '{url}'\n{}", prepare(server));
            std::fs::write(&settings, text + &more).expect("write");
            let signal = server.data().join("standby.signal");
            std::fs::write(&signal, "").expect("write");
            succeed(Command::new("chown").arg("--reference").arg(server.data()).arg(&signal));
        });
        copy.follow(self);
        copy
    }

    /// Has this standby keep the primary's slots as they are now: the server puts that off until what it needs is there.
    pub(crate) fn keep_slots(&self, primary: &Self) {
        let kept =
            "SELECT count(*) FROM pg_replication_slots WHERE synced AND NOT temporary AND invalidation_reason IS NULL";
        let deadline = std::time::Instant::now() + super::LIMIT;
        while self.sql(kept) == "0" {
            assert!(std::time::Instant::now() < deadline, "the standby never keeps the slot");
            primary.sql("SELECT pg_log_standby_snapshot() \\g /dev/null");
            self.follow(primary);
            self.sql("SELECT pg_sync_replication_slots() \\g /dev/null");
        }
    }

    /// Stops the server as a crash does.
    pub(crate) fn stop_at_once(&self) {
        self.control(&["stop", "--mode", "immediate"]);
    }

    /// Stops the server in order.
    pub(crate) fn stop(&self) {
        self.control(&["stop", "--mode", "fast"]);
    }

    pub(crate) fn start(&self) {
        let log = self.server.directory.join("postgresql.log").display().to_string();
        self.control(&["start", "--log", &log]);
    }

    /// Ends a standby's being one.
    pub(crate) fn promote(&self) {
        self.control(&["promote"]);
    }

    fn control(&self, arguments: &[&str]) {
        let mut command = self.server.command("pg_ctl");
        command.args(arguments).args(["--wait", "--silent", "--pgdata"]).arg(self.server.data());
        // The server keeps its standard streams: with pipes of ours there, nobody would see the end of pg_ctl.
        let status = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
        assert!(status.expect("run pg_ctl").success(), "pg_ctl {arguments:?}");
    }

    /// A server on a copy of this one's files, which must be stopped.
    pub(crate) fn copied_files(&self) -> Self {
        self.copied(&|server| {
            succeed(Command::new("cp").arg("-a").arg(self.server.data()).arg(server.data()));
        })
    }

    /// A standby that follows this server.
    pub(crate) fn standby(&self) -> Self {
        let copy = self.copied(&|server| {
            self.base_backup(&server.data(), &["--write-recovery-conf"]);
        });
        // It has everything that was committed by now.
        copy.follow(self);
        copy
    }

    /// Waits until a standby has replayed what is committed here.
    pub(crate) fn follow(&self, primary: &Self) {
        let end = primary.sql("SELECT pg_current_wal_flush_lsn()");
        // PostgreSQL has no call to wait for a position before version 19.
        self.sql(&once(&format!("SELECT WHERE pg_last_wal_replay_lsn() >= '{end}'")));
    }

    /// Puts a base backup aside.
    pub(crate) fn back_up(&self) {
        self.base_backup(&self.server.directory.join("backup"), &[]);
    }

    /// Puts that backup back in the place of everything since, by recovery: a restore to an earlier point.
    pub(crate) fn restore_backup(&self) {
        self.recover("restore_command = 'false'\n");
    }

    /// Puts that backup in the place of everything since, and recovers to a named point, from an archive in the server's
    /// directory.
    pub(crate) fn restore_to(&self, point: &str) {
        self.recover(&format!(
            "restore_command = 'cp ../%f %p'\nrecovery_target_name = '{point}'\nrecovery_target_action = 'promote'\n"
        ));
        let deadline = std::time::Instant::now() + super::LIMIT;
        while self.sql("SELECT pg_is_in_recovery()") == "t" {
            assert!(std::time::Instant::now() < deadline, "the recovery never ends");
        }
    }

    /// Starts from the backup with these settings of recovery.
    fn recover(&self, settings: &str) {
        self.stop();
        let (data, backup) = (self.server.data(), self.server.directory.join("backup"));
        std::fs::rename(&data, self.server.directory.join("lost")).expect("rename");
        std::fs::rename(&backup, &data).expect("rename");
        let signal = data.join("recovery.signal");
        std::fs::write(&signal, "").expect("write");
        succeed(Command::new("chown").arg("--reference").arg(&data).arg(&signal));
        let file = data.join("postgresql.auto.conf");
        let text = std::fs::read_to_string(&file).expect("read");
        std::fs::write(&file, text + settings).expect("write");
        self.start();
    }

    /// Whether the server's programs can upgrade it.
    pub(crate) fn can_be_upgraded(&self) -> bool {
        self.server.programs.join("pg_upgrade").exists()
    }

    /// Stops the server, has `pg_upgrade` link its files into a new one, and starts that in its place.
    pub(crate) fn upgrade(&self) {
        let (data, new) = (self.server.data(), self.server.directory.join("new"));
        let user = format!("--username={}", Throwaway::SUPERUSER);
        let mut command = self.server.command("initdb");
        command.args(["--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync", "--no-instructions", &user]);
        succeed(command.arg("--pgdata").arg(&new));
        let settings = std::fs::read(data.join("postgresql.conf")).expect("read");
        self.stop();
        let programs = self.server.programs.clone();
        let mut command = self.server.command("pg_upgrade");
        command.arg("--old-bindir").arg(&programs).arg("--new-bindir").arg(&programs);
        command.arg("--old-datadir").arg(&data).arg("--new-datadir").arg(&new);
        succeed(command.args(["--link", &user]));
        std::fs::write(new.join("postgresql.conf"), settings).expect("write");
        std::fs::rename(&data, self.server.directory.join("old")).expect("rename");
        std::fs::rename(&new, &data).expect("rename");
        self.start();
    }

    /// Puts the files of the stopped server aside.
    pub(crate) fn set_files_aside(&self) {
        succeed(Command::new("cp").arg("-a").arg(self.server.data()).arg(self.server.directory.join("aside")));
    }

    /// Puts those files back in the place of everything since.
    pub(crate) fn put_files_back(&self) {
        self.stop();
        std::fs::remove_dir_all(self.server.data()).expect("remove");
        std::fs::rename(self.server.directory.join("aside"), self.server.data()).expect("rename");
        self.start();
    }

    fn base_backup(&self, place: &std::path::Path, arguments: &[&str]) {
        let url = self.server.url(Throwaway::SUPERUSER, "postgres");
        let mut command = self.server.command("pg_basebackup");
        succeed(command.args(["--checkpoint=fast", "--dbname", &url, "--pgdata"]).arg(place).args(arguments));
    }

    fn copied(&self, fill: &dyn Fn(&Throwaway)) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(500);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let directory = std::env::temp_dir().join(format!("portalhook-{}-copy-{number}", std::process::id()));
        let port = free_port(number).expect("a free port");
        let mut server = Throwaway {
            directory,
            programs: self.server.programs.clone(),
            number: self.server.number,
            port,
            running: false,
        };
        std::fs::create_dir_all(&server.directory).expect("a directory");
        succeed(Command::new("chown").arg("--reference").arg(&self.server.directory).arg(&server.directory));
        fill(&server);
        let file = server.data().join("postgresql.conf");
        let text = std::fs::read_to_string(&file).expect("read");
        let place = server.directory.display();
        std::fs::write(&file, format!("{text}\nport = {port}\nunix_socket_directories = '{place}'\n")).expect("write");
        server.launch().expect("start the copy");
        Self { server: Arc::new(server), name: self.name.clone() }
    }
}
