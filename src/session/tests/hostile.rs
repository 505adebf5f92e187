//! Peers that are no servers of PostgreSQL, or stand between us and one.

use std::sync::Arc;

use proptest::prelude::*;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::authority::Authority;
use super::{NAME, both, database};
use crate::error::{Error, Kind};
use crate::session::channel::Channel;
use crate::session::dial::Greet;
use crate::session::{Replication, Session};

/// The answer that lets anybody in.
const WELCOME: &[u8] = b"R\0\0\0\x08\0\0\0\0Z\0\0\0\x05I";

/// Answers each connection by `answer`, for as long as the value lives.
struct Peer {
    port: u16,
    task: tokio::task::JoinHandle<()>,
}

impl Peer {
    async fn start<F: Future<Output = ()> + Send>(answer: impl Fn(TcpStream) -> F + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let port = listener.local_addr().expect("an address").port();
        let task = tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                answer(socket).await;
            }
        });
        Self { port, task }
    }

    fn url(&self, rest: &str) -> String {
        format!("postgres://me:s3cret@127.0.0.1:{}/portal?connect_timeout=5&{rest}", self.port)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Reads the question for TLS.
async fn asked(socket: &mut TcpStream) {
    let mut question = [0; 8];
    socket.read_exact(&mut question).await.expect("read");
    assert_eq!(question, [0, 0, 0, 8, 4, 210, 22, 47]);
}

/// Waits until the other side has gone, whatever it says.
async fn until_gone(mut stream: impl tokio::io::AsyncRead + Unpin) {
    let mut rest = Vec::new();
    drop(stream.read_to_end(&mut rest).await);
    assert!(!String::from_utf8_lossy(&rest).contains("s3cret"), "the password was sent");
}

/// CVE-2021-23222: whoever stands between may send, in the clear, what a server would say behind TLS.
#[tokio::test]
async fn what_is_sent_before_the_handshake_is_never_taken_for_the_servers_word() {
    let peer = Peer::start(|mut socket| async move {
        asked(&mut socket).await;
        socket.write_all(&[b"S", WELCOME].concat()).await.expect("write");
        until_gone(socket).await;
    })
    .await;
    for answer in both(&peer.url("sslmode=require")).await {
        let error = answer.expect_err("refused");
        assert_eq!(error.kind(), Kind::Unavailable);
        assert!(format!("{error:?}").contains("TLS handshake"), "{error:?}");
    }
}

/// CVE-2024-10977: nobody knows who speaks before TLS.
#[tokio::test]
async fn an_error_instead_of_an_answer_about_tls_is_not_repeated() {
    let peer = Peer::start(|mut socket| async move {
        asked(&mut socket).await;
        socket.write_all(b"E\0\0\0\x17SFATAL\0Mcall 555\0\0").await.expect("write");
        until_gone(socket).await;
    })
    .await;
    for answer in both(&peer.url("sslmode=require")).await {
        let text = format!("{:?}", answer.expect_err("refused"));
        assert!(
            text.ends_with("the server answers the question for TLS with an error") && !text.contains("555"),
            "{text}"
        );
    }
}

/// Somebody in the middle, with a certificate that `require` does not look at, who takes `SCRAM-SHA-256-PLUS` from the offer.
#[tokio::test]
async fn an_offer_without_channel_binding_is_refused_or_noted() {
    let signed = Authority::new("theirs").sign("db", &["127.0.0.1"]);
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(
            vec![CertificateDer::from_pem_slice(signed.certificate.as_bytes()).expect("a certificate")],
            PrivateKeyDer::from_pem_slice(signed.key.as_bytes()).expect("a key"),
        )
        .expect("a certificate and its key");
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let peer = Peer::start(move |mut socket| {
        let (acceptor, tell) = (acceptor.clone(), tell.clone());
        async move {
            asked(&mut socket).await;
            socket.write_all(b"S").await.expect("write");
            let mut stream = acceptor.accept(socket).await.expect("the handshake");
            let length = stream.read_u32().await.expect("a startup message");
            let mut startup = vec![0; length as usize - 4];
            stream.read_exact(&mut startup).await.expect("a startup message");
            stream.write_all(b"R\0\0\0\x17\0\0\0\x0aSCRAM-SHA-256\0\0").await.expect("write");
            stream.flush().await.expect("flush");
            // Tag, length, mechanism, length, and the message's beginning, which says what the client can.
            let mut response = [0; 5 + 14 + 4 + 3];
            if stream.read_exact(&mut response).await.is_ok() {
                tell.send(String::from_utf8_lossy(&response[23..]).into_owned()).expect("somebody listens");
            }
        }
    })
    .await;
    for answer in both(&peer.url("sslmode=require&channel_binding=require")).await {
        let text = format!("{:?}", answer.expect_err("refused"));
        assert!(text.contains("channel_binding=require, but the server does not bind"), "{text}");
    }
    assert!(told.try_recv().is_err(), "nothing was sent of what the password makes");
    for (binding, expected) in [("prefer", "y,,"), ("disable", "n,,")] {
        for answer in both(&peer.url(&format!("sslmode=require&channel_binding={binding}"))).await {
            answer.expect_err("the peer goes away");
            assert_eq!(told.recv().await.as_deref(), Some(expected));
        }
    }
}

/// What a kind of connection makes of these bytes, after which the peer says no more.
async fn greeted<C: Greet>(bytes: &[u8]) -> Result<C, Error> {
    let (ours, mut theirs) = tokio::io::duplex(1 << 16);
    theirs.write_all(bytes).await.expect("there is room");
    theirs.shutdown().await.expect("shut down");
    let database = database("postgres://me:s3cret@127.0.0.1/portal");
    C::greet(Channel::plain(ours), &database, NAME).await
}

/// Beginnings that lead far into the login.
fn beginning() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        Just(Vec::new()),
        Just(b"R\0\0\0\x17\0\0\0\x0aSCRAM-SHA-256\0\0".to_vec()),
        Just(b"R\0\0\0\x0c\0\0\0\x05salt".to_vec()),
        Just(b"R\0\0\0\x08\0\0\0\0".to_vec()),
    ]
}

/// Messages with a right length and any content, or just bytes.
fn message() -> impl Strategy<Value = Vec<u8>> {
    let content = proptest::collection::vec(any::<u8>(), 0..40);
    let tag = prop_oneof![Just(b'R'), Just(b'E'), Just(b'S'), Just(b'K'), Just(b'Z'), Just(b'N'), any::<u8>()];
    let kind = prop_oneof![Just(0_u32), Just(10), Just(11), Just(12), any::<u32>()];
    let framed = (tag, any::<bool>(), kind, content.clone()).prop_map(|(tag, with_kind, kind, mut content)| {
        if with_kind {
            content.splice(0..0, kind.to_be_bytes());
        }
        let length = u32::try_from(content.len() + 4).expect("short");
        [&[tag][..], &length.to_be_bytes(), &content].concat()
    });
    prop_oneof![4 => framed, 1 => content]
}

proptest! {
    #[test]
    fn any_bytes_of_a_server_end_in_a_value(
        beginning in beginning(),
        messages in proptest::collection::vec(message(), 0..6),
    ) {
        let bytes = [beginning, messages.concat()].concat();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let limit = std::time::Duration::from_secs(20);
            drop(tokio::time::timeout(limit, greeted::<Session>(&bytes)).await.expect("SQL ends"));
            drop(tokio::time::timeout(limit, greeted::<Replication>(&bytes)).await.expect("replication ends"));
        });
    }
}
