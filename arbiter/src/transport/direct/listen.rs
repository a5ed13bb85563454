//! Accepting connections on TCP and on a Unix socket.

use super::Hub;
use super::connection::{self, Peer, Wire};
use arbiterq_client::wire::{Principal, PrincipalBy};
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// Why nothing can be accepted.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Without keys or certificates anybody who can reach the port may do everything.
    #[error(
        "{0} is beyond loopback, and nobody would be vouched for there: listen on 127.0.0.1, [::1] or a Unix socket"
    )]
    BeyondLoopback(SocketAddr),
    /// Another process listens there.
    #[error("{0} is in use: stop the other listener, or choose another address")]
    InUse(String),
    /// The address cannot be had.
    #[error("cannot listen on {address}: {error}")]
    Io {
        /// Where.
        address: String,
        /// Why.
        error: io::Error,
    },
}

/// A place where clients connect.
pub struct Listener {
    socket: Socket,
    address: String,
}

enum Socket {
    Tcp(std::net::TcpListener),
    Unix(std::os::unix::net::UnixListener, PathBuf),
}

impl Listener {
    /// Binds a TCP port on loopback; port 0 is any free one.
    ///
    /// # Errors
    /// Beyond loopback, in use, or not to be had.
    pub fn tcp(address: SocketAddr) -> Result<Self, ListenError> {
        if !address.ip().is_loopback() {
            return Err(ListenError::BeyondLoopback(address));
        }
        let failed = |error: io::Error| match error.kind() {
            ErrorKind::AddrInUse => ListenError::InUse(address.to_string()),
            _ => ListenError::Io { address: address.to_string(), error },
        };
        let socket = std::net::TcpListener::bind(address).map_err(failed)?;
        socket.set_nonblocking(true).map_err(failed)?;
        let bound = socket.local_addr().map_err(failed)?;
        Ok(Self { socket: Socket::Tcp(socket), address: format!("tcp://{bound}") })
    }

    /// Binds a Unix socket. A socket file that nobody listens on any more is replaced.
    ///
    /// # Errors
    /// In use, or not to be had.
    pub fn unix(path: &Path) -> Result<Self, ListenError> {
        let failed = |error: io::Error| ListenError::Io { address: path.display().to_string(), error };
        let socket = match std::os::unix::net::UnixListener::bind(path) {
            Err(error) if error.kind() == ErrorKind::AddrInUse => {
                let is_socket = std::fs::symlink_metadata(path)
                    .is_ok_and(|found| std::os::unix::fs::FileTypeExt::is_socket(&found.file_type()));
                if !is_socket || std::os::unix::net::UnixStream::connect(path).is_ok() {
                    return Err(ListenError::InUse(path.display().to_string()));
                }
                std::fs::remove_file(path).map_err(failed)?;
                std::os::unix::net::UnixListener::bind(path).map_err(failed)?
            }
            bound => bound.map_err(failed)?,
        };
        socket.set_nonblocking(true).map_err(failed)?;
        Ok(Self {
            socket: Socket::Unix(socket, path.to_owned()),
            address: format!("unix://{}", path.display()),
        })
    }

    /// The URL that clients use.
    pub fn url(&self) -> &str {
        &self.address
    }

    /// Accepts connections until `stop` says so.
    ///
    /// # Errors
    /// The runtime cannot watch the socket. A failed accept is logged and does not end this.
    pub async fn run(self, hub: Arc<Hub>, stop: impl Future<Output = ()>) -> io::Result<()> {
        let (sweeps, mut asked) = mpsc::unbounded_channel::<oneshot::Sender<()>>();
        hub.add_listener(sweeps);
        let waiting = match &self.socket {
            Socket::Tcp(socket) => Waiting::Tcp(tokio::net::TcpListener::from_std(socket.try_clone()?)?),
            Socket::Unix(socket, _) => {
                Waiting::Unix(tokio::net::UnixListener::from_std(socket.try_clone()?)?)
            }
        };
        tokio::pin!(stop);
        loop {
            let passed = tokio::select! {
                () = &mut stop => break,
                Some(passed) = asked.recv() => Some(passed),
                first = waiting.accept() => {
                    match first {
                        Ok(wire) => wire.start(&hub),
                        Err(error) => tracing::warn!(%error, "a connection could not be accepted"),
                    }
                    None
                }
            };
            // The socket is asked until it has no more, whatever the runtime remembers of it.
            loop {
                match self.socket.accept() {
                    Ok(wire) => wire.start(&hub),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error)
                        if matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::ConnectionAborted) => {}
                    Err(error) => {
                        tracing::warn!(%error, "a connection could not be accepted");
                        // Out of file descriptors, as a rule: the ones in use must end first.
                        tokio::time::sleep(Duration::from_millis(50)).await;
                        break;
                    }
                }
            }
            drop(passed);
        }
        if let Socket::Unix(_, path) = &self.socket {
            // The next start would find it and ask whether anybody listens; a clean stop leaves nothing.
            let _ = std::fs::remove_file(path);
        }
        Ok(())
    }
}

impl Socket {
    /// Asks the socket itself.
    fn accept(&self) -> io::Result<Wire> {
        match self {
            Self::Tcp(socket) => {
                let (stream, _) = socket.accept()?;
                stream.set_nonblocking(true)?;
                Ok(Wire::Tcp(tokio::net::TcpStream::from_std(stream)?))
            }
            Self::Unix(socket, _) => {
                let (stream, _) = socket.accept()?;
                stream.set_nonblocking(true)?;
                Ok(Wire::Unix(tokio::net::UnixStream::from_std(stream)?))
            }
        }
    }
}

/// The same socket, as the runtime watches it.
enum Waiting {
    Tcp(tokio::net::TcpListener),
    Unix(tokio::net::UnixListener),
}

impl Waiting {
    async fn accept(&self) -> io::Result<Wire> {
        match self {
            Self::Tcp(socket) => socket.accept().await.map(|(stream, _)| Wire::Tcp(stream)),
            Self::Unix(socket) => socket.accept().await.map(|(stream, _)| Wire::Unix(stream)),
        }
    }
}

impl Wire {
    /// Finds out who is there, and starts the connection.
    fn start(self, hub: &Arc<Hub>) {
        match self.peer() {
            Ok(peer) => connection::start(hub, self, peer),
            Err(error) => tracing::debug!(%error, "a connection ended before it began"),
        }
    }

    fn peer(&self) -> io::Result<Peer> {
        Ok(match self {
            Self::Tcp(stream) => {
                stream.set_nodelay(true)?;
                let peer = stream.peer_addr()?;
                let name = peer.ip().is_loopback().then(|| peer.to_string());
                Peer { name, principal: Principal::anonymous() }
            }
            Self::Unix(stream) => {
                let credentials = stream.peer_cred()?;
                let name = format!("uid:{}", credentials.uid()).into();
                let principal = Principal { name, by: PrincipalBy::UnixPeer };
                Peer { name: credentials.pid().map(|pid| format!("pid:{pid}")), principal }
            }
        })
    }
}
