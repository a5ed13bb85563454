//! Closes a session of a process that is gone, over a connection of its own.

#[cfg(feature = "rabbitmq")]
use arbiterq_client::broker::{BrokerUrl, Mailbox};
use arbiterq_client::wire::{Auth, Close, REPLY_BYTES_MAX, Reason, Reply, ReplyBody, Request, RequestBody};
use arbiterq_client::{Access, Url};
#[cfg(feature = "rabbitmq")]
use futures_util::StreamExt;
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
pub(super) async fn close_session(url: &str, access: &Access, partition: u32, auth: Auth, limit: Duration) {
    let Ok(url) = url.parse::<Url>() else { return };
    let session = auth.session;
    let mut line = Request { partition, auth: Some(auth), body: RequestBody::Close(Close {}) }.encode();
    line.push(b'\n');
    let tries = async {
        let mut pause = PAUSE;
        while !matches!(timeout(TRY, try_once(&url, access, partition, &line, session)).await, Ok(Ok(()))) {
            sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    };
    // Nobody is left to be told that it did not work.
    let _ = timeout(limit, tries).await;
}

async fn try_once(url: &Url, access: &Access, partition: u32, line: &[u8], session: u64) -> io::Result<()> {
    match url {
        Url::Tcp { host, port } => {
            let stream = TcpStream::connect((host.as_str(), *port)).await?;
            stream.set_nodelay(true)?;
            exchange(stream, line, session).await
        }
        Url::Unix(path) => exchange(UnixStream::connect(path).await?, line, session).await,
        #[cfg(feature = "rabbitmq")]
        Url::RabbitMq(url) => {
            let url = url.with(access).map_err(io::Error::other)?;
            at_broker(&url, partition, line, session).await
        }
        _ => {
            let what = format!("partition {partition} over {url} by {access:?}");
            Err(io::Error::new(io::ErrorKind::Unsupported, what))
        }
    }
}

/// Whether a reply says that the session is over or not ours.
fn is_final(reply: &[u8], session: u64) -> bool {
    let Ok(Some(reply)) = Reply::decode(reply) else { return false };
    let body = match reply.body {
        ReplyBody::SessionEnded(_) => true,
        // One that is shutting down has not decided it; the next one will.
        ReplyBody::Refused(refused) => refused.reason != Reason::ShuttingDown,
        _ => false,
    };
    body && reply.session.is_none_or(|of| of == session)
}

/// The same over a broker.
#[cfg(feature = "rabbitmq")]
async fn at_broker(url: &BrokerUrl, partition: u32, line: &[u8], session: u64) -> io::Result<()> {
    let Mailbox { connection: _connection, mut requests, mut replies, .. } =
        Mailbox::open(url, "arbiter run, its guard").await.map_err(io::Error::other)?;
    requests.publish(partition, line.trim_ascii_end().to_vec());
    loop {
        tokio::select! {
            published = requests.next() => drop(published.map_err(io::Error::other)?),
            reply = replies.next() => match reply {
                Some(Ok(reply)) if is_final(&reply.data, session) => return Ok(()),
                Some(Ok(_)) => {}
                _ => return Err(io::ErrorKind::UnexpectedEof.into()),
            },
        }
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
        if is_final(&reply, session) {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arbiterq_client::wire::SessionKey;
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn an_arbiter_that_is_shutting_down_has_not_heard_it() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let url = format!("tcp://{}", listener.local_addr().unwrap());
        let arbiter = tokio::spawn(async move {
            let refused = r#"{"v":1,"partition":0,"epoch":1,"index":9,"refused":{"reason":"shutting_down"}}"#;
            let ended = r#"{"v":1,"partition":0,"epoch":2,"index":9,"session":4,"session_ended":{"reason":"closed"}}"#;
            for (heard, answer) in [refused, ended].into_iter().enumerate() {
                let (mut stream, _) = listener.accept().await.unwrap();
                stream.write_all(format!("{answer}\n").as_bytes()).await.unwrap();
                if heard == 1 {
                    return stream;
                }
            }
            unreachable!("it is heard the second time")
        });
        let auth = Auth { session: 4, key: SessionKey::random([1; 16]) };
        close_session(&url, &Access::default(), 0, auth, Duration::from_secs(20)).await;
        assert!(arbiter.is_finished(), "it was taken for heard: {}", Reason::ShuttingDown);
    }
}
