//! A network between the daemon and its server that can be cut after so many bytes.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    ToServer,
    ToDaemon,
}

/// The next cut.
struct Cut {
    /// Connections whose first packet holds this text: the application's name is in it.
    application: &'static str,
    way: Way,
    /// Bytes that still pass.
    left: usize,
}

/// Passes everything on, on a port of its own, until the test's process ends.
pub(crate) struct Proxy {
    pub(crate) port: u16,
    next: Arc<Mutex<Option<Cut>>>,
}

impl Proxy {
    /// In front of a server on loopback.
    pub(crate) fn start(server: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("listen on loopback");
        let port = listener.local_addr().expect("an address").port();
        let next = Arc::new(Mutex::new(None));
        let armed = Arc::clone(&next);
        std::thread::spawn(move || {
            for daemon in listener.incoming().map_while(Result::ok) {
                // The server may be gone for a moment: so is the daemon's connection then.
                if let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, server)) {
                    let armed = Arc::clone(&armed);
                    std::thread::spawn(move || connect(daemon, server, &armed));
                }
            }
        });
        Self { port, next }
    }

    /// The connection over which the so many-th byte passes from now on is cut there.
    pub(crate) fn cut(&self, application: &'static str, way: Way, after: usize) {
        *lock(&self.next) = Some(Cut { application, way, left: after });
    }

    pub(crate) fn has_cut(&self) -> bool {
        lock(&self.next).is_none()
    }
}

fn lock(next: &Mutex<Option<Cut>>) -> MutexGuard<'_, Option<Cut>> {
    next.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Both ways of one connection.
fn connect(mut daemon: TcpStream, mut server: TcpStream, next: &Arc<Mutex<Option<Cut>>>) {
    let mut first = vec![0; 4096];
    let Ok(read) = daemon.read(&mut first) else { return };
    first.truncate(read);
    let name = String::from_utf8_lossy(&first).into_owned();
    if server.write_all(&first).is_err() {
        return;
    }
    let (Ok(daemon_too), Ok(server_too)) = (daemon.try_clone(), server.try_clone()) else { return };
    let (name_too, next_too) = (name.clone(), Arc::clone(next));
    std::thread::spawn(move || pass(server_too, daemon_too, Way::ToDaemon, &name_too, &next_too));
    pass(daemon, server, Way::ToServer, &name, next);
}

fn pass(mut from: TcpStream, mut to: TcpStream, way: Way, name: &str, next: &Mutex<Option<Cut>>) {
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        let passes = take(next, way, name, read);
        if to.write_all(&buffer[..passes]).is_err() || passes < read {
            break;
        }
    }
    for stream in [&from, &to] {
        // It may be closed already.
        drop(stream.shutdown(Shutdown::Both));
    }
}

/// How many of these bytes pass.
fn take(next: &Mutex<Option<Cut>>, way: Way, name: &str, read: usize) -> usize {
    let mut next = lock(next);
    match next.as_mut() {
        Some(cut) if cut.way == way && name.contains(cut.application) => {
            if read > cut.left {
                let passes = cut.left;
                *next = None;
                return passes;
            }
            cut.left -= read;
            read
        }
        _ => read,
    }
}
