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

/// After a failed accept it is tried again so often. Out of file descriptors, as a rule: the ones in use must end first.
const ACCEPT_AGAIN: Duration = Duration::from_millis(50);
/// Connections accepted in one go: more than a system lets wait.
const ACCEPT_MAX: usize = 16 * 1024;

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
    /// As if there were no file descriptors.
    #[cfg(test)]
    broken: Arc<std::sync::atomic::AtomicBool>,
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
        Ok(Self::over(Socket::Tcp(socket), format!("tcp://{bound}")))
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
                // Whatever else the system says, it is somebody's: of another kind, or not ours to connect to.
                let is_left = std::os::unix::net::UnixStream::connect(path)
                    .is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused);
                if !(is_socket && is_left) {
                    return Err(ListenError::InUse(path.display().to_string()));
                }
                std::fs::remove_file(path).map_err(failed)?;
                std::os::unix::net::UnixListener::bind(path).map_err(failed)?
            }
            bound => bound.map_err(failed)?,
        };
        socket.set_nonblocking(true).map_err(failed)?;
        Ok(Self::over(Socket::Unix(socket, path.to_owned()), format!("unix://{}", path.display())))
    }

    fn over(socket: Socket, address: String) -> Self {
        Self {
            socket,
            address,
            #[cfg(test)]
            broken: Arc::default(),
        }
    }

    /// The URL that clients use.
    pub fn url(&self) -> &str {
        &self.address
    }

    /// Accepts connections until `stop` says so.
    ///
    /// # Errors
    /// The runtime cannot watch the socket. A failed accept is logged and does not end this.
    pub fn run(self, hub: Arc<Hub>, stop: impl Future<Output = ()>) -> impl Future<Output = io::Result<()>> {
        // At once: from now on letters wait for those who wait here.
        let (sweeps, asked) = mpsc::unbounded_channel();
        hub.add_listener(sweeps);
        self.accept_until(hub, asked, stop)
    }

    async fn accept_until(
        self,
        hub: Arc<Hub>,
        mut asked: mpsc::UnboundedReceiver<oneshot::Sender<()>>,
        stop: impl Future<Output = ()>,
    ) -> io::Result<()> {
        let waiting = Waiting::on(&self.socket)?;
        tokio::pin!(stop);
        // Letters that wait until all connections are accepted that were there before them.
        let mut sweeps: Vec<oneshot::Sender<()>> = Vec::new();
        let mut fails = false;
        loop {
            match self.accept_waiting(&hub) {
                Ok(()) => {
                    fails = false;
                    for passed in sweeps.drain(..) {
                        // Whoever no longer waits does not need it.
                        let _ = passed.send(());
                    }
                }
                // Those who wait may have sent keep-alives: letters wait, too.
                Err(error) if !std::mem::replace(&mut fails, true) => {
                    tracing::warn!(%error, "connections cannot be accepted; it is tried again");
                }
                Err(_) => {}
            }
            tokio::select! {
                biased;
                () = &mut stop => break,
                Some(passed) = asked.recv() => sweeps.push(passed),
                first = waiting.accept(), if !fails => if let Ok(first) = first {
                    // What fails here fails once more when the socket itself is asked.
                    first.start(&hub);
                },
                () = tokio::time::sleep(ACCEPT_AGAIN), if fails => {}
            }
        }
        if let Socket::Unix(_, path) = &self.socket {
            // The next start would find it and ask whether anybody listens; a clean stop leaves nothing.
            let _ = std::fs::remove_file(path);
        }
        Ok(())
    }

    /// Accepts all who wait; the socket itself is asked, whatever the runtime remembers of it.
    fn accept_waiting(&self, hub: &Arc<Hub>) -> io::Result<()> {
        for _ in 0..ACCEPT_MAX {
            match self.accept() {
                Ok(wire) => wire.start(hub),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error)
                    if matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::ConnectionAborted) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn accept(&self) -> io::Result<Wire> {
        #[cfg(test)]
        if self.broken.load(std::sync::atomic::Ordering::Acquire) {
            return Err(rustix::io::Errno::MFILE.into());
        }
        self.socket.accept()
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
    fn on(socket: &Socket) -> io::Result<Self> {
        Ok(match socket {
            Socket::Tcp(socket) => Self::Tcp(tokio::net::TcpListener::from_std(socket.try_clone()?)?),
            Socket::Unix(socket, _) => Self::Unix(tokio::net::UnixListener::from_std(socket.try_clone()?)?),
        })
    }

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::direct::Inbound;
    use arbiterq_client::wire::{Nudge, Request, RequestBody, StatusAsk, StatusWhat};
    use std::io::Write;
    use std::sync::atomic::Ordering;

    #[test]
    fn only_a_socket_that_nobody_listens_on_is_replaced() {
        use std::os::unix::net::{UnixDatagram, UnixListener};
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        drop(UnixListener::bind(path("left")).unwrap());
        Listener::unix(&path("left")).unwrap();
        let _live = UnixListener::bind(path("live")).unwrap();
        // Another program's, which a client of ours cannot even connect to.
        let _other = UnixDatagram::bind(path("other")).unwrap();
        std::fs::write(path("file"), "").unwrap();
        for name in ["live", "other", "file"] {
            let refused = Listener::unix(&path(name)).err().expect(name);
            assert!(matches!(refused, ListenError::InUse(_)), "{name}: {refused}");
            assert!(path(name).exists(), "{name}");
        }
    }

    #[tokio::test]
    async fn a_letter_waits_until_those_who_wait_can_be_accepted() {
        let (inbox, mut delivered) = mpsc::channel(8);
        let hub = Hub::new("t".into(), vec![inbox], 10);
        let listener = Listener::tcp(([127, 0, 0, 1], 0).into()).unwrap();
        let (broken, address) = (listener.broken.clone(), listener.url()["tcp://".len()..].to_owned());
        broken.store(true, Ordering::Release);
        let (_stop, stopped) = oneshot::channel::<()>();
        tokio::spawn(listener.run(hub.clone(), async { drop(stopped.await) }));
        let mut client = std::net::TcpStream::connect(address).unwrap();
        let ask = StatusAsk { id: "s".into(), what: StatusWhat::Summary };
        let request = Request { partition: 0, auth: None, body: RequestBody::Status(ask) };
        client.write_all(&[request.encode(), b"\n".to_vec()].concat()).unwrap();
        hub.post(0, Request { partition: 0, auth: None, body: RequestBody::Nudge(Nudge::default()) });
        let early = tokio::time::timeout(ACCEPT_AGAIN * 5, delivered.recv()).await;
        assert!(early.is_err(), "it would judge sessions whose keep-alives wait there: {early:?}");
        broken.store(false, Ordering::Release);
        for is_letter in [false, true] {
            let Some(Inbound::Delivery(delivery)) = delivered.recv().await else { panic!("a delivery") };
            assert_eq!(delivery.from.is_none(), is_letter);
        }
    }
}
