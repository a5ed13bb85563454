//! What a broker says of itself, before it asks who is there.

use super::{Broker, BrokerUrl, CALL_LIMIT, tls};
use lapin::tcp::{HandshakeError, TcpStream};
use lapin::types::parsing::parse_field_table;
use lapin::types::{AMQPValue, FieldTable};
use lapin::uri::AMQPScheme;
use std::io::{self, Read, Write};

/// The first word of a connection, in version 0-9-1.
const HEADER: &[u8] = b"AMQP\0\0\x09\x01";
/// Longer than any first answer: that of RabbitMQ takes half a kibibyte.
const FRAME_BYTES_MAX: u32 = 64 * 1024;

/// A broker, as it presents itself. What it does not say is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Server {
    /// `RabbitMQ`.
    pub product: String,
    /// Its version.
    pub version: String,
    /// What it runs on: `Erlang/OTP 25.2.3`.
    pub platform: String,
    /// The name of its cluster.
    pub cluster: String,
}

impl BrokerUrl {
    /// What the broker there says of itself. Over a connection of its own, which ends with its first message: the library
    /// does not pass it on.
    ///
    /// # Errors
    /// It cannot be reached, or answers something else.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn server(&self) -> io::Result<Server> {
        let broker = self.0.clone();
        tokio::task::spawn_blocking(move || ask(&broker)).await.map_err(io::Error::other)?
    }
}

fn ask(Broker { uri, tls, .. }: &Broker) -> io::Result<Server> {
    let host = uri.authority.host.as_str();
    let mut stream = TcpStream::connect_timeout((host, uri.authority.port), CALL_LIMIT)?;
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(CALL_LIMIT))?;
    stream.set_write_timeout(Some(CALL_LIMIT))?;
    if uri.scheme == AMQPScheme::AMQPS {
        let connector = tls::connector(tls).map_err(io::Error::other)?;
        stream = stream.into_rustls(&connector, host).map_err(|error| match error {
            HandshakeError::Failure(error) => error,
            HandshakeError::WouldBlock(_) => io::ErrorKind::TimedOut.into(),
        })?;
    }
    stream.write_all(HEADER)?;
    stream.flush()?;
    // Kind, channel, length.
    let mut head = [0; 7];
    stream.read_exact(&mut head)?;
    let length = u32::from_be_bytes([head[3], head[4], head[5], head[6]]);
    if head[..3] != [1, 0, 0] || length > FRAME_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it does not speak AMQP 0-9-1"));
    }
    let mut start = Vec::new();
    stream.take(length.into()).read_to_end(&mut start)?;
    presented(&start).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "it does not present itself"))
}

/// The table of a `connection.start`, behind the numbers of its class, its method, and the protocol's version.
fn presented(start: &[u8]) -> Option<Server> {
    let table = start.strip_prefix(&[0, 10, 0, 10])?.get(2..)?;
    let (_, table) = parse_field_table(table).ok()?;
    let text = |name: &str| text(&table, name);
    Some(Server {
        product: text("product"),
        version: text("version"),
        platform: text("platform"),
        cluster: text("cluster_name"),
    })
}

fn text(table: &FieldTable, name: &str) -> String {
    match table.inner().get(name) {
        // It goes to a terminal.
        Some(AMQPValue::LongString(text)) => text.to_string().chars().filter(|c| !c.is_control()).collect(),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_presentation_is_none() {
        let mut start = vec![0, 10, 0, 10, 0, 9];
        let entry = b"\x07versionS\0\0\0\x063.10.8";
        start.extend((entry.len() as u32).to_be_bytes());
        start.extend(entry);
        let server = Server { version: "3.10.8".into(), ..Server::default() };
        assert_eq!(presented(&start), Some(server));
        for cut in 0..start.len() {
            assert_eq!(presented(&start[..cut]), None, "{cut}");
        }
        start[3] = 11;
        assert_eq!(presented(&start), None);
    }
}
