//! Closes a session of a process that is gone, over a connection of its own.

use arbiterq_client::Url;
use arbiterq_client::wire::{Auth, Close, REPLY_BYTES_MAX, Reply, ReplyBody, Request, RequestBody};
use std::io;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{sleep, timeout};

/// One try.
const TRY: Duration = Duration::from_secs(1);
/// Between tries: from this, doubled each time, to [`PAUSE_MAX`].
const PAUSE: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Tries until the arbiter has heard it, or for `limit`: after its lease the session is over by itself.
pub(super) async fn close_session(url: &str, partition: u32, auth: Auth, limit: Duration) {
    let Ok(url) = url.parse::<Url>() else { return };
    let session = auth.session;
    let mut line = Request { partition, auth: Some(auth), body: RequestBody::Close(Close {}) }.encode();
    line.push(b'\n');
    let tries = async {
        let mut pause = PAUSE;
        while !matches!(timeout(TRY, try_once(&url, &line, session)).await, Ok(Ok(()))) {
            sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    };
    // Nobody is left to be told that it did not work.
    let _ = timeout(limit, tries).await;
}

async fn try_once(url: &Url, line: &[u8], session: u64) -> io::Result<()> {
    match url {
        Url::Tcp { host, port } => {
            let stream = TcpStream::connect((host.as_str(), *port)).await?;
            stream.set_nodelay(true)?;
            exchange(stream, line, session).await
        }
        Url::Unix(path) => exchange(UnixStream::connect(path).await?, line, session).await,
        _ => Err(io::ErrorKind::Unsupported.into()),
    }
}

/// Sends, and waits for any word that the session is over or not ours.
async fn exchange(stream: impl AsyncRead + AsyncWrite + Unpin, line: &[u8], session: u64) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    stream.write_all(line).await?;
    loop {
        let mut reply = Vec::new();
        let limit = u64::try_from(REPLY_BYTES_MAX).unwrap_or(u64::MAX) + 1;
        if (&mut stream).take(limit).read_until(b'\n', &mut reply).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if let Ok(Some(reply)) = Reply::decode(&reply)
            && reply.session.is_none_or(|of| of == session)
            && matches!(reply.body, ReplyBody::SessionEnded(_) | ReplyBody::Refused(_))
        {
            return Ok(());
        }
    }
}
