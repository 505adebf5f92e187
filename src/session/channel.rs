//! The bytes' way to a server: a socket, or TLS over one.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::tls::{ChannelBinding, TlsConnect, TlsStream};

/// What carries the bytes.
pub(super) trait Socket: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Socket for T {}

/// An open way, before anything of PostgreSQL's protocol but the question for TLS has been said.
pub(super) struct Channel {
    socket: Box<dyn Socket>,
    encrypted: bool,
    binding: Option<Vec<u8>>,
}

impl Channel {
    pub(super) fn plain(socket: impl Socket + 'static) -> Self {
        Self { socket: Box::new(socket), encrypted: false, binding: None }
    }

    /// `binding` is what SCRAM can bind to.
    pub(super) fn encrypted(stream: impl Socket + 'static, binding: Option<Vec<u8>>) -> Self {
        Self { socket: Box::new(stream), encrypted: true, binding }
    }

    pub(super) fn is_encrypted(&self) -> bool {
        self.encrypted
    }

    pub(super) fn binding(&self) -> Option<&[u8]> {
        self.binding.as_deref()
    }
}

impl AsyncRead for Channel {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Channel {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

/// For tokio-postgres, which asks here what to bind SCRAM to.
impl TlsStream for Channel {
    fn channel_binding(&self) -> ChannelBinding {
        self.binding.clone().map_or_else(ChannelBinding::none, ChannelBinding::tls_server_end_point)
    }
}

/// Tells tokio-postgres that the channel is as it should be: TLS, where it is wanted, is there already. Goes with
/// `SslMode::Require` and `SslNegotiation::Direct`, under which tokio-postgres asks the server for nothing.
pub(super) struct AsItIs;

impl TlsConnect<Channel> for AsItIs {
    type Stream = Channel;
    type Error = Infallible;
    type Future = Ready<Result<Channel, Infallible>>;

    fn connect(self, channel: Channel) -> Self::Future {
        ready(Ok(channel))
    }
}
